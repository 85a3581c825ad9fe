use super::bench::{APPROVER, Bench, START, device, hello, key, opens, relay, rule, sent, signed_group, stored_fleet};
use super::*;
use crate::catalog::{Action, Approval, Assignment, DeviceList, Members, PackageKind};
use crate::codec::{Bounded, Text};
use crate::envelope::{self, Role};
use crate::evaluate::ScanState;
use crate::inventory::{self, Conditions, Inventory, InventoryDelta, PackageKey};
use crate::report::{DeviceMessage, InventoryReport, MAX_SCAN_PART, ScanReport};
use crate::time::Wall;

const OFFICE: GroupId = GroupId([1; 16]);
const SERVERS: GroupId = GroupId([5; 16]);

fn inventory(os: &str, packages: &[(&str, &str)]) -> Inventory {
    let mut inventory = Inventory::default();
    inventory.set_fact(Text::lossy("os.id"), Some(Text::lossy(os))).unwrap();
    for (name, version) in packages {
        let key = PackageKey { kind: PackageKind::Deb, name: Text::lossy(name), arch: Text::lossy("amd64") };
        inventory.insert(key, Text::lossy(version)).unwrap();
    }
    inventory
}

fn conditions(texts: &[&str]) -> Conditions {
    Conditions::parse(texts).unwrap()
}

impl Bench {
    fn described(&mut self, group: GroupId, version: u64, members: Members) -> Result<Done, Refusal> {
        self.done(Command::Group { document: signed_group(group, version, members, APPROVER), list: None })
    }

    /// A device tells something; returns the outputs, and the inventory that the acknowledgement names, if one came.
    fn told(&mut self, seed: u8, message: DeviceMessage) -> Vec<Output> {
        let seq = message.seq();
        let bytes = envelope::sign(Kind::Report, Role::Device, &message, &[&key(seed)]).unwrap();
        let outputs = self.frame(device(seed), &relay(seed, seq));
        let open = opens(&outputs)[0];
        self.input(Input::ReportOpened { open, bytes: Some(bytes) })
    }

    fn told_parts(&mut self, seed: u8, delta: &InventoryDelta, seqs: impl IntoIterator<Item = u64>) -> Vec<Output> {
        let mut outputs = Vec::new();
        for (part, seq) in delta.parts().unwrap().into_iter().zip(seqs) {
            let report = InventoryReport { device: device(seed), seq, issued: self.now.wall, part };
            outputs.extend(self.told(seed, DeviceMessage::Inventory(Box::new(report))));
        }
        outputs
    }

    fn groups(&self, seed: u8) -> Vec<GroupId> {
        let record = self.state.devices().find(|record| record.device == device(seed)).unwrap();
        record.groups.to_vec()
    }
}

fn held(outputs: &[Output], seed: u8) -> Vec<DocHash> {
    let of = |message: Message| match message {
        Message::RelayAck { held, .. } => Some(held),
        _ => None,
    };
    sent(outputs, device(seed)).into_iter().filter_map(of).collect()
}

fn renewed(outputs: &[Output], seed: u8) -> Vec<Vec<GroupId>> {
    let of = |message: Message| match message {
        Message::Assignment(bytes) => {
            let envelope = envelope::Envelope::parse(&bytes, Kind::Assignment, Role::Online).unwrap();
            let read: Assignment = crate::codec::decode(envelope.unverified_body(), Kind::Assignment.cap()).unwrap();
            Some(read.groups.to_vec())
        }
        _ => None,
    };
    sent(outputs, device(seed)).into_iter().filter_map(of).collect()
}

