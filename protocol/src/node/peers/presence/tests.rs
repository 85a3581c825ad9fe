use std::collections::VecDeque;

use ed25519_dalek::SigningKey;

use super::*;
use crate::catalog::{Certificate, HeldKey, Keys, NodeRole, PublisherRule, Root};
use crate::ids::SiteId;
use crate::node::MachineRules;
use crate::trust::Trust;

const SITE: SiteId = SiteId([1; 16]);
const START: Wall = Wall(1_800_000_000_000);
const ONLINE: u8 = 200;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn device(seed: u8) -> DeviceId {
    DeviceId(key(seed).verifying_key().to_bytes())
}

fn keys(seed: u8) -> Keys {
    Keys::single(HeldKey { key: PublicKey(device(seed).0), holder: Text::lossy("holder") })
}

fn trust() -> Trust {
    let root = Root {
        version: 1,
        issued: START - Duration::from_secs(60),
        expires: START + Duration::from_secs(365 * 86_400),
        root: keys(ONLINE - 1),
        publishers: Bounded::new(vec![PublisherRule { product_prefix: Text::default(), keys: keys(ONLINE - 3) }])
            .unwrap(),
        approvers: keys(ONLINE - 2),
        targeting: None,
        group_rules: Bounded::default(),
        upstreams: Bounded::default(),
        online: keys(ONLINE),
        report_key: [9; 32],
    };
    let bytes = envelope::sign(Kind::Root, Role::Root, &root, &[&key(ONLINE - 1)]).unwrap();
    let hash = DocHash::of(&bytes);
    Trust::pin(bytes, hash, START - Duration::from_secs(60)).unwrap()
}

fn config(seed: u8) -> NodeConfig {
    NodeConfig {
        key: key(seed),
        seed: u64::from(seed),
        label: Text::default(),
        agent: Text::default(),
        os: Text::default(),
        build_time: START - Duration::from_secs(60),
        coordinator: device(ONLINE),
        coordinator_addresses: Vec::new(),
        peers: Vec::new(),
        origins: Vec::new(),
        wan_weight: 8,
        machine: MachineRules::default(),
        upload_slots: 1,
        ask_first: Duration::ZERO,
        zone: jiff::tz::TimeZone::UTC,
        boot: Text::default(),
    }
}

/// The exchange of one machine, with nothing of the node around it.
struct Machine {
    cx: Cx,
    exchange: Exchange,
    members: Membership,
    trust: Trust,
    certificate: Certificate,
    certificate_bytes: Vec<u8>,
    connected: BTreeMap<DeviceId, Peer>,
    claims: Claims,
    uplink: bool,
    moved: Vec<Change>,
    banned: Vec<DeviceId>,
}

impl Machine {
    fn new(seed: u8) -> Self {
        let certificate = Certificate {
            device: device(seed),
            site: SITE,
            role: NodeRole::Node,
            label: Text::default(),
            issued: START - Duration::from_secs(1),
            expires: START + Duration::from_secs(86_400),
        };
        let certificate_bytes = envelope::sign(Kind::Certificate, Role::Online, &certificate, &[&key(ONLINE)]).unwrap();
        Self {
            cx: Cx::new(config(seed), device(seed), Now { mono: Mono(1_000_000), wall: START }),
            exchange: Exchange::default(),
            members: Membership::new(device(seed), SITE),
            trust: trust(),
            certificate,
            certificate_bytes,
            connected: BTreeMap::new(),
            claims: Claims::default(),
            uplink: false,
            moved: Vec::new(),
            banned: Vec::new(),
        }
    }

