//! Many clients while upstream's state changes under them: what apt does with an update and a download, over plain sockets.
//!
//! A thousand clients: `UPSWARM_CLIENTS=1000 cargo test --release -p upswarm-node update_point::load -- --nocapture`

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;

use super::tests::{Bench, Snapshot};

const SUITE: &str = "bookworm";
const PUBLISHES: usize = 50;
const SEED: u64 = 8530;
/// Rounds of a client, at least.
const ROUNDS: usize = 3;
/// What the process may grow by, for each client: its own half is in it.
const OF_A_CLIENT: u64 = 128 << 10;
const BESIDE: u64 = 48 << 20;

/// A state of upstream whose InRelease names index and package by their hashes, as the real one does.
fn state(number: usize) -> Snapshot {
    let mut stream = blake3::Hasher::new().update(format!("{SEED} {number}").as_bytes()).finalize_xof();
    let mut bytes = |len: usize| {
        let mut bytes = vec![0; len];
        stream.fill(&mut bytes);
        bytes
    };
    let (index, package) = (bytes(40_000 + 997 * number), bytes(200_000 + 991 * number));
    let hash = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let name = format!("openssl_{number}_amd64.deb");
    let signed = format!("{} {name} {}\n", hash(&index), hash(&package)).into_bytes();
    Snapshot::of(
        number as u64,
        SUITE,
        "-----BEGIN PGP PUBLIC KEY BLOCK-----",
        signed,
        ("Packages.xz", index),
        (&name, package),
    )
}

struct Answer {
    status: u16,
    etag: String,
    /// Of a part: the length of the whole.
    whole: usize,
    /// Where it was to be kept.
    body: Vec<u8>,
    len: usize,
}

/// What becomes of a body.
enum Sink<'a> {
    Keep,
    Hash(&'a mut Sha256),
}

struct Client {
    stream: TcpStream,
    /// What came behind the last answer's head.
    left: Vec<u8>,
}

