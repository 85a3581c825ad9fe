//! The update point as apt sees it: a repository that the test signs, a coordinator that syncs it, and two machines whose own apt
//! gets exactly what is approved.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;
use upswarm_tests::mirror::Mirror;
use upswarm_tests::office::{Family, Machine, Office};
use upswarm_tests::process::Process;
use upswarm_tests::repository::{Deb, Repository, missing_tools};
use upswarm_tests::wait;

const WITHIN: Duration = Duration::from_secs(60);
/// Package managers run at idle priority: where others want the processors, an install waits.
const INSTALLED_WITHIN: Duration = Duration::from_secs(300);
const COORDINATOR: &str = "--data-dir /var/lib/upswarm-coordinator";
const NODE: &str = "--data-dir /var/lib/upswarm";
/// 2026-11-01.
const FIRST: u32 = 1_793_491_200;

fn json(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Types a line again and again until it does what it says.
fn in_time(machine: &Machine, line: &str) -> String {
    wait::until(line, WITHIN, || {
        let output = machine.run(line);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    })
}

fn start_coordinator(admin: &Machine) -> Process {
    let file = admin.path("/var/lib/upswarm-coordinator/run.json");
    let mut process = admin.start(&format!("upswarm coordinator run {COORDINATOR}"));
    wait::closely("the coordinator to be ready", WITHIN, || {
        process.must_run();
        if file.exists() { Ok(()) } else { Err("not yet".into()) }
    });
    process
}

/// Joins a machine, whose node has an update point.
fn start_node(machine: &Machine, token: &str) -> Process {
    machine.done(&format!("upswarm node join {token} {NODE}"));
    let config = machine.path("/var/lib/upswarm/node.toml");
    let text = fs::read_to_string(&config).expect("node.toml");
    fs::write(&config, format!("{text}\n[update_point]\n")).expect("node.toml");
    machine.start(&format!("upswarm node run {NODE}"))
}

/// What dpkg says of a package on a machine.
fn version(machine: &Machine, package: &str) -> String {
    let output = machine.run(&format!("dpkg-query -W -f '${{db:Status-Status}} ${{Version}}' {package}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What apt would install of a package.
fn candidate(machine: &Machine, package: &str) -> String {
    let policy = machine.done(&format!("apt-cache policy {package}"));
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: ").map(str::to_owned));
    line.unwrap_or_else(|| format!("nothing ({})", policy.trim()))
}

fn wait_for_version(machine: &Machine, package: &str, wanted: &str) {
    wait::until(&format!("{package} {wanted} on {}", machine.name), INSTALLED_WITHIN, || {
        match version(machine, package) {
            found if found == format!("installed {wanted}") => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
}

#[test]
fn plain_apt_sees_exactly_what_is_approved_and_follows_each_approval() {
    if let Some(missing) = missing_tools() {
        eprintln!("SKIPPED: {missing}");
        return;
    }
    let Some(mut office) = Office::new(&["admin", "pc1", "pc2"], Family::V4) else { return };
    office.machines[0].set("UPSWARM_PASSPHRASE", "correct horse battery staple");
    let (admin, pc1, pc2) = (office.machine("admin"), office.machine("pc1"), office.machine("pc2"));

    // Upstream, and a machine that has an older version of one of its packages.
    let dir = tempfile::tempdir().expect("a directory");
    let mut upstream = Repository::new(dir.path());
    let amd64 = |name, version| Deb { arch: "amd64", ..Deb::new(name, version) };
    let old = amd64("demo-app", "1.0").build(&dir.path().join("old"));
    upstream.add(&Deb { depends: "demo-lib", ..amd64("demo-app", "2.0") });
    upstream.add(&Deb::new("demo-lib", "2.0"));
    upstream.add(&Deb::new("demo-extra", "2.0"));
    upstream.publish(FIRST);
    let listener = admin.namespace.run(|| TcpListener::bind("127.0.0.1:0")).expect("a port");
    let mirror = Mirror::on(listener, dir.path());
    fs::write(admin.path("/root/keyring.asc"), upstream.signer.certificate()).expect("a keyring");
    fs::copy(old, pc1.path("/root/demo-app_1.0_amd64.deb")).expect("a package");
    pc1.done("dpkg --install /root/demo-app_1.0_amd64.deb");
    let own = format!("# mirrors of this office\ndeb {} stable main\n", mirror.url());
    for pc in [pc1, pc2] {
        pc.done(
            "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/preferences.d; \
                 mkdir -p /etc/apt/sources.list.d /etc/apt/preferences.d",
        );
        fs::write(pc.path("/etc/apt/sources.list.d/office.list"), &own).expect("a source");
        // What apt has read of it the last time: by that it is known to be the repository that is synced.
        let lists = pc.path("/var/lib/apt/lists");
        fs::create_dir_all(&lists).expect("apt's lists");
        let host = mirror.url().replace("http://", "");
        fs::copy(upstream.dists().join("InRelease"), lists.join(format!("{host}_dists_stable_InRelease")))
            .expect("a list");
    }

    admin.done(&format!("upswarm coordinator init {COORDINATOR}"));
    let _coordinator = start_coordinator(admin);
    let invited = json(&admin.done(&format!("upswarm coordinator invite {COORDINATOR} --uses 2 --json")));
    let token = invited["token"].as_str().expect("a token");
    let _nodes = [pc1, pc2].map(|pc| start_node(pc, token));
    let add = format!(
        "upswarm sync add apt test --url {} --suite stable --components main --arch amd64 --keyring /root/keyring.asc --yes {COORDINATOR}",
        mirror.url()
    );
    admin.done(&add);
    let sync = format!("upswarm sync run test {COORDINATOR}");
    in_time(admin, &sync);
    // Nothing is approved: apt keeps its sources.
    let refused = pc1.refused(&format!("upswarm node apt-setup {NODE}"), 3);
    assert!(refused.contains("without any source"), "{refused}");
    let approve = format!("upswarm approve apt:test@latest --group everyone --select demo-app --yes {COORDINATOR}");
    in_time(admin, &approve);

    // The agent upgrades where the package is; plain apt is shown the same.
    wait_for_version(pc1, "demo-app", "2.0");
    assert_eq!(version(pc1, "demo-lib"), "installed 2.0");
    for pc in [pc1, pc2] {
        in_time(pc, &format!("upswarm node apt-setup {NODE}"));
        let list = fs::read_to_string(pc.path("/etc/apt/sources.list.d/office.list")).expect("the source");
        assert!(list.lines().all(|line| line.starts_with('#')), "{list}");
        pc.done("apt-get update");
        assert_eq!(candidate(pc, "demo-app"), "2.0");
        assert_eq!(candidate(pc, "demo-extra"), "(none)");
    }
    // One that the agent has nothing to do for: its bytes come when apt asks for them.
    assert_eq!(version(pc2, "demo-app"), "");
    pc2.done("DEBIAN_FRONTEND=noninteractive apt-get install -y demo-app");
    assert_eq!((version(pc2, "demo-app"), version(pc2, "demo-lib")), ("installed 2.0".into(), "installed 2.0".into()));
    assert!(!pc2.run("apt-get install -y demo-extra").status.success());
    assert_eq!(version(pc2, "demo-extra"), "");

    // Upstream goes on; the machines do when that is approved.
    upstream.add(&amd64("demo-app", "3.0"));
    upstream.publish(FIRST + 86_400);
    admin.done(&sync);
    pc1.done("apt-get update");
    assert_eq!(candidate(pc1, "demo-app"), "2.0");
    in_time(admin, &approve);
    wait_for_version(pc1, "demo-app", "3.0");
    wait::until("apt of pc1 to follow", WITHIN, || {
        pc1.done("apt-get update");
        let found = candidate(pc1, "demo-app");
        if found == "3.0" { Ok(()) } else { Err(found) }
    });

    pc1.done(&format!("upswarm node apt-setup --undo {NODE}"));
    assert_eq!(fs::read_to_string(pc1.path("/etc/apt/sources.list.d/office.list")).expect("the source"), own);
    let left = pc1.done("find /etc/apt -name '*upswarm*'");
    assert_eq!(left.trim(), "", "nothing of ours stays");

    // A machine without an agent: one file is all that it gets, and all that it sees is what is approved for the group.
    admin.done(&format!("upswarm group sign everyone --list --yes {COORDINATOR}"));
    pc2.done(&format!("upswarm node apt-setup --undo {NODE}"));
    let source = in_time(pc2, &format!("upswarm node apt-setup --filtered everyone {NODE}"));
    pc2.done(
        "rm -rf /etc/apt/sources.list.d /var/lib/apt/lists && mkdir -p /etc/apt/sources.list.d /var/lib/apt/lists",
    );
    fs::write(pc2.path("/etc/apt/sources.list.d/filtered.sources"), source).expect("a source");
    pc2.done("apt-get update -o APT::Update::Error-Mode=any");
    assert_eq!(candidate(pc2, "demo-app"), "3.0");
    assert!(
        !pc2.done("apt-cache policy demo-extra").contains("Candidate"),
        "it does not know what nobody has approved"
    );
    pc2.done("DEBIAN_FRONTEND=noninteractive apt-get install -y demo-app");
    assert_eq!(version(pc2, "demo-app"), "installed 3.0");
    for snapshot in ["20261101T000000Z", "20261102T000000Z"] {
        admin.done(&format!("upswarm decline test@{snapshot} --group everyone {COORDINATOR}"));
    }
    wait::until("it to be gone", WITHIN, || {
        match pc2.run("apt-get update -o APT::Update::Error-Mode=any").status.success() {
            false => Ok(()),
            true => Err("it is still there".to_owned()),
        }
    });
}
