//! The downloads alone: what they ask for, and what they want of others.

use ed25519_dalek::SigningKey;

use super::*;
use crate::chunk::ChunkSizes;
use crate::ids::{ChunkId, SiteId};
use crate::node::NodeConfig;
use crate::time::Wall;
use crate::wire::{Held, Holding};

const CHUNKS: u32 = 64;
const LEN: u32 = 256 << 10;

/// A node's downloads with what they look at, and nobody else.
struct Alone {
    downloads: Downloads,
    cx: Cx,
    membership: Membership,
    standing: Standing,
    list: Arc<ChunkList>,
}

impl Alone {
    fn new() -> Self {
        let key = SigningKey::from_bytes(&[40; 32]);
        let me = DeviceId(key.verifying_key().to_bytes());
        let config = NodeConfig {
            key,
            seed: 1,
            label: Text::lossy("pc-1"),
            agent: Text::lossy("test"),
            os: Text::lossy("linux"),
            build_time: Wall(0),
            coordinator: DeviceId([0xcc; 32]),
            coordinator_addresses: vec![],
            peers: vec![],
            origins: vec!["http://origin.example".into()],
            wan_weight: 8,
            machine: Default::default(),
            upload_slots: 4,
            ask_first: Duration::ZERO,
            zone: jiff::tz::TimeZone::UTC,
            boot: Text::default(),
        };
        let pieces = (0..CHUNKS).map(|n| (ChunkId::of(&n.to_le_bytes()), LEN));
        Self {
            downloads: Downloads::new(me, Vec::new()),
            membership: Membership::new(me, SiteId([1; 16])),
            standing: Standing::new(&config),
            list: Arc::new(ChunkList::new(ChunkSizes::default(), pieces).unwrap()),
            cx: Cx::new(config, me, Now { mono: Mono(1_000_000_000), wall: Wall(1_000_000) }),
        }
    }