#[test]
fn an_inventory_is_acknowledged_when_it_is_durable_and_survives_a_restart() {
    let mut bench = Bench::new();
    let certificate = bench.member(20);
    let many: Vec<(String, String)> =
        (0..900).map(|n| (format!("package-{n}-{}", n * 7919), format!("{n}.1"))).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
    let first = inventory("debian", &many);
    let full = InventoryDelta::full(&first);
    let count = full.parts().unwrap().len() as u64;
    assert!(count > 3, "{count}");
    // From last to first: the order does not matter.
    let outputs = bench.told_parts(20, &full, (1..=count).rev());
    assert_eq!(held(&outputs, 20), vec![DocHash::default(); count as usize - 1], "taken, and nothing is held yet");
    assert_eq!(held(&bench.sync(), 20), [first.digest()]);
    assert_eq!(bench.state.inventory(&device(20)).unwrap().inventory.to_inventory(), first);

    let mut second = first.clone();
    second.pending_restart = true;
    let step = InventoryDelta::between(&first, &second);
    bench.told_parts(20, &step, [40]);
    assert_eq!(held(&bench.sync(), 20), [second.digest()]);
    let back = InventoryDelta::between(&second, &first);
    bench.told_parts(20, &back, [41]);
    assert_eq!(held(&bench.sync(), 20), [first.digest()]);
    // An old difference that somebody kept fits again, and does nothing.
    assert_eq!(held(&bench.told_parts(20, &step, [40]), 20), [first.digest()]);
    // One that starts elsewhere does nothing, and the acknowledgement says from where to start.
    let elsewhere = InventoryDelta::between(&second, &inventory("x", &[]));
    assert_eq!(held(&bench.told_parts(20, &elsewhere, [42]), 20), [first.digest()]);

    let now = bench.now;
    let mut again = Bench::restart(bench.durable.clone(), now);
    again.sync();
    again.input(Input::PeerUp { peer: device(20) });
    again.frame(device(20), &hello(certificate.clone()));
    assert_eq!(again.state.inventory(&device(20)).unwrap().inventory.to_inventory(), first);
    assert_eq!(held(&again.told_parts(20, &step, [40]), 20), [first.digest()], "the number is remembered too");

    // A damaged record is as none.
    let mut damaged = bench.durable.clone();
    for record in &mut damaged {
        if let Record::Inventory(_, bytes) = record {
            bytes.truncate(bytes.len() / 2);
        }
    }
    let mut again = Bench::restart(damaged, now);
    again.sync();
    again.input(Input::PeerUp { peer: device(20) });
    again.frame(device(20), &hello(certificate));
    assert_eq!(held(&again.told_parts(20, &step, [43]), 20), [DocHash::default()]);
    assert!(again.state.inventory(&device(20)).is_none());
}

#[test]
fn scans_are_taken_as_a_whole_and_tell_of_releases_that_are_not_named() {
    let mut bench = Bench::new();
    bench.member(20);
    let release = |number: u32| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        ReleaseId(id)
    };
    let report = |seq: u64, issued: u64, part: u8, first: u32, state: ScanState| ScanReport {
        device: device(20),
        seq,
        issued: Wall(issued),
        index_version: 3,
        counts: [0, 7, MAX_SCAN_PART as u32, 5],
        part,
        parts: 2,
        states: Bounded::truncated(
            (first..first + if part == 0 { MAX_SCAN_PART as u32 } else { 5 }).map(|n| (release(n), state)).collect(),
        ),
    };
    let told = |report: ScanReport| DeviceMessage::Scan(Box::new(report));
    let outputs = bench.told(20, told(report(6, 100, 1, 500, ScanState::Installed)));
    assert!(held(&outputs, 20).is_empty(), "half a scan is not acknowledged: it is sent again");
    bench.told(20, told(report(5, 100, 0, 0, ScanState::Required)));
    assert_eq!(held(&bench.sync(), 20).len(), 2);
    let scan = bench.state.scan(&device(20)).unwrap();
    assert_eq!(scan.states.len(), MAX_SCAN_PART + 5);
    let all = MAX_SCAN_PART + 5 + 7;
    assert_eq!(scan.state(&release(3), all), Some(ScanState::Required));
    assert_eq!(scan.state(&release(501), all), Some(ScanState::Installed));
    assert_eq!(scan.state(&release(900), all), Some(ScanState::NotApplicable));
    assert_eq!(scan.state(&release(900), all + 1), None, "it has not looked at a release that has come since");
    // An earlier one comes late.
    bench.told(20, told(report(3, 90, 0, 0, ScanState::Unknown)));
    bench.told(20, told(report(4, 90, 1, 500, ScanState::Unknown)));
    bench.sync();
    assert_eq!(bench.state.scan(&device(20)).unwrap().issued, Wall(100));
    let again = Bench::restart(bench.durable.clone(), bench.now);
    assert_eq!(again.state.scan(&device(20)), bench.state.scan(&device(20)));
}

