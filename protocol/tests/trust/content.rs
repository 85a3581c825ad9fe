//! Well-signed documents that say what cannot be meant.

use upswarm_protocol::catalog::*;
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::*;
use upswarm_protocol::trust::*;

use crate::common::*;

fn refused(change: impl FnOnce(&mut Release)) -> String {
    let world = World::new();
    let mut bad = release("org.example.tool", 1);
    assert_eq!(validate_release(&bad), Ok(()));
    change(&mut bad);
    let invalid = validate_release(&bad).expect_err("it should have been refused").to_string();
    // Signed all the same, it is refused by machines too.
    let document = world.publish(&bad);
    let decision = world.approve(&approval(GROUP, document.release, 1));
    assert!(verify_pair(&world.root, &document.bytes, &decision.bytes, NOW).is_err());
    invalid
}

fn paths() -> Vec<Text<1024>> {
    ["", "/", "opt/tool", "./tool", "/opt/../etc/passwd", "/opt/./tool", "/opt//tool", "/opt/tool/", "/..", "C:\\tool"]
        .map(text)
        .to_vec()
}

#[test]
fn hostile_payload_names() {
    for name in ["", ".", "..", "/", "a/b", "../x", "/etc/passwd", "a\\b", "..\\x", "c:x", "a/", "x:stream"] {
        let why = refused(|release| release.payloads = list(vec![payload(name)]));
        assert!(why.starts_with("payloads[0].name"), "{name:?}: {why}");
    }
    let why = refused(|release| release.payloads = list(vec![payload("tool"), payload("tool")]));
    assert!(why.starts_with("payloads[1].name"), "{why}");
}

#[test]
fn hostile_paths_wherever_a_release_can_name_one() {
    for path in paths() {
        let place = |path: Text<1024>| FilePlacement { payload: 0, path, mode: 0o644 };
        refused(|release| release.install = Recipe::Files { files: list(vec![place(path.clone())]) });
        refused(|release| release.uninstall = Some(Recipe::RemoveFiles { paths: list(vec![path.clone()]) }));
        refused(|release| release.detect = list(vec![Detect::FileExists { path: path.clone() }]));
        refused(|release| release.detect = list(vec![Detect::FileHash { path: path.clone(), blake3: [0; 32] }]));
        refused(|release| {
            release.detect = list(vec![Detect::FileContains { path: path.clone(), text: text("x") }]);
        });
        refused(|release| {
            release.detect = list(vec![Detect::Command { argv: list(vec![path.clone()]), exit_code: 0, timeout_s: 1 }]);
        });
        refused(|release| release.applicability = list(vec![Applicability::FileExists { path: path.clone() }]));
    }
    // On Windows a drive begins an absolute path, and a slash does not.
    let mut windows = release("org.example.tool", 1);
    windows.platform.os = text("windows");
    windows.uninstall = None;
    windows.install = Recipe::Exec { argv: list(vec![text("{payload}")]), exit_codes: list(vec![]), timeout_s: 60 };
    for (path, good) in [
        ("C:\\Program Files\\Tool\\tool.exe", true),
        ("C:/Tool/tool.exe", true),
        ("/opt/tool", false),
        ("C:\\..\\x", false),
        ("C:\\a\\\\b", false),
        ("\\\\server\\share\\x", false),
        ("C:x", false),
    ] {
        windows.detect = list(vec![Detect::FileExists { path: text(path) }]);
        assert_eq!(validate_release(&windows).is_ok(), good, "{path}");
    }
}

