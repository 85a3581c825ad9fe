//! Connections, control frames and gossip.

use upswarm_protocol::codec::Text;
use upswarm_protocol::coordinator;
use upswarm_protocol::node::{FetchError, Input};
use upswarm_protocol::wire::{Message, Topic};

use super::{Happening, World};

/// Microseconds until a machine that is off is known not to answer.
const NO_ANSWER: u64 = 1_000_000;

/// Neighbours to which a message of another is passed on: gossipsub's mesh has 4 to 12.
const MESH: usize = 8;

/// The address of a machine.
pub(super) fn address(node: usize) -> String {
    format!("/sim/{node}")
}

fn number(address: &str) -> Option<usize> {
    address.strip_prefix("/sim/")?.parse().ok()
}

impl World {
    pub(super) fn is_connected(&self, a: usize, b: usize, epoch: u32) -> bool {
        self.connection(a, b) == Some(epoch)
    }

    pub(super) fn connection(&self, a: usize, b: usize) -> Option<u32> {
        if a == self.hub_number() {
            return self.hub.connections.get(&b).copied();
        }
        self.machines[a].connections.get(&b).copied()
    }

    fn is_reachable(&self, node: usize) -> bool {
        if node == self.hub_number() { self.hub.up } else { self.machines.get(node).is_some_and(|m| m.is_up()) }
    }

    pub(super) fn dial(&mut self, from: usize, address: Text<512>) {
        self.counts.dials += 1;
        let after = match number(&address) {
            Some(to) if to <= self.hub_number() && self.is_reachable(to) => 4 * self.latency(from, to),
            _ => NO_ANSWER,
        };
        let life = self.machines[from].life;
        self.push(after, Happening::Connect { from, life, address });
    }

    pub(super) fn connect(&mut self, from: usize, address: Text<512>) {
        let to = number(&address).filter(|to| *to != from && self.is_reachable(*to));
        let Some(to) = to else {
            self.counts.dials_failed += 1;
            return self.input(from, Input::DialFailed { address, reason: Text::lossy("no answer") });
        };
        if self.connection(from, to).is_some() {
            // As in the real host: a second connection to a connected peer is told to nobody.
            return;
        }
        self.epoch += 1;
        let epoch = self.epoch;
        self.machines[from].connections.insert(to, epoch);
        let device = self.machines[from].device;
        if to == self.hub_number() {
            self.hub.connections.insert(from, epoch);
            let hub = self.hub.device;
            self.hub_input(coordinator::Input::PeerUp { peer: device });
            self.input(from, Input::PeerUp { peer: hub, dialled: Some(address) });
        } else {
            self.machines[to].connections.insert(from, epoch);
            let peer = self.machines[to].device;
            self.input(to, Input::PeerUp { peer: device, dialled: None });
            self.input(from, Input::PeerUp { peer, dialled: Some(address) });
        }
    }

    /// Ends the connection between two machines; the other side hears of it a little later. Frames on their way still arrive.
    pub(super) fn hang_up(&mut self, from: usize, to: usize) {
        let after = if self.is_reachable(from) { self.latency(from, to) } else { 50_000 };
        self.hang_up_after(from, to, after);
    }

    pub(super) fn hang_up_after(&mut self, from: usize, to: usize, after: u64) {
        let Some(epoch) = self.connection(from, to) else { return };
        self.push(after, Happening::Closed { node: to, peer: from, epoch });
        self.push(after, Happening::Closed { node: from, peer: to, epoch });
    }

    pub(super) fn closed(&mut self, node: usize, peer: usize, epoch: u32) {
        if !self.is_connected(node, peer, epoch) {
            return;
        }
        let hub = self.hub_number();
        let device = |world: &Self, at: usize| if at == hub { world.hub.device } else { world.machines[at].device };
        let gone = device(self, peer);
        if node == hub {
            self.hub.connections.remove(&peer);
            self.hub.serves.retain(|_, serve| serve.epoch != epoch);
            return self.hub_input(coordinator::Input::PeerDown { peer: gone });
        }
        let machine = &mut self.machines[node];
        machine.connections.remove(&peer);
        let lost: Vec<_> = machine.fetches.iter().filter(|(_, f)| f.peer == Some(peer)).map(|(id, _)| *id).collect();
        let unserved: Vec<_> = machine.serves.iter().filter(|(_, s)| s.epoch == epoch).map(|(id, _)| *id).collect();
        if !machine.is_up() {
            return;
        }
        self.input(node, Input::PeerDown { peer: gone });
        for fetch in lost {
            self.fetch_over(node, fetch, Err(FetchError::Unreachable("the connection ended".to_owned())));
        }
        for serve in unserved {
            self.served(node, serve, 0);
        }
    }

