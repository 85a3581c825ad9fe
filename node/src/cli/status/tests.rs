use super::*;
use crate::api::alarms::AlarmView;
use crate::api::holds::HoldView;
use crate::api::status::{HeadStatus, OriginStatus, ReasonCount, RingView, ScanCounts};
use upswarm_protocol::catalog::{Action, NodeRole};
use upswarm_protocol::coordinator::AlarmKind;
use upswarm_protocol::ids::{DeviceId, ReleaseId};
use upswarm_protocol::report::{BytesBySource, DeploymentState, SubState};

fn deployment(release: u8, version: &str, state: DeploymentState, reason: &str) -> DeploymentStatus {
    DeploymentStatus {
        release: ReleaseId([release; 32]),
        product: Some("org.example.editor".to_owned()),
        version: Some(version.to_owned()),
        title: Some("Editor".to_owned()),
        group: "office".to_owned(),
        approval_version: 1,
        action: Action::Install,
        state,
        sub_state: SubState::None,
        code: (state == DeploymentState::Failed).then_some(3),
        reason: reason.to_owned(),
        since_s: 5,
        done: 1,
        total: 2,
    }
}

fn device(id: u8, label: &str, last_seen_s: Option<u64>, deployments: Vec<DeploymentStatus>) -> DeviceStatus {
    DeviceStatus {
        device: DeviceId([id; 32]),
        label: label.to_owned(),
        site: "berlin".to_owned(),
        role: NodeRole::Node,
        groups: vec!["office".to_owned()],
        groups_heard: None,
        revoked: false,
        retired: false,
        connected: false,
        agent: None,
        os: None,
        last_seen_s,
        index_version: 4,
        bytes: BytesBySource { origin: 1024, ..BytesBySource::default() },
        alarms: Vec::new(),
        deployments,
        packages: None,
        pending_restart: Some(true),
        time_zone: None,
        scan: Some(ScanCounts { unknown: 0, not_applicable: 0, required: 17, installed: 0 }),
    }
}

fn status(devices: Vec<DeviceStatus>, releases: Vec<ReleaseStatus>) -> Status {
    Status {
        head: Some(HeadStatus { root_version: 1, index_version: 4, age_s: 9, expires: String::new() }),
        fleet: devices.len(),
        seen_lately: 1,
        connected: 1,
        releases,
        devices,
        rollouts: vec![RolloutView {
            release: ReleaseId([0xef; 32]),
            product: None,
            version: Some("2.1".to_owned()),
            title: Some("Editor".to_owned()),
            group: "office".to_owned(),
            approval_version: 1,
            action: Action::Install,
            stop_above_percent: 5.0,
            held: true,
            left_out: 0,
            accepted_bad: 0,
            rings: vec![RingView {
                ring: 1,
                up_to_percent: 0.5,
                begins: "2027-01-15T08:00:00Z".to_owned(),
                has_begun: true,
                devices: 12,
                begun: 11,
                installed: 8,
                failed: 2,
                silent: 1,
            }],
        }],
        holds: vec![
            HoldView { group: None, release: None },
            HoldView { group: Some("office".to_owned()), release: Some(ReleaseId([0xef; 32])) },
        ],
        alarms: vec![
            alarm(4, AlarmKind::Other, "coordinator", 0, "the disk is full"),
            alarm(3, AlarmKind::Device, "pc7", 3, "a tampered document"),
        ],
        open_alarms: 2,
        doubles: vec![Double { name: "pc7".to_owned(), devices: vec![DeviceId([1; 32]), DeviceId([2; 32])] }],
        origin: OriginStatus { payload_bytes: 1_048_576 },
    }
}

fn alarm(id: u64, kind: AlarmKind, subject: &str, devices: usize, text: &str) -> AlarmView {
    AlarmView {
        id,
        kind,
        subject: subject.to_owned(),
        device: None,
        release: None,
        devices,
        text: text.to_owned(),
        count: 1,
        first_s: 9,
        last_s: 9,
        over: false,
        acknowledged: None,
    }
}

