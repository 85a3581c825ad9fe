//! Giving way on a thin line: beside a running fetch it is measured how long the way to the origin takes, and while that says that
//! somebody else wants the line, the fetch is held to a rate ([`control`]) and asks for pieces only: what was asked for comes at the
//! line's full speed.
//!
//! What is measured is how long a TCP connection takes to be made. The origin's kernel answers that, so a busy origin is no reason to
//! give way. Through a proxy nothing is measured, and nobody gives way.

mod control;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::sync::Notify;

use self::control::Control;
use crate::limiter::Limiter;
use crate::units;
use crate::web::Web;

/// From one measurement to the next, for one machine that fetches; longer where others of the site measure too.
const EVERY: Duration = Duration::from_millis(125);
/// The same while nothing is fetched: what the way takes when it is free must be known before it is full.
const IDLE_EVERY: Duration = Duration::from_secs(600);
/// So many at a time then.
const IDLE_TIMES: usize = 3;
/// A question that is not answered for this long was lost.
const LOST: Duration = Duration::from_millis(900);
/// Names are looked up again after this.
const LOOKED_UP: Duration = Duration::from_secs(60);
/// After a pause of this length a fetch begins at full speed.
const RESTED: Duration = Duration::from_secs(60);
/// The rate that all machines of a site keep together, and each of them at least, bytes per second: less would look like no progress.
const FLOOR: (f64, f64) = (24_576.0, 8_192.0);
/// A piece brings what the rate brings in this time.
const PIECE_S: f64 = 0.25;
const PIECES: (u64, u64) = (16 << 10, 4 << 20);
/// A site that fetches this many bytes per second has no thin line: 50 Mbit/s.
const NOT_THIN: f64 = 6.25e6;
/// Bytes that may go at once after a pause.
const BURST: u64 = 32 << 10;
/// The speed is that of so long.
const SPEED_OF: Duration = Duration::from_secs(1);

/// Shared by every fetch.
#[derive(Debug, Clone)]
pub(super) struct Yielding(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    on: AtomicBool,
    /// Other machines of the site that fetch.
    others: AtomicU32,
    fetches: AtomicUsize,
    bytes: AtomicU64,
    limiter: Limiter,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    control: Control,
    /// Scheme, host and port of the origin that was last asked.
    origin: Option<String>,
    address: Option<(String, Instant, SocketAddr)>,
    /// Bytes that had come, the newest last.
    came: VecDeque<(Instant, u64)>,
    ended: Option<Instant>,
}

/// A fetch that is under way.
pub(super) struct Fetching<'a>(&'a Shared);

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        if self.0.fetches.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.state().ended = Some(Instant::now());
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn floor(&self) -> f64 {
        let others = f64::from(self.others.load(Ordering::Relaxed));
        (FLOOR.0 / (1.0 + others)).max(FLOOR.1)
    }

    /// Bytes per second of late.
    fn speed(&self, state: &mut State, now: Instant) -> f64 {
        let total = self.bytes.load(Ordering::Relaxed);
        state.came.push_back((now, total));
        while state.came.len() > 2 && now.saturating_duration_since(state.came[1].0) >= SPEED_OF {
            state.came.pop_front();
        }
        let (since, before) = state.came[0];
        let passed = now.saturating_duration_since(since).as_secs_f64();
        if passed > 0.0 { (total - before) as f64 / passed } else { 0.0 }
    }

    fn measured(&self, address: SocketAddr, took: Option<Duration>) {
        let (now, floor) = (Instant::now(), self.floor());
        let others = f64::from(self.others.load(Ordering::Relaxed));
        let mut state = self.state();
        let speed = self.speed(&mut state, now);
        let thin = speed * (1.0 + others) < NOT_THIN;
        state.control.measured(address, took, now, (speed, floor, thin));
        match state.control.rate() {
            // While one piece comes, the next is earned.
            Some(rate) => self.limiter.set_rate_and_burst(rate as u64, burst_of(rate)),
            None => self.limiter.set_rate(None),
        }
    }

    fn rest(&self) {
        let mut state = self.state();
        state.control.rest();
        state.came.clear();
        self.limiter.set_rate(None);
    }
}

impl Default for Yielding {
    /// One that does not give way.
    fn default() -> Self {
        let limiter = Limiter::new(1, BURST);
        limiter.set_rate(None);
        Self(Arc::new(Shared {
            on: AtomicBool::new(false),
            others: AtomicU32::new(0),
            fetches: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            limiter,
            state: Mutex::default(),
            changed: Notify::new(),
        }))
    }
}

impl Yielding {
    /// Measures from now on, whenever it is told to give way. `origin` is the one that will be asked as a rule.
    pub(super) fn start(&self, web: Web, origin: Option<&String>) {
        self.0.state().origin = origin.map(|url| super::health::origin(url));
        tokio::spawn(measure(self.0.clone(), web));
    }

