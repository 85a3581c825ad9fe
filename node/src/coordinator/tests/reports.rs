//! Reports over a whole coordinator: what machines tell, read back over the API, on both databases and after a restart.

use upswarm_protocol::catalog::Action;
use upswarm_protocol::ids::{GroupId, ReleaseId};
use upswarm_protocol::report::{DeploymentState, MAX_TOLD, Papers, SubState};

use super::*;
use crate::api::reports::{Approvals, Compliance, ReportQuery, RolloutTimes, Savings, Vulnerable};
use crate::coordinator::database_setting::DatabaseSetting;
use crate::coordinator::store::postgres::{PASSWORD, Postgres};

fn deployment(release: ReleaseId, group: GroupId, state: DeploymentState) -> DeploymentReport {
    DeploymentReport {
        release,
        group,
        approval_version: 1,
        action: Action::Install,
        state,
        sub_state: SubState::None,
        code: None,
        reason: Text::default(),
        since: Wall(1),
        done: 0,
        total: 0,
        next_try: None,
    }
}

async fn tell(machine: &mut Machine, bench: &Bench, seq: u64, deployments: Vec<DeploymentReport>) {
    let (root, _) = Directory::new(&bench.data()).newest_root().unwrap();
    machine.say(&machine.report_of(seq, &root.report_key, deployments)).await;
    machine.hear(|message| matches!(message, Message::RelayAck { seq: of, .. } if of == seq).then_some(())).await;
}

async fn report<T: serde::de::DeserializeOwned>(bench: &Bench, name: &str, query: &ReportQuery) -> T {
    bench.client().report(name, query).await.unwrap_or_else(|error| panic!("{name}: {error}"))
}

async fn a_day_with_reports(mut bench: Bench) {
    let every = ReportQuery::default();
    let compliance: Compliance = report(&bench, "compliance", &every).await;
    assert_eq!(compliance.days, [], "an empty fleet has no history");
    let mut told = Machine::joined(&bench, "office").await;
    let silent = Machine::joined(&bench, "office").await;
    bench.write("tool.bin", b"tool");
    let file = bench.write("tool.toml", RELEASE.as_bytes());
    bench.verb(&["publish", &file]).await.unwrap();
    bench.verb(&["approve", "org.example.tool@1", "--group", "office", "--note", "monday"]).await.unwrap();
    let catalog = bench.client().catalog().await.unwrap();
    let (release, group) = (catalog.releases[0].release, catalog.groups["office"]);
    tell(&mut told, &bench, 1, vec![deployment(release, group, DeploymentState::Failed)]).await;
    let compliance: Compliance = report(&bench, "compliance", &every).await;
    let today = compliance.days.last().unwrap();
    assert_eq!((today.devices, today.approvals, today.tally.expected), (2, 1, 2));
    assert_eq!((today.tally.failed, today.tally.done, today.tally.unknown), (1, 0, 1));
    assert_eq!((compliance.basis.devices, compliance.basis.never), (2, 1), "it says how many it lacks");
    tell(&mut told, &bench, 2, vec![deployment(release, group, DeploymentState::Installed)]).await;

    bench.stop().await;
    bench.run().await;
    let compliance: Compliance = report(&bench, "compliance", &every).await;
    let today = compliance.days.last().unwrap();
    assert_eq!((today.tally.done, today.tally.failed, today.tally.unknown), (1, 0, 1), "after a restart");
    assert_eq!(today.tally.percent(), "50.00");
    let of_tool = ReportQuery { release: Some("org.example.tool@1".to_owned()), ..ReportQuery::default() };
    let rollouts: RolloutTimes = report(&bench, "rollout", &of_tool).await;
    let went = &rollouts.rollouts[0];
    assert_eq!((went.group.as_str(), went.tally.expected, went.tally.done), ("office", 2, 1));
    assert!((1..=2).contains(&went.to_50_minutes.unwrap()) && went.to_90_minutes.is_none(), "{went:?}");
    assert_eq!(crate::text::within_minutes(Some(1)), "at most 1 min", "nothing finer is known");
    let savings: Savings = report(&bench, "savings", &every).await;
    assert_eq!((savings.total.origin, savings.days.len()), (7, 1));
    let approvals: Approvals = report(&bench, "approvals", &every).await;
    let line = &approvals.approvals[0];
    assert_eq!((line.note.as_str(), line.signers.len(), line.others.len()), ("monday", 1, 0));
    assert!(line.ended.is_none());
    let vulnerable: Vulnerable = report(&bench, "vulnerable", &every).await;
    assert_eq!((vulnerable.without_inventory, vulnerable.cves.len()), (2, 0), "nobody told what is installed");
    assert!(!vulnerable.warnings.is_empty(), "no feed is there, and it says so");

    // A machine that is retired counts no more, and an approval that is declined has ended.
    let key = silent.device().to_string();
    bench.verb(&["device", "retire", &key]).await.unwrap();
    bench.verb(&["decline", "org.example.tool@1", "--group", "office"]).await.unwrap();
    let compliance: Compliance = report(&bench, "compliance", &every).await;
    let today = compliance.days.last().unwrap();
    assert_eq!((today.devices, today.approvals, today.tally.expected), (1, 0, 0));
    let approvals: Approvals = report(&bench, "approvals", &every).await;
    let ended: Vec<bool> = approvals.approvals.iter().map(|line| line.ended.is_some()).collect();
    assert_eq!(ended.iter().filter(|ended| **ended).count(), 1, "{approvals:?}");

    for verb in ["compliance", "rollout", "vulnerable", "savings", "approvals"] {
        for format in ["table", "json", "csv"] {
            bench.verb(&["report", verb, "--output", format]).await.unwrap();
        }
    }
    for (args, wanted) in [
        (&["report", "compliance", "--group", "nobody"][..], "no group"),
        (&["report", "rollout", "--since", "soon"], "no duration"),
        (&["report", "savings", "--since", "2999-01-01"], "has not come yet"),
        (&["report", "approvals", "--release", "nothing@1"], "org.example.tool@1"),
    ] {
        let reason = refused(bench.verb(args).await);
        assert!(reason.contains(wanted), "{args:?}: {reason}");
    }
    told.host.stop().await;
    silent.host.stop().await;
    bench.stop().await;
}

