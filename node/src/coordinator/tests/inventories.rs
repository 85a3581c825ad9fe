//! Inventories and scans as devices tell them, asked for over HTTP and by the verbs.

use serde_json::{Value, json};
use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::evaluate::ScanState;
use upswarm_protocol::inventory::{Inventory, InventoryDelta, PackageKey};
use upswarm_protocol::report::{InventoryReport, ScanReport};

use super::*;
use crate::coordinator::inventories::{InventoryQuery, MissingQuery};
use crate::coordinator::requests::GroupRequest;

fn inventory(packages: &[(&str, &str)]) -> Inventory {
    let mut inventory = Inventory::default();
    let facts = [
        ("os.id", "debian"),
        ("os.version", "12"),
        ("os.name", "Debian GNU/Linux 12"),
        ("kernel", "6.1.0-30"),
        ("memory.mib", "16000"),
        ("cpu.cores", "8"),
        ("time.zone", "Asia/Tokyo"),
    ];
    for (name, value) in facts {
        inventory.set_fact(Text::lossy(name), Some(Text::lossy(value))).unwrap();
    }
    for (name, version) in packages {
        let key = PackageKey { kind: PackageKind::Deb, name: Text::lossy(name), arch: Text::lossy("amd64") };
        inventory.insert(key, Text::lossy(version)).unwrap();
    }
    inventory.pending_restart = true;
    inventory
}

impl Machine {
    /// Tells something, and waits until the coordinator has it; returns the inventory that it says it holds.
    async fn tell(&mut self, bench: &Bench, told: Told) -> DocHash {
        let (root, _) = Directory::new(&bench.data()).newest_root().unwrap();
        let seq = told.seq();
        let bytes = envelope::sign(Kind::Report, Role::Device, &told, &[&self.key]).unwrap();
        let sealed = Bounded::new(crate::seal::seal(&root.report_key, &bytes)).unwrap();
        self.say(&Message::Relay { device: self.device(), seq, sealed }).await;
        self.hear(|message| match message {
            Message::RelayAck { seq: acknowledged, held, .. } if acknowledged == seq => Some(held),
            _ => None,
        })
        .await
    }

    async fn tell_inventory(&mut self, bench: &Bench, from: &Inventory, to: &Inventory, seq: u64) {
        let part = InventoryDelta::between(from, to).parts().unwrap().remove(0);
        let report = InventoryReport { device: self.device(), seq, issued: Wall(1), part };
        assert_eq!(self.tell(bench, Told::Inventory(Box::new(report))).await, to.digest());
    }

    async fn tell_scan(&mut self, bench: &Bench, states: Vec<(upswarm_protocol::ids::ReleaseId, ScanState)>, seq: u64) {
        let count = |wanted: ScanState| states.iter().filter(|(_, state)| *state == wanted).count() as u32;
        let counts =
            [ScanState::Unknown, ScanState::NotApplicable, ScanState::Required, ScanState::Installed].map(count);
        let report = ScanReport {
            device: self.device(),
            seq,
            issued: Wall(seq),
            index_version: 1,
            counts,
            part: 0,
            parts: 1,
            states: Bounded::new(states).unwrap(),
        };
        self.tell(bench, Told::Scan(Box::new(report))).await;
    }
}

