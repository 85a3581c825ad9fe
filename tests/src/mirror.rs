//! A web server over a folder, as mirrors are: validators, ranges, HEAD; and with faults, as mirrors are.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// What goes wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This status and no body.
    Status(u16),
    /// A web page with status 200.
    Page,
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Other bytes of the same length.
    Damaged,
    /// A range is ignored: all of the file with status 200.
    Whole,
    /// To this address, for ever.
    Redirect(String),
    /// One byte more than there should be.
    Longer,
    /// The answer waits until the server ends.
    Silent,
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `GET` or `HEAD`.
    pub method: String,
    /// With its slash.
    pub path: String,
    /// The header Range; empty for none.
    pub range: String,
    /// The header If-None-Match; empty for none.
    pub if_none_match: String,
    /// The header If-Range; empty for none.
    pub if_range: String,
    /// The header Authorization; empty for none.
    pub authorization: String,
    /// What was answered; 0 for nothing.
    pub status: u16,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    end: AtomicBool,
    asked: Mutex<Vec<Asked>>,
    /// Part of a path, what goes wrong with it, and how often still.
    faults: Mutex<Vec<(String, Fault, usize)>>,
    /// Runs before each answer, with the path.
    before: Mutex<Option<Before>>,
    /// Whoever does not say this gets nothing.
    only_for: Mutex<Option<String>>,
}

struct Before(Box<dyn FnMut(&str) + Send>);

impl std::fmt::Debug for Before {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Before")
    }
}

/// A server that ends with this value.
#[derive(Debug)]
pub struct Mirror {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: Option<JoinHandle<()>>,
}

impl Mirror {
    /// Serves a folder on a free port of 127.0.0.1.
    pub fn start(dir: &Path) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a free port"), dir)
    }

    /// Serves a folder on this socket, which may be of another network namespace.
    pub fn on(listener: TcpListener, dir: &Path) -> Self {
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            end: AtomicBool::new(false),
            asked: Mutex::default(),
            faults: Mutex::default(),
            before: Mutex::default(),
            only_for: Mutex::default(),
        });
        let served = shared.clone();
        let server = std::thread::spawn(move || {
            let mut answers = Vec::new();
            while !served.end.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let served = served.clone();
                        // A client that hangs up is no matter.
                        answers.push(std::thread::spawn(move || drop(served.answer(stream))));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
            answers.into_iter().for_each(|answer| drop(answer.join()));
        });
        Self { shared, address, server: Some(server) }
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next `times` answers to paths that contain `part` go wrong.
    pub fn fail(&self, part: &str, fault: Fault, times: usize) {
        lock(&self.shared.faults).push((part.to_owned(), fault, times));
    }

    /// Before each answer this is called with the path.
    pub fn before(&self, call: impl FnMut(&str) + Send + 'static) {
        *lock(&self.shared.before) = Some(Before(Box::new(call)));
    }

    /// From now on answers only requests with this header Authorization.
    pub fn only_for(&self, authorization: &str) {
        *lock(&self.shared.only_for) = Some(authorization.to_owned());
    }

    /// What was asked since this was called last.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *lock(&self.shared.asked))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut first, mut line) = (String::new(), String::new());
        reader.read_line(&mut first)?;
        let mut words = first.split(' ').map(str::to_owned);
        let mut asked = Asked {
            method: words.next().unwrap_or_default(),
            path: words.next().unwrap_or_default(),
            range: String::new(),
            if_none_match: String::new(),
            if_range: String::new(),
            authorization: String::new(),
            status: 0,
        };
        while reader.read_line(&mut line)? > 2 {
            let (name, value) = line.split_once(':').unwrap_or_default();
            let value = value.trim().to_owned();
            match name.to_ascii_lowercase().as_str() {
                "range" => asked.range = value,
                "if-none-match" => asked.if_none_match = value,
                "if-range" => asked.if_range = value,
                "authorization" => asked.authorization = value,
                _ => {}
            }
            line.clear();
        }
        if let Some(before) = lock(&self.before).as_mut() {
            (before.0)(&asked.path);
        }
        let fault = {
            let mut faults = lock(&self.faults);
            let found = faults.iter_mut().find(|(part, _, times)| *times > 0 && asked.path.contains(part.as_str()));
            found.map(|(_, fault, times)| {
                *times -= 1;
                fault.clone()
            })
        };
        let (status, headers, body, cut) = self.respond(&asked, fault.as_ref());
        asked.status = status;
        let head = asked.method == "HEAD";
        lock(&self.asked).push(asked);
        if fault == Some(Fault::Silent) {
            while !self.end.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
            }
            return Ok(());
        }
        write!(stream, "HTTP/1.1 {status} -\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
        if !head {
            stream.write_all(&body[..cut.unwrap_or(body.len()).min(body.len())])?;
        }
        Ok(())
    }

    /// Status, headers, body, and after how many bytes it breaks off.
    fn respond(&self, asked: &Asked, fault: Option<&Fault>) -> (u16, String, Vec<u8>, Option<usize>) {
        let nothing = |status| (status, String::new(), Vec::new(), None);
        if lock(&self.only_for).as_ref().is_some_and(|only| *only != asked.authorization) {
            return nothing(401);
        }
        match fault {
            Some(Fault::Status(status)) => return nothing(*status),
            Some(Fault::Page) => {
                let page = b"<!DOCTYPE html><html>Please log in</html>".to_vec();
                return (200, "Content-Type: text/html\r\n".to_owned(), page, None);
            }
            Some(Fault::Redirect(to)) => return (302, format!("Location: {to}\r\n"), Vec::new(), None),
            _ => {}
        }
        let path = asked.path.trim_start_matches('/').replace("%3a", ":").replace("%2b", "+").replace("%7e", "~");
        if path.split('/').any(|part| part == "..") {
            return nothing(403);
        }
        // A file whose name has an escape in it lies there as it is written.
        let as_written = self.dir.join(asked.path.trim_start_matches('/'));
        let Ok(mut bytes) = std::fs::read(as_written).or_else(|_| std::fs::read(self.dir.join(path))) else {
            return nothing(404);
        };
        let tag = format!("\"{}\"", &hex::encode(Sha256::digest(&bytes))[..16]);
        let headers = format!("ETag: {tag}\r\nAccept-Ranges: bytes\r\nContent-Type: application/octet-stream\r\n");
        if asked.if_none_match == tag {
            return (304, headers, Vec::new(), None);
        }
        match fault {
            Some(Fault::Damaged) => bytes.iter_mut().for_each(|byte| *byte ^= 1),
            Some(Fault::Longer) => bytes.push(b'\n'),
            _ => {}
        }
        let cut = match fault {
            Some(Fault::Cut(after)) => Some(*after),
            _ => None,
        };
        let from = asked.range.strip_prefix("bytes=").and_then(|range| range.split('-').next()?.parse::<usize>().ok());
        let ranged = fault != Some(&Fault::Whole) && (asked.if_range.is_empty() || asked.if_range == tag);
        match from.filter(|from| ranged && *from < bytes.len()) {
            Some(from) => {
                let range = format!("Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
                (206, headers + &range, bytes.split_off(from), cut)
            }
            None if from.is_some() && ranged => nothing(416),
            None => (200, headers, bytes, cut),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
