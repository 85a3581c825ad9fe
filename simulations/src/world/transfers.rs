//! Blocks between machines, and what comes over the WAN.

use upswarm_protocol::coordinator;
use upswarm_protocol::ids::PayloadId;
use upswarm_protocol::node::{FetchError, FetchFrom, FetchId, Input, ServeWhat};
use upswarm_protocol::wire::{BlockStatus, BlockWhat};

use super::{Fetch, Happening, Hostile, LAN_RATE, Serve, WAN_LATENCY, World};
use crate::wan::Flow;

/// Microseconds to hash a chunk and hand it to the disk.
const STORE: u64 = 500;
/// Microseconds after which an origin that is down is given up.
const ORIGIN_SILENT: u64 = 1_000_000;

impl World {
    pub(super) fn fetch(&mut self, node: usize, fetch: FetchId, from: FetchFrom, what: BlockWhat, document: bool) {
        let life = self.machines[node].life;
        match from {
            FetchFrom::Peer(peer) => {
                let peer = self.by_device.get(&peer).copied().unwrap_or(self.hub_number());
                self.machines[node].fetches.insert(fetch, Fetch { peer: Some(peer), document });
                match self.connection(node, peer) {
                    Some(epoch) => {
                        let after = self.latency(node, peer);
                        self.push(after, Happening::Request { from: node, to: peer, epoch, fetch, what });
                    }
                    None => self.push(0, Happening::Answer { node, life, fetch, status: BlockStatus::NotHeld }),
                }
            }
            FetchFrom::Disk => {
                self.machines[node].fetches.insert(fetch, Fetch { peer: None, document });
                let BlockWhat::Doc(hash) = what else { self.broken(node, "reads what is no document") };
                let bytes = self.machines[node].disk.documents.get(&hash).map(|bytes| bytes.to_vec());
                let bytes = bytes.unwrap_or_default();
                self.push(STORE, Happening::Document { node, life, fetch, bytes });
            }
            FetchFrom::Urls(urls) => {
                self.machines[node].fetches.insert(fetch, Fetch { peer: None, document });
                if !self.origin_up {
                    return self
                        .push(ORIGIN_SILENT, Happening::Answer { node, life, fetch, status: BlockStatus::Busy });
                }
                match what {
                    BlockWhat::Chunks { payload, first, count } => {
                        let begin = Happening::WanBegin { node, life, fetch, payload, first, count };
                        self.push(2 * WAN_LATENCY, begin);
                    }
                    BlockWhat::Doc(_) | BlockWhat::Root(_) => {
                        let bytes = urls.iter().find_map(|url| self.origin_document(url)).unwrap_or_default();
                        self.counts.wan_documents += bytes.len() as u64;
                        self.push(2 * WAN_LATENCY, Happening::Document { node, life, fetch, bytes });
                    }
                }
            }
        }
    }

    pub(super) fn cancel(&mut self, node: usize, fetch: FetchId) {
        let life = self.machines[node].life;
        if !self.machines[node].fetches.contains_key(&fetch) {
            return;
        }
        self.stop_wan(self.machines[node].place, |flow| flow.node == node && flow.fetch == fetch);
        self.machines[node].fetches.remove(&fetch);
        let input = Input::FetchEnded { fetch, bytes: 0, result: Err(FetchError::Canceled) };
        self.push(50, Happening::Local { node, life, input: Box::new(input) });
    }

    pub(super) fn fetch_over(&mut self, node: usize, fetch: FetchId, result: Result<(), FetchError>) {
        let Some(ended) = self.machines[node].fetches.remove(&fetch) else { return };
        let input = match (ended.document, result) {
            (false, result) => Input::FetchEnded { fetch, bytes: 0, result },
            (true, Err(error)) => Input::DocFetched { fetch, result: Err(error) },
            (true, Ok(())) => return,
        };
        self.input(node, input);
    }

    pub(super) fn requested(&mut self, from: usize, to: usize, epoch: u32, fetch: FetchId, what: BlockWhat) {
        if to == self.hub_number() {
            self.hub.next_serve += 1;
            let serve = self.hub.next_serve;
            self.hub.serves.insert(serve, Serve { asker: from, fetch, epoch });
            return self.hub_request(serve, from, what);
        }
        let machine = &mut self.machines[to];
        machine.next_serve += 1;
        let serve = machine.next_serve;
        machine.serves.insert(serve, Serve { asker: from, fetch, epoch });
        let peer = self.machines[from].device;
        self.input(to, Input::BlockRequested { peer, serve, what });
    }