    /// As if so many bytes per second were left for this fetch.
    #[cfg(test)]
    pub(super) fn hold(&self, rate: f64) {
        self.0.state().ended = Some(Instant::now());
        self.0.state().control.hold(rate);
        self.0.limiter.set_rate_and_burst(rate as u64, burst_of(rate));
    }

    /// Whether to give way, and how many other machines of the site fetch.
    pub(super) fn set(&self, on: bool, others: u32) {
        self.0.others.store(others, Ordering::Relaxed);
        if self.0.on.swap(on, Ordering::Relaxed) != on {
            self.0.rest();
            self.0.changed.notify_one();
        }
    }

    /// A fetch begins; it has ended when the value is dropped.
    pub(super) fn fetching(&self, url: &str) -> Fetching<'_> {
        let mut state = self.0.state();
        state.origin = Some(super::health::origin(url));
        if self.0.fetches.fetch_add(1, Ordering::Relaxed) == 0 {
            let rested = state.ended.is_none_or(|ended| ended.elapsed() >= RESTED);
            drop(state);
            if rested {
                self.0.rest();
            }
            self.0.changed.notify_one();
        }
        Fetching(&self.0)
    }

    /// The most bytes to ask for at once; `None` while the line is free.
    pub(super) fn piece(&self) -> Option<u64> {
        self.0.state().control.rate().map(piece_of)
    }

    /// Waits until so many bytes may be asked for.
    pub(super) async fn may_ask(&self, bytes: u64) {
        self.0.limiter.acquire(bytes).await;
    }

    /// So many bytes have come.
    pub(super) fn came(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What holds a fetch back, and why; nothing while nothing does.
    pub(super) fn explain(&self) -> Option<(String, String)> {
        let state = self.0.state();
        let (rate, origin) = (state.control.rate()?, state.origin.as_ref()?);
        let text = format!(
            "Fetches give way to others on the line: {} for now, more as soon as it is free.",
            units::rate_words(rate as u64)
        );
        let wait = state.control.wait().as_millis();
        Some((
            text,
            format!(
                "the way to {origin} takes {wait} ms longer than when it is free; limits.yield in node.toml, or upswarm limit"
            ),
        ))
    }
}

/// What may go at once after a pause, in bytes.
fn burst_of(rate: f64) -> u64 {
    piece_of(rate).max(BURST)
}

/// What is asked for at once at a rate, in bytes.
fn piece_of(rate: f64) -> u64 {
    ((rate * PIECE_S) as u64).clamp(PIECES.0, PIECES.1)
}

async fn measure(shared: Arc<Shared>, web: Web) {
    loop {
        let idle = shared.fetches.load(Ordering::Relaxed) == 0;
        if !shared.on.load(Ordering::Relaxed) {
            shared.changed.notified().await;
            continue;
        }
        let others = shared.others.load(Ordering::Relaxed);
        let every = if idle { IDLE_EVERY } else { EVERY * (1 + others / 4) };
        for _ in 0..if idle { IDLE_TIMES } else { 1 } {
            let Some(address) = target(&shared, &web).await else { break };
            let took = tokio::task::spawn_blocking(move || connect(address)).await.unwrap_or(Took::Unknown);
            match (took, idle) {
                (Took::Unknown, _) | (Took::Lost, true) => {}
                (Took::Lost, false) => shared.measured(address, None),
                (Took::So(took), true) => drop(shared.state().control.way(address, took, Instant::now())),
                (Took::So(took), false) => shared.measured(address, Some(took)),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = shared.changed.notified() => {}
        }
    }
}

/// Where the origin is that is asked now: where it was before, if its name still stands for that. `None`: a proxy is, or nobody knows where.
async fn target(shared: &Shared, web: &Web) -> Option<SocketAddr> {
    let (origin, known) = {
        let state = shared.state();
        (state.origin.clone()?, state.address.clone())
    };
    let known = known.filter(|(of, ..)| *of == origin);
    if let Some((_, _, address)) = known.as_ref().filter(|(_, at, _)| at.elapsed() < LOOKED_UP) {
        return Some(*address);
    }
    if web.proxy_of(&origin).is_some() {
        return None;
    }
    let url = Url::parse(&origin).ok()?;
    let (host, port) = (url.host_str()?.trim_matches(['[', ']']).to_owned(), url.port_or_known_default()?);
    let found = tokio::task::spawn_blocking(move || (host, port).to_socket_addrs()).await.ok()?.ok()?;
    let found: Vec<SocketAddr> = found.collect();
    let before = known.map(|(.., address)| address).filter(|address| found.contains(address));
    let address = before.or(found.first().copied())?;
    shared.state().address = Some((origin, Instant::now(), address));
    Some(address)
}

enum Took {
    So(Duration),
    Lost,
    Unknown,
}

fn connect(address: SocketAddr) -> Took {
    let began = Instant::now();
    match TcpStream::connect_timeout(&address, LOST) {
        Ok(_) => Took::So(began.elapsed()),
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Took::Lost,
        Err(_) => Took::Unknown,
    }
}
