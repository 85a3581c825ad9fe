use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use upswarm_protocol::ids::ChunkId;

use super::*;

const CHUNK: u32 = 100_000;
const LEN: u64 = 1_050_000;

/// An origin whose path says how it behaves.
struct Server {
    address: SocketAddr,
    /// Requests seen.
    requests: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn payload() -> Vec<u8> {
    (0..LEN).map(|at| (at * 31 % 251) as u8).collect()
}

fn chunks() -> Vec<Chunk> {
    let payload = payload();
    let pieces = payload.chunks(CHUNK as usize).enumerate();
    pieces
        .map(|(at, piece)| Chunk {
            id: ChunkId::of(piece),
            offset: at as u64 * u64::from(CHUNK),
            len: piece.len() as u32,
        })
        .collect()
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicU64::new(0));
        let counter = requests.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counter = counter.clone();
                tokio::spawn(async move {
                    // A client that hangs up is part of the tests.
                    let _ = answer(stream, &counter).await;
                });
            }
        });
        Self { address, requests, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    fn count(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn answer(stream: TcpStream, counter: &AtomicU64) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let (mut path, mut range) = (String::new(), None);
    while let Some(line) = lines.next_line().await? {
        if line.is_empty() {
            break;
        }
        if let Some(rest) = line.strip_prefix("GET /") {
            path = rest.split(' ').next().unwrap_or_default().to_owned();
        }
        if let Some(asked) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            range =
                asked.split_once('-').and_then(|(a, b)| Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()? + 1)));
        }
    }
    let number = counter.fetch_add(1, Ordering::Relaxed);
    let payload = payload();
    let (start, end) = range.unwrap_or((0, payload.len()));
    let body = &payload[start..end];
    let partial = |content_range: String, len: usize| {
        format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: {content_range}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
        )
    };
    let right = partial(format!("bytes {start}-{}/{LEN}", end - 1), body.len());
    let status = |line: &str| format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let whole = |len: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
    let (head, body): (String, &[u8]) = match path.as_str() {
        "good" => (right, body),
        // Every response breaks after at most 250,000 bytes: two chunks and a half.
        "resets" => (right, &body[..body.len().min(250_000)]),
        "resets-once" if number == 0 => (right, &body[..body.len().min(250_000)]),
        "resets-once" => (right, body),
        "resets-at-once" => (right, &body[..10]),
        "no-ranges" => (whole(payload.len()), &payload),
        "wrong-start" => (partial(format!("bytes {}-{}/{LEN}", start + 1, end), body.len()), body),
        "wrong-total" => (partial(format!("bytes {start}-{}/{}", end - 1, LEN + 1), body.len()), body),
        "no-content-range" => (format!("HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n\r\n", body.len()), body),
        "wrong-length" => (partial(format!("bytes {start}-{}/{LEN}", end - 1), body.len() - 1), body),
        "gzip" => (right.replace("Connection", "Content-Encoding: gzip\r\nConnection"), body),
        "404" => (status("404 Not Found"), b""),
        "500" => (status("500 Internal Server Error"), b""),
        "redirect" => (status("302 Found\r\nLocation: /good"), b""),
        "to-tls" => (status("302 Found\r\nLocation: https://127.0.0.1:1/good"), b""),
        "redirect-loop" => (status("302 Found\r\nLocation: /redirect-loop"), b""),
        "endless" => {
            write
                .write_all(
                    format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{LEN}\r\n\r\n", end - 1)
                        .as_bytes(),
                )
                .await?;
            write.write_all(body).await?;
            loop {
                write.write_all(&[0; 4096]).await?;
            }
        }
        "endless-document" => {
            write.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                write.write_all(&[b'x'; 4096]).await?;
            }
        }
        "mute" => std::future::pending().await,
        "silent" => {
            write.write_all(right.as_bytes()).await?;
            write.write_all(&body[..150_000]).await?;
            std::future::pending().await
        }
        "drip" => {
            write.write_all(right.as_bytes()).await?;
            for byte in body {
                write.write_all(&[*byte]).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return Ok(());
        }
        "document" => (whole(5), b"hello"),
        _ => panic!("no such behaviour: {path}"),
    };
    write.write_all(head.as_bytes()).await?;
    write.write_all(body).await?;
    write.shutdown().await
}

