//! What must survive a restart, in one file. Everything signed in it is verified again when it is read.
//!
//! ```text
//! magic "UPTS" | version u8 = 5 | zero 3 | BLAKE3 of the rest 32 | fields as in `Fields`
//! ```

use serde::{Deserialize, Serialize};

use std::sync::Arc;

use crate::catalog::Index;
use crate::codec::{self, Bounded, Text};
use crate::envelope::{Envelope, Kind, Role};
use crate::ids::{DeviceId, DocHash, GroupId, ReleaseId};
use crate::time::Wall;

use super::assembly::{Assembly, Interest, MAX_GROUPS, MAX_REVOKED};
use super::catalog::{Floor, Floors, Label};
use super::dates::{Aside, Stops};
use super::verify::{open_head, open_index, open_own_root};
use super::{Evidence, MAX_EVIDENCE, MAX_REFUSALS, Refusal, Trust, TrustError};

/// The most bytes of a snapshot: two indexes, what of each was refused, revoked devices, approval versions, evidence. A fleet with
/// a hundred releases takes some 20 KiB.
pub const MAX_SNAPSHOT: usize = 12 << 20;

const MAGIC: [u8; 8] = *b"UPTS\x05\0\0\0";
const HEADER: usize = 40;

#[derive(Serialize, Deserialize)]
struct Fields {
    root: Bounded<u8, { Kind::Root.cap() }>,
    previous: Option<Bounded<u8, { Kind::Root.cap() }>>,
    head: Option<Bounded<u8, { Kind::Head.cap() }>>,
    interest: Followed,
    newest: Option<Kept>,
    /// The index in use, when that is not the newest.
    older: Option<Kept>,
    /// Revoked devices, of which the pages may not be there at the next start.
    revoked: Bounded<DeviceId, MAX_REVOKED>,
    /// The reasons, as far as they are remembered.
    refusals: Bounded<(DocHash, Kind, Text<200>), MAX_REFUSALS>,
    floors: Bounded<(GroupId, Option<ReleaseId>, Bounded<Floor, { Floors::OF_ONE }>), { Floors::MAX }>,
    /// A head from too far ahead, and what it stops.
    aside: Option<(Bounded<u8, { Kind::Head.cap() }>, Option<Stops>)>,
    evidence: Bounded<Evidence, MAX_EVIDENCE>,
}

/// An index, and what its bytes do not say.
#[derive(Serialize, Deserialize)]
struct Kept {
    index: Bounded<u8, { Kind::Index.cap() }>,
    named_until: Wall,
    interest: Followed,
    /// Pages and documents that were refused: without them it would be incomplete after a restart.
    refused: Bounded<DocHash, 65536>,
}

#[derive(Serialize, Deserialize)]
struct Followed {
    groups: Bounded<GroupId, MAX_GROUPS>,
    everything: bool,
}

impl Followed {
    fn of(interest: &Interest) -> Self {
        let groups = interest.groups.iter().copied().collect();
        Self { groups: Bounded::truncated(groups), everything: interest.everything }
    }

    fn interest(self) -> Interest {
        Interest { groups: self.groups.into_vec().into_iter().collect(), everything: self.everything }
    }
}

impl Kept {
    fn of(set: &Assembly) -> Self {
        Self {
            index: Bounded::truncated(set.bytes.to_vec()),
            named_until: set.named_until,
            interest: Followed::of(&set.interest),
            refused: Bounded::truncated(set.refused_hashes.iter().copied().collect()),
        }
    }

    /// The assembly, without any page or document that is not in the index itself.
    fn assembly(self, index: Index) -> Assembly {
        let bytes = self.index.into_vec();
        let label = Label { version: index.version, hash: DocHash::of(&bytes), expires: index.expires };
        let refused = self.refused.into_vec().into_iter().collect();
        let named = (label, Arc::new(index), Arc::new(bytes));
        Assembly::new(named, self.named_until, self.interest.interest(), refused, &[]).0
    }
}

