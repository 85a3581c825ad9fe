//! Hosts on loopback, as the driver sees them.

mod gossip;

use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::core::upgrade::Version;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{Swarm, SwarmEvent};
use libp2p::{Multiaddr, Transport as _, tcp, yamux};
use tokio::task::JoinSet;
use upswarm_protocol::ids::{DocHash, PayloadId};
use upswarm_protocol::wire::{BlockAnswer, BlockRequest, MAX_FRAME};

use super::address::device_of_multiaddr;
use super::noise::Noise;
use super::streams::{Held, News, Protocol};
use super::*;

/// Long enough for a loaded machine; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(seed: u8) -> HostConfig {
    HostConfig {
        key: [seed; 32],
        listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
        mdns: false,
        quic: false,
        max_connections: 16,
        agent: "upswarm/test".into(),
    }
}

/// A host and what has been heard from it.
struct Node {
    host: Host,
    events: mpsc::Receiver<HostEvent>,
    address: String,
}

impl Node {
    async fn start(seed: u8) -> Self {
        Self::with(config(seed)).await
    }

    async fn with(config: HostConfig) -> Self {
        let (host, mut events) = Host::start(config).await.unwrap();
        match events.recv().await {
            Some(HostEvent::Listening { addresses }) => {
                let address = addresses.first().map(|text| text.as_str().to_owned()).unwrap_or_default();
                assert_eq!(device_of_multiaddr(&address), Some(host.local()));
                Self { host, events, address }
            }
            other => panic!("expected Listening, got {other:?}"),
        }
    }

    fn id(&self) -> DeviceId {
        self.host.local()
    }

    async fn event(&mut self) -> HostEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event").expect("a running host")
    }

    /// The first event that `pick` takes; those before it are dropped.
    async fn until<T>(&mut self, mut pick: impl FnMut(HostEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.event().await) {
                return found;
            }
        }
    }

    async fn up(&mut self) -> (DeviceId, Option<Text<512>>) {
        self.until(|event| match event {
            HostEvent::PeerUp { peer, dialled } => Some((peer, dialled)),
            HostEvent::PeerDown { peer } => panic!("{peer:?} went down"),
            _ => None,
        })
        .await
    }

    async fn down(&mut self) -> DeviceId {
        self.until(|event| match event {
            HostEvent::PeerDown { peer } => Some(peer),
            _ => None,
        })
        .await
    }

    async fn frame(&mut self) -> Vec<u8> {
        self.until(|event| match event {
            HostEvent::Frame { bytes, .. } => Some(bytes),
            HostEvent::PeerDown { peer } => panic!("{peer:?} went down"),
            _ => None,
        })
        .await
    }

    async fn dial_failure(&mut self) -> String {
        self.until(|event| match event {
            HostEvent::DialFailed { reason, .. } => Some(reason),
            HostEvent::PeerUp { peer, .. } => panic!("{peer:?} is up"),
            _ => None,
        })
        .await
    }
}

async fn connect(a: &mut Node, b: &mut Node) {
    a.host.dial(b.address.clone()).await;
    let (peer, dialled) = a.up().await;
    assert_eq!((peer, dialled.as_deref()), (b.id(), Some(b.address.as_str())));
    assert_eq!(b.up().await, (a.id(), None));
}

async fn pair() -> (Node, Node) {
    let (mut a, mut b) = (Node::start(1).await, Node::start(2).await);
    connect(&mut a, &mut b).await;
    (a, b)
}

fn numbered(from: u32, count: u32) -> impl Iterator<Item = Vec<u8>> {
    (from..from + count).map(|number| number.to_le_bytes().to_vec())
}

#[tokio::test]
async fn frames_arrive_in_order_both_ways() {
    let (mut a, mut b) = pair().await;
    for (ours, theirs) in numbered(0, 100).zip(numbered(1000, 100)) {
        a.host.send(b.id(), ours).await;
        b.host.send(a.id(), theirs).await;
    }
    a.host.send(b.id(), vec![7; MAX_FRAME]).await;
    for (ours, theirs) in numbered(0, 100).zip(numbered(1000, 100)) {
        assert_eq!(b.frame().await, ours);
        assert_eq!(a.frame().await, theirs);
    }
    assert_eq!(b.frame().await, vec![7; MAX_FRAME]);
}

