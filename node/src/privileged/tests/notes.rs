//! Notes for plain apt: written from what is released and approved for this device, and from nothing else.

use std::fs;
use std::process::Command;

use upswarm_protocol::catalog::*;
use upswarm_protocol::ids::{DocHash, PayloadId};

use super::world::{Bench, Edition, World, list, text};
use crate::privileged::wire::{Answer, Outcome, Task};
use crate::sys::find;

/// The description of an upstream and an InRelease that it has signed.
fn signed() -> Option<[Vec<u8>; 2]> {
    if find("gpg").is_none() {
        eprintln!("SKIPPED: this machine has no gpg");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let gpg = |args: &[&str]| {
        let mut gpg = Command::new("gpg");
        let output =
            gpg.env("GNUPGHOME", dir.path()).args(["--batch", "--quiet", "--yes"]).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    gpg(&["--passphrase", "", "--quick-gen-key", "upstream", "ed25519", "sign", "never"]);
    let certificate = String::from_utf8(gpg(&["--armor", "--export"])).unwrap();
    let release = "Origin: Test\nSuite: oldstable\nCodename: stable\nDate: Sat, 01 Nov 2025 00:00:00 +0000\n\
                   Architectures: amd64\nComponents: main\nSHA256:\n";
    let hash = "0".repeat(64);
    let file = dir.path().join("Release");
    fs::write(&file, format!("{release} {hash} 1 main/binary-amd64/Packages\n")).unwrap();
    let in_release = gpg(&["--clearsign", "-o", "-", file.to_str().unwrap()]);
    let description = serde_json::json!({
        "name": "demo", "suite": "stable", "components": ["main"], "architectures": ["amd64"], "packages": ["*"],
        "certificates": [certificate],
    });
    Some([description.to_string().into_bytes(), in_release])
}

/// A world whose root names the upstream.
fn world(description: &[u8]) -> World {
    let mut world = World::now();
    let rule = UpstreamRule { name: text("demo"), description: DocHash(PayloadId::of(description).0) };
    world.root.upstreams = list([rule]);
    let own = world.root.publishers[0].clone();
    let sync = PublisherRule { product_prefix: text("apt"), keys: own.keys.clone() };
    world.root.publishers = list([own, sync]);
    world
}

fn snapshot(world: &World, files: &[Vec<u8>; 2]) -> Release {
    let base = world.release("apt.demo", "unused");
    let payload = |name: &str, bytes: &[u8]| Payload {
        name: text(name),
        id: PayloadId::of(bytes),
        len: bytes.len() as u64,
        ..base.payloads[0].clone()
    };
    let recipe = AptRecipe {
        upstream: 0,
        in_release: 1,
        indexes: list([AptIndex { payload: 2, path: text("main/binary-amd64/Packages") }]),
        packages: list([AptPackage {
            payload: 3,
            name: text("openssl"),
            version: text("3.0-1"),
            arch: text("amd64"),
            source: text("openssl"),
            when_absent: WhenAbsent::Never,
        }]),
        back: false,
        timeout_s: 60,
    };
    let [description, in_release] = files;
    Release {
        payloads: list([
            payload("upstream.json", description),
            payload("InRelease", in_release),
            payload("Packages", b"index"),
            payload("openssl.deb", b"package"),
        ]),
        detect: list([Detect::Selection]),
        install: Recipe::Apt(recipe),
        uninstall: None,
        ..base.clone()
    }
}

fn note(bench: &Bench, edition: &Edition, payloads: &[u16], contents: &[&[u8]]) -> Answer {
    let task = Task::Note { payloads: list(payloads.iter().copied()) };
    bench.ask(&edition.job(task), &bench.files(contents))
}

#[test]
fn an_approved_snapshot_is_noted_and_nothing_else_is() {
    let Some(files) = signed() else { return };
    let world = world(&files[0]);
    let bench = Bench::in_a_root_of(world.clone());
    let noted = bench.data().join("jobs/apt/demo.json");
    let release = snapshot(&world, &files);
    let contents = [&files[0][..], &files[1][..]];
    let edition = world.of(1, &release, Action::Install);

    let refused = |answer: Answer, says: &str| {
        assert!(matches!(&answer, Answer::Refused(why) if why.contains(says)), "{answer:?} does not say {says}");
        assert!(!noted.exists());
    };
    refused(note(&bench, &edition, &[0], &contents[..1]), "no more");
    refused(note(&bench, &edition, &[0, 2], &contents), "no more");
    refused(note(&bench, &edition, &[1, 0], &contents), "no more");
    refused(note(&bench, &world.good(2), &[0, 1], &contents), "no snapshot of a repository");
    refused(note(&bench, &world.of(3, &release, Action::None), &[0, 1], &contents), "declined");

    // Its ring has not begun.
    let document = world.publish(&release);
    let mut later = world.approval(&document, 4);
    later.rings.rings = list([Ring { up_to: 10_000, delay_s: 7200 }]);
    let early = world.edition(4, document.clone(), world.approve(&later));
    assert!(matches!(note(&bench, &early, &[0, 1], &contents), Answer::NotYet(_)));
    assert!(!noted.exists());

    // Approved, and its window is closed: that restrains the agent alone.
    let mut closed = world.approval(&document, 5);
    let minute = u16::try_from(world.now.0 / 60_000 % 1440).unwrap();
    let start = (minute + 120) % 1440;
    closed.schedule.windows = list([Window { days: Weekdays::ALL, start, end: (start + 60) % 1440 }]);
    let open = world.edition(5, document, world.approve(&closed));
    let other = [&files[0][..], b"another InRelease"];
    let answer = note(&bench, &open, &[0, 1], &other);
    assert!(matches!(&answer, Answer::Ended(Outcome::Failed { .. })), "{answer:?}");
    assert!(!noted.exists());
    let answer = note(&bench, &open, &[0, 1], &contents);
    assert!(matches!(&answer, Answer::Ended(Outcome::Done { .. })), "{answer:?}");
    let text = fs::read_to_string(&noted).unwrap();
    for part in ["\"openssl\"", "\"3.0-1\"", "\"oldstable\"", "\"origin\":\"Test\"", "BEGIN PGP PUBLIC KEY BLOCK"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let etc = bench.dir.path().join("root/etc");
    assert!(!etc.exists(), "apt itself is not touched before it is set up");
}