/// Everything that is a number is the largest there is.
fn of_the_largest_numbers(report: Report) -> Report {
    let most = BytesBySource { origin: u64::MAX, cache: u64::MAX, lan_peer: u64::MAX, local_reuse: u64::MAX };
    let huge = |mut told: DeploymentReport| {
        (told.approval_version, told.done, told.total) = (u64::MAX, u64::MAX, u64::MAX);
        (told.since, told.next_try, told.code) = (Wall(u64::MAX), Some(Wall(u64::MAX)), Some(i32::MIN));
        told
    };
    let deployments = Bounded::new(report.deployments.iter().cloned().map(huge).collect()).unwrap();
    let papers = Papers { certificate: Wall(u64::MAX), assignment: Wall(u64::MAX) };
    let (index_version, neighbours) = (u64::MAX, u32::MAX);
    Report { bytes: most, index_version, neighbours, papers, deployments, issued: Wall(u64::MAX), ..report }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_a_machine_makes_up_break_no_page_and_no_report() {
    let mut bench = Bench::start().await;
    let mut liars = [Machine::joined(&bench, "office").await, Machine::joined(&bench, "office").await];
    let mut honest = Machine::joined(&bench, "office").await;
    bench.write("tool.bin", b"tool");
    let file = bench.write("tool.toml", RELEASE.as_bytes());
    bench.verb(&["publish", &file]).await.unwrap();
    bench.verb(&["approve", "org.example.tool@1", "--group", "office"]).await.unwrap();
    let catalog = bench.client().catalog().await.unwrap();
    let (release, group) = (catalog.releases[0].release, catalog.groups["office"]);
    let (root, _) = Directory::new(&bench.data()).newest_root().unwrap();
    for seq in [1, u64::MAX] {
        for liar in &mut liars {
            let told = vec![deployment(release, group, DeploymentState::Downloading)];
            let report = of_the_largest_numbers(liar.plain_report(seq, told));
            liar.say(&liar.sealed(report, &root.report_key)).await;
            liar.hear(|message| matches!(message, Message::RelayAck { seq: of, .. } if of == seq).then_some(())).await;
        }
    }
    tell(&mut honest, &bench, 1, vec![deployment(release, group, DeploymentState::Installed)]).await;
    for round in 0..2 {
        let client = bench.client();
        let options = crate::console::Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            link: None,
            keys: crate::console::Keys { dir: None, anchor: None },
            place: "test".to_owned(),
        };
        let console = crate::console::bind(client, options).await.unwrap_or_else(|error| panic!("{error}"));
        let (link, stop) = (console.link(), CancellationToken::new());
        let serving = tokio::spawn(console.serve(stop.clone()));
        let answer = bench.http.get(&link).send().await.unwrap();
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let base = link.split("/enter").next().unwrap();
        let mut pages: Vec<String> =
            ["", "updates", "rollouts", "devices", "sites", "sites/berlin", "groups", "alarms", "reports", "metrics"]
                .map(str::to_owned)
                .into();
        pages.extend(["devices.csv", "devices.json", "audit"].map(str::to_owned));
        pages.push(format!("updates/{release}"));
        pages.extend(liars.iter().map(|liar| format!("devices/{}", liar.device())));
        for api in ["status?devices=true", "overview", "sites", "missing", "alarms"] {
            pages.push(format!("api/v1/{api}"));
        }
        pages.extend(["compliance", "rollout", "savings", "approvals"].map(|name| format!("reports?show={name}")));
        for page in pages {
            let answer = bench.http.get(format!("{base}/{page}")).header("cookie", &cookie).send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            assert_eq!(status, StatusCode::OK, "round {round}: {page}: {text}");
        }
        for verb in ["compliance", "rollout", "vulnerable", "savings", "approvals"] {
            bench.verb(&["report", verb]).await.unwrap();
        }
        for verb in [&["status", "--devices"][..], &["explain", "--device", &liars[0].device().to_string()]] {
            bench.verb(verb).await.unwrap();
        }
        stop.cancel();
        serving.await.unwrap();
        let savings: Savings = report(&bench, "savings", &ReportQuery::default()).await;
        assert_eq!(savings.total.origin, 7 + 2 * MAX_TOLD, "and what is honest is counted");
        // Again after a restart.
        bench.stop().await;
        bench.run().await;
    }
    for machine in liars.into_iter().chain([honest]) {
        machine.host.stop().await;
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_say_what_was_and_how_much_is_not_known() {
    a_day_with_reports(Bench::start().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_on_postgresql_which_is_remembered() {
    let Some(server) = Postgres::start() else { return };
    let mut bench = Bench::start().await;
    bench.stop().await;
    let file = bench.write("database-password", PASSWORD.as_bytes());
    let setting = DatabaseSetting { url: server.url("postgres"), password_file: Some(file.into()) };
    let directory = Directory::existing(&bench.data()).unwrap();
    let options = Options { database: Some(setting), ..Options::on_loopback() };
    let running = run::start(directory.clone(), options, CancellationToken::new()).await;
    bench.running = Some(running.unwrap_or_else(|error| panic!("{error}")));
    bench.directory = Some(directory);
    a_day_with_reports(bench).await;
}