#[tokio::test]
async fn quic_carries_frames_and_blocks() {
    let quic = |seed| HostConfig { listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".into()], quic: true, ..config(seed) };
    let (mut a, mut b) = (Node::with(quic(1)).await, Node::with(quic(2)).await);
    connect(&mut a, &mut b).await;
    a.host.send(b.id(), vec![1, 2, 3]).await;
    assert_eq!(b.frame().await, [1, 2, 3]);
    let (asker, target) = (a.host.clone(), b.id());
    let fetch = tokio::spawn(async move { asker.fetch_block(target, BlockWhat::Root(1), 1 << 20).await });
    let serve = b
        .until(|event| match event {
            HostEvent::BlockRequested { serve, .. } => Some(serve),
            _ => None,
        })
        .await;
    b.host.answer(serve, Ok(vec![9; 1 << 20].into())).await;
    assert_eq!(fetch.await.unwrap(), Ok(vec![9; 1 << 20]));
}

#[tokio::test]
async fn dialling_at_once_makes_one_peer_and_loses_no_frame() {
    for round in 0..12u8 {
        let (mut a, mut b) = (Node::start(10 + round).await, Node::start(100 + round).await);
        // With and without the suffix: with it, libp2p itself refuses a second dial to a known peer.
        let bare = |address: &str| address.split("/p2p/").next().unwrap_or_default().to_owned();
        let (to_b, to_a) =
            if round % 2 == 0 { (bare(&b.address), bare(&a.address)) } else { (b.address.clone(), a.address.clone()) };
        tokio::join!(a.host.dial(to_b.clone()), b.host.dial(to_a.clone()));
        let (a_id, b_id) = (a.id(), b.id());
        let talk = async |node: &mut Node, other: DeviceId, address: &str, first: u32| {
            let (peer, mut dialled) = node.up().await;
            assert_eq!(peer, other, "round {round}");
            for frame in numbered(first, 50) {
                node.host.send(other, frame).await;
            }
            let mut frames = Vec::new();
            let mut failed = None;
            // Fifty frames, and the fate of our own dial.
            while frames.len() < 50 || (dialled.is_none() && failed.is_none()) {
                match node.event().await {
                    HostEvent::Frame { bytes, .. } => frames.push(bytes),
                    HostEvent::DialFailed { address, .. } => failed = Some(address),
                    HostEvent::Listening { .. } => {}
                    other => panic!("round {round}: {other:?}"),
                }
            }
            assert!(dialled.is_none() || failed.is_none(), "round {round}: a dial ended twice");
            assert_eq!(dialled.take().or(failed).unwrap().as_str(), address);
            frames
        };
        let (at_a, at_b) = tokio::join!(talk(&mut a, b_id, &to_b, 0), talk(&mut b, a_id, &to_a, 1000));
        assert!(at_a.into_iter().eq(numbered(1000, 50)), "round {round}");
        assert!(at_b.into_iter().eq(numbered(0, 50)), "round {round}");
    }
}

#[tokio::test]
async fn last_frames_arrive_before_a_disconnect() {
    let (mut a, mut b) = pair().await;
    for frame in numbered(0, 100) {
        a.host.send(b.id(), frame).await;
    }
    a.host.disconnect(b.id(), "a test".into()).await;
    for frame in numbered(0, 100) {
        assert_eq!(b.frame().await, frame);
    }
    assert_eq!(b.down().await, a.id());
    assert_eq!(a.down().await, b.id());
    connect(&mut b, &mut a).await;
    a.host.send(b.id(), vec![1]).await;
    a.host.stop().await;
    assert_eq!(b.frame().await, [1]);
    assert_eq!(b.down().await, a.id());
    assert!(tokio::time::timeout(PATIENCE, async { while a.events.recv().await.is_some() {} }).await.is_ok());
}

#[tokio::test]
async fn a_peer_that_vanishes_goes_down_once() {
    let (mut a, b) = pair().await;
    let id = b.id();
    drop(b);
    assert_eq!(a.down().await, id);
    a.host.dial(format!("/ip4/127.0.0.1/tcp/1/p2p/{}", peer_id_text(id))).await;
    match a.event().await {
        HostEvent::DialFailed { address, .. } => assert!(address.contains("/tcp/1/")),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        a.host.fetch_block(id, BlockWhat::Root(1), 9).await,
        Err(FetchError::Unreachable("not connected".into()))
    );
}

#[tokio::test]
async fn dials_that_cannot_succeed_say_why() {
    let (mut a, b) = (Node::start(1).await, Node::start(2).await);
    let own = a.address.clone();
    a.host.dial(own).await;
    assert!(a.dial_failure().await.contains("itself"));
    let wrong = b.address.replace(&peer_id_text(b.id()), &peer_id_text(DeviceId([9; 32])));
    a.host.dial(wrong).await;
    let reason = a.dial_failure().await;
    assert!(reason.contains(&peer_id_text(b.id())), "{reason}");
    a.host.dial("not an address".into()).await;
    assert!(a.dial_failure().await.contains("not a multiaddr"));
}

#[tokio::test]
async fn a_second_dial_to_a_peer_fails_and_changes_nothing() {
    let (mut a, mut b) = pair().await;
    for address in [b.address.clone(), b.address.split("/p2p/").next().unwrap().to_owned()] {
        a.host.dial(address).await;
        assert!(a.dial_failure().await.contains("already connected"));
    }
    a.host.send(b.id(), vec![5]).await;
    assert_eq!(b.frame().await, [5]);
}

#[tokio::test]
async fn listening_in_vain_says_what_to_do() {
    let a = Node::start(1).await;
    let taken = a.address.split("/p2p/").next().unwrap().to_owned();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken_udp = format!("/ip4/127.0.0.1/udp/{}/quic-v1", socket.local_addr().unwrap().port());
    let error = Host::start(HostConfig { listen: vec![taken_udp], quic: true, ..config(2) }).await.err();
    assert!(error.unwrap().to_string().contains("the port is in use by another program"));
    for (listen, expected) in [
        (taken, "the port is in use by another program"),
        ("nonsense".into(), "write /ip4/0.0.0.0/tcp/<port>"),
        ("/ip4/127.0.0.1/udp/0/quic-v1".into(), "with QUIC on"),
        ("/ip4/203.0.113.7/tcp/0".into(), "an address of this machine"),
    ] {
        let error = Host::start(HostConfig { listen: vec![listen.clone()], ..config(2) }).await.err();
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains(expected) && text.contains(&listen), "{listen}: {text}");
    }
}

