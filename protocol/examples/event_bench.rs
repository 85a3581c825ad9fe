//! What one block from a neighbour costs a node's core, with few and many payloads and neighbours: the block's chunks, its
//! end, the question for the next one, and the announcements that fall due meanwhile.
//!
//! `cargo run --release -p upswarm-protocol --example event_bench`

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::*;
use upswarm_protocol::catalog::*;
use upswarm_protocol::chunk::{Bitmap, ChunkList, ChunkSizes};
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::time::{Mono, Now};
use upswarm_protocol::wire::{self, Held, Holding, Message};

const CHUNKS: u32 = 512;
const PER_RELEASE: usize = 500;
const BLOCKS: usize = 30_000;

fn main() {
    println!("payloads  neighbours  us per block");
    for neighbours in [10, 60] {
        for payloads in [1, 300, 3000] {
            // One payload alone has far fewer blocks: several runs.
            let runs = if payloads == 1 { 40 } else { 1 };
            let best = (0..runs).map(|_| run(payloads, neighbours)).fold(f64::INFINITY, f64::min);
            println!("{payloads:8}  {neighbours:10}  {best:12.1}");
        }
    }
}

/// Microseconds for each block.
fn run(payloads: usize, neighbours: usize) -> f64 {
    let mut node = Node::new(payloads);
    for number in 0..neighbours {
        node.meets(number, payloads);
    }
    // The order of the WAN's fetchers is looked at once after they have come.
    node.pass(Duration::from_secs(1));
    let (mut blocks, begin) = (0, Instant::now());
    while blocks < BLOCKS
        && let Some(fetch) = node.fetches.pop()
    {
        blocks += 1;
        let Output::Fetch { fetch, payload, first, count, .. } = fetch else { continue };
        for chunk in first..first + count {
            node.input(Input::ChunkStored { fetch, payload, chunk });
        }
        node.input(Input::FetchEnded { fetch, bytes: 0, result: Ok(()) });
        node.pass(Duration::from_millis(1));
    }
    assert!(blocks > 0, "nothing was fetched: nothing was measured");
    begin.elapsed().as_secs_f64() * 1e6 / blocks as f64
}

struct Node {
    state: NodeState,
    now: Now,
    fetches: Vec<Output>,
    world: World,
    ids: Vec<PayloadId>,
    /// What its disk holds.
    documents: BTreeMap<DocHash, Vec<u8>>,
}

impl Node {
    fn new(payloads: usize) -> Self {
        let world = World::new();
        let pieces = (0..CHUNKS).map(|n| (ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes()), 256 << 10));
        let chunks = ChunkList::new(ChunkSizes::default(), pieces).unwrap();
        let bytes = chunks.to_bytes();
        let named = |number: usize| Payload {
            id: PayloadId(*blake3::hash(&number.to_le_bytes()).as_bytes()),
            name: text(&format!("payload-{number}")),
            len: chunks.payload_len(),
            chunk_list: DocHash::of(&bytes),
            chunk_list_len: bytes.len() as u32,
            ..payload("tool")
        };
        let all: Vec<Payload> = (0..payloads).map(named).collect();
        let ids = all.iter().map(|payload| payload.id).collect();
        let mut documents = Vec::new();
        for (number, part) in all.chunks(PER_RELEASE).enumerate() {
            let release = Release { payloads: list(part.to_vec()), ..release(&format!("org.example.tool{number}"), 1) };
            let release = world.publish(&release);
            documents.push(world.approve(&approval(GROUP, release.release, number as u64 + 1)));
            documents.push(release);
        }
        let edition = world.edition(7, documents);
        let mut trust = world.trust();
        edition.offer_to(&mut trust);
        let device = key(40);
        let mut documents: Vec<_> = edition.stored().into_values().collect();
        documents.push(bytes);
        let on_disk = documents.iter().map(|bytes| (DocHash::of(bytes), bytes.clone())).collect();
        let restored = Restored {
            trust: trust.snapshot(),
            certificate: world.certificate_doc(&certificate(&device)),
            assignment: world.assignment_doc(&assignment(&device)),
            documents,
            ..Restored::default()
        };
        let config = NodeConfig { wan_weight: 0, ..settings(&device) };
        let now = Now { mono: Mono(1_000_000_000), wall: NOW };
        let state = NodeState::new(config, restored, now).unwrap();
        let mut node = Self { state, now, fetches: Vec::new(), world, ids, documents: on_disk };
        node.drain();
        node.pass(Duration::from_secs(2));
        node
    }

    /// A neighbour comes that holds everything, or one that lacks everything and wants it.
    fn meets(&mut self, number: usize, payloads: usize) {
        let device = key(100 + number as u8);
        let peer = DeviceId(device.verifying_key().to_bytes());
        self.input(Input::PeerUp { peer, dialled: None });
        let certificate = self.world.certificate_doc(&certificate(&device));
        let hello = Message::Hello {
            version: wire::VERSION,
            certificate: list(certificate),
            head: list(vec![]),
            root_version: 1,
        };
        self.input(Input::Frame { peer, bytes: hello.encode().unwrap() });
        let none = vec![0; Bitmap::new(CHUNKS).as_bytes().len()];
        let held = |id: &PayloadId| match number % 2 {
            0 => Holding { payload: *id, wants: false, held: Held::All },
            _ => Holding { payload: *id, wants: true, held: Held::Some(list(none.clone())) },
        };
        let holdings: Vec<_> = self.ids.iter().take(payloads).map(held).collect();
        for part in holdings.chunks(256) {
            let bytes = Message::Holdings(list(part.to_vec())).encode().unwrap();
            self.input(Input::Frame { peer, bytes });
        }
    }

    fn input(&mut self, input: Input) {
        self.state.handle_input(input, self.now);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        while let Some((at, _)) = self.state.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now.mono = self.now.mono.max(at);
            self.state.handle_timeout(self.now);
            self.drain();
        }
        self.now.mono = end;
    }

    fn drain(&mut self) {
        let mut answers = Vec::new();
        while let Some(output) = self.state.poll_output() {
            match output {
                Output::Persist { token, .. } => answers.push(Input::Persisted { token }),
                Output::Detect { release } => answers.push(Input::Detected { release, result: Detection::Absent }),
                Output::Open { payload, .. } => {
                    answers.push(Input::Opened { payload, result: Ok((Bitmap::new(CHUNKS), 0)) })
                }
                Output::FetchDoc { fetch, from: FetchFrom::Disk, what: wire::BlockWhat::Doc(hash), .. } => {
                    let found = self.documents.get(&hash).cloned();
                    let result = found.ok_or(FetchError::Unreachable("not on disk".into()));
                    answers.push(Input::DocFetched { fetch, result });
                }
                Output::Fetch { .. } => self.fetches.push(output),
                _ => {}
            }
        }
        for answer in answers {
            self.state.handle_input(answer, self.now);
            self.drain();
        }
    }
}
