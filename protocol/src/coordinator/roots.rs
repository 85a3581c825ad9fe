//! The root of trust: how a new one takes the place of today's, and what follows for the catalog and the devices. Owns the roots
//! that may be read; never draws one up, and holds no offline key.

use ed25519_dalek::SigningKey;

use super::documents::open_online;
use super::io::{Record, Refusal};
use super::{CoordinatorState, SetupError};
use crate::catalog::{Head, Root};
use crate::codec;
use crate::envelope::{Envelope, Kind, Role};
use crate::ids::{DocHash, PublicKey};
use crate::time::Now;
use crate::trust::{TrustError, open_next_root};

/// Every root so far, oldest first.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// Versions by the hash of the envelope: a join token names the root of its day.
    versions: std::collections::BTreeMap<DocHash, u64>,
    /// The root before today's.
    before: Option<Root>,
}

impl Roots {
    /// From the envelopes of earlier roots, as they lie on this coordinator's own disk, and today's.
    pub(super) fn restore(earlier: &[Vec<u8>], today: (DocHash, u64)) -> Result<Self, SetupError> {
        let mut roots = Self { versions: [today].into(), before: None };
        for bytes in earlier {
            let root = Envelope::parse(bytes, Kind::Root, Role::Root)
                .ok()
                .and_then(|envelope| codec::decode::<Root>(envelope.unverified_body(), Kind::Root.cap()).ok());
            let root = root.ok_or(SetupError::EarlierRoot)?;
            roots.versions.insert(DocHash::of(bytes), root.version);
            if root.version + 1 == today.1 {
                roots.before = Some(root);
            }
        }
        Ok(roots)
    }

    pub(super) fn before(&self) -> Option<&Root> {
        self.before.as_ref()
    }

    /// The version of the root with this envelope.
    pub(super) fn version_of(&self, hash: &DocHash) -> Option<u64> {
        self.versions.get(hash).copied()
    }

    pub(super) fn holds(&self, version: u64) -> bool {
        self.versions.values().any(|held| *held == version)
    }
}

/// The first of these keys that a root lets sign alone.
fn key_of<'a>(root: &Root, keys: impl IntoIterator<Item = &'a SigningKey>) -> Option<&'a SigningKey> {
    let named = |key: &&SigningKey| root.online.contains(&PublicKey(key.verifying_key().to_bytes()));
    keys.into_iter().find(named).filter(|_| root.online.threshold == 1)
}

impl CoordinatorState {
    /// Every root that peers may read, by the hash of its envelope.
    pub fn root_versions(&self) -> &std::collections::BTreeMap<DocHash, u64> {
        &self.roots.versions
    }

    /// Takes the next root. `held` are the online keys of this coordinator, standby keys among them: the new root must name one,
    /// or nothing could be signed from then on. Returns whether that is a change.
    ///
    /// The catalog is signed anew under it, without what its keys no longer vouch for. Devices get new certificates when they
    /// ask, which they do as soon as they have the root: one signed before they have it would be refused.
    pub(super) fn take_root(&mut self, bytes: Vec<u8>, held: &[SigningKey], now: Now) -> Result<bool, Refusal> {
        let hash = DocHash::of(&bytes);
        if hash == self.root_hash {
            return Ok(false);
        }
        let root = open_next_root(&self.root, &bytes)?;
        let expected = self.root.version.saturating_add(1);
        if root.version != expected {
            return Err(TrustError::Version { kind: Kind::Root, expected, found: root.version }.into());
        }
        if root.expires <= now.wall {
            return Err(Refusal::Content(format!("it expired at {}", root.expires)));
        }
        if root.report_key != self.root.report_key {
            return Err(Refusal::Content(
                "it names another report key, and this coordinator could read no report".into(),
            ));
        }
        let online = key_of(&root, core::iter::once(&self.online).chain(held)).cloned();
        self.online = online.ok_or_else(|| {
            Refusal::Content(
                "it names no online key that this coordinator holds, or asks for more than one; make a key here with: upswarm \
                 coordinator standby-keys, and name that one"
                    .to_owned(),
            )
        })?;
        self.roots.versions.insert(hash, root.version);
        self.persist(Record::Root(root.version, bytes));
        self.roots.before = Some(core::mem::replace(&mut self.root, root));
        self.root_hash = hash;
        self.documents.count_again(&self.root);
        self.dynamic.count_again(&self.documents);
        self.watch_rollouts(now);
        Ok(true)
    }

    /// Whether today's online keys are among those that claim to have signed this certificate of our own making.
    pub(super) fn is_of_today(&self, certificate: &[u8]) -> bool {
        Envelope::parse(certificate, Kind::Certificate, Role::Online)
            .is_ok_and(|envelope| envelope.claimed_signers().any(|key| self.root.online.contains(&key)))
    }

    /// Whether the keys of the root before today's signed this head: whoever shows it has not heard of the new root yet.
    pub(super) fn is_of_the_root_before(&self, head: &[u8]) -> bool {
        self.roots.before().is_some_and(|root| open_online::<Head>(root, head, Kind::Head).is_ok())
    }
}
