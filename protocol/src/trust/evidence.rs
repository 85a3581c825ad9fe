//! Two documents of one version, both well signed: kept as they are, for people. Owns the pairs and their bound; never decides which of
//! the two counts.

use super::verify::{open_next_root, open_own_root};
use super::{Trust, TrustError};
use crate::codec::Bounded;
use crate::envelope::{Envelope, Kind, Role};

/// The most pairs of contradicting documents that are kept; the first ones stay.
pub const MAX_EVIDENCE: usize = 8;

/// Two documents that contradict each other, both well signed: a stolen key, or a coordinator restored from a backup.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Evidence {
    /// [`Kind::Root`] or [`Kind::Head`].
    pub kind: Kind,
    /// The version that both claim (of the root, of the index).
    pub version: u64,
    /// The envelope that counts: the one that came first.
    pub first: Bounded<u8, { Kind::Root.cap() }>,
    /// The other one.
    pub second: Bounded<u8, { Kind::Root.cap() }>,
}

impl Trust {
    /// Fails with [`TrustError::Equivocation`] if these bytes are a second root of today's version, signed by the keys of the
    /// root before (or of today).
    pub(super) fn note_twin_root(&mut self, bytes: &[u8]) -> Result<(), TrustError> {
        let before = self.previous.as_deref().and_then(|previous| open_own_root(previous).ok());
        let twin = [Some(&self.root), before.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(|signer| open_next_root(signer, bytes).ok())
            .any(|root| root.version == self.root.version && root != self.root);
        if !twin {
            return Ok(());
        }
        let first = self.root_bytes.clone();
        Err(self.note_evidence(Kind::Root, self.root.version, &first, bytes))
    }

    pub(super) fn note_evidence(&mut self, kind: Kind, version: u64, first: &[u8], second: &[u8]) -> TrustError {
        // Signatures can be added to an envelope by anyone who passes it on: what counts is what was signed.
        let role = if kind == Kind::Root { Role::Root } else { Role::Online };
        let body =
            |bytes: &[u8]| Envelope::parse(bytes, kind, role).map(|envelope| envelope.unverified_body().to_vec());
        let known = self.evidence.iter().any(|pair| match (body(&pair.second), body(second)) {
            (Ok(held), Ok(new)) => held == new,
            _ => false,
        });
        if !known && self.evidence.len() < MAX_EVIDENCE {
            let keep = |bytes: &[u8]| Bounded::truncated(bytes.to_vec());
            self.evidence.push(Evidence { kind, version, first: keep(first), second: keep(second) });
            let what = if kind == Kind::Root { "roots" } else { "indexes" };
            self.alarm(format!(
                "two different {what} of version {version}, both well signed: a key may be stolen, or the coordinator was \
                 restored from a backup; the first one counts"
            ));
        }
        TrustError::Equivocation { kind, version }
    }
}
