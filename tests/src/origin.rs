//! A plain web server for a static origin: files by range (RFC 9110, section 14), and a count of what it gave.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::lab::{Lab, WAN_ADDRESS};

const PORT: u16 = 8080;
const MAX_CONNECTIONS: usize = 64;
const MAX_HEAD: usize = 8 << 10;
const PIECE: usize = 64 << 10;

/// Serves a directory at [`Origin::url`] in the lab's `wan` namespace.
#[derive(Debug)]
pub struct Origin {
    dir: PathBuf,
    counted: Arc<AtomicU64>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    listener: TcpListener,
    connections: Arc<Mutex<BTreeMap<u64, TcpStream>>>,
    accepting: JoinHandle<()>,
}

impl Origin {
    /// A server of this directory, not started.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), counted: Arc::default(), running: None }
    }

    /// Its base URL.
    pub fn url() -> String {
        format!("http://{WAN_ADDRESS}:{PORT}/")
    }

    /// Payload bytes that it has handed to sockets, over all its runs.
    pub fn payload_bytes(&self) -> u64 {
        self.counted.load(Ordering::Relaxed)
    }

    /// Begins to serve.
    pub fn start(&mut self, lab: &Lab) {
        let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT));
        let listener = lab.wan.run(bind).unwrap_or_else(|error| panic!("port {PORT} of the wan namespace: {error}"));
        let connections = Arc::new(Mutex::new(BTreeMap::new()));
        let (dir, counted, open) = (self.dir.clone(), self.counted.clone(), connections.clone());
        let socket = listener.try_clone().expect("a second handle of a socket");
        let accepting = std::thread::spawn(move || {
            // Accepting ends with an error when the socket is shut down.
            for number in 0.. {
                let Ok((stream, _)) = socket.accept() else { return };
                let mut connections = open.lock().unwrap_or_else(PoisonError::into_inner);
                let (Ok(handle), true) = (stream.try_clone(), connections.len() < MAX_CONNECTIONS) else { continue };
                connections.insert(number, handle);
                let (dir, counted, open) = (dir.clone(), counted.clone(), open.clone());
                std::thread::spawn(move || {
                    // A client that goes away is no failure of the server.
                    let _ = serve(stream, &dir, &counted);
                    open.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
                });
            }
        });
        self.running = Some(Running { listener, connections, accepting });
    }

    /// Ends at once: open connections are cut.
    pub fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        let _ = rustix::net::shutdown(&running.listener, rustix::net::Shutdown::Both);
        let _ = running.accepting.join();
        for stream in running.connections.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(mut stream: TcpStream, dir: &Path, counted: &AtomicU64) -> io::Result<()> {
    let mut held = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut held)? {
        answer(&mut stream, &head, dir, counted)?;
    }
    Ok(())
}

/// The head of the next request; `None` when the client has closed.
fn read_head(stream: &mut TcpStream, held: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = held.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = held.drain(..end + 4).collect();
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
        if held.len() > MAX_HEAD {
            return Err(io::Error::other("the head of a request is too long"));
        }
        let mut piece = [0; 2048];
        match stream.read(&mut piece)? {
            0 => return Ok(None),
            count => held.extend_from_slice(&piece[..count]),
        }
    }
}

fn answer(stream: &mut TcpStream, head: &str, dir: &Path, counted: &AtomicU64) -> io::Result<()> {
    let mut lines = head.lines();
    let mut request = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (request.next().unwrap_or_default(), request.next().unwrap_or_default());
    let path = path.trim_start_matches('/');
    let plain = path.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    let opened = File::open(dir.join(path)).and_then(|file| Ok((file.metadata()?, file)));
    let (mut file, len) = match opened {
        Ok((metadata, file)) if plain && metadata.is_file() => (file, metadata.len()),
        _ => return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    };
    let range = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
        let last =
            if last.is_empty() { len.checked_sub(1)? } else { last.parse::<u64>().ok()?.min(len.checked_sub(1)?) };
        let first = first.parse::<u64>().ok()?;
        (name.eq_ignore_ascii_case("range") && first <= last).then_some(first..last + 1)
    });
    let (status, said) = match &range {
        Some(range) => {
            ("206 Partial Content", format!("Content-Range: bytes {}-{}/{len}\r\n", range.start, range.end - 1))
        }
        None => ("200 OK", String::new()),
    };
    let range = range.unwrap_or(0..len);
    let left = range.end - range.start;
    write!(stream, "HTTP/1.1 {status}\r\nAccept-Ranges: bytes\r\nContent-Length: {left}\r\n{said}\r\n")?;
    if method == "HEAD" {
        return Ok(());
    }
    file.seek(SeekFrom::Start(range.start))?;
    let payload = path.starts_with("payload/");
    let mut file = file.take(left);
    let mut piece = vec![0; PIECE];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        if payload {
            counted.fetch_add(count as u64, Ordering::Relaxed);
        }
        stream.write_all(&piece[..count])?;
    }
}
