//! The chunks of one payload among neighbours: what is here, what they have, and what to ask whom for next.
//!
//! Invariants:
//! * `have` holds only chunks that were hashed and are on disk; only those are announced and served.
//! * A chunk is in flight once; twice only in the endgame, and then from LAN peers alone.

use core::ops::Range;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::chunk::{Bitmap, ChunkList};
use crate::ids::DeviceId;
use crate::lease;
use crate::rng::Rng;

/// At most so many chunks are missing in the endgame: those that are late may be asked for twice.
const ENDGAME: u32 = 8;
/// The most bytes of one request over the WAN, unless a chunk is larger: what is asked for and has not come is lost to a machine
/// that is switched off, and bytes of a pause too.
pub const WAN_RUN: u64 = 2 << 20;

/// Which of equally rare chunks this node should ask for first, so that their few holders give different chunks to different
/// neighbours. Without a message: everyone divides the payload among itself and those that it knows to want it.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// This node's place among those that want the payload, by device.
    place: u64,
    /// How many they are.
    of: u64,
}

impl Share {
    /// Chunks that go to one member together: about what one block holds.
    const RUN: u32 = 4;

    /// The share of a node that wants the payload with others, `of` in all, of which `place` come before it by device.
    pub fn of(place: u64, of: u64) -> Self {
        Self { place, of: of.max(1) }
    }

    /// The share of the only one that wants it.
    pub fn whole() -> Self {
        Self::of(0, 1)
    }

    fn is_mine(&self, chunk: u32) -> bool {
        // Neighbouring runs go to different members, and so do the first ones of different parts.
        let run = u64::from(chunk / Self::RUN);
        (run + run / self.of) % self.of == self.place
    }
}

/// A number that looks random and depends on a device and another number: cheap, for choices that need no more (the
/// finalizer of MurmurHash3; devices are as good as random already).
pub fn mixed(device: &DeviceId, number: u64) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&device.0[..8]);
    let mut mixed = u64::from_le_bytes(word) ^ number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

/// One payload's chunks.
#[derive(Debug)]
pub struct Swarm {
    list: Arc<ChunkList>,
    extents: Vec<Range<u32>>,
    have: Bitmap,
    have_bytes: u64,
    peers: BTreeMap<DeviceId, Bitmap>,
    /// Neighbours that were asked and gave nothing: they may be asked again, and what they say they hold does not count.
    doubted: BTreeSet<DeviceId>,
    /// Believed neighbours that hold a chunk, per chunk.
    copies: Vec<u16>,
    /// Believed neighbours that hold all of it.
    whole: usize,
    /// Fetches under way, per chunk.
    in_flight: Vec<u8>,
    /// Chunks with a fetch under way.
    busy: Bitmap,
}

impl Swarm {
    /// The swarm of a payload of which this node has `have`, a bitmap of the list's length.
    pub fn new(list: Arc<ChunkList>, have: Bitmap) -> Self {
        let chunks = list.chunks().len();
        let have_bytes = have.iter().map(|at| u64::from(list.chunks()[at as usize].len)).sum();
        Self {
            extents: lease::extents(&list),
            have,
            have_bytes,
            peers: BTreeMap::new(),
            doubted: BTreeSet::new(),
            copies: vec![0; chunks],
            whole: 0,
            in_flight: vec![0; chunks],
            busy: Bitmap::new(chunks as u32),
            list,
        }
    }

    /// The pieces.
    pub fn list(&self) -> &Arc<ChunkList> {
        &self.list
    }

    /// What is here.
    pub fn have(&self) -> &Bitmap {
        &self.have
    }

    /// Bytes of what is here.
    pub fn have_bytes(&self) -> u64 {
        self.have_bytes
    }

    /// Number of chunks that are not here.
    pub fn missing(&self) -> u32 {
        self.have.len() - self.have.count()
    }