#[test]
fn members_of_a_dynamic_group_follow_their_inventories() {
    let mut bench = Bench::new();
    bench.member(20);
    let refused = bench.described(OFFICE, 1, rule(&["os.id=debian"]));
    assert!(refused.unwrap_err().to_string().contains("by hand"));
    bench.described(SERVERS, 1, rule(&["package:nginx>=1.20"])).unwrap();
    let old = inventory("debian", &[("nginx", "1.18")]);
    let new = inventory("debian", &[("nginx", "1.22")]);
    bench.told_parts(20, &InventoryDelta::full(&old), [1]);
    bench.sync();
    assert_eq!(bench.groups(20), [OFFICE]);
    bench.told_parts(20, &InventoryDelta::between(&old, &new), [2]);
    assert_eq!(renewed(&bench.sync(), 20), [vec![OFFICE, SERVERS]], "a new certificate, at once");

    // It survives a restart; a device that comes anew with a token is in it again.
    let mut bench = Bench::restart(bench.durable.clone(), bench.now);
    bench.sync();
    bench.later(Duration::ZERO);
    bench.sync();
    assert_eq!(bench.groups(20), [OFFICE, SERVERS]);
    assert_eq!(bench.state.fulfilling(&conditions(&["package:nginx<1.30"])).len(), 1);
    bench.member(20);
    assert_eq!(bench.groups(20), [OFFICE, SERVERS]);
    // An admin's assignment neither takes it out nor in.
    bench.done(Command::Assign { device: device(20), groups: Bounded::default() }).unwrap();
    assert_eq!(bench.groups(20), [SERVERS]);

    bench.described(SERVERS, 2, rule(&["package:nginx>=2"])).unwrap();
    bench.later(Duration::ZERO);
    assert_eq!(renewed(&bench.sync(), 20), [vec![]]);
    // Devices that have told nothing stay where they are.
    bench.member(21);
    bench.later(Duration::ZERO);
    bench.sync();
    assert_eq!(bench.groups(21), [OFFICE]);
}

