//! Bad input and bad luck: one clear error, the right exit code, and nothing lost.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use upswarm_tests::fleet::{Coordinator, GROUP, Joining, Node, join_all, random_file, text};
use upswarm_tests::lab::{Lab, Rates, WAN_ADDRESS};
use upswarm_tests::packages::{Kind, Package, make_root, missing_tools};
use upswarm_tests::program::{self, Verb};
use upswarm_tests::wait;

const PATIENCE: Duration = Duration::from_secs(60);

fn join(lab: &Lab, token: &str, dir: &Path) -> Verb {
    program::verb(&lab.sites[0].hosts[0].namespace, &["node", "join", token, "--data-dir", text(dir)])
}

#[test]
fn a_token_that_is_damaged_spent_or_expired_lets_nobody_in() {
    let Some(lab) = Lab::new(&[1], Rates::default()) else { return };
    let mut coordinator = Coordinator::new(&lab);
    let token = coordinator.invite("site-1", 1);
    let (first, second) = (lab.dir().join("first"), lab.dir().join("second"));

    let reason = join(&lab, &token[..token.len() - 3], &first).refused(3);
    assert!(reason.contains("damaged"), "{reason}");
    join(&lab, &token, &first).done();
    let reason = join(&lab, &token, &second).refused(3);
    assert!(reason.contains("spent"), "{reason}");
    assert!(!second.join("node.toml").exists());
    let reason = join(&lab, &token, &first).refused(3);
    assert!(reason.contains("joined already"), "{reason}");

    let brief =
        coordinator.verb(&["coordinator", "invite", "--group", "office", "--site", "site-1", "--ttl", "1s"]).done();
    let brief = brief["token"].as_str().unwrap();
    // A second has to pass, nothing else.
    std::thread::sleep(Duration::from_millis(1100));
    let reason = join(&lab, brief, &second).refused(3);
    assert!(reason.contains("expired"), "{reason}");

    // A coordinator that is away: the token is not spent by the attempt, and the directory is still good.
    let fresh = coordinator.invite("site-1", 1);
    coordinator.stop();
    let reason = join(&lab, &fresh, &second).refused(1);
    assert!(reason.contains("is it running"), "{reason}");
    coordinator.start();
    join(&lab, &fresh, &second).done();
}

#[test]
fn what_cannot_run_says_why_and_ends() {
    let Some(lab) = Lab::new(&[1], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    let node = &mut nodes[0];

    // A port in use.
    let listener = node.host.namespace.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 4410))).unwrap();
    let verb = node.start_in_vain();
    assert_eq!(verb.code, 1, "{}", verb.said);
    let reason = verb.refused(1);
    assert!(reason.contains("4410"), "{reason}");
    drop(listener);
    let other = lab.dir().join("other");
    program::verb(&lab.wan, &["coordinator", "init", "--demo-keys", "--data-dir", text(&other)]).done();
    let http = format!("{WAN_ADDRESS}:4702");
    let args =
        ["coordinator", "run", "--data-dir", text(&other), "--listen", "/ip4/10.78.0.1/tcp/4801", "--http", &http];
    let reason = program::verb(&lab.wan, &args).refused(1);
    assert!(reason.contains("4702") && reason.contains("--http"), "{reason}");
    // A directory that is served already.
    let args = ["--listen", "/ip4/10.78.0.1/tcp/4801", "--http", "10.78.0.1:4802"];
    let reason = coordinator.verb(&[&["coordinator", "run"][..], &args].concat()).refused(3);
    assert!(reason.contains("already"), "{reason}");

    // A field that nobody knows.
    let path = node.dir.join("node.toml");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("quotta = 3\n{good}")).unwrap();
    let reason = node.start_in_vain().refused(3);
    assert!(reason.contains("quotta") && reason.contains("node.toml"), "{reason}");
    fs::write(&path, good).unwrap();
    let release = lab.dir().join("bad.toml");
    fs::write(&release, "product = \"a\"\nversjon = \"1\"\n").unwrap();
    let reason = coordinator.verb(&["publish", text(&release)]).refused(3);
    assert!(reason.contains("versjon"), "{reason}");

    // Nothing of that has hurt it.
    node.start();
    coordinator.wait_for_reports(&nodes);
}