    pub(super) fn send(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        let Some(epoch) = self.connection(from, to) else { return };
        if from != self.hub_number() {
            self.counts.frames += 1;
            self.counts.sent[from] += bytes.len() as u64;
            self.counts.frame_bytes += bytes.len() as u64;
            // Fixed-size integers: a frame begins with the number of its kind.
            let kind = bytes.first_chunk().map_or(u32::MAX, |kind| u32::from_le_bytes(*kind));
            let name = || Message::decode(&bytes).map_or("?", |message| name(&message));
            let entry = self.counts.kinds.entry(kind).or_insert_with(|| (name(), 0, 0));
            (entry.1, entry.2) = (entry.1 + 1, entry.2 + bytes.len() as u64);
        }
        self.push(self.latency(from, to), Happening::Frame { from, to, epoch, bytes });
    }

    pub(super) fn frame(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        if to == self.hub_number() {
            let peer = self.machines[from].device;
            return self.hub_input(coordinator::Input::Frame { peer, bytes });
        }
        let peer = if from == self.hub_number() { self.hub.device } else { self.machines[from].device };
        self.input(to, Input::Frame { peer, bytes });
    }

    /// Gossips a message, unless this machine has seen it before.
    pub(super) fn publish_gossip(&mut self, from: usize, topic: Topic, bytes: Vec<u8>) {
        let machines = match topic {
            Topic::Head => 0..self.machines.len() + 1,
            Topic::Site(_) => self.machines.get(from).map_or(0..0, |machine| self.site(machine.place)),
        };
        let known = self.gossip.len();
        let message = self.gossip.enter(self.now, topic, bytes, machines);
        self.counts.gossip_made += self.gossip.len() - known;
        if self.see(from, message) {
            self.flood(from, message, usize::MAX);
        }
    }

    /// A machine gossips these bytes as a head, against what its own program thinks.
    pub fn forge_head(&mut self, from: usize, bytes: Vec<u8>) {
        self.publish_gossip(from, Topic::Head, bytes);
    }

    fn see(&mut self, node: usize, message: u64) -> bool {
        let life = self.machines.get(node).map_or(0, |machine| machine.life);
        self.gossip.see(message, node, life)
    }

    /// Passes a message on to the neighbours of the mesh; its maker gives it to all.
    pub(super) fn spread(&mut self, from: usize, message: u64) {
        self.flood(from, message, MESH);
    }

    fn flood(&mut self, from: usize, message: u64, most: usize) {
        let Some((topic, bytes)) = self.gossip.get(message) else { return };
        let len = bytes.len() as u64;
        let hub = self.hub_number();
        let neighbours: Vec<_> = if from == hub {
            self.hub.connections.iter().map(|(to, epoch)| (*to, *epoch)).collect()
        } else {
            self.machines[from].connections.iter().map(|(to, epoch)| (*to, *epoch)).collect()
        };
        let mut left = most;
        // The same order for all messages: a mesh that stands still, as gossipsub's does.
        let mut neighbours = neighbours;
        neighbours.sort_by_key(|(to, _)| self.latency(from, *to));
        for (to, epoch) in neighbours {
            if left == 0 {
                break;
            }
            let listens = match topic {
                Topic::Head => true,
                Topic::Site(site) => to != hub && self.machines[to].site == site,
            };
            if !listens {
                continue;
            }
            left -= 1;
            if from != hub {
                self.counts.gossip += 1;
                self.counts.sent[from] += len;
                self.counts.gossip_bytes += len;
            }
            let life = self.machines.get(to).map_or(0, |machine| machine.life);
            if !self.gossip.has_seen(message, to, life) {
                self.push(self.latency(from, to), Happening::Gossip { from, to, epoch, message });
            }
        }
    }

    pub(super) fn gossip_arrives(&mut self, from: usize, to: usize, id: u64) {
        if !self.see(to, id) {
            return;
        }
        let Some((topic, bytes)) = self.gossip.get(id) else { return };
        let bytes = bytes.to_vec();
        if to == self.hub_number() {
            let from = self.machines[from].device;
            return self.hub_input(coordinator::Input::Gossip { id, from, topic, bytes });
        }
        let from = if from == self.hub_number() { self.hub.device } else { self.machines[from].device };
        self.input(to, Input::Gossip { id, from, topic, bytes });
    }
}

fn name(message: &Message) -> &'static str {
    match message {
        Message::Hello { .. } => "Hello",
        Message::Refused { .. } => "Refused",
        Message::Head(_) => "Head",
        Message::Catalog { .. } => "Catalog",
        Message::Members(_) => "Members",
        Message::Digest { .. } => "Digest",
        Message::Known(_) => "Known",
        Message::Ask(_) => "Ask",
        Message::Suspects(_) => "Suspects",
        Message::Holdings(_) => "Holdings",
        Message::Relay { .. } => "Relay",
        Message::RelayAck { .. } => "RelayAck",
        Message::Assignment(_) => "Assignment",
        Message::Call { .. } => "Call",
        _ => "other",
    }
}
