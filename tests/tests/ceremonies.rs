//! Ceremonies on a fleet that is running: the root is renewed, the online key rotated while a machine is off, an approver taken
//! away and another put in its place. Afterwards every machine installs a new release, approved by the new key far from the
//! coordinator, and what the removed keys sign counts for nothing. No machine is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde_json::Value;
use upswarm_protocol::catalog::{Action, Approval, Head, Hold, Index, Release, Root};
use upswarm_protocol::codec::{self, Bounded};
use upswarm_protocol::coordinator::CatalogRecord;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::DocHash;
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
    role["keys"]
        .as_array()
        .expect("its keys")
        .iter()
        .map(|held| held["key"].as_str().expect("a key").to_owned())
        .collect()
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
    let made = desk
        .types_elsewhere(
            &[&["root", "new-key", "approver", "--holder", "Anna Ek", "--anchor", &anchor], &there[..]].concat(),
        )
        .done();
    let newcomer = made["key"].as_str().expect("the key").to_owned();
    let removed = keys_of(&coordinator, "approver").remove(0);
    desk.root(&["add-key", "approver", &newcomer, "--holder", "Anna Ek"]);
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

/// A new key of this use beside the others, as demo keys lie there. Returns its public half.
fn new_key(coordinator: &Coordinator<'_>, role: &str, number: usize) -> String {
    let seed: [u8; 32] = rand::random();
    let public = hex::encode(SigningKey::from_bytes(&seed).verifying_key().to_bytes());
    let file = serde_json::json!({ "upswarm_key": 1, "use": role, "public": public, "secret": hex::encode(seed) });
    fs::write(coordinator.dir.join(format!("keys/{role}-{number}.key")), file.to_string()).expect("a key file");
    public
}

/// What a thief of the online key publishes: everything is stopped, under a version that no honest index will ever reach.
fn fast_forward(data: &Path, online: &SigningKey) {
    let catalog = data.join("catalog");
    let record = CatalogRecord::decode(&fs::read(&catalog).expect("the catalog")).expect("a catalog");
    let body = |bytes: &[u8], kind| {
        envelope::Envelope::parse(bytes, kind, Role::Online).expect("an envelope").unverified_body().to_vec()
    };
    let mut index: Index = codec::decode(&body(&record.index, Kind::Index), Kind::Index.cap()).expect("an index");
    let mut head: Head = codec::decode(&body(&record.head, Kind::Head), Kind::Head.cap()).expect("a head");
    index.version = 1 << 60;
    index.holds = Bounded::new(vec![Hold::Everything]).expect("one");
    let index = envelope::sign(Kind::Index, Role::Online, &index, &[online]).expect("signed");
    fs::write(data.join("doc").join(DocHash::of(&index).to_string()), &index).expect("a document");
    head.index_version = 1 << 60;
    (head.index_hash, head.index_len) = (DocHash::of(&index), index.len() as u32);
    let head = envelope::sign(Kind::Head, Role::Online, &head, &[online]).expect("signed");
    let forged = codec::encode(&CatalogRecord { head, index }, Kind::Index.cap() * 2).expect("a record");
    fs::write(catalog, forged).expect("the catalog");
}

/// Writes a request by somebody who has a key and asks nobody, signed. What it says of who asked is empty.
fn forged(
    desk: &mut Desk<'_, '_>,
    name: &str,
    release: &str,
    change: impl FnOnce(&mut Approval),
    by: &SigningKey,
) -> PathBuf {
    let request = desk.lab.dir().join(name);
    desk.types(&["approve", release, "--group", GROUP, "--export", text(&request)]).done();
    let mut file: Value = serde_json::from_slice(&fs::read(&request).expect("the request")).expect("JSON");
    let body = file["asked"]["approval"]["request"]["body"].as_str().expect("its bytes").to_owned();
    let body = hex::decode(body).expect("hex");
    let mut approval: Approval = codec::decode(&body, Kind::Approval.cap()).expect("an approval");
    change(&mut approval);
    let signed = envelope::sign(Kind::Approval, Role::Approver, &approval, &[by]).expect("signed");
    file["signed"] = hex::encode(signed).into();
    fs::write(&request, file.to_string()).expect("a file");
    request
}

