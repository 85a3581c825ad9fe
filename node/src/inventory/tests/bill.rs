use upswarm_protocol::time::Wall;

use super::*;

/// Ships the official schemas of every version of CycloneDX.
const VALIDATOR: &str = "cyclonedx-python-lib[json-validation]==11.12.0";
const SCRIPT: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
print('valid' if error is None else 'invalid: ' + str(error)[:2000])
";

/// The directory of the validator, fetched from the package registry the first time.
fn validator() -> Option<PathBuf> {
    let program = std::env::current_exe().expect("the test's program");
    // Beside the test's build.
    let build = program.parent().and_then(Path::parent).expect("a build directory");
    let place = build.join("cyclonedx-python-lib-11.12.0");
    if !place.is_dir() {
        let fresh = tempfile::tempdir_in(build).expect("a directory");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]).arg(fresh.path());
        if !pip.arg(VALIDATOR).status().is_ok_and(|status| status.success()) {
            return None;
        }
        // Another run may have been first.
        let _ = fs::rename(fresh.keep(), &place);
    }
    Some(place)
}

fn validate(place: &Path, bom: &str) -> String {
    let mut child = Command::new("python3")
        .args(["-c", SCRIPT])
        .env("PYTHONPATH", place)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python starts");
    child.stdin.take().expect("its input").write_all(bom.as_bytes()).expect("written");
    String::from_utf8(child.wait_with_output().expect("it ends").stdout).expect("text").trim().to_owned()
}

fn bill(scan: &Scan, serial: [u8; 16]) -> String {
    serde_json::to_string(&cyclonedx::bom(scan, serial, Wall(1_700_000_000_000))).expect("JSON")
}

/// Every kind, odd characters, two names that fold to one package URL.
fn odd() -> Scan {
    let mut scan = Fake::new().scan();
    for (kind, name, version, arch) in [
        (PackageKind::Deb, "libstdc++6", "1:12.2-1~b+c", "amd64"),
        (PackageKind::Deb, "Case", "1", "all"),
        (PackageKind::Deb, "case", "1", "all"),
        (PackageKind::Rpm, "kernel", "6.5.6-300.fc39", "x86_64"),
        (PackageKind::Rpm, "kernel", "1:6.5.7-300.fc39", "x86_64"),
        (PackageKind::Flatpak, "org.gnome.Maps", "46 \"ü\"", "x86_64"),
        (PackageKind::Snap, "core22", "", ""),
    ] {
        let key = PackageKey { kind, name: Text::lossy(name), arch: Text::lossy(arch) };
        scan.inventory.insert(key, Text::lossy(version)).expect("few packages");
    }
    for (name, value) in [("os.id", "debian"), ("os.version", "12"), ("kernel", "6.1"), ("machine.vendor", "<ü>")] {
        scan.inventory.set_fact(Text::lossy(name), Some(Text::lossy(value))).expect("few facts");
    }
    scan
}

#[test]
fn bills_satisfy_the_official_schema() {
    let Some(place) = validator() else {
        return skip("the CycloneDX schemas cannot be had: python3 with pip and a package registry are needed");
    };
    let machine = scan(None, &KINDS);
    for (scan, what) in [(&odd(), "odd"), (&machine, "this machine"), (&Scan::default(), "empty")] {
        assert_eq!(validate(&place, &bill(scan, cyclonedx::serial(scan))), "valid", "{what}");
    }
    // The judge is awake.
    let wrong = bill(&odd(), [0; 16]).replace("\"library\"", "\"libary\"");
    assert!(validate(&place, &wrong).starts_with("invalid"));
    let wrong = bill(&odd(), [0; 16]).replace("\"bom-ref\":\"kernel\"", "\"bom-ref\":7");
    assert!(validate(&place, &wrong).starts_with("invalid"));
}

#[test]
fn a_bill_names_the_machine_and_every_package() {
    let scan = odd();
    let text = bill(&scan, [0xff; 16]);
    assert_eq!(text, bill(&scan, [0xff; 16]), "the same input gives the same bytes");
    let bom: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(bom["serialNumber"], "urn:uuid:ffffffff-ffff-8fff-bfff-ffffffffffff");
    assert_eq!(bom["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    assert_eq!(bom["metadata"]["component"]["type"], "device");
    assert_eq!(bom["metadata"]["component"]["manufacturer"]["name"], "<ü>");
    let components = bom["components"].as_array().expect("a list");
    let kinds: Vec<&str> = components.iter().filter_map(|component| component["type"].as_str()).collect();
    assert_eq!(kinds[..3], ["operating-system", "platform", "library"]);
    assert_eq!(components.len(), 2 + 7);
    let refs: std::collections::BTreeSet<&str> =
        components.iter().filter_map(|component| component["bom-ref"].as_str()).collect();
    assert_eq!(refs.len(), components.len(), "references are unique");
    assert_eq!(components[4]["purl"], "pkg:deb/debian/libstdc%2B%2B6@1:12.2-1~b%2Bc?arch=amd64&distro=debian-12");
    let mut changed = scan.clone();
    changed.inventory.pending_restart = true;
    assert_ne!(cyclonedx::serial(&scan), cyclonedx::serial(&changed));
}