    /// Has the exchange act, and returns what it says to whom.
    fn act(&mut self, act: impl FnOnce(&mut Exchange, &mut Cx, &mut Site<'_>)) -> Vec<(DeviceId, Message)> {
        let mut site = Site {
            members: &mut self.members,
            trust: &self.trust,
            certificate: &self.certificate,
            certificate_bytes: &self.certificate_bytes,
            connected: &self.connected,
            listening: &[],
            claims: &self.claims,
            wan_weight: 8,
            uplink: self.uplink,
            may_be_uplink: false,
            effects: Vec::new(),
        };
        act(&mut self.exchange, &mut self.cx, &mut site);
        let mut sent = Vec::new();
        for effect in site.effects {
            match effect {
                Effect::Send(peer, message) => sent.push((peer, message)),
                Effect::Tell(message) => sent.extend(self.connected.keys().map(|peer| (*peer, message.clone()))),
                Effect::Ban(peer, _) | Effect::Drop(peer, _) => self.banned.push(peer),
                Effect::Moved(change) => self.moved.push(change),
            }
        }
        sent
    }

    fn neighbour(&mut self, seed: u8) {
        let peer = Peer { stage: Stage::Member { cache: false }, ..Peer::new(self.cx.now.mono) };
        self.connected.insert(device(seed), peer);
    }

    fn hears(&mut self, from: DeviceId, message: &Message) -> Vec<(DeviceId, Message)> {
        self.act(|exchange, cx, site| match message {
            Message::Digest { buckets, answer } => exchange.handle_digest(site, from, buckets, *answer),
            Message::Known(mentions) => exchange.handle_known(cx, site, from, mentions),
            Message::Ask(members) => exchange.handle_ask(cx, site, from, members),
            Message::Members(records) => exchange.handle_records(cx, site, from, &records.unpack().unwrap()),
            Message::Suspects(suspects) => exchange.handle_suspects(cx, site, from, suspects),
            other => panic!("no part of the exchange: {other:?}"),
        })
    }

    fn hears_known(&mut self, from: u8, mention: Mention) -> Vec<(DeviceId, Message)> {
        self.hears(device(from), &Message::Known(Bounded::new(vec![mention]).unwrap()))
    }

    /// Lets time pass, and does what is due until then.
    fn passes(&mut self, time: Duration) -> Vec<(DeviceId, Message)> {
        let end = self.cx.now.mono + time;
        let mut sent = Vec::new();
        while let Some((at, reason)) = self.cx.timers.next().filter(|(at, _)| *at <= end) {
            let step = at.since(self.cx.now.mono);
            self.cx.now = Now { mono: self.cx.now.mono + step, wall: self.cx.now.wall + step };
            self.cx.timers.remove(&reason);
            sent.extend(self.act(|exchange, cx, site| match reason {
                Reason::Presence => exchange.handle_refresh(cx, site),
                Reason::Spread => exchange.handle_spread(cx, site),
                Reason::Pull => exchange.handle_pull(cx, site),
                Reason::Members => exchange.handle_absent(cx, site),
                _ => {}
            }));
        }
        let step = end.since(self.cx.now.mono);
        self.cx.now = Now { mono: end, wall: self.cx.now.wall + step };
        sent
    }
}

/// Lets some machines talk until they have nothing more to say. Returns the number of messages.
fn talk(machines: &mut [Machine], mut under_way: VecDeque<(DeviceId, DeviceId, Message)>) -> usize {
    let mut count = 0;
    loop {
        while let Some((from, to, message)) = under_way.pop_front() {
            count += 1;
            assert!(count < 10_000, "they talk without end");
            let Some(machine) = machines.iter_mut().find(|machine| machine.cx.me == to) else { continue };
            under_way.extend(machine.hears(from, &message).into_iter().map(|(other, message)| (to, other, message)));
        }
        for machine in machines.iter_mut() {
            let me = machine.cx.me;
            let sent = machine.passes(Duration::from_millis(200));
            under_way.extend(sent.into_iter().map(|(other, message)| (me, other, message)));
        }
        if under_way.is_empty() {
            return count;
        }
    }
}

/// Each of these machines, by their seeds, and who is connected with whom.
fn site(seeds: &[u8], links: &[(u8, u8)]) -> Vec<Machine> {
    let mut machines: Vec<_> = seeds.iter().map(|seed| Machine::new(*seed)).collect();
    let mut under_way = VecDeque::new();
    for (a, b) in links {
        for (me, other) in [(*a, *b), (*b, *a)] {
            let machine = machines.iter_mut().find(|machine| machine.cx.me == device(me)).unwrap();
            machine.neighbour(other);
            let sent = machine.act(|exchange, cx, site| exchange.handle_neighbour(cx, site, device(other)));
            under_way.extend(sent.into_iter().map(|(to, message)| (device(me), to, message)));
        }
    }
    talk(&mut machines, under_way);
    machines
}

fn mention_of(seed: u8, issued: Wall) -> Mention {
    Mention {
        member: MemberKey::from(&device(seed)),
        issued,
        wan_weight: 8,
        leaving: false,
        speaks: false,
        has_record: false,
    }
}

#[test]
fn a_chain_of_machines_comes_to_know_all_of_itself() {
    let machines = site(&[1, 2, 3, 4], &[(1, 2), (2, 3), (3, 4)]);
    for machine in &machines {
        assert_eq!((machine.members.size(), machine.members.iter().count()), (4, 3));
        assert_eq!(machine.members.digest(1), machines[0].members.digest(1));
        assert!(machine.banned.is_empty());
    }
}

#[test]
fn what_a_member_has_to_say_is_believed_only_of_its_record() {
    let mut machines = site(&[1, 2], &[(1, 2)]);
    let one = &mut machines[0];
    let speaks = Mention { speaks: true, ..mention_of(9, START) };
    assert!(one.hears_known(2, speaks).is_empty());
    assert_eq!(one.members.size(), 2, "nobody has its record");
    let sent = one.hears_known(2, Mention { has_record: true, ..speaks });
    assert!(matches!(sent.as_slice(), [(peer, Message::Ask(_))] if *peer == device(2)));
    assert_eq!(one.members.size(), 2);
    one.passes(Duration::from_secs(5));
    assert!(one.exchange.pulls.is_empty(), "it does not come, and is given up");
    let forged = wire::Records::pack([[7; 90].as_slice()]).0;
    one.hears(device(2), &Message::Members(forged));
    assert_eq!(one.banned, [device(2)]);
}

#[test]
fn a_member_without_a_word_is_noted_and_passed_on() {
    let mut machines = site(&[1, 2, 3], &[(1, 2), (1, 3)]);
    let one = &mut machines[0];
    assert!(one.hears_known(2, mention_of(9, START)).is_empty());
    assert_eq!((one.members.size(), one.members.iter().count()), (4, 2));
    let sent = one.passes(Duration::from_secs(1));
    let [(peer, Message::Known(mentions))] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!((*peer, mentions.to_vec()), (device(3), vec![mention_of(9, START)]), "not to where it came from");
    let later = mention_of(9, START + Duration::from_secs(1));
    assert!(one.hears_known(2, later).is_empty());
    let sent = one.hears_known(3, mention_of(9, START));
    assert!(sent.is_empty(), "its turn comes with the news");
    one.passes(Duration::from_secs(1));
    let sent = one.hears_known(3, mention_of(9, START));
    assert_eq!(sent, [(device(3), Message::Known(Bounded::new(vec![later]).unwrap()))]);
}

#[test]
fn a_machine_refutes_what_others_make_up_of_it() {
    let mut machines = site(&[1, 2], &[(1, 2)]);
    let one = &mut machines[0];
    let said = one.exchange.issued;
    one.hears_known(2, mention_of(1, said + Duration::from_secs(3600)));
    one.passes(Duration::from_secs(10));
    assert_eq!(one.exchange.issued, said, "a time that lies far ahead convinces nobody, this machine neither");
    let lie = Mention { leaving: true, ..mention_of(1, said + Duration::from_secs(300)) };
    one.hears_known(2, lie);
    let sent = one.passes(Duration::from_secs(10));
    assert!(one.exchange.issued > lie.issued);
    assert!(
        matches!(sent.as_slice(), [(_, Message::Known(known))] if known[0].issued > lie.issued && !known[0].leaving)
    );
}

#[test]
fn a_machine_that_is_lost_is_doubted_told_of_and_gone() {
    let mut machines = site(&[1, 2, 3], &[(1, 2), (1, 3)]);
    let one = &mut machines[0];
    one.moved.clear();
    one.connected.remove(&device(3));
    one.act(|exchange, cx, site| exchange.handle_lost(cx, site, &device(3)));
    assert_eq!((one.members.size(), one.moved.len()), (2, 1));
    assert_eq!((one.moved[0].device, one.moved[0].left), (Some(device(3)), true));
    let sent = one.passes(Duration::from_secs(3));
    let [(peer, Message::Suspects(suspects))] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!((*peer, suspects[0].0), (device(2), MemberKey::from(&device(3))));
    let issued = suspects[0].1;
    one.passes(Duration::from_secs(13));
    assert!(one.members.mention(&MemberKey::from(&device(3))).is_none());
    let sent = one.hears_known(2, mention_of(3, issued));
    assert!(matches!(sent.as_slice(), [(_, Message::Suspects(_))]), "who mentions it is told");
    one.hears_known(2, mention_of(3, issued + Duration::from_secs(1)));
    assert_eq!(one.members.size(), 3, "it has spoken since");
}

#[test]
fn a_relay_is_known_by_its_record_to_all() {
    let mut machines = site(&[1, 2, 3], &[(1, 2), (2, 3)]);
    let (me, one) = (device(1), &mut machines[0]);
    one.uplink = true;
    one.exchange.changed(&mut one.cx);
    let sent = one.passes(Duration::from_secs(1));
    talk(&mut machines, sent.into_iter().map(|(to, message)| (me, to, message)).collect());
    for machine in &machines[1..] {
        assert_eq!(machine.members.connected_uplinks().collect::<Vec<_>>(), [&me]);
    }
}

#[test]
fn digests_are_compared_with_the_first_neighbours_only() {
    let mut one = Machine::new(1);
    for seed in 2..12 {
        one.neighbour(seed);
        let sent = one.act(|exchange, cx, site| exchange.handle_neighbour(cx, site, device(seed)));
        let digests = sent.iter().filter(|(_, message)| matches!(message, Message::Digest { .. })).count();
        assert_eq!(digests, usize::from(seed < 2 + GREETED as u8));
    }
}
