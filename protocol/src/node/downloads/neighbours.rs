//! The connected members of the site, as the exchange of payloads sees them: what each says it holds, what may be asked of it,
//! and whose turn it is to be asked.
//!
//! Whoever has something and is not resting is kept in the order in which it is asked, so that nothing walks all neighbours
//! to find the next one. It never asks and never sends.

use super::*;

/// One of them.
#[derive(Debug, Default)]
pub(in crate::node) struct Neighbour {
    /// Whether it is a branch cache.
    cache: bool,
    /// What it holds, as it said: bitmap bytes, empty for all.
    holdings: BTreeMap<PayloadId, Vec<u8>>,
    holding_bytes: usize,
    /// Payloads of which it may have something to ask for. What turns out not to leaves the set, and comes back with the next
    /// news of it.
    offers: BTreeSet<(u64, PayloadId)>,
    /// Block fetches under way.
    pub(in crate::node) outstanding: usize,
    /// It said busy, or was slow: not asked before this.
    pub(in crate::node) busy_until: Mono,
    /// Since when it has been asked without giving anything.
    pub(in crate::node) asked: Option<Mono>,
    /// How often it gave nothing for long.
    pub(in crate::node) doubts: u32,
    /// Payload bytes it gave.
    pub(in crate::node) given: u64,
    /// Payload bytes it took.
    pub(in crate::node) taken: u64,
    place: Place,
}

/// Where it waits to be asked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// There is nothing to ask it for.
    #[default]
    Nowhere,
    /// Those with the least under way come first, and of those a random one.
    Ready(usize, u64),
    Resting(Mono),
}

impl Neighbour {
    /// Whether it has told of a payload.
    pub(in crate::node) fn holds(&self, payload: &PayloadId) -> bool {
        self.holdings.contains_key(payload)
    }

    /// Payloads of which it has told.
    pub(super) fn payloads(&self) -> impl Iterator<Item = &PayloadId> {
        self.holdings.keys()
    }

    /// Their number.
    pub(in crate::node) fn holdings(&self) -> usize {
        self.holdings.len()
    }
}

/// All of them. Bounded by the number of connections.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    map: BTreeMap<DeviceId, Neighbour>,
    ready: BTreeSet<(usize, u64, DeviceId)>,
    resting: BTreeSet<(Mono, DeviceId)>,
}

impl Neighbours {
    pub(super) fn came(&mut self, device: DeviceId, cache: bool) {
        self.gone(&device);
        self.map.insert(device, Neighbour { cache, ..Neighbour::default() });
    }

    pub(super) fn gone(&mut self, device: &DeviceId) -> Option<Neighbour> {
        let gone = self.map.remove(device)?;
        self.leave(device, gone.place);
        Some(gone)
    }

    pub(super) fn get(&self, device: &DeviceId) -> Option<&Neighbour> {
        self.map.get(device)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&DeviceId, &Neighbour)> {
        self.map.iter()
    }