async fn asked(bench: &Bench, query: InventoryQuery) -> Value {
    bench.client().inventory(&query).await.unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_installed_is_shown_and_survives_a_restart() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    let (root, _) = Directory::new(&bench.data()).newest_root().unwrap();
    machine.say(&machine.report(1, &root.report_key)).await;
    machine.hear(|message| matches!(message, Message::RelayAck { .. }).then_some(())).await;
    let untold = asked(&bench, InventoryQuery::default()).await;
    assert_eq!((&untold["devices"][0]["name"], &untold["devices"][0]["told"]), (&json!("pc7"), &json!(false)));
    let reason = refused(bench.verb(&["inventory", "pc7"]).await);
    assert!(reason.contains("pc7 has not told its inventory yet"), "{reason}");

    let (first, second) =
        (inventory(&[("nginx", "1.18"), ("zlib1g", "1:1.2")]), inventory(&[("nginx", "1.22+dfsg-1")]));
    machine.tell_inventory(&bench, &Inventory::default(), &first, 2).await;
    machine.tell_inventory(&bench, &first, &second, 3).await;
    for restarted in [false, true] {
        if restarted {
            bench.stop().await;
            bench.run().await;
        }
        let summary = asked(&bench, InventoryQuery::default()).await;
        let one = &summary["devices"][0];
        for (field, wanted) in [
            ("os", json!("Debian GNU/Linux 12")),
            ("kernel", json!("6.1.0-30")),
            ("memory_mib", json!(16000)),
            ("cores", json!(8)),
            ("packages", json!(1)),
            ("pending_restart", json!(true)),
            ("site", json!("berlin")),
        ] {
            assert_eq!(one[field], wanted, "{field} in {one}");
        }
        let all = asked(&bench, InventoryQuery { device: Some(machine.device()), ..InventoryQuery::default() }).await;
        let purl = all["packages"][0]["purl"].as_str().unwrap();
        assert!(purl.starts_with("pkg:deb/debian/nginx@1.22"), "{all}");
        let query = InventoryQuery { package: Some("nginx".to_owned()), ..InventoryQuery::default() };
        let found = asked(&bench, query).await;
        assert_eq!((&found["versions"][0]["version"], &found["told"]), (&json!("1.22+dfsg-1"), &json!(1)), "{found}");
        assert_eq!(found["devices"][0]["name"], "pc7");
        let status = bench.client().status().await.unwrap();
        assert_eq!(status["devices"][0]["pending_restart"], true, "{status}");
        assert_eq!(status["devices"][0]["time_zone"], "Asia/Tokyo");
    }
    let query = InventoryQuery { device: Some(machine.device()), cyclonedx: true, package: None };
    let bill = asked(&bench, query).await;
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&json!("CycloneDX"), &json!("1.6")));
    for args in [&["inventory"][..], &["inventory", "pc7"], &["inventory", "--package", "lib+x"], &["status"]] {
        bench.verb(args).await.unwrap_or_else(|error| panic!("{args:?}: {error}"));
    }
    refused(bench.verb(&["inventory", "pc8"]).await);
    let url = bench.url("/admin/v1/inventory?package=a&nonsense=1");
    let answer = bench.http.get(url).bearer_auth(bench.token()).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    machine.host.stop().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_counted_and_a_preview_says_who_needs_it() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    let mut other = Machine::joined(&bench, "office").await;
    bench.write("tool.bin", b"tool");
    let file = bench.write("tool.toml", RELEASE.as_bytes());
    bench.verb(&["publish", &file]).await.unwrap();
    let release = bench.client().catalog().await.unwrap().releases.remove(0).release;
    let told = inventory(&[]);
    machine.tell_inventory(&bench, &Inventory::default(), &told, 1).await;
    machine.tell_scan(&bench, vec![(release, ScanState::Required)], 2).await;
    let query = |release| MissingQuery { device: None, release };
    let missing = bench.client().missing(&query(None)).await.unwrap();
    let counts = |value: &Value| {
        ["required", "installed", "not_applicable", "unknown", "not_told"]
            .map(|field| value["releases"][0][field].as_u64())
    };
    assert_eq!(counts(&missing), [Some(1), Some(0), Some(0), Some(0), Some(1)], "{missing}");
    assert_eq!((&missing["releases"][0]["approved"], &missing["devices"]), (&json!([]), &json!(2)));
    other.tell_scan(&bench, vec![(release, ScanState::Installed)], 2).await;

    bench.stop().await;
    bench.run().await;
    let missing = bench.client().missing(&query(Some(release))).await.unwrap();
    assert_eq!(counts(&missing), [Some(1), Some(1), Some(0), Some(0), Some(0)], "after a restart: {missing}");
    let devices = missing["releases"][0]["devices"].as_array().unwrap();
    assert!(devices.iter().any(|device| device["device"] == json!(machine.device()) && device["state"] == "Required"));
    let status = bench.client().status().await.unwrap();
    let required: Vec<_> =
        status["devices"].as_array().unwrap().iter().map(|d| d["scan"]["required"].as_u64()).collect();
    assert!(required.contains(&Some(1)) && required.contains(&Some(0)), "{required:?}");
    let key = machine.device().to_string();
    for args in [&["missing"][..], &["missing", "--all"], &["missing", "--device", &key[..8]]] {
        bench.verb(args).await.unwrap_or_else(|error| panic!("{args:?}: {error}"));
    }
    refused(bench.verb(&["missing", "--device", "pc9"]).await);
    bench.verb(&["approve", "org.example.tool@1", "--group", "office", "--dry-run"]).await.unwrap();
    bench.verb(&["approve", "org.example.tool@1", "--group", "office"]).await.unwrap();
    let missing = bench.client().missing(&query(None)).await.unwrap();
    assert_eq!(missing["releases"][0]["approved"], json!(["office"]));
    // A release that nobody has looked at.
    let unknown = upswarm_protocol::ids::ReleaseId([9; 32]);
    assert!(bench.client().missing(&query(Some(unknown))).await.is_err());
    machine.host.stop().await;
    other.host.stop().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dynamic_group_is_made_shown_and_followed() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    let (old, new) = (inventory(&[("nginx", "1.18")]), inventory(&[("nginx", "1.22")]));
    machine.tell_inventory(&bench, &Inventory::default(), &old, 1).await;
    let web = ["group", "add", "web", "--where", "os.id=debian", "--where", "package:nginx>=1.20"];
    bench.verb(&[&web[..], &["--dry-run"]].concat()).await.unwrap();
    assert!(!bench.client().catalog().await.unwrap().groups.contains_key("web"), "a dry run makes nothing");
    for (flags, cause) in [
        (&["group", "add", "office", "--where", "os.id=debian"][..], "by hand"),
        (&["group", "add", "x", "--where", "os.ids=debian"], "os.id, "),
        (&["group", "add", "x", "--where", "os.id==debian"], "write = instead"),
        (
            &["group", "add", "x", "--where", "os.id=a", "--where", "os.id=b"],
            "no machine can fulfil os.id=a and os.id=b",
        ),
        (&["group", "add", "x", "--where", "!package:a", "--where", "package:a>1"], "no machine can fulfil"),
    ] {
        let reason = refused(bench.verb(flags).await);
        assert!(reason.contains(cause), "{flags:?}: {reason}");
    }
    bench.verb(&web).await.unwrap();
    let request = GroupRequest {
        group: "web".to_owned(),
        conditions: vec!["package:deb/nginx<1.20".to_owned()],
        dry_run: true,
        ..GroupRequest::default()
    };
    let preview = bench.client().group(&request).await.unwrap();
    assert_eq!(preview["join"][0]["device"], json!(machine.device()), "{preview}");
    for flags in [
        &["group", "assign", &machine.device().to_string(), "--group", "web"][..],
        &["coordinator", "invite", "--group", "web", "--site", "berlin"],
    ] {
        let reason = refused(bench.verb(flags).await);
        assert!(reason.contains("follow from their inventories"), "{flags:?}: {reason}");
    }

    machine.tell_inventory(&bench, &old, &new, 2).await;
    bench.stop().await;
    bench.run().await;
    let status = bench.client().status().await.unwrap();
    let groups: std::collections::BTreeSet<_> =
        status["devices"][0]["groups"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(groups, ["office", "web"].into_iter().collect(), "after a restart");
    let catalog = bench.client().catalog().await.unwrap();
    assert_eq!(catalog.conditions["web"], ["os.id=debian", "package:nginx>=1.20"]);
    bench.verb(&["group", "list"]).await.unwrap();
    // What an admin assigns stays beside it.
    bench.verb(&["group", "add", "pilots"]).await.unwrap();
    bench.verb(&["group", "assign", &machine.device().to_string(), "--group", "pilots"]).await.unwrap();
    let other = ["group", "add", "web", "--where", "package:nginx>=2"];
    bench.verb(&other).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let status = bench.client().status().await.unwrap();
        let mut groups: Vec<_> = status["devices"][0]["groups"].as_array().unwrap().clone();
        groups.sort_by_key(ToString::to_string);
        if groups == [json!("office"), json!("pilots")] {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{groups:?}");
        tokio::task::yield_now().await;
    }
    machine.host.stop().await;
    bench.stop().await;
}
