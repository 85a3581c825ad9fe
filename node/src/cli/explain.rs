//! `upswarm explain`: sentences, each with the rule or fact it rests on.

use std::path::PathBuf;

use serde_json::Value;

use super::{CliError, Common};
use crate::local::{Client, Request};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm explain --data-dir /var/lib/upswarm                       everything that is not as it should be
  upswarm explain --data-dir /var/lib/upswarm org.example.tool@2.1  why this update is not installing here
  upswarm explain --data-dir /var/lib/upswarm 3fa9c2d1              why this peer is not used (first digits of its id)";

/// Columns of the text.
const WIDTH: usize = 100;

/// Say why an update is not installed here, why a peer is not used, and where each byte came from.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The data directory of the node that runs on this machine.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// A product, product@version, a device's name, or the first digits of an id; without it, everything.
    #[arg(value_name = "RELEASE|PEER")]
    subject: Option<String>,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let told = Client::connect(&args.data_dir)?.ask(&Request::Explain { subject: args.subject })?;
    common.print(&told, &text(&told));
    Ok(())
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
