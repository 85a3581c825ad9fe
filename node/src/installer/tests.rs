use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use upswarm_protocol::catalog::{
    Action, Applicability, Detect, ExitMeaning, ExitRule, PackageKind, Patch, Platform, Recipe,
};
use upswarm_protocol::codec::Text;
use upswarm_protocol::node::{Detection, InstallOutcome};

use super::fixture::{Fixture, exec, list, reason, text};
use super::{detect, payload};
use crate::sys;

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process runs: not gone, and not merely waiting for its parent to look.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn logs(fixture: &Fixture) -> Vec<PathBuf> {
    fs::read_dir(fixture.state().join("logs")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn private_files(fixture: &Fixture) -> usize {
    fs::read_dir(fixture.state().join("private")).map_or(0, Iterator::count)
}

#[test]
fn a_payload_is_run_with_its_arguments_and_nothing_else() {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out");
    let script = format!(
        "#!/bin/sh\n{{ echo \"$0\"; for a in \"$@\"; do echo \"$a\"; done; pwd; umask; env; stat -c %a \"$0\" \"$1\"; \
         nice; cat; }} > {}\n",
        out.display()
    );
    let script = script.as_bytes();
    let data = b"data".as_slice();
    let fixture = Fixture::new(&[("setup $(x).sh", script), ("data.bin", data), ("unused", b"never read")])
        .install(exec(&["{payload}", "{payload:1}", "--from={payload:1}", "$HOME;`id`", "a b"], 30));
    fs::remove_file(fixture.stored(2)).unwrap();
    assert_eq!(fixture.run(Action::Install), InstallOutcome::Done { restart: false, code: Some(0) });
    let printed = fs::read_to_string(out).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    let private = fixture.state().join("private");
    assert!(Path::new(lines[0]).starts_with(&private) && lines[0].ends_with("/setup $(x).sh"), "{printed}");
    assert!(Path::new(lines[1]).starts_with(&private) && lines[1].ends_with("/data.bin"), "{printed}");
    assert_eq!(lines[2], format!("--from={}", lines[1]));
    assert_eq!(lines[3..7], ["$HOME;`id`", "a b", "/", "0022"]);
    let names: BTreeSet<&str> =
        lines[7..].iter().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    // PWD and _ are the shell's own.
    let allowed = BTreeSet::from(["PATH", "LANG", "HOME", "PWD", "OLDPWD", "SHLVL", "_"]);
    assert!(names.is_subset(&allowed) && names.contains("PATH"), "{names:?}");
    assert_eq!(lines[lines.len() - 3..], ["500", "400", "19"]);
    assert_eq!(private_files(&fixture), 0, "the copies go with the job");
}

#[test]
fn exit_codes_mean_what_the_recipe_says() {
    let rows = [(3010, ExitMeaning::RestartRequired), (75, ExitMeaning::Retry), (7, ExitMeaning::Success)];
    for (code, expected) in [
        (0, InstallOutcome::Done { restart: false, code: Some(0) }),
        (7, InstallOutcome::Done { restart: false, code: Some(7) }),
        (10, InstallOutcome::Done { restart: true, code: Some(10) }),
        (75, InstallOutcome::Retry { code: Some(75), reason: "exit code 75".into() }),
        (3, InstallOutcome::Failed { code: Some(3), reason: "exit code 3".into() }),
    ] {
        // Exit codes of this system end at 255.
        let rules = rows.iter().map(|&(row, meaning)| ExitRule { code: if row == 3010 { 10 } else { row }, meaning });
        let argv = ["/bin/sh", "-c", &format!("exit {code}")].map(text);
        let fixture =
            Fixture::new(&[]).install(Recipe::Exec { argv: list(argv), exit_codes: list(rules), timeout_s: 30 });
        assert_eq!(fixture.run(Action::Install), expected);
    }
    let fixture = Fixture::new(&[]).install(exec(&["/bin/sh", "-c", "kill -9 $$"], 30));
    assert!(reason(&fixture.run(Action::Install)).contains("signal 9"));
}

#[test]
fn the_reason_quotes_the_end_of_the_output_and_the_log_keeps_head_and_tail() {
    let script = "echo first; head -c 5000000 /dev/zero | tr '\\0' 'x'; printf '\\033[31mlast\\a words\\n' >&2; exit 4";
    let fixture = Fixture::new(&[]).install(exec(&["/bin/sh", "-c", script], 60));
    let outcome = fixture.run(Action::Install);
    let reason = reason(&outcome);
    assert!(reason.starts_with("exit code 4: ") && reason.contains("[31mlast words"), "{reason}");
    assert!(reason.len() < 700 && !reason.contains(char::is_control));
    let logs = logs(&fixture);
    assert_eq!(logs.len(), 1);
    assert!(reason.contains(&logs[0].display().to_string()));
    let log = fs::read(&logs[0]).unwrap();
    assert!(log.len() < (1 << 20) + 100, "{}", log.len());
    assert!(log.starts_with(b"first\n") && log.ends_with(b"words\n"));
    assert_eq!(fs::metadata(&logs[0]).unwrap().permissions().mode() & 0o777, 0o600);
    for _ in 0..60 {
        fixture.run(Action::Install);
    }
    assert_eq!(super::tests::logs(&fixture).len(), 50, "old logs go");
}

/// A program that ignores TERM, with a child that does too: both are gone when the time is up.
#[test]
fn a_timeout_ends_grandchildren_too() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script =
        format!("trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & echo $! > {}; wait; wait", pid.display());
    let fixture = Fixture::new(&[]).install(exec(&["/bin/sh", "-c", &script], 1));
    let outcome = fixture.run(Action::Install);
    assert!(reason(&outcome).contains("did not end within 1 s"), "{outcome:?}");
    let child = fs::read_to_string(pid).unwrap();
    wait_until("the grandchild ends", || !runs(&child));
}

#[test]
fn the_end_of_the_node_ends_a_program_and_it_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let started = dir.path().join("started");
    let script = format!("echo $$ > {}; while :; do sleep 1; done", started.display());
    let fixture = Fixture::new(&[]).install(exec(&["/bin/sh", "-c", &script], 600));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("the program starts", || started.exists());
            fixture.cancel.store(true, Ordering::Relaxed);
        });
        let outcome = fixture.run(Action::Install);
        assert!(
            matches!(&outcome, InstallOutcome::Retry { reason, .. } if reason.contains("about to end")),
            "{outcome:?}"
        );
    });
    assert!(matches!(fixture.run(Action::Install), InstallOutcome::Retry { .. }), "nothing new is begun");
}

