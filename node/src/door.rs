//! Doors: listeners with their limits. Each has a room of its own, so that whoever fills one leaves the others alone. Owns who
//! may come in and how long they may stay; never looks at what is asked.
//!
//! A newcomer is always let in. When the room is full, or its address has taken its share of it, the connection that has been
//! still for longest makes place: of that address, or of the one that holds most. So strangers who hold connections open shut
//! out nobody but each other. A peer that takes its answer more slowly than [`SLOWEST`] is cut.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use tokio::io::{self, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::sys::{self, LocalListener};

/// Time for a handshake, and for the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(15);
/// Time for the body of a request.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that a peer must take within the time, counting only time in which it is waited for: 2 KiB/s.
const SLOWEST: (u64, Duration) = (64 << 10, Duration::from_secs(30));
/// When accepting fails: out of descriptors, most likely.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// What listens.
pub(crate) enum Listener {
    /// For everyone.
    Tcp(TcpListener),
    /// For whoever knows this coordinator's key.
    Tls(TcpListener, TlsAcceptor),
    /// For this user of this machine.
    Local(LocalListener),
}

/// Where a request came from; each carries it among its extensions.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The door's name.
    door: &'static str,
    /// Of who came over the network.
    address: Option<IpAddr>,
    /// The user at the other end of a socket of this machine, where the system says it.
    user: Option<u32>,
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.door)?;
        match (self.address, self.user) {
            (Some(address), _) => write!(f, ", {address}"),
            (None, Some(user)) => write!(f, ", user {user} of this machine"),
            (None, None) => Ok(()),
        }
    }
}

/// A listener and its limits.
pub(crate) struct Door {
    /// For logs.
    pub(crate) name: &'static str,
    pub(crate) listener: Listener,
    /// Connections at one time.
    pub(crate) connections: usize,
    /// Of them, from one address (IPv4), or one /64 (IPv6).
    pub(crate) of_one_address: usize,
    /// Who may come in; empty for everyone.
    pub(crate) allow: Vec<IpNet>,
}

impl Door {
    /// Serves until `stop`; then connections that are still open are cut.
    pub(crate) async fn serve(self, routes: Router, stop: CancellationToken) {
        let room = Arc::new(Room::new(self.connections, self.of_one_address));
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.accept() => accepted,
            };
            let (stream, caller) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(door = self.name, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            while tasks.try_join_next().is_some() {}
            let address = caller.address;
            if !self.lets_in(address) {
                tracing::debug!(door = self.name, ?address, "this address may not come in");
                continue;
            }
            let place = Room::enter(&room, address);
            let service = Named { routes: TowerToHyperService::new(routes.clone()), caller };
            let tls = match &self.listener {
                Listener::Tls(_, acceptor) => Some(acceptor.clone()),
                _ => None,
            };
            tasks.spawn(async move {
                let leave = place.leave.clone();
                let watched = Watched::new(stream, place);
                let served = async {
                    match tls {
                        None => converse(watched, service).await,
                        Some(acceptor) => match tokio::time::timeout(HEAD_PATIENCE, acceptor.accept(watched)).await {
                            Ok(Ok(stream)) => converse(stream, service).await,
                            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                            Err(_) => tracing::debug!("a TLS handshake took too long"),
                        },
                    }
                };
                tokio::select! {
                    () = leave.cancelled() => {}
                    () = served => {}
                }
            });
        }
    }

    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Caller)> {
        let named = |address, user| Caller { door: self.name, address, user };
        match &self.listener {
            Listener::Tcp(listener) | Listener::Tls(listener, _) => {
                let (stream, address) = listener.accept().await?;
                Ok((Box::new(stream), named(Some(address.ip().to_canonical()), None)))
            }
            Listener::Local(listener) => {
                let stream = listener.accept().await?.0;
                let user = sys::local_user(&stream).ok();
                Ok((Box::new(stream), named(None, user)))
            }
        }
    }

    fn lets_in(&self, address: Option<IpAddr>) -> bool {
        self.allow.is_empty()
            || address.is_none_or(|address| {
                address.is_loopback() || self.allow.iter().any(|network| network.contains(&address))
            })
    }
}