    /// Bytes of those chunks of a run that are not here.
    pub fn missing_bytes(&self, run: Range<u32>) -> u64 {
        run.filter(|chunk| !self.have.get(*chunk)).map(|chunk| self.len_of(chunk)).sum()
    }

    /// Runs of chunks that are leased as one.
    pub fn extents(&self) -> &[Range<u32>] {
        &self.extents
    }

    /// The extent that a chunk belongs to.
    pub fn extent_of(&self, chunk: u32) -> u32 {
        self.extents.partition_point(|extent| extent.end <= chunk) as u32
    }

    /// A chunk is here now. Returns whether that is news.
    pub fn stored(&mut self, chunk: u32) -> bool {
        let news = self.have.set(chunk);
        if news {
            self.have_bytes += u64::from(self.list.chunks()[chunk as usize].len);
        }
        news
    }

    /// A chunk is not here any more. Returns whether it was.
    pub fn lost(&mut self, chunk: u32) -> bool {
        let was = chunk < self.have.len() && self.have.clear(chunk);
        if was {
            self.have_bytes -= u64::from(self.list.chunks()[chunk as usize].len);
        }
        was
    }

    /// A neighbour holds exactly these chunks. `None` stands for all. Returns `false` for a bitmap of the wrong length.
    pub fn peer_holds(&mut self, peer: DeviceId, bits: Option<&[u8]>) -> bool {
        let len = self.have.len();
        let Some(map) = bits.map_or_else(|| Some(Bitmap::full(len)), |bits| Bitmap::from_bytes(bits, len)) else {
            return false;
        };
        self.peer_gone(&peer);
        if !self.doubted.contains(&peer) {
            self.count(&map);
        }
        self.peers.insert(peer, map);
        true
    }

    fn count(&mut self, map: &Bitmap) {
        for chunk in map.iter() {
            self.copies[chunk as usize] += 1;
        }
        self.whole += usize::from(map.is_full());
    }

    fn discount(&mut self, map: &Bitmap) {
        for chunk in map.iter() {
            self.copies[chunk as usize] -= 1;
        }
        self.whole -= usize::from(map.is_full());
    }

    /// A neighbour was asked for what it says it holds, and gave nothing in time. Returns whether that is news.
    pub fn doubt(&mut self, peer: &DeviceId) -> bool {
        let Some(map) = self.peers.get(peer).filter(|_| !self.doubted.contains(peer)).cloned() else { return false };
        self.discount(&map);
        self.doubted.insert(*peer)
    }

    /// A doubted neighbour has given something in time.
    pub fn believe(&mut self, peer: &DeviceId) {
        if self.doubted.remove(peer)
            && let Some(map) = self.peers.get(peer).cloned()
        {
            self.count(&map);
        }
    }

    /// Whether what a neighbour says it holds does not count.
    pub fn doubts(&self, peer: &DeviceId) -> bool {
        self.doubted.contains(peer)
    }

    /// A neighbour that has told of its chunks before has more now. Returns `false` when a position is out of bounds.
    pub fn peer_has(&mut self, peer: &DeviceId, chunks: &[u32]) -> bool {
        let Some(map) = self.peers.get_mut(peer) else { return true };
        let (was, counts) = (map.is_full(), !self.doubted.contains(peer));
        for chunk in chunks {
            if *chunk >= map.len() {
                return false;
            }
            if map.set(*chunk) && counts {
                self.copies[*chunk as usize] += 1;
            }
        }
        self.whole += usize::from(map.is_full() && !was && counts);
        true
    }

    /// A neighbour turned out not to hold a chunk.
    pub fn peer_lacks(&mut self, peer: &DeviceId, run: Range<u32>) {
        let Some(map) = self.peers.get_mut(peer) else { return };
        let (was, counts) = (map.is_full(), !self.doubted.contains(peer));
        for chunk in run {
            if map.clear(chunk) && counts {
                self.copies[chunk as usize] -= 1;
            }
        }
        self.whole -= usize::from(was && !map.is_full() && counts);
    }