/// A daemon that a recipe starts keeps the output open; the job ends all the same, and the daemon lives.
#[test]
fn a_daemon_that_a_recipe_starts_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!("sleep 300 & echo $! > {}; echo started", pid.display());
    let fixture = Fixture::new(&[]).install(exec(&["/bin/sh", "-c", &script], 200));
    assert_eq!(fixture.run(Action::Install), InstallOutcome::Done { restart: false, code: Some(0) });
    let daemon = fs::read_to_string(pid).unwrap();
    assert!(runs(&daemon));
    assert!(Command::new("kill").arg(daemon.trim()).status().unwrap().success());
}

#[test]
fn recipes_that_make_no_sense_are_refused() {
    for (argv, expected) in [
        (&["true"][..], "not an absolute path"),
        (&["../bin/true"], "not an absolute path"),
        (&[], "no program"),
        (&["{payload:3}"], "names payload 3, the release has 1"),
        (&["/bin/true", "{payload:x}"], "names no payload"),
        (&["/nonexistent/program"], "cannot run /nonexistent/program"),
        (&["/etc/passwd"], "must not be run"),
    ] {
        let fixture = Fixture::new(&[("x", b"x")]).install(exec(argv, 10));
        let outcome = fixture.run(Action::Install);
        assert!(reason(&outcome).contains(expected), "{argv:?}: {outcome:?}");
    }
    let fixture = Fixture::new(&[("x", b"x")]);
    assert!(reason(&fixture.run(Action::Uninstall)).contains("how to uninstall"));
    assert!(reason(&fixture.run(Action::None)).contains("nothing is to be done"));
    let twice = Fixture::new(&[("x", b"x"), ("x", b"y")]).install(exec(&["/bin/cat", "{payload}", "{payload:1}"], 10));
    assert!(reason(&twice.run(Action::Install)).contains("two payloads"));
}