impl Client {
    /// From an address of its own, as machines of a LAN have.
    async fn connect(number: usize, to: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::new(127, 1, (number / 250) as u8, 1 + (number % 250) as u8), 0).into())?;
        Ok(Self { stream: socket.connect(to).await?, left: Vec::new() })
    }

    async fn ask(&mut self, path: &str, headers: &str, mut sink: Sink<'_>) -> io::Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        let mut got = std::mem::take(&mut self.left);
        let end = loop {
            if let Some(at) = got.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more(&mut got).await?;
        };
        let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let len = field("content-length").and_then(|len| len.parse().ok()).unwrap_or(0usize);
        let whole = field("content-range").and_then(|range| range.rsplit('/').next()?.parse().ok()).unwrap_or(len);
        let etag = field("etag").unwrap_or_default().to_owned();
        let mut piece = got.split_off(end);
        let (mut body, mut seen) = (Vec::new(), 0);
        loop {
            self.left = piece.split_off(piece.len().min(len - seen));
            seen += piece.len();
            match &mut sink {
                Sink::Keep => body.extend_from_slice(&piece),
                Sink::Hash(hash) => hash.update(&piece),
            }
            if seen == len {
                return Ok(Answer { status, etag, whole, body, len });
            }
            piece = std::mem::take(&mut self.left);
            piece.reserve(16 << 10);
            self.more(&mut piece).await?;
        }
    }

    async fn more(&mut self, got: &mut Vec<u8>) -> io::Result<()> {
        match self.stream.read_buf(got).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

#[derive(Default)]
struct Counts {
    rounds: AtomicU64,
    mismatches: AtomicUsize,
    errors: AtomicUsize,
    unchanged: AtomicUsize,
    bytes: AtomicU64,
    done: AtomicBool,
    round: Notify,
}

/// An update and a download, as apt does them: InRelease if it has changed, its index by hash, a package in two parts.
async fn round(client: &mut Client, known: &mut Option<(String, String)>, counts: &Counts) -> Result<(), String> {
    let error = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    let condition = known.as_ref().map_or_else(String::new, |(etag, _)| format!("If-None-Match: {etag}\r\n"));
    let in_release = format!("/apt/sec/dists/{SUITE}/InRelease");
    let answer = client.ask(&in_release, &condition, Sink::Keep).await.map_err(error("InRelease"))?;
    match answer.status {
        200 => *known = Some((answer.etag, String::from_utf8_lossy(&answer.body).trim().to_owned())),
        304 => drop(counts.unchanged.fetch_add(1, Ordering::Relaxed)),
        status => return Err(format!("InRelease: status {status}")),
    }
    let (_, signed) = known.as_ref().ok_or("304 without having asked for it")?;
    let mut words = signed.split(' ');
    let (Some(index), Some(name), Some(package)) = (words.next(), words.next(), words.next()) else {
        return Err(format!("InRelease is {signed:?}"));
    };
    let by_hash = format!("/apt/sec/dists/{SUITE}/main/binary-amd64/by-hash/SHA256/{index}");
    let mut hash = Sha256::new();
    let answer = client.ask(&by_hash, "", Sink::Hash(&mut hash)).await.map_err(error("the index"))?;
    if answer.status != 200 {
        return Err(format!("the index: status {}", answer.status));
    }
    let mut mismatch = hex::encode(hash.finalize()) != index;
    counts.bytes.fetch_add(answer.len as u64, Ordering::Relaxed);
    let (path, mut hash) = (format!("/apt/sec/pool/main/o/openssl/{name}"), Sha256::new());
    let first = client.ask(&path, "Range: bytes=0-99999\r\n", Sink::Hash(&mut hash)).await;
    let first = first.map_err(error("a package's first part"))?;
    let rest = format!("Range: bytes=100000-\r\nIf-Range: {}\r\n", first.etag);
    let second = client.ask(&path, &rest, Sink::Hash(&mut hash)).await.map_err(error("its second part"))?;
    if (first.status, second.status) != (206, 206) {
        return Err(format!("a package: status {} and {}", first.status, second.status));
    }
    mismatch |= first.len + second.len != first.whole || hex::encode(hash.finalize()) != package;
    counts.bytes.fetch_add(first.whole as u64, Ordering::Relaxed);
    if mismatch {
        counts.mismatches.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn client(number: usize, to: SocketAddr, counts: Arc<Counts>) {
    let (mut known, mut rounds) = (None, 0);
    let fail = |what: String| {
        eprintln!("client {number}: {what}");
        counts.errors.fetch_add(1, Ordering::Relaxed);
    };
    let mut connection = match Client::connect(number, to).await {
        Ok(connection) => connection,
        Err(error) => return fail(error.to_string()),
    };
    while rounds < ROUNDS || !counts.done.load(Ordering::Relaxed) {
        if let Err(what) = round(&mut connection, &mut known, &counts).await {
            return fail(what);
        }
        rounds += 1;
        counts.rounds.fetch_add(1, Ordering::Relaxed);
        counts.round.notify_waiters();
    }
}

/// Bytes that this process holds in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    1024 * line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0)
}

/// Memory is that of a whole process: other tests have no part in it.
#[test]
fn clients_see_whole_states_whatever_is_published_meanwhile() {
    let program = std::env::current_exe().expect("this program");
    let name = "update_point::load::in_a_process_of_its_own";
    let output = std::process::Command::new(program)
        .args(["--exact", name, "--ignored", "--nocapture"])
        .output()
        .expect("the same program again");
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().filter(|line| line.contains("LOAD")).for_each(|line| println!("{line}"));
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part in another test"]
async fn in_a_process_of_its_own() {
    let clients: usize = std::env::var("UPSWARM_CLIENTS").ok().map_or(100, |text| text.parse().expect("a number"));
    crate::sys::raise_descriptor_limit().expect("descriptors");
    let mut random = blake3::Hasher::new().update(&SEED.to_le_bytes()).finalize_xof();
    let states: Vec<Snapshot> = (0..=PUBLISHES).map(state).collect();
    let bench = Bench::new(Vec::new(), 1 << 30).await;
    bench.publish(&states[0]);
    let (before, start, counts) = (resident(), Instant::now(), Arc::new(Counts::default()));
    let running: Vec<_> =
        (0..clients).map(|number| tokio::spawn(client(number, bench.address, counts.clone()))).collect();
    let mut most = 0;
    for state in &states[1..] {
        // After some more rounds, from none to a quarter of the clients'.
        let mut drawn = [0; 8];
        random.fill(&mut drawn);
        let more = u64::from_le_bytes(drawn) % (clients as u64 / 4 + 1);
        let after = counts.rounds.load(Ordering::Relaxed) + more;
        let ended = || counts.errors.load(Ordering::Relaxed) > 0;
        while counts.rounds.load(Ordering::Relaxed) < after && !ended() {
            // One that comes between the look and the wait is made up for by the next.
            let _ = tokio::time::timeout(Duration::from_secs(1), counts.round.notified()).await;
        }
        bench.publish(state);
        most = most.max(resident());
    }
    counts.done.store(true, Ordering::Relaxed);
    for one in running {
        one.await.expect("a client");
    }
    most = most.max(resident());
    let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let (mismatches, errors, rounds) =
        (of(&counts.mismatches), of(&counts.errors), counts.rounds.load(Ordering::Relaxed));
    let (took, grown) = (start.elapsed(), most.saturating_sub(before));
    println!(
        "LOAD {{\"clients\":{clients},\"publishes\":{PUBLISHES},\"seed\":{SEED},\"rounds\":{rounds},\"unchanged\":{},\"mismatches\":{mismatches},\
         \"errors\":{errors},\"mb\":{},\"seconds\":{:.1},\"grown_mib\":{}}}",
        of(&counts.unchanged),
        counts.bytes.load(Ordering::Relaxed) / 1_000_000,
        took.as_secs_f64(),
        grown >> 20,
    );
    assert_eq!((mismatches, errors), (0, 0));
    assert!(rounds >= (clients * ROUNDS) as u64);
    assert!(grown < BESIDE + clients as u64 * OF_A_CLIENT, "{} MiB more", grown >> 20);
}
