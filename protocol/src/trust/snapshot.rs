//! What must survive a restart, in one file. Everything signed in it is verified again when it is read.
//!
//! ```text
//! magic "UPTS" | version u8 = 1 | zero 3 | BLAKE3 of the rest 32 | fields as in `Fields`
//! ```

use serde::{Deserialize, Serialize};

use crate::catalog::DocEntry;
use crate::codec::{self, Bounded, Text};
use crate::envelope::Kind;
use crate::ids::{DocHash, GroupId, ReleaseId};
use crate::time::Wall;

use super::catalog::{Assembly, Floor, Floors, Label};
use super::verify::{open_head, open_index, open_own_root};
use super::{Evidence, MAX_EVIDENCE, MAX_REFUSALS, Refusal, Trust, TrustError};

/// The most bytes of a snapshot: an index of 4 MiB, the list of the one before it, what was refused, approval versions,
/// evidence. A fleet with a hundred releases takes some 20 KiB.
pub const MAX_SNAPSHOT: usize = 14 << 20;

const MAGIC: [u8; 8] = *b"UPTS\x01\0\0\0";
const HEADER: usize = 40;

#[derive(Serialize, Deserialize)]
struct Fields {
    root: Bounded<u8, { Kind::Root.cap() }>,
    previous: Option<Bounded<u8, { Kind::Root.cap() }>>,
    head: Option<Bounded<u8, { Kind::Head.cap() }>>,
    index: Option<Bounded<u8, { Kind::Index.cap() }>>,
    /// The index in use, when that is not the newest: only what it names, for its bytes are not needed any more.
    older: Option<(Label, Bounded<DocEntry, 65536>)>,
    /// Documents of the newest index that were refused: without them it would be incomplete after a restart.
    refused: Bounded<DocHash, 65536>,
    /// The reasons, as far as they are remembered.
    refusals: Bounded<(DocHash, Kind, Text<200>), MAX_REFUSALS>,
    floors: Bounded<(GroupId, ReleaseId, Floor), { Floors::MAX }>,
    root_issued: Wall,
    online_issued: Wall,
    evidence: Bounded<Evidence, MAX_EVIDENCE>,
}

impl Trust {
    /// Root, head, index, the versions that only grow, refusals and evidence, at most [`MAX_SNAPSHOT`] bytes. The documents are
    /// not in it: the caller keeps them by hash, and offers them again after [`Trust::restore`]. Alarms are not either.
    pub fn snapshot(&self) -> Vec<u8> {
        let older = self.older.as_ref().map(|set| {
            // Not what was refused: it must not come back by a restart.
            let loaded = set.loaded.values().map(|(entry, _)| entry);
            let mut entries: Vec<_> = loaded.chain(set.missing.values()).copied().collect();
            entries.sort_unstable_by_key(|entry| entry.hash);
            (set.label, Bounded::truncated(entries))
        });
        let refused = self.newest.iter().flat_map(|set| set.refused.keys()).copied().collect();
        let reason = |refusal: &Refusal| (refusal.hash, refusal.kind, Text::lossy(&refusal.reason));
        let floors = self.floors.0.iter().map(|((group, release), floor)| (*group, *release, *floor)).collect();
        let fields = Fields {
            root: Bounded::truncated(self.root_bytes.clone()),
            previous: self.previous.clone().map(Bounded::truncated),
            head: self.head_bytes().map(|bytes| Bounded::truncated(bytes.to_vec())),
            index: self.index_bytes.clone().map(Bounded::truncated),
            older,
            refused: Bounded::truncated(refused),
            refusals: Bounded::truncated(self.refusals.iter().map(reason).collect()),
            floors: Bounded::truncated(floors),
            root_issued: self.root_issued,
            online_issued: self.online_issued,
            evidence: Bounded::truncated(self.evidence.clone()),
        };
        let rest = codec::encode(&fields, MAX_SNAPSHOT - HEADER).expect("the bounds of the fields add up to less");
        let mut bytes = Vec::with_capacity(HEADER + rest.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(DocHash::of(&rest).as_bytes());
        bytes.extend_from_slice(&rest);
        bytes
    }

    /// What [`Trust::snapshot`] gave. The catalog is empty until the caller has offered the documents it keeps; then it is
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
        trust.root_issued = fields.root_issued.max(trust.root.issued);
        trust.online_issued = fields.online_issued;
        trust.floors = Floors(
            fields.floors.into_vec().into_iter().map(|(group, release, floor)| ((group, release), floor)).collect(),
        );
        trust.evidence = fields.evidence.into_vec();
        if let Some(bytes) = fields.head {
            trust.head = Some((open_head(&trust.root, &bytes).map_err(within)?, bytes.into_vec()));
        }
        if let Some(bytes) = fields.index {
            let index = open_index(&trust.root, &bytes).map_err(within)?;
            trust.take_index(&index, DocHash::of(&bytes));
            trust.index_bytes = Some(bytes.into_vec());
        }
        if let Some(newest) = &mut trust.newest {
            for hash in &fields.refused {
                if let Some(entry) = newest.missing.remove(hash) {
                    newest.refused.insert(*hash, entry);
                }
            }
        }
        let refusal = |(hash, kind, reason): (_, _, Text<200>)| Refusal { hash, kind, reason: reason.to_string() };
        trust.refusals = fields.refusals.into_vec().into_iter().map(refusal).collect();
        trust.older = fields.older.map(|(label, entries)| Assembly::new(label, &entries));
        trust.activate();
        Ok(trust)
    }
}