impl Trust {
    /// Root, head, index, the versions that only grow, refusals and evidence, at most [`MAX_SNAPSHOT`] bytes. Pages and documents
    /// are not in it: the caller keeps them by hash, and gives them again to [`Trust::recall`]. Alarms are not either.
    pub fn snapshot(&self) -> Vec<u8> {
        let reason = |refusal: &Refusal| (refusal.hash, refusal.kind, Text::lossy(&refusal.reason));
        let floors = self.floors.0.iter();
        let floors =
            floors.map(|((group, release), of_one)| (*group, *release, Bounded::truncated(of_one.clone()))).collect();
        let fields = Fields {
            root: Bounded::truncated(self.root_bytes.clone()),
            previous: self.previous.clone().map(Bounded::truncated),
            head: self.head_bytes().map(|bytes| Bounded::truncated(bytes.to_vec())),
            interest: Followed::of(&self.interest),
            newest: self.newest.as_ref().map(Kept::of),
            older: self.older.as_ref().map(Kept::of),
            revoked: Bounded::truncated(self.catalog.revoked.clone()),
            refusals: Bounded::truncated(self.refusals.iter().map(reason).collect()),
            floors: Bounded::truncated(floors),
            aside: self.aside.as_ref().map(|aside| (Bounded::truncated(aside.bytes.clone()), aside.stops.clone())),
            evidence: Bounded::truncated(self.evidence.clone()),
        };
        let rest = codec::encode(&fields, MAX_SNAPSHOT - HEADER).expect("the bounds of the fields add up to less");
        let mut bytes = Vec::with_capacity(HEADER + rest.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(DocHash::of(&rest).as_bytes());
        bytes.extend_from_slice(&rest);
        bytes
    }

    /// What [`Trust::snapshot`] gave. The catalog is empty until [`Trust::recall`] has read what the caller keeps; then it is
    /// what it was, without any network. Holds and revocations count at once.
    pub fn restore(snapshot: &[u8], build_time: Wall) -> Result<Self, TrustError> {
        let damaged = |what: &str| TrustError::Snapshot(what.to_owned());
        let (header, rest) = snapshot.split_at_checked(HEADER).ok_or_else(|| damaged("shorter than its header"))?;
        if header[..8] != MAGIC {
            return Err(damaged("not a trust state, or one of another version of this program"));
        }
        if header[8..] != *DocHash::of(rest).as_bytes() {
            return Err(damaged("its checksum does not match"));
        }
        let fields: Fields =
            codec::decode(rest, MAX_SNAPSHOT - HEADER).map_err(|error| TrustError::Snapshot(error.to_string()))?;
        let within = |error: TrustError| TrustError::Snapshot(error.to_string());
        let root = open_own_root(&fields.root).map_err(within)?;
        let mut trust = Self::rooted(root, fields.root.into_vec(), build_time);
        trust.previous = fields.previous.map(Bounded::into_vec);
        trust.floors = Floors(
            fields
                .floors
                .into_vec()
                .into_iter()
                .map(|(group, release, of)| ((group, release), of.into_vec()))
                .collect(),
        );
        trust.evidence = fields.evidence.into_vec();
        if let Some(bytes) = fields.head {
            trust.head = Some((open_head(&trust.root, &bytes).map_err(within)?, bytes.into_vec()));
        }
        if let Some((bytes, stops)) = fields.aside {
            let head = open_head(&trust.root, &bytes).map_err(within)?;
            trust.aside = Some(Aside { head, bytes: bytes.into_vec(), stops });
            trust.count_stops();
        }
        trust.interest = fields.interest.interest();
        trust.catalog.revoked = fields.revoked.into_vec();
        if let Some(kept) = fields.newest {
            let index = open_index(&trust.root, &kept.index).map_err(within)?;
            let newest = kept.assembly(index);
            newest.give_stops(&mut trust.catalog);
            trust.newest = Some(newest);
            trust.generation += 1;
        }
        let refusal = |(hash, kind, reason): (_, _, Text<200>)| Refusal { hash, kind, reason: reason.to_string() };
        trust.refusals = fields.refusals.into_vec().into_iter().map(refusal).collect();
        if let Some(kept) = fields.older {
            // Verified when it came; the keys that signed it may be gone since.
            let body =
                Envelope::parse(&kept.index, Kind::Index, Role::Online).map(|envelope| envelope.unverified_body());
            let index = body.ok().and_then(|body| codec::decode(body, Kind::Index.cap()).ok());
            trust.older = Some(kept.assembly(index.ok_or_else(|| damaged("the index in use does not decode"))?));
        }
        trust.activate();
        Ok(trust)
    }
}
