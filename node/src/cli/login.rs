//! `upswarm login`: an admin's machine learns a coordinator elsewhere. Owns what is written to the profile; asks for nothing else.

use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;

use serde_json::json;
use zeroize::Zeroizing;

use super::profile::{self, Profile};
use super::{CliError, Common};
use crate::api::status::StatusQuery;
use crate::coordinator::client::Client;
use crate::coordinator::tls::Fingerprint;
use crate::sys::{self, Access};

/// The most bytes of a token's file.
const MAX_TOKEN: u64 = 4096;

const EXAMPLE: &str = "\
EXAMPLE:
  On the coordinator:  upswarm coordinator run --data-dir DIR --admin 0.0.0.0:4703
  which prints the key. Then here, with the token of DIR/admin.token:
  upswarm login https://updates.example.org:4703 --key 5f0c... --token-file admin.token
  upswarm status";

/// Remember a coordinator on another machine: its URL, its key and the admin token.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// Where the coordinator's admin door listens: https://HOST:PORT.
    url: String,
    /// The door's key, as `coordinator run --admin` prints it; only a coordinator that shows it is talked to.
    #[arg(long, value_name = "HEX")]
    key: Fingerprint,
    /// File that holds the admin token; without it, the token is read from standard input.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Take the place of another coordinator in the profile.
    #[arg(long)]
    replace: bool,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let refused = |error: &dyn std::fmt::Display| CliError::Refused(error.to_string());
    let path =
        profile::path().ok_or_else(|| refused(&"no home directory; name the profile's file with UPSWARM_PROFILE"))?;
    let known =
        Profile::of_caller().or_else(|error| if path.exists() { Err(error) } else { Ok(Profile::default()) })?;
    let url = args.url.trim_end_matches('/').to_owned();
    if !url.starts_with("https://") {
        return Err(refused(&format!("{url} would show the admin token to the network; the door speaks https://")));
    }
    let other = known.data_dir.is_some() || known.coordinator.as_ref().is_some_and(|known| *known != url);
    if other && !args.replace {
        return Err(refused(&format!(
            "{} names another coordinator; give --replace, or another file with UPSWARM_PROFILE",
            path.display()
        )));
    }
    let token = token(&args)?;
    let dir = path.parent().ok_or_else(|| refused(&"the profile's path has no directory"))?;
    std::fs::create_dir_all(dir).map_err(|error| refused(&format!("{}: {error}", dir.display())))?;
    let token_file = dir.join("coordinator.token");
    let write = |path: &PathBuf, text: &str| {
        sys::replace(path, text.as_bytes(), Access::Owner)
            .map_err(|error| refused(&format!("writing {}: {error}", path.display())))
    };
    write(&token_file, &format!("{}\n", token.as_str()))?;
    let client = Client::at(&url, &token_file, Some(args.key))?;
    super::runtime()?.block_on(client.status(&StatusQuery::default()))?;
    let profile = Profile {
        data_dir: None,
        coordinator: Some(url.clone()),
        coordinator_key: Some(args.key),
        token_file: Some(token_file),
        ..known
    };
    write(&path, &profile.to_text()?)?;
    common.print(
        &json!({ "coordinator": url, "profile": path }),
        &format!("logged in at {url}; kept in {}", path.display()),
    );
    Ok(())
}

fn token(args: &Args) -> Result<Zeroizing<String>, CliError> {
    let mut text = Zeroizing::new(String::new());
    let read = match &args.token_file {
        Some(path) => std::fs::File::open(path).and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text)),
        None => {
            if std::io::stdin().is_terminal() {
                eprintln!("The admin token (DATA-DIR/admin.token on the coordinator), then Ctrl-D:");
            }
            std::io::stdin().take(MAX_TOKEN).read_to_string(&mut text)
        }
    };
    read.map_err(|error| CliError::Refused(format!("reading the admin token: {error}")))?;
    let token = Zeroizing::new(text.trim().to_owned());
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(CliError::Refused("that is no admin token; it is the one word in DATA-DIR/admin.token".to_owned()));
    }
    Ok(token)
}
