//! History against a model that remembers every device of every day, on both databases.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;
use upswarm_protocol::catalog::{Action, NodeRole};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::coordinator::DeviceRecord;
use upswarm_protocol::ids::{DeviceId, DocHash, GroupId, ReleaseId, SiteId};
use upswarm_protocol::report::{BytesBySource, DeploymentReport, DeploymentState, Papers, SubState};
use upswarm_protocol::time::Wall;

use super::counted::{Class, class, number};
use super::database::{Database, Place};
use super::known::{Known, Said};
use super::ledger::{DAY_MS, InForce};
use super::past::Past;
use super::postgres::Postgres;
use super::{Open, Rows, retention};

const DEVICES: u8 = 30;
const GROUPS: u8 = 3;
const RELEASES: u8 = 4;
const KEPT_DAYS: u64 = 20;

/// Numbers that a seed decides (SplitMix64, public domain).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

pub(super) fn device(number: u8) -> DeviceId {
    DeviceId([number; 32])
}

pub(super) fn group(number: u8) -> GroupId {
    GroupId([number; 16])
}

pub(super) fn release(number: u8) -> ReleaseId {
    ReleaseId([number; 32])
}

pub(super) fn known(number: u8, groups: Vec<GroupId>) -> Known {
    Known::new(DeviceRecord {
        device: device(number),
        role: NodeRole::Node,
        label: Text::lossy("pc"),
        site: SiteId([1; 16]),
        groups: Bounded::new(groups).unwrap(),
        enrolled: Wall(0),
        invited: true,
        certificate: Bounded::default(),
        certified: Wall(0),
        assignment: Bounded::default(),
        assigned: Wall(0),
    })
}

pub(super) fn deployment(of: (GroupId, ReleaseId), state: DeploymentState, sub_state: SubState) -> DeploymentReport {
    DeploymentReport {
        release: of.1,
        group: of.0,
        approval_version: 1,
        action: Action::Install,
        state,
        sub_state,
        code: None,
        reason: Text::default(),
        since: Wall(0),
        done: 0,
        total: 0,
        next_try: None,
    }
}

pub(super) fn said(deployments: Vec<DeploymentReport>, received: Wall, bytes: BytesBySource) -> Said {
    Said {
        seq: 1,
        received,
        label: String::new(),
        agent: String::new(),
        os: String::new(),
        index_version: 1,
        papers: Papers::default(),
        addresses: Vec::new(),
        bytes,
        neighbours: 0,
        alarms: Vec::new(),
        deployments,
    }
}

fn in_force(of: (GroupId, ReleaseId), version: u64) -> InForce {
    InForce { group: of.0, release: of.1, version, action: Action::Install, document: DocHash([1; 32]) }
}

const STATES: [DeploymentState; 7] = [
    DeploymentState::Pending,
    DeploymentState::Downloading,
    DeploymentState::Installed,
    DeploymentState::Failed,
    DeploymentState::Stalled,
    DeploymentState::NotApplicable,
    DeploymentState::Superseded,
];

/// By group, release and state: devices.
type States = BTreeMap<(GroupId, ReleaseId, u8), u64>;
/// By group: members.
type Members = BTreeMap<GroupId, u64>;

/// States, members, and the approvals that are in force.
type Day = (States, Members, BTreeSet<(GroupId, ReleaseId)>);

/// What everything looks like, counted device by device.
#[derive(Default)]
struct Model {
    fleet: BTreeMap<u8, Known>,
    approved: BTreeMap<(GroupId, ReleaseId), u64>,
    ever: BTreeSet<(GroupId, ReleaseId)>,
    /// As it stood at the end of each day.
    days: BTreeMap<u64, Day>,
    bytes: BTreeMap<u64, u64>,
}

impl Model {
    fn count(&self) -> Day {
        let (mut states, mut members) = (States::new(), Members::new());
        for known in self.fleet.values().filter(|known| known.counted) {
            for group in known.record.groups.iter() {
                *members.entry(*group).or_default() += 1;
            }
            for one in known.said.iter().flat_map(|said| &said.deployments) {
                let of = (one.group, one.release);
                if known.record.groups.contains(&one.group) && self.ever.contains(&of) {
                    *states.entry((one.group, one.release, number(one.state))).or_default() += 1;
                }
            }
        }
        (states, members, self.approved.keys().copied().collect())
    }
}

