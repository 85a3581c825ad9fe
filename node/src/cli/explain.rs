//! `upswarm explain`: sentences, each with the rule or fact it rests on, of this machine or of one of the fleet.

mod afar;

use std::io;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use serde_json::{Value, json};
use upswarm_protocol::ids::ReleaseId;

use super::admin::AdminArgs;
use super::installer::INSTALLER_DIR;
use super::{CliError, Common};
use crate::config::{Config, NodeDir};
use crate::installer::newest_logs;
use crate::local_api::{Client, Request};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm explain --data-dir /var/lib/upswarm                       everything that is not as it should be here
  upswarm explain --data-dir /var/lib/upswarm org.example.tool@2.1  why this update is not installing here
  upswarm explain --data-dir /var/lib/upswarm org.example.tool --log  what its package manager printed here
  upswarm explain --data-dir /var/lib/upswarm 3fa9c2d1              why this peer is not used (first digits of its id)
  upswarm explain --device pc7                                      the same of a machine of the fleet, as far as it has told
  upswarm explain editor@2.1 --device pc7 --log                     what its package manager printed there

With --device the coordinator is asked. A log is asked of the machine, which tells up to 256 KiB of it, the end first; run the verb again
to see it.";

/// Columns of the text.
const WIDTH: usize = 100;

/// Say why an update is not installed, why a peer is not used, and where each byte came from: here, or on a machine of the fleet.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// PRODUCT or PRODUCT@VERSION (the last part of the product's name suffices), a device's name, or the first digits of an id;
    /// without it, everything.
    #[arg(value_name = "RELEASE|PEER")]
    subject: Option<String>,
    /// A machine of the fleet: its label, or its key or at least eight first digits of it. Without it: the node whose --data-dir is given.
    #[arg(long)]
    device: Option<String>,
    /// Show what programs printed when this release was last tried there, whole; the latest last.
    #[arg(long, requires = "subject")]
    log: bool,
    /// Ask the machine anew, although a log of it is here.
    #[arg(long, requires = "log", requires = "device")]
    again: bool,
    /// Where the privileged installer keeps its logs, which only root may read.
    #[arg(long, value_name = "DIR", default_value = INSTALLER_DIR)]
    installer_dir: PathBuf,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    if let Some(device) = &args.device {
        return afar::run(&args, device, common);
    }
    let data_dir = args.admin.given_directory().ok_or_else(|| {
        CliError::Refused(
            "of which machine? Give --data-dir DIR of the node on this one, or --device NAME for one of the fleet"
                .to_owned(),
        )
    })?;
    let told = Client::connect(&data_dir)?.ask(&Request::Explain { subject: args.subject.clone() })?;
    if args.log {
        return log(&args, &data_dir, &told, common);
    }
    common.print(&told, &text(&told));
    Ok(())
}

/// The log lies with whoever installs, and only who may read it there may see it.
fn log(args: &Args, data_dir: &Path, told: &Value, common: Common) -> Result<(), CliError> {
    let name = args.subject.as_deref().unwrap_or_default();
    let release: ReleaseId = serde_json::from_value(told["subject"]["release"].clone())
        .map_err(|_| CliError::Refused(format!("{name} is a peer; releases have logs")))?;
    let node = NodeDir::new(data_dir);
    let config = Config::read(&node.config()).map_err(|error| CliError::Refused(format!("{error:#}")))?;
    let dir = if config.installer_socket.is_some() { args.installer_dir.clone() } else { node.install() };
    let logs = dir.join("logs");
    match newest_logs(&dir, release) {
        Ok(kept) if kept.is_empty() => Err(CliError::Refused(format!(
            "there is no log of {name} in {}: nothing of it was begun here, or its log was one of those that made room for \
             newer ones",
            logs.display()
        ))),
        Ok(kept) => {
            let texts: Vec<String> =
                kept.iter().map(|log| format!("{}\n{}", log.path.display(), log.text.trim_end())).collect();
            common.print(&json!({ "release": release, "logs": kept }), &texts.join("\n\n"));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(CliError::Refused(format!(
            "permission denied: {}; run it as root, or as the user that installs",
            logs.display()
        ))),
        Err(error) => Err(CliError::Failed(anyhow!("cannot read the logs in {}: {error}", logs.display()))),
    }
}

fn text(told: &Value) -> String {
    let mut text = String::new();
    for section in told["sections"].as_array().into_iter().flatten() {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(section["title"].as_str().unwrap_or_default());
        text.push('\n');
        for sentence in section["sentences"].as_array().into_iter().flatten() {
            wrap(&mut text, "  ", sentence["text"].as_str().unwrap_or_default());
            wrap(&mut text, "      because: ", sentence["because"].as_str().unwrap_or_default());
        }
    }
    text.trim_end().to_owned()
}

/// Adds a paragraph; its further lines begin below the first.
fn wrap(to: &mut String, first: &str, text: &str) {
    let indent = first.chars().count() - first.trim_start().chars().count();
    let (mut line, mut empty) = (first.to_owned(), true);
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            to.push_str(&line);
            to.push('\n');
            line = " ".repeat(indent + 2);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    to.push_str(&line);
    to.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sentences_are_wrapped_and_keep_every_word() {
        let long = "word ".repeat(60);
        let told = serde_json::json!({ "sections": [
            { "title": "A tool", "sentences": [{ "text": long, "because": "a rule" }] },
            { "title": "Another", "sentences": [{ "text": "Short.", "because": "b" }] },
        ]});
        let text = text(&told);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert_eq!(text.matches("word").count(), 60);
        assert!(text.contains("\n      because: a rule\n\nAnother\n  Short.\n      because: b"), "{text}");
    }
}