#[test]
fn a_damaged_data_directory_heals_or_says_what_to_do() {
    let Some(lab) = Lab::new(&[2], Rates::default()) else { return };
    let len = 8 << 20;
    let payload = random_file(&lab.dir().join("payload"), len, 31);
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let published = coordinator.publish("1.0", &payload);
    coordinator.approve(&published.release);
    coordinator.wait_for_installs(&nodes, &published.release, PATIENCE);

    // The store's index: it is rebuilt from the data files, and no byte is fetched again.
    nodes[0].stop();
    let damaged = damage(&nodes[0].dir.join("store"), |path| {
        path.components().any(|part| part.as_os_str().to_string_lossy().contains("index"))
    });
    assert!(damaged > 0, "the test finds the index");
    fs::remove_file(nodes[0].installed()).unwrap();
    nodes[0].start();
    wait::until("the file to be put in place again", PATIENCE, || {
        nodes[0].process().must_run();
        if nodes[0].has_installed(&payload) { Ok(()) } else { Err(nodes[0].log()) }
    });
    assert_eq!(coordinator.status().origin.payload_bytes, len, "nothing was fetched again");

    // The journal holds what is trusted: a damaged one is not worked around, and is told.
    nodes[1].stop();
    assert!(damage(&nodes[1].dir.join("journal"), |_| true) > 0);
    let verb = nodes[1].start_in_vain();
    assert!(verb.code == 1 || verb.code == 3, "{}", verb.said);
    let reason = verb.clone().refused(verb.code);
    assert!(reason.contains("journal") || reason.contains("join"), "{reason}");
    assert!(nodes[1].has_installed(&payload), "what is installed stays");
}

/// Overwrites the chosen files below a directory with rubbish; returns how many.
fn damage(dir: &Path, chosen: fn(&Path) -> bool) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            count += damage(&path, chosen);
        } else if chosen(&path) {
            let len = fs::metadata(&path).unwrap().len().max(64);
            random_file(&path, len, 99);
            count += 1;
        }
    }
    count
}

/// A small disk that goes away with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: &Path, size: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("lab: {} stays mounted: {error}", self.0.display());
        }
    }
}

#[test]
fn a_full_disk_is_a_state_and_no_crash() {
    let Some(lab) = Lab::new(&[2], Rates::default()) else { return };
    let payload = random_file(&lab.dir().join("payload"), 96 << 20, 32);
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    // The first machine's store lies on a disk that the payload does not fit on.
    let disk = SmallDisk::new(&nodes[0].dir.join("store"), "48m");
    nodes[0].configure(|config| {
        let store = config["store"].as_table_mut().expect("the store's settings");
        store.insert("reserve".into(), "1MiB".into());
    });
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let published = coordinator.publish("1.0", &payload);
    coordinator.approve(&published.release);
    // The other machine is not held up.
    coordinator.wait_for_installs(&nodes[1..], &published.release, PATIENCE);
    let label = nodes[0].label.clone();
    let reason = wait::until("the full disk in the status", PATIENCE, || {
        let status = coordinator.status();
        let stand = status.deployment(&label, &published.release).cloned();
        match &stand {
            Some(stand) if stand.sub_state == "NoSpace" => Ok(stand.reason.clone()),
            _ => Err(format!("{stand:?}")),
        }
    });
    assert!(!reason.is_empty());
    nodes[0].process().must_run();
    assert!(!nodes[0].installed().exists());
    // Once there is room, it goes on by itself after a restart.
    nodes[0].stop();
    drop(disk);
    nodes[0].start();
    coordinator.wait_for_installs(&nodes, &published.release, PATIENCE);
}