/// The history of a seed.
async fn live(place: &Place, seed: u64, events: usize) {
    let mut dice = Dice(seed);
    let mut model = Model::default();
    let mut open = Open::new(place).await.unwrap();
    let mut at = Wall(20_000 * DAY_MS);
    let first_day = at.0 / DAY_MS;
    for number in 0..DEVICES {
        let groups = (0..GROUPS).filter(|_| dice.below(2) == 0).map(group).collect();
        let new = known(number, groups);
        open.ledger.device(&device(number), &new, at);
        model.fleet.insert(number, new);
    }
    let mut kept_from = 0;
    for _ in 0..events {
        let of = (group(dice.below(GROUPS.into()) as u8), release(dice.below(RELEASES.into()) as u8));
        let number = dice.below(DEVICES.into()) as u8;
        match dice.below(100) {
            0..=2 => {
                // An approval comes, is renewed, or ends.
                if dice.below(3) == 0 {
                    model.approved.remove(&of);
                } else {
                    *model.approved.entry(of).or_insert(at.0) += 1;
                    model.ever.insert(of);
                }
                let now: Vec<InForce> = model.approved.iter().map(|(of, version)| in_force(*of, *version)).collect();
                open.ledger.approvals(&now, at, |_| b"signed".to_vec());
            }
            3..=5 => {
                let groups: Vec<GroupId> = (0..GROUPS).filter(|_| dice.below(2) == 0).map(group).collect();
                let known = model.fleet.get_mut(&number).unwrap();
                let mut record = (*known.record).clone();
                record.groups = Bounded::new(groups).unwrap();
                known.record = record.into();
                open.ledger.device(&device(number), known, at);
            }
            6..=7 => {
                let known = model.fleet.get_mut(&number).unwrap();
                known.counted = !known.counted;
                open.ledger.device(&device(number), known, at);
            }
            8..=9 => {
                open.commit(Rows::default()).await.unwrap();
                if dice.below(2) == 0 {
                    // Killed while a batch was under way: nothing of it counts, and it comes again.
                    let known = model.fleet.get(&number).unwrap().clone();
                    open.ledger.device(&device(number), &Known { counted: false, ..known }, at);
                }
                drop(open);
                open = Open::new(place).await.unwrap();
            }
            10 => {
                open.commit(Rows::default()).await.unwrap();
                kept_from = (at.0 / DAY_MS).saturating_sub(KEPT_DAYS);
                retention::add_up(&mut open.session.connection, kept_from).await.unwrap();
            }
            11..=30 => {
                // Time goes on; a day that ends is counted as it stands.
                let before = at.0 / DAY_MS;
                at = Wall(at.0 + dice.below(DAY_MS));
                if at.0 / DAY_MS != before {
                    let counted = model.count();
                    model.days.insert(before, counted);
                }
            }
            _ => {
                // What nobody approved is told too; what devices told before an approval counts from their next report.
                let known = model.fleet.get_mut(&number).unwrap();
                let before = known.said.as_ref().map(|said| said.bytes).unwrap_or_default();
                let bytes = BytesBySource { origin: before.origin + dice.below(100), ..before };
                *model.bytes.entry(at.0 / DAY_MS).or_default() += bytes.origin - before.origin;
                let mut deployments: Vec<DeploymentReport> = known
                    .said
                    .iter()
                    .flat_map(|said| said.deployments.clone())
                    .filter(|one| (one.group, one.release) != of)
                    .collect();
                let state = STATES[dice.below(STATES.len() as u64) as usize];
                let sub_state = [SubState::None, SubState::NoSpace][dice.below(2) as usize];
                deployments.push(deployment(of, state, sub_state));
                known.said = Some(said(deployments, at, bytes).into());
                open.ledger.bytes(known, &before, &bytes, at);
                open.ledger.device(&device(number), known, at);
            }
        }
    }
    // Everybody reports once more, so that approvals that came later count.
    for (number, known) in &model.fleet {
        open.ledger.device(&device(*number), known, at);
    }
    open.commit(Rows::default()).await.unwrap();
    let today = at.0 / DAY_MS;
    let counted = model.count();
    model.days.insert(today, counted);
    compare(place, &mut open, &model, (first_day, kept_from, today), seed).await;
    open.session.close().await;
}