/// 200 and more names: none leads out of the private directory.
#[test]
fn hostile_payload_names_stay_inside() {
    let mut names: Vec<String> =
        ["", ".", "..", "/", "/etc/passwd", "a/b", "a/", "../x", "..\\x", "-rf", "~", "*", "a b"]
            .map(str::to_owned)
            .to_vec();
    for depth in 1..60 {
        names.push(format!("{}etc/cron.d/x", "../".repeat(depth)));
        names.push(format!("{}x", "./".repeat(depth)));
        names.push("n".repeat(depth * 4));
        names.push(format!("{}\u{202e}gpj.exe", "é".repeat(depth)));
    }
    assert!(names.len() > 200);
    let mut kept = 0;
    for name in names {
        let fixture = Fixture::new(&[(&name, b"bytes")]).install(exec(&["/bin/cat", "{payload}"], 10));
        let before = super::fixture::snapshot(fixture.dir.path());
        let inside = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
        fixture.with_job(Action::Install, |job| match payload::snapshot(job, &[0], None) {
            Ok(snapshot) => {
                let path = snapshot.path(0).unwrap();
                assert!(inside, "{name:?} was accepted");
                assert_eq!(path.parent().and_then(Path::parent), Some(&*fixture.state().join("private")));
                assert_eq!(fs::read(path).unwrap(), b"bytes");
                kept += 1;
            }
            Err(trouble) => assert!(!inside, "{name:?}: {trouble:?}"),
        });
        assert_eq!(super::fixture::snapshot(fixture.dir.path()), before, "{name:?}");
    }
    assert!(kept > 100);
    // Names with control characters do not even decode.
    assert!(Text::<255>::new("a\0b").is_err() && Text::<255>::new("a\nb").is_err());
}

