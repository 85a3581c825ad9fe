//! Inventories and scans as devices tell them, asked for over HTTP and by the verbs.

use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::evaluate::ScanState;
use upswarm_protocol::inventory::{Inventory, InventoryDelta, PackageKey};
use upswarm_protocol::report::{InventoryReport, ScanReport};

use super::*;
use crate::api::groups::NewGroup;
use crate::api::inventory::Inventories;
use crate::api::missing::{Missing, MissingQuery, NeedState};

pub(super) fn inventory(packages: &[(&str, &str)]) -> Inventory {
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
    async fn tell(&mut self, bench: &Bench, message: DeviceMessage) -> DocHash {
        let (root, _) = Directory::new(&bench.data()).newest_root().unwrap();
        let seq = message.seq();
        let bytes = envelope::sign(Kind::Report, Role::Device, &message, &[&self.key]).unwrap();
        let encrypted = Bounded::new(crate::encrypt::encrypt(&root.report_key, &bytes)).unwrap();
        self.say(&Message::Relay { device: self.device(), seq, encrypted }).await;
        self.hear(|message| match message {
            Message::RelayAck { seq: acknowledged, held, .. } if acknowledged == seq => Some(held),
            _ => None,
        })
        .await
    }

    pub(super) async fn report_inventory(&mut self, bench: &Bench, from: &Inventory, to: &Inventory, seq: u64) {
        let part = InventoryDelta::between(from, to).parts().unwrap().remove(0);
        let report = InventoryReport { device: self.device(), seq, issued: Wall(1), part };
        assert_eq!(self.tell(bench, DeviceMessage::Inventory(Box::new(report))).await, to.digest());
    }

    async fn report_scan(
        &mut self,
        bench: &Bench,
        states: Vec<(upswarm_protocol::ids::ReleaseId, ScanState)>,
        seq: u64,
    ) {
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
        self.tell(bench, DeviceMessage::Scan(Box::new(report))).await;
    }
}

