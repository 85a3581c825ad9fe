//! What a doctor must notice: each thing that is broken on purpose is named, with what to do, and what is whole is not.

use std::path::Path;

use super::{Finding, Findings, Grade, coordinator, node};
use crate::config::{Config, NodeDir};
use crate::coordinator::setup;

fn of(check: fn(&Path, &mut Findings), dir: &Path) -> Vec<Finding> {
    let mut findings = Findings::default();
    check(dir, &mut findings);
    findings.0
}

fn graded<'f>(findings: &'f [Finding], check: &str) -> &'f Finding {
    findings.iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("{check}: {findings:?}"))
}

#[test]
fn a_coordinator_that_lacks_something_is_told_what_to_do() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("d");
    setup::init(&data, None).unwrap();
    let found = of(coordinator::check, &data);
    assert!(found.iter().all(|finding| finding.grade == Grade::Right || !finding.todo.is_empty()), "{found:?}");
    assert_eq!(graded(&found, "root of trust").grade, Grade::Right);
    assert_eq!(graded(&found, "online key").grade, Grade::Right);
    assert_eq!(graded(&found, "offline keys").grade, Grade::Look, "demo keys");
    let process = graded(&found, "process");
    assert!(process.grade == Grade::Wrong && process.todo.contains("coordinator run"), "{process:?}");

    assert_eq!(graded(&found, "log of decisions").grade, Grade::Right);
    std::fs::write(data.join("audit.log"), "upswarm audit 1\n1 x y\n").unwrap();
    let broken = of(coordinator::check, &data);
    assert!(graded(&broken, "log of decisions").says.contains("entry 1"), "{broken:?}");
    std::fs::rename(data.join("audit.log"), data.join("audit.damaged-1")).unwrap();
    let aside = of(coordinator::check, &data);
    let log = graded(&aside, "log of decisions");
    assert!(log.grade == Grade::Wrong && log.says.contains("audit.damaged-1"), "{log:?}");
    std::fs::remove_file(data.join("audit.damaged-1")).unwrap();

    std::fs::rename(data.join("keys/online-1.key"), dir.path().join("lost")).unwrap();
    assert_eq!(graded(&of(coordinator::check, &data), "online key").grade, Grade::Wrong);
    let root = data.join("roots/1");
    let mut bytes = std::fs::read(&root).unwrap();
    if let Some(byte) = bytes.last_mut() {
        *byte ^= 1;
    }
    std::fs::write(&root, bytes).unwrap();
    let found = of(coordinator::check, &data);
    assert!(graded(&found, "root of trust").says.contains("damaged"), "{found:?}");
}

#[test]
fn a_node_that_lacks_something_is_told_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = NodeDir::new(dir.path()).config();
    let mut config = Config::default();
    config.coordinator.addresses = vec!["/ip4/192.0.2.7/tcp/4701".to_owned()];
    config.write(&file).unwrap();
    let found = of(node::check, dir.path());
    assert!(found.iter().all(|finding| finding.grade == Grade::Right || !finding.todo.is_empty()), "{found:?}");
    assert!(found.len() >= 18, "{}", found.len());
    assert_eq!(graded(&found, "identity").grade, Grade::Look);
    assert_eq!(graded(&found, "time zone").grade, Grade::Right);
    let process = graded(&found, "process");
    assert!(process.grade == Grade::Wrong && process.todo.contains("node run"), "{process:?}");
    std::fs::write(&file, "mdsn = true\n").unwrap();
    let found = of(node::check, dir.path());
    assert_eq!(graded(&found, "node.toml").grade, Grade::Wrong, "{found:?}");
}

/// Whoever owns the directory cannot have root wait for him, or show him what he may not read.
#[test]
fn hostile_settings_neither_hold_a_doctor_nor_show_anything() {
    let dir = tempfile::tempdir().unwrap();
    let file = NodeDir::new(dir.path()).config();
    let pipe = |path: &Path| {
        let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success());
    };
    pipe(&file);
    let found = of(node::check, dir.path());
    assert!(graded(&found, "node.toml").says.contains("not a regular file"), "{found:?}");

    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "# fine\nroot:$6$salt$secret:19000:0\n").unwrap();
    let says = graded(&of(node::check, dir.path()), "node.toml").says.clone();
    assert!(says.contains("line 2") && !says.contains("secret") && !says.contains("salt"), "{says}");

    std::fs::write(&file, vec![b'#'; 2 << 20]).unwrap();
    let says = graded(&of(node::check, dir.path()), "node.toml").says.clone();
    assert!(says.contains("longer than"), "{says}");

    // A link of the reader's own counts, wherever it leads.
    let elsewhere = dir.path().join("elsewhere.toml");
    let mut config = Config::default();
    config.coordinator.addresses = vec!["/ip4/192.0.2.7/tcp/4701".to_owned()];
    config.ca_file = Some(dir.path().join("pipe"));
    config.write(&elsewhere).unwrap();
    pipe(&dir.path().join("pipe"));
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("elsewhere.toml", &file).unwrap();
    let found = of(node::check, dir.path());
    assert_eq!(graded(&found, "node.toml").grade, Grade::Right, "{found:?}");
    assert!(graded(&found, "proxy").says.contains("not a regular file"), "{found:?}");

    // Another user's does not. Only root can make such a link here.
    if crate::sys::is_administrator() {
        std::os::unix::fs::lchown(&file, Some(12_345), None).unwrap();
        let found = of(node::check, dir.path());
        assert!(graded(&found, "node.toml").says.contains("symbolic link"), "{found:?}");
    }
}
