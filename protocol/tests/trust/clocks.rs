//! Clocks that are wrong: the device's, the coordinator's, by days and by ten years.

use upswarm_protocol::catalog::*;
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::*;

use crate::common::*;

/// An edition as a coordinator with another clock signs it.
fn dated(world: &World, version: u64, documents: Vec<Doc>, issued: Wall, holds: Vec<Hold>) -> Edition {
    let mut edition = world.edition_with(version, documents, |index| {
        (index.issued, index.expires) = (issued, issued + 7 * DAY);
        index.holds = list(holds.clone());
    });
    let head = Head { issued, expires: issued + 3 * DAY, ..world.head(version, &edition.index) };
    edition.head = world.head_doc(&head);
    edition
}

#[test]
fn a_clock_behind_the_build_is_wrong_for_certain_and_says_so() {
    let world = World::new();
    let mut trust = world.trust();
    let long_ago = NOW - 3650 * DAY;
    assert_eq!(trust.clock(long_ago), NOW - DAY, "not before the program was built");
    assert_eq!(trust.behind_build(long_ago), Some(NOW - DAY));
    assert_eq!(trust.behind_build(NOW), None);
    let edition = world.simple(1);
    let id = edition.documents[0].release;
    edition.offer_to(&mut trust);
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
    assert_eq!(trust.may_install(&id, &GROUP, long_ago), Err(Blocked::Clock(NOW - DAY)));
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()), "right again: it goes on");
}

#[test]
fn a_clock_that_was_set_back_brings_nothing_back_to_life() {
    let world = World::new();
    let mut trust = world.trust();
    let product = world.publish(&Release { expires: NOW - 2 * HOUR, ..release("org.example.tool", 1) });
    let approved = world.approve(&approval(GROUP, product.release, 1));
    world.edition(1, vec![product.clone(), approved]).offer_to(&mut trust);
    let back = NOW - 3 * HOUR;
    assert_eq!(trust.clock(back), NOW - HOUR, "the head's date proves that it is at least this late");
    assert_eq!(trust.may_install(&product.release, &GROUP, back), Err(Blocked::ReleaseExpired(NOW - 2 * HOUR)));
    // A restart does not forget how late it is.
    let restored = Trust::restore(&trust.snapshot(), Wall(0)).unwrap();
    assert_eq!(restored.clock(back), NOW - HOUR);
}

#[test]
fn ten_years_ahead_blocks_and_heals() {
    let world = World::new();
    let mut trust = world.trust();
    let far = NOW + 3650 * DAY;
    let edition = world.simple(1);
    let id = edition.documents[0].release;
    trust.offer_head(&edition.head, far).unwrap();
    trust.offer_index(edition.index.clone()).unwrap();
    edition.offer_pages(&mut trust);
    for document in &edition.documents {
        trust.offer_document(document.bytes.clone(), far).unwrap();
    }
    assert!(trust.is_current(), "what is newest is known all the same");
    assert_eq!(trust.may_install(&id, &GROUP, far), Err(Blocked::RootExpired(NOW + 355 * DAY)));
    let mut trust = Trust::restore(&trust.snapshot(), NOW - DAY).unwrap();
    assert_eq!(trust.clock(NOW), NOW, "the wrong clock left no trace");
    edition.offer_documents(&mut trust);
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
}

