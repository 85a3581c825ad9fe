//! A vendor's web server, good and bad: the first part of a path says how it answers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::Namespace;

/// Bytes of the file that it serves.
const LEN: usize = 300_000;

/// A server that ends with this value.
///
/// `pool` serves ranges, `whole` does not; `missing` answers 404, `page` a web page, `silent` nothing; `stops`, `drips` and
/// `breaks` (it closes the connection) do so after 1,000 bytes.
#[derive(Debug)]
pub struct Vendor {
    end: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Vendor {
    /// Serves in a namespace.
    pub fn start(namespace: &Namespace, address: &str) -> Self {
        let listener = namespace.run(|| TcpListener::bind(address)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let end = Arc::new(AtomicBool::new(false));
        let ends = end.clone();
        let server = std::thread::spawn(move || {
            let mut answers = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let ends = ends.clone();
                        // A client that hangs up is no matter.
                        answers.push(std::thread::spawn(move || drop(answer(stream, &ends))));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
            answers.into_iter().for_each(|answer| drop(answer.join()));
        });
        Self { end, server: Some(server) }
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn answer(mut stream: TcpStream, ends: &AtomicBool) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut range, mut line) = (String::new(), None, String::new());
    reader.read_line(&mut first)?;
    while reader.read_line(&mut line)? > 2 {
        if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            let mut ends = bytes.trim().split('-').map(|number| number.parse::<usize>().unwrap_or(LEN - 1));
            range = ends.next().zip(ends.next()).map(|(from, to)| from..to.min(LEN - 1) + 1);
        }
        line.clear();
    }
    let body: Vec<u8> = (0..LEN).map(|at| ((at * at) >> 7) as u8).collect();
    let place = first.split(['/', ' ']).nth(2).unwrap_or_default().to_owned();
    if place == "silent" {
        wait(ends);
        return Ok(());
    }
    match place.as_str() {
        "missing" => return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        "page" => {
            let page = "<html>Accept the licence</html>";
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close";
            return write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{page}", page.len());
        }
        _ => {}
    }
    if let Some(range) = range.filter(|_| place != "whole") {
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {}-{}/{LEN}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            range.start,
            range.end - 1,
            range.len()
        )?;
        return stream.write_all(&body[range]);
    }
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\nConnection: close\r\n\r\n")?;
    match place.as_str() {
        "stops" => {
            stream.write_all(&body[..1000])?;
            wait(ends);
        }
        "drips" => {
            for piece in body.chunks(500) {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                stream.write_all(piece)?;
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        "breaks" => stream.write_all(&body[..1000])?,
        _ => stream.write_all(&body)?,
    }
    Ok(())
}

fn wait(ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
}
