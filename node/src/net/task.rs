//! The task that owns the swarm.
//!
//! **Which of two connections between a pair of machines is used.** Only a connection's dialler opens a control stream on
//! it, and only while it has no other with that peer, standing or asked for. The acceptor says yes, unless
//! * a stream that it opened itself has come to stand a moment ago: the peer has said yes to that one after asking; or
//! * it is asking too, and its key is the greater one: the other side, by the same rule, says yes and drops its own.
//!
//! An inbound control stream beside a standing one means otherwise that the peer has lost that one (it restarted, or its
//! address has changed): the new one takes its place.

mod commands;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::gossipsub::{self, MessageAcceptance, MessageId, TopicHash};
use libp2p::swarm::{ConnectionId, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, mdns};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::DeviceId;
use upswarm_protocol::wire::{BlockStatus, MAX_GOSSIP, Topic};

use super::block::{self, Job};
use super::control::{self, Outgoing, Side};
use super::events::{Answer, StreamEvent};
use super::streams::{Held, News, Protocol};
use super::swarm::{self as assembly, Behaviour, BehaviourEvent};
use super::trouble::{dial_error, words};
use super::{COMMANDS, Command, HostConfig, HostEvent, address};

/// News of the streams' tasks. Each holds a frame at most.
const FROM_TASKS: usize = 32;
/// Events that wait here for room in the driver's channel; at this many, nothing but commands is read.
const OUTBOX: usize = 64;
/// Gossip messages that wait for a verdict; the oldest is dropped (libp2p forgets them after a few seconds anyway).
const MAX_UNJUDGED: usize = 1024;
/// Gossip of one connection that may wait for its control stream.
const MAX_EARLY: usize = 16;
/// Two control streams that were asked for from both sides at once have crossed within this.
const CROSSING: Duration = Duration::from_secs(2);
/// A connection without a control stream is closed after this.
const CONTROL: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_secs(5);
/// Time for listeners to say where they listen.
const LISTEN: Duration = Duration::from_secs(5);
/// Time for the last frames when the host stops.
const STOP: Duration = Duration::from_secs(2);

/// An established connection.
struct Connection {
    peer: PeerId,
    device: DeviceId,
    /// Whether this side dialled it.
    outbound: bool,
    /// This side's address, as far as it is known.
    local: Option<IpAddr>,
    /// The other side's.
    remote: Option<IpAddr>,
    /// The address that [`super::Host::dial`] was given, until the dial's end is told.
    dialled: Option<Text<512>>,
    /// When it was made, or when its control stream was given up.
    since: Instant,
    /// Block streams that came before the control stream stood: the acceptor's can overtake its yes.
    early: Vec<Held>,
    /// Gossip that did, at most [`MAX_EARLY`] messages: dropped, it would count as seen.
    early_gossip: Vec<(MessageId, gossipsub::Message)>,
}

/// A peer whose control stream stands.
struct Peer {
    connection: ConnectionId,
    since: Instant,
    frames: Outgoing,
    blocks: Blocks,
}

/// The stream on which we ask a peer for blocks.
enum Blocks {
    Closed,
    Opening(Vec<Job>),
    Open(mpsc::Sender<Job>),
}

/// A control stream that we have asked a peer for.
struct Asking {
    connection: ConnectionId,
    /// There once the stream is opened.
    frames: Option<Outgoing>,
}

/// A block request that the driver has not answered.
struct Unanswered {
    stream: u64,
    request: u32,
    answers: mpsc::Sender<Answer>,
}

pub(super) struct Task {
    swarm: Swarm<Behaviour>,
    local: DeviceId,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<HostEvent>,
    outbox: VecDeque<HostEvent>,
    from_tasks: mpsc::Receiver<StreamEvent>,
    to_task: mpsc::Sender<StreamEvent>,
    /// Addresses of dials under way; at most `MAX_PENDING` of them by the connection limits.
    dials: HashMap<ConnectionId, Text<512>>,
    connections: HashMap<ConnectionId, Connection>,
    peers: HashMap<DeviceId, Peer>,
    asking: HashMap<DeviceId, Asking>,
    topics: HashMap<TopicHash, Topic>,
    unjudged: VecDeque<(u64, MessageId, PeerId)>,
    unanswered: HashMap<u64, Unanswered>,
    /// Names messages, requests and served streams; never reused.
    next_name: u64,
    stopping: Option<(Instant, Option<oneshot::Sender<()>>)>,
}