/// Cases 33, 36 and 37: the coordinator's clock is five days ahead for a while.
#[test]
fn a_head_from_the_future_moves_nothing_but_stops_at_once() {
    let world = World::new();
    let mut trust = world.trust();
    let edition = world.simple(1);
    let id = edition.documents[0].release;
    edition.offer_to(&mut trust);
    let future = dated(&world, 2, edition.documents.clone(), NOW + 5 * DAY, vec![Hold::Everything]);
    assert_eq!(trust.offer_head(&future.head, NOW).unwrap(), HeadNews::Aside);
    assert_eq!(trust.offer_head(&future.head, NOW).unwrap(), HeadNews::Same, "told once");
    assert_eq!(trust.head().unwrap().index_version, 1, "no version moves");
    assert_eq!(trust.clock(NOW), NOW, "nor does the floor");
    assert_eq!(trust.ahead(NOW).unwrap(), 5 * DAY);
    assert!(trust.is_current(), "there is nothing to wait for");
    let alarms = trust.take_alarms();
    assert!(
        alarms.len() == 1 && alarms[0].contains("the catalog is 5 days ahead of this machine's clock"),
        "{alarms:?}"
    );
    // Its index is fetched for what it stops.
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
    let index_hash = upswarm_protocol::ids::DocHash::of(&future.index);
    assert_eq!(trust.wanted_stops(), Some((index_hash, future.index.len() as u32)));
    trust.offer_index(future.index.clone()).unwrap();
    assert_eq!(trust.wanted_stops(), None);
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Err(Blocked::Held(Hold::Everything)));
    // After a restart too.
    let mut again = Trust::restore(&trust.snapshot(), NOW - DAY).unwrap();
    edition.offer_documents(&mut again);
    assert_eq!(again.may_install(&id, &GROUP, NOW), Err(Blocked::Held(Hold::Everything)));
    assert_eq!((again.clock(NOW), again.ahead(NOW)), (NOW, trust.ahead(NOW)));
    assert_eq!(again.snapshot(), trust.snapshot());
    // The clock was set right, and the data directory restored: the same version comes with a right date.
    let right = dated(&world, 2, edition.documents.clone(), NOW + HOUR, vec![]);
    for trust in [&mut trust, &mut again] {
        assert_eq!(trust.offer_head(&right.head, NOW + HOUR).unwrap(), HeadNews::New);
        assert_eq!(trust.ahead(NOW + HOUR), None, "what was set aside counts no more");
        trust.offer_index(right.index.clone()).unwrap();
        assert_eq!(trust.may_install(&id, &GROUP, NOW + HOUR), Ok(()));
    }
}

#[test]
fn what_was_set_aside_is_taken_up_when_the_clock_is_right() {
    let world = World::new();
    let mut trust = world.trust();
    let edition = world.simple(1);
    let behind = NOW - 10 * DAY;
    let mut early = Trust::restore(&trust.snapshot(), behind).unwrap();
    assert_eq!(early.offer_head(&edition.head, behind).unwrap(), HeadNews::Aside);
    assert_eq!((early.take_timely(behind), early.head()), (None, None));
    let head = early.take_timely(NOW).expect("it is timely now");
    assert_eq!(early.offer_head(&head, NOW).unwrap(), HeadNews::New);
    edition.offer_to(&mut trust);
    assert_eq!(early.head(), trust.head());
}

#[test]
fn a_higher_version_with_an_earlier_date_lowers_the_floor() {
    let world = World::new();
    let mut trust = world.trust();
    // Both clocks were five days ahead when this came.
    let wrong = dated(&world, 5, world.simple(5).documents, NOW + 5 * DAY, vec![]);
    trust.offer_head(&wrong.head, NOW + 5 * DAY).unwrap();
    trust.offer_index(wrong.index.clone()).unwrap();
    assert_eq!(trust.clock(NOW), NOW + 5 * DAY);
    let edition = world.simple(6);
    edition.offer_to(&mut trust);
    assert_eq!(trust.clock(NOW), NOW, "one head later");
    let trust = Trust::restore(&trust.snapshot(), NOW - DAY).unwrap();
    assert_eq!(trust.clock(NOW), NOW);
}

#[test]
fn sentences_for_people_name_the_time() {
    let shown = Blocked::HeadExpired(NOW).to_string();
    assert!(shown.contains("2027-01-15T08:00:00Z"), "{shown}");
    let shown = Blocked::Clock(NOW).to_string();
    assert!(shown.contains("2027-01-15T08:00:00Z") && shown.contains("set the clock"), "{shown}");
}
