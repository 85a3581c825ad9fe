//! Ceremonies on a fleet that is running: the root is renewed, the online key rotated while a machine is off, an approver taken
//! away and another put in its place. Afterwards every machine installs a new release, approved by the new key far from the
//! coordinator, and what the removed keys sign counts for nothing. No machine is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde_json::Value;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_tests::fleet::{Coordinator, GROUP, Joining, Node, random_file, text};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::program::{self, Verb};
use upswarm_tests::wait;

const PATIENCE: Duration = Duration::from_secs(120);
const PAYLOAD: u64 = 1 << 20;

/// The admin, and the number of commands that a ceremony took.
struct Desk<'a, 'lab> {
    coordinator: &'a Coordinator<'lab>,
    lab: &'lab Lab,
    typed: usize,
}

impl Desk<'_, '_> {
    /// Types a command at the coordinator.
    fn types(&mut self, args: &[&str]) -> Verb {
        self.typed += 1;
        self.coordinator.verb(args)
    }

    /// Types a command that needs no coordinator, in the namespace of a machine that has none: the first of the site.
    fn types_elsewhere(&mut self, args: &[&str]) -> Verb {
        self.typed += 1;
        program::verb(&self.lab.sites[0].hosts[0].namespace, args)
    }

    fn root(&mut self, args: &[&str]) -> Value {
        self.types(&[&["root"], args, &["--yes"]].concat()).done()
    }

    /// What a ceremony took, for the table.
    fn ends(&mut self, ceremony: &str) {
        println!("LAB {}", serde_json::json!({ "test": "ceremony", "ceremony": ceremony, "commands": self.typed }));
        self.typed = 0;
    }
}

/// The keys of a role, as `root show` tells.
fn keys_of(coordinator: &Coordinator<'_>, role: &str) -> Vec<String> {
    let shown = coordinator.verb(&["root", "show"]).done();
    assert_eq!(shown["verified"], true, "{shown}");
    let roles = shown["roles"].as_array().expect("its roles");
    let role = roles.iter().find(|known| known["role"] == role).expect("the role");
    role["keys"].as_array().expect("its keys").iter().map(|key| key.as_str().expect("a key").to_owned()).collect()
}

/// The signing key in a demo key file.
fn secret(path: &Path) -> SigningKey {
    let file: Value = serde_json::from_slice(&fs::read(path).expect("a key file")).expect("a key file");
    let bytes = hex::decode(file["secret"].as_str().expect("a demo key")).expect("hex");
    SigningKey::from_bytes(bytes.as_slice().try_into().expect("32 bytes"))
}

/// A release of one payload that differs from the others.
fn publish(coordinator: &Coordinator<'_>, lab: &Lab, version: &str, seed: u64) -> (String, PathBuf) {
    let payload = random_file(&lab.dir().join(format!("payload-{version}")), PAYLOAD, seed);
    (coordinator.publish(version, &payload).release, payload)
}