impl Task {
    /// A task whose listeners stand.
    pub(super) async fn listen(
        config: &HostConfig,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<HostEvent>,
    ) -> anyhow::Result<Self> {
        let mut swarm = assembly::build(config)?;
        let local = address::device(swarm.local_peer_id()).context("the device's key is not Ed25519")?;
        let mut silent: HashMap<ListenerId, Multiaddr> = HashMap::new();
        for text in &config.listen {
            let address: Multiaddr = text.parse().map_err(|error| {
                anyhow::anyhow!("`{text}` is no address to listen on ({error}); write /ip4/0.0.0.0/tcp/<port>")
            })?;
            match assembly::listen(&mut swarm, &address) {
                Ok(listener) => drop(silent.insert(listener, address)),
                // "Every interface" names both families, and some machines have one of them only.
                Err(error) if config.listen.len() > 1 && address::lacks_family(&address) => {
                    tracing::debug!("{error:#}");
                }
                Err(error) => return Err(error),
            }
        }
        if silent.is_empty() && !config.listen.is_empty() {
            anyhow::bail!("this machine can listen on none of {}", config.listen.join(", "));
        }
        let mut told: HashMap<ListenerId, Vec<Multiaddr>> = HashMap::new();
        let (to_task, from_tasks) = mpsc::channel(FROM_TASKS);
        let mut task = Self {
            swarm,
            local,
            commands,
            events,
            outbox: VecDeque::new(),
            from_tasks,
            to_task,
            dials: HashMap::new(),
            connections: HashMap::new(),
            peers: HashMap::new(),
            asking: HashMap::new(),
            topics: HashMap::new(),
            unjudged: VecDeque::new(),
            unanswered: HashMap::new(),
            next_name: 0,
            stopping: None,
        };
        // A listener on every interface tells of one after the other. Whoever hears where this host listens may write it into
        // a token, so all that the machine has must be heard first.
        let heard = tokio::time::timeout(LISTEN, async {
            while silent.iter().any(|(listener, address)| !address::told_of_all(address, told.get(listener))) {
                let event = task.swarm.select_next_some().await;
                match &event {
                    SwarmEvent::NewListenAddr { listener_id, address } => {
                        told.entry(*listener_id).or_default().push(address.clone());
                    }
                    SwarmEvent::ListenerClosed { listener_id, reason: Err(error), .. } => {
                        if let Some(address) = silent.remove(listener_id) {
                            anyhow::bail!("cannot listen on {address}: {error}");
                        }
                    }
                    _ => {}
                }
                task.on_swarm(event);
            }
            Ok(())
        });
        match heard.await {
            Ok(result) => result?,
            Err(_) => tracing::warn!("not every interface is listened on yet; more is told of as it comes"),
        }
        task.tell_addresses();
        Ok(task)
    }

    pub(super) fn local(&self) -> DeviceId {
        self.local
    }