/// A request with its whole body, of up to `limit` bytes: a peer that sends it too slowly holds nothing that others need. Else, how to
/// refuse it.
pub(crate) async fn whole(request: Request<Body>, limit: usize) -> Result<Request<Body>, (StatusCode, String)> {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(BODY_PATIENCE, axum::body::to_bytes(body, limit)).await {
        Ok(Ok(body)) => Ok(Request::from_parts(head, Body::from(body))),
        Ok(Err(error)) => Err((StatusCode::PAYLOAD_TOO_LARGE, error.to_string())),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the request did not come within its time".to_owned())),
    }
}

/// Routes that know who asks.
struct Named {
    routes: TowerToHyperService<Router>,
    caller: Caller,
}

impl Service<Request<Incoming>> for Named {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.caller.clone());
        self.routes.call(request)
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, service: Named) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Who is in.
struct Room {
    connections: usize,
    of_one_address: usize,
    start: Instant,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    next: u64,
    places: BTreeMap<u64, Held>,
    by_address: BTreeMap<Option<IpAddr>, usize>,
}

struct Held {
    address: Option<IpAddr>,
    /// Milliseconds after the room's start at which bytes last moved.
    moved: Arc<AtomicU64>,
    leave: CancellationToken,
}

/// A connection's place in a room, until it is dropped.
struct Place {
    room: Arc<Room>,
    name: u64,
    moved: Arc<AtomicU64>,
    leave: CancellationToken,
}

impl Room {
    fn new(connections: usize, of_one_address: usize) -> Self {
        Self { connections, of_one_address, start: Instant::now(), inside: Mutex::default() }
    }

    /// Lets a connection in; another makes place where that is needed.
    fn enter(room: &Arc<Self>, address: Option<IpAddr>) -> Place {
        let address = address.map(share);
        let now = room.now();
        let mut inside = room.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let crowded = address.is_some() && inside.by_address.get(&address).is_some_and(|n| *n >= room.of_one_address);
        if crowded {
            inside.make_place(address);
        } else if inside.places.len() >= room.connections {
            let most = inside.by_address.iter().max_by_key(|(_, places)| **places).map(|(address, _)| *address);
            inside.make_place(most.unwrap_or_default());
        }
        let name = inside.next;
        inside.next += 1;
        let (moved, leave) = (Arc::new(AtomicU64::new(now)), CancellationToken::new());
        inside.places.insert(name, Held { address, moved: moved.clone(), leave: leave.clone() });
        *inside.by_address.entry(address).or_default() += 1;
        Place { room: room.clone(), name, moved, leave }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Inside {
    fn make_place(&mut self, address: Option<IpAddr>) {
        let of_it = self.places.iter().filter(|(_, held)| held.address == address);
        let stillest = of_it.min_by_key(|(name, held)| (held.moved.load(Ordering::Relaxed), **name));
        let Some(name) = stillest.map(|(name, _)| *name) else { return };
        if let Some(held) = self.forget(name) {
            held.leave.cancel();
        }
    }

    fn forget(&mut self, name: u64) -> Option<Held> {
        let held = self.places.remove(&name)?;
        if let Some(places) = self.by_address.get_mut(&held.address) {
            *places -= 1;
            if *places == 0 {
                self.by_address.remove(&held.address);
            }
        }
        Some(held)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.inside.lock().unwrap_or_else(PoisonError::into_inner).forget(self.name);
    }
}

/// What counts as one address: a machine chooses freely within its IPv6 network.
fn share(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[8..].fill(0);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        v4 => v4,
    }
}

/// A connection that notes when bytes move, and fails when its peer takes them too slowly.
struct Watched {
    stream: Box<dyn Stream>,
    place: Place,
    /// Since when the peer is waited for.
    waits_since: Option<Instant>,
    /// Time that the peer was waited for, and bytes that it took, since it last took enough.
    waited: Duration,
    taken: u64,
    timer: Pin<Box<Sleep>>,
}

impl Watched {
    fn new(stream: Box<dyn Stream>, place: Place) -> Self {
        let timer = Box::pin(tokio::time::sleep(SLOWEST.1));
        Self { stream, place, waits_since: None, waited: Duration::ZERO, taken: 0, timer }
    }

    fn moved(&self) {
        self.place.moved.store(self.place.room.now(), Ordering::Relaxed);
    }

    fn wrote(&mut self, bytes: usize) {
        self.moved();
        if let Some(since) = self.waits_since.take() {
            self.waited += since.elapsed();
        }
        self.taken += bytes as u64;
        if self.taken >= SLOWEST.0 {
            (self.taken, self.waited) = (0, Duration::ZERO);
        }
    }