/// While payloads are copied, another thread swaps, overwrites and links them. Whatever is copied is the release's bytes.
#[test]
fn unverified_bytes_are_never_used_whatever_the_store_does_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (good_mark, bad_mark) = (dir.path().join("good"), dir.path().join("bad"));
    let script = |mark: &Path| format!("#!/bin/sh\ntouch '{}'\n#{}\n", mark.display(), "x".repeat(4000)).into_bytes();
    // Of equal length, so that only the hash tells them apart.
    let (good, mut bad) = (script(&good_mark), script(&bad_mark));
    bad.resize(good.len(), b'\n');
    let fixture = Fixture::new(&[("run", &good)]).install(exec(&["{payload}"], 30));
    let (path, aside) = (fixture.stored(0), fixture.dir.path().join("aside"));
    let stop = AtomicBool::new(false);
    let (mut verified, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let elsewhere = fixture.dir.path().join("elsewhere");
            fs::write(&elsewhere, &bad).unwrap();
            for round in 0_usize.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let bytes = if round % 2 == 0 { &bad } else { &good };
                let _ = fs::remove_file(&aside);
                match round % 5 {
                    0 | 3 => fs::write(&path, bytes).unwrap(),
                    1 | 2 => fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, &path)).unwrap(),
                    _ => symlink(&elsewhere, &aside).and_then(|()| fs::rename(&aside, &path)).unwrap(),
                }
                if round % 5 == 4 {
                    fs::remove_file(&path).unwrap();
                }
            }
        });
        fixture.with_job(Action::Install, |job| {
            for round in 0..10_000 {
                // Handed over as an open file, and found in the store by its path.
                let source = match fs::File::open(&path) {
                    Ok(file) if round % 2 == 0 => super::Source::File(file),
                    _ => super::Source::Path(path.clone()),
                };
                let job = super::Job { payloads: vec![source], ..*job };
                match payload::snapshot(&job, &[0], Some(0)) {
                    Ok(snapshot) => {
                        assert!(fs::read(snapshot.path(0).unwrap()).unwrap() == good);
                        verified += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
        });
        for _ in 0..60 {
            fixture.run(Action::Install);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(!bad_mark.exists(), "unverified bytes were executed");
    assert!(verified > 0 && refused > 0, "no race took place: {verified} verified, {refused} refused");
    fs::remove_file(&path).ok();
    fs::write(&path, &good).unwrap();
    assert_eq!(fixture.run(Action::Install), InstallOutcome::Done { restart: false, code: Some(0) });
    assert!(good_mark.exists());
}

#[test]
fn a_store_that_holds_pipes_and_directories_does_not_hang_the_installer() {
    let fixture = Fixture::new(&[("x", b"x")]).install(exec(&["/bin/cat", "{payload}"], 10));
    fs::remove_file(fixture.stored(0)).unwrap();
    assert!(Command::new("mkfifo").arg(fixture.stored(0)).status().unwrap().success());
    assert!(reason(&fixture.run(Action::Install)).contains("not a plain file"));
    fs::remove_file(fixture.stored(0)).unwrap();
    fs::create_dir(fixture.stored(0)).unwrap();
    assert!(reason(&fixture.run(Action::Install)).contains("not a plain file"));
}

#[test]
fn the_state_directory_is_closed_to_others() {
    let fixture = Fixture::new(&[("x", b"x")]).install(exec(&["/bin/cat", "{payload}"], 10));
    fs::create_dir_all(fixture.state().join("private")).unwrap();
    fs::set_permissions(fixture.state().join("private"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(fixture.run(Action::Install), InstallOutcome::Done { .. }));
    assert_eq!(fs::metadata(fixture.state().join("private")).unwrap().permissions().mode() & 0o777, 0o700);
    fs::remove_dir_all(fixture.state().join("private")).unwrap();
    symlink(fixture.target(""), fixture.state().join("private")).unwrap();
    assert!(matches!(fixture.run(Action::Install), InstallOutcome::Failed { .. }), "a link is not the directory");
    // What a crash left behind goes at the start.
    fs::remove_file(fixture.state().join("private")).unwrap();
    fs::create_dir_all(fixture.state().join("private/0123/x")).unwrap();
    assert_eq!(super::recover(&fixture.state()), []);
    assert_eq!(private_files(&fixture), 0);
}

#[test]
fn detection_tells_present_absent_not_applicable_and_unknown_apart() {
    let mut fixture = Fixture::new(&[]);
    let file = fixture.target("file");
    fs::write(&file, b"version = 2.5\n").unwrap();
    let path = |name: &str| text::<1024>(&fixture.target(name).display().to_string());
    let hash = *blake3::hash(b"version = 2.5\n").as_bytes();
    let command = |argv: &[&str], exit_code| Detect::Command {
        argv: list(argv.iter().map(|arg| text(arg))),
        exit_code,
        timeout_s: 1,
    };
    fs::write(fixture.target("large"), vec![b'x'; (1 << 20) + 1]).unwrap();
    fs::write(fixture.target("exact"), vec![b'x'; 1 << 20]).unwrap();
    let contains = |name: &str, what: &str| Detect::FileContains { path: path(name), text: text(what) };
    let (yes, no, unknown) = (Some(true), Some(false), None);
    let rules = [
        (Detect::FileExists { path: path("file") }, yes),
        (Detect::FileExists { path: path("none") }, no),
        (Detect::FileExists { path: path("file/below") }, no),
        (Detect::FileExists { path: text("relative") }, unknown),
        (Detect::FileHash { path: path("file"), blake3: hash }, yes),
        (Detect::FileHash { path: path("file"), blake3: [0; 32] }, no),
        (Detect::FileHash { path: path("none"), blake3: hash }, no),
        (Detect::FileHash { path: path(""), blake3: hash }, no),
        (contains("file", "= 2.5"), yes),
        (contains("file", "= 2.6"), no),
        (contains("none", ""), no),
        (contains("exact", "xx"), yes),
        (contains("large", "xx"), no),
        (command(&["/bin/sh", "-c", "exit 3"], 3), yes),
        (command(&["/bin/sh", "-c", "exit 3"], 0), no),
        (command(&["/bin/sh", "-c", "kill -9 $$"], 0), no),
        (command(&["/bin/sleep", "100"], 0), no),
        (command(&["/no/such/program"], 0), no),
        (command(&["sh"], 0), unknown),
        (command(&["/etc/passwd"], 0), unknown),
        (command(&[], 0), unknown),
        (Detect::Package { kind: PackageKind::Flatpak, name: text("x"), version: text("1") }, unknown),
        (Detect::Package { kind: PackageKind::Deb, name: text("../x"), version: text("1") }, unknown),
    ];
    for (rule, expected) in &rules {
        fixture.release.detect = list([rule.clone()]);
        let found = detect(&fixture.release, None);
        match expected {
            Some(true) => assert_eq!(found, Detection::Present, "{rule:?}"),
            Some(false) => assert_eq!(found, Detection::Absent, "{rule:?}"),
            None => assert!(matches!(&found, Detection::Unknown(why) if !why.is_empty()), "{rule:?}: {found:?}"),
        }
    }
    let (present, absent, untold) = (&rules[0].0, &rules[1].0, &rules[3].0);
    for (together, expected) in [
        (vec![present, present], Detection::Present),
        (vec![present, absent], Detection::Absent),
        (vec![untold, absent], Detection::Absent),
    ] {
        fixture.release.detect = list(together.into_iter().cloned());
        assert_eq!(detect(&fixture.release, None), expected);
    }
    fixture.release.detect = list([present.clone(), untold.clone()]);
    assert!(matches!(detect(&fixture.release, None), Detection::Unknown(_)));
    fixture.release.detect = list([]);
    assert!(matches!(detect(&fixture.release, None), Detection::Unknown(_)), "nothing to go by");
}

#[test]
fn a_release_concerns_some_machines_only() {
    let mut fixture = Fixture::new(&[]);
    fixture.release.detect = list([Detect::FileExists { path: text("/") }]);
    let here = |os: &str, arch: &str| Platform { os: text(os), arch: text(arch) };
    for (platform, concerns) in [
        (here("", ""), true),
        (here(std::env::consts::OS, std::env::consts::ARCH), true),
        (here("windows", ""), false),
        (here("", "s390x"), false),
    ] {
        fixture.release.platform = platform;
        assert_eq!(detect(&fixture.release, None) == Detection::Present, concerns, "{:?}", fixture.release.platform);
        assert_eq!(matches!(detect(&fixture.release, None), Detection::NotApplicable(_)), !concerns);
    }
    fixture.release.platform = Platform::default();
    let fact = |name: &str, value: &str| Applicability::Fact { name: text(name), value: text(value) };
    for (condition, expected) in [
        (fact("os.arch", std::env::consts::ARCH), None),
        (fact("os.type", "plan9"), None),
        (fact("platform.os", std::env::consts::OS), Some(true)),
        (fact("platform.arch", "pdp11"), Some(false)),
        (fact("os.id", "no-such-distribution"), Some(false)),
        (fact("no.such.fact", "x"), None),
        (Applicability::FileExists { path: text("/etc") }, Some(true)),
        (Applicability::FileExists { path: text("/no/such/file") }, Some(false)),
        (Applicability::HasPackage { kind: PackageKind::Deb, name: text("no-such-package-here") }, Some(false)),
        (Applicability::HasPackage { kind: PackageKind::Snap, name: text("x") }, None),
    ] {
        fixture.release.applicability = list([condition.clone()]);
        let found = detect(&fixture.release, None);
        let as_expected = match expected {
            Some(true) => found == Detection::Present,
            Some(false) => matches!(found, Detection::NotApplicable(_)),
            None => matches!(found, Detection::Unknown(_)),
        };
        assert!(as_expected, "{condition:?}: {found:?}");
    }
}

/// A real package, built here and installed into a root of its own.
#[test]
fn a_debian_package_is_installed_and_removed() {
    if sys::find("dpkg-deb").is_none() {
        eprintln!("SKIPPED: this machine has no dpkg-deb");
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: dpkg needs root, even for another root directory");
        return;
    }
    let build = tempfile::tempdir().unwrap();
    let tree = build.path().join("tree");
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::create_dir_all(tree.join("opt/upswarm-test")).unwrap();
    fs::write(tree.join("opt/upswarm-test/file"), b"from the package").unwrap();
    let control = "Package: upswarm-test\nVersion: 1.2-3\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n\
                   Description: a test\n";
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let deb = build.path().join("out.deb");
    let built = Command::new("dpkg-deb").arg("--build").args([&tree, &deb]).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    let bytes = fs::read(&deb).unwrap();

    let mut fixture = Fixture::new(&[("upswarm-test_1.2-3_all.deb", &bytes), ("old-to-new.patch", b"a patch")]);
    let mut payloads = fixture.release.payloads.clone().into_vec();
    let patch = Patch { base: payloads[1].id, payload: 1, encoding: text("zstd") };
    payloads[0].patches = list([patch]);
    fixture.release.payloads = list(payloads);
    fixture.release.install = Recipe::Deb { timeout_s: 60 };
    fixture.release.uninstall = Some(Recipe::RemoveDeb { packages: list([text("upswarm-test")]), timeout_s: 60 });
    let root = fixture.dir.path().join("target/root");
    fs::create_dir_all(root.join("var/lib/dpkg/info")).unwrap();
    fs::create_dir_all(root.join("var/lib/dpkg/updates")).unwrap();
    fs::write(root.join("var/lib/dpkg/status"), b"").unwrap();
    fixture.root = Some(root.clone());

    assert_eq!(fixture.run(Action::Install), InstallOutcome::Done { restart: false, code: Some(0) });
    assert_eq!(fs::read(root.join("opt/upswarm-test/file")).unwrap(), b"from the package");
    let status = fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap();
    assert!(status.contains("Package: upswarm-test\nStatus: install ok installed"), "{status}");
    assert_eq!(fixture.run(Action::Uninstall), InstallOutcome::Done { restart: false, code: Some(0) });
    assert!(!root.join("opt/upswarm-test/file").exists());

    fs::write(fixture.stored(0), b"not what was signed").unwrap();
    assert!(matches!(fixture.run(Action::Install), InstallOutcome::Retry { .. }));
    let other = Fixture::new(&[("x.rpm", b"x")]).install(Recipe::Deb { timeout_s: 60 });
    assert!(reason(&other.run(Action::Install)).contains("not named as .deb files are"));
    let broken = Fixture { root: Some(root), ..Fixture::new(&[("x.deb", b"no archive")]) };
    let outcome = broken.install(Recipe::Deb { timeout_s: 60 }).run(Action::Install);
    assert!(
        matches!(&outcome, InstallOutcome::Failed { code: Some(_), reason } if reason.contains("x.deb")),
        "{outcome:?}"
    );
}
