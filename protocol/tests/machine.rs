//! Machines on battery and on metered links, and attempts that are not forgotten.

mod common;

use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::catalog::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::report::{DeploymentState as S, SubState};
use upswarm_protocol::wire::{BlockStatus, BlockWhat};

const MINUTE: Duration = Duration::from_secs(60);
const MAINS: Conditions = Conditions { power: Power::Mains, wireless: false, metered: false };

fn battery(percent: u8) -> Conditions {
    Conditions { power: Power::Battery { percent }, ..MAINS }
}

fn weight(bench: &Bench) -> u8 {
    bench.state.status(bench.now.mono).wan_weight
}

fn wan_fetches(bench: &mut Bench) -> usize {
    let fetch = |output: &mut Output| matches!(output, Output::Fetch { from: FetchFrom::Urls(_), .. });
    bench.asked.extract_if(.., fetch).count()
}

fn cancels(bench: &Bench) -> usize {
    bench.asked.iter().filter(|output| matches!(output, Output::Cancel { .. })).count()
}

#[test]
fn the_wan_weight_follows_power_and_link() {
    let (edition, _) = approved(|approval| approval.action = Action::None);
    let mut bench = Bench::new(&edition, |_| ());
    let radio = Conditions { wireless: true, ..MAINS };
    let metered = Conditions { metered: true, ..MAINS };
    for (conditions, wanted) in
        [(MAINS, 8), (radio, 1), (battery(80), 1), (battery(29), 0), (battery(30), 1), (metered, 0), (MAINS, 8)]
    {
        bench.input(Input::Conditions(conditions));
        assert_eq!(weight(&bench), wanted, "{conditions}");
    }
    bench.input(Input::Conditions(battery(29)));
    let text = told(&bench.state.explain_node(bench.now));
    contains(&text, &["fetches nothing over the WAN", "wan_weight = \"auto\": battery (29 % left), wired link"]);
    contains(&text, &["neither come to this device", "on battery with 29 % left, less than 30 %"]);
    // What node.toml names counts in all conditions; a floor of 0 is no floor.
    let mut bench = Bench::new(&edition, |config| config.machine = MachineRules { wan_auto: false, ..config.machine });
    bench.input(Input::Conditions(metered));
    assert_eq!(weight(&bench), 8);
    let mut bench = Bench::new(&edition, |config| config.machine.battery_floor = 0);
    bench.input(Input::Conditions(battery(0)));
    assert_eq!(weight(&bench), 1);
}

#[test]
fn an_install_waits_for_mains_power() {
    let (edition, id) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    bench.input(Input::Conditions(battery(20)));
    bench.fill();
    let (state, sub_state, reason) = bench.standing(id);
    assert_eq!((state, sub_state), (S::OnHold, SubState::PowerOrLink), "{reason}");
    assert!(reason.contains("waits for mains power") && reason.contains("20 % left"), "{reason}");
    contains(&bench.told(id), &["waits until the machine is on mains power", "battery_floor in node.toml"]);
    assert!(bench.installs().is_empty());
    // More than the floor is enough, and so are the mains.
    bench.input(Input::Conditions(battery(30)));
    assert_eq!(bench.installs(), [id]);
}

#[test]
fn a_deadline_and_an_expedited_approval_do_not_wait() {
    let (edition, id) = approved(|approval| approval.schedule.deadline = Some(NOW + HOUR));
    let mut bench = Bench::new(&edition, |_| ());
    bench.input(Input::Conditions(battery(5)));
    bench.pass(30 * MINUTE);
    let (state, sub_state, reason) = bench.standing(id);
    assert_eq!((state, sub_state), (S::OnHold, SubState::PowerOrLink), "{reason}");
    assert!(reason.contains("the bytes of tool wait"), "{reason}");
    let fetched = wan_fetches(&mut bench);
    bench.pass(31 * MINUTE);
    assert_eq!(weight(&bench), 1, "for what is urgent");
    assert!(wan_fetches(&mut bench) > 0 && fetched == 0, "the deadline has passed");
    bench.fill();
    assert_eq!(bench.installs(), [id]);

    let (edition, id) = approved(|approval| approval.schedule.expedite = true);
    let mut bench = Bench::new(&edition, |_| ());
    bench.input(Input::Conditions(battery(5)));
    bench.fill();
    assert_eq!(bench.installs(), [id]);
}