    pub(super) fn devices(&self) -> impl Iterator<Item = &DeviceId> {
        self.map.keys()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(super) fn is_cache(&self, device: &DeviceId) -> bool {
        self.map.get(device).is_some_and(|neighbour| neighbour.cache)
    }

    /// It has said what it holds of a payload. Returns whether that is its first word about it, or nothing if that is more than
    /// a node remembers.
    pub(super) fn told(&mut self, device: &DeviceId, payload: PayloadId, bits: Vec<u8>) -> Option<bool> {
        let neighbour = self.map.get_mut(device)?;
        let before = neighbour.holdings.get(&payload).map(Vec::len);
        let bytes = neighbour.holding_bytes - before.unwrap_or(0) + bits.len();
        if (before.is_none() && neighbour.holdings.len() >= news::MAX_HOLDINGS) || bytes > news::MAX_HOLDING_BYTES {
            return None;
        }
        neighbour.holding_bytes = bytes;
        neighbour.holdings.insert(payload, bits);
        Some(before.is_none())
    }

    /// What it has said of a payload.
    pub(super) fn bits(&self, device: &DeviceId, payload: &PayloadId) -> Option<&[u8]> {
        self.map.get(device)?.holdings.get(payload).map(Vec::as_slice)
    }

    /// It has these chunks too. Returns `false` if there are no such chunks, and nothing if it has not told of the payload.
    pub(super) fn told_more(&mut self, device: &DeviceId, payload: &PayloadId, chunks: &[u32]) -> Option<bool> {
        let bits = self.map.get_mut(device)?.holdings.get_mut(payload)?;
        if bits.is_empty() {
            return Some(true);
        }
        for chunk in chunks {
            let Some(byte) = bits.get_mut(*chunk as usize / 8) else { return Some(false) };
            *byte |= 1 << (chunk % 8);
        }
        Some(true)
    }

    /// It holds nothing of a payload any more. Returns whether it has told of it.
    pub(super) fn told_nothing(&mut self, device: &DeviceId, payload: &PayloadId) -> bool {
        let Some(neighbour) = self.map.get_mut(device) else { return false };
        let Some(bits) = neighbour.holdings.remove(payload) else { return false };
        neighbour.holding_bytes -= bits.len();
        true
    }

    /// There may be something to ask it for.
    pub(super) fn offers(&mut self, device: &DeviceId, order: (u64, PayloadId), rng: &mut Rng) {
        let Some(neighbour) = self.map.get_mut(device) else { return };
        if neighbour.offers.insert(order) && neighbour.place == Place::Nowhere {
            self.file(device, rng);
        }
    }

    /// What may be asked of it first.
    pub(super) fn first_offer(&self, device: &DeviceId) -> Option<(u64, PayloadId)> {
        self.map.get(device)?.offers.first().copied()
    }

    /// It has nothing of this payload to ask for.
    pub(super) fn offers_not(&mut self, device: &DeviceId, order: &(u64, PayloadId)) {
        if let Some(neighbour) = self.map.get_mut(device) {
            neighbour.offers.remove(order);
        }
    }

    /// A neighbour has changed in what decides when it is asked.
    pub(super) fn change(&mut self, device: &DeviceId, rng: &mut Rng, change: impl FnOnce(&mut Neighbour)) {
        let Some(neighbour) = self.map.get_mut(device) else { return };
        change(neighbour);
        self.file(device, rng);
    }

    /// It is not asked before this.
    pub(super) fn rest(&mut self, device: &DeviceId, until: Mono, rng: &mut Rng) {
        self.change(device, rng, |neighbour| neighbour.busy_until = neighbour.busy_until.max(until));
    }

    /// It gave payload bytes.
    pub(super) fn gave(&mut self, device: &DeviceId, bytes: u64) {
        if let Some(neighbour) = self.map.get_mut(device) {
            neighbour.given += bytes;
            neighbour.asked = None;
        }
    }

    /// It took some.
    pub(super) fn took(&mut self, device: &DeviceId, bytes: u64) {
        if let Some(neighbour) = self.map.get_mut(device) {
            neighbour.taken += bytes;
        }
    }

    /// The next to be asked, of those with fewer than `most` under way.
    pub(super) fn next(&mut self, most: usize, now: Mono, rng: &mut Rng) -> Option<DeviceId> {
        while let Some((_, device)) = self.resting.first().copied().filter(|(until, _)| *until <= now) {
            let neighbour = self.map.get_mut(&device)?;
            neighbour.busy_until = Mono(0);
            self.file(&device, rng);
        }
        self.ready.first().filter(|(outstanding, _, _)| *outstanding < most).map(|(_, _, device)| *device)
    }

    fn leave(&mut self, device: &DeviceId, place: Place) {
        match place {
            Place::Nowhere => {}
            Place::Ready(outstanding, turn) => drop(self.ready.remove(&(outstanding, turn, *device))),
            Place::Resting(until) => drop(self.resting.remove(&(until, *device))),
        }
    }

    fn file(&mut self, device: &DeviceId, rng: &mut Rng) {
        let Some(neighbour) = self.map.get_mut(device) else { return };
        let place = if neighbour.offers.is_empty() {
            Place::Nowhere
        } else if neighbour.busy_until > Mono(0) {
            Place::Resting(neighbour.busy_until)
        } else {
            Place::Ready(neighbour.outstanding, rng.below(usize::MAX) as u64)
        };
        let before = core::mem::replace(&mut neighbour.place, place);
        self.leave(device, before);
        match place {
            Place::Nowhere => {}
            Place::Ready(outstanding, turn) => drop(self.ready.insert((outstanding, turn, *device))),
            Place::Resting(until) => drop(self.resting.insert((until, *device))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: PayloadId = PayloadId([9; 32]);

    fn three() -> (Neighbours, Rng) {
        let (mut neighbours, mut rng) = (Neighbours::default(), Rng::new(1));
        for number in 1..=3 {
            neighbours.came(DeviceId([number; 32]), false);
            neighbours.offers(&DeviceId([number; 32]), (0, PAYLOAD), &mut rng);
        }
        (neighbours, rng)
    }

    #[test]
    fn the_least_busy_is_asked_first_and_nobody_beyond_the_limit() {
        let (mut neighbours, mut rng) = three();
        let mut asked = BTreeMap::<_, usize>::new();
        while let Some(device) = neighbours.next(2, Mono(1), &mut rng) {
            *asked.entry(device).or_default() += 1;
            let least = neighbours.iter().map(|(_, neighbour)| neighbour.outstanding).min();
            assert_eq!(neighbours.get(&device).map(|neighbour| neighbour.outstanding), least);
            neighbours.change(&device, &mut rng, |neighbour| neighbour.outstanding += 1);
        }
        assert_eq!(asked.into_values().collect::<Vec<_>>(), [2, 2, 2]);
    }

    #[test]
    fn one_that_rests_or_has_nothing_is_not_asked() {
        let (mut neighbours, mut rng) = three();
        let [one, two, three] = [1, 2, 3].map(|number| DeviceId([number; 32]));
        neighbours.change(&one, &mut rng, |neighbour| neighbour.busy_until = Mono(50));
        neighbours.offers_not(&two, &(0, PAYLOAD));
        neighbours.change(&two, &mut rng, |_| ());
        assert!(neighbours.gone(&three).is_some());
        assert_eq!(neighbours.next(3, Mono(49), &mut rng), None);
        assert_eq!(neighbours.next(3, Mono(50), &mut rng), Some(one));
        neighbours.offers(&two, (0, PAYLOAD), &mut rng);
        neighbours.change(&one, &mut rng, |neighbour| neighbour.outstanding = 1);
        assert_eq!(neighbours.next(3, Mono(50), &mut rng), Some(two));
    }

    #[test]
    fn what_a_neighbour_tells_is_bounded() {
        let (mut neighbours, _) = three();
        let one = DeviceId([1; 32]);
        assert_eq!(neighbours.told(&one, PAYLOAD, vec![0; 100]), Some(true));
        assert_eq!(neighbours.told(&one, PAYLOAD, vec![0; 10]), Some(false));
        assert_eq!(neighbours.told(&one, PayloadId([8; 32]), vec![0; news::MAX_HOLDING_BYTES - 9]), None);
        assert_eq!(neighbours.told(&one, PayloadId([8; 32]), vec![0; news::MAX_HOLDING_BYTES - 10]), Some(true));
        assert!(neighbours.told_nothing(&one, &PayloadId([8; 32])));
        let number = |number: usize| PayloadId(*blake3::hash(&number.to_le_bytes()).as_bytes());
        for at in 1..news::MAX_HOLDINGS {
            assert_eq!(neighbours.told(&one, number(at), Vec::new()), Some(true));
        }
        assert_eq!(neighbours.told(&one, number(0), Vec::new()), None);
        assert_eq!(neighbours.told_more(&one, &PAYLOAD, &[79]), Some(true));
        assert_eq!(neighbours.told_more(&one, &PAYLOAD, &[80]), Some(false));
    }
}
