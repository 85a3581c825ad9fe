//! A device's own papers: its certificate and its assignment to groups. Owns what makes one good; never keeps one.

use super::verify::{open_assignment, open_certificate, unexpired};
use super::{Trust, TrustError};
use crate::catalog::{Assignment, Certificate};
use crate::codec;
use crate::envelope::{Envelope, EnvelopeError, Kind, Role};
use crate::time::Wall;

impl Trust {
    /// A device's certificate: signed by today's online keys, not expired, its device not revoked. The expiry of the root
    /// does not count here, so that a new root can still travel from peer to peer.
    pub fn check_certificate(&self, bytes: &[u8], wall: Wall) -> Result<Certificate, TrustError> {
        let certificate = open_certificate(&self.root, bytes)?;
        unexpired(Kind::Certificate, certificate.expires, self.clock(wall))?;
        if self.catalog.is_revoked(&certificate.device) {
            return Err(TrustError::Revoked(certificate.device));
        }
        Ok(certificate)
    }

    /// A device's assignment to groups: signed by today's online keys, its device not revoked. [`Trust::check_expiry`] has the
    /// word about its time, so that one that has expired can still be told from a later one.
    pub fn check_assignment(&self, bytes: &[u8]) -> Result<Assignment, TrustError> {
        let assignment = open_assignment(&self.root, bytes)?;
        if self.catalog.is_revoked(&assignment.device) {
            return Err(TrustError::Revoked(assignment.device));
        }
        Ok(assignment)
    }

    /// Whether an assignment still counts at this time.
    pub fn check_expiry(&self, assignment: &Assignment, wall: Wall) -> Result<(), TrustError> {
        unexpired(Kind::Assignment, assignment.expires, self.clock(wall))
    }

    /// What a certificate says that this device was given earlier, whoever signed it: after a change of the online keys the one on
    /// disk counts for nobody until the coordinator has renewed it, and still says to which site this device belongs.
    pub(crate) fn read_own_certificate(&self, bytes: &[u8]) -> Result<Certificate, TrustError> {
        let wrong = |source| TrustError::Envelope { kind: Kind::Certificate, source };
        let body = Envelope::parse(bytes, Kind::Certificate, Role::Online).map_err(wrong)?.unverified_body();
        let certificate: Certificate =
            codec::decode(body, Kind::Certificate.cap()).map_err(|error| wrong(EnvelopeError::Body(error)))?;
        if self.catalog.is_revoked(&certificate.device) {
            return Err(TrustError::Revoked(certificate.device));
        }
        Ok(certificate)
    }

    /// Whether today's online keys have signed this certificate.
    pub(crate) fn vouches_for(&self, certificate: &[u8]) -> bool {
        open_certificate(&self.root, certificate).is_ok()
    }

    /// This device's own certificate, whether or not it has expired: the coordinator renews it, and a clock may be wrong.
    pub fn check_own_certificate(&self, bytes: &[u8]) -> Result<Certificate, TrustError> {
        let certificate = open_certificate(&self.root, bytes)?;
        if self.catalog.is_revoked(&certificate.device) {
            return Err(TrustError::Revoked(certificate.device));
        }
        Ok(certificate)
    }
}
