//! Whatever was changed on the way is not installed, and the status says why.
//!
//! Expiry of heads needs another clock than the machine's; the trust tests of `upswarm-protocol` move it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use upswarm_tests::fleet::{Coordinator, Joining, Node, join_all, random_file, text};
use upswarm_tests::lab::{Lab, Rates, WAN_ADDRESS};
use upswarm_tests::program;
use upswarm_tests::wait;

const PATIENCE: Duration = Duration::from_secs(90);

/// Changes one bit in the middle of a file.
fn tamper(path: &Path) {
    let mut bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_tampered_payload_is_installed_nowhere_and_a_mended_one_everywhere() {
    let Some(lab) = Lab::new(&[3], Rates::default()) else { return };
    let payload = random_file(&lab.dir().join("payload"), 16 << 20, 21);
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let published = coordinator.publish("1.0", &payload);
    let served = coordinator.dir.join("payload").join(&published.payloads[0].id);
    tamper(&served);
    coordinator.approve(&published.release);
    let status = wait::until("every machine to be stalled and one to say why", PATIENCE, || {
        let status = coordinator.status();
        let stands: Vec<_> =
            nodes.iter().filter_map(|node| status.deployment(&node.label, &published.release)).collect();
        let stalled = stands.len() == nodes.len() && stands.iter().all(|stand| stand.state == "Stalled");
        let said = stands.iter().any(|stand| stand.reason.contains("other bytes than the release names"));
        if stalled && said { Ok(status) } else { Err(format!("{stands:?}")) }
    });
    let alarms: Vec<&String> = status.devices.iter().flat_map(|device| &device.alarms).collect();
    assert!(alarms.iter().any(|alarm| alarm.contains("other bytes")), "{alarms:?}");
    assert!(nodes.iter().all(|node| !node.installed().exists()), "nothing is installed");
    // The good chunks were kept and shared; only the bad one is missing.
    let missing: Vec<u64> = nodes
        .iter()
        .filter_map(|node| status.deployment(&node.label, &published.release))
        .map(|stand| stand.total - stand.done)
        .collect();
    assert!(missing.iter().all(|missing| *missing > 0), "{missing:?}");
    tamper(&served);
    coordinator.wait_for_installs(&nodes, &published.release, PATIENCE);
    assert!(nodes.iter().all(|node| node.has_installed(&payload)));
}

#[test]
fn a_tampered_document_changes_nothing_and_raises_an_alarm() {
    let Some(lab) = Lab::new(&[2], Rates::default()) else { return };
    let payload = random_file(&lab.dir().join("payload"), 1 << 20, 22);
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    let published = coordinator.publish("1.0", &payload);
    coordinator.approve(&published.release);
    // Every document but the index, as an intruder on the coordinator's disk can change them.
    for entry in fs::read_dir(coordinator.dir.join("doc")).unwrap() {
        tamper(&entry.unwrap().path());
    }
    nodes.iter_mut().for_each(Node::start);
    let alarms = wait::until("an alarm in the status", PATIENCE, || {
        let status = coordinator.status();
        let alarms: Vec<String> = status.devices.iter().flat_map(|device| device.alarms.clone()).collect();
        if alarms.is_empty() { Err(format!("{status:?}")) } else { Ok(alarms) }
    });
    assert!(alarms.iter().any(|alarm| alarm.contains("tampered")), "{alarms:?}");
    assert!(nodes.iter().all(|node| !node.installed().exists()), "nothing is installed");
    assert!(nodes.iter_mut().all(|node| {
        node.process().must_run();
        true
    }));
}

#[test]
fn an_approval_without_the_approvers_key_is_refused() {
    let Some(lab) = Lab::new(&[1], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let wanted = random_file(&lab.dir().join("wanted"), 1 << 20, 23);
    let (wanted, unwanted) = (
        (coordinator.publish("1.0", &wanted), wanted),
        coordinator.publish("2.0", &random_file(&lab.dir().join("unwanted"), (1 << 20) + 1, 24)),
    );
    // Keys of the right form, of another deployment.
    let other = lab.dir().join("other");
    program::verb(&lab.wan, &["coordinator", "init", "--demo-keys", "--data-dir", text(&other)]).done();
    let keys = other.join("keys");
    let args = ["approve", &unwanted.release, "--group", "office", "--keys-dir", text(&keys)];
    let reason = coordinator.verb(&args).refused(3);
    assert!(reason.contains("signature") || reason.contains("key"), "{reason}");
    // And without any verb: no credential, and a credential with rubbish.
    let token = fs::read_to_string(coordinator.dir.join("admin.token")).unwrap();
    let door = || UnixStream::connect(coordinator.dir.join("admin.sock")).unwrap();
    assert_eq!(post(door(), "/admin/v1/approval", "", b"rubbish"), 401);
    assert_eq!(post(door(), "/admin/v1/approval", "guess", b"rubbish"), 401);
    assert_eq!(post(door(), "/admin/v1/approval", token.trim(), b"rubbish"), 422);
    // The origin's door leads nowhere near it.
    let origin = lab.wan.run(|| TcpStream::connect((WAN_ADDRESS, 4702))).unwrap();
    assert_eq!(post(origin, "/admin/v1/approval", token.trim(), b"rubbish"), 404);

    coordinator.approve(&wanted.0.release);
    let status = coordinator.wait_for_installs(&nodes, &wanted.0.release, PATIENCE);
    assert!(nodes[0].has_installed(&wanted.1));
    assert!(status.deployment(&nodes[0].label, &unwanted.release).is_none(), "{status:?}");
}

/// The status of the coordinator's answer to a POST.
fn post(mut stream: impl Read + Write, path: &str, token: &str, body: &[u8]) -> u16 {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"))
}
