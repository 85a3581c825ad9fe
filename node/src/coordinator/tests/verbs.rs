//! The admin's verbs against a running coordinator: pause, target, approve by rule, and rollouts that stop.

use upswarm_protocol::catalog::Action;
use upswarm_protocol::report::{DeploymentState, SubState};

use super::*;
use crate::api::approvals::SignedDocument;
use crate::api::rules::RuleSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_and_resume_reach_a_machine_with_the_next_head() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    bench.write("tool.bin", b"tool");
    let file = bench.write("tool.toml", RELEASE.as_bytes());
    bench.verb(&["publish", &file]).await.unwrap();
    let approve = ["approve", "org.example.tool@1", "--group", "office"];
    let reason = refused(bench.verb(&[&approve[..], &["--zone", "Mars/Base"]].concat()).await);
    assert!(reason.contains("Mars/Base"), "{reason}");
    bench.verb(&[&approve[..], &["--ring", "100%", "--dry-run"]].concat()).await.unwrap();
    assert!(bench.client().catalog().await.unwrap().approvals.is_empty(), "a dry run signs nothing");
    // The machine is in the second ring: the first would try nothing, and somebody has to say that this is meant.
    let staged = ["--window", "daily 22:00-05:00", "--ring", "0.01%", "--ring", "100%+1d"];
    let reason = refused(bench.verb(&[&approve[..], &staged].concat()).await);
    assert!(reason.contains("ring 1 (up to 0.01 %) holds no device") && reason.contains("--yes"), "{reason}");
    let short = [&approve[..], &["--ring", "50%", "--allow-empty"]].concat();
    let reason = refused(bench.verb(&short).await);
    assert!(reason.contains("the rings end at 50 %"), "{reason}");
    assert!(bench.client().catalog().await.unwrap().approvals.is_empty(), "nothing is signed unasked");
    let staged = [&staged[..], &["--yes"]].concat();
    bench.verb(&[&approve[..], &staged].concat()).await.unwrap();

    for flags in [
        &[][..],
        &["--group", "office"],
        &["--release", "org.example.tool@1"],
        &["--group", "office", "--release", "org.example.tool@1"],
    ] {
        let verb = |verb: &'static str| [&[verb], flags].concat();
        let before = bench.client().catalog().await.unwrap().index_version;
        let reason = refused(bench.verb(&verb("resume")).await);
        assert!(reason.contains("not on hold"), "{reason}");
        bench.verb(&verb("pause")).await.unwrap();
        // The verb returned, so the head with the hold is on its way to the machine.
        assert_eq!(machine.hear_of_index(before + 1).await, before + 1, "{flags:?}");
        bench.verb(&verb("pause")).await.unwrap();
        let status = bench.status().await;
        assert_eq!((status.holds.len(), status.rollouts[0].held), (1, true), "{flags:?}");
        bench.verb(&verb("resume")).await.unwrap();
        assert_eq!(machine.hear_of_index(before + 2).await, before + 2, "{flags:?}");
        assert!(bench.status().await.holds.is_empty());
    }
    for bad in [["--group", "nobody"], ["--release", "org.example.tool@9"]] {
        refused(bench.verb(&[&["pause"], &bad[..]].concat()).await);
    }

    // Expedite keeps the rest; decline ends it.
    bench.verb(&["expedite", "org.example.tool@1", "--group", "office"]).await.unwrap();
    let approval = bench.client().catalog().await.unwrap().approvals.remove(0);
    assert_eq!((approval.version, approval.schedule.expedite, approval.schedule.windows.len()), (2, true, 1));
    assert_eq!((approval.rings.rings.len(), approval.rings.stop_above), (2, 200));
    bench.verb(&["decline", "org.example.tool@1", "--group", "office", "--note", "no"]).await.unwrap();
    let approval = bench.client().catalog().await.unwrap().approvals.remove(0);
    assert_eq!((approval.version, approval.action), (3, Action::None));
    assert!(bench.status().await.rollouts.is_empty());
    let reason = refused(bench.verb(&["expedite", "org.example.tool@1", "--group", "office"]).await);
    assert!(reason.contains("declined"), "{reason}");
    refused(bench.verb(&["decline", "org.example.tool@1", "--group", "office"]).await);
    machine.host.stop().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_put_into_a_group_hears_of_it() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    let key = machine.device().to_string();
    let reason = refused(bench.verb(&["group", "assign", "pc7", "--group", "pilots"]).await);
    assert!(reason.contains("no group"), "{reason}");
    bench.verb(&["group", "add", "pilots"]).await.unwrap();
    bench.verb(&["group", "add", "pilots"]).await.unwrap();
    refused(bench.verb(&["group", "assign", "pc8", "--group", "pilots"]).await);
    bench.verb(&["group", "assign", "pc7", "--group", "pilots"]).await.unwrap();
    assert_eq!(machine.assigned_groups().await, 2);
    bench.verb(&["group", "remove-device", &key[..8], "--group", "office"]).await.unwrap();
    assert_eq!(machine.assigned_groups().await, 1);
    bench.verb(&["group", "list"]).await.unwrap();
    bench.stop().await;
    bench.run().await;
    let status = bench.status().await;
    assert_eq!(status.devices[0].groups, ["pilots"], "after a restart");
    machine.host.stop().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_approve_what_is_published_if_the_approver_is_there() {
    let mut bench = Bench::start().await;
    for group in ["office", "lab"] {
        bench.verb(&["group", "add", group]).await.unwrap();
    }
    let add = |flags: &[&str]| [&["rule", "add"], flags].concat().iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    for (flags, cause) in [
        (&["--group", "nobody"][..], "no group"),
        (&["--group", "lab", "--deadline", "2036-12-08T22:00:00Z"], "every release to come"),
        (&["--group", "lab", "--ring", "50%", "--ring", "20%"], "ring 2"),
    ] {
        let args = add(flags);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let reason = refused(bench.verb(&args).await);
        assert!(reason.contains(cause), "{reason}");
    }
    for flags in [
        &["--group", "office", "--classification", "security,update", "--product", "org.example", "--deadline", "+7d"]
            [..],
        &["--group", "office", "--jitter", "1h"],
        &["--group", "lab", "--min-severity", "important"],
    ] {
        let args = add(flags);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        bench.verb(&args).await.unwrap();
    }
    bench.stop().await;
    bench.run().await;
    assert_eq!(bench.client().rules().await.unwrap().rules.len(), 3, "after a restart");
    bench.write("tool.bin", b"tool");
    let file = bench.write("tool.toml", RELEASE.as_bytes());
    bench.verb(&["publish", &file]).await.unwrap();
    let catalog = bench.client().catalog().await.unwrap();
    // The older of two rules for one group, and not the one that asks for more than this release is.
    assert_eq!((catalog.approvals.len(), catalog.approvals[0].group), (1, catalog.groups["office"]));
    assert!(catalog.approvals[0].schedule.deadline.is_some() && catalog.approvals[0].schedule.jitter_s == 0);

    let severe = RELEASE
        .replace("version = \"1\"", "version = \"2\"")
        .replace("[[payload]]", "severity = \"critical\"\n[[payload]]");
    let file = bench.write("severe.toml", severe.as_bytes());
    bench.verb(&["rule", "remove", "1"]).await.unwrap();
    bench.verb(&["publish", &file]).await.unwrap();
    let catalog = bench.client().catalog().await.unwrap();
    assert_eq!(catalog.approvals.len(), 3);

    // A rule that the coordinator has planted, or an old one that it brings back, is not applied.
    let planted = bench.data().join("rules");
    let good = std::fs::read(&planted).unwrap();
    let mut set =
        RuleSet::parse(envelope::Envelope::parse(&good, Kind::Rules, Role::Approver).unwrap().unverified_body())
            .unwrap();
    set.version += 1;
    set.rules[0].rule.product = String::new();
    let stranger = crate::coordinator::keys::generate().unwrap();
    let forged = envelope::sign_body(Kind::Rules, Role::Approver, &set.to_body(), &[&stranger]).unwrap();
    let client = bench.client();
    let refusal = client.put_rules(SignedDocument(forged.clone())).await.unwrap_err().to_string();
    assert!(refusal.contains("0 valid signatures"), "{refusal}");
    bench.stop().await;
    std::fs::write(&planted, &forged).unwrap();
    bench.run().await;
    let other = severe.replace("version = \"2\"", "version = \"2.1\"");
    let file = bench.write("planted.toml", other.as_bytes());
    bench.verb(&["publish", &file]).await.unwrap();
    assert_eq!(bench.client().catalog().await.unwrap().approvals.len(), 3);
    bench.stop().await;
    std::fs::write(&planted, &good).unwrap();
    bench.run().await;

    // Without the approver's key the release is published, and nothing is approved.
    for entry in std::fs::read_dir(bench.data().join("keys")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().contains("approver") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let third = bench.write("third.toml", severe.replace("version = \"2\"", "version = \"3\"").as_bytes());
    bench.verb(&["publish", &third]).await.unwrap();
    let catalog = bench.client().catalog().await.unwrap();
    assert_eq!((catalog.releases.len(), catalog.approvals.len()), (4, 3));
    refused(bench.verb(&["rule", "remove", "1"]).await);
    bench.verb(&["rule", "list"]).await.unwrap();
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_that_fails_is_stopped_told_and_goes_on_when_the_admin_says_so() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    bench.write("tool.bin", b"tool");
    let file = bench.write("tool.toml", RELEASE.as_bytes());
    bench.verb(&["publish", &file]).await.unwrap();
    let one = ["--group", "office", "--release", "org.example.tool@1"];
    bench.verb(&["approve", one[3], "--group", "office", "--ring", "100%", "--stop-above", "5%"]).await.unwrap();
    let approval = bench.client().catalog().await.unwrap().approvals.remove(0);
    let (root, _) = Directory::new(&bench.data()).newest_root().unwrap();
    let failed = DeploymentReport {
        release: approval.release,
        group: approval.group,
        approval_version: approval.version,
        action: Action::Install,
        state: DeploymentState::Failed,
        sub_state: SubState::None,
        code: Some(3),
        reason: Text::lossy("disk on fire"),
        since: Wall(1),
        done: 4,
        total: 4,
        next_try: None,
    };
    let before = bench.client().catalog().await.unwrap().index_version;
    machine.say(&machine.report_of(1, &root.report_key, vec![failed])).await;
    assert_eq!(machine.hear_of_index(before + 1).await, before + 1, "the head that holds it");
    let status = bench.status().await;
    let rollout = &status.rollouts[0];
    assert_eq!((rollout.held, rollout.rings[0].failed), (true, 1), "{rollout:?}");
    let alarm = &status.alarms[0].text;
    for wanted in ["Tool 1 (1)", "group office", "1 failed", "5 %", "upswarm resume --group office --release"] {
        assert!(alarm.contains(wanted), "{wanted} is missing in {alarm}");
    }
    bench.verb(&["status"]).await.unwrap();

    bench.verb(&[&["resume"], &one[..]].concat()).await.unwrap();
    bench.stop().await;
    bench.run().await;
    let status = bench.status().await;
    let rollout = &status.rollouts[0];
    assert_eq!((rollout.held, rollout.accepted_bad), (false, 1), "after a restart: {rollout:?}");
    assert_eq!(rollout.rings[0].failed, 1, "its word is remembered");
    machine.host.stop().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_device_told_and_its_name_go_with_it() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    let (root, _) = Directory::new(&bench.data()).newest_root().unwrap();
    machine.say(&machine.report(1, &root.report_key)).await;
    machine.hear(|message| matches!(message, Message::RelayAck { .. }).then_some(())).await;
    let reason = refused(bench.verb(&["device", "revoke", "pc8"]).await);
    assert!(reason.contains("no device is named \"pc8\""), "{reason}");
    bench.verb(&["device", "revoke", "pc7"]).await.unwrap();
    for restarted in [false, true] {
        if restarted {
            bench.stop().await;
            bench.run().await;
        }
        let status = bench.status().await;
        let device = &status.devices[0];
        assert_eq!((device.revoked, device.label.as_str(), device.last_seen_s), (true, "", None), "{restarted}");
        assert_eq!((status.fleet, status.open_alarms), (0, 0));
    }
    machine.host.stop().await;
    bench.stop().await;
}