/// Cases 18, 26 and 28, among other decisions that make no sense.
#[test]
fn decisions_that_make_no_sense_are_refused_and_nothing_is_signed() {
    let Some(lab) = Lab::new(&[1], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let release = coordinator.publish("1.0", &random_file(&lab.dir().join("payload"), 1 << 16, 33)).release;
    coordinator.verb(&["group", "add", "pilots"]).done();
    let signed = || coordinator.verb(&["status"]).done()["rollouts"].clone();
    let before = signed();

    let known = format!("org.example.lab@1.0 --group {GROUP}");
    // Words of the call after `approve`, and what the refusal names.
    let refusals = [
        // Releases and groups that are not there, or hold nobody.
        (format!("org.example.lab@9 --group {GROUP}"), "no release is named \"org.example.lab@9\"; there are:"),
        (format!("ffffffffffffffff --group {GROUP}"), "no release is named"),
        (format!("org.example.lab --group {GROUP}"), "no release is named"),
        ("org.example.lab@1.0 --group nobody".into(), "there is no group \"nobody\"; there are:"),
        ("org.example.lab@1.0 --group pilots".into(), "group \"pilots\" has no devices"),
        // Schedules that contradict themselves.
        (format!("{known} --deadline 2020-01-01T00:00:00Z"), "deadline"),
        (format!("{known} --available +2d --deadline +1d"), "is not after the beginning"),
        (format!("{known} --available +40d"), "make it last longer"),
        (format!("{known} --life 1d --available +2d"), "make it last longer"),
        (format!("{known} --grace 2h"), "--deadline too"),
        (format!("{known} --expedite --jitter 1h"), "--expedite passes over --jitter"),
        (format!("{known} --expedite --defer 2x4h"), "--expedite passes over --defer"),
        (format!("{known} --expedite --ring 1%"), "--expedite passes over --ring"),
        (format!("{known} --ring 10% --ring 5%+1d"), "reach further"),
        (format!("{known} --ring 10%+2d --ring 100%+1d"), "begin no earlier"),
        (format!("{known} --ring 0%"), "a ring of nobody"),
        (format!("{known} --ring 101%"), "at most 100%"),
        (format!("{known} --ring 0.01%"), "leave out"),
        (format!("{known} --ring 50%+60d --ring 100%+90d"), "could begin before the approval expires"),
        (format!("{known} --stop-above 5"), "--stop-above"),
        (format!("{known} --defer 3x"), "--defer"),
        (format!("{known} --deadline soon"), "--deadline"),
        (format!("{known} --life 0s"), "approval"),
    ];
    for (words, named) in refusals {
        let args: Vec<&str> = std::iter::once("approve").chain(words.split(' ')).collect();
        let reason = coordinator.verb(&args).refused(3);
        assert!(reason.contains(named), "{words}: {reason}");
    }
    for (option, value, named) in [
        ("--window", "mon-fri 25:00-26:00", "--window"),
        ("--window", "noday 01:00-02:00", "--window"),
        ("--window", "daily 24:00-01:00", "begins before 24:00"),
        ("--active-hours", "daily 00:00-24:00", "nothing could be installed"),
    ] {
        let reason = coordinator.verb(&["approve", &release, "--group", GROUP, option, value]).refused(3);
        assert!(reason.contains(named), "{option} {value}: {reason}");
    }
    let both = ["--window", "mon-fri 09:00-17:00", "--active-hours", "mon-fri 08:00-18:00"];
    let reason = coordinator.verb(&[&["approve", &release, "--group", GROUP], &both[..]].concat()).refused(3);
    assert!(reason.contains("nothing could be installed"), "{reason}");
    // The other verbs that name releases, groups and machines.
    for (words, named) in [
        ("expedite org.example.lab@1.0 --group office", "not approved there"),
        ("decline org.example.lab@9 --group office", "no release is named"),
        ("pause --group nobody", "nobody"),
        ("resume --group office", "not on hold"),
        ("group assign pc-nowhere --group pilots", "pc-nowhere"),
    ] {
        let verb = coordinator.verb(&words.split(' ').collect::<Vec<_>>());
        let reason = verb.clone().refused(verb.code.max(1));
        assert!(reason.contains(named), "{words}: {reason}");
    }
    assert_eq!(signed(), before, "nothing was signed");
    assert!(coordinator.status().deployment(&nodes[0].label, &release).is_none());
    // What is refused for reaching nobody can be meant.
    coordinator.verb(&["approve", &release, "--group", "pilots", "--allow-empty"]).done();
}

#[test]
fn a_broken_package_database_is_told_and_mended() {
    if let Some(missing) = missing_tools() {
        assert!(std::env::var_os("CI").is_none(), "packages cannot be tested here: {missing}");
        eprintln!("SKIPPED: packages cannot be tested here: {missing}");
        return;
    }
    let Some(lab) = Lab::new(&[1], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    let root = nodes[0].dir.join("root");
    make_root(&root);
    for (kind, name, database) in
        [(Kind::Deb, "lab-deb", "var/lib/dpkg/status"), (Kind::Rpm, "lab-rpm", "var/lib/rpm/rpmdb.sqlite")]
    {
        let package = Package { kind, name, version: 1, len: 1 << 16, after: "", before: "", depends: "" };
        let release = package.publish(&coordinator, &package.build(&lab.dir().join("packages"))).release;
        let good = fs::read(root.join(database)).unwrap();
        fs::write(root.join(database), "rubbish\n".repeat(1000)).unwrap();
        let seen = program::verb(&nodes[0].host.namespace, &["scan", "--root", text(&root)]).done();
        assert!(!seen["notices"].as_array().unwrap().is_empty(), "{seen}");
        nodes[0].start();
        coordinator.wait_for_reports(&nodes);
        coordinator.approve(&release);
        let label = nodes[0].label.clone();
        let reason = wait::until("the broken database in the status", PATIENCE, || {
            let status = coordinator.status();
            let stand = status.deployment(&label, &release).cloned();
            match &stand {
                Some(stand) if stand.state == "Stalled" && !stand.reason.is_empty() => Ok(stand.reason.clone()),
                _ => Err(format!("{stand:?}")),
            }
        });
        let tool = if kind == Kind::Deb { "dpkg" } else { "rpm" };
        assert!(reason.contains("cannot tell") && reason.contains(tool), "{reason}");
        nodes[0].process().must_run();
        assert!(!package.program(&root).exists(), "nothing is installed on a guess");
        // A person repairs it.
        nodes[0].stop();
        for stale in ["var/lib/rpm/rpmdb.sqlite-wal", "var/lib/rpm/rpmdb.sqlite-shm"] {
            let _ = fs::remove_file(root.join(stale));
        }
        fs::write(root.join(database), good).unwrap();
        nodes[0].start();
        coordinator.wait_for_installs(&nodes, &release, PATIENCE);
        nodes[0].stop();
    }
}