#[test]
fn a_group_is_what_approvers_signed_and_nothing_else() {
    let mut bench = Bench::new();
    let told = |bench: &mut Bench, document, list| bench.done(Command::Group { document, list });
    // Neither the coordinator nor a publisher says what a group is; nothing older comes back; a rule must be one.
    for signer in [4, 2, 99] {
        let refused = told(&mut bench, signed_group(SERVERS, 1, rule(&["os.id=x"]), signer), None).unwrap_err();
        assert!(matches!(refused, Refusal::Document(_)), "{signer}: {refused}");
    }
    assert!(bench.described(SERVERS, 1, rule(&["moon"])).is_ok(), "a fact by that name may come to be");
    let unreadable = bench.described(SERVERS, 2, rule(&["package:a>"])).unwrap_err().to_string();
    assert!(unreadable.contains("package:a>"), "{unreadable}");
    bench.described(SERVERS, 2, rule(&["os.id=debian"])).unwrap();
    assert!(matches!(bench.described(SERVERS, 1, Members::Listed), Err(Refusal::NotNewer { given: 1, known: 2, .. })));
    let version = bench.state.index_version();
    assert_eq!(bench.described(SERVERS, 2, rule(&["os.id=debian"])).unwrap().index_version, version, "the same again");
    // An approval for a version that is not there yet, and a removal where the coordinator alone names the members.
    let release = bench.published(1);
    let of = |group, group_version, action| {
        let approval = Approval { group_version, action, ..super::bench::plain_approval(group, START, release, 1) };
        envelope::sign(Kind::Approval, Role::Approver, &approval, &[&key(APPROVER)]).unwrap()
    };
    for (bytes, cause) in
        [(of(SERVERS, 3, Action::Install), "version 3"), (of(OFFICE, 0, Action::Uninstall), "group sign")]
    {
        let refused = bench.done(Command::Approve(bytes)).unwrap_err().to_string();
        assert!(refused.contains(cause), "{refused}");
    }
    bench.done(Command::Approve(of(SERVERS, 2, Action::Uninstall))).unwrap();
    let again = Bench::restart(bench.durable.clone(), bench.now);
    assert_eq!(again.state.group_document(&SERVERS).unwrap().version, 2);
    assert_eq!(again.state.dynamic_groups().len(), 1);
}

#[test]
fn the_members_of_a_list_are_told_their_ways_and_nobody_else_is_a_member() {
    let mut bench = Bench::new();
    for seed in [20, 21, 22] {
        bench.member(seed);
    }
    bench.sync();
    let list = |seeds: &[u8]| DeviceList::new([4; 32], seeds.iter().map(|seed| device(*seed))).unwrap();
    let describe = |bench: &mut Bench, version, list: DeviceList, shown: DeviceList| {
        let members = Members::List(shown.tree().root());
        let document = signed_group(SERVERS, version, members, APPROVER);
        bench.done(Command::Group { document, list: Some(list) })
    };
    let other = describe(&mut bench, 1, list(&[20, 22]), list(&[20, 21])).unwrap_err().to_string();
    assert!(other.contains("not the one that was signed"), "{other}");
    describe(&mut bench, 1, list(&[20, 21]), list(&[20, 21])).unwrap();
    bench.later(Duration::ZERO);
    bench.sync();
    let assigned = |bench: &Bench, seed: u8| -> Assignment {
        let record = bench.state.devices().find(|record| record.device == device(seed)).unwrap();
        let envelope = envelope::Envelope::parse(&record.assignment, Kind::Assignment, Role::Online).unwrap();
        crate::codec::decode(envelope.unverified_body(), Kind::Assignment.cap()).unwrap()
    };
    let shows = |bench: &Bench, seed: u8, shown: &DeviceList| {
        let assigned = assigned(bench, seed);
        let root = shown.tree().root();
        assigned.groups.contains(&SERVERS) && assigned.ways.iter().any(|way| root.holds(&device(seed), way))
    };
    let first = list(&[20, 21]);
    assert_eq!([20, 21, 22].map(|seed| shows(&bench, seed, &first)), [true, true, false]);
    // By hand nobody comes in.
    bench.done(Command::Assign { device: device(22), groups: Bounded::truncated(vec![SERVERS]) }).unwrap();
    assert!(!assigned(&bench, 22).groups.contains(&SERVERS));
    // Another list: who stays is told the new way, although the groups are the same. Over a restart too.
    describe(&mut bench, 2, list(&[21, 22]), list(&[21, 22])).unwrap();
    let mut bench = Bench::restart(bench.durable.clone(), bench.now);
    bench.sync();
    bench.later(Duration::ZERO);
    bench.sync();
    let second = list(&[21, 22]);
    assert_eq!([20, 21, 22].map(|seed| shows(&bench, seed, &second)), [false, true, true]);
    // The power goes between the list and the index that names its document: the old one counts on.
    let members = Members::List(list(&[20]).tree().root());
    let before = bench.durable.len();
    bench
        .done(Command::Group { document: signed_group(SERVERS, 3, members, APPROVER), list: Some(list(&[20])) })
        .unwrap();
    let after = bench.durable[before..].iter().position(|record| matches!(record, Record::Catalog(_))).unwrap();
    let cut = bench.durable[..before + after].to_vec();
    let again = Bench::restart(cut, bench.now);
    assert_eq!(again.state.listed_groups().map(|(_, list)| list.clone()).collect::<Vec<_>>(), [second]);
}