#[test]
fn on_a_metered_link_nothing_moves_that_is_not_urgent() {
    for urgent in [false, true] {
        let (edition, id) = approved(|approval| approval.schedule.expedite = urgent);
        let mut here = Bench::new(&edition, |_| ());
        let mut there = Bench::of(&key(41), "pc-2", &edition, |config| config.wan_weight = 0);
        meet(&mut here, &mut there);
        here.pass(MINUTE / 12);
        assert!(wan_fetches(&mut here) > 0);
        let fetch = |payload, first| BlockWhat::Chunks { payload, first, count: 1 };
        let payload = PayloadId::of(b"tool");
        here.input(Input::ChunkStored { fetch: 999_999, payload, chunk: 0 });
        here.input(Input::Conditions(Conditions { metered: true, ..MAINS }));
        assert!(cancels(&here) > 0, "a WAN fetch does not go on");
        here.pass(MINUTE);
        assert_eq!((wan_fetches(&mut here), weight(&here)), (0, 0));
        let peer = there.device();
        here.input(Input::BlockRequested { peer, serve: 7, what: fetch(payload, 0) });
        let denied = here.asked.iter().any(|o| matches!(o, Output::Deny { serve: 7, status: BlockStatus::NotHeld }));
        assert_eq!(denied, !urgent);
        let (state, sub_state, reason) = here.standing(id);
        assert_eq!((state, sub_state) == (S::OnHold, SubState::PowerOrLink), !urgent, "{state:?} {reason}");
        // With all its bytes here it is installed: that costs nothing.
        here.input(Input::Conditions(MAINS));
        here.fill();
        here.input(Input::Conditions(Conditions { metered: true, ..MAINS }));
        assert_eq!(here.installs(), [id]);
    }
}

#[test]
fn what_attempts_said_is_kept_when_a_gate_shuts() {
    let (edition, id) = approved(|approval| {
        approval.schedule.windows = list(vec![Window { days: Weekdays::ALL, start: 9 * 60, end: 9 * 60 + 5 }]);
    });
    let mut bench = Bench::new(&edition, |_| ());
    bench.fill();
    assert_eq!(bench.installs(), [id]);
    let locked = |code| InstallOutcome::Retry { code: Some(code), reason: "the database is locked\nby apt".into() };
    bench.ended(id, locked(75));
    let (state, sub_state, reason) = bench.standing(id);
    assert_eq!((state, sub_state, &*reason), (S::Pending, SubState::Retrying, "the database is locked by apt"));
    bench.pass(4 * MINUTE);
    assert_eq!(bench.installs(), [id]);
    bench.ended(id, locked(76));
    bench.pass(10 * MINUTE);
    let window = |bench: &Bench| {
        let (state, sub_state, reason) = bench.standing(id);
        assert_eq!((state, sub_state), (S::Pending, SubState::AwaitingWindow), "{reason}");
        contains(&reason, &["outside the maintenance windows", "attempt 2 did not work (exit code 76): the database"]);
        contains(
            &bench.told(id),
            &["last attempt did not work (exit code 76): the database is locked by apt.", "attempt 2 of 4"],
        );
        contains(&bench.told(id), &["earlier attempt did not work (exit code 75)", "attempt 1 of 4"]);
    };
    window(&bench);
    // A node that ends forgets none of it, and does not take a failed attempt for one that ended well.
    bench.again(|_| ());
    window(&bench);
    let attempts = bench.state.status(bench.now.mono).attempts;
    assert_eq!(attempts.iter().map(|attempt| attempt.code).collect::<Vec<_>>(), [Some(75), Some(76)]);
    bench.pass(24 * HOUR - 10 * MINUTE);
    assert_eq!(bench.installs(), [id]);
    bench.found = Detection::Present;
    bench.ended(id, InstallOutcome::Done { restart: false, code: Some(0) });
    assert_eq!(bench.standing(id), (S::Installed, SubState::None, String::new()));
    assert!(bench.state.status(bench.now.mono).attempts.is_empty());
}

#[test]
fn an_installer_that_would_not_begin_costs_no_attempt() {
    let (edition, id) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    bench.fill();
    for _ in 0..10 {
        assert_eq!(bench.installs(), [id]);
        bench.ended(id, InstallOutcome::NotNow { reason: "the installer waits for 22:00".into() });
        let (state, sub_state, reason) = bench.standing(id);
        assert_eq!((state, sub_state, &*reason), (S::Pending, SubState::Retrying, "the installer waits for 22:00"));
        contains(&bench.told(id), &["the installer waits for 22:00. It is asked again in", "whoever installs"]);
        bench.pass(2 * MINUTE);
    }
    assert_eq!(bench.installs(), [id]);
    bench.found = Detection::Present;
    bench.ended(id, InstallOutcome::Done { restart: false, code: Some(0) });
    assert_eq!(bench.standing(id).0, S::Installed);
}
