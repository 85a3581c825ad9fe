//! The asker's side.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde_json::Value;

use super::Request;
use super::endpoint;
use crate::config::NodeDir;
use crate::error::CliError;
use crate::sys::BlockingStream;

/// For a whole question: a node answers at once; one that does not is stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer: the status of a site of four thousand machines has about one MiB.
const MAX_ANSWER: u64 = 32 << 20;

/// A connection to the node that runs on a data directory.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BlockingStream,
}

impl Client {
    /// Connects. Refused, with what to do, when no node runs there or this user may not ask it.
    pub(crate) fn connect(dir: &Path) -> Result<Self, CliError> {
        let node = NodeDir::new(dir);
        let shown = dir.display();
        match endpoint::connect(&node, PATIENCE) {
            Ok(stream) => Ok(Self { stream }),
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
        let mut stream = Until { stream: &self.stream, end: Instant::now() + PATIENCE };
        let sent = stream.write_all(&line);
        let mut answer = Vec::new();
        let read = BufReader::new(stream).take(MAX_ANSWER).read_until(b'\n', &mut answer);
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

/// A stream whose reads and writes end together, however little each of them moves.
struct Until<'s> {
    stream: &'s BlockingStream,
    end: Instant,
}

impl Until<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long"));
        }
        Ok(left)
    }
}

impl Read for Until<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(bytes)
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_sends_byte_by_byte_ends_with_the_whole_time() {
        let (ours, mut theirs) = BlockingStream::pair().unwrap();
        let drip = std::thread::spawn(move || {
            let mut sent = 0_u32;
            while theirs.write_all(b"1").is_ok() {
                sent += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            sent
        });
        let began = Instant::now();
        let until = Until { stream: &ours, end: began + Duration::from_millis(200) };
        let error = BufReader::new(until).read_until(b'\n', &mut Vec::new()).unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(ours);
        assert!(drip.join().unwrap() > 2, "it went on sending");
    }
}
