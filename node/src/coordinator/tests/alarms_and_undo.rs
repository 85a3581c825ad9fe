//! Alarms until they are acknowledged, releases that are taken back, machines that go.

use upswarm_protocol::catalog::Action;
use upswarm_protocol::coordinator::AlarmKind;

use super::*;
use crate::api::alarms::{AlarmQuery, AlarmView};

async fn alarms(bench: &Bench, all: bool) -> Vec<AlarmView> {
    bench.client().alarms(&AlarmQuery { all }).await.unwrap().alarms
}

async fn reported(bench: &Bench, machine: &mut Machine, seq: u64) {
    let (root, _) = Directory::new(&bench.data()).newest_root().unwrap();
    machine.say(&machine.report(seq, &root.report_key)).await;
    machine.hear(|message| matches!(message, Message::RelayAck { seq: of, .. } if of == seq).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alarms_are_shown_until_somebody_acknowledges_them() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    reported(&bench, &mut machine, 1).await;
    let shown = alarms(&bench, false).await;
    assert_eq!(shown.len(), 1, "{shown:?}");
    let smoke = &shown[0];
    assert_eq!((smoke.kind, smoke.subject.as_str(), smoke.text.as_str()), (AlarmKind::Disk, "pc7", "smoke"));
    // Case 6: two machines of one identity take turns.
    for run in [1, 2, 1] {
        machine.say(&Message::Here { clock: crate::clock::wall(), run }).await;
    }
    machine.say(&Message::Here { clock: crate::clock::wall(), run: 2 }).await;
    let reason = machine
        .hear(|message| match message {
            Message::Refused { reason } => Some(reason.to_string()),
            _ => None,
        })
        .await;
    assert!(reason.contains("--again"), "{reason}");
    let status = bench.status().await;
    assert_eq!(status.open_alarms, 2, "{:?}", status.alarms);
    assert_eq!(status.alarms[0].kind, AlarmKind::Clone, "the newest first: {:?}", status.alarms);
    assert_eq!(status.alarms[0].subject, "pc7");
    for output in ["table", "json", "csv"] {
        bench.verb(&["alarms", "list", "--output", output]).await.unwrap();
    }
    let reason = refused(bench.verb(&["alarms", "acknowledge", "99"]).await);
    assert!(reason.contains("no alarm 99"), "{reason}");
    let smoke = smoke.id.to_string();
    bench.verb(&["alarms", "acknowledge", &smoke]).await.unwrap();
    assert_eq!(bench.status().await.open_alarms, 1);
    bench.stop().await;
    bench.run().await;
    let (open, all) = (alarms(&bench, false).await, alarms(&bench, true).await);
    assert_eq!((open.len(), all.len()), (1, 2), "after a restart");
    let known = all.iter().find(|alarm| alarm.text == "smoke").unwrap();
    assert!(known.acknowledged.as_deref().is_some_and(|by| by.contains("admin token")), "{known:?}");
    bench.verb(&["alarms", "acknowledge", "--all"]).await.unwrap();
    assert_eq!(bench.status().await.open_alarms, 0);
    machine.host.stop().await;
    bench.stop().await;
}

/// Case 27.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_is_withdrawn_and_declined_wherever_it_was_approved() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    bench.verb(&["group", "add", "lab"]).await.unwrap();
    bench.write("tool.bin", b"tool");
    let file = bench.write("tool.toml", RELEASE.as_bytes());
    bench.verb(&["publish", &file]).await.unwrap();
    bench.verb(&["publish", &file]).await.unwrap();
    assert_eq!(bench.client().catalog().await.unwrap().releases.len(), 1, "the same content is the same release");
    for group in ["office", "lab"] {
        bench.verb(&["approve", "tool@1", "--group", group, "--allow-empty"]).await.unwrap();
    }
    for output in ["table", "json", "csv"] {
        bench.verb(&["release", "list", "--output", output]).await.unwrap();
        bench.verb(&["release", "show", "tool@1", "--output", output]).await.unwrap();
    }
    let reason = refused(bench.verb(&["release", "withdraw", "tool@2"]).await);
    assert!(reason.contains("no release is named"), "{reason}");
    let before = bench.client().catalog().await.unwrap().index_version;
    bench.verb(&["release", "withdraw", "tool@1"]).await.unwrap();
    let catalog = bench.client().catalog().await.unwrap();
    assert!(catalog.releases.is_empty(), "{:?}", catalog.releases);
    assert_eq!(catalog.approvals.len(), 2);
    assert!(catalog.approvals.iter().all(|approval| approval.action == Action::None), "{:?}", catalog.approvals);
    assert_eq!(machine.hear_of_index(before + 3).await, before + 3, "machines hear of it");
    let missing = bench.client().missing(&Default::default()).await.unwrap();
    assert!(missing.releases.is_empty(), "{missing:?}");
    // It was a mistake after all.
    bench.verb(&["publish", &file]).await.unwrap();
    assert_eq!(bench.client().catalog().await.unwrap().releases.len(), 1);
    machine.host.stop().await;
    bench.stop().await;
}

