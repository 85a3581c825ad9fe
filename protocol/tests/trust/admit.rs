//! The installer's question, asked with the bytes of two envelopes.

use upswarm_protocol::catalog::{Action, Hold};
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::{Admitted, Blocked, Interest, NotAdmitted, Trust};

use crate::common::*;

fn offered(world: &World, edition: &Edition) -> Trust {
    let mut trust = world.trust();
    take(&mut trust, edition);
    trust
}

fn take(trust: &mut Trust, edition: &Edition) {
    trust.offer_head(&edition.head, NOW).unwrap();
    edition.offer_index(trust);
}

/// The installer's question, with all pages of an edition as proof.
fn admit(
    trust: &mut Trust,
    edition: &Edition,
    release: &Doc,
    approval: &Doc,
    at: Wall,
) -> Result<Admitted, NotAdmitted> {
    trust.admit(&release.bytes, &approval.bytes, &[], edition.pages.iter().map(Vec::as_slice), at)
}

fn blocked(result: Result<Admitted, NotAdmitted>) -> Blocked {
    match result {
        Err(NotAdmitted::Blocked(blocked)) => blocked,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_named_pair_is_admitted_and_nothing_else_is() {
    let world = World::new();
    let edition = world.simple(1);
    let (release, approval) = (&edition.documents[0], &edition.documents[1]);
    let mut trust = offered(&world, &edition);
    let admitted = admit(&mut trust, &edition, release, approval, NOW).unwrap();
    assert_eq!((admitted.id, admitted.approval.group), (release.release, GROUP));

    // Well signed, and in no index.
    let other = world.simple(2);
    assert!(matches!(admit(&mut trust, &edition, &other.documents[0], approval, NOW), Err(NotAdmitted::Document(_))));
    assert!(matches!(admit(&mut trust, &edition, release, &other.documents[1], NOW), Err(NotAdmitted::Document(_))));
    // One in the place of the other.
    assert!(admit(&mut trust, &edition, approval, release, NOW).is_err());
    assert!(admit(&mut trust, &edition, release, release, NOW).is_err());
    // Both named, and not about each other.
    let both = world.edition(3, [edition.documents.clone(), other.documents.clone()].concat());
    take(&mut trust, &both);
    let crossed = admit(&mut trust, &both, &other.documents[0], approval, NOW);
    assert!(matches!(crossed, Err(NotAdmitted::Document(_))));
    // Named by the online keys, signed by nobody who may.
    let forged = approve(&approval_of(release), &[&world.online[0]]);
    let edition = world.edition(4, vec![release.clone(), forged.clone()]);
    take(&mut trust, &edition);
    assert!(matches!(admit(&mut trust, &edition, release, &forged, NOW), Err(NotAdmitted::Document(_))));
}

fn approval_of(release: &Doc) -> upswarm_protocol::catalog::Approval {
    approval(GROUP, release.release, 1)
}

#[test]
fn stops_and_expiry_block_a_genuine_pair() {
    let world = World::new();
    let edition = world.simple(1);
    let [release, approval] = &edition.documents[..] else { panic!("two documents") };
    let mut trust = world.trust();
    assert_eq!(blocked(admit(&mut trust, &edition, release, approval, NOW)), Blocked::NoHead);
    trust.offer_head(&edition.head, NOW).unwrap();
    assert_eq!(blocked(admit(&mut trust, &edition, release, approval, NOW)), Blocked::Withdrawn, "no index yet");
    edition.offer_index(&mut trust);
    for (wait, expected) in [(4, "head"), (400, "root")] {
        let why = blocked(admit(&mut trust, &edition, release, approval, NOW + wait * DAY));
        assert!(why.to_string().contains(expected), "{why}");
    }
    // A stop.
    let held = world.edition_with(2, edition.documents.clone(), |index| {
        index.holds = list(vec![Hold::Release(release.release)]);
    });
    take(&mut trust, &held);
    assert!(matches!(blocked(admit(&mut trust, &held, release, approval, NOW)), Blocked::Held(_)));
    // Withdrawn from the index.
    let without = world.edition(3, vec![release.clone()]);
    take(&mut trust, &without);
    assert!(matches!(admit(&mut trust, &without, release, approval, NOW), Err(NotAdmitted::Document(_))));
}

/// What was declined stays so, over a restart, even if the online keys name the old approval again.
#[test]
fn an_old_approval_does_not_come_back() {
    let world = World::new();
    let first = world.simple(1);
    let (release, old) = (first.documents[0].clone(), first.documents[1].clone());
    let mut declined = approval(GROUP, release.release, 2);
    declined.action = Action::None;
    let declined = world.approve(&declined);
    let mut trust = offered(&world, &first);
    assert!(admit(&mut trust, &first, &release, &old, NOW).is_ok());
    let second = world.edition(2, vec![release.clone(), declined.clone()]);
    take(&mut trust, &second);
    assert_eq!(blocked(admit(&mut trust, &second, &release, &declined, NOW)), Blocked::Declined);
    let mut trust = Trust::restore(&trust.snapshot(), NOW - DAY).unwrap();
    let third = world.edition(3, vec![release.clone(), old.clone()]);
    take(&mut trust, &third);
    assert_eq!(blocked(admit(&mut trust, &third, &release, &old, NOW)), Blocked::Withdrawn);
}

/// An installer follows no group: it judges by the pages that come with the question.
#[test]
fn an_installer_needs_the_pages_on_the_way_and_no_others() {
    let world = World::new();
    let mut documents = Vec::new();
    for at in 0..40u8 {
        let release = world.publish(&release(&format!("org.example.tool{at}"), 1));
        let mut group = GROUP;
        group.0[0] = at.wrapping_mul(37);
        documents.push(world.approve(&approval(group, release.release, 1)));
        documents.push(release);
    }
    let ours = world.simple(1);
    let (release, decision) = (ours.documents[0].clone(), ours.documents[1].clone());
    documents.extend(ours.documents);
    let edition = world.edition(1, documents);
    let mut follower = world.trust();
    edition.offer_to(&mut follower);
    let proof = follower.proof(&release.release, &GROUP).unwrap();
    assert!((2..=4).contains(&proof.len()) && edition.pages.len() > 40, "{} of {}", proof.len(), edition.pages.len());
    let stored = edition.stored();
    let proof: Vec<&[u8]> = proof.iter().map(|hash| stored[hash].as_slice()).collect();

    let mut installer = world.trust();
    installer.set_interest(Interest::default());
    installer.offer_head(&edition.head, NOW).unwrap();
    installer.offer_index(edition.index.clone()).unwrap();
    let ask = |trust: &mut Trust, pages: &[&[u8]]| {
        trust.admit(&release.bytes, &decision.bytes, &[], pages.iter().copied(), NOW).map(|admitted| admitted.id)
    };
    assert_eq!(ask(&mut installer, &proof).unwrap(), release.release);
    for without in 0..proof.len() {
        let mut less = proof.clone();
        less.remove(without);
        assert!(matches!(ask(&mut installer, &less), Err(NotAdmitted::Blocked(Blocked::Withdrawn))), "{without}");
        // Another page in its place has another hash.
        let mut damaged = proof[without].to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        less.push(&damaged);
        assert!(ask(&mut installer, &less).is_err());
    }
}