#[test]
fn recipes_that_cannot_run() {
    let exec = |argv: &[&str], timeout_s| {
        let argv = list(argv.iter().map(|argument| text(argument)).collect());
        Recipe::Exec { argv, exit_codes: list(vec![]), timeout_s }
    };
    let mut good = release("org.example.tool", 1);
    for argv in [&["{payload}"][..], &["{payload:0}", "--quiet"], &["/bin/sh", "-c", "x {payload:0} {payload}"]] {
        good.install = exec(argv, MAX_TIMEOUT_S);
        assert_eq!(validate_release(&good), Ok(()), "{argv:?}");
    }
    for argv in [
        &[][..],
        &[""],
        &["/bin/x", "{payload:1}"],
        &["{payload:-1}"],
        &["{payload:}"],
        &["{payload:x}"],
        &["{payload:99999999999999999999}"],
        &["{payload:0"],
        &["{payload"],
        &["/bin/x", "{payload:0} {payload:7}"],
    ] {
        refused(|release| release.install = exec(argv, 60));
    }
    refused(|release| release.install = exec(&["/bin/x"], 0));
    refused(|release| release.install = exec(&["/bin/x"], MAX_TIMEOUT_S + 1));
    refused(|release| release.uninstall = Some(exec(&["/bin/x"], 0)));
    refused(|release| {
        let rules = [ExitMeaning::Success, ExitMeaning::Failure].map(|meaning| ExitRule { code: 1, meaning });
        release.install =
            Recipe::Exec { argv: list(vec![text("/bin/x")]), exit_codes: list(rules.to_vec()), timeout_s: 60 };
    });
    let place = |payload, path: &str, mode| FilePlacement { payload, path: text(path), mode };
    refused(|release| release.install = Recipe::Files { files: list(vec![]) });
    refused(|release| release.install = Recipe::Files { files: list(vec![place(1, "/opt/x", 0o644)]) });
    refused(|release| release.install = Recipe::Files { files: list(vec![place(0, "/opt/x", 0o10000)]) });
    refused(|release| {
        release.install = Recipe::Files { files: list(vec![place(0, "/opt/x", 0o644), place(0, "/opt/x", 0o755)]) };
    });
    refused(|release| release.uninstall = Some(Recipe::RemoveFiles { paths: list(vec![]) }));
    for timeout_s in [0, MAX_TIMEOUT_S + 1] {
        refused(|release| release.install = Recipe::Deb { timeout_s });
        refused(|release| release.install = Recipe::Rpm { timeout_s });
        let packages = || list(vec![text("tool")]);
        refused(|release| release.uninstall = Some(Recipe::RemoveDeb { packages: packages(), timeout_s }));
        refused(|release| release.uninstall = Some(Recipe::RemoveRpm { packages: packages(), timeout_s }));
    }
    refused(|release| {
        release.payloads = list(vec![]);
        release.install = Recipe::Deb { timeout_s: 60 };
    });
    for name in ["", "-o=Evil", "--purge", "a b", "a;b", "*", "tool\u{e9}"] {
        let packages = || list(vec![text(name)]);
        refused(|release| release.uninstall = Some(Recipe::RemoveDeb { packages: packages(), timeout_s: 60 }));
        refused(|release| {
            let package = Detect::Package { kind: PackageKind::Deb, name: text(name), version: text("1") };
            release.detect = list(vec![package]);
        });
        refused(|release| {
            release.applicability = list(vec![Applicability::HasPackage { kind: PackageKind::Rpm, name: text(name) }]);
        });
    }
}

#[test]
fn releases_that_say_too_little_or_too_much() {
    assert!(refused(|release| release.detect = list(vec![])).starts_with("detect"));
    refused(|release| release.product = text(""));
    refused(|release| release.version = text(""));
    refused(|release| release.expires = release.issued);
    refused(|release| {
        release.detect = list(vec![Detect::FileContains { path: text("/opt/x"), text: text("") }]);
    });
    refused(|release| {
        let package = Detect::Package { kind: PackageKind::Deb, name: text("tool"), version: text("") };
        release.detect = list(vec![package]);
    });
    refused(|release| release.applicability = list(vec![Applicability::Fact { name: text(""), value: text("") }]));
    let with = |change: fn(&mut Payload)| {
        refused(|release| {
            let mut file = payload("tool");
            change(&mut file);
            release.payloads = list(vec![file]);
        })
    };
    with(|payload| payload.chunk_list_len = 0);
    with(|payload| payload.chunk_list_len = (upswarm_protocol::chunk::MAX_LIST + 1) as u32);
    for url in ["file:///etc/passwd", "ftp://x/", "", "https:/x"] {
        refused(|release| {
            release.payloads = list(vec![Payload { urls: list(vec![text(url)]), ..payload("tool") }]);
        });
    }
    let patched = |base, at, encoding: &str| {
        let patch = Patch { base, payload: at, encoding: text(encoding) };
        let mut patched = release("org.example.tool", 1);
        patched.payloads = list(vec![Payload { patches: list(vec![patch]), ..payload("tool") }, payload("tool.patch")]);
        validate_release(&patched)
    };
    let base = PayloadId::of(b"old");
    assert_eq!(patched(base, 1, "zstd"), Ok(()));
    assert!(patched(base, 0, "zstd").is_err(), "itself");
    assert!(patched(base, 2, "zstd").is_err(), "out of range");
    assert!(patched(base, 1, "").is_err(), "no encoding");
    assert!(patched(PayloadId::of(b"tool"), 1, "zstd").is_err(), "from itself");
}

