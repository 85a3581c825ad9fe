//! Who may talk to whom.

use upswarm_protocol::catalog::*;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::*;
use upswarm_protocol::trust::*;

use crate::common::*;

#[test]
fn a_certificate_counts_until_it_expires_or_is_revoked() {
    let world = World::new();
    let mut trust = world.trust();
    let device = certificate(&key(50));
    let bytes = world.certificate_doc(&device);
    assert_eq!(trust.check_certificate(&bytes, NOW).unwrap(), device);
    assert!(trust.check_certificate(&bytes, NOW + 88 * DAY).is_ok());
    let expired = trust.check_certificate(&bytes, NOW + 89 * DAY);
    assert!(matches!(expired, Err(TrustError::Expired { kind: Kind::Certificate, .. })), "{expired:?}");

    let revoke = |index: &mut Index| index.revoked = revoked(&[device.device]);
    world.edition_with(1, vec![], revoke).offer_to(&mut trust);
    assert!(matches!(trust.check_certificate(&bytes, NOW), Err(TrustError::Revoked(id)) if id == device.device));
    assert!(trust.check_certificate(&world.certificate_doc(&certificate(&key(51))), NOW).is_ok());
    let again = Trust::restore(&trust.snapshot(), NOW).unwrap();
    assert!(again.check_certificate(&bytes, NOW).is_err(), "revoked after a restart too");
}

#[test]
fn only_the_online_keys_make_certificates() {
    let world = World::new();
    let trust = world.trust();
    let device = certificate(&key(50));
    for key in [&world.publisher, &world.approvers[0], &world.root_keys[0], &key(50), &key(99)] {
        let bytes = envelope::sign(Kind::Certificate, Role::Online, &device, &[key]).unwrap();
        assert!(trust.check_certificate(&bytes, NOW).is_err());
    }
    let own = envelope::sign(Kind::Certificate, Role::Device, &device, &[&world.online[0]]).unwrap();
    assert!(trust.check_certificate(&own, NOW).is_err());
    for point in SMALL_ORDER {
        let weak = Certificate { device: DeviceId(bytes32(point)), ..device.clone() };
        assert!(trust.check_certificate(&world.certificate_doc(&weak), NOW).is_err(), "{point}");
    }
    let mut trust = world.trust();
    trust.offer_root(&world.with_online(31).root_doc(), NOW).unwrap();
    assert!(trust.check_certificate(&world.certificate_doc(&device), NOW).is_err(), "signed by the key before");
}

#[test]
fn peers_still_talk_when_the_root_has_expired_so_that_a_new_one_can_travel() {
    let world = World::new().next(|next| {
        next.root.version = 1;
        next.root.expires = NOW - DAY;
    });
    let trust = world.trust();
    assert!(trust.check_certificate(&world.certificate_doc(&certificate(&key(50))), NOW).is_ok());
}