/// Answers requests for chunk `n` with bytes that tell `n`, until it has answered `count`.
async fn serve_chunks(node: &mut Node, count: usize, len: usize) -> u64 {
    let (mut asked, mut over, mut bytes) = (0, 0, 0);
    while over < count {
        match node.event().await {
            HostEvent::BlockRequested { serve, what: BlockWhat::Chunks { first, .. }, .. } => {
                asked += 1;
                assert!(asked - over <= block::MAX_SERVING, "{asked} asked, {over} answered");
                node.host.answer(serve, Ok(content(first, len).into())).await;
            }
            HostEvent::Served { bytes: sent, .. } => {
                over += 1;
                bytes += sent;
            }
            other => panic!("{other:?}"),
        }
    }
    bytes
}

fn content(number: u32, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn chunk(first: u32) -> BlockWhat {
    BlockWhat::Chunks { payload: PayloadId([3; 32]), first, count: 1 }
}

#[tokio::test]
async fn two_hundred_blocks_come_pipelined_and_whole() {
    const LEN: usize = 1 << 20;
    const COUNT: u32 = 200;
    let (a, mut b) = pair().await;
    let (host, from) = (a.host.clone(), b.id());
    let asking = tokio::spawn(async move {
        let mut under_way = JoinSet::new();
        let mut good = 0;
        for number in 0..COUNT {
            if under_way.len() == 12 {
                good += usize::from(under_way.join_next().await.unwrap().unwrap());
            }
            let host = host.clone();
            under_way.spawn(async move {
                host.fetch_block(from, chunk(number), LEN).await.unwrap() == content(number, LEN)
            });
        }
        good + under_way.join_all().await.into_iter().filter(|good| *good).count()
    });
    assert_eq!(serve_chunks(&mut b, COUNT as usize, LEN).await, u64::from(COUNT) << 20);
    assert_eq!(asking.await.unwrap(), COUNT as usize);
}

#[tokio::test]
async fn statuses_and_limits_reach_the_asker() {
    let (a, mut b) = pair().await;
    let (host, from) = (a.host.clone(), b.id());
    let answering = tokio::spawn(async move {
        loop {
            match b.event().await {
                HostEvent::BlockRequested { serve, what: BlockWhat::Root(version), .. } => {
                    let answer = match version {
                        1 => Err(BlockStatus::Busy),
                        2 => Err(BlockStatus::NotHeld),
                        _ => Ok(vec![0; version as usize].into()),
                    };
                    b.host.answer(serve, answer).await;
                }
                HostEvent::BlockRequested { what: BlockWhat::Doc(_), .. } => return b,
                _ => {}
            }
        }
    });
    let ask = |version| host.fetch_block(from, BlockWhat::Root(version), 100);
    assert_eq!(ask(1).await, Err(FetchError::Status(BlockStatus::Busy)));
    assert_eq!(ask(2).await, Err(FetchError::Status(BlockStatus::NotHeld)));
    assert_eq!(ask(100).await, Ok(vec![0; 100]));
    assert!(matches!(ask(101).await, Err(FetchError::Wrong(_))));
    // The stream is given up after that; the next request opens another.
    assert_eq!(ask(99).await, Ok(vec![0; 99]));
    // A peer that is gone before it answers.
    let (result, gone) = tokio::join!(host.fetch_block(from, BlockWhat::Doc(DocHash([1; 32])), 9), async {
        drop(answering.await.unwrap());
    });
    assert!(matches!(result, Err(FetchError::Unreachable(_))), "{result:?} {gone:?}");
}

#[tokio::test]
async fn requests_of_a_vanished_peer_are_told_as_over() {
    let (a, mut b) = pair().await;
    let (host, from) = (a.host.clone(), b.id());
    let asking: Vec<_> = (0..4)
        .map(|number| {
            let host = host.clone();
            tokio::spawn(async move { host.fetch_block(from, chunk(number), 1 << 20).await })
        })
        .collect();
    let mut open = Vec::new();
    while open.len() < asking.len() {
        if let HostEvent::BlockRequested { serve, .. } = b.event().await {
            open.push(serve);
        }
    }
    asking.iter().for_each(|task| task.abort());
    drop((a, host));
    for task in asking {
        assert!(task.await.is_err());
    }
    while !open.is_empty() {
        if let HostEvent::Served { serve, bytes: 0 } = b.event().await {
            open.retain(|other| *other != serve);
        }
    }
    b.host.answer(1, Ok(Bytes::new())).await;
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_left() {
    let (a, mut b) = pair().await;
    // A's driver takes no events: its channel fills, then its streams, then B's queue.
    let mut sent = 0;
    loop {
        match b.events.try_recv() {
            Ok(HostEvent::PeerDown { peer }) => break assert_eq!(peer, a.id()),
            _ if sent < 4096 => {
                b.host.send(a.id(), vec![0; MAX_FRAME]).await;
                sent += 1;
            }
            _ => break assert_eq!(b.down().await, a.id()),
        }
    }
    // A still takes commands, more than its channel holds.
    for _ in 0..500 {
        tokio::time::timeout(PATIENCE, a.host.send(b.id(), vec![1])).await.unwrap();
    }
}

/// A peer that speaks our protocols in its own way.
struct Rogue {
    swarm: Swarm<streams::Behaviour>,
    connection: libp2p::swarm::ConnectionId,
}

impl Rogue {
    async fn dial(address: &str) -> Self {
        let mut rogue = Self::listen().await.0;
        rogue.connect(address).await;
        rogue
    }

    async fn listen() -> (Self, String) {
        let key = libp2p::identity::Keypair::ed25519_from_bytes([66; 32]).unwrap();
        let transport = tcp::tokio::Transport::new(tcp::Config::default())
            .upgrade(Version::V1)
            .authenticate(Noise::new(&[66; 32]).unwrap())
            .multiplex(yamux::Config::default())
            .boxed();
        let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
        let local = key.public().to_peer_id();
        let mut swarm = Swarm::new(transport, streams::Behaviour::default(), local, config);
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                let connection = libp2p::swarm::ConnectionId::new_unchecked(usize::MAX);
                return (Self { swarm, connection }, address.to_string());
            }
        }
    }

    /// A connection of its own making, on which it opens streams from then on.
    async fn connect(&mut self, address: &str) {
        let dial = DialOpts::unknown_peer_id().address(address.parse::<Multiaddr>().unwrap()).build();
        self.connection = dial.connection_id();
        self.swarm.dial(dial).unwrap();
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { connection_id, .. } if connection_id == self.connection => return,
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }

    /// A stream that the other side opened.
    async fn inbound(&mut self, wanted: Protocol) -> Held {
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour((_, News::Inbound(protocol, held))) if protocol == wanted => return held,
                _ => {}
            }
        }
    }

    async fn open(&mut self, protocol: Protocol) -> Held {
        let peer = *self.swarm.connected_peers().next().unwrap();
        self.swarm.behaviour_mut().open(peer, self.connection, protocol);
        self.opened().await
    }

    async fn opened(&mut self) -> Held {
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour((_, News::Opened(_, held))) => return held,
                SwarmEvent::Behaviour((_, News::OpenFailed(_, reason))) => panic!("{reason}"),
                _ => {}
            }
        }
    }

    /// A control stream that was said yes to.
    async fn control(&mut self) -> Held {
        let (held, answer) = self.ask().await;
        assert_eq!(answer, 1);
        held
    }

    /// A control stream and what was said to it.
    async fn ask(&mut self) -> (Held, u8) {
        let mut held = self.open(Protocol::Control).await;
        let mut answer = [9];
        self.drive(held.stream.read_exact(&mut answer)).await.unwrap();
        (held, answer[0])
    }

    /// Runs the connection while something on it goes on.
    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = self.swarm.select_next_some() => {}
            }
        }
    }

    fn id(&self) -> DeviceId {
        super::address::device(self.swarm.local_peer_id()).unwrap()
    }
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_the_connection() {
    let mut node = Node::start(1).await;
    let mut rogue = Rogue::dial(&node.address).await;
    let mut held = rogue.control().await;
    assert_eq!(node.up().await.0, rogue.id());
    rogue.drive(held.stream.write_all(&(MAX_FRAME as u32 + 1).to_le_bytes())).await.unwrap();
    rogue.drive(held.stream.flush()).await.unwrap();
    assert_eq!(rogue.drive(node.down()).await, rogue.id());
    let mut rest = Vec::new();
    // An end or a reset, but no more.
    let _ = rogue.drive(held.stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_restarted_peer_takes_the_place_of_its_former_self() {
    let mut node = Node::start(1).await;
    let mut old = Rogue::dial(&node.address).await;
    let _old_stream = old.control().await;
    let id = node.up().await.0;
    // The old one's connection stays open, as after a power cut.
    let mut new = Rogue::dial(&node.address).await;
    let mut stream = new.control().await;
    assert_eq!(node.down().await, id);
    assert_eq!(node.up().await.0, id);
    new.drive(stream.stream.write_all(&[1, 0, 0, 0, 42])).await.unwrap();
    new.drive(stream.stream.flush()).await.unwrap();
    assert_eq!(new.drive(node.frame()).await, [42]);
}

#[tokio::test]
async fn of_two_that_ask_each_other_the_greater_key_is_said_yes_to() {
    let (mut seen_yes, mut seen_no) = (false, false);
    for seed in 1..=64 {
        if seen_yes && seen_no {
            return;
        }
        let mut node = Node::start(seed).await;
        let (mut rogue, address) = Rogue::listen().await;
        let gives_way = rogue.id() > node.id();
        if if gives_way { seen_yes } else { seen_no } {
            continue;
        }
        node.host.dial(address.clone()).await;
        // The node asks, and gets no answer yet.
        let mut asked = rogue.inbound(Protocol::Control).await;
        rogue.connect(&node.address).await;
        let (mut asking, answer) = rogue.ask().await;
        let used = if gives_way {
            assert_eq!(answer, 1);
            seen_yes = true;
            &mut asking.stream
        } else {
            assert_eq!(answer, 0);
            seen_no = true;
            rogue.drive(asked.stream.write_all(&[1])).await.unwrap();
            &mut asked.stream
        };
        rogue.drive(used.write_all(&[1, 0, 0, 0, 42])).await.unwrap();
        rogue.drive(used.flush()).await.unwrap();
        let (peer, dialled) = rogue.drive(node.up()).await;
        assert_eq!((peer, dialled.as_deref()), (rogue.id(), Some(address.as_str())));
        assert_eq!(rogue.drive(node.frame()).await, [42]);
    }
    panic!("64 keys on one side of one key");
}

#[tokio::test]
async fn streams_beyond_the_bound_are_reset() {
    let mut node = Node::start(1).await;
    let mut rogue = Rogue::dial(&node.address).await;
    let _control = rogue.control().await;
    node.up().await;
    let mut held = Vec::new();
    for number in 0..6u32 {
        let mut stream = rogue.open(Protocol::Block).await;
        let request = BlockRequest { request: number, what: BlockWhat::Root(1) }.to_bytes();
        // A reset stream may refuse even this.
        let _ = rogue.drive(stream.stream.write_all(&request)).await;
        let _ = rogue.drive(stream.stream.flush()).await;
        held.push(stream);
    }
    let mut reset = 0;
    let mut answered = 0;
    for stream in &mut held {
        let mut head = [0; BlockAnswer::LEN];
        let answer = rogue.drive(async {
            let read = stream.stream.read_exact(&mut head);
            tokio::pin!(read);
            loop {
                tokio::select! {
                    read = &mut read => return read,
                    event = node.event() => if let HostEvent::BlockRequested { serve, .. } = event {
                        node.host.answer(serve, Err(BlockStatus::NotHeld)).await;
                    },
                }
            }
        });
        match answer.await {
            Ok(()) => answered += 1,
            Err(_) => reset += 1,
        }
    }
    assert_eq!((answered, reset), (2, 4));
}

#[tokio::test]
async fn a_peer_that_stops_inside_an_answer_is_unreachable() {
    let mut node = Node::start(1).await;
    let mut rogue = Rogue::dial(&node.address).await;
    let _control = rogue.control().await;
    let id = node.up().await.0;
    let asker = node.host.clone();
    let fetch = tokio::spawn(async move { asker.fetch_block(id, BlockWhat::Root(1), 1 << 20).await });
    let mut inbound = rogue.inbound(Protocol::Block).await;
    let mut request = [0; BlockRequest::LEN];
    rogue.drive(inbound.stream.read_exact(&mut request)).await.unwrap();
    let request = BlockRequest::parse(&request).unwrap().request;
    let head = BlockAnswer { request, status: BlockStatus::Ok, len: 1 << 20 }.to_bytes();
    rogue.drive(inbound.stream.write_all(&head)).await.unwrap();
    rogue.drive(inbound.stream.write_all(&[1; 1000])).await.unwrap();
    rogue.drive(inbound.stream.flush()).await.unwrap();
    drop(inbound);
    let result = rogue.drive(fetch).await.unwrap();
    assert!(matches!(result, Err(FetchError::Unreachable(_))), "{result:?}");
}
