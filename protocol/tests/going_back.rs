//! Back to an earlier state of a repository, and forward again: of two words the later counts, whatever the numbers of the releases.

mod common;

use std::time::Duration;

use common::*;
use ed25519_dalek::SigningKey;
use upswarm_protocol::catalog::*;
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::node::*;
use upswarm_protocol::report::DeploymentState as S;
use upswarm_protocol::time::{Mono, Now, Wall};
use upswarm_protocol::trust::Blocked;

const EARLIER: u64 = 1_000;
const LATER: u64 = 2_000;

/// A state of the repository; machines go back to it if `back`.
fn state_of(counter: u64, back: bool) -> Release {
    let mut release = snapshot(counter, &[("openssl", WhenAbsent::Never)]);
    if let Recipe::Apt(recipe) = &mut release.install {
        recipe.back = back;
    }
    release
}

/// An approval of a release, said so many hours ago.
fn said(world: &World, release: &Doc, hours: u32, back: bool) -> Doc {
    world.approve(&Approval { issued: NOW - HOUR * hours, back, ..approval(GROUP, release.release, 1) })
}

struct Machine(NodeState, Now);

impl Machine {
    /// A machine of a group that approvers have listed, with this catalog; every selection is still to be installed.
    fn start(world: &World, documents: &[Doc], listed: bool) -> Self {
        let members = if listed { Members::List(own_list(&key(40)).root()) } else { Members::Listed };
        let group = describe(&group(GROUP, 1, members), &[&world.approvers[0]]);
        let edition = world.edition(7, documents.iter().cloned().chain([group]).collect());
        let mut trust = world.trust();
        edition.offer_to(&mut trust);
        let restored = Restored {
            trust: trust.snapshot(),
            certificate: world.certificate_doc(&certificate(&key(40))),
            assignment: world.assignment_doc(&assignment(&key(40))),
            documents: edition.stored().into_values().collect(),
            ..Restored::default()
        };
        let now = Now { mono: Mono(1_000_000_000), wall: NOW };
        let config = settings(&key(40));
        let state = NodeState::new(config, restored, now).unwrap();
        let mut machine = Self(state, now);
        machine.drain();
        machine
    }

    /// Answers what is asked for two seconds.
    fn drain(&mut self) {
        let end = self.1.mono + Duration::from_secs(2);
        loop {
            while let Some(output) = self.0.poll_output() {
                if let Output::Detect { release } = output {
                    self.0.handle_input(Input::Detected { release, result: Detection::Absent }, self.1);
                }
            }
            let Some((at, _)) = self.0.poll_timeout().filter(|(at, _)| *at <= end) else { return };
            let step = at.since(self.1.mono);
            self.1 = Now { mono: self.1.mono.max(at), wall: self.1.wall + step };
            self.0.handle_timeout(self.1);
        }
    }

    fn is_superseded(&self, release: &Doc) -> bool {
        let status = self.0.status(self.1.mono);
        let found = status.deployments.iter().find(|found| found.release == release.release).expect("it is deployed");
        found.state == S::Superseded
    }

    fn told(&self, release: &Doc) -> String {
        let sentences = self.0.explain(&release.release, self.1);
        sentences.iter().map(|sentence| format!("{} ({})\n", sentence.text, sentence.because)).collect()
    }
}

#[test]
fn of_going_back_and_going_forward_the_later_word_counts() {
    let world = World::new();
    let (earlier, later) = (world.publish(&state_of(EARLIER, true)), world.publish(&state_of(LATER, false)));
    for (back_said, forward_said, goes_back) in [(1, 2, true), (2, 1, false), (1, 1, true)] {
        let documents = [
            earlier.clone(),
            later.clone(),
            said(&world, &earlier, back_said, true),
            said(&world, &later, forward_said, false),
        ];
        let machine = Machine::start(&world, &documents, true);
        assert_eq!((machine.is_superseded(&later), machine.is_superseded(&earlier)), (goes_back, !goes_back));
        let told = machine.told(if goes_back { &later } else { &earlier });
        let because = if goes_back { "takes machines back to it" } else { "later release of the same product" };
        assert!(told.contains(because), "{told}");
    }
}

#[test]
fn without_an_approval_that_says_so_nothing_goes_back() {
    let world = World::new();
    for (release_back, approval_back, listed, blocked) in [
        (true, true, true, None),
        (true, false, true, Some(Blocked::NotBack)),
        (false, true, true, Some(Blocked::NotBack)),
        (true, true, false, Some(Blocked::OnlyListed)),
        (false, false, false, None),
    ] {
        let release = world.publish(&state_of(EARLIER, release_back));
        let decision = said(&world, &release, 1, approval_back);
        let machine = Machine::start(&world, &[release.clone(), decision.clone()], listed);
        let verdict = machine.0.trust().may_install(&release.release, &GROUP, NOW);
        assert_eq!(verdict.err(), blocked, "{release_back} {approval_back} {listed}");
    }
}

