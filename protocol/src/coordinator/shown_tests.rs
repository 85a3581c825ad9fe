//! Clocks that disagree, and identities that run on two machines.

use super::bench::*;
use super::*;
use crate::time::Wall;

const DAYS: Duration = Duration::from_secs(5 * 86_400);

impl Bench {
    /// A member that is connected and has said hello.
    fn connected(&mut self, seed: u8) -> Bounded<u8, 4096> {
        let certificate = self.member(seed);
        self.frame(device(seed), &hello(certificate.clone()));
        certificate
    }

    fn here(&mut self, seed: u8, clock: Wall, run: u64) -> Vec<Output> {
        self.frame(device(seed), &Message::Here { clock, run })
    }

    fn judged(&mut self) -> Vec<(AlarmKind, Option<DeviceId>, String)> {
        alarms(&self.later(Duration::from_secs(3)))
    }
}

fn alarms(outputs: &[Output]) -> Vec<(AlarmKind, Option<DeviceId>, String)> {
    let alarm = |output: &Output| match output {
        Output::Raise { kind, device, text } => Some((*kind, *device, text.clone())),
        Output::Over { kind, device } => Some((*kind, *device, "over".to_owned())),
        _ => None,
    };
    outputs.iter().filter_map(alarm).collect()
}

#[test]
fn the_odd_clock_out_is_named_and_told() {
    let mut bench = Bench::new();
    bench.sync();
    (20..24).for_each(|seed| drop(bench.connected(seed)));
    let now = bench.now.wall;
    for seed in 20..23 {
        assert!(sent(&bench.here(seed, now, u64::from(seed)), device(seed)).is_empty());
    }
    let told = sent(&bench.here(23, now + DAYS, 23), device(23));
    assert_eq!(told, [Message::Here { clock: now, run: 0 }], "it hears what the coordinator's clock shows");
    let alarms = bench.judged();
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!((alarms[0].0, alarms[0].1), (AlarmKind::Clock, Some(device(23))));
    assert!(alarms[0].2.contains("5 days ahead of"), "{alarms:?}");
    bench.here(23, bench.now.wall + DAYS, 23);
    assert!(bench.judged().is_empty(), "told once");
    bench.here(23, bench.now.wall, 23);
    assert_eq!(bench.judged(), [(AlarmKind::Clock, Some(device(23)), "over".to_owned())]);
}

/// Case 33: seven machines agree among themselves.
#[test]
fn a_coordinator_against_most_sites_is_the_odd_one_out() {
    let mut bench = Bench::new();
    bench.sync();
    (20..27).for_each(|seed| drop(bench.connected(seed)));
    let theirs = bench.now.wall - DAYS;
    (20..27).for_each(|seed| drop(bench.here(seed, theirs, u64::from(seed))));
    let alarms = bench.judged();
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!((alarms[0].0, alarms[0].1), (AlarmKind::Clock, None));
    assert!(alarms[0].2.contains("coordinator's clock is 5 days ahead of"), "{alarms:?}");
    (20..27).for_each(|seed| drop(bench.here(seed, bench.now.wall, u64::from(seed))));
    assert_eq!(bench.judged(), [(AlarmKind::Clock, None, "over".to_owned())]);
}

/// A site with many machines has one vote.
#[test]
fn one_large_site_does_not_outvote_two_others() {
    let mut bench = Bench::new();
    bench.sync();
    let now = bench.now.wall;
    for seed in 20..32 {
        bench.connected(seed);
        if seed >= 30 {
            bench.state.devices.get_mut(&device(seed)).unwrap().record.site.0[0] = seed;
        }
        bench.here(seed, if seed < 30 { now + DAYS } else { now }, u64::from(seed));
    }
    let alarms = bench.judged();
    assert!(alarms.len() == 10 && alarms.iter().all(|alarm| alarm.1.is_some()), "{alarms:?}");
}

/// Case 6.
#[test]
fn a_run_that_comes_back_after_another_is_a_second_machine() {
    let mut bench = Bench::new();
    bench.sync();
    let certificate = bench.connected(20);
    let now = bench.now.wall;
    // Restarts, and connections of one run that come again, are none.
    for run in [1, 1, 2, 2, 3] {
        assert!(alarms(&bench.here(20, now, run)).is_empty(), "{run}");
    }
    let open = match &bench
        .frame(device(20), &Message::Relay { device: device(20), seq: 1, encrypted: Bounded::default() })[..]
    {
        [Output::OpenReport { open, .. }] => *open,
        other => panic!("{other:?}"),
    };
    bench.input(Input::ReportOpened { open, bytes: Some(signed_report(20, 1, 20)) });
    bench.sync();
    assert!(alarms(&bench.here(20, now, 4)).is_empty());
    let found = alarms(&bench.here(20, now, 3));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].0, found[0].1), (AlarmKind::Clone, Some(device(20))));
    assert!(found[0].2.contains("run 0000000000000003 at /ip4/10.0.0.20/tcp/1"), "{found:?}");
    assert!(found[0].2.contains("later run 0000000000000004") && found[0].2.contains("--again"), "{found:?}");
    // The later one is asked to join anew, the first goes on.
    let outputs = bench.here(20, now, 4);
    let said = sent(&outputs, device(20));
    assert!(matches!(&said[0], Message::Refused { reason } if reason.contains("--again")), "{said:?}");
    bench.input(Input::PeerUp { peer: device(20) });
    bench.frame(device(20), &hello(certificate));
    let outputs = bench.here(20, now, 3);
    assert!(outputs.is_empty(), "{outputs:?}");
}