/// Every key in turn is in a thief's hands, who does the worst that it lets him; the verbs bring the fleet back. Afterwards every
/// honest machine installs a new release. No machine is touched.
#[test]
fn the_recovery_drill() {
    let Some(lab) = Lab::new(&[4], Rates::default()) else { return };
    let mut coordinator = Coordinator::new(&lab);
    let token = coordinator.invite("site-1", 4);
    let mut nodes: Vec<Node<'_>> =
        lab.sites[0].hosts.iter().map(|host| Node::join(&lab, host, &token, Joining::default())).collect();
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let (first, payload) = publish(&coordinator, &lab, "1.0", 1);
    coordinator.approve(&first);
    coordinator.wait_for_installs(&nodes, &first, PATIENCE);
    assert!(nodes.iter().all(|node| node.has_installed(&payload)));

    // 1. A machine's key. Shut out, it hears of nothing more; it is not among the honest ones.
    let mut stolen = nodes.pop().expect("four machines");
    let mut desk = Desk { coordinator: &coordinator, lab: &lab, typed: 0 };
    desk.types(&["device", "revoke", &stolen.label]).done();
    desk.ends("drill: a machine's key");

    // 2. The online key, and the coordinator with it: all is stopped, at a version without end. The machines believe it.
    let online = secret(&coordinator.dir.join("keys/online-1.key"));
    coordinator.stop();
    let backup = lab.dir().join("backup");
    let copied = std::process::Command::new("cp").args(["-a", text(&coordinator.dir), text(&backup)]).status();
    assert!(copied.expect("cp").success());
    fast_forward(&coordinator.dir, &online);
    coordinator.start();
    wait::until("the machines to believe the thief", PATIENCE, || {
        let believes = |node: &&Node<'_>| {
            let verb = program::verb(&node.host.namespace, &["node", "status", "--data-dir", text(&node.dir)]);
            verb.code == 0 && verb.done()["index_version"] == 1u64 << 60
        };
        match nodes.iter().filter(believes).count() {
            3 => Ok(()),
            some => Err(format!("{some} do")),
        }
    });
    coordinator.stop();
    fs::remove_dir_all(&coordinator.dir).expect("the thief's");
    fs::rename(&backup, &coordinator.dir).expect("the backup");
    coordinator.start();
    let mut desk = Desk { coordinator: &coordinator, lab: &lab, typed: 0 };
    desk.types(&["coordinator", "standby-keys"]).done();
    desk.root(&["rotate", "online"]);
    desk.ends("drill: the online key");

    // 3. An approver's key: what was approved is declined under a version without end, and the group is said to be anybody's.
    let approver = secret(&coordinator.dir.join("keys/approver-1.key"));
    let (second, payload) = publish(&coordinator, &lab, "2.0", 2);
    let worst = |approval: &mut Approval| (approval.action, approval.version) = (Action::None, 1 << 31);
    let request = forged(&mut desk, "declined.request", &second, worst, &approver);
    desk.types(&["submit", text(&request)]).done();
    desk.typed = 0;
    let newcomer = new_key(&coordinator, "approver", 2);
    let removed = keys_of(&coordinator, "approver").remove(0);
    desk.root(&["revoke-key", &removed[..12], "--replace-with", &newcomer, "--holder", "Anna Ek"]);
    // What only that key had signed has left the catalog; the release that stands is approved anew.
    desk.types(&["approve", &first, "--group", GROUP]).done();
    desk.ends("drill: an approver's key");
    coordinator.approve(&second);
    coordinator.wait_for_installs(&nodes, &second, PATIENCE);
    assert!(nodes.iter().all(|node| node.has_installed(&payload)));

    // 4. A publisher's key: a release of everybody's product with a counter without end, which the thief cannot approve.
    let publisher = secret(&coordinator.dir.join("keys/publisher-1.key"));
    let request = lab.dir().join("planted.request");
    let planted = random_file(&lab.dir().join("planted"), PAYLOAD, 66);
    let release = lab.dir().join("release-2.0.toml");
    let changed = fs::read_to_string(&release).expect("the release file").replace(text(&payload), text(&planted));
    let changed = changed.replace("version = \"2.0\"", "version = \"66.0\"");
    let planted_file = lab.dir().join("release-66.0.toml");
    fs::write(&planted_file, changed).expect("a release file");
    desk.types(&["publish", text(&planted_file), "--export", text(&request)]).done();
    let mut file: Value = serde_json::from_slice(&fs::read(&request).expect("the request")).expect("JSON");
    let body = hex::decode(file["asked"]["release"].as_str().expect("its bytes")).expect("hex");
    let mut release: Release = codec::decode(&body, Kind::Release.cap()).expect("a release");
    release.counter = u64::MAX;
    let signed = envelope::sign(Kind::Release, Role::Publisher, &release, &[&publisher]).expect("signed");
    file["signed"] = hex::encode(signed).into();
    fs::write(&request, file.to_string()).expect("a file");
    desk.types(&["submit", text(&request)]).done();
    desk.typed = 0;
    let newcomer = new_key(&coordinator, "publisher", 2);
    let removed = keys_of(&coordinator, "publisher").remove(0);
    desk.root(&["revoke-key", &removed[..12], "--replace-with", &newcomer, "--holder", "Dora Li"]);
    desk.ends("drill: a publisher's key");

    // 5. A root key. The one of a threshold of one would be the deployment itself: first two holders must sign. Then it is stolen,
    // signs a root alone that makes the thief approver, and that is worth nothing; another takes its place.
    let newcomer = new_key(&coordinator, "root", 2);
    desk.root(&["add-key", "root", &newcomer, "--holder", "Ben Oh"]);
    desk.root(&["threshold", "root", "2"]);
    desk.ends("two holders of the root");
    let thief = secret(&coordinator.dir.join("keys/root-1.key"));
    let request = lab.dir().join("usurped.request");
    desk.types(&["root", "renew", "--for", "900d", "--export", text(&request)]).done();
    let mut file: Value = serde_json::from_slice(&fs::read(&request).expect("the request")).expect("JSON");
    let body = hex::decode(file["asked"]["root"].as_str().expect("its bytes")).expect("hex");
    let mut root: Root = codec::decode(&body, Kind::Root.cap()).expect("a root");
    root.approvers.keys = root.root.keys.clone();
    root.root = root.online.clone();
    let usurped = envelope::sign(Kind::Root, Role::Root, &root, &[&thief, &online]).expect("signed");
    file["signed"] = hex::encode(usurped).into();
    fs::write(&request, file.to_string()).expect("a file");
    let said = desk.types(&["submit", text(&request)]).refused(3);
    assert!(said.contains("valid signatures by distinct holders"), "{said}");
    desk.typed = 0;
    let removed = hex::encode(thief.verifying_key().to_bytes());
    fs::rename(coordinator.dir.join("keys/root-1.key"), coordinator.dir.join("keys/root-3.key")).expect("a key file");
    let newcomer = new_key(&coordinator, "root", 1);
    desk.root(&["revoke-key", &removed[..12], "--replace-with", &newcomer, "--holder", "Carla Pe"]);
    desk.ends("drill: a root key");

    // Every honest machine installs what the new keys publish and approve.
    let (last, payload) = publish(&coordinator, &lab, "3.0", 3);
    coordinator.approve(&last);
    let status = coordinator.wait_for_installs(&nodes, &last, PATIENCE);
    assert!(nodes.iter().all(|node| node.has_installed(&payload)), "{status:?}");
    assert!(!stolen.has_installed(&payload), "the machine that was shut out");
    let (online, approvers) = (keys_of(&coordinator, "online"), keys_of(&coordinator, "approver"));
    assert_eq!((online.len(), approvers.len(), keys_of(&coordinator, "root").len()), (1, 1, 2));
    stolen.stop();
}