fn client() -> OriginClient {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = OriginClient::new(Web::default(), Limiter::unlimited()).unwrap();
    client.patience.silence = Duration::from_millis(500);
    client.patience.first = Duration::from_millis(500);
    client.patience.window = Duration::from_millis(300);
    client
}

/// Fetches these chunks and checks that what came is the payload's, in order, each chunk once.
async fn fetch(client: &OriginClient, urls: &[String], chunks: &[Chunk]) -> (u64, usize, Result<(), FetchError>) {
    let (sink, mut source) = mpsc::channel::<(usize, Vec<u8>)>(2);
    let reader = async {
        let (payload, mut arrived) = (payload(), 0);
        while let Some((at, bytes)) = source.recv().await {
            assert_eq!(at, arrived);
            let start = chunks[at].offset as usize;
            assert!(bytes == payload[start..start + chunks[at].len as usize], "chunk {at}");
            arrived += 1;
        }
        arrived
    };
    let fetch = async {
        let sink = sink;
        client.fetch_chunks(urls, LEN, chunks, &sink).await
    };
    let ((bytes, result), arrived) = tokio::join!(fetch, reader);
    (bytes, arrived, result)
}

#[tokio::test]
async fn a_good_origin_gives_the_whole_and_any_part() {
    let (server, client, chunks) = (Server::start().await, client(), chunks());
    for url in [server.url("good"), server.url("redirect")] {
        assert_eq!(fetch(&client, std::slice::from_ref(&url), &chunks).await, (LEN, 11, Ok(())));
        assert_eq!(fetch(&client, &[url], &chunks[3..5]).await, (200_000, 2, Ok(())));
    }
    assert_eq!(fetch(&client, &[server.url("good")], &[]).await, (0, 0, Ok(())));
    // Without ranges the whole file is still the whole file.
    assert_eq!(fetch(&client, &[server.url("no-ranges")], &chunks).await, (LEN, 11, Ok(())));
    // Bytes beyond the range are neither waited for nor kept.
    assert_eq!(fetch(&client, &[server.url("endless")], &chunks[3..5]).await, (200_000, 2, Ok(())));
}

/// On a thin line it asks for pieces that end anywhere, also within a chunk; from whoever has no ranges it takes the whole.
#[tokio::test]
async fn who_gives_way_asks_for_pieces_and_keeps_to_its_rate() {
    let (server, client, chunks) = (Server::start().await, client(), chunks());
    client.yielding.hold(87_500.0);
    let (began, asked) = (Instant::now(), server.requests.load(Ordering::Relaxed));
    assert_eq!(fetch(&client, &[server.url("good")], &chunks[1..5]).await, (400_000, 4, Ok(())));
    let requests = server.requests.load(Ordering::Relaxed) - asked;
    assert!(requests >= 3, "pieces of 175,000 bytes: {requests} requests");
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
    client.yielding.hold(500_000.0);
    assert_eq!(fetch(&client, &[server.url("no-ranges")], &chunks).await.1, 11);
    assert!(client.explain().is_some_and(|(text, why)| text.contains("give way") && why.contains("limits.yield")));
}

