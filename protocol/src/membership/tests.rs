use super::*;
use crate::codec::Bounded;

const SITE: SiteId = SiteId([1; 16]);
const NOW: Mono = Mono(1_000_000);

fn device(number: u16) -> DeviceId {
    DeviceId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn certificate(number: u16) -> Certificate {
    Certificate {
        device: device(number),
        role: NodeRole::Node,
        site: SITE,
        label: Text::default(),
        issued: Wall(1),
        expires: Wall(1 << 40),
    }
}

fn presence(issued: u64, fetches: &[u8]) -> Presence {
    Presence {
        certificate: Default::default(),
        issued: Wall(issued),
        addresses: Bounded::default(),
        wan_weight: 8,
        uplink: false,
        leaving: false,
        fetches: Bounded::new(fetches.iter().map(|at| PayloadKey([*at; 8])).collect()).unwrap(),
        holds: Bounded::default(),
        shares: false,
    }
}

fn hear(members: &mut Membership, number: u16, presence: &Presence) -> Heard {
    let raw = number.to_le_bytes().to_vec();
    members.heard(NOW, (certificate(number), DocHash([9; 32])), presence.clone(), raw)
}

fn mention(number: u16, issued: u64) -> Mention {
    Mention { has_record: false, ..Mention::of(&presence(issued, &[]), &certificate(number)) }
}

fn members() -> Membership {
    Membership::new(device(0), SITE)
}

#[test]
fn who_is_only_mentioned_counts_and_says_nothing() {
    let mut members = members();
    assert!(members.noted(NOW, Mention { speaks: true, ..mention(1, 5) }).is_some());
    assert_eq!((members.size(), members.weights().get(&8)), (2, Some(&1)));
    assert!(members.get(&device(1)).is_none());
    assert_eq!(members.candidates(PayloadKey([7; 8])).count() + members.connected_uplinks().count(), 0);
    let Heard::News(change) = hear(&mut members, 1, &presence(5, &[7])) else { panic!("its record is news") };
    assert_eq!(change.payloads, [PayloadKey([7; 8])].into());
    assert_eq!((members.size(), members.weights().get(&8)), (2, Some(&1)));
    assert_eq!(members.candidates(PayloadKey([7; 8])).collect::<Vec<_>>(), [(device(1), 8)]);
}

#[test]
fn what_is_signed_stands_against_what_is_not() {
    let mut members = members();
    members.noted(NOW, mention(1, 900)).unwrap();
    assert!(matches!(hear(&mut members, 1, &presence(5, &[])), Heard::News(_)), "a made-up time keeps no record out");
    assert!(matches!(hear(&mut members, 1, &presence(4, &[])), Heard::Older(known) if known.issued == Wall(5)));
}

#[test]
fn one_digest_for_those_that_know_the_same() {
    let (mut one, mut other) = (members(), members());
    for number in 1..40 {
        hear(&mut one, number, &presence(5, &[]));
        other.noted(NOW, mention(number, 5)).unwrap();
    }
    for len in [1, 4, BUCKETS] {
        assert_eq!(one.digest(len), other.digest(len));
    }
    other.noted(NOW, mention(3, 6)).unwrap();
    assert_ne!(one.digest(1), other.digest(1));
    let differ = (0..4).find(|at| one.digest(4)[*at] != other.digest(4)[*at]).unwrap();
    assert!(one.bucket(4, differ).any(|found| found.member == mention(3, 5).member && found.has_record));
    assert!(other.bucket(4, differ).any(|found| found.member == mention(3, 5).member && !found.has_record));
    for number in 1..40 {
        one.remove(NOW, &mention(number, 0).member).unwrap();
    }
    assert_eq!(one.digest(1), [MentionId::default()]);
    assert_eq!((one.size(), one.iter().count(), one.absent().count()), (1, 0, 0));
}

#[test]
fn records_of_a_few_that_have_nothing_to_say() {
    let mut members = members();
    for number in 1..=200 {
        hear(&mut members, number, &presence(5, if number <= 20 { &[7] } else { &[] }));
    }
    let empty = Membership::new(device(0), SITE);
    assert!(
        empty.wants(&mention(500, 5), PLAIN - 1) && !empty.wants(&Mention { wan_weight: 0, ..mention(500, 5) }, PLAIN)
    );
    assert!(members.wants(&Mention { speaks: true, ..mention(500, 5) }, 0));
    members.trim(|device| *device == certificate(150).device);
    assert_eq!((members.size(), members.iter().count()), (201, 20 + PLAIN));
    assert!(members.get(&device(150)).is_some(), "a neighbour's stays");
    assert_eq!(members.candidates(PayloadKey([7; 8])).count(), 20);
    assert!(!members.wants(&Mention { wan_weight: 0, ..mention(500, 5) }, 0));
}

#[test]
fn a_machine_that_shows_its_certificate_finds_room_among_those_that_do_not() {
    let mut members = members();
    for number in 0..MAX_MEMBERS as u16 {
        members.noted(NOW, mention(1000 + number, 5)).unwrap();
    }
    assert_eq!(members.noted(NOW, mention(1, 5)), None);
    assert!(matches!(hear(&mut members, 1, &presence(5, &[])), Heard::News(_)));
    assert!(members.get(&device(1)).is_some());
    assert_eq!(members.size(), 1 + MAX_MEMBERS);
}

#[test]
fn one_that_is_gone_stays_so_until_it_speaks_again() {
    let mut members = members();
    hear(&mut members, 1, &presence(5, &[7]));
    let key = mention(1, 5).member;
    let change = members.suspect(NOW, &key, false).unwrap();
    assert_eq!((change.device, change.left, members.size()), (Some(device(1)), true, 1));
    assert_eq!(members.absent().next().map(|(member, issued, _)| (member, issued)), Some((key, Wall(5))));
    members.remove(NOW, &key).unwrap();
    assert_eq!(members.gone_since(NOW, &key, Wall(5)), Some(Wall(5)));
    assert!(matches!(hear(&mut members, 1, &presence(5, &[7])), Heard::Gone(Wall(5))));
    assert!(matches!(hear(&mut members, 1, &presence(6, &[7])), Heard::News(_)));
    assert_eq!(members.size(), 2);
}

#[test]
fn the_same_uplinks_with_records_and_without() {
    let choose = |with_records: bool| -> Vec<u16> {
        let is_chosen = |me: &u16| {
            let mut members = Membership::new(device(*me), SITE);
            for number in (0..40).filter(|number| number != me) {
                if with_records {
                    hear(&mut members, number, &presence(5, &[]));
                } else {
                    members.noted(NOW, mention(number, 5)).unwrap();
                }
            }
            members.is_uplink(8)
        };
        (0..40).filter(is_chosen).collect()
    };
    assert_eq!(choose(true).len(), UPLINKS);
    assert_eq!(choose(false), choose(true));
}

/// Who may fetch, and who holds, each payload, counted anew from every record.
fn counted(members: &Membership) -> BTreeMap<PayloadKey, (BTreeSet<DeviceId>, BTreeSet<DeviceId>)> {
    let mut all: BTreeMap<PayloadKey, (BTreeSet<_>, BTreeSet<_>)> = BTreeMap::new();
    for (device, member) in members.iter().filter(|(_, member)| member.is_here()) {
        for key in member.presence.fetches.iter().filter(|_| member.presence.wan_weight > 0) {
            all.entry(*key).or_default().0.insert(*device);
        }
        for key in member.presence.holds.iter() {
            all.entry(*key).or_default().1.insert(*device);
        }
    }
    all
}

#[test]
fn the_index_of_claims_is_what_a_count_finds_and_every_move_is_told() {
    for seed in 0..40 {
        let mut rng = crate::rng::Rng::new(seed);
        let mut members = members();
        let mut issued = 1;
        for _ in 0..150 {
            let before = counted(&members);
            let number = 1 + rng.below(6) as u16;
            let key = MemberKey::from(&device(number));
            issued += 1;
            let change = match rng.below(8) {
                0 => members.suspect(NOW, &key, false),
                1 => members.is_alive(&key),
                2 => members.remove(NOW + Duration::from_secs(issued), &key),
                3 => members.noted(NOW, mention(number, issued)),
                _ => {
                    // Neither in order nor once: what a member says of itself is up to it.
                    let mut some = || (0..rng.below(9)).map(|_| PayloadKey([rng.below(12) as u8; 8])).collect();
                    let (fetches, holds) = (some(), some());
                    let mut said = presence(issued, &[]);
                    (said.fetches, said.holds) = (Bounded::truncated(fetches), Bounded::truncated(holds));
                    (said.wan_weight, said.leaving) = ([0, 1, 8][rng.below(3)], rng.below(9) == 0);
                    match hear(&mut members, number, &said) {
                        Heard::News(change) => Some(change),
                        _ => None,
                    }
                }
            };
            let now = counted(&members);
            let keys: BTreeSet<_> = before.keys().chain(now.keys()).copied().collect();
            for key in keys {
                let fetchers: BTreeSet<_> = members.candidates(key).map(|(device, _)| device).collect();
                let holders: BTreeSet<_> = members.holders(key).copied().collect();
                assert_eq!((fetchers, holders), now.get(&key).cloned().unwrap_or_default(), "seed {seed}");
                if before.get(&key) != now.get(&key) {
                    assert!(
                        change.as_ref().is_some_and(|change| change.payloads.contains(&key)),
                        "seed {seed}: {key:?}"
                    );
                }
            }
            assert!(members.claimed.keys().all(|key| now.contains_key(key)), "seed {seed}: an empty place is kept");
        }
    }
}
