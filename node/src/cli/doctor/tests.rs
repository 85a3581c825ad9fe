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