#[test]
fn devices_are_listed_with_ids_reasons_and_silence() {
    let of_pc7 = vec![
        deployment(0xef, "2.1", DeploymentState::Failed, "disk on\nfire\u{202e}"),
        deployment(0x0a, "2.0", DeploymentState::Superseded, "Editor (2.1) takes its place"),
    ];
    let status = status(vec![device(0xab, "", None, Vec::new()), device(0xcd, "pc7", Some(200), of_pc7)], Vec::new());
    let shown = text(&status, true, false);
    for wanted in [
        "abababab  abababab  berlin",
        "never",
        "cdcdcdcd  pc7",
        "3 min",
        "efefefef  Editor (2.1)",
        "Failed, exit ",
        "50 %",
        "1.0 KiB",
        "disk on fire",
        "Superseded",
        "ALARM 3 on pc7 and 2 more, until acknowledged: a tampered document",
        "ALARM 4 on coordinator, until acknowledged: the disk is full",
        "; 2 alarms",
        "on hold: everything, --group office --release efefefef",
        "0.5 %  begun   12       11     8          2       1       on hold",
        "2 devices are pc7: 01010101 was heard of last",
        "upswarm device retire 02020202",
    ] {
        assert!(shown.contains(wanted), "{wanted} is missing in\n{shown}");
    }
    assert!(shown.lines().skip(2).take(4).all(|line| line.chars().count() <= COLUMNS), "{shown}");
    let whole = text(&status, true, true);
    assert!(whole.contains("pc7 efefefef: disk on fire\\u{202e}"), "{whole}");
    let csv = devices(&status).csv().unwrap();
    let rows = csv::Reader::from_reader(csv.as_bytes()).into_records().filter_map(Result::ok).count();
    assert_eq!(rows, 3, "{csv}");
    let json = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
}

#[test]
fn a_hundred_machines_failing_for_five_reasons_fit_a_screen() {
    let reason = |devices, reason: &str| ReasonCount {
        state: "Failed".to_owned(),
        reason: reason.to_owned(),
        devices,
        oldest_s: 7000,
        example: "pc1".to_owned(),
    };
    let long = "E: the package editor needs to be reinstalled, but no archive can be found for it; ".repeat(4);
    let release = |id: u8, reasons: Vec<ReasonCount>| ReleaseStatus {
        release: ReleaseId([id; 32]),
        product: Some("org.example.editor".to_owned()),
        version: Some("2.1".to_owned()),
        title: Some("Editor".to_owned()),
        groups: vec!["office".to_owned()],
        states: [("Failed".to_owned(), 100), ("Installed".to_owned(), 400)].into(),
        oldest_s: Some(7000),
        reasons,
    };
    let five = vec![
        reason(40, &long),
        reason(30, "no space left on device"),
        reason(20, "dpkg is locked by another program"),
        reason(7, "the script ended with code 1"),
        reason(3, "a dependency is missing"),
    ];
    let many = (0..40).map(|id| release(id, if id == 0 { five.clone() } else { Vec::new() })).collect();
    let status = status(Vec::new(), many);
    let shown = text(&status, false, false);
    let lines: usize = shown.lines().map(|line| line.chars().count().div_ceil(100).max(1)).sum();
    assert!(lines <= 24, "{lines} lines\n{shown}");
    for wanted in
        ["40 Failed for up to 116 min: E: the package", "3 Failed", "400 Installed, 100 Failed", "and 36 more"]
    {
        assert!(shown.contains(wanted), "{wanted} is missing in\n{shown}");
    }
    let whole = text(&status, false, true);
    assert!(whole.contains(long.trim_end()) && whole.lines().count() > 40, "{whole}");
}

#[test]
fn states_are_said_as_people_say_them() {
    let mut done = deployment(1, "2.1", DeploymentState::Installed, "");
    done.code = Some(0);
    assert_eq!(about(&done)[2], "Installed");
    let mut held = deployment(1, "2.1", DeploymentState::OnHold, "");
    held.sub_state = SubState::Paused;
    assert_eq!(about(&held)[2], "On hold: paused by the admin");
    assert_eq!(about(&deployment(1, "2.1", DeploymentState::Failed, ""))[2], "Failed, exit code 3");
}