    /// Runs until every [`super::Host`] or the events' receiver is dropped, or [`Command::Stop`].
    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // gossipsub 0.50 sets its heartbeat's timer anew without registering for it: unless something else has the swarm
        // polled, the next heartbeat, and what the last one has to send, never come.
        let mut pulse = tokio::time::interval(assembly::HEARTBEAT);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let events = self.events.clone();
        loop {
            let stop_at = self.stopping.as_ref().map(|(at, _)| tokio::time::Instant::from_std(*at));
            if stop_at.is_some() {
                self.outbox.clear(); // Nobody listens any more.
                if self.connections.is_empty() {
                    break;
                }
            }
            let room = self.outbox.len() < OUTBOX;
            tokio::select! {
                // In every state: this is what keeps the driver from waiting for us while we wait for it.
                command = self.commands.recv(), if stop_at.is_none() => match command {
                    Some(command) => {
                        self.on_command(command);
                        self.on_more_commands();
                    }
                    None => self.stop(None),
                },
                permit = events.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        let mut room = Some(permit);
                        while let Some(permit) = room
                            && let Some(event) = self.outbox.pop_front()
                        {
                            permit.send(event);
                            room = events.try_reserve().ok();
                        }
                    }
                    Err(_) => self.stop(None),
                },
                event = self.swarm.select_next_some(), if room => self.on_swarm(event),
                Some(news) = self.from_tasks.recv(), if room => {
                    self.on_task(news);
                    while self.outbox.len() < OUTBOX && let Ok(news) = self.from_tasks.try_recv() {
                        self.on_task(news);
                    }
                }
                _ = pulse.tick(), if room => {}
                _ = tick.tick(), if self.connections.len() > self.peers.len() => self.close_unused(),
                () = tokio::time::sleep_until(stop_at.unwrap_or_else(tokio::time::Instant::now)), if stop_at.is_some() => {
                    break;
                }
            }
        }
        if let Some((_, Some(done))) = self.stopping {
            let _ = done.send(()); // Whoever asked may have left.
        }
    }

    /// What has come meanwhile: each look at the swarm goes through all its parts.
    fn on_more_commands(&mut self) {
        for _ in 0..COMMANDS {
            if self.stopping.is_some() {
                return;
            }
            let Ok(command) = self.commands.try_recv() else { return };
            self.on_command(command);
        }
    }

    fn stop(&mut self, done: Option<oneshot::Sender<()>>) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some((Instant::now() + STOP, done));
        self.asking.clear();
        let unused: Vec<ConnectionId> = self.connections.keys().copied().filter(|id| !self.is_used(*id)).collect();
        for id in unused {
            self.swarm.close_connection(id);
        }
        // Those in use close when their last frames have been read.
        for device in self.peers.keys().copied().collect::<Vec<_>>() {
            self.end_peer(device, "this host stops");
        }
    }

    fn name(&mut self) -> u64 {
        self.next_name += 1;
        self.next_name
    }

    // ---- peers ----------------------------------------------------------------------------------------------------

    fn peer_up(&mut self, id: ConnectionId, frames: Outgoing) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let device = connection.device;
        let mut dialled = connection.dialled.take();
        let peer = connection.peer;
        let early = std::mem::take(&mut connection.early);
        let mut gossip = std::mem::take(&mut connection.early_gossip);
        if let Some(asking) = self.asking.remove(&device)
            && asking.connection != id
        {
            // Both sides dialled, and the peer's connection won: our dial has reached the peer all the same.
            if let Some(other) = self.connections.get_mut(&asking.connection) {
                dialled = other.dialled.take();
                gossip.append(&mut other.early_gossip);
            }
            self.swarm.close_connection(asking.connection);
        }
        self.peers.insert(device, Peer { connection: id, since: Instant::now(), frames, blocks: Blocks::Closed });
        self.outbox.push_back(HostEvent::PeerUp { peer: device, dialled });
        for held in early {
            self.serve(id, held);
        }
        for (message, gossip) in gossip {
            self.on_gossip(peer, message, gossip);
        }
    }

    /// Tells the driver and lets the control stream write its last frames; its end closes the connection.
    fn end_peer(&mut self, device: DeviceId, reason: &str) {
        let Some(peer) = self.peers.remove(&device) else { return };
        tracing::debug!("{device:?} is left: {reason}");
        if let Some(connection) = self.connections.get_mut(&peer.connection) {
            connection.since = Instant::now();
        }
        if let Blocks::Opening(waiting) = peer.blocks {
            waiting.into_iter().for_each(|job| job.fail("the connection ended"));
        }
        self.outbox.push_back(HostEvent::PeerDown { peer: device });
    }

    fn is_used(&self, id: ConnectionId) -> bool {
        self.connections
            .get(&id)
            .and_then(|connection| self.peers.get(&connection.device))
            .is_some_and(|peer| peer.connection == id)
    }

    /// The end of an outbound connection's attempt to become the one in use.
    fn give_up(&mut self, id: ConnectionId, reason: &str) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (device, dialled) = (connection.device, connection.dialled.take());
        if self.asking.get(&device).is_some_and(|asking| asking.connection == id) {
            self.asking.remove(&device);
        }
        if let Some(address) = dialled {
            self.dial_failed(address, reason.to_owned());
        }
    }

    fn dial_failed(&mut self, address: Text<512>, reason: String) {
        self.outbox.push_back(HostEvent::DialFailed { address, reason });
    }

    fn serve(&mut self, id: ConnectionId, held: Held) {
        let stream = self.name();
        tokio::spawn(block::serve(held, id, stream, self.to_task.clone()));
    }

    fn close_unused(&mut self) {
        let unused: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(id, connection)| connection.since.elapsed() > CONTROL && !self.is_used(**id))
            .map(|(id, _)| *id)
            .collect();
        for id in unused {
            self.swarm.close_connection(id);
        }
    }

    // ---- the swarm ------------------------------------------------------------------------------------------------

    fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { connection_id, cause, .. } => {
                let reason = cause.map_or_else(|| "closed".to_owned(), |cause| words(&cause));
                self.give_up(connection_id, &reason);
                if self.is_used(connection_id)
                    && let Some(device) = self.connections.get(&connection_id).map(|connection| connection.device)
                {
                    self.end_peer(device, &reason);
                }
                self.connections.remove(&connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(address) = self.dials.remove(&connection_id) {
                    self.dial_failed(address, dial_error(&error));
                }
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.leave_address(&address);
                self.tell_addresses();
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ListenerClosed { .. } => self.tell_addresses(),
            SwarmEvent::ListenerError { error, .. } => tracing::warn!("listening: {error}"),
            SwarmEvent::Behaviour(BehaviourEvent::Streams((id, news))) => self.on_stream(id, news),
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            })) => self.on_gossip(propagation_source, message_id, message),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping)) => match ping.result {
                Ok(_) | Err(libp2p::ping::Failure::Unsupported) => {}
                Err(error) => {
                    tracing::debug!("a peer does not answer: {error}");
                    self.swarm.close_connection(ping.connection);
                }
            },
            SwarmEvent::Behaviour(
                BehaviourEvent::Mdns(mdns::Event::Discovered(found))
                | BehaviourEvent::Mdns6(mdns::Event::Discovered(found)),
            ) => {
                for (peer, address) in found.into_iter().filter(|(_, address)| !address::is_link_local_quic(address)) {
                    // With an address per peer and minute this would be the one list that strangers make grow.
                    if self.outbox.len() < OUTBOX
                        && let Ok(full) = address.with_p2p(peer)
                        && let Ok(address) = Text::new(full.to_string())
                    {
                        self.outbox.push_back(HostEvent::Hint { address });
                    }
                }
            }
            _ => {}
        }
    }

    /// Connections from an address that this machine no longer has are dead, and nothing would say so for most of a minute.
    /// libp2p does not tell from which address a dial went out: all of that family are made anew.
    fn leave_address(&mut self, address: &Multiaddr) {
        let Some(gone) = address::ip(address) else { return };
        if address::of_this_machine().contains(&gone) {
            return;
        }
        let dead: Vec<(ConnectionId, DeviceId)> = self
            .connections
            .iter()
            .filter(|(_, connection)| match connection.local {
                Some(local) => local == gone,
                None => connection.remote.is_some_and(|remote| remote.is_ipv4() == gone.is_ipv4()),
            })
            .map(|(id, connection)| (*id, connection.device))
            .collect();
        for (id, device) in dead {
            if self.is_used(id) {
                self.end_peer(device, "this machine's address has changed");
            }
            self.swarm.close_connection(id);
        }
    }

    fn on_established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let dialled = self.dials.remove(&id);
        let Some(device) = address::device(&peer) else {
            if let Some(address) = dialled {
                self.dial_failed(address, "the peer's key is not Ed25519".into());
            }
            self.swarm.close_connection(id);
            return;
        };
        let outbound = endpoint.is_dialer();
        let since = Instant::now();
        let (local, remote) = match endpoint {
            ConnectedPoint::Dialer { address, .. } => (None, address::ip(address)),
            ConnectedPoint::Listener { local_addr, send_back_addr } => {
                (address::ip(local_addr), address::ip(send_back_addr))
            }
        };
        let (early, early_gossip) = (Vec::new(), Vec::new());
        let connection = Connection { peer, device, outbound, local, remote, dialled, since, early, early_gossip };
        self.connections.insert(id, connection);
        if self.stopping.is_some() {
            self.swarm.close_connection(id);
        } else if outbound {
            if self.peers.contains_key(&device) || self.asking.contains_key(&device) {
                self.give_up(id, "already connected to this peer");
                self.swarm.close_connection(id);
            } else {
                self.asking.insert(device, Asking { connection: id, frames: None });
                self.swarm.behaviour_mut().streams.open(peer, id, Protocol::Control);
            }
        }
    }

    fn on_stream(&mut self, id: ConnectionId, news: News) {
        let Some(device) = self.connections.get(&id).map(|connection| connection.device) else { return };
        match news {
            News::Opened(Protocol::Control, held) => {
                let asking = self.asking.get_mut(&device).filter(|asking| asking.connection == id);
                let Some(asking) = asking else { return };
                let (frames, queue) = control::queue();
                asking.frames = Some(frames);
                tokio::spawn(control::run(held, Side::Dialler, queue, id, self.to_task.clone()));
            }
            News::OpenFailed(Protocol::Control, reason) => {
                self.give_up(id, &reason);
                self.swarm.close_connection(id);
            }
            News::Inbound(Protocol::Control, held) => self.on_control(id, device, held),
            News::Opened(Protocol::Block, held) => {
                if let Some(peer) = self.peers.get_mut(&device).filter(|peer| peer.connection == id)
                    && let Blocks::Opening(waiting) = std::mem::replace(&mut peer.blocks, Blocks::Closed)
                {
                    let (jobs, jobs_rx) = mpsc::channel(block::MAX_JOBS);
                    for job in waiting {
                        // As many wait as fit.
                        if let Err(error) = jobs.try_send(job) {
                            error.into_inner().fail("too many requests wait for this peer");
                        }
                    }
                    peer.blocks = Blocks::Open(jobs);
                    tokio::spawn(block::ask(held, jobs_rx));
                }
            }
            News::OpenFailed(Protocol::Block, reason) => {
                if let Some(peer) = self.peers.get_mut(&device).filter(|peer| peer.connection == id)
                    && let Blocks::Opening(waiting) = std::mem::replace(&mut peer.blocks, Blocks::Closed)
                {
                    waiting.into_iter().for_each(|job| job.fail(&reason));
                }
            }
            News::Inbound(Protocol::Block, held) => {
                if self.is_used(id) {
                    self.serve(id, held);
                } else if self.asking.get(&device).is_some_and(|asking| asking.connection == id)
                    && let Some(connection) = self.connections.get_mut(&id)
                {
                    connection.early.push(held);
                }
            }
        }
    }

    /// The rule at the top of this file.
    fn on_control(&mut self, id: ConnectionId, device: DeviceId, held: Held) {
        let standing = self.peers.get(&device);
        let standing = standing.and_then(|peer| Some((peer.since, self.connections.get(&peer.connection)?)));
        let accept = match standing {
            _ if self.stopping.is_some() || self.connections.get(&id).is_none_or(|connection| connection.outbound) => {
                false
            }
            Some((since, standing)) => !standing.outbound || since.elapsed() > CROSSING,
            None => !self.asking.contains_key(&device) || device > self.local,
        };
        if !accept {
            tokio::spawn(control::refuse(held));
            return;
        }
        if let Some(old) = self.peers.get(&device).map(|peer| peer.connection) {
            self.end_peer(device, "replaced by a new connection");
            if old != id {
                self.swarm.close_connection(old);
            }
        }
        let (frames, queue) = control::queue();
        tokio::spawn(control::run(held, Side::Acceptor, queue, id, self.to_task.clone()));
        self.peer_up(id, frames);
    }

    fn on_gossip(&mut self, source: PeerId, message: MessageId, gossip: gossipsub::Message) {
        let device = address::device(&source);
        if let Some(asking) = device.and_then(|device| self.asking.get(&device))
            && let Some(connection) = self.connections.get_mut(&asking.connection)
            && connection.early_gossip.len() < MAX_EARLY
        {
            return connection.early_gossip.push((message, gossip));
        }
        let known = device
            .filter(|device| self.peers.contains_key(device))
            .zip(self.topics.get(&gossip.topic).copied())
            .filter(|_| gossip.data.len() <= MAX_GOSSIP);
        let Some((from, topic)) = known else {
            // From a connection without a control stream: nobody has shown the driver a certificate.
            return self.report(&message, &source, MessageAcceptance::Ignore);
        };
        let id = self.name();
        if self.unjudged.len() == MAX_UNJUDGED
            && let Some((_, old, source)) = self.unjudged.pop_front()
        {
            self.report(&old, &source, MessageAcceptance::Ignore);
        }
        self.unjudged.push_back((id, message, source));
        self.outbox.push_back(HostEvent::Gossip { id, from, topic, bytes: gossip.data });
    }

    fn report(&mut self, message: &MessageId, source: &PeerId, acceptance: MessageAcceptance) {
        if !self.swarm.behaviour_mut().gossip.report_message_validation_result(message, source, acceptance) {
            tracing::debug!("a verdict on a gossip message came too late");
        }
    }

    fn tell_addresses(&mut self) {
        let addresses = address::advertised(self.swarm.listeners(), *self.swarm.local_peer_id());
        // Interfaces come and go in bursts; only the last word counts.
        self.outbox.retain(|event| !matches!(event, HostEvent::Listening { .. }));
        self.outbox.push_back(HostEvent::Listening { addresses });
    }

    // ---- the streams' tasks ---------------------------------------------------------------------------------------

    fn on_task(&mut self, news: StreamEvent) {
        match news {
            StreamEvent::ControlUp { connection } => {
                let Some(device) = self.connections.get(&connection).map(|connection| connection.device) else {
                    return;
                };
                let asking = self.asking.get_mut(&device).filter(|asking| asking.connection == connection);
                if let Some(frames) = asking.and_then(|asking| asking.frames.take()) {
                    self.peer_up(connection, frames);
                }
            }
            StreamEvent::Frame { connection, bytes } => {
                if self.is_used(connection)
                    && let Some(Connection { device, .. }) = self.connections.get(&connection)
                {
                    self.outbox.push_back(HostEvent::Frame { peer: *device, bytes });
                }
            }
            StreamEvent::ControlEnded { connection, reason } => {
                self.give_up(connection, &reason);
                if self.is_used(connection)
                    && let Some(device) = self.connections.get(&connection).map(|connection| connection.device)
                {
                    self.end_peer(device, &reason);
                }
                self.swarm.close_connection(connection);
            }
            StreamEvent::Asked { connection, stream, request, what, answers } => {
                let serve = self.name();
                match self.connections.get(&connection) {
                    Some(Connection { device, .. }) if self.is_used(connection) => {
                        self.outbox.push_back(HostEvent::BlockRequested { peer: *device, serve, what });
                        self.unanswered.insert(serve, Unanswered { stream, request, answers });
                    }
                    // An error says that the stream has ended too.
                    _ => drop(answers.try_send(Answer { serve, request, answer: Err(BlockStatus::Refused) })),
                }
            }
            StreamEvent::Served { serve, bytes } => self.outbox.push_back(HostEvent::Served { serve, bytes }),
            StreamEvent::ServeEnded { stream } => {
                let lost: Vec<u64> = self
                    .unanswered
                    .iter()
                    .filter(|(_, unanswered)| unanswered.stream == stream)
                    .map(|(serve, _)| *serve)
                    .collect();
                for serve in lost {
                    self.unanswered.remove(&serve);
                    self.outbox.push_back(HostEvent::Served { serve, bytes: 0 });
                }
            }
        }
    }
}