fn gone_too() -> StatusQuery {
    StatusQuery { devices: true, gone: true, ..StatusQuery::default() }
}

/// Cases 38 and 44.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_gone_is_retired_and_its_history_stays() {
    let mut bench = Bench::start().await;
    let mut old = Machine::joined(&bench, "office").await;
    reported(&bench, &mut old, 1).await;
    let reason = refused(bench.verb(&["device", "retire", "pc7"]).await);
    assert!(reason.contains("is connected now"), "{reason}");
    let mut new = Machine::joined(&bench, "office").await;
    reported(&bench, &mut new, 1).await;
    let status = bench.status().await;
    assert_eq!((status.fleet, status.doubles.len()), (2, 1), "two rows of one name");
    old.host.stop().await;
    // The one that is silent is meant.
    while bench.status().await.connected > 1 {
        tokio::task::yield_now().await;
    }
    bench.verb(&["device", "retire", "pc7"]).await.unwrap();
    for restarted in [false, true] {
        if restarted {
            bench.stop().await;
            bench.run().await;
        }
        let status = bench.status().await;
        assert_eq!((status.fleet, status.doubles.len()), (1, 0), "{restarted}");
        assert!(status.devices.iter().all(|row| row.device != old.device()), "it is out of the lists");
        let by_name = StatusQuery { devices: true, device: Some(old.device().short()), ..StatusQuery::default() };
        assert_eq!(bench.client().status(&by_name).await.unwrap().devices.len(), 1, "who asks for it sees it");
        let status = bench.client().status(&gone_too()).await.unwrap();
        let row = status.devices.iter().find(|row| row.device == old.device()).unwrap();
        assert!(row.retired && row.last_seen_s.is_some() && row.bytes.origin == 7, "its history stays: {row:?}");
    }
    bench.verb(&["device", "list"]).await.unwrap();
    bench.verb(&["device", "list", "--all", "--output", "csv"]).await.unwrap();
    let short = old.device().short();
    let reason = refused(bench.verb(&["device", "retire", &short]).await);
    assert!(reason.contains("out of the lists already"), "{reason}");
    new.host.stop().await;
    bench.stop().await;
}

/// A machine that says that it leaves, one that joins anew with what it has, and one that comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_and_joining_anew_keep_the_payloads() {
    let mut bench = Bench::start().await;
    let invite = || async {
        let request =
            InviteRequest { group: "office".into(), site: "berlin".into(), ttl_s: 600, uses: 1, addresses: Vec::new() };
        bench.client().invite(&request).await.unwrap().token
    };
    let pc = bench.dir.path().join("pc");
    let pc_text = pc.display().to_string();
    let node = |args: Vec<String>| async move {
        tokio::task::spawn_blocking(move || cli::try_run(&args.iter().map(String::as_str).collect::<Vec<_>>()))
            .await
            .unwrap()
    };
    let join = |token: String, more: &[&str]| {
        let mut args: Vec<String> = ["node", "join", &token, "--data-dir", &pc_text, "--no-mdns", "--label", "pc9"]
            .iter()
            .map(|arg| (*arg).to_owned())
            .collect();
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        node(args)
    };
    join(invite().await, &["--listen", "127.0.0.1:4799"]).await.unwrap();
    std::fs::create_dir_all(pc.join("store")).unwrap();
    std::fs::write(pc.join("store/kept"), b"payload").unwrap();
    let first = std::fs::read(pc.join("device.key")).unwrap();
    let reason = refused(join(invite().await, &[]).await);
    assert!(reason.contains("joined already") && reason.contains("--again"), "{reason}");
    join(invite().await, &["--again"]).await.unwrap();
    assert_ne!(std::fs::read(pc.join("device.key")).unwrap(), first, "a new identity");
    assert!(!pc.join("device.new").exists());
    let config = std::fs::read_to_string(pc.join("node.toml")).unwrap();
    assert!(config.contains("/ip4/127.0.0.1/tcp/4799"), "its settings are kept: {config}");
    assert_eq!(bench.status().await.fleet, 2);

    let leave = || node(["node", "leave", "--data-dir", &pc_text].iter().map(|arg| (*arg).to_owned()).collect());
    leave().await.unwrap();
    let status = bench.client().status(&gone_too()).await.unwrap();
    assert_eq!((status.fleet, status.devices.iter().filter(|row| row.retired).count()), (1, 1));
    assert!(!pc.join("node.toml").exists() && !pc.join("device.key").exists() && !pc.join("journal").exists());
    assert_eq!(std::fs::read(pc.join("store/kept")).unwrap(), b"payload");
    refused(leave().await);
    bench.stop().await;
}
