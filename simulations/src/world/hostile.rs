//! Machines with a valid certificate that mean harm. Owns what each kind does instead of what its program asks for; the program
//! inside is the one that ships, so that whatever it signs is as good as any member's. Never touches an honest machine.

use std::time::Duration;

use upswarm_protocol::chunk::Bitmap;
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::node::{FetchFrom, FetchId, Input, Output, ServeWhat};
use upswarm_protocol::wire::{BlockStatus, BlockWhat, Claim, Lease, MAX_CLAIMED, Topic};

use super::{Happening, World};

/// How often it acts without being asked.
const TICK: Duration = Duration::from_millis(500);
/// A trickler sends one chunk in this time.
const TRICKLE: u64 = 5_000_000;
/// Those that come and go stay for this long.
const WAVE: u64 = 4_000_000;
/// How often one that floods does so, in microseconds.
const FLOODS: u64 = 100_000;

/// What a hostile machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hostile {
    /// Says that it holds everything, and answers each request with Busy.
    Refuse,
    /// Says that it holds everything, and answers nothing.
    Mute,
    /// Says that it holds everything, and sends a chunk in five seconds.
    Trickle,
    /// Says that it holds everything, and sends bad chunks.
    Poison,
    /// Takes leases of whatever it can, fetches nothing, and invents progress.
    Stall,
    /// The same, and says of every extent that it holds it.
    Forge,
    /// Takes leases, and goes and comes again.
    Waves,
    /// Asks all its neighbours for chunks again and again, and gossips as often as it can.
    Flood,
}

/// Every kind.
pub const KINDS: [Hostile; 8] = [
    Hostile::Refuse,
    Hostile::Mute,
    Hostile::Trickle,
    Hostile::Poison,
    Hostile::Stall,
    Hostile::Forge,
    Hostile::Waves,
    Hostile::Flood,
];

impl Hostile {
    fn claims_to_hold(self) -> bool {
        matches!(self, Hostile::Refuse | Hostile::Mute | Hostile::Trickle | Hostile::Poison)
    }

    fn takes_leases(self) -> bool {
        matches!(self, Hostile::Stall | Hostile::Forge | Hostile::Waves | Hostile::Flood)
    }

    /// Microseconds between two of its acts.
    fn acts_every(self) -> u64 {
        if self == Hostile::Flood { FLOODS } else { TICK.as_micros() as u64 }
    }
}

impl World {
    /// Turns so many machines of a hundred of each site hostile, by kinds in turn; those are drawn by the seed.
    pub fn corrupt(&mut self, percent: usize, kinds: &[Hostile]) {
        for place in 0..self.params.sites {
            let mut members: Vec<usize> = self.site(place).collect();
            self.rng.shuffle(&mut members);
            members.truncate(members.len() * percent / 100);
            for (at, node) in members.into_iter().enumerate() {
                self.machines[node].hostile = kinds.get(at % kinds.len().max(1)).copied();
            }
        }
    }

    /// Machines that mean no harm.
    pub fn honest(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|node| self.machines[*node].hostile.is_none()).collect()
    }

    pub(super) fn hostile_started(&mut self, node: usize) {
        if let Some(kind) = self.machines[node].hostile {
            let life = self.machines[node].life;
            self.push(kind.acts_every(), Happening::Hostile { node, life });
        }
    }

    /// What comes of an output of a hostile machine's program; nothing if the machine has done something else instead.
    pub(super) fn twist(&mut self, node: usize, output: Output) -> Option<Output> {
        let Some(kind) = self.machines[node].hostile else { return Some(output) };
        let life = self.machines[node].life;
        match output {
            Output::Open { payload, list, .. } if kind.claims_to_hold() => {
                let mut have = Bitmap::new(list.chunks().len() as u32);
                for chunk in 0..list.chunks().len() as u32 {
                    have.set(chunk);
                }
                self.machines[node].disk.open(payload, &list);
                let input = Box::new(Input::Opened { payload, result: Ok((have, 0)) });
                self.push(3_000, Happening::Local { node, life, input });
                None
            }
            Output::Serve { serve, what: what @ ServeWhat::Chunks { .. } } => match kind {
                Hostile::Mute => None,
                Hostile::Trickle => {
                    self.push(TRICKLE, Happening::HostileServe { node, life, serve, what: Box::new(what) });
                    None
                }
                Hostile::Poison => Some(Output::Serve { serve, what }),
                _ => Some(Output::Deny { serve, status: BlockStatus::Busy }),
            },
            Output::Fetch { from: FetchFrom::Urls(_), .. } => None,
            // It goes on as if it had to.
            Output::Install { .. } | Output::Alarm(_) => None,
            other => Some(other),
        }
    }

    pub(super) fn hostile_acts(&mut self, node: usize) {
        let Some(kind) = self.machines[node].hostile else { return };
        if kind.takes_leases() {
            self.forge_lease(node, kind);
        }
        if kind == Hostile::Flood {
            self.ask_all(node);
        }
        if kind == Hostile::Waves && self.now / WAVE % 2 == node as u64 % 2 {
            self.kill(node, false);
            return self.start(node, Duration::from_micros(WAVE));
        }
        self.hostile_started(node);
    }

    /// Asks every neighbour for the same large block of everything, whether it has it already or not.
    fn ask_all(&mut self, node: usize) {
        let lists: Vec<_> = self.lists.iter().map(|(payload, list)| (*payload, list.chunks().len() as u32)).collect();
        let (hub, connections) = (self.hub_number(), &self.machines[node].connections);
        let peers: Vec<_> = connections.iter().filter(|(to, _)| **to != hub).map(|(to, epoch)| (*to, *epoch)).collect();
        for (payload, chunks) in lists {
            for (to, epoch) in peers.iter().copied() {
                let first = self.rng.u32(..chunks.max(1));
                let what = BlockWhat::Chunks { payload, first, count: 1 };
                // No fetch of its program has this number: what comes of it is thrown away.
                self.push(
                    self.latency(node, to),
                    Happening::Request { from: node, to, epoch, fetch: FetchId::MAX, what },
                );
            }
        }
    }

    /// A lease, rightly signed, of extents that nobody has asked it to fetch.
    fn forge_lease(&mut self, node: usize, kind: Hostile) {
        let lists: Vec<_> = self.lists.iter().map(|(payload, list)| (*payload, list.clone())).collect();
        let now = self.clock();
        let first = self.rng.u32(..64);
        let machine = &self.machines[node];
        let claims = lists.iter().take(MAX_CLAIMED).map(|(payload, list)| {
            let extents = upswarm_protocol::lease::extents(list).len() as u32;
            let claimed: Vec<u32> = (0..16.min(extents)).map(|at| (first + at) % extents).collect();
            let held = if kind == Hostile::Forge { vec![0xff; extents.div_ceil(8) as usize] } else { Vec::new() };
            Claim { payload: *payload, extents: Bounded::truncated(claimed), held: Bounded::truncated(held) }
        });
        let lease = Lease {
            device: machine.device,
            site: machine.site,
            seq: now.wall.0 + 1_000_000,
            progress: self.now,
            claims: Bounded::truncated(claims.collect()),
        };
        let site = machine.site;
        match envelope::sign(Kind::Lease, Role::Device, &lease, &[&machine.key]) {
            Ok(bytes) => self.publish_gossip(node, Topic::Site(site), bytes),
            Err(error) => self.broken(node, &format!("a lease that cannot be signed: {error}")),
        }
    }
}
