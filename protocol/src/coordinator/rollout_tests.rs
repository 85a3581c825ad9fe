use proptest::prelude::*;

use super::bench::{APPROVER, Bench, START, key, stored_fleet};
use super::*;
use crate::catalog::{Action, Approval, Ring, RingPlan, Schedule};
use crate::envelope::{self, Role};
use crate::report::{DeploymentReport, DeploymentState, Papers, SubState};
use crate::rng::Rng;
use crate::schedule::ring_of;
use crate::time::Wall;

const GROUP: GroupId = GroupId([1; 16]);
const DAY: Duration = Duration::from_secs(86_400);

fn approval(release: ReleaseId, version: u64, issued: Wall, rings: &[(u16, u32)], stop_above: u16) -> Approval {
    let rings = rings.iter().map(|(up_to, delay_s)| Ring { up_to: *up_to, delay_s: *delay_s }).collect();
    Approval {
        group: GROUP,
        group_version: 0,
        release,
        version,
        action: Action::Install,
        back: false,
        issued,
        expires: issued + 30 * DAY,
        schedule: Schedule::default(),
        rings: RingPlan { rings: Bounded::new(rings).unwrap(), stop_above },
        note: Text::default(),
        filtered: None,
    }
}

/// A coordinator with so many devices in one group, and an approval for them.
struct Fleet {
    bench: Bench,
    release: ReleaseId,
    devices: Vec<DeviceId>,
}

impl Fleet {
    fn new(devices: u32, seed: u64, rings: &[(u16, u32)], stop_above: u16) -> Self {
        let now = Now { mono: Mono(0), wall: START + Duration::from_millis(seed) };
        let mut bench = Bench::with(stored_fleet(devices, GROUP), now);
        bench.sync();
        let release = bench.published(1);
        let mut fleet = Self { devices: bench.state.devices.keys().copied().collect(), bench, release };
        fleet.hear_everybody();
        fleet.approve(1, rings, stop_above);
        fleet
    }

    fn approve(&mut self, version: u64, rings: &[(u16, u32)], stop_above: u16) {
        let approval = approval(self.release, version, self.bench.now.wall, rings, stop_above);
        let bytes = envelope::sign(Kind::Approval, Role::Approver, &approval, &[&key(APPROVER)]).unwrap();
        self.bench.done(Command::Approve(bytes)).unwrap();
    }

    fn hear_everybody(&mut self) {
        let wall = self.bench.now.wall;
        self.bench
            .state
            .devices
            .values_mut()
            .for_each(|device| device.reported(1, Vec::new(), wall, Papers::default()));
    }

    fn say(&mut self, device: DeviceId, state: DeploymentState) {
        self.say_of(device, state, 1);
    }

    fn say_of(&mut self, device: DeviceId, state: DeploymentState, version: u64) {
        let now = self.bench.now;
        let said = DeploymentReport {
            release: self.release,
            group: GROUP,
            approval_version: version,
            action: Action::Install,
            state,
            sub_state: SubState::None,
            code: None,
            reason: Text::default(),
            since: now.wall,
            done: 0,
            total: 1,
            next_try: None,
        };
        self.bench.state.devices.get_mut(&device).unwrap().reported(1, Vec::new(), now.wall, Papers::default());
        self.bench.state.outcomes(&device, &[said], now);
        self.bench.drain();
    }

    /// Lets time pass; a minute at a time where rollouts are due.
    fn later(&mut self, by: Duration) -> Vec<RolloutStatus> {
        let outputs = self.bench.later(by);
        outputs.into_iter().filter_map(stopped).chain(self.stops()).collect()
    }

    fn stops(&mut self) -> Vec<RolloutStatus> {
        self.bench.sync().into_iter().filter_map(stopped).collect()
    }

    fn is_held(&self) -> bool {
        // The admin's hold and the rollout's own are told apart.
        let holds = self.bench.state.holds();
        [Hold::Approval(GROUP, self.release), Hold::Rollout(GROUP, self.release)]
            .iter()
            .any(|hold| holds.contains(hold))
    }

