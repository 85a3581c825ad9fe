//! What the driver asks of the task.

use bytes::Bytes;
use libp2p::gossipsub::{IdentTopic, MessageAcceptance, PublishError};
use libp2p::multiaddr::{Multiaddr, Protocol as Part};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use tokio::sync::mpsc;
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::DeviceId;
use upswarm_protocol::node::Verdict;
use upswarm_protocol::wire::{BlockStatus, MAX_FRAME, MAX_GOSSIP, Topic};

use super::super::block::{self, Job};
use super::super::events::Answer;
use super::super::streams::Protocol;
use super::super::trouble::dial_error;
use super::super::{Command, HostEvent, address};
use super::{Blocks, Task, Unanswered};

impl Task {
    /// Does what the driver asks. Never waits.
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial(address) => self.dial(&address),
            Command::Disconnect { peer, reason } => self.disconnect(peer, &reason),
            Command::Send { peer, frame } => self.send(peer, frame),
            Command::Subscribe(topic) => {
                let name = IdentTopic::new(topic.to_string());
                self.topics.insert(name.hash(), topic);
                if let Err(error) = self.swarm.behaviour_mut().gossip.subscribe(&name) {
                    tracing::warn!("not subscribed to {topic}: {error}");
                }
            }
            Command::Publish { topic, bytes } => self.publish(topic, bytes),
            Command::Verdict { id, from, verdict } => self.judge(id, from, verdict),
            Command::Fetch { peer, job } => self.fetch(peer, job),
            Command::Answer { serve, answer } => self.answer(serve, answer),
            Command::Stop(done) => self.stop(Some(done)),
        }
    }

    fn dial(&mut self, text: &str) {
        let name = Text::lossy(text);
        let address: Multiaddr = match text.parse() {
            Ok(address) => address,
            Err(error) => return self.dial_failed(name, format!("not a multiaddr: {error}")),
        };
        let named = address.iter().last().and_then(|part| match part {
            Part::P2p(peer) => Some(peer),
            _ => None,
        });
        // A port of its own: were both sides to dial each other from the ports they listen on, TCP would join the two
        // attempts into one connection of which each believes to be the dialler.
        let dial = match named {
            Some(peer) => DialOpts::peer_id(peer)
                .addresses(vec![address])
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .allocate_new_port()
                .build(),
            None => DialOpts::unknown_peer_id().address(address).allocate_new_port().build(),
        };
        let connection = dial.connection_id();
        match self.swarm.dial(dial) {
            Ok(()) => {
                self.dials.insert(connection, name);
            }
            Err(error) => self.dial_failed(name, dial_error(&error)),
        }
    }

    fn disconnect(&mut self, device: DeviceId, reason: &str) {
        if self.peers.contains_key(&device) {
            self.end_peer(device, reason);
        } else if let Some(peer) = address::peer_id(device) {
            self.asking.remove(&device);
            // An error says that there is no connection.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn send(&mut self, device: DeviceId, frame: Vec<u8>) {
        if frame.len() > MAX_FRAME {
            tracing::error!("a frame of {} bytes for {device:?} is too long and was not sent", frame.len());
            return;
        }
        let Some(peer) = self.peers.get(&device) else {
            tracing::debug!("a frame for {device:?}, which is not connected");
            return;
        };
        if !peer.frames.push(frame) {
            let connection = peer.connection;
            self.end_peer(device, "it does not read its frames");
            self.swarm.close_connection(connection);
        }
    }

    fn publish(&mut self, topic: Topic, bytes: Vec<u8>) {
        if bytes.len() > MAX_GOSSIP {
            tracing::error!("a gossip message of {} bytes is too long and was not sent", bytes.len());
            return;
        }
        match self.swarm.behaviour_mut().gossip.publish(IdentTopic::new(topic.to_string()), bytes) {
            Ok(_) => {}
            // Nobody there yet, or said before: both are everyday.
            Err(PublishError::NoPeersSubscribedToTopic | PublishError::Duplicate) => {}
            Err(error) => tracing::debug!("not gossiped on {topic}: {error}"),
        }
    }

    fn judge(&mut self, id: u64, from: DeviceId, verdict: Verdict) {
        let Ok(at) = self.unjudged.binary_search_by_key(&id, |(id, _, _)| *id) else {
            return tracing::debug!("a verdict on message {id} from {from:?}, which is forgotten");
        };
        let Some((_, message, source)) = self.unjudged.remove(at) else { return };
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        self.report(&message, &source, acceptance);
    }

    fn fetch(&mut self, device: DeviceId, job: Job) {
        let Some(peer) = self.peers.get_mut(&device) else {
            return job.fail("not connected");
        };
        let job = match &peer.blocks {
            Blocks::Open(jobs) => match jobs.try_send(job) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(job)) => return job.fail("too many requests wait for this peer"),
                // The stream has broken since: open another one.
                Err(mpsc::error::TrySendError::Closed(job)) => {
                    peer.blocks = Blocks::Closed;
                    job
                }
            },
            _ => job,
        };
        match &mut peer.blocks {
            Blocks::Opening(waiting) if waiting.len() < block::MAX_JOBS => waiting.push(job),
            Blocks::Opening(_) => job.fail("too many requests wait for this peer"),
            Blocks::Closed | Blocks::Open(_) => {
                peer.blocks = Blocks::Opening(vec![job]);
                if let Some(connection) = self.connections.get(&peer.connection) {
                    self.swarm.behaviour_mut().streams.open(connection.peer, peer.connection, Protocol::Block);
                }
            }
        }
    }

    fn answer(&mut self, serve: u64, answer: Result<Bytes, BlockStatus>) {
        let Some(Unanswered { request, answers, .. }) = self.unanswered.remove(&serve) else {
            return; // Its peer is gone, as was told.
        };
        let granted = answer.is_ok();
        // As many fit as requests are read: an error says that the stream has ended.
        if answers.try_send(Answer { serve, request, answer }).is_err() && granted {
            self.outbox.push_back(HostEvent::Served { serve, bytes: 0 });
        }
    }
}
