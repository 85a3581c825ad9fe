//! The socket itself: what another operating system does differently stands here and nowhere else.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use crate::config::NodeDir;

/// The node's end.
pub(super) type Listener = tokio::net::UnixListener;
/// A connection, on the node's side.
pub(super) type Stream = tokio::net::UnixStream;
/// A connection, on the asker's side.
pub(super) type Asking = std::os::unix::net::UnixStream;

fn path(dir: &NodeDir) -> PathBuf {
    dir.path().join("control.sock")
}

/// Listens. The socket appears under its name only when its mode is set, and takes the place of an old one.
pub(super) fn listen(dir: &NodeDir) -> anyhow::Result<Listener> {
    let (path, new) = (path(dir), dir.path().join("control.new"));
    if let Err(error) = std::fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot remove {}", new.display()));
    }
    let listener = Listener::bind(&new)
        .with_context(|| format!("cannot make the socket {} (its path may have 107 bytes)", new.display()))?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&new, &path))
        .with_context(|| format!("cannot make the socket {}", path.display()))?;
    Ok(listener)
}

/// Waits for the next connection. Cancel-safe.
pub(super) async fn accept(listener: &mut Listener) -> io::Result<Stream> {
    Ok(listener.accept().await?.0)
}

/// Removes the socket of a node that ends.
pub(super) fn remove(dir: &NodeDir) {
    let _ = std::fs::remove_file(path(dir));
}

/// Connects to the node that runs on a data directory. Reads and writes end after `patience`.
pub(super) fn connect(dir: &NodeDir, patience: Duration) -> io::Result<Asking> {
    let stream = Asking::connect(path(dir))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}