    fn status(&self) -> RolloutStatus {
        self.bench.state.rollout_status(self.bench.now.wall).remove(0)
    }

    fn hold(&mut self, on: bool) {
        self.bench.done(Command::Hold { hold: Hold::Approval(GROUP, self.release), on }).unwrap();
    }
}

fn stopped(output: Output) -> Option<RolloutStatus> {
    match output {
        Output::RolloutStopped(status) => Some(status),
        _ => None,
    }
}

/// Devices install at a time of their own within eight hours of their ring's beginning, unless the coordinator holds it.
/// Returns how many acted, how many of them failed, and whether it was stopped.
fn roll_out(seed: u64, devices: u32, failing: u64, models: u64, stop_above: u16) -> (usize, usize, bool) {
    let plan = [(100, 0), (1000, 86_400), (5000, 2 * 86_400), (10_000, 3 * 86_400)];
    let mut fleet = Fleet::new(devices, seed, &plan, stop_above);
    let mut rng = Rng::new(seed);
    let mut turns: Vec<(Duration, DeviceId, bool)> = Vec::new();
    for device in &fleet.devices {
        let place = ring_of(*device, fleet.release);
        let (_, delay) = *plan.iter().find(|(up_to, _)| place < *up_to).unwrap();
        let model = rng.below(models as usize) as u64;
        let turn = Duration::from_secs(delay.into()) + rng.jitter(Duration::from_secs(8 * 3600));
        turns.push((turn, *device, model < failing));
    }
    turns.sort();
    let (mut acted, mut failed, mut passed) = (0, 0, Duration::ZERO);
    for (turn, device, fails) in turns {
        let by = turn - passed;
        passed = turn;
        fleet.bench.now = Now { mono: fleet.bench.now.mono + by, wall: fleet.bench.now.wall + by };
        if fleet.bench.state.poll_timeout().is_some_and(|(due, _)| due <= fleet.bench.now.mono) {
            fleet.hear_everybody();
            fleet.later(Duration::ZERO);
        }
        if fleet.is_held() {
            return (acted, failed, true);
        }
        acted += 1;
        failed += usize::from(fails);
        fleet.say(device, if fails { DeploymentState::Failed } else { DeploymentState::Installed });
    }
    (acted, failed, fleet.is_held())
}

#[test]
fn an_update_that_fails_on_three_percent_of_models_stops_before_five_percent_are_hit() {
    for seed in 1..=8 {
        let (acted, failed, stopped) = roll_out(seed, 10_000, 3, 100, 200);
        assert!(stopped && acted < 500 && failed > 0, "seed {seed}: {acted} acted, {failed} failed, stopped {stopped}");
    }
}

#[test]
fn an_update_with_a_few_failures_reaches_everybody() {
    for seed in 1..=4 {
        let (acted, failed, stopped) = roll_out(seed, 2_000, 1, 200, 500);
        assert!(!stopped && acted == 2_000, "seed {seed}: {acted} acted, {failed} failed, stopped {stopped}");
    }
}

