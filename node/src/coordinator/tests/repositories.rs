//! Upstreams by the admin's verbs, against a web server over a repository that the test makes and signs.

use upswarm_tests::mirror::{Fault, Mirror};
use upswarm_tests::openpgp::{DAY, MADE};
use upswarm_tests::repository::{Deb, Repository};

use upswarm_protocol::catalog::{ApprovalRule, Severity};
use upswarm_protocol::codec;
use upswarm_protocol::envelope::{Envelope, Kind, Role};

use super::*;
use crate::api::feeds::Verdict;
use crate::api::proposals::UpdatesQuery;

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_added_synced_listed_and_forgotten() {
    let bench = Bench::start().await;
    let mut repository = Repository::new(&bench.dir.path().join("mirror"));
    repository.add(&Deb::new("editor", "1.0-1"));
    repository.publish(MADE + 30 * DAY);
    let (mirror, keyring) = (Mirror::start(&repository.dir), repository.keyring().display().to_string());
    let url = mirror.url();
    let add = ["sync", "add", "apt", "test", "--url", &url, "--suite", "stable", "--components", "main"];
    let refused = bench.verb(&add).await.unwrap_err().to_string();
    assert!(refused.contains("whose signature counts?"), "{refused}");
    let add: Vec<&str> = add.into_iter().chain(["--arch", "amd64", "--keyring", &keyring]).collect();
    let unsigned = bench.verb(&add).await.unwrap_err().to_string();
    assert!(
        unsigned.starts_with("it is added, and the root does not pin it") && unsigned.contains("--yes"),
        "{unsigned}"
    );
    let add: Vec<&str> = add.into_iter().chain(["--no-pin"]).collect();
    bench.verb(&add).await.unwrap();
    bench.verb(&["sync", "run", "test"]).await.unwrap();
    let list = bench.client().upstreams().await.unwrap();
    let row = &list.upstreams[0];
    assert_eq!((row.name.as_str(), row.snapshots.len(), row.snapshots[0].packages, row.pinned), ("test", 1, 1, false));
    assert_eq!((row.error.as_deref(), &row.running, row.certificates.len()), (None, &None, 1));
    for verb in [&["sync", "list"][..], &["sync", "show", "test"], &["sync", "list", "--output", "csv"]] {
        bench.verb(verb).await.unwrap();
    }
    // A failure is the verb's failure, and stands in the list until the next success.
    mirror.fail("InRelease", Fault::Page, 1);
    let failed = bench.verb(&["sync", "run"]).await.unwrap_err();
    assert!(matches!(&failed, CliError::Failed(_)) && failed.to_string().contains("web page"), "{failed}");
    let list = bench.client().upstreams().await.unwrap();
    assert!(list.upstreams[0].error.as_ref().unwrap().contains("web page") && list.upstreams[0].snapshots.len() == 1);
    for (verb, cause) in [
        (&["sync", "run", "other"][..], "there is no upstream \"other\"; there are: test"),
        (&["sync", "remove", "../test"], "there is no upstream"),
        (&["sync", "show", "other"], "there are: test"),
    ] {
        let refused = bench.verb(verb).await.unwrap_err().to_string();
        assert!(refused.contains(cause), "{refused}");
    }
    bench.verb(&["sync", "remove", "test"]).await.unwrap();
    assert_eq!(bench.client().upstreams().await.unwrap().upstreams, []);
    assert!(!bench.data().join("repositories/test").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_machine_uses_is_added_suite_by_suite() {
    let bench = Bench::start().await;
    let repository = Repository::new(&bench.dir.path().join("mirror"));
    let keyring = repository.keyring();
    let list = format!(
        "Types: deb deb-src\nURIs: http://127.0.0.1:9/debian/\nSuites: bookworm bookworm-updates\nComponents: main contrib\n\
         Architectures: amd64\nSigned-By: {}\n",
        keyring.display()
    );
    let file = bench.write("debian.sources", list.as_bytes());
    bench.verb(&["sync", "add", "apt", "debian", "--from-sources", &file, "--packages", "*", "--yes"]).await.unwrap();
    let list = bench.client().upstreams().await.unwrap();
    let names: Vec<&str> = list.upstreams.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["debian-bookworm", "debian-bookworm-updates"]);
    let row = &list.upstreams[1];
    assert_eq!((row.suite.as_str(), row.components.join(",").as_str()), ("bookworm-updates", "main,contrib"));
    assert_eq!(row.urls, ["http://127.0.0.1:9/debian/"]);
    assert!(list.upstreams.iter().all(|row| row.pinned), "one root pins both");
    assert_eq!(Directory::new(&bench.data()).newest_root().unwrap().0.version, 2);
    let flat =
        bench.write("flat.list", format!("deb [signed-by={}] http://127.0.0.1:9/x ./\n", keyring.display()).as_bytes());
    let refused = bench.verb(&["sync", "add", "apt", "flat", "--from-sources", &flat]).await.unwrap_err().to_string();
    assert!(refused.contains("repositories without dists/ are not supported"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_machines_miss_is_shown_tried_with_apt_published_and_approved() {
    if !Path::new("/usr/bin/apt-get").exists() {
        return;
    }
    let mut bench = Bench::start().await;
    let mut repository = bookworm(&bench);
    repository.add(&Deb { arch: "amd64", depends: "codec", source: "suite", ..Deb::new("editor", "2.0+x-1") });
    let codec = repository.add(&Deb::new("codec", "1:1.0"));
    repository.add(&Deb::new("unwanted", "1"));
    repository.publish(MADE + 30 * DAY);
    let (mirror, keyring) = (Mirror::start(&repository.dir), repository.keyring().display().to_string());
    let url = mirror.url();
    let add =
        ["sync", "add", "apt", "test", "--url", &url, "--suite", "bookworm", "--components", "main", "--arch", "amd64"];
    let add: Vec<&str> = add.into_iter().chain(["--keyring", &keyring]).collect();
    let unpinned: Vec<&str> = add.iter().copied().chain(["--no-pin"]).collect();
    bench.verb(&unpinned).await.unwrap();
    bench.verb(&["sync", "run"]).await.unwrap();

    let mut machine = Machine::joined(&bench, "office").await;
    let installed = inventories::inventory(&[("dpkg", "1"), ("editor", "1.0-1")]);
    machine.report_inventory(&bench, &Default::default(), &installed, 1).await;
    let query = UpdatesQuery { source: Some("suite".into()), ..Default::default() };
    let updates = bench.client().updates(&query).await.unwrap();
    let row = &updates.updates[0];
    assert_eq!((row.source.as_str(), row.from.join(" ").as_str(), row.to.as_str()), ("suite", "1.0-1", "2.0+x-1"));
    assert_eq!((row.machines, row.devices.len(), row.severity, updates.machines), (1, 1, None, 1));
    for verb in [&["updates"][..], &["updates", "--output", "csv"], &["updates", "--group", "office"]] {
        bench.verb(verb).await.unwrap();
    }

    // What feeds say of it, and what nobody says.
    let tracker = |urgency: &str| {
        format!(
            "{{\"suite\":{{\"CVE-2026-1\":{{\"releases\":{{\"bookworm\":{{\"status\":\"resolved\",\"fixed_version\":\"2.0\",\
             \"urgency\":\"{urgency}\"}}}}}}}}}}"
        )
    };
    let high = ["updates", "--severity", "high"];
    let nothing = |severity| UpdatesQuery { severity, ..Default::default() };
    let updates = bench.client().updates(&nothing(Some(Severity::Important))).await.unwrap();
    assert_eq!((updates.updates.len(), updates.unknown, updates.warnings.len()), (0, 1, 1));
    let approve_high = ["approve", "apt:test@latest", "--group", "office", "--select", "severity>=high", "--dry-run"];
    let reason = bench.verb(&approve_high).await.unwrap_err().to_string();
    assert!(reason.contains("no update is known to mend anything so bad; of 1 nobody has said"), "{reason}");
    let feed = bench.write("tracker.json", tracker("medium").as_bytes());
    bench.verb(&["sync", "feed", "add", "debian-tracker", &feed]).await.unwrap();
    let reason = bench.verb(&approve_high).await.unwrap_err().to_string();
    assert!(reason.contains("of 0 nobody has said"), "{reason}");
    bench.write("tracker.json", tracker("high").as_bytes());
    bench.verb(&["sync", "feed", "run"]).await.unwrap();
    let row = bench.client().updates(&nothing(Some(Severity::Important))).await.unwrap().updates.remove(0);
    assert_eq!((row.severity, row.cves.join(" ").as_str()), (Some(Severity::Important), "CVE-2026-1"));
    assert!(row.age_s.is_some_and(|age| age > 0));
    let cve = UpdatesQuery { cve: Some("CVE-2026-1".into()), ..Default::default() };
    let asked = bench.client().updates(&cve).await.unwrap();
    assert_eq!((asked.updates.len(), asked.verdicts.len()), (1, 1));
    let verdict = &asked.verdicts[0];
    let said = (verdict.version.as_str(), verdict.release.as_str(), &verdict.verdict, verdict.machines);
    assert_eq!(said, ("1.0-1", "debian bookworm", &Verdict::Vulnerable { fixed: Some("2.0".into()) }, 1));
    for verb in [&high[..], &["updates", "--cve", "CVE-2026-1"], &["updates", "--cve", "CVE-2026-1", "--output", "csv"]]
    {
        bench.verb(verb).await.unwrap();
    }
    bench.verb(&approve_high).await.unwrap();
    // One that is bad leaves what was said before.
    bench.write("tracker.json", b"{");
    let failed = bench.verb(&["sync", "feed", "run"]).await.unwrap_err();
    assert!(matches!(&failed, CliError::Failed(_)) && failed.to_string().contains("counts on"), "{failed}");
    bench.verb(&["sync", "feed", "list"]).await.unwrap();
    assert_eq!(bench.client().updates(&cve).await.unwrap().updates.len(), 1);

    // Machines would refuse what the root does not pin; what it would do can be seen all the same.
    let approve = ["approve", "apt:test@latest", "--group", "office", "--yes"];
    let reason = bench.verb(&approve).await.unwrap_err().to_string();
    assert!(reason.contains("the root does not pin test"), "{reason}");
    bench.verb(&["approve", "apt:test@latest", "--group", "office", "--dry-run"]).await.unwrap();
    assert_eq!(bench.client().catalog().await.unwrap().releases, []);
    machine.host.stop().await;
    let pinned: Vec<&str> = add.into_iter().chain(["--yes"]).collect();
    bench.verb(&pinned).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(bench.client().upstreams().await.unwrap().upstreams[0].pinned);

    for (args, cause) in [
        (&["--select", "other"][..], "other is no source package of anything"),
        (&["--install", "nothing"], "has no package nothing"),
        (&["--except", "suite"], "nothing is to be done"),
    ] {
        let all: Vec<&str> = approve.iter().chain(args).copied().collect();
        let reason = bench.verb(&all).await.unwrap_err().to_string();
        assert!(reason.contains(cause), "{reason}");
    }
    let reason =
        bench.verb(&["approve", "apt:test@20200101T000000Z", "--group", "office"]).await.unwrap_err().to_string();
    assert!(reason.contains("there are: 20260131T000000Z"), "{reason}");
    // The second time it is the same release; with another selection it is another of the same snapshot.
    bench.verb(&approve).await.unwrap_or_else(|error| panic!("{error}"));
    mirror.asked();
    bench.verb(&approve).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(mirror.asked(), [], "what is in the store is not fetched again");
    let all: Vec<&str> = approve.iter().chain(&["--install", "unwanted"]).copied().collect();
    bench.verb(&all).await.unwrap_or_else(|error| panic!("{error}"));
    let catalog = bench.client().catalog().await.unwrap();
    let mut published: Vec<(u64, &str, &str)> =
        catalog.releases.iter().map(|known| (known.counter, known.product.as_str(), known.version.as_str())).collect();
    published.sort_unstable();
    let date = 1000 * u64::from(MADE + 30 * DAY);
    let wanted = [(date + 1, "apt.test", "20260131T000000Z"), (date + 2, "apt.test", "20260131T000000Z+2")];
    assert_eq!(published, wanted);
    assert_eq!(catalog.approvals.len(), 2);
    // Its files are served to machines.
    let id = PayloadId::of(&std::fs::read(&codec).unwrap());
    let answer = bench.ask(Method::GET, &format!("/payload/{id}")).send().await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), std::fs::read(&codec).unwrap());
    bench.stop().await;
}

/// A repository that is taken for Debian's.
fn bookworm(bench: &Bench) -> Repository {
    let mut repository = Repository::new(&bench.dir.path().join("mirror"));
    repository.suite = "bookworm".to_owned();
    repository.fields = "Origin: Debian\nVersion: 12.1\n".to_owned();
    repository
}

/// Waits until the coordinator has it so; a rule is applied beside everything else.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rule_covers_is_approved_by_itself_and_what_would_remove_is_an_alarm() {
    if !Path::new("/usr/bin/apt-get").exists() {
        return;
    }
    let mut bench = Bench::start().await;
    let mut repository = bookworm(&bench);
    for name in ["editor", "viewer", "player"] {
        repository.add(&Deb::new(name, "2.0-1"));
    }
    repository.publish(MADE + 30 * DAY);
    let (mirror, keyring) = (Mirror::start(&repository.dir), repository.keyring().display().to_string());
    let url = mirror.url();
    let add =
        ["sync", "add", "apt", "test", "--url", &url, "--suite", "bookworm", "--components", "main", "--arch", "amd64"];
    let add: Vec<&str> = add.into_iter().chain(["--keyring", &keyring]).collect();
    let mut machine = Machine::joined(&bench, "office").await;
    let installed =
        inventories::inventory(&[("dpkg", "1"), ("editor", "1.0-1"), ("viewer", "1.0-1"), ("player", "1.0-1")]);
    machine.report_inventory(&bench, &Default::default(), &installed, 1).await;
    machine.host.stop().await;
    let tracker = "{\"editor\":{\"CVE-2026-1\":{\"releases\":{\"bookworm\":{\"status\":\"resolved\",\"fixed_version\":\"2.0-1\",\
                   \"urgency\":\"high\"}}}},\"viewer\":{\"CVE-2026-2\":{\"releases\":{\"bookworm\":{\"status\":\"resolved\",\
                   \"fixed_version\":\"2.0-1\",\"urgency\":\"low\"}}}}}";
    let feed = bench.write("tracker.json", tracker.as_bytes());
    bench.verb(&["sync", "feed", "add", "debian-tracker", &feed]).await.unwrap();

    // A rule is about a repository that the root pins, and about times that count from each approval.
    let rule = ["rule", "add", "--group", "office", "--repository", "test", "--severity", "high", "--deadline", "+7d"];
    let rule: Vec<&str> = rule.into_iter().chain(["--ring", "10%", "--ring", "100%+1d", "--yes"]).collect();
    let unknown = bench.verb(&rule).await.unwrap_err().to_string();
    assert!(unknown.contains("there is no upstream \"test\""), "{unknown}");
    let unpinned: Vec<&str> = add.iter().copied().chain(["--no-pin"]).collect();
    bench.verb(&unpinned).await.unwrap();
    let reason = bench.verb(&rule).await.unwrap_err().to_string();
    assert!(reason.contains("the root does not pin test"), "{reason}");
    let pinned: Vec<&str> = add.into_iter().chain(["--yes"]).collect();
    bench.verb(&pinned).await.unwrap();
    let absolute =
        ["rule", "add", "--group", "office", "--repository", "test", "--deadline", "2027-01-01T00:00:00Z", "--yes"];
    assert!(bench.verb(&absolute).await.unwrap_err().to_string().contains("a rule is for every release"));
    // The approver has seen what the group is: machines are held to that, or a later word of it.
    bench.verb(&["group", "sign", "office", "--list", "--yes"]).await.unwrap_or_else(|error| panic!("{error}"));
    bench.verb(&rule).await.unwrap_or_else(|error| panic!("{error}"));
    bench.verb(&["rule", "list"]).await.unwrap();
    let known = bench.client().rules().await.unwrap().repositories.remove(0);
    let envelope = Envelope::parse(&known.document.0, Kind::RepositoryRule, Role::Approver).unwrap();
    let signed: ApprovalRule = codec::decode(envelope.unverified_body(), Kind::RepositoryRule.cap()).unwrap();
    assert_eq!((known.id, signed.number, signed.group_version), (1, 1, 1));

    // The sync brings it: approved by itself, as the rule says, what is bad enough and nothing else.
    bench.verb(&["sync", "run"]).await.unwrap();
    let catalog = until("an approval by the rule", async || {
        let catalog = bench.client().catalog().await.unwrap();
        (!catalog.approvals.is_empty()).then_some(catalog)
    })
    .await;
    let (approval, release) = (&catalog.approvals[0], &catalog.releases[0]);
    assert_eq!((catalog.approvals.len(), approval.version, approval.note.as_str()), (1, 0, "by rule r1"));
    assert!(approval.schedule.deadline.is_some() && approval.rings.rings.len() == 2);
    assert_eq!((release.severity, release.title.as_str()), (Severity::Important, "test: editor"));
    assert_eq!(bench.client().alarms(&Default::default()).await.unwrap().open, 0);
    // Who is answerable for it: the approver of the rule; the online key has only said when.
    let audit = bench.client().audit().await.unwrap();
    let shown = audit.documents.iter().find(|known| known.hash == approval.document).unwrap();
    let roles: Vec<&str> = shown.signers.iter().map(|signer| signer.role.split(',').next().unwrap()).collect();
    assert_eq!((roles, shown.others.len()), (vec!["approver of rule r1", "online"], 0));
    // A second look finds that it is on its way.
    bench.verb(&["sync", "feed", "run"]).await.unwrap();

    // A person's word counts before the rule's.
    bench
        .verb(&["decline", "apt.test@20260131T000000Z", "--group", "office"])
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let catalog = bench.client().catalog().await.unwrap();
    assert_eq!((catalog.releases.len(), catalog.approvals.len(), catalog.approvals[0].version), (1, 1, 1));
    assert_eq!(catalog.approvals[0].action, upswarm_protocol::catalog::Action::None);

    // What apt would do only by removing something is approved nowhere, and an alarm; the next snapshot ends it.
    repository.add(&Deb { fields: "Conflicts: player\n", ..Deb::new("editor", "3.0-1") });
    repository.publish(MADE + 31 * DAY);
    bench.verb(&["sync", "run"]).await.unwrap();
    let alarm = until("an alarm", async || {
        let alarms = bench.client().alarms(&Default::default()).await.unwrap();
        alarms.alarms.into_iter().find(|alarm| !alarm.over)
    })
    .await;
    assert!(alarm.text.contains("rule r1") && alarm.text.contains("apt would remove player"), "{}", alarm.text);
    assert_eq!(bench.client().catalog().await.unwrap().approvals.len(), 1);
    repository.remove("editor");
    repository.add(&Deb::new("editor", "4.0-1"));
    repository.publish(MADE + 32 * DAY);
    bench.verb(&["sync", "run"]).await.unwrap();
    until("the next approval", async || (bench.client().catalog().await.unwrap().approvals.len() == 2).then_some(()))
        .await;
    until("the alarm to end", async || {
        let alarms = bench.client().alarms(&Default::default()).await.unwrap();
        alarms.alarms.iter().all(|alarm| alarm.over).then_some(())
    })
    .await;
    bench.verb(&["rule", "remove", "r1"]).await.unwrap();
    assert_eq!(bench.client().rules().await.unwrap().repositories, []);
    bench.stop().await;
}