/// What a rule approves by itself, of a release.
fn by_rule(world: &World, release: &Doc, signed: Wall) -> Doc {
    let rule = ApprovalRule {
        number: 3,
        group: GROUP,
        group_version: 0,
        upstream: text("debian"),
        sources: Bounded::default(),
        min_severity: Severity::Unspecified,
        schedule: Schedule::default(),
        available_after_s: None,
        deadline_after_s: None,
        rings: RingPlan::default(),
        life_s: 30 * 86_400,
        issued: signed,
        expires: NOW + DAY * 60,
    };
    let by: &SigningKey = &world.approvers[0];
    let envelope = envelope::sign(Kind::RepositoryRule, Role::Approver, &rule, &[by]).unwrap();
    let body = RuledApproval { approval: rule.approval(release.release, NOW), rule: Bounded::new(envelope).unwrap() };
    let bytes = envelope::sign(Kind::Approval, Role::Online, &body, &[&world.online[0]]).unwrap();
    Doc::new(Kind::Approval, 0, bytes, release.release)
}

#[test]
fn a_rule_that_was_there_before_does_not_undo_it_and_one_signed_since_does() {
    let world = World::new();
    let (earlier, later) = (world.publish(&state_of(EARLIER, true)), world.publish(&state_of(LATER, false)));
    for (rule_signed, goes_back) in [(NOW - DAY, true), (NOW - HOUR, false)] {
        let documents =
            [earlier.clone(), later.clone(), said(&world, &earlier, 2, true), by_rule(&world, &later, rule_signed)];
        let machine = Machine::start(&world, &documents, true);
        assert_eq!((machine.is_superseded(&later), machine.is_superseded(&earlier)), (goes_back, !goes_back));
    }
    // And no rule takes machines back.
    let documents = [earlier.clone(), by_rule(&world, &earlier, NOW - HOUR)];
    let machine = Machine::start(&world, &documents, true);
    assert!(machine.0.trust().may_install(&earlier.release, &GROUP, NOW).is_err());
}

#[test]
fn machines_without_an_agent_get_the_approval_in_force_once_it_is_for_all() {
    let world = World::new();
    let (earlier, later) = (world.publish(&state_of(EARLIER, true)), world.publish(&state_of(LATER, false)));
    let signed = Some(Filtered { signature: Bounded::default(), certificate: Bounded::default() });
    let ring = |up_to: u16, delay_s: u32| RingPlan { rings: list(vec![Ring { up_to, delay_s }]), stop_above: 0 };
    let later_said = |hours: u32, change: &dyn Fn(&mut Approval)| {
        let mut said =
            Approval { issued: NOW - HOUR * hours, filtered: signed.clone(), ..approval(GROUP, later.release, 1) };
        change(&mut said);
        world.approve(&said)
    };
    let seen = |decisions: &[Doc]| {
        let documents = [&[earlier.clone(), later.clone()], decisions].concat();
        let machine = Machine::start(&world, &documents, true);
        let found = machine.0.filtered(&GROUP.to_string(), machine.1);
        assert_eq!(machine.0.filtered("nobody", machine.1), []);
        found.into_iter().map(|(approval, _)| approval.release).collect::<Vec<_>>()
    };
    assert_eq!(seen(&[later_said(2, &|_| ())]), [later.release]);
    assert_eq!(seen(&[later_said(2, &|said| said.rings = ring(10_000, 7200))]), [later.release]);
    assert_eq!(seen(&[later_said(2, &|said| said.rings = ring(10_000, 7300))]), []);
    assert_eq!(seen(&[later_said(2, &|said| said.rings = ring(5000, 0))]), []);
    assert_eq!(seen(&[later_said(2, &|said| said.schedule.available_from = Some(NOW + DAY))]), []);
    assert_eq!(seen(&[later_said(2, &|said| said.action = Action::None)]), []);
    assert_eq!(seen(&[later_said(2, &|said| said.filtered = None)]), []);
    let back =
        Approval { issued: NOW - HOUR, back: true, filtered: signed.clone(), ..approval(GROUP, earlier.release, 1) };
    let back = world.approve(&back);
    assert_eq!(seen(&[later_said(2, &|_| ()), back.clone()]), [earlier.release]);
    assert_eq!(seen(&[later_said(0, &|_| ()), back]), [later.release]);
    // What is in force and has no repository is not made up for by an older one that has.
    let unsigned = world.approve(&Approval { issued: NOW, back: true, ..approval(GROUP, earlier.release, 1) });
    assert_eq!(seen(&[later_said(2, &|_| ()), unsigned]), []);
}