#[test]
fn approvals_that_no_calendar_knows() {
    let good = approval(GROUP, ReleaseId([1; 32]), 1);
    assert_eq!(validate_approval(&good), Ok(()));
    let refused = |change: &dyn Fn(&mut Approval)| {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(validate_approval(&bad).is_err(), "{bad:?}");
        let world = World::new();
        let product = world.publish(&release("org.example.tool", 1));
        bad.release = product.release;
        assert!(verify_pair(&world.root, &product.bytes, &world.approve(&bad).bytes, NOW).is_err());
    };
    refused(&|approval| approval.version = 0);
    refused(&|approval| approval.expires = approval.issued);
    for (days, start, end) in [(0x7f, 1441, 0), (0x7f, 0, 1441), (0, 0, 60), (0x80, 0, 60)] {
        let days = Weekdays(days);
        refused(&|approval| approval.schedule.windows = list(vec![Window { days, start, end }]));
        refused(&|approval| approval.schedule.active_hours = Some(ActiveHours { days, start, end }));
    }
    refused(&|approval| {
        approval.schedule.available_from = Some(NOW + DAY);
        approval.schedule.deadline = Some(NOW);
    });
    refused(&|approval| approval.rings.stop_above = 10_001);
    for rings in [&[(0, 0)][..], &[(10_001, 0)], &[(500, 0), (500, 60)], &[(500, 0), (100, 60)], &[(1, 60), (2, 0)]] {
        let rings = rings.iter().map(|(up_to, delay_s)| Ring { up_to: *up_to, delay_s: *delay_s });
        refused(&|approval| approval.rings.rings = list(rings.clone().collect()));
    }
    let mut full = good.clone();
    full.schedule.windows = list(vec![Window { days: Weekdays::ALL, start: 1320, end: 1440 }; 16]);
    full.rings.rings = list((1..=16).map(|at| Ring { up_to: at * 625, delay_s: u32::from(at) * 60 }).collect());
    assert_eq!(validate_approval(&full), Ok(()));
}

#[test]
fn indexes_and_heads_that_do_not_add_up() {
    let world = World::new();
    let product = world.publish(&release("org.example.tool", 1));
    let other = world.publish(&release("org.example.other", 1));
    let documents = vec![product, other];
    let entries = |index: &Index| match &index.published {
        Node::Leaf(entries) => entries.to_vec(),
        Node::Fork(_) => panic!("two entries are no tree"),
    };
    let device = |at: u8| DeviceId([at; 32]);
    let changes: [&dyn Fn(&mut Index); 3] = [
        &|index| index.published = Node::Leaf(list(entries(index).into_iter().rev().collect())),
        &|index| index.published = Node::Leaf(list([entries(index), entries(index)].concat())),
        &|index| index.expires = index.issued,
    ];
    let offer = |change: &dyn Fn(&mut Index)| {
        let edition = world.edition_with(1, documents.clone(), |index| change(index));
        let mut trust = world.trust();
        trust.offer_head(&edition.head, NOW).unwrap();
        trust.offer_index(edition.index)
    };
    for change in changes {
        let result = offer(change);
        assert!(matches!(result, Err(TrustError::Invalid { .. })), "{result:?}");
    }
    for (devices, good) in [([1, 2], true), ([2, 1], false), ([1, 1], false)] {
        let devices = Node::Leaf(list(devices.map(device).to_vec()));
        assert_eq!(offer(&|index| index.revoked = devices.clone()).is_ok(), good);
    }
    // One entry that cannot be meant costs nobody the others.
    let edition = world.edition_with(1, documents.clone(), |index| {
        let mut entries = entries(index);
        entries[0].kind = upswarm_protocol::envelope::Kind::Index;
        index.published = Node::Leaf(list(entries));
    });
    let mut trust = world.trust();
    trust.offer_head(&edition.head, NOW).unwrap();
    edition.offer_index(&mut trust);
    assert_eq!(trust.refusals().len(), 1);
    edition.offer_documents(&mut trust);
    assert!(trust.is_current() && trust.catalog().releases().len() == 1);
    let mut trust = world.trust();
    let good = world.head(1, b"index");
    for bad in [Head { index_version: 0, ..good }, Head { index_len: 0, ..good }, Head { expires: good.issued, ..good }]
    {
        assert!(matches!(trust.offer_head(&world.head_doc(&bad), NOW), Err(TrustError::Invalid { .. })), "{bad:?}");
    }
}