#[test]
fn one_failure_among_five_pilots_is_a_fifth() {
    let mut fleet = Fleet::new(5, 1, &[(10_000, 0)], 2000);
    let devices = fleet.devices.clone();
    fleet.say(devices[0], DeploymentState::Failed);
    assert!(fleet.stops().is_empty() && !fleet.is_held(), "a fifth does not pass a fifth");
    fleet.say(devices[1], DeploymentState::Failed);
    let stops = fleet.stops();
    assert_eq!((stops.len(), stops[0].total().failed, stops[0].held), (1, 2, true));
    assert!(fleet.is_held());
    // DeviceMessage once, and the head that holds it is public.
    assert!(fleet.later(Duration::from_secs(600)).is_empty());

    // The admin lets it go on: the two are accepted, the next one is not. That survives a restart.
    fleet.hold(false);
    assert!(fleet.later(Duration::from_secs(600)).is_empty() && !fleet.is_held());
    let now = fleet.bench.now;
    let mut stored = stored_fleet(5, GROUP);
    stored.reports = fleet.devices.iter().take(2).map(|device| last_report(&fleet, *device)).collect();
    fleet.bench = Bench::restart_with(fleet.bench.durable.clone(), stored, now);
    fleet.bench.sync();
    assert_eq!((fleet.status().total().failed, fleet.status().accepted_bad), (2, 2));
    assert!(!fleet.is_held(), "not after a restart either");
    fleet.say(devices[2], DeploymentState::Failed);
    assert_eq!((fleet.stops().len(), fleet.is_held()), (1, true));

    // A new version of the approval begins anew.
    fleet.hold(false);
    fleet.approve(2, &[(10_000, 0)], 2000);
    assert_eq!((fleet.status().total().failed, fleet.status().accepted_bad), (0, 0));
    fleet.say_of(devices[0], DeploymentState::Failed, 1);
    assert_eq!(fleet.status().total().failed, 0, "a late word on the old version");
    for device in &devices[..2] {
        fleet.say_of(*device, DeploymentState::Failed, 2);
    }
    assert!(fleet.is_held());
}

fn last_report(fleet: &Fleet, device: DeviceId) -> LastReport {
    LastReport {
        device,
        seq: 1,
        received: fleet.bench.now.wall,
        addresses: Vec::new(),
        papers: Papers::default(),
        deployments: vec![DeploymentReport {
            release: fleet.release,
            group: GROUP,
            approval_version: 1,
            action: Action::Install,
            state: DeploymentState::Failed,
            sub_state: SubState::None,
            code: Some(1),
            reason: Text::default(),
            since: fleet.bench.now.wall,
            done: 0,
            total: 1,
            next_try: None,
        }],
    }
}

#[test]
fn who_falls_silent_in_the_midst_counts_and_who_is_switched_off_does_not() {
    let mut fleet = Fleet::new(40, 1, &[(10_000, 3600)], 500);
    let devices = fleet.devices.clone();
    fleet.later(Duration::from_secs(3600));
    let acting = [DeploymentState::Installing, DeploymentState::Downloading, DeploymentState::Offering];
    for (device, state) in devices.iter().zip(acting) {
        fleet.say(*device, state);
    }
    let waiting =
        [DeploymentState::Pending, DeploymentState::Downloaded, DeploymentState::Installed, DeploymentState::OnHold];
    for (device, state) in devices[10..].iter().zip(waiting) {
        fleet.say(*device, state);
    }
    assert!(fleet.later(SILENT_AFTER - Duration::from_secs(1)).is_empty());
    assert_eq!(fleet.status().total(), RingStatus { begun: 40, done: 1, ..fleet.status().rings[0] });
    let stops = fleet.later(Duration::from_secs(CHECK_SLACK));
    assert_eq!((stops.len(), stops[0].total().silent), (1, 3), "three of forty");
    // They come back and have done it.
    for device in &devices[..3] {
        fleet.say(*device, DeploymentState::Installed);
    }
    assert_eq!((fleet.status().total().silent, fleet.status().total().done), (0, 4));
}

/// Longer than the time between two looks.
const CHECK_SLACK: u64 = 61;

#[test]
fn devices_long_gone_are_not_counted_and_a_paused_rollout_is_left_alone() {
    let mut fleet = Fleet::new(10, 1, &[(10_000, 0)], 100);
    let (gone, here) = (fleet.devices[0], fleet.devices[1]);
    let issued = fleet.bench.now.wall;
    fleet.bench.state.devices.get_mut(&gone).unwrap().heard = Some(issued - HEARD_WITHIN - Duration::from_secs(1));
    assert_eq!((fleet.status().total().devices, fleet.status().total().begun), (10, 9));
    fleet.bench.done(Command::Hold { hold: Hold::Everything, on: true }).unwrap();
    fleet.say(here, DeploymentState::Failed);
    assert!(fleet.later(Duration::from_secs(CHECK_SLACK)).is_empty() && !fleet.is_held());
    fleet.bench.done(Command::Hold { hold: Hold::Everything, on: false }).unwrap();
    assert_eq!(fleet.later(Duration::from_secs(CHECK_SLACK)).len(), 1);
    assert!(fleet.is_held());
}