    /// The peer has no room: its patience runs.
    fn waits(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.waits_since.is_none() {
            self.waits_since = Some(Instant::now());
            let left = SLOWEST.1.saturating_sub(self.waited);
            self.timer.as_mut().reset(Instant::now() + left);
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes its answer too slowly")))
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.moved();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Pending => self.waits(cx),
            Poll::Ready(Ok(wrote)) => {
                self.wrote(wrote);
                Poll::Ready(Ok(wrote))
            }
            failed => failed,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(cx, bytes) {
            Poll::Pending => self.waits(cx),
            Poll::Ready(Ok(wrote)) => {
                self.wrote(wrote);
                Poll::Ready(Ok(wrote))
            }
            failed => failed,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn count(room: &Arc<Room>) -> usize {
        room.inside.lock().unwrap().places.len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_room_loses_the_stillest_of_whoever_holds_most_and_lets_the_newcomer_in() {
        let room = Arc::new(Room::new(4, 3));
        let crowd: Vec<Place> = (0..3).map(|_| Room::enter(&room, ip("192.0.2.1"))).collect();
        let other = Room::enter(&room, ip("192.0.2.2"));
        tokio::time::advance(Duration::from_secs(1)).await;
        crowd[0].moved.store(room.now(), Ordering::Relaxed);
        let newcomer = Room::enter(&room, ip("192.0.2.3"));
        assert!(crowd[1].leave.is_cancelled() && !crowd[0].leave.is_cancelled() && !crowd[2].leave.is_cancelled());
        assert!(!other.leave.is_cancelled() && !newcomer.leave.is_cancelled());
        assert_eq!(count(&room), 4);
        drop(crowd);
        assert_eq!(count(&room), 2);
        drop((other, newcomer));
        assert_eq!(room.inside.lock().unwrap().by_address.len(), 0);
    }

    #[tokio::test]
    async fn one_address_has_its_share_however_it_is_written() {
        let room = Arc::new(Room::new(100, 2));
        let places: Vec<Place> =
            ["2001:db8::1", "2001:db8::2:3", "2001:db8::4"].map(|text| Room::enter(&room, ip(text))).into();
        assert!(places[0].leave.is_cancelled());
        assert_eq!(count(&room), 2);
        let elsewhere = Room::enter(&room, ip("2001:db8:0:1::1"));
        assert!(places[1..].iter().all(|place| !place.leave.is_cancelled()) && !elsewhere.leave.is_cancelled());
        // Processes of this machine share no address: the room as a whole bounds them.
        let local: Vec<Place> = (0..50).map(|_| Room::enter(&room, None)).collect();
        assert!(local.iter().all(|place| !place.leave.is_cancelled()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_too_little_is_cut_and_a_slow_one_is_not() {
        let room = Arc::new(Room::new(4, 4));
        for (every, bytes, survives) in [(5, 1, false), (5, 16 << 10, true), (40, 128 << 10, false)] {
            let (ours, mut theirs) = tokio::io::duplex(1 << 10);
            let mut watched = Watched::new(Box::new(ours), Room::enter(&room, ip("192.0.2.1")));
            let write = tokio::spawn(async move { watched.write_all(&vec![7; 512 << 10]).await });
            let mut got = vec![0; bytes];
            while !write.is_finished() {
                tokio::time::sleep(Duration::from_secs(every)).await;
                let _ = theirs.read_exact(&mut got).await;
            }
            let ended = write.await.unwrap();
            assert_eq!(ended.is_ok(), survives, "{bytes} bytes every {every} s: {ended:?}");
        }
        assert_eq!(count(&room), 0, "who is cut leaves the room");
    }

    #[tokio::test]
    async fn only_allowed_networks_come_in() {
        let listener = Listener::Tcp(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let allow = vec!["10.1.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let door = Door { name: "origin", listener, connections: 1, of_one_address: 1, allow };
        for (address, may) in [
            ("10.1.2.3", true),
            ("10.2.0.1", false),
            ("2001:db8::7", true),
            ("2001:db9::7", false),
            ("127.0.0.1", true),
        ] {
            assert_eq!(door.lets_in(ip(address)), may, "{address}");
        }
    }
}
