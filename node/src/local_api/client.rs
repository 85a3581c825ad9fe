//! The asker's side.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use serde_json::Value;

use super::Request;
use super::endpoint;
use crate::config::NodeDir;
use crate::error::CliError;
use crate::sys::BlockingStream;

/// A node answers at once; one that does not is stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer: the status of a site of four thousand machines has about one MiB.
const MAX_ANSWER: u64 = 32 << 20;

/// A connection to the node that runs on a data directory.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<BlockingStream>,
}

impl Client {
    /// Connects. Refused, with what to do, when no node runs there or this user may not ask it.
    pub(crate) fn connect(dir: &Path) -> Result<Self, CliError> {
        let node = NodeDir::new(dir);
        let shown = dir.display();
        match endpoint::connect(&node, PATIENCE) {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream) }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(CliError::Refused(format!(
                "{shown} belongs to another user; run this as the user that runs the node, or as root"
            ))),
            Err(_) if !node.config().exists() => Err(CliError::Refused(format!(
                "{shown} is not the data directory of a node; join first: upswarm node join TOKEN --data-dir {shown}"
            ))),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Err(CliError::Refused(format!(
                    "no node is running on {shown}; start it: upswarm node run --data-dir {shown}"
                )))
            }
            Err(error) => Err(CliError::Failed(anyhow!("the node on {shown} cannot be asked: {error}"))),
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Value, CliError> {
        let failed = |error: io::Error| CliError::Failed(anyhow!("the node does not answer: {error}; see its log"));
        let mut line = serde_json::to_vec(request).map_err(|error| CliError::Failed(error.into()))?;
        line.push(b'\n');
        // A node that has no place left answers and closes before it reads.
        let sent = self.stream.get_mut().write_all(&line);
        let mut answer = Vec::new();
        let read = (&mut self.stream).take(MAX_ANSWER).read_until(b'\n', &mut answer);
        if answer.last() != Some(&b'\n') {
            sent.and(read).map_err(failed)?;
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut answer: Value = serde_json::from_slice(&answer).map_err(|error| CliError::Failed(error.into()))?;
        match answer["error"].as_str() {
            Some(reason) => Err(CliError::Refused(reason.to_owned())),
            None => Ok(answer["ok"].take()),
        }
    }
}
