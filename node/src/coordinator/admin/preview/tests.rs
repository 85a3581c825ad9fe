use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::api::catalog::Catalog;
use crate::api::schedule::LIFE;
use crate::coordinator::store::Fleet;
use crate::coordinator::store::known::{Known, Said};
use crate::coordinator::store::view::Live;
use upswarm_protocol::catalog::{Classification, NodeRole, Ring, RingPlan, Schedule, Severity, Weekdays, Window};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::coordinator::DeviceRecord;
use upswarm_protocol::ids::{DeviceId, DocHash, GroupId, ReleaseId, SiteId};
use upswarm_protocol::report::{BytesBySource, DeploymentReport, Report, SubState};

/// 2027-01-15 08:00 UTC, a Friday.
const NOW: Wall = Wall(1_800_000_000_000);
const RELEASE: ReleaseId = ReleaseId([2; 32]);
const GROUP: GroupId = GroupId([1; 16]);

fn approval(rings: &[(u16, u32)], schedule: Schedule) -> Approval {
    let rings = rings.iter().map(|(up_to, delay_s)| Ring { up_to: *up_to, delay_s: *delay_s }).collect();
    Approval {
        group: GROUP,
        group_version: 0,
        release: RELEASE,
        version: 1,
        action: Action::Install,
        back: false,
        issued: NOW,
        expires: NOW + LIFE,
        schedule,
        rings: RingPlan { rings: Bounded::new(rings).unwrap(), stop_above: 500 },
        note: Text::default(),
        filtered: None,
    }
}

