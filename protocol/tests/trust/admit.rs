//! The installer's question, asked with the bytes of two envelopes.

use upswarm_protocol::catalog::{Action, Hold};
use upswarm_protocol::trust::{Blocked, NotAdmitted, Trust};

use crate::common::*;

fn offered(world: &World, edition: &Edition) -> Trust {
    let mut trust = world.trust();
    take(&mut trust, edition);
    trust
}

fn take(trust: &mut Trust, edition: &Edition) {
    trust.offer_head(&edition.head, NOW).unwrap();
    trust.offer_index(edition.index.clone(), NOW).unwrap();
}

fn blocked(result: Result<upswarm_protocol::trust::Admitted, NotAdmitted>) -> Blocked {
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
    let admitted = trust.admit(&release.bytes, &approval.bytes, NOW).unwrap();
    assert_eq!((admitted.id, admitted.approval.group), (release.release, GROUP));

    // Well signed, and in no index.
    let other = world.simple(2);
    assert!(matches!(trust.admit(&other.documents[0].bytes, &approval.bytes, NOW), Err(NotAdmitted::Document(_))));
    assert!(matches!(trust.admit(&release.bytes, &other.documents[1].bytes, NOW), Err(NotAdmitted::Document(_))));
    // One in the place of the other.
    assert!(trust.admit(&approval.bytes, &release.bytes, NOW).is_err());
    assert!(trust.admit(&release.bytes, &release.bytes, NOW).is_err());
    // Both named, and not about each other.
    let both = world.edition(3, [edition.documents.clone(), other.documents.clone()].concat());
    take(&mut trust, &both);
    assert!(matches!(trust.admit(&other.documents[0].bytes, &approval.bytes, NOW), Err(NotAdmitted::Document(_))));
    // Named by the online keys, signed by nobody who may.
    let forged = approve(&approval_of(release), &[&world.online[0]]);
    let edition = world.edition(4, vec![release.clone(), forged.clone()]);
    take(&mut trust, &edition);
    assert!(matches!(trust.admit(&release.bytes, &forged.bytes, NOW), Err(NotAdmitted::Document(_))));
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
    assert_eq!(blocked(trust.admit(&release.bytes, &approval.bytes, NOW)), Blocked::NoHead);
    trust.offer_head(&edition.head, NOW).unwrap();
    assert_eq!(blocked(trust.admit(&release.bytes, &approval.bytes, NOW)), Blocked::Withdrawn, "no index yet");
    trust.offer_index(edition.index.clone(), NOW).unwrap();
    for (wait, expected) in [(4, "head"), (400, "root")] {
        let why = blocked(trust.admit(&release.bytes, &approval.bytes, NOW + wait * DAY));
        assert!(why.to_string().contains(expected), "{why}");
    }
    // A head that the index has not followed yet.
    let held = world.edition_with(2, edition.documents.clone(), |index| {
        index.holds = list(vec![Hold::Release(release.release)]);
    });
    trust.offer_head(&held.head, NOW).unwrap();
    assert_eq!(blocked(trust.admit(&release.bytes, &approval.bytes, NOW)), Blocked::Withdrawn);
    trust.offer_index(held.index.clone(), NOW).unwrap();
    assert!(matches!(blocked(trust.admit(&release.bytes, &approval.bytes, NOW)), Blocked::Held(_)));
    // Withdrawn from the index.
    take(&mut trust, &world.edition(3, vec![release.clone()]));
    assert!(matches!(trust.admit(&release.bytes, &approval.bytes, NOW), Err(NotAdmitted::Document(_))));
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
    assert!(trust.admit(&release.bytes, &old.bytes, NOW).is_ok());
    take(&mut trust, &world.edition(2, vec![release.clone(), declined.clone()]));
    assert_eq!(blocked(trust.admit(&release.bytes, &declined.bytes, NOW)), Blocked::Declined);
    let mut trust = Trust::restore(&trust.snapshot(), NOW - DAY).unwrap();
    take(&mut trust, &world.edition(3, vec![release.clone(), old.clone()]));
    assert_eq!(blocked(trust.admit(&release.bytes, &old.bytes, NOW)), Blocked::Withdrawn);
}