    pub(super) fn hub_serves(&mut self, serve: u64, bytes: Option<Vec<u8>>) {
        let Some(Serve { asker, fetch, .. }) = self.hub.serves.remove(&serve) else { return };
        let life = self.machines[asker].life;
        match bytes {
            Some(bytes) => {
                self.counts.wan_documents += bytes.len() as u64;
                self.push(WAN_LATENCY, Happening::Document { node: asker, life, fetch, bytes });
            }
            None => {
                self.push(WAN_LATENCY, Happening::Answer { node: asker, life, fetch, status: BlockStatus::NotHeld })
            }
        }
        self.push(WAN_LATENCY, Happening::HubInput(Box::new(coordinator::Input::Served { serve })));
    }

    pub(super) fn hub_denies(&mut self, serve: u64, status: BlockStatus) {
        let Some(Serve { asker, fetch, .. }) = self.hub.serves.remove(&serve) else { return };
        let life = self.machines[asker].life;
        self.push(WAN_LATENCY, Happening::Answer { node: asker, life, fetch, status });
    }

    pub(super) fn deny(&mut self, node: usize, serve: u64, status: BlockStatus) {
        let Some(Serve { asker, fetch, .. }) = self.machines[node].serves.remove(&serve) else { return };
        let life = self.machines[asker].life;
        self.push(self.latency(node, asker), Happening::Answer { node: asker, life, fetch, status });
    }

    pub(super) fn serve(&mut self, node: usize, serve: u64, what: ServeWhat) {
        let Some(Serve { asker, fetch, .. }) = self.machines[node].serves.get(&serve).copied() else { return };
        let (life, latency) = (self.machines[asker].life, self.latency(node, asker));
        let (payload, first, count) = match what {
            ServeWhat::Bytes(bytes) => {
                self.machines[node].serves.remove(&serve);
                let bytes = bytes.to_vec();
                return self.push(latency, Happening::Document { node: asker, life, fetch, bytes });
            }
            ServeWhat::Doc(hash) => {
                self.machines[node].serves.remove(&serve);
                let Some(bytes) = self.machines[node].disk.documents.get(&hash).map(|bytes| bytes.to_vec()) else {
                    self.broken(node, "serves a document that its disk does not hold");
                };
                return self.push(latency, Happening::Document { node: asker, life, fetch, bytes });
            }
            ServeWhat::Chunks { payload, first, count, .. } => (payload, first, count),
        };
        let hostile = self.machines[node].hostile;
        if hostile.is_none() && !self.machines[node].disk.holds(&payload, first, count) {
            self.broken(node, "serves chunks that its disk does not hold");
        }
        let Some(list) = self.lists.get(&payload).cloned() else { return };
        let bad = self.machines[node].poisons || hostile == Some(Hostile::Poison);
        let mut sum = 0;
        let mut sent = self.now.max(self.machines[node].up_free);
        let mut here = self.machines[asker].down_free;
        for chunk in first..first + count {
            let len = u64::from(list.chunks()[chunk as usize].len);
            sum += len;
            sent += len / LAN_RATE;
            here = (sent + latency).max(here + len / LAN_RATE);
            let last = chunk + 1 == first + count;
            let arrival = Happening::Chunk { node: asker, life, fetch, payload, chunk, last, bad };
            self.push(here + STORE - self.now, arrival);
        }
        self.machines[node].up_free = sent;
        self.machines[asker].down_free = here;
        self.counts.lan += sum;
        if self.machines[node].place != self.machines[asker].place {
            self.counts.between_sites += sum;
        }
        let life = self.machines[node].life;
        self.push(sent - self.now, Happening::Served { node, life, serve, bytes: sum });
    }

    pub(super) fn served(&mut self, node: usize, serve: u64, bytes: u64) {
        if self.machines[node].serves.remove(&serve).is_some() {
            self.input(node, Input::Served { serve, bytes });
        }
    }

    pub(super) fn denied(&mut self, node: usize, fetch: FetchId, status: BlockStatus) {
        let origin = self.machines[node].fetches.get(&fetch).is_some_and(|f| f.peer.is_none());
        let error = if origin { FetchError::Unreachable("timed out".to_owned()) } else { FetchError::Status(status) };
        self.fetch_over(node, fetch, Err(error));
    }