/// Counters against the model and against a full recount from details.
async fn compare(place: &Place, open: &mut Open, model: &Model, (first, kept, today): (u64, u64, u64), seed: u64) {
    let mut deltas: BTreeMap<(i64, i64, i64), BTreeMap<i64, i64>> = BTreeMap::new();
    let connection = &mut open.session.connection;
    for row in
        sqlx::query("SELECT grp, release, state, day, delta FROM state_day").fetch_all(&mut *connection).await.unwrap()
    {
        let key = (row.get(0), row.get(1), row.get(2));
        *deltas.entry(key).or_default().entry(row.get(3)).or_default() += row.get::<i64, _>(4);
    }
    // The recount: what is counted of each device today, less what later days have changed.
    let mut recount: BTreeMap<(i64, i64, i64), i64> = BTreeMap::new();
    for row in sqlx::query("SELECT content FROM counted").fetch_all(&mut *connection).await.unwrap() {
        let counted = super::counted::Counted::restore(&row.get::<Vec<u8>, _>(0)).unwrap();
        for mark in &counted.marks {
            *recount.entry((mark.group.into(), mark.release.into(), mark.state.into())).or_default() += 1;
        }
    }
    let changes = "SELECT grp, release, before, state, day FROM change ORDER BY day DESC";
    let mut changes: Vec<(i64, i64, i64, i64, i64)> = sqlx::query(changes)
        .fetch_all(&mut *connection)
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4)))
        .collect();
    let mut day = today as i64;
    let last_folded = (kept as i64 - 1).max(first as i64);
    while day >= last_folded {
        for (key, counted) in &recount {
            let sum: i64 = deltas.get(key).map_or(0, |days| days.range(..=day).map(|(_, delta)| delta).sum());
            assert_eq!(sum, *counted, "seed {seed}, day {day}, {key:?}: counters against a recount");
        }
        for key in deltas.keys().filter(|key| !recount.contains_key(key)) {
            assert_eq!(
                deltas[key].range(..=day).map(|(_, delta)| delta).sum::<i64>(),
                0,
                "seed {seed}, day {day}, {key:?}"
            );
        }
        while let Some((group, release, before, state, _)) = changes.first().copied().filter(|change| change.4 == day) {
            changes.remove(0);
            if before != state {
                *recount.entry((group, release, state)).or_default() -= i64::from(state != 0);
                *recount.entry((group, release, before)).or_default() += i64::from(before != 0);
            }
        }
        day -= 1;
    }
    // The report against the model.
    let past = Past::new(Database::readers(place.clone()).unwrap());
    let shown = past.by_day(kept.max(first), today).await.unwrap();
    let mut seen = 0;
    let mut states_now = None;
    for (day, (states, members, approved)) in model.days.range(kept.max(first)..) {
        for group in (0..GROUPS).map(group) {
            let Some(of_day) = shown.iter().find(|known| known.day == *day && known.group == group) else { continue };
            seen += 1;
            assert_eq!(of_day.members, members.get(&group).copied().unwrap_or_default(), "seed {seed}, day {day}");
            let approved: Vec<_> = approved.iter().filter(|(of, _)| *of == group).collect();
            assert_eq!(of_day.approvals, approved.len() as u64, "seed {seed}, day {day}");
            assert_eq!(of_day.stands.expected, of_day.members * of_day.approvals);
            let sum = of_day.stands.done + of_day.stands.pending + of_day.stands.failed;
            assert_eq!(
                sum + of_day.stands.unknown(),
                of_day.stands.expected,
                "seed {seed}, day {day}: unknown is the rest"
            );
            if *day == today {
                let done = |of: Class| -> u64 {
                    let counts = states.iter().filter(|((in_group, release, state), _)| {
                        *in_group == group
                            && approved.contains(&&(group, *release))
                            && class((*state).into()) == Some(of)
                    });
                    counts.map(|(_, count)| count).sum()
                };
                assert_eq!(of_day.stands.done, done(Class::Done), "seed {seed}");
                assert_eq!(of_day.stands.failed, done(Class::Failed), "seed {seed}");
                states_now = Some(());
            }
        }
    }
    assert!(seen > 0 && states_now.is_some(), "seed {seed}: nothing was compared");
    let bytes = past.bytes(None, kept.max(first)).await.unwrap();
    let told: BTreeMap<u64, u64> = bytes.into_iter().map(|(day, bytes)| (day, bytes.origin)).collect();
    let wanted: BTreeMap<u64, u64> = model
        .bytes
        .iter()
        .filter(|(day, sum)| **day >= kept.max(first) && **sum > 0)
        .map(|(day, sum)| (*day, *sum))
        .collect();
    assert_eq!(told, wanted, "seed {seed}");
    past.close().await;
}

#[tokio::test]
async fn counters_equal_a_full_recount_after_random_events_restarts_and_retention() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..6 {
        live(&Place::File(dir.path().join(format!("seed {seed}%?#.db"))), seed, 1_500).await;
    }
    let Some(server) = Postgres::start() else { return };
    live(&server.place(), 100, 1_500).await;
}