#[test]
fn roots_and_keys_change_under_a_running_fleet() {
    let Some(lab) = Lab::new(&[8], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    // The last machine joins at the very end, with the token of the first day.
    let token = coordinator.invite("site-1", 8);
    let hosts = &lab.sites[0].hosts;
    let mut nodes: Vec<Node<'_>> =
        hosts[..7].iter().map(|host| Node::join(&lab, host, &token, Joining::default())).collect();
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let (first, payload) = publish(&coordinator, &lab, "1.0", 1);
    coordinator.approve(&first);
    coordinator.wait_for_installs(&nodes, &first, PATIENCE);
    assert!(nodes.iter().all(|node| node.has_installed(&payload)));

    let mut desk = Desk { coordinator: &coordinator, lab: &lab, typed: 0 };
    let renewed = desk.root(&["renew", "--for", "800d"]);
    assert_eq!(renewed["version"], 2, "{renewed}");
    desk.ends("renew the root");
    // It reaches everybody: an approval under it is acted on.
    let (second, payload) = publish(&coordinator, &lab, "2.0", 2);
    coordinator.approve(&second);
    coordinator.wait_for_installs(&nodes, &second, PATIENCE);
    assert!(nodes.iter().all(|node| node.has_installed(&payload)));

    // One machine is off during all that follows.
    nodes[6].stop();
    let old_online = secret(&coordinator.dir.join("keys/online-1.key"));
    let old_head = fs::read(coordinator.dir.join("catalog")).expect("the catalog");
    desk.types(&["coordinator", "standby-keys"]).done();
    desk.root(&["rotate", "online"]);
    desk.ends("rotate the online key");
    let online = keys_of(&coordinator, "online");
    assert!(!online.contains(&hex::encode(old_online.verifying_key().to_bytes())), "{online:?}");
    assert_ne!(fs::read(coordinator.dir.join("catalog")).expect("the catalog"), old_head);

    let stick = lab.dir().join("stick");
    let passphrase = lab.dir().join("passphrase");
    fs::write(&passphrase, "a passphrase of the test\n").expect("a file");
    let there = ["--keys-dir", text(&stick), "--passphrase-file", text(&passphrase)];
    let anchor = coordinator.verb(&["root", "show"]).done()["root"].as_str().expect("its hash").to_owned();
    let made =
        desk.types_elsewhere(&[&["root", "new-key", "approver", "--anchor", &anchor], &there[..]].concat()).done();
    let newcomer = made["key"].as_str().expect("the key").to_owned();
    let removed = keys_of(&coordinator, "approver").remove(0);
    desk.root(&["add-key", "approver", &newcomer]);
    desk.root(&["revoke-key", &removed[..12]]);
    desk.ends("put an approver in the place of another");
    assert_eq!(keys_of(&coordinator, "approver"), [newcomer]);
    // The coordinator goes on from its disk under the fifth root.
    let shown = coordinator.verb(&["root", "show"]).done();
    assert_eq!(shown["version"], 5, "{shown}");

    // The removed key signs nothing more: not by the verb, and not by hand.
    let (third, payload) = publish(&coordinator, &lab, "3.0", 3);
    let said = coordinator.verb(&["approve", &third, "--group", GROUP]).refused(3);
    assert!(said.contains("may sign this"), "{said}");
    let request = lab.dir().join("third.request");
    desk.types(&["approve", &third, "--group", GROUP, "--export", text(&request)]).done();
    let mut forged: Value = serde_json::from_slice(&fs::read(&request).expect("the request")).expect("JSON");
    let body = forged["asked"]["approval"]["request"]["body"].as_str().expect("its bytes").to_owned();
    let old_approver = secret(&coordinator.dir.join("keys/approver-1.key"));
    let body = hex::decode(body).expect("hex");
    let by_the_old = envelope::sign_body(Kind::Approval, Role::Approver, &body, &[&old_approver]).expect("signed");
    forged["signed"] = hex::encode(by_the_old).into();
    let forgery = lab.dir().join("forged.request.signed");
    fs::write(&forgery, forged.to_string()).expect("a file");
    let said = coordinator.verb(&["submit", text(&forgery)]).refused(3);
    assert!(said.contains("0 valid signatures"), "{said}");

    // Signed by the new key where there is neither coordinator nor data directory, and handed in.
    let signed = desk.types_elsewhere(&[&["sign", text(&request), "--yes"], &there[..]].concat()).done();
    let says = signed["says"].as_str().expect("what the bytes say");
    assert!(says.contains("org.example.lab 3.0") && says.contains("SHA-256"), "{says}");
    desk.types(&["submit", &format!("{}.signed", text(&request))]).done();
    desk.ends("approve away from the coordinator");

    // The machine that was off comes back with a certificate by the removed key; a new one comes with the old token.
    nodes[6].start();
    let mut last = Node::join(&lab, &hosts[7], &token, Joining::default());
    last.start();
    nodes.push(last);
    let status = coordinator.wait_for_installs(&nodes, &third, PATIENCE);
    assert!(nodes.iter().all(|node| node.has_installed(&payload)));
    wait::until("every machine to hold a certificate by the new key", PATIENCE, || {
        let old = hex::encode(old_online.verifying_key().to_bytes());
        let devices = fs::read_dir(coordinator.dir.join("devices")).expect("the ledger").flatten();
        let with_old = devices.filter(|entry| {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            hex::encode(bytes).contains(&old)
        });
        match with_old.count() {
            0 => Ok(()),
            several => Err(format!("{several} do not")),
        }
    });
    let forks: Vec<&String> = status
        .devices
        .iter()
        .flat_map(|device| &device.alarms)
        .filter(|alarm| alarm.contains("two different") || alarm.contains("not good"))
        .collect();
    assert!(forks.is_empty(), "{forks:?}");
}
