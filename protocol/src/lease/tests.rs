use super::*;
use crate::codec::Bounded;

fn device(n: u8) -> DeviceId {
    DeviceId([n; 32])
}

fn at(millis: u64) -> Mono {
    Mono(millis * 1000)
}

fn nobody(_: &DeviceId) -> bool {
    false
}

fn site(members: &[(u8, u8)]) -> BTreeMap<DeviceId, u8> {
    members.iter().map(|(n, weight)| (device(*n), *weight)).collect()
}

fn views(members: &[(u8, u8)]) -> Vec<Leases> {
    let all = site(members);
    let view = |n: &(u8, u8)| {
        let mut leases = Leases::new(PayloadId([9; 32]), device(n.0), at(0));
        leases.set_candidates(at(0), &all);
        leases
    };
    members.iter().map(view).collect()
}

fn hear(view: &mut Leases, now: Mono, n: u8, seq: u64, extents: &[u32], held: &[u8]) -> bool {
    let claim = Claim {
        payload: PayloadId([9; 32]),
        extents: Bounded::truncated(extents.to_vec()),
        held: Bounded::truncated(held.to_vec()),
    };
    view.heard(now, &Word { device: device(n), seq }, &claim, 8)
}

#[test]
fn every_extent_has_exactly_one_owner_whoever_looks() {
    let members: Vec<_> = (1..=40).map(|n| (n, 8)).collect();
    let views = views(&members);
    for extent in 0..200 {
        let owners = views.iter().filter(|view| view.mine(at(400), extent)).count();
        assert_eq!(owners, 1, "extent {extent}");
    }
    assert!(views.iter().all(|view| !view.mine(at(100), 0)), "before it is quiet");
}

#[test]
fn weights_decide_how_often_one_is_chosen() {
    let candidates = site(&[(1, 64), (2, 8), (3, 8)]);
    let wins = (0u32..2000).filter(|n| rank(&n.to_le_bytes(), &candidates)[0] == device(1)).count();
    // 64 / 80 of 2000 are 1600; five standard deviations are 90.
    assert!((1510..1690).contains(&wins), "{wins}");
}

#[test]
fn the_expected_rank_is_about_the_rank() {
    let members: BTreeMap<_, _> = (0u32..1000)
        .map(|n| (DeviceId(*blake3::hash(&n.to_le_bytes()).as_bytes()), if n % 10 == 0 { 64 } else { 8 }))
        .collect();
    let weights = BTreeMap::from([(64, 100), (8, 900)]);
    for (rank, device) in rank(b"payload", &members).iter().enumerate() {
        let expected = expected_rank(score(b"payload", device, members[device]), &weights);
        // Three standard deviations of a binomial distribution, and the first few exactly enough.
        let off = (expected - rank as f64).abs();
        assert!(off <= 3.0 + 3.5 * (rank as f64).sqrt(), "{rank}: {expected}");
    }
}

#[test]
fn a_dead_owner_is_replaced_and_a_living_one_is_not() {
    let mut views = views(&[(1, 8), (2, 8), (3, 8)]);
    let owner = (0..3).find(|n| views[*n].mine(at(400), 0)).unwrap();
    let (dead, other) = (views[owner].me, (owner + 1) % 3);
    for tick in 0..20 {
        let now = at(1000 + tick * 1000);
        hear(&mut views[other], now, dead.0[0], tick, &[0], &[]);
        views[other].evidence(now, 0);
        assert!(!views[other].pass_over_the_idle(now, &[0], nobody), "at work");
        assert!(views[other].claimed(now, 0));
    }
    views[other].departed(at(21_000), &dead);
    let third = (owner + 2) % 3;
    views[third].departed(at(21_000), &dead);
    let heirs = [other, third].into_iter().filter(|n| views[*n].mine(at(21_400), 0)).count();
    assert_eq!(heirs, 1);
}

#[test]
fn an_owner_that_stands_still_or_never_begins_is_passed_over() {
    let mut views = views(&[(1, 8), (2, 8)]);
    let owner = (0..2).find(|n| views[*n].mine(at(400), 0)).unwrap();
    let (lazy, view) = (views[owner].me, &mut views[1 - owner]);
    assert!(!view.pass_over_the_idle(at(3000), &[0], nobody));
    assert!(!view.pass_over_the_idle(at(4000), &[0], |_| true), "it is at work on something else");
    assert!(view.pass_over_the_idle(at(4000), &[0], nobody), "it never began");
    assert!(view.mine(at(4400), 0));
    // It speaks at last, so it is given its turn again; then its progress stands still.
    for tick in 0..9 {
        hear(view, at(5000 + tick * 1000), lazy.0[0], 1 + tick, &[0], &[]);
    }
    assert!(!view.claimed(at(13_500), 0), "a lease without progress is no claim");
}

#[test]
fn one_that_was_passed_over_has_its_turn_again_when_its_time_is_over() {
    let mut view = views(&[(1, 8), (2, 8)]).remove(0);
    view.stand_back(at(0), at(5000));
    assert!(!view.fetchers().contains(&device(1)));
    view.pass_over_the_idle(at(6000), &[], nobody);
    assert!(view.fetchers().contains(&device(1)), "although the candidates are the same");
}

#[test]
fn a_latecomer_shifts_nothing_that_is_under_way() {
    let mut views = views(&[(1, 8), (2, 8)]);
    let owner = (0..2).find(|n| views[*n].mine(at(400), 0)).unwrap();
    views[owner].freeze();
    let late = site(&[(1, 8), (2, 8), (3, 255)]);
    views[owner].set_candidates(at(500), &late);
    assert!(views[owner].mine(at(900), 0));
    assert!(!views[owner].fetchers().contains(&device(3)));
}