    fn act<T>(&mut self, act: impl FnOnce(&mut Downloads, &mut Cx, View<'_>) -> T) -> T {
        let (banned, claimed) = (BTreeMap::new(), BTreeSet::new());
        let view = View {
            origins: &[],
            membership: &self.membership,
            standing: &self.standing,
            banned: &banned,
            claimed: &claimed,
            is_known: true,
            first_of_site: false,
        };
        act(&mut self.downloads, &mut self.cx, view)
    }

    /// Wants a payload of which nothing is on disk.
    fn wants(&mut self, number: u8) -> PayloadId {
        let id = PayloadId([number; 32]);
        let payload = catalog::Payload {
            name: Text::lossy("setup"),
            id,
            len: self.list.payload_len(),
            chunk_list: DocHash([number; 32]),
            chunk_list_len: 0,
            sha256: [0; 32],
            urls: Bounded::default(),
            patches: Bounded::default(),
        };
        let list = self.list.clone();
        self.act(|downloads, cx, view| {
            downloads.want(&payload, true, cx, view);
            downloads.list_arrived(id, list, cx);
            downloads.opened(id, Ok((Bitmap::new(CHUNKS), 0)), cx, view);
        });
        id
    }

    fn meets(&mut self, number: u8) -> DeviceId {
        let device = DeviceId([number; 32]);
        self.act(|downloads, cx, view| downloads.neighbour_came(device, false, cx, view));
        device
    }

    fn hears(&mut self, device: DeviceId, payload: PayloadId, held: Held) {
        let holding = Holding { payload, wants: false, held };
        self.act(|downloads, cx, view| downloads.holdings_heard(device, vec![holding], cx, view));
    }

    fn effects(&mut self) -> Vec<Effect> {
        core::iter::from_fn(|| self.downloads.poll_effect()).collect()
    }

    /// Blocks that were asked for: (fetch, of whom, first, count).
    fn asked(&mut self) -> Vec<(FetchId, DeviceId, u32, u32)> {
        let fetches = self.cx.out.drain(..).filter_map(|output| match output {
            Output::Fetch { fetch, from: FetchFrom::Peer(peer), first, count, .. } => Some((fetch, peer, first, count)),
            _ => None,
        });
        fetches.collect()
    }
}

#[test]
fn every_chunk_is_asked_for_once_and_the_last_one_is_told_of() {
    let mut alone = Alone::new();
    let payload = alone.wants(1);
    let holders = [2, 3].map(|number| alone.meets(number));
    alone.effects();
    holders.iter().for_each(|holder| alone.hears(*holder, payload, Held::All));
    let mut from = BTreeMap::<DeviceId, u32>::new();
    let mut asked: VecDeque<_> = alone.asked().into();
    assert_eq!(asked.len(), 2 * PER_PEER);
    while let Some((fetch, peer, first, count)) = asked.pop_front() {
        *from.entry(peer).or_default() += count;
        alone.act(|downloads, cx, view| {
            (first..first + count).for_each(|chunk| downloads.chunk_stored(fetch, payload, chunk, cx, view));
            downloads.fetch_ended(fetch, Ok(()), cx, view);
        });
        asked.extend(alone.asked());
    }
    assert_eq!(from.values().sum::<u32>(), CHUNKS);
    assert!(holders.iter().all(|holder| from[holder] >= CHUNKS / 4), "{from:?}");
    assert_eq!(alone.downloads.progress(&payload), PayloadProgress::Complete);
    let effects = alone.effects();
    for effect in [Effect::Stake(payload), Effect::AllHere, Effect::Report, Effect::Moved(payload)] {
        assert!(effects.contains(&effect), "{effect:?} of {effects:?}");
    }
    assert_eq!((alone.downloads.bytes.lan_peer, alone.downloads.wasted), (u64::from(CHUNKS * LEN), 0));
}

#[test]
fn what_a_holder_did_not_give_is_asked_of_another() {
    let mut alone = Alone::new();
    let payload = alone.wants(1);
    let slow = alone.meets(2);
    alone.hears(slow, payload, Held::All);
    let (fetch, _, first, count) = alone.asked()[0];
    let other = alone.meets(3);
    alone.hears(other, payload, Held::All);
    alone.asked();
    alone.act(|downloads, cx, view| {
        downloads.fetch_ended(fetch, Err(FetchError::Status(BlockStatus::NotHeld)), cx, view);
    });
    let mut runs = BTreeSet::new();
    while let Some((fetch, run, peer)) =
        alone.downloads.fetches.iter().next().map(|(id, f)| (*id, f.run.clone(), f.peer))
    {
        runs.insert((peer, run.start));
        alone.act(|downloads, cx, view| {
            run.for_each(|chunk| downloads.chunk_stored(fetch, payload, chunk, cx, view));
            downloads.fetch_ended(fetch, Ok(()), cx, view);
        });
    }
    let of_run = |peer| runs.iter().any(|(from, at)| *from == Some(peer) && (first..first + count).contains(at));
    assert!(of_run(other) && !of_run(slow), "{runs:?}");
    assert_eq!(alone.downloads.progress(&payload), PayloadProgress::Complete);
}

#[test]
fn a_bitmap_of_the_wrong_length_and_a_bad_chunk_shut_a_neighbour_out() {
    let mut alone = Alone::new();
    let payload = alone.wants(1);
    let (liar, forger) = (alone.meets(2), alone.meets(3));
    alone.effects();
    alone.hears(liar, payload, Held::Some(Bounded::truncated(vec![0xff])));
    let banned =
        |effects: &[Effect], device| effects.iter().any(|e| matches!(e, Effect::Ban { peer, .. } if *peer == device));
    assert!(banned(&alone.effects(), liar));
    alone.hears(forger, payload, Held::All);
    let (fetch, _, first, _) = alone.asked()[0];
    assert!(!banned(&alone.effects(), forger));
    alone.act(|downloads, cx, _| downloads.chunk_rejected(fetch, payload, first, cx));
    assert!(banned(&alone.effects(), forger));
}

#[test]
fn a_member_that_leaves_concerns_only_what_it_was_at_work_on() {
    let mut alone = Alone::new();
    let payloads: Vec<_> = (1..=100).map(|number| alone.wants(number)).collect();
    for payload in &payloads {
        alone.cx.timers.remove(&Reason::Lease(*payload));
    }
    let lease = Lease {
        device: DeviceId([2; 32]),
        site: SiteId([1; 16]),
        seq: 1,
        progress: 0,
        claims: Bounded::truncated(vec![crate::wire::Claim {
            payload: payloads[7],
            extents: Bounded::truncated(vec![0]),
            held: Bounded::default(),
        }]),
    };
    assert_eq!(alone.act(|downloads, cx, view| downloads.lease_taken(&lease, cx, view)), Verdict::Accept);
    alone.act(|downloads, cx, _| downloads.member_left(&lease.device, cx));
    let due: Vec<_> = payloads.iter().filter(|id| alone.cx.timers.is_set(&Reason::Lease(**id))).collect();
    assert_eq!(due, [&payloads[7]]);
    alone.act(|downloads, cx, _| downloads.evicted(payloads[7], cx));
    assert!(alone.downloads.concerned.is_empty());
}

#[test]
fn strangers_get_nothing_and_neighbours_what_is_here() {
    let mut alone = Alone::new();
    let payload = alone.wants(1);
    let (holder, taker) = (alone.meets(2), alone.meets(3));
    alone.hears(holder, payload, Held::All);
    let (fetch, _, first, count) = alone.asked()[0];
    alone.act(|downloads, cx, view| {
        (first..first + count).for_each(|chunk| downloads.chunk_stored(fetch, payload, chunk, cx, view));
    });
    let mut ask = |peer, first| {
        alone.cx.out.clear();
        let what = BlockWhat::Chunks { payload, first, count: 1 };
        alone.act(|downloads, cx, view| downloads.block_requested(peer, 1, what, None, cx, view));
        match alone.cx.out.pop_front() {
            Some(Output::Serve { .. }) => None,
            Some(Output::Deny { status, .. }) => Some(status),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(DeviceId([9; 32]), first), Some(BlockStatus::Refused));
    assert_eq!(ask(taker, first), None);
    assert_eq!(ask(taker, (first + count) % CHUNKS), Some(BlockStatus::NotHeld));
}
