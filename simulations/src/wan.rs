//! The WAN link of a site: one rate that all transfers under way share equally (processor sharing).

use std::collections::BTreeMap;

use upswarm_protocol::ids::PayloadId;
use upswarm_protocol::node::FetchId;

/// One transfer of a run of chunks.
#[derive(Debug, Clone)]
pub struct Flow {
    /// The machine that fetches.
    pub node: usize,
    /// In which of its lives.
    pub life: u32,
    /// Its name for the fetch.
    pub fetch: FetchId,
    /// The payload.
    pub payload: PayloadId,
    /// The chunk that is being transferred.
    pub chunk: u32,
    /// Where the run ends.
    pub end: u32,
    /// Amount of service at which the chunk is through.
    target: f64,
}

/// The link. Service is counted in bytes that every transfer has received.
#[derive(Debug)]
pub struct Wan {
    /// Bytes per microsecond.
    rate: f64,
    service: f64,
    at: u64,
    flows: BTreeMap<u64, Flow>,
    next: u64,
}

impl Wan {
    /// A link of so many bits per second.
    pub fn new(bits_per_second: u64) -> Self {
        Self { rate: bits_per_second as f64 / 8e6, service: 0.0, at: 0, flows: BTreeMap::new(), next: 0 }
    }

    /// Begins a transfer of `first..end`, whose first chunk has `len` bytes.
    pub fn begin(&mut self, now: u64, flow: (usize, u32, FetchId), payload: PayloadId, run: (u32, u32), len: u32) {
        self.advance(now);
        let (node, life, fetch) = flow;
        let target = self.service + f64::from(len);
        self.flows.insert(self.next, Flow { node, life, fetch, payload, chunk: run.0, end: run.1, target });
        self.next += 1;
    }

    /// Ends the transfers for which `gone` holds, and tells of each machine how many bytes of the last chunk had come.
    pub fn end(&mut self, now: u64, gone: impl Fn(&Flow) -> bool, len: impl Fn(&Flow) -> u32) -> Vec<(usize, u64)> {
        self.advance(now);
        let mut broken_off = Vec::new();
        self.flows.retain(|_, flow| {
            if gone(flow) {
                let bytes = (f64::from(len(flow)) - (flow.target - self.service)).max(0.0) as u64;
                broken_off.push((flow.node, bytes));
            }
            !gone(flow)
        });
        broken_off
    }

    /// When the next chunk will be through, if nothing changes, in microseconds.
    pub fn due(&self) -> Option<u64> {
        let target = self.flows.values().map(|flow| flow.target).reduce(f64::min)?;
        let wait = (target - self.service).max(0.0) * self.flows.len() as f64 / self.rate;
        Some(self.at + wait.ceil() as u64)
    }

    /// Chunks that are through by now. `next_len` gives the length of the chunk that follows in a run.
    pub fn arrived(&mut self, now: u64, next_len: impl Fn(&Flow) -> u32) -> Vec<Flow> {
        self.advance(now);
        let through: Vec<u64> =
            self.flows.iter().filter(|(_, flow)| flow.target <= self.service + 1e-3).map(|(id, _)| *id).collect();
        let mut arrived = Vec::new();
        for id in through {
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            arrived.push(flow.clone());
            flow.chunk += 1;
            if flow.chunk < flow.end {
                flow.target += f64::from(next_len(flow));
            } else {
                self.flows.remove(&id);
            }
        }
        arrived
    }

    fn advance(&mut self, now: u64) {
        if !self.flows.is_empty() {
            self.service += (now - self.at) as f64 * self.rate / self.flows.len() as f64;
        }
        self.at = now;
    }
}
