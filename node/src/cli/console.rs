//! `console`: the console's pages on the machine of an admin, whose keys sign there, over the admin door of a coordinator elsewhere.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::admin::{AdminArgs, default_keys};
use super::{CliError, Common};
use crate::console::{self, Keys, Options};
use crate::coordinator::client::Client;
use crate::coordinator::directory::Directory;
use crate::coordinator::keys::KeyUse;
use crate::sys;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm login https://updates.example.org:4703 --key KEY --token-file FILE    # once
  upswarm console --keys-dir /media/stick/keys

Opens nothing but a port on this machine. Documents are checked and signed here; the coordinator never sees a key.";

/// Serve the console on this machine: pages for a browser, which sign with the keys that are here.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// Where it listens; a loopback address.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4704")]
    listen: SocketAddr,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let client = args.admin.client()?;
    let (keys, place) = args.admin.console()?;
    let options = Options { listen: args.listen, link: None, keys, place };
    super::runtime()?.block_on(async {
        let asked = sys::asked_to_stop()?;
        let bound = console::bind(client, options).await?;
        let link = bound.link();
        common.print(&json!({ "link": link }), &format!("open this once, in one browser: {link}"));
        let stop = CancellationToken::new();
        let told = stop.clone();
        tokio::join!(bound.serve(stop), async move {
            asked.await;
            told.cancel();
        });
        Ok(())
    })
}

/// The console of a coordinator on this machine, until `stop`. Its keys sign if they are here: demo keys, or those of a small shop.
pub(super) async fn beside_coordinator(
    data_dir: &Path,
    listen: SocketAddr,
    stop: CancellationToken,
) -> Result<(), CliError> {
    let client = Client::of(data_dir)?;
    let dir = Some(default_keys(data_dir, KeyUse::Approver)).filter(|dir| dir.is_dir());
    let link = Directory::new(data_dir).console_link();
    let name = data_dir.file_name().unwrap_or(data_dir.as_os_str()).to_string_lossy().into_owned();
    let options = Options { listen, link: Some(link.clone()), keys: Keys { dir, anchor: None }, place: name };
    let bound = console::bind(client, options).await?;
    // To the terminal of whoever started it, never to a log: it lets in whoever reads it.
    if std::io::stdout().is_terminal() {
        println!("the console lets one browser in by: {}", bound.link());
    } else {
        tracing::info!("the console runs; the link that lets one browser in is in {}", link.display());
    }
    bound.serve(stop).await;
    Ok(())
}