fn device(number: u32) -> DeviceId {
    DeviceId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn said(number: u32, state: DeploymentState) -> Said {
    let deployment = DeploymentReport {
        release: RELEASE,
        group: GROUP,
        approval_version: 1,
        action: Action::Install,
        state,
        sub_state: SubState::None,
        code: None,
        reason: Text::default(),
        since: NOW,
        done: 0,
        total: 1,
        next_try: None,
    };
    let report = Report {
        device: device(number),
        seq: 1,
        issued: NOW,
        site: SiteId::default(),
        role: NodeRole::Node,
        label: Text::lossy(&format!("pc{number}")),
        agent: Text::default(),
        os: Text::default(),
        index_version: 1,
        papers: Default::default(),
        addresses: Bounded::default(),
        bytes: BytesBySource::default(),
        neighbours: 0,
        alarms: Bounded::default(),
        deployments: Bounded::new(vec![deployment]).unwrap(),
    };
    Said::after(None, &report, NOW)
}

/// So many devices: the first has it, the second is not concerned, on the third it failed, the others said nothing.
fn fleet(number: u32) -> Fleet {
    let known = |at: u32| {
        let record = DeviceRecord {
            device: device(at),
            role: NodeRole::Node,
            label: Text::lossy(&format!("pc{at}")),
            site: SiteId::default(),
            groups: Bounded::new(vec![GROUP]).unwrap(),
            enrolled: NOW,
            invited: true,
            certificate: Bounded::default(),
            certified: NOW,
            assignment: Bounded::default(),
            assigned: NOW,
        };
        let mut known = Known::new(record);
        known.said = match at {
            0 => Some(said(at, DeploymentState::Installed).into()),
            1 => Some(said(at, DeploymentState::NotApplicable).into()),
            2 => Some(said(at, DeploymentState::Failed).into()),
            _ => None,
        };
        (device(at), Arc::new(known))
    };
    (0..number).map(known).collect()
}

fn release() -> CatalogRelease {
    CatalogRelease {
        release: RELEASE,
        product: "org.example.editor".to_owned(),
        version: "2.1".to_owned(),
        counter: 1,
        title: "Editor".to_owned(),
        classification: Classification::Update,
        severity: Severity::Unspecified,
        expires: String::new(),
        document: DocHash::default(),
        content: DocHash::default(),
        removable: true,
    }
}

fn preview(approval: &Approval, fleet: &Fleet, zone_name: &str) -> Preview {
    let live = Live {
        catalog: Arc::new(Catalog { releases: vec![release()], ..Catalog::default() }),
        parts: Arc::default(),
        names: Arc::default(),
        rules: Arc::default(),
        holds: Vec::new(),
        revoked: Arc::default(),
        connected: BTreeSet::new(),
        rollouts: Arc::default(),
        wan_limits: Default::default(),
        head: None,
        upstreams: Vec::new(),
        alarms: Default::default(),
        origin_bytes: 0,
        now: NOW,
    };
    let view = View::new(&live, fleet);
    of(&view, approval, ("office", &release()), None, (zone_name, &zone(zone_name).unwrap()))
}

fn nights() -> Schedule {
    let night = Window { days: Weekdays::ALL, start: 22 * 60, end: 5 * 60 };
    Schedule { windows: Bounded::new(vec![night]).unwrap(), ..Schedule::default() }
}

#[test]
fn a_dozen_devices_ring_by_ring() {
    let (approval, fleet) = (approval(&[(2000, 0), (9000, 86_400)], nights()), fleet(12));
    let preview = preview(&approval, &fleet, "Europe/Berlin");
    assert_eq!((preview.devices, preview.already, preview.not_applicable), (12, 1, 1));
    let by_place = |from: u16, to: u16| {
        let of = |at: &u32| (from..to).contains(&ring_of(device(*at), RELEASE));
        (0..12).filter(of).map(|at| format!("pc{at}")).collect::<BTreeSet<_>>()
    };
    for (at, wanted, evening) in [
        // 22:00 in Berlin, in winter, on the day and on the day after.
        (0, by_place(0, 2000), "2027-01-15T21:00:00Z"),
        (1, by_place(2000, 9000), "2027-01-16T21:00:00Z"),
    ] {
        let ring = &preview.rings[at];
        let found: BTreeSet<_> = ring.devices.iter().map(|device| device.name.clone()).collect();
        assert_eq!(found, wanted, "ring {at}");
        assert!(ring.devices.iter().all(|device| device.earliest.as_deref() == Some(evening)), "ring {at}");
    }
    assert_eq!(preview.left_out.len(), by_place(9000, 10_000).len());
    assert!(preview.questions.iter().any(|question| question.contains("the rings end at 90 %")), "{preview:?}");
    assert_eq!(preview.rings[1].up_to_percent, 90.0);
    assert!(must_reach_somebody(&preview).is_ok());
    let json = serde_json::to_string(&preview).unwrap();
    assert_eq!(serde_json::from_str::<Preview>(&json).unwrap(), preview);
}

#[test]
fn a_ring_that_tries_nothing_is_asked_about_with_a_share_that_would() {
    let fleet = fleet(5);
    let places: BTreeSet<u16> = (0..5).filter(|at| *at > 1).map(|at| ring_of(device(at), RELEASE)).collect();
    let first = *places.first().unwrap();
    assert!(first > 1, "the example begins with a ring of nobody");
    let empty = preview(&approval(&[(1, 0), (10_000, 86_400)], Schedule::default()), &fleet, "UTC");
    let asked = &empty.questions[0];
    let share = percent((first / 100 + 1) * 100);
    assert!(asked.contains("ring 1 (up to 0.01 %) holds no device") && asked.contains(&share), "{asked}");
    let filled =
        preview(&approval(&[((first / 100 + 1) * 100, 0), (10_000, 86_400)], Schedule::default()), &fleet, "UTC");
    assert!(!filled.questions.iter().any(|question| question.contains("ring 1")), "{:?}", filled.questions);
    assert!(preview(&approval(&[], Schedule::default()), &fleet, "UTC").questions.is_empty());
}

#[test]
fn nobody_is_refused() {
    let refused = |preview: &Preview| must_reach_somebody(preview).unwrap_err().to_string();
    let all = approval(&[], Schedule::default());
    assert!(refused(&preview(&all, &fleet(0), "UTC")).contains("no devices"));
    let nobody = approval(&[(1, 0)], Schedule::default());
    assert!(refused(&preview(&nobody, &fleet(3), "UTC")).contains("leave out all 3"));
    let late = approval(&[(10_000, 31 * 86_400)], Schedule::default());
    assert!(refused(&preview(&late, &fleet(3), "UTC")).contains("before the approval expires"));
    let mut unconcerned = fleet(2);
    unconcerned.remove(&device(0));
    assert!(refused(&preview(&all, &unconcerned, "UTC")).contains("concerns no device"));
    let mut declined = all.clone();
    declined.action = Action::None;
    assert!(must_reach_somebody(&preview(&declined, &fleet(0), "UTC")).is_ok());
}

/// What this thread has had of the processors: what else the machine does is not counted.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn twenty_thousand_devices_cost_four_times_what_five_thousand_do() {
    let approval = approval(&[(100, 0), (1000, 86_400), (10_000, 3 * 86_400)], nights());
    let took = |fleet: &Fleet| {
        let begin = processor_time();
        assert_eq!(preview(&approval, fleet, "Europe/Berlin").devices, fleet.len());
        processor_time() - begin
    };
    let (few, many) = (fleet(5_000), fleet(20_000));
    let runs: Vec<(Duration, Duration)> = (0..3).map(|_| (took(&few), took(&many))).collect();
    let few = runs.iter().map(|(few, _)| *few).min().unwrap();
    let many = runs.iter().map(|(_, many)| *many).min().unwrap();
    println!("a preview of 5,000 devices: {few:?}; of 20,000: {many:?}");
    assert!(many < few * 8, "{few:?} for 5,000, {many:?} for 20,000");
}
