//! Machines whose clocks are wrong by ten years.

use upswarm_protocol::catalog::*;
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::*;

use crate::common::*;

#[test]
fn ten_years_back_brings_nothing_back_to_life() {
    let world = World::new();
    let mut trust = world.trust();
    let long_ago = NOW - 3650 * DAY;
    assert_eq!(trust.clock(long_ago), NOW - DAY, "not before the program was built");
    assert_eq!(trust.clock(Wall(0)), NOW - DAY);
    let product = world.publish(&Release { expires: NOW - 2 * HOUR, ..release("org.example.tool", 1) });
    let fresh = world.publish(&release("org.example.other", 1));
    let documents = vec![
        world.approve(&approval(GROUP, product.release, 1)),
        world.approve(&approval(GROUP, fresh.release, 1)),
        product.clone(),
        fresh.clone(),
    ];
    let edition = world.edition(1, documents);
    assert_eq!(trust.offer_head(&edition.head, long_ago).unwrap(), HeadNews::New);
    trust.offer_index(edition.index.clone(), long_ago).unwrap();
    edition.offer_documents(&mut trust);
    assert_eq!(trust.clock(long_ago), NOW - HOUR, "the head's signature proves that it is at least this late");
    let expired = trust.may_install(&product.release, &GROUP, long_ago);
    assert_eq!(expired, Err(Blocked::ReleaseExpired(NOW - 2 * HOUR)));
    assert_eq!(trust.may_install(&fresh.release, &GROUP, long_ago), Ok(()));
    assert_eq!(trust.take_alarms().len(), 1, "and the admin is told once that the clock is wrong");
    // A restart does not forget how late it is.
    let restored = Trust::restore(&trust.snapshot(), Wall(0)).unwrap();
    assert_eq!(restored.clock(long_ago), NOW - HOUR);
}

#[test]
fn ten_years_ahead_blocks_and_heals() {
    let world = World::new();
    let mut trust = world.trust();
    let far = NOW + 3650 * DAY;
    let edition = world.simple(1);
    let id = edition.documents[0].release;
    trust.offer_head(&edition.head, far).unwrap();
    trust.offer_index(edition.index.clone(), far).unwrap();
    for document in &edition.documents {
        trust.offer_document(document.bytes.clone(), far).unwrap();
    }
    assert!(trust.is_current(), "what is newest is known all the same");
    assert_eq!(trust.may_install(&id, &GROUP, far), Err(Blocked::RootExpired(NOW + 355 * DAY)));
    let trust = Trust::restore(&trust.snapshot(), NOW - DAY).unwrap();
    assert_eq!(trust.clock(NOW), NOW, "the wrong clock left no trace");
    let mut trust = trust;
    edition.offer_documents(&mut trust);
    assert_eq!(trust.may_install(&id, &GROUP, NOW), Ok(()));
}

#[test]
fn sentences_for_people_name_the_time() {
    let shown = Blocked::HeadExpired(NOW).to_string();
    assert!(shown.contains("2027-01-15T08:00:00Z"), "{shown}");
}