#[tokio::test]
async fn answers_to_other_questions_are_refused() {
    let (server, client, chunks) = (Server::start().await, client(), chunks());
    for (path, reason) in [
        ("no-ranges", "does not serve ranges"),
        ("wrong-start", "was asked for"),
        ("wrong-total", "was asked for"),
        ("no-content-range", "nothing"),
        ("wrong-length", "199999 bytes where 200000"),
        ("gzip", "encoding"),
        ("404", "404"),
        ("redirect-loop", "redirects"),
    ] {
        let (bytes, arrived, result) = fetch(&client, &[server.url(path)], &chunks[3..5]).await;
        assert_eq!((bytes, arrived), (0, 0), "{path}");
        match result {
            Err(FetchError::Wrong(text)) => assert!(text.contains(reason) && text.contains(path), "{path}: {text}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    for url in ["ftp://127.0.0.1/x", "file:///etc/passwd", "no url"] {
        let (_, _, result) = fetch(&client, &[url.to_owned()], &chunks).await;
        assert!(matches!(result, Err(FetchError::Wrong(_))), "{url}: {result:?}");
    }
    assert!(matches!(fetch(&client, &[], &chunks).await.2, Err(FetchError::Wrong(_))));
    let gap = [chunks[0], chunks[2]];
    assert!(matches!(fetch(&client, &[server.url("good")], &gap).await, (0, 0, Err(FetchError::Wrong(_)))));
}

#[tokio::test]
async fn a_broken_stream_goes_on_from_the_last_complete_chunk() {
    let (server, client, chunks) = (Server::start().await, client(), chunks());
    let (bytes, arrived, result) = fetch(&client, &[server.url("resets-once")], &chunks).await;
    assert_eq!((arrived, result), (11, Ok(())));
    assert!((LEN..=LEN + 50_000).contains(&bytes), "{bytes}: only the incomplete chunk came twice");
    assert_eq!(server.count(), 2);

    // As long as it brings chunks, the same URL is asked again.
    let (bytes, arrived, result) = fetch(&client, &[server.url("resets")], &chunks).await;
    assert_eq!((arrived, result), (11, Ok(())));
    assert!((LEN..=LEN + 6 * 50_000).contains(&bytes), "{bytes}");

    // One that brings none is asked twice, then the next takes over.
    let before = server.count();
    let urls = [server.url("resets-at-once"), server.url("good")];
    assert_eq!(fetch(&client, &urls, &chunks).await, (LEN + 20, 11, Ok(())));
    assert_eq!(server.count() - before, 3);

    let (_, arrived, result) = fetch(&client, &urls[..1], &chunks).await;
    assert!(arrived == 0 && matches!(result, Err(FetchError::Unreachable(_))), "{result:?}");
}

/// The client that follows has TLS roots; the one that asked first has none.
#[tokio::test]
async fn a_redirect_to_tls_is_followed() {
    let (server, client, chunks) = (Server::start().await, client(), chunks());
    let (_, _, result) = fetch(&client, &[server.url("to-tls")], &chunks).await;
    let Err(FetchError::Unreachable(text)) = result else { panic!("{result:?}") };
    // Nobody listens there: that it was tried is what matters.
    assert!(text.contains("refused"), "{text}");
    assert_eq!(server.count(), 2, "asked again by the client that may go on");
}

#[tokio::test]
async fn the_next_url_takes_over() {
    let (server, client, chunks) = (Server::start().await, client(), chunks());
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = format!("http://{closed}/good");
    for first in [server.url("500"), server.url("404"), nobody.clone()] {
        assert_eq!(fetch(&client, &[first, server.url("good")], &chunks).await, (LEN, 11, Ok(())));
    }
    assert_eq!(fetch(&client, &[server.url("silent"), server.url("good")], &chunks).await, (LEN + 50_000, 11, Ok(())));
    for url in [server.url("500"), nobody] {
        let (_, _, result) = fetch(&client, &[server.url("404"), url], &chunks).await;
        assert!(matches!(result, Err(FetchError::Unreachable(_))), "{result:?}");
    }
}

#[tokio::test]
async fn silence_and_dripping_end_a_fetch() {
    let (server, client, chunks) = (Server::start().await, client(), chunks());
    let (_, arrived, result) = fetch(&client, &[server.url("silent")], &chunks).await;
    assert!(matches!(&result, Err(FetchError::Unreachable(text)) if text.contains("no byte")), "{result:?}");
    assert_eq!(arrived, 1, "what was complete was told");
    let (_, _, result) = fetch(&client, &[server.url("drip")], &chunks).await;
    assert!(matches!(&result, Err(FetchError::Unreachable(text)) if text.contains("too slow")), "{result:?}");
}

#[tokio::test]
async fn a_receiver_that_leaves_ends_the_fetch() {
    let (server, client, chunks) = (Server::start().await, client(), chunks());
    let (sink, source) = mpsc::channel(1);
    drop(source);
    let urls = [server.url("good"), server.url("good")];
    let (_, result) = client.fetch_chunks(&urls, LEN, &chunks, &sink).await;
    assert_eq!(result, Err(FetchError::Canceled));
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn the_limiter_holds_back_what_is_read() {
    let server = Server::start().await;
    let mut client = client();
    client.limiter = Limiter::new(0, 1);
    let (chunks, urls) = (chunks(), [server.url("good")]);
    let limiter = client.limiter.clone();
    let mut fetching = std::pin::pin!(fetch(&client, &urls, &chunks));
    // Held back for longer than the source may be silent: waiting on this side is not the source's fault.
    assert!(timeout(Duration::from_millis(800), &mut fetching).await.is_err(), "nothing passes at a rate of 0");
    limiter.set_rate(None);
    assert_eq!(fetching.await, (LEN, 11, Ok(())));
}

#[tokio::test]
async fn documents_stop_at_their_limit() {
    let (server, client) = (Server::start().await, client());
    assert_eq!(client.fetch_document(&[server.url("document")], 5).await, Ok(b"hello".to_vec()));
    for path in ["document", "endless-document"] {
        match client.fetch_document(&[server.url(path)], 4).await {
            Err(FetchError::Wrong(text)) => assert!(text.contains("longer than the 4 bytes"), "{text}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    let urls = [server.url("404"), server.url("500"), server.url("document")];
    assert_eq!(client.fetch_document(&urls, 100).await, Ok(b"hello".to_vec()));
    assert!(matches!(client.fetch_document(&urls[..1], 100).await, Err(FetchError::Wrong(_))));
    assert!(matches!(client.fetch_document(&urls[..2], 100).await, Err(FetchError::Unreachable(_))));
    assert!(matches!(client.fetch_document(&[], 100).await, Err(FetchError::Wrong(_))));
}

#[test]
fn reasons_are_bounded() {
    let url = "http://é/".repeat(100);
    let text = match sum_up(&[(&url, Cause::Wrong("x".into()))]) {
        FetchError::Wrong(text) => text,
        other => panic!("{other:?}"),
    };
    assert!(text.len() < MAX_REASON + 8 && text.ends_with("..."));
}

#[tokio::test]
async fn a_silent_origin_keeps_nobody_from_the_next_even_where_each_fetch_is_given_up_early() {
    let (mute, good, mut client, chunks) = (Server::start().await, Server::start().await, client(), chunks());
    client.patience.silence = Duration::from_secs(60);
    client.patience.first = Duration::from_secs(60);
    let urls = [mute.url("mute"), good.url("good")];
    // Whoever asks has less patience than the client: the first time is lost, the next begins with the other one.
    assert!(timeout(Duration::from_millis(400), fetch(&client, &urls, &chunks)).await.is_err());
    assert_eq!(fetch(&client, &urls, &chunks).await, (LEN, 11, Ok(())));
    assert_eq!((mute.count(), good.count()), (1, 1));
    let documents = [mute.url("mute"), good.url("document")];
    assert_eq!(client.fetch_document(&documents, 10).await.unwrap(), b"hello");
    assert_eq!(mute.count(), 1);
    // Alone it is tried all the same.
    assert!(timeout(Duration::from_millis(400), client.fetch_document(&documents[..1], 10)).await.is_err());
    assert_eq!(mute.count(), 2);
}