#[test]
fn one_that_is_at_work_before_the_others_may_be_does_not_fix_the_candidates() {
    let mut view = views(&[(1, 8), (2, 8)]).remove(0);
    assert!(hear(&mut view, at(100), 2, 1, &[5], &[]));
    view.set_candidates(at(150), &site(&[(1, 8), (2, 8), (3, 255)]));
    assert!(view.claimed(at(400), 5) && view.fetchers().contains(&device(3)));
    hear(&mut view, at(400), 2, 2, &[5], &[]);
    view.set_candidates(at(450), &site(&[(1, 8), (2, 8), (3, 255), (4, 255)]));
    assert!(!view.fetchers().contains(&device(4)), "now it has settled");
}

#[test]
fn what_a_member_holds_is_not_fetched_until_it_does_not_come() {
    let mut view = views(&[(1, 8), (2, 8)]).remove(0);
    assert!(hear(&mut view, at(400), 2, 1, &[], &[0b10, 1]));
    let held: Vec<_> = (0..20).filter(|extent| view.held(*extent)).collect();
    assert_eq!(held, [1, 8]);
    view.doubt(&[3]);
    assert!(view.held(8), "nobody said that it holds extent 3");
    view.doubt(&[8]);
    hear(&mut view, at(500), 2, 2, &[], &[0xff; 4]);
    assert!(!(0..32).any(|extent| view.held(extent)), "it is not believed again");
    hear(&mut view, at(500), 3, 1, &[], &[1]);
    assert!(view.held(0), "another is");
    view.departed(at(600), &device(3));
    assert!(!view.held(0));
}

#[test]
fn one_that_leases_and_brings_nothing_is_discredited_by_what_others_bring() {
    let mut view = views(&[(1, 8), (2, 8), (3, 8)]).remove(0);
    for tick in 0..30 {
        let now = at(400 + tick * 200);
        // One names everything and invents progress, the other works on one extent after the other.
        hear(&mut view, now, 2, 1 + tick, &[0, 1, 2, 3, 4, 5, 6, 7], &[]);
        hear(&mut view, now, 3, 1 + tick, &[8 + tick as u32], &[]);
        for _ in 0..2 {
            view.evidence(now, 8 + tick as u32);
        }
        view.call_to_account(now);
    }
    let now = at(6400);
    assert!(!view.claimed(now, 5) && !view.outranked(now, 5), "its leases bind nobody");
    assert!(!view.fetchers().contains(&device(2)) && view.fetchers().contains(&device(3)));
    assert!(view.claimed(now, 37), "the other's do");
    // Its time is over, it does the same again, and goes in debt: now it is for longer.
    for tick in 0..2 {
        hear(&mut view, at(40_000 + tick * 1500), 2, 100 + tick, &[0], &[]);
    }
    assert!(view.claimed(at(41_500), 0));
    view.departed(at(42_500), &device(2));
    hear(&mut view, at(43_000), 2, 102, &[0], &[]);
    assert!(!view.claimed(at(43_000), 0));
    hear(&mut view, at(100_000), 2, 103, &[0], &[]);
    assert!(!view.claimed(at(100_000), 0), "twice as long");
    hear(&mut view, at(103_000), 2, 104, &[0], &[]);
    assert!(view.claimed(at(103_000), 0));
}

#[test]
fn where_nothing_comes_from_anybody_nobody_is_discredited_and_who_breaks_through_minds_those_that_have_just_begun() {
    let mut view = views(&[(1, 8), (2, 8), (3, 8)]).remove(0);
    for tick in 0..6 {
        hear(&mut view, at(400 + tick * 1000), 2, 1 + tick, &[0, 1], &[]);
        assert!(!view.call_to_account(at(400 + tick * 1000)), "it may be the WAN");
    }
    let now = at(5400);
    assert!(view.claimed(now, 0));
    view.break_through(now, Duration::from_secs(4));
    assert!(view.mine(now, 0) && view.mine(now, 7) && !view.outranked(now, 0));
    hear(&mut view, now, 3, 1, &[0], &[]);
    assert!(!view.mine(now, 0) && view.is_named(now, 1) && !view.is_named(now, 7));
}

#[test]
fn of_two_that_claim_one_extent_one_gives_way_whomever_they_know() {
    for extent in 0..50 {
        // Neither knows the other.
        let mut one = views(&[(1, 8)]).remove(0);
        let mut two = views(&[(2, 64)]).remove(0);
        hear(&mut one, at(400), 2, 1, &[extent], &[]);
        hear(&mut two, at(400), 1, 1, &[extent], &[]);
        assert!(one.outranked(at(500), extent) != two.outranked(at(500), extent));
    }
}

#[test]
fn those_at_work_come_to_see_the_same_candidates() {
    let mut one = views(&[(1, 8), (2, 8)]).remove(0);
    let mut three = views(&[(3, 8)]).remove(0);
    one.freeze();
    three.freeze();
    hear(&mut one, at(400), 3, 1, &[5], &[]);
    hear(&mut three, at(400), 1, 1, &[4], &[]);
    hear(&mut three, at(400), 2, 1, &[6], &[]);
    assert_eq!(one.fetchers(), three.fetchers());
    // Membership has not heard of its claim, but it is at work.
    one.set_candidates(at(500), &site(&[(1, 8), (2, 8)]));
    assert_eq!(one.fetchers(), three.fetchers());
    one.set_candidates(at(9000), &site(&[(1, 8), (2, 8)]));
    assert!(!one.fetchers().contains(&device(3)), "it is silent");
}
