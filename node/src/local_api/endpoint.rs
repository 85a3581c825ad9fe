//! Where the socket of a data directory is, and how its two ends come together.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use crate::config::NodeDir;
use crate::sys::{self, BlockingStream, LocalListener, LocalStream};

fn path(dir: &NodeDir) -> PathBuf {
    dir.path().join("control.sock")
}

/// Listens. The socket appears under its name only when nobody else can use it, and takes the place of an old one.
pub(super) fn listen(dir: &NodeDir) -> anyhow::Result<LocalListener> {
    let path = path(dir);
    sys::listen_private(&path, &dir.path().join("control.new"))
        .with_context(|| format!("cannot make the socket {} (its path may have 107 bytes)", path.display()))
}

/// Waits for the next connection. Cancel-safe.
pub(super) async fn accept(listener: &mut LocalListener) -> io::Result<LocalStream> {
    Ok(listener.accept().await?.0)
}

/// Removes the socket of a node that ends.
pub(super) fn remove(dir: &NodeDir) {
    let _ = std::fs::remove_file(path(dir));
}

/// Connects to the node that runs on a data directory. Reads and writes end after `patience`.
pub(super) fn connect(dir: &NodeDir, patience: Duration) -> io::Result<BlockingStream> {
    sys::connect(&path(dir), patience)
}