async fn summary(bench: &Bench) -> Inventories {
    bench.client().inventories().await.unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_installed_is_shown_and_survives_a_restart() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    let (root, _) = Directory::new(&bench.data()).newest_root().unwrap();
    machine.say(&machine.report(1, &root.report_key)).await;
    machine.hear(|message| matches!(message, Message::RelayAck { .. }).then_some(())).await;
    let untold = summary(&bench).await;
    assert_eq!((untold.devices[0].head.name.as_str(), untold.devices[0].told), ("pc7", false));
    let reason = refused(bench.verb(&["inventory", "pc7"]).await);
    assert!(reason.contains("pc7 has not told its inventory yet"), "{reason}");

    let (first, second) =
        (inventory(&[("nginx", "1.18"), ("zlib1g", "1:1.2")]), inventory(&[("nginx", "1.22+dfsg-1")]));
    machine.report_inventory(&bench, &Inventory::default(), &first, 2).await;
    machine.report_inventory(&bench, &first, &second, 3).await;
    let device = machine.device().to_string();
    for restarted in [false, true] {
        if restarted {
            bench.stop().await;
            bench.run().await;
        }
        let summary = summary(&bench).await;
        let one = &summary.devices[0];
        let machine = one.machine.as_ref().unwrap();
        assert_eq!(machine.os.as_deref(), Some("Debian GNU/Linux 12"));
        assert_eq!((machine.kernel.as_deref(), machine.memory_mib), (Some("6.1.0-30"), Some(16000)));
        assert_eq!((machine.cores, machine.packages, machine.pending_restart), (Some(8), 1, true));
        assert_eq!(one.head.site, "berlin");
        let all = bench.client().inventory(device.clone()).await.unwrap();
        assert!(all.packages[0].purl.starts_with("pkg:deb/debian/nginx@1.22"), "{all:?}");
        let found = bench.client().holders("nginx".to_owned()).await.unwrap();
        assert_eq!((found.versions[0].version.as_str(), found.told), ("1.22+dfsg-1", 1), "{found:?}");
        assert_eq!(found.devices[0].head.name, "pc7");
        let status = bench.status().await;
        assert_eq!(status.devices[0].pending_restart, Some(true));
        assert_eq!(status.devices[0].time_zone.as_deref(), Some("Asia/Tokyo"));
    }
    let bill = bench.client().bill(device).await.unwrap();
    assert_eq!((bill["bomFormat"].as_str(), bill["specVersion"].as_str()), (Some("CycloneDX"), Some("1.6")));
    for args in [
        &["inventory"][..],
        &["inventory", "pc7"],
        &["inventory", "--package", "lib+x"],
        &["status"],
        &["inventory", "--output", "csv"],
        &["device", "list"],
    ] {
        bench.verb(args).await.unwrap_or_else(|error| panic!("{args:?}: {error}"));
    }
    refused(bench.verb(&["inventory", "pc8"]).await);
    let request = bench.ask(Method::GET, "/admin/v1/inventory/package?package=a&nonsense=1");
    let answer = request.bearer_auth(bench.token()).send().await.unwrap();
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
    machine.report_inventory(&bench, &Inventory::default(), &told, 1).await;
    machine.report_scan(&bench, vec![(release, ScanState::Required)], 2).await;
    let query = |release: Option<upswarm_protocol::ids::ReleaseId>| MissingQuery {
        release: release.map(|release| release.to_string()),
        all: true,
        ..MissingQuery::default()
    };
    let missing = bench.client().missing(&query(None)).await.unwrap();
    let counts = |missing: &Missing| {
        let found = &missing.releases[0];
        [found.required, found.installed, found.not_applicable, found.unknown, found.not_told]
    };
    assert_eq!(counts(&missing), [1, 0, 0, 0, 1], "{missing:?}");
    assert_eq!((missing.releases[0].approved.len(), missing.devices), (0, 2));
    other.report_scan(&bench, vec![(release, ScanState::Installed)], 2).await;

    bench.stop().await;
    bench.run().await;
    let missing = bench.client().missing(&query(Some(release))).await.unwrap();
    assert_eq!(counts(&missing), [1, 1, 0, 0, 0], "after a restart: {missing:?}");
    let needs = |device: &crate::api::missing::MissingDevice| {
        device.head.device == machine.device() && device.state == NeedState::Required
    };
    assert!(missing.releases[0].devices.iter().any(needs));
    let status = bench.status().await;
    let required: Vec<_> = status.devices.iter().map(|device| device.scan.map(|scan| scan.required)).collect();
    assert!(required.contains(&Some(1)) && required.contains(&Some(0)), "{required:?}");
    let key = machine.device().to_string();
    for args in [&["missing"][..], &["missing", "--all"], &["missing", "--device", &key[..8]]] {
        bench.verb(args).await.unwrap_or_else(|error| panic!("{args:?}: {error}"));
    }
    refused(bench.verb(&["missing", "--device", "pc9"]).await);
    bench.verb(&["approve", "org.example.tool@1", "--group", "office", "--dry-run"]).await.unwrap();
    let draft = crate::api::approvals::ApprovalDraft {
        release: "tool@1".to_owned(),
        group: "office".to_owned(),
        intent: crate::api::approvals::Intent::Decide {
            action: upswarm_protocol::catalog::Action::Install,
            schedule: Box::default(),
            back: false,
        },
        zone: "UTC".to_owned(),
        allow_empty: false,
    };
    let preview = bench.client().draft(&draft).await.unwrap().preview;
    assert_eq!((preview.devices, preview.required, preview.already, preview.zones), (2, 1, 1, 1), "{preview:?}");
    let zones: Vec<_> = preview.rings[0].devices.iter().map(|device| device.time_zone.as_deref()).collect();
    assert!(zones.contains(&Some("Asia/Tokyo")) && zones.contains(&None), "{zones:?}");
    bench.verb(&["approve", "org.example.tool@1", "--group", "office"]).await.unwrap();
    let missing = bench.client().missing(&query(None)).await.unwrap();
    assert_eq!(missing.releases[0].approved, ["office"]);
    bench.verb(&["group", "sign", "office", "--list", "--yes"]).await.unwrap();
    let no_more: [&[&str]; 2] =
        [&["approve", "org.example.tool@1", "--action", "uninstall"], &["decline", "org.example.tool@1"]];
    for verb in no_more {
        bench.verb(&[verb, &["--group", "office"]].concat()).await.unwrap();
        let missing = bench.client().missing(&query(None)).await.unwrap();
        let found = &missing.releases[0];
        let office = ["office".to_owned()];
        assert_eq!((found.required, found.declined, found.unwanted_in.as_slice()), (0, 1, &office[..]), "{verb:?}");
        assert!(found.approved.is_empty(), "{verb:?}");
    }
    // A release that nobody has looked at.
    let unknown = upswarm_protocol::ids::ReleaseId([9; 32]);
    assert!(bench.client().missing(&query(Some(unknown))).await.is_err());
    machine.host.stop().await;
    other.host.stop().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_another_group_is_told_of_is_judged_by_the_inventory() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    machine.report_inventory(&bench, &Inventory::default(), &inventory(&[("nginx", "1.18")]), 1).await;
    bench.verb(&["group", "add", "pilots"]).await.unwrap();
    bench.write("tool.bin", b"tool");
    let by_package = RELEASE.replace("org.example.tool", "org.example.nginx").replace(
        "file = \"/opt/tool\"\npayload = \"tool.bin\"",
        "package = { kind = \"deb\", name = \"nginx\", version = \"1.20\" }",
    );
    for (name, text, product) in [("a.toml", by_package.as_str(), "nginx"), ("b.toml", RELEASE, "tool")] {
        let file = bench.write(name, text.as_bytes());
        bench.verb(&["publish", &file]).await.unwrap();
        let release = format!("{product}@1");
        bench.verb(&["approve", &release, "--group", "pilots", "--allow-empty"]).await.unwrap();
    }
    // The machine says nothing of either: neither is for its groups.
    let states = |missing: &Missing, product: &str| {
        let found = missing.releases.iter().find(|release| release.product.ends_with(product)).unwrap();
        [found.required, found.installed, found.unknown, found.not_told]
    };
    let query = MissingQuery { all: true, ..MissingQuery::default() };
    let missing = bench.client().missing(&query).await.unwrap();
    assert_eq!(states(&missing, "nginx"), [1, 0, 0, 0], "{missing:?}");
    assert_eq!(states(&missing, "tool"), [0, 0, 1, 0], "a file is seen on the machine alone: {missing:?}");
    machine.report_inventory(&bench, &inventory(&[("nginx", "1.18")]), &inventory(&[("nginx", "1.22")]), 2).await;
    let missing = bench.client().missing(&query).await.unwrap();
    assert_eq!(states(&missing, "nginx"), [0, 1, 0, 0], "{missing:?}");
    machine.host.stop().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dynamic_group_is_made_shown_and_followed() {
    let mut bench = Bench::start().await;
    let mut machine = Machine::joined(&bench, "office").await;
    let (old, new) = (inventory(&[("nginx", "1.18")]), inventory(&[("nginx", "1.22")]));
    machine.report_inventory(&bench, &Inventory::default(), &old, 1).await;
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
    let request = NewGroup {
        group: "web".to_owned(),
        conditions: vec!["package:deb/nginx<1.20".to_owned()],
        members: None,
        dry_run: true,
    };
    let preview = bench.client().add_group(&request).await.unwrap();
    assert_eq!(preview.join[0].device, machine.device(), "{preview:?}");
    for flags in [
        &["group", "assign", &machine.device().to_string(), "--group", "web"][..],
        &["coordinator", "invite", "--group", "web", "--site", "berlin"],
    ] {
        let reason = refused(bench.verb(flags).await);
        assert!(reason.contains("an approver signed"), "{flags:?}: {reason}");
    }

    machine.report_inventory(&bench, &old, &new, 2).await;
    bench.stop().await;
    bench.run().await;
    let status = bench.status().await;
    let groups: std::collections::BTreeSet<_> = status.devices[0].groups.iter().map(String::as_str).collect();
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
        let status = bench.status().await;
        let mut groups = status.devices[0].groups.clone();
        groups.sort();
        if groups == ["office", "pilots"] {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{groups:?}");
        tokio::task::yield_now().await;
    }
    machine.host.stop().await;
    bench.stop().await;
}
