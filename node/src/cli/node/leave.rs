//! `node leave`: a machine that leaves for good says so, and forgets who it was. It never touches payloads or what is installed.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::json;
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::wire::{self, Message};

use super::super::{CliError, Common, runtime};
use super::LeaveArgs;
use crate::agent::journal::Journal;
use crate::config::{Config, NodeDir};
use crate::keys;
use crate::net::{Host, HostConfig, HostEvent};

/// The coordinator must hear it within this.
const LEAVE_WITHIN: Duration = Duration::from_secs(15);

pub(super) fn run(args: &LeaveArgs, common: Common) -> Result<(), CliError> {
    let dir = NodeDir::new(&args.data_dir);
    let config = Config::read(&dir.config()).map_err(|error| CliError::Refused(format!("{error:#}")))?;
    let key = keys::read_device_key(&dir.key())?;
    let journal = Journal::open(&dir.journal()).map_err(|error| {
        CliError::Refused(format!("cannot open {}: {error}; stop the node first", dir.journal().display()))
    })?;
    let certificate = journal.load().context("reading the journal")?.certificate.unwrap_or_default();
    let told = runtime()?.block_on(async {
        let (host, mut events) = Host::start(HostConfig::of_node(key.to_bytes(), Vec::new(), false)).await?;
        let told = tokio::time::timeout(LEAVE_WITHIN, say(&host, &mut events, &config, certificate)).await;
        host.stop().await;
        told.unwrap_or_else(|_| Err(anyhow!("it does not answer within {} s", LEAVE_WITHIN.as_secs())))
    });
    let note = match told {
        Ok(()) => "the coordinator knows".to_owned(),
        Err(error) if args.force => format!("the coordinator was not told ({error:#}); there: upswarm device retire"),
        Err(error) => {
            return Err(CliError::Failed(error.context(
                "the coordinator could not be told, and nothing was changed; try again, or say --force and retire the machine there",
            )));
        }
    };
    drop(journal);
    // The settings first: a directory without node.toml has not joined.
    for file in [dir.config(), dir.key(), dir.run_info()] {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CliError::Failed(anyhow!("cannot remove {}: {error}", file.display())));
            }
            _ => {}
        }
    }
    std::fs::remove_dir_all(dir.journal()).with_context(|| format!("cannot remove {}", dir.journal().display()))?;
    common.print(&json!({ "left": true, "note": note }), &format!("left: {note}"));
    Ok(())
}

async fn say(
    host: &Host,
    events: &mut tokio::sync::mpsc::Receiver<HostEvent>,
    config: &Config,
    certificate: Vec<u8>,
) -> anyhow::Result<()> {
    let coordinator = config.coordinator.device;
    let hello = Message::Hello {
        version: wire::VERSION,
        certificate: Bounded::truncated(certificate),
        head: Bounded::default(),
        root_version: 0,
    };
    for address in &config.coordinator.addresses {
        host.dial(address.split("/p2p/").next().unwrap_or_default().to_owned()).await;
    }
    let mut reasons = Vec::new();
    loop {
        match events.recv().await.context("the network part ended unexpectedly")? {
            HostEvent::PeerUp { peer, .. } if peer == coordinator => {
                host.send(coordinator, hello.encode()?).await;
                host.send(coordinator, Message::Leave.encode()?).await;
            }
            HostEvent::Frame { peer, bytes } if peer == coordinator => match Message::decode(&bytes) {
                Ok(Message::Leave) => return Ok(()),
                Ok(Message::Refused { reason }) => return Err(anyhow!("it refuses: {reason}")),
                _ => {}
            },
            HostEvent::PeerDown { peer } if peer == coordinator => {
                return Err(anyhow!("it closed the connection"));
            }
            HostEvent::DialFailed { address, reason } => {
                reasons.push(format!("{address}: {reason}"));
                if reasons.len() >= config.coordinator.addresses.len() {
                    return Err(anyhow!("it cannot be reached ({})", reasons.join("; ")));
                }
            }
            _ => {}
        }
    }
}