#[test]
fn new_conditions_reach_a_large_fleet_step_by_step() {
    let mut stored = stored_fleet(2_000, OFFICE);
    let mut inventories = super::inventories::Inventories::default();
    assert!(inventories.restore(DeviceId([9; 32]), b"not a record").is_none());
    // As a device would leave it on disk: told once, by a fleet of the same machine.
    let mut bench = Bench::new();
    bench.member(20);
    bench.told_parts(20, &InventoryDelta::full(&inventory("debian", &[("nginx", "1.22")])), [1]);
    bench.sync();
    let record = bench.durable.iter().find_map(|record| match record {
        Record::Inventory(_, bytes) => Some(bytes.clone()),
        _ => None,
    });
    let record = record.unwrap();
    stored.inventories = stored.devices.iter().map(|known| (known.device, record.clone())).collect();
    let mut bench = Bench::with(stored, Now { mono: Mono(0), wall: START });
    bench.sync();
    bench.described(SERVERS, 1, rule(&["os.id=debian"])).unwrap();
    let members = |bench: &Bench| bench.state.devices().filter(|record| record.groups.contains(&SERVERS)).count();
    let mut steps = 0;
    while members(&bench) < 2_000 {
        let before = members(&bench);
        bench.later(Duration::from_millis(20));
        bench.sync();
        assert!(members(&bench) - before <= 64 && steps < 40, "step {steps}: {before}");
        steps += 1;
    }
    assert_eq!(steps, 32);
    assert!(bench.state.poll_timeout().is_none_or(|(_, reason)| reason != Reason::GroupsDue));
    assert_ne!(inventory::empty(), DocHash::default());
}

/// Machines that are alike cost the disk what differs; each survives a restart, whatever happens to a record.
#[test]
fn alike_inventories_are_stored_over_one_base() {
    let mut bench = Bench::new();
    let image: Vec<(String, String)> = (0..900).map(|n| (format!("package-{n}"), "1.0".to_owned())).collect();
    let of = |own: u8| {
        let packages: Vec<(&str, &str)> =
            image.iter().skip(own.into()).map(|(name, version)| (name.as_str(), version.as_str())).collect();
        inventory("debian", &packages)
    };
    let mut certificates = Vec::new();
    for seed in 20..26 {
        certificates.push(bench.member(seed));
        let full = InventoryDelta::full(&of(seed));
        let count = full.parts().unwrap().len() as u64;
        bench.told_parts(seed, &full, 1..=count);
        bench.sync();
    }
    let sizes = |bench: &Bench| -> (Vec<usize>, Vec<usize>) {
        let of = |record: &Record| match record {
            Record::InventoryBase(_, bytes) => (Some(bytes.len()), None),
            Record::Inventory(_, bytes) => (None, Some(bytes.len())),
            _ => (None, None),
        };
        let (bases, own): (Vec<_>, Vec<_>) = bench.durable.iter().map(of).unzip();
        (bases.into_iter().flatten().collect(), own.into_iter().flatten().collect())
    };
    let (bases, own) = sizes(&bench);
    assert_eq!((bases.len(), own.len()), (1, 6));
    assert!(bases[0] > 5_000 && own.iter().all(|bytes| *bytes < 500), "{bases:?} {own:?}");
    let again = Bench::restart(bench.durable.clone(), bench.now);
    for seed in 20..26 {
        let held = again.state.inventory(&device(seed)).unwrap();
        assert_eq!((held.inventory.to_inventory(), held.digest), (of(seed), of(seed).digest()));
    }
    // A bit that has turned is found, in the base as in a record.
    for (is_base, left) in [(true, 0), (false, 5)] {
        let mut damaged = bench.durable.clone();
        let found = damaged.iter_mut().find_map(|record| match record {
            Record::InventoryBase(_, bytes) if is_base => Some(bytes),
            Record::Inventory(_, bytes) if !is_base => Some(bytes),
            _ => None,
        });
        let bytes = found.unwrap();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        let again = Bench::restart(damaged, bench.now);
        let held = (20..26).filter(|seed| again.state.inventory(&device(*seed)).is_some()).count();
        assert_eq!(held, left, "a base: {is_base}");
    }
    // When nobody has the base any more, it goes from the disk.
    for (seed, certificate) in (20..26).zip(certificates) {
        drop(certificate);
        let (from, to) = (of(seed), inventory("debian", &[]));
        let step = InventoryDelta::between(&from, &to);
        let count = step.parts().unwrap().len() as u64;
        bench.told_parts(seed, &step, 1_000..1_000 + count);
        bench.sync();
    }
    bench.later(Duration::from_secs(1));
    bench.sync();
    let again = {
        let mut again = Bench::restart(bench.durable.clone(), bench.now);
        again.sync();
        again
    };
    let gone = |bench: &Bench| {
        bench.durable.iter().any(|record| matches!(record, Record::InventoryBase(_, bytes) if bytes.is_empty()))
    };
    assert!(gone(&bench) || gone(&again), "the base is taken away");
}

