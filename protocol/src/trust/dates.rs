//! What the date of a document does to this machine's idea of time, and the head that is set aside for its date.
//!
//! Owns the floor of the clock, the tolerance, and the stops of a head from too far ahead. It never judges a signature, and
//! nothing in it makes an installation possible.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalog::page::{INDEX_ENTRIES, Node};
use crate::catalog::{Head, Hold, Index};
use crate::codec::Bounded;
use crate::ids::{DeviceId, DocHash};
use crate::time::Wall;

use super::{HeadNews, Trust};

/// A document dated this far ahead of this machine's clock means that one of two clocks is wrong.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(86_400);

/// What an index stops, as far as it says so itself: a long list of revoked devices stands in pages, which count when the head
/// does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stops {
    pub(super) holds: Bounded<Hold, 1024>,
    pub(super) revoked: Bounded<DeviceId, INDEX_ENTRIES>,
}

impl Stops {
    pub(super) fn of(index: &Index) -> Self {
        let revoked = match &index.revoked {
            Node::Leaf(entries) => entries.clone(),
            Node::Fork(_) => Bounded::default(),
        };
        Self { holds: index.holds.clone(), revoked }
    }
}

/// A well signed head from too far ahead, and what its index stops once that is known.
#[derive(Debug, Clone)]
pub(super) struct Aside {
    pub(super) head: Head,
    pub(super) bytes: Vec<u8>,
    pub(super) stops: Option<Stops>,
}

pub(super) fn rank(head: &Head) -> (u64, Wall, u64, Wall) {
    (head.index_version, head.issued, head.root_version, head.expires)
}

impl Trust {
    /// The time by which documents expire: this machine's clock, but never before the build or before the date of the newest
    /// accepted head. So a clock that was set back does not bring expired documents back to life. A head of a higher version
    /// with an earlier date lowers it. Schedules go by the machine's own clock alone.
    pub fn clock(&self, wall: Wall) -> Wall {
        wall.max(self.build_time).max(self.head().map_or(Wall(0), |head| head.issued))
    }

    /// The build's time, when this clock is behind it: then it is wrong for certain.
    pub fn behind_build(&self, wall: Wall) -> Option<Wall> {
        (wall < self.build_time).then_some(self.build_time)
    }

    /// How far ahead of this machine's clock the head is that was set aside for its date. Its stops count at once; it moves
    /// neither versions nor the floor of the clock.
    pub fn ahead(&self, wall: Wall) -> Option<Duration> {
        self.aside.as_ref().map(|aside| aside.head.issued.since(wall))
    }

    /// The envelope of the head that is set aside: the coordinator should see it.
    pub fn aside_bytes(&self) -> Option<&[u8]> {
        self.aside.as_ref().map(|aside| aside.bytes.as_slice())
    }

    /// Hash and bytes of the index to fetch for its stops alone, beside [`Trust::wanted`].
    pub fn wanted_stops(&self) -> Option<(DocHash, u32)> {
        let aside = self.aside.as_ref().filter(|aside| aside.stops.is_none())?;
        let held = self.newest.as_ref().is_some_and(|newest| newest.label.hash == aside.head.index_hash);
        (!held).then_some((aside.head.index_hash, aside.head.index_len))
    }

    /// The head that was set aside, when the clock has come within the tolerance of it: offer it again.
    pub fn take_timely(&mut self, wall: Wall) -> Option<Vec<u8>> {
        let timely = self.aside.as_ref().is_some_and(|aside| !is_ahead(aside.head.issued, wall));
        if !timely {
            return None;
        }
        let aside = self.aside.take()?;
        self.count_stops();
        Some(aside.bytes)
    }

    /// Keeps a head from too far ahead, whose rank is above that of the one that is held.
    pub(super) fn set_aside(&mut self, head: Head, bytes: &[u8], wall: Wall) -> HeadNews {
        if self.aside.as_ref().is_some_and(|aside| rank(&aside.head) >= rank(&head)) {
            return HeadNews::Same;
        }
        self.note_clock("head", head.issued, wall);
        let before = self.aside.take().filter(|aside| aside.head.index_hash == head.index_hash);
        self.aside = Some(Aside { head, bytes: bytes.to_vec(), stops: before.and_then(|aside| aside.stops) });
        self.count_stops();
        HeadNews::Aside
    }

    /// A head was accepted: what was set aside and is not newer counts no more.
    pub(super) fn accepted(&mut self, head: &Head) {
        self.clock_alarmed = false;
        if self.aside.as_ref().is_some_and(|aside| aside.head.index_version <= head.index_version) {
            self.aside = None;
            self.count_stops();
        }
    }

    /// Takes the stops of the index that the head set aside names. Returns whether this is that index.
    pub(super) fn take_aside(&mut self, hash: DocHash, index: &Index) -> bool {
        let Some(aside) = self.aside.as_mut().filter(|aside| aside.head.index_hash == hash) else { return false };
        if aside.head.index_version == index.version {
            aside.stops = Some(Stops::of(index));
            self.count_stops();
        }
        true
    }

    /// The stops that count: those of the newest index and of the head that is set aside.
    pub(super) fn count_stops(&mut self) {
        let aside = self.aside.as_ref().and_then(|aside| aside.stops.clone());
        self.catalog.set_aside(aside.unwrap_or_default());
        self.generation += 1;
    }

    pub(super) fn note_clock(&mut self, what: &str, issued: Wall, wall: Wall) {
        if is_ahead(issued, wall) && !self.clock_alarmed {
            self.clock_alarmed = true;
            let days = issued.since(wall).as_secs() / 86_400;
            self.alarm(format!(
                "the catalog is {days} days ahead of this machine's clock: a {what} is dated {issued}, and it is {wall} here; its \
                 stops count, the rest waits until the wrong one of the two clocks is set right"
            ));
        }
    }
}

pub(super) fn is_ahead(issued: Wall, wall: Wall) -> bool {
    issued > wall + CLOCK_TOLERANCE
}
