//! Sockets between processes of this machine, which know who is at the other end and can hand over open files; and the ports
//! of this machine.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
};

/// The listening end.
pub(crate) type LocalListener = tokio::net::UnixListener;
/// A connection that does not block.
pub(crate) type LocalStream = tokio::net::UnixStream;
/// A connection that blocks.
pub(crate) type BlockingStream = std::os::unix::net::UnixStream;

/// The most open files that travel with one byte; the kernel takes 253.
const FILES_AT_ONCE: usize = 64;

/// Listens for this user alone. The socket appears at `path` only when nobody else can use it, and takes the place of an old
/// one; until then it is called `beside`.
pub(crate) fn listen_private(path: &Path, beside: &Path) -> io::Result<LocalListener> {
    if let Err(error) = fs::remove_file(beside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = LocalListener::bind(beside)?;
    fs::set_permissions(beside, fs::Permissions::from_mode(0o600))?;
    fs::rename(beside, path)?;
    Ok(listener)
}

/// Listens for one user, and for root, from the socket's first instant on.
pub(crate) fn listen_for(path: &Path, user: u32) -> io::Result<LocalListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::other("it is there and no socket; remove it")),
        Err(_) => {}
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = std::os::unix::net::UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener?;
    if rustix::process::geteuid().is_root() {
        chown(path, Some(user), None)?;
    }
    listener.set_nonblocking(true)?;
    LocalListener::from_std(listener)
}

/// Connects; reads and writes end after `patience`.
pub(crate) fn connect(path: &Path, patience: Duration) -> io::Result<BlockingStream> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let stream = BlockingStream::from(socket);
    // A listener that takes nobody in has connecting wait as writing does.
    stream.set_write_timeout(Some(patience))?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(path)?)?;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

/// The user at the other end of a connection.
pub(crate) fn peer_user(stream: &BlockingStream) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(stream)?.uid.as_raw())
}

/// The same of a connection that does not block.
pub(crate) fn local_user(stream: &LocalStream) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(stream)?.uid.as_raw())
}

/// Hands over open files: zero bytes, each with up to 64 of them.
pub(crate) fn send_files(stream: &BlockingStream, files: &[File]) -> io::Result<()> {
    for batch in files.chunks(FILES_AT_ONCE) {
        let descriptors: Vec<BorrowedFd<'_>> = batch.iter().map(File::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("open files do not fit into a message"));
        }
        sendmsg(stream, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// Takes the open files that come with one byte; none when something else came, or not all of it.
pub(crate) fn receive_files(stream: &BlockingStream) -> io::Result<Vec<File>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_AT_ONCE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut came = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            came.extend(descriptors.map(File::from));
        }
    }
    let whole = received.bytes == 1 && !received.flags.contains(ReturnFlags::CTRUNC);
    Ok(if whole { came } else { Vec::new() })
}

/// Whether a TCP port can be had by this process alone: listening with SO_REUSEPORT would share it with another program.
pub(crate) fn try_tcp_port(address: SocketAddr) -> io::Result<()> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Without it, connections of a former run that are still closing would count as use.
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(rustix::net::bind(&socket, &address)?)
}
