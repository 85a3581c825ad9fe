//! How much of the WAN a site may use, as the coordinator orders it: which order counts, when, and for whom.

mod common;

use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::catalog::{Weekdays, Window};
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::SiteId;
use upswarm_protocol::wire::{Message, WanLimits, WanRate};

fn signed(site: SiteId, number: u64, rates: Vec<WanRate>, by: u8) -> Message {
    let order = WanLimits { site, issued: NOW + Duration::from_secs(number), rates: list(rates), yields: Some(false) };
    let key = if by == 0 { World::new().online[0].clone() } else { key(by) };
    Message::WanLimits(list(envelope::sign(Kind::WanLimits, Role::Online, &order, &[&key]).unwrap()))
}

fn always(bytes_per_s: u64) -> WanRate {
    WanRate { window: None, bytes_per_s }
}

/// The hour of the machine's local time that `NOW` lies in, and one that it does not lie in.
fn hours(bench: &Bench) -> [Window; 2] {
    let local = bench.state.local(bench.now.wall);
    let hour: u16 = local[11..13].parse().unwrap();
    let window = |hour: u16| Window { days: Weekdays::ALL, start: hour % 24 * 60, end: (hour + 1) % 24 * 60 };
    [window(hour), window(hour + 5)]
}

#[test]
fn the_newest_order_for_this_site_counts_and_is_kept() {
    let (edition, _) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    bench.hears_the_coordinator(&edition, &[]);
    assert_eq!(bench.state.wan_share(bench.now), None);
    let mut hears = |message: Message| {
        bench.frame(COORDINATOR, &message);
        bench.state.wan_share(bench.now)
    };
    assert_eq!(hears(signed(SITE, 1, vec![always(1000)], 77)), None, "signed by nobody whom the root names");
    assert_eq!(hears(signed(SiteId([9; 16]), 1, vec![always(1000)], 0)), None, "another site's");
    assert_eq!(hears(signed(SITE, 2, vec![always(1000)], 0)), Some(1000));
    assert_eq!(hears(signed(SITE, 1, vec![always(9)], 0)), Some(1000), "an older one that a neighbour still had");
    bench.again(|_| ());
    assert_eq!(bench.state.wan_share(bench.now), Some(1000), "kept over a restart");
    bench.hears_the_coordinator(&edition, &[signed(SITE, 3, vec![], 0)]);
    assert_eq!(bench.state.wan_share(bench.now), None, "taken back");
    bench.again(|_| ());
    assert_eq!(bench.state.wan_share(bench.now), None);
}

#[test]
fn of_the_rates_that_apply_at_this_hour_the_lowest_counts() {
    let (edition, _) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    let [now, later] = hours(&bench);
    let at = |window, bytes_per_s| WanRate { window: Some(window), bytes_per_s };
    bench.hears_the_coordinator(&edition, &[signed(SITE, 1, vec![at(later, 5), at(now, 300), always(700)], 0)]);
    assert_eq!(bench.state.wan_share(bench.now), Some(300));
    bench.pass(Duration::from_secs(3660));
    assert_eq!(bench.state.wan_share(bench.now), Some(700), "the hour is over: {}", bench.state.local(bench.now.wall));
    bench.pass(Duration::from_secs(4 * 3600));
    assert_eq!(bench.state.wan_share(bench.now), Some(5), "the other one has come");
}

#[test]
fn what_a_download_waits_for_is_named_with_its_hours() {
    let (edition, id) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    let [now, _] = hours(&bench);
    let limited = WanRate { window: Some(now), bytes_per_s: 2_000_000 };
    assert!(!bench.told(id).contains("WAN fetches are held"), "nothing is ordered");
    bench.hears_the_coordinator(&edition, &[signed(SITE, 1, vec![limited], 0)]);
    let told = bench.told(id);
    assert!(told.contains(&format!("The site's WAN fetches are held to 16 Mbit/s now ({now})")), "{told}");
    assert!(told.contains("this device's share of that is 16 Mbit/s") && told.contains("upswarm limit"), "{told}");
    assert!(told.contains("0 of ") && told.contains("none has come for"), "no chunk came: {told}");
    bench.pass(Duration::from_secs(3660));
    assert!(!bench.told(id).contains("WAN fetches are held"), "the hour is over");
}

#[test]
fn neighbours_pass_an_order_on_and_show_it_to_whoever_comes() {
    let (edition, _) = approved(|_| ());
    let (mut here, mut there) = (Bench::new(&edition, |_| ()), Bench::of(&key(41), "pc-2", &edition, |_| ()));
    here.hears_the_coordinator(&edition, &[signed(SITE, 1, vec![always(1000)], 0)]);
    // What goes to the coordinator is not for the neighbour.
    here.asked.clear();
    // One that was off when it was given.
    meet(&mut here, &mut there);
    assert_eq!(there.state.wan_share(there.now), Some(1000));
    here.asked.clear();
    here.frame(COORDINATOR, &signed(SITE, 2, vec![always(2000)], 0));
    talk(&mut here, &mut there);
    assert_eq!(there.state.wan_share(there.now), Some(2000));
}