#[test]
fn the_records_are_pinned() {
    let mut bench = Bench::new();
    bench.member(20);
    let told = inventory("debian", &[]);
    bench.told_parts(20, &InventoryDelta::full(&told), [258]);
    let scan = ScanReport {
        device: device(20),
        seq: 259,
        issued: Wall(1),
        index_version: 3,
        counts: [0, 0, 1, 0],
        part: 0,
        parts: 1,
        states: Bounded::truncated(vec![(ReleaseId([8; 32]), ScanState::Required)]),
    };
    bench.told(20, DeviceMessage::Scan(Box::new(scan)));
    let list = DeviceList::new([4; 32], [DeviceId([9; 32])]).unwrap();
    let members = Members::List(list.tree().root());
    bench.done(Command::Group { document: signed_group(SERVERS, 1, members, APPROVER), list: Some(list) }).unwrap();
    let number = |number: u64| hex::encode(number.to_le_bytes());
    let at = number(bench.now.wall.0);
    let (empty, digest) = (inventory::empty(), told.digest());
    let entries = b"\0\x04\0\x05os.id\x01\0\x06debian";
    let one = number(1);
    let parts = format!("{one}{empty}{digest}00000100{}{}", number(18), hex::encode(entries));
    let check = hex::encode(&blake3::hash(&hex::decode(&parts).unwrap()).as_bytes()[..8]);
    let wanted = [
        // version | seq | received | check | parts: of few packages, the difference from none
        format!("02{}{at}{check}{parts}", number(258)),
        // version | seq | issued, received, index version, counts, states
        format!(
            "01{}{one}{at}{}00000000000000000100000000000000{one}{}02000000",
            number(259),
            number(3),
            "08".repeat(32)
        ),
        // version | lists, each with its group, its secret and its devices
        format!("02{one}{}{}{one}{}", "05".repeat(16), "04".repeat(32), "09".repeat(32)),
    ];
    let written = |record: &Record| match record {
        Record::Inventory(_, bytes)
        | Record::Scan(_, bytes)
        | Record::Groups(bytes)
        | Record::Root(_, bytes)
        | Record::Audit(_, bytes) => Some(hex::encode(bytes)),
        _ => None,
    };
    let found: Vec<String> = bench.durable.iter().filter_map(written).collect();
    assert_eq!(found, wanted, "a record's format has changed: bump its version");
}