    /// A neighbour is gone, or holds nothing any more.
    pub fn peer_gone(&mut self, peer: &DeviceId) {
        if let Some(map) = self.peers.remove(peer)
            && !self.doubted.contains(peer)
        {
            self.discount(&map);
        }
    }

    /// Neighbours that told of their chunks.
    pub fn peers(&self) -> impl Iterator<Item = (&DeviceId, &Bitmap)> {
        self.peers.iter()
    }

    /// Whether some neighbour holds all of it.
    pub fn is_whole_somewhere(&self) -> bool {
        self.whole > 0
    }

    /// What a neighbour has told of its chunks.
    pub fn map_of(&self, peer: &DeviceId) -> Option<&Bitmap> {
        self.peers.get(peer)
    }

    /// Whether a neighbour has told of its chunks.
    pub fn knows(&self, peer: &DeviceId) -> bool {
        self.peers.contains_key(peer)
    }

    /// A fetch of these chunks has begun.
    pub fn begun(&mut self, run: Range<u32>) {
        for chunk in run {
            let count = &mut self.in_flight[chunk as usize];
            *count = count.saturating_add(1);
            self.busy.set(chunk);
        }
    }

    /// A fetch of these chunks is over, well or not.
    pub fn ended(&mut self, run: Range<u32>) {
        for chunk in run {
            let count = &mut self.in_flight[chunk as usize];
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.busy.clear(chunk);
            }
        }
    }

    /// Whether so little is missing that a slow neighbour could hold up everything.
    pub fn in_endgame(&self) -> bool {
        self.missing() <= ENDGAME
    }

    /// The run of chunks to ask this neighbour for next: it begins with one of the rarest it holds that are missing here and
    /// not under way (of several, one that is this node's share, else at random), and goes on to at most `most` bytes.
    /// In the endgame it may also begin with one that is under way once and `late`.
    pub fn pick(
        &self,
        peer: &DeviceId,
        share: &Share,
        late: &BTreeSet<u32>,
        most: u64,
        rng: &mut Rng,
    ) -> Option<Range<u32>> {
        let theirs = self.peers.get(peer)?;
        let first = self.rarest(theirs, rng, share, None).or_else(|| {
            let twice = self.in_endgame() && !late.is_empty();
            if twice { self.rarest(theirs, rng, share, Some(late)) } else { None }
        })?;
        let under_way = self.in_flight[first as usize];
        let free = |chunk: u32| match self.in_flight[chunk as usize] {
            0 => true,
            count => count <= under_way && late.contains(&chunk),
        };
        let mut run = first..first + 1;
        let mut bytes = u64::from(self.list.chunks()[first as usize].len);
        while run.end < self.have.len() {
            let next = run.end;
            bytes += u64::from(self.list.chunks()[next as usize].len);
            if bytes > most || self.have.get(next) || !theirs.get(next) || !free(next) {
                break;
            }
            run.end += 1;
        }
        Some(run)
    }

    /// Of the chunks that are not under way, or of those that are, once, and late.
    fn rarest(&self, theirs: &Bitmap, rng: &mut Rng, share: &Share, late: Option<&BTreeSet<u32>>) -> Option<u32> {
        let (mut best, mut copies, mut ties) = (None, (u16::MAX, true, true), 0);
        let maps = self.have.as_bytes().iter().zip(theirs.as_bytes()).zip(self.busy.as_bytes());
        for (byte, ((here, there), busy)) in maps.enumerate() {
            let mut wanted = there & !here & if late.is_some() { 0xff } else { !busy };
            while wanted != 0 {
                let chunk = byte * 8 + wanted.trailing_zeros() as usize;
                wanted &= wanted - 1;
                if late.is_some_and(|late| self.in_flight[chunk] != 1 || !late.contains(&(chunk as u32))) {
                    continue;
                }
                // Where shares begin, whole blocks begin.
                let inside = !(chunk as u32).is_multiple_of(Share::RUN);
                let rank = (self.copies[chunk], !share.is_mine(chunk as u32), inside);
                if rank < copies {
                    (best, copies, ties) = (Some(chunk as u32), rank, 1);
                } else if rank == copies {
                    ties += 1;
                    if rng.below(ties) == 0 {
                        best = Some(chunk as u32);
                    }
                }
            }
        }
        best
    }

    /// The chunks of an extent that must come over the WAN: the first run that is neither here, nor with a neighbour, nor
    /// under way, as far as [`WAN_RUN`].
    pub fn wan_run(&self, extent: u32) -> Option<Range<u32>> {
        let extent = self.extents.get(extent as usize)?.clone();
        let start = extent.clone().find(|chunk| self.must_come(*chunk))?;
        let mut bytes = 0;
        let goes_on = |chunk: &u32| {
            bytes += self.len_of(*chunk);
            self.must_come(*chunk) && (*chunk == start || bytes <= WAN_RUN)
        };
        Some(start..start + (start..extent.end).take_while(goes_on).count() as u32)
    }

    /// Bytes of an extent that must come over the WAN and are not under way.
    pub fn wan_bytes(&self, extent: u32) -> u64 {
        let chunks = self.extents.get(extent as usize).cloned().into_iter().flatten();
        chunks.filter(|chunk| self.must_come(*chunk)).map(|chunk| self.len_of(chunk)).sum()
    }

    /// Neither here, nor with a neighbour, nor under way.
    fn must_come(&self, chunk: u32) -> bool {
        self.lacking(chunk) && self.in_flight[chunk as usize] == 0
    }

    fn len_of(&self, chunk: u32) -> u64 {
        u64::from(self.list.chunks()[chunk as usize].len)
    }

    /// Extents with a chunk that neither this node nor a neighbour has.
    pub fn lacking_extents(&self) -> Vec<u32> {
        (0u32..)
            .zip(&self.extents)
            .filter(|(_, extent)| (*extent).clone().any(|chunk| self.lacking(chunk)))
            .map(|(at, _)| at)
            .collect()
    }

    /// Extents of which every chunk is here: a bit for each, without the zero bytes at the end.
    pub fn extents_held(&self) -> Vec<u8> {
        let mut bits = vec![0; self.extents.len().div_ceil(8)];
        for (at, extent) in self.extents.iter().enumerate() {
            if extent.clone().all(|chunk| self.have.get(chunk)) {
                bits[at / 8] |= 1 << (at % 8);
            }
        }
        bits.truncate(bits.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        bits
    }

    /// Whether neither this node nor a believed neighbour has a chunk.
    pub fn lacking(&self, chunk: u32) -> bool {
        !self.have.get(chunk) && self.copies[chunk as usize] == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::ChunkSizes;
    use crate::ids::ChunkId;
    use crate::wire::MAX_BLOCK;

    fn swarm(chunks: u32) -> Swarm {
        let sizes = ChunkSizes::default();
        let list = ChunkList::new(sizes, (0..chunks).map(|n| (ChunkId::of(&n.to_le_bytes()), 256 << 10))).unwrap();
        Swarm::new(Arc::new(list), Bitmap::new(chunks))
    }

    fn alone() -> Share {
        Share::whole()
    }

    #[test]
    fn those_that_lack_everything_ask_its_holder_for_different_chunks() {
        let holder = DeviceId([1; 32]);
        let all: Vec<_> = (0u8..8).map(|n| DeviceId(*blake3::hash(&[n]).as_bytes())).collect();
        let mut rng = Rng::new(1);
        let mut asked: Vec<u32> = Vec::new();
        for me in &all {
            let mut swarm = swarm(256);
            swarm.peer_holds(holder, None);
            let share = Share::of(all.iter().filter(|other| *other < me).count() as u64, all.len() as u64);
            for _ in 0..3 {
                let run = swarm.pick(&holder, &share, &BTreeSet::new(), MAX_BLOCK, &mut rng).unwrap();
                swarm.begun(run.clone());
                asked.push(run.start);
                assert!(share.is_mine(run.start));
            }
        }
        let different: BTreeSet<_> = asked.iter().map(|chunk| chunk / Share::RUN).collect();
        assert_eq!(different.len(), 24, "{asked:?}");
    }

    #[test]
    fn the_rarest_chunk_is_asked_for_first_and_only_once() {
        let (a, b) = (DeviceId([1; 32]), DeviceId([2; 32]));
        let mut swarm = swarm(64);
        let (mut rng, none) = (Rng::new(1), BTreeSet::new());
        assert!(swarm.peer_holds(a, None));
        let mut others = Bitmap::full(64);
        others.clear(40);
        assert!(swarm.peer_holds(b, Some(others.as_bytes())));
        let run = swarm.pick(&a, &alone(), &none, MAX_BLOCK, &mut rng).unwrap();
        assert_eq!(run, 40..44, "40 has one copy; 1 MiB of 256 KiB chunks");
        swarm.begun(run.clone());
        assert!(!swarm.pick(&a, &alone(), &none, MAX_BLOCK, &mut rng).unwrap().any(|chunk| run.contains(&chunk)));
        swarm.ended(run);
        assert!(!swarm.peer_holds(a, Some(&[0xff])), "a bitmap of the wrong length");
    }

    #[test]
    fn an_extent_of_a_large_payload_is_asked_for_in_parts() {
        let mut swarm = swarm(1024);
        let extent = swarm.extents()[1].clone();
        assert_eq!(extent, 16..32, "4 MiB of 256 KiB chunks");
        for (run, left) in [(16..24, 2 << 20), (24..32, 0)] {
            assert_eq!(swarm.wan_run(1), Some(run.clone()));
            swarm.begun(run);
            assert_eq!(swarm.wan_bytes(1), left);
        }
        assert_eq!(swarm.wan_run(1), None);
    }

    #[test]
    fn what_a_neighbour_has_does_not_cross_the_wan() {
        let mut swarm = swarm(64);
        assert_eq!(swarm.extents().len(), 16);
        assert_eq!(swarm.wan_run(1), Some(4..8));
        let a = DeviceId([1; 32]);
        let mut map = Bitmap::new(64);
        map.set(4);
        map.set(6);
        swarm.peer_holds(a, Some(map.as_bytes()));
        assert_eq!(swarm.wan_run(1), Some(5..6));
        swarm.begun(5..6);
        assert_eq!(swarm.wan_run(1), Some(7..8));
        swarm.peer_gone(&a);
        assert_eq!(swarm.wan_run(1), Some(4..5));
        assert_eq!(swarm.extent_of(7), 1);
        swarm.stored(7);
        assert_eq!(swarm.lacking_extents().len(), 16);
        assert!(swarm.extents_held().is_empty());
        (32..36).for_each(|chunk| assert!(swarm.stored(chunk)));
        assert_eq!(swarm.extents_held(), [0, 1]);
    }

    #[test]
    fn in_the_endgame_a_late_chunk_is_asked_for_twice_and_not_thrice() {
        let (a, b) = (DeviceId([1; 32]), DeviceId([2; 32]));
        let mut swarm = swarm(2);
        let mut rng = Rng::new(1);
        let late = BTreeSet::from([0]);
        swarm.peer_holds(a, None);
        swarm.peer_holds(b, None);
        let run = swarm.pick(&a, &alone(), &late, MAX_BLOCK, &mut rng).unwrap();
        assert_eq!(run, 0..2);
        swarm.begun(run);
        assert_eq!(swarm.pick(&b, &alone(), &BTreeSet::new(), MAX_BLOCK, &mut rng), None, "on its way");
        let run = swarm.pick(&b, &alone(), &late, MAX_BLOCK, &mut rng).unwrap();
        assert_eq!(run, 0..1, "what is not late is not asked for again with it");
        swarm.begun(run);
        assert_eq!(swarm.pick(&a, &alone(), &late, MAX_BLOCK, &mut rng), None);
    }
}