    pub(super) fn document_arrives(&mut self, node: usize, fetch: FetchId, bytes: Vec<u8>) {
        if self.machines[node].fetches.remove(&fetch).is_some() {
            self.input(node, Input::DocFetched { fetch, result: Ok(bytes) });
        }
    }

    pub(super) fn chunk_arrives(
        &mut self,
        node: usize,
        fetch: FetchId,
        payload: PayloadId,
        chunk: u32,
        last: bool,
        bad: bool,
    ) {
        if !self.machines[node].fetches.contains_key(&fetch) {
            return;
        }
        if bad {
            self.input(node, Input::ChunkRejected { fetch, payload, chunk });
        } else {
            let Some(stored) = self.machines[node].disk.payloads.get_mut(&payload) else {
                self.broken(node, "fetched for a payload that the store has not opened");
            };
            if !stored.have.set(chunk) {
                self.counts.duplicates += 1;
            }
            if !self.machines[node].flushing {
                self.machines[node].flushing = true;
                let life = self.machines[node].life;
                self.push(300_000, Happening::Flush { node, life });
            }
            self.input(node, Input::ChunkStored { fetch, payload, chunk });
        }
        if last {
            self.fetch_over(node, fetch, Ok(()));
        }
    }

    pub(super) fn wan_begins(&mut self, node: usize, fetch: FetchId, payload: PayloadId, first: u32, count: u32) {
        if !self.machines[node].fetches.contains_key(&fetch) {
            return;
        }
        if self.machines[node].weight == 0 {
            self.broken(node, "is metered, and fetches over the WAN");
        }
        let Some(list) = self.lists.get(&payload) else { return };
        let len = list.chunks()[first as usize].len;
        let life = self.machines[node].life;
        let place = self.machines[node].place;
        self.wans[place].link.begin(self.now, (node, life, fetch), payload, (first, first + count), len);
        self.wan_schedule(place);
    }

    pub(super) fn wan_due(&mut self, place: usize) {
        let lists = &self.lists;
        let next_len = |flow: &Flow| lists.get(&flow.payload).map_or(0, |list| list.chunks()[flow.chunk as usize].len);
        let arrived = self.wans[place].link.arrived(self.now, next_len);
        self.wan_schedule(place);
        for flow in arrived {
            let len = self.lists.get(&flow.payload).map_or(0, |list| u64::from(list.chunks()[flow.chunk as usize].len));
            self.counts.wan += len;
            self.machines[flow.node].wan += len;
            let last = flow.chunk + 1 == flow.end;
            let (node, life, fetch, payload, chunk) = (flow.node, flow.life, flow.fetch, flow.payload, flow.chunk);
            let bad = self.origin_tampers;
            self.push(STORE, Happening::Chunk { node, life, fetch, payload, chunk, last, bad });
        }
    }

    fn wan_schedule(&mut self, place: usize) {
        let wan = &mut self.wans[place];
        wan.number += 1;
        let number = wan.number;
        if let Some(at) = wan.link.due() {
            self.push(at.saturating_sub(self.now), Happening::WanDue { place, number });
        }
    }

    pub(super) fn stop_wan(&mut self, place: usize, gone: impl Fn(&Flow) -> bool) {
        let lists = &self.lists;
        let len = |flow: &Flow| lists.get(&flow.payload).map_or(0, |list| list.chunks()[flow.chunk as usize].len);
        for (node, bytes) in self.wans[place].link.end(self.now, gone, len) {
            self.counts.wan += bytes;
            self.machines[node].wan += bytes;
        }
        self.wan_schedule(place);
    }

    /// The origin stops answering, in the middle of what it sends, or answers again.
    pub fn set_origin(&mut self, up: bool) {
        self.origin_up = up;
        if !up {
            let cut: Vec<_> = self
                .machines
                .iter()
                .enumerate()
                .flat_map(|(node, m)| {
                    m.fetches.iter().filter(|(_, f)| f.peer.is_none()).map(move |(id, _)| (node, *id))
                })
                .collect();
            (0..self.params.sites).for_each(|place| self.stop_wan(place, |_| true));
            for (node, fetch) in cut {
                let life = self.machines[node].life;
                self.push(ORIGIN_SILENT, Happening::Answer { node, life, fetch, status: BlockStatus::Busy });
            }
        }
    }
}