#[tokio::test]
async fn a_rollout_says_when_its_shares_were_done_and_a_noisy_device_grows_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let server = Postgres::start();
    let mut places = vec![Place::File(dir.path().join("fleet.db"))];
    places.extend(server.as_ref().map(Postgres::place));
    for place in places {
        let mut open = Open::new(&place).await.unwrap();
        let (begin, of) = (Wall(20_000 * DAY_MS), (group(1), release(1)));
        open.ledger.approvals(&[in_force(of, 1)], begin, |_| b"signed".to_vec());
        for number in 0..100 {
            let mut one = known(number, vec![group(1)]);
            open.ledger.device(&device(number), &one, begin);
            // Of 100 devices one is done each minute, and the last says nothing.
            if number < 99 {
                let at = Wall(begin.0 + u64::from(number) * 60_000);
                let done = deployment(of, DeploymentState::Installed, SubState::None);
                one.said = Some(said(vec![done], at, BytesBySource::default()).into());
                open.ledger.device(&device(number), &one, at);
            }
        }
        // One that fails and works by turns, and speaks of what nobody approved.
        let mut noisy = known(0, vec![group(1)]);
        for turn in 0..2_000u64 {
            let at = Wall(begin.0 + 3_600_000 + turn * 1_000);
            let state = if turn % 2 == 0 { DeploymentState::Failed } else { DeploymentState::Installed };
            let strange = (group(1), ReleaseId([turn as u8; 32]));
            let told = vec![deployment(of, state, SubState::None), deployment(strange, state, SubState::None)];
            noisy.said = Some(said(told, at, BytesBySource::default()).into());
            open.ledger.device(&device(0), &noisy, at);
            if turn % 100 == 99 {
                open.commit(Rows::default()).await.unwrap();
            }
        }
        let count = "SELECT CAST(COUNT(*) AS BIGINT) FROM change";
        let rows: i64 = sqlx::query(count).fetch_one(&mut open.session.connection).await.unwrap().get(0);
        assert!(rows < 100 + 256 + 24, "{rows} rows");
        open.ledger.approvals(&[], Wall(begin.0 + DAY_MS), |_| Vec::new());
        open.commit(Rows::default()).await.unwrap();
        let past = Past::new(Database::readers(place).unwrap());
        let rollouts = past.rollouts().await.unwrap();
        assert_eq!(rollouts.len(), 1);
        let went = &rollouts[0];
        assert_eq!((went.stands.expected, went.stands.done, went.stands.unknown()), (100, 99, 1));
        assert_eq!(went.reached, [50, 90, 99].map(|minutes| Some(minutes * 60_000)));
        assert_eq!(went.ended, Some(Wall(begin.0 + DAY_MS)));
        let approvals = past.approvals(Wall(0)).await.unwrap();
        assert_eq!((approvals.len(), approvals[0].document.as_slice()), (1, &b"signed"[..]));
        assert_eq!(past.approvals(Wall(begin.0 + 2 * DAY_MS)).await.unwrap(), [], "ended before");
        past.close().await;
        open.session.close().await;
    }
}

#[tokio::test]
async fn bytes_that_a_device_makes_up_stop_no_later_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let server = Postgres::start();
    let mut places = vec![Place::File(dir.path().join("fleet.db"))];
    places.extend(server.as_ref().map(Postgres::place));
    for place in places {
        let is_file = matches!(place, Place::File(_));
        let mut open = Open::new(&place).await.unwrap();
        let (known, none) = (known(1, vec![group(1)]), BytesBySource::default());
        for origin in [u64::MAX, i64::MAX as u64, 7] {
            let told = BytesBySource { origin, cache: 5, ..none };
            open.ledger.bytes(&known, &none, &told, Wall(DAY_MS));
            open.commit(Rows::default()).await.unwrap();
        }
        let past = Past::new(Database::readers(place).unwrap());
        let bytes = past.bytes(None, 0).await.unwrap();
        assert_eq!(bytes, [(1, BytesBySource { origin: i64::MAX as u64, cache: 15, ..none })]);
        if is_file {
            // As an earlier program left it.
            sqlx::query("UPDATE bytes_day SET origin = 1e19").execute(&mut open.session.connection).await.unwrap();
            assert_eq!(past.bytes(None, 0).await.unwrap(), bytes);
        }
        past.close().await;
        open.session.close().await;
    }
}