#[test]
fn without_a_share_nothing_stops_and_nothing_is_due() {
    let mut fleet = Fleet::new(4, 1, &[], 0);
    assert!(fleet.bench.state.rollout_status(fleet.bench.now.wall).is_empty());
    assert!(fleet.bench.state.poll_timeout().is_some_and(|(_, reason)| reason == Reason::HeadDue));
    let mut staged = Fleet::new(4, 1, &[(5000, 0), (10_000, 60)], 0);
    for device in staged.devices.clone() {
        staged.say(device, DeploymentState::Failed);
    }
    assert!(staged.later(Duration::from_secs(CHECK_SLACK)).is_empty() && !staged.is_held());
    assert_eq!(staged.status().total().failed, 4);
    for device in fleet.devices.clone() {
        fleet.say(device, DeploymentState::Failed);
    }
    assert!(fleet.bench.state.devices.values().all(|device| device.outcomes.is_empty()), "nothing is kept in vain");
}

fn any_state() -> impl Strategy<Value = DeploymentState> {
    use DeploymentState as S;
    prop_oneof![
        1 => Just(S::Pending),
        1 => Just(S::Downloading),
        1 => Just(S::Installing),
        3 => Just(S::Installed),
        2 => Just(S::Failed),
        1 => Just(S::NotApplicable),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a model that recounts every device from its words: held exactly from the first moment the rule says so.
    #[test]
    fn it_is_held_exactly_when_the_numbers_say_so(
        devices in 1u32..40,
        stop_above in prop_oneof![Just(0u16), 1u16..10_000],
        words in prop::collection::vec((any::<prop::sample::Index>(), any_state()), 0..80),
    ) {
        let mut fleet = Fleet::new(devices, 1, &[(3000, 0), (10_000, 1000)], stop_above);
        let mut last: BTreeMap<DeviceId, DeploymentState> = BTreeMap::new();
        let mut wanted = false;
        for (device, state) in words {
            let device = *device.get(&fleet.devices);
            fleet.say(device, state);
            last.insert(device, state);
            // The state looks when it is told something, and again later: a ring may begin in between.
            for wait in [0, CHECK_SLACK] {
            fleet.later(Duration::from_secs(wait));
            let now = fleet.bench.now.wall;
            let ring_begun = |d: &DeviceId| ring_of(*d, fleet.release) < 3000 || now.since(fleet.status().rings[0].begins) >= Duration::from_secs(1000);
            let (mut begun, mut done, mut bad) = (0u64, 0u64, 0u64);
            for d in &fleet.devices {
                let heard = fleet.bench.state.devices[d].heard.unwrap();
                let begins = if ring_of(*d, fleet.release) < 3000 { fleet.status().rings[0].begins } else { fleet.status().rings[1].begins };
                match last.get(d) {
                    Some(DeploymentState::Failed) => (begun, bad) = (begun + 1, bad + 1),
                    Some(DeploymentState::Installed) => (begun, done) = (begun + 1, done + 1),
                    Some(DeploymentState::NotApplicable) => {}
                    _ if !ring_begun(d) => {}
                    Some(DeploymentState::Installing | DeploymentState::Downloading)
                        if now.since(heard.max(begins)) >= SILENT_AFTER => (begun, bad) = (begun + 1, bad + 1),
                    _ => begun += 1,
                }
            }
            let share = u64::from(stop_above);
            let over = |of: u64| bad * 10_000 > share * of;
            wanted |= share > 0 && bad > 0 && (over(begun) || (done + bad >= 20 && bad >= 2 && over(done + bad)));
            }
            prop_assert_eq!(fleet.is_held(), wanted, "{:?}", fleet.status());
        }
    }
}
