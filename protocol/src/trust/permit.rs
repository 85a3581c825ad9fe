//! The last question before an install: may it happen now?

use core::fmt;

use crate::catalog::{Action, Approval, Hold, Release};
use crate::envelope::Kind;
use crate::ids::{DocHash, GroupId, ReleaseId};
use crate::time::Wall;

use super::catalog::{Believed, Loaded};
use super::{Trust, TrustError};

/// Why nothing may be installed or removed now, in a sentence for `status` and `explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// The root has expired at this time.
    RootExpired(Wall),
    /// No head has come since enrolment or since the online keys were replaced.
    NoHead,
    /// The head has expired at this time: the coordinator has not been heard for long.
    HeadExpired(Wall),
    /// The index has expired at this time.
    IndexExpired(Wall),
    /// The catalog does not hold the release.
    NoRelease,
    /// The catalog holds no approval of the release for the group.
    NotApproved,
    /// The approval says that nothing is to be done.
    Declined,
    /// The release has expired at this time.
    ReleaseExpired(Wall),
    /// The approval has expired at this time.
    ApprovalExpired(Wall),
    /// The newest index no longer names the release or the approval, or a later approval is known; the catalog that says
    /// so is on its way.
    Withdrawn,
    /// The admin has stopped it.
    Held(Hold),
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocked::RootExpired(at) => write!(f, "the root expired at {at}; the admin must sign a new one"),
            Blocked::NoHead => f.write_str("no head has come from the coordinator yet"),
            Blocked::HeadExpired(at) => {
                write!(f, "the head expired at {at}: the coordinator has not been heard since, or this clock is wrong")
            }
            Blocked::IndexExpired(at) => {
                write!(f, "the index expired at {at}: newer documents have not arrived, or this clock is wrong")
            }
            Blocked::NoRelease => f.write_str("the catalog does not hold this release"),
            Blocked::NotApproved => f.write_str("the release is not approved for this group"),
            Blocked::Declined => f.write_str("the approver declined the release for this group"),
            Blocked::ReleaseExpired(at) => {
                write!(f, "the release expired at {at}; its publisher must sign it again")
            }
            Blocked::ApprovalExpired(at) => write!(f, "the approval expired at {at}; it must be renewed"),
            Blocked::Withdrawn => {
                f.write_str("a newer index replaces this release or approval; its documents are still being fetched")
            }
            Blocked::Held(Hold::Everything) => f.write_str("the admin has stopped everything"),
            Blocked::Held(Hold::Group(_)) => f.write_str("the admin has stopped this group"),
            Blocked::Held(Hold::Release(_)) => f.write_str("the admin has stopped this release"),
            Blocked::Held(Hold::Approval(..)) => f.write_str("the admin has stopped this release in this group"),
        }
    }
}

impl std::error::Error for Blocked {}

/// A release, and an approval of it, that may be acted on now; only [`Trust::admit`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// BLAKE3 of the release's signed body.
    pub id: ReleaseId,
    /// The release.
    pub release: Release,
    /// The approval of it.
    pub approval: Approval,
}

/// Why a release and an approval were not admitted.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    /// One of the two is not what the newest index names, or not signed as it should be.
    #[error(transparent)]
    Document(#[from] TrustError),
    /// Both are genuine, and it must not happen now.
    #[error(transparent)]
    Blocked(#[from] Blocked),
}

impl Trust {
    /// The question of an installer that keeps no catalog: may this release be acted on now, because of this approval? Takes
    /// the bytes of both envelopes, and asks all that [`Trust::may_install`] asks, of the newest index alone.
    ///
    /// The approval's version counts from now on, an older one does not: persist [`Trust::snapshot`] before acting.
    pub fn admit(&mut self, release: &[u8], approval: &[u8], wall: Wall) -> Result<Admitted, NotAdmitted> {
        let now = self.clock(wall);
        let unexpired = |at: Wall, blocked: fn(Wall) -> Blocked| if now < at { Ok(()) } else { Err(blocked(at)) };
        // 1. From the root down: nothing rests on a document above it that has expired, or on an index that the head has replaced.
        unexpired(self.root().expires, Blocked::RootExpired)?;
        let head = self.head().ok_or(Blocked::NoHead)?;
        unexpired(head.expires, Blocked::HeadExpired)?;
        let newest = self.newest.as_ref().filter(|newest| newest.label.hash == head.index_hash);
        unexpired(newest.ok_or(Blocked::Withdrawn)?.label.expires, Blocked::IndexExpired)?;
        // 2. The index names both, and they are signed by the product's publisher and the group's approvers.
        let Believed::Release(known) = self.open_named(Kind::Release, release)? else {
            return Err(Blocked::NoRelease.into());
        };
        let Believed::Approval(approved) = self.open_named(Kind::Approval, approval)? else {
            return Err(Blocked::NotApproved.into());
        };
        let (id, release, approval) = (known.id, known.release, approved.approval);
        // 3. One is about the other.
        if approval.release != id {
            return Err(TrustError::OtherRelease { approved: approval.release, release: id }.into());
        }
        // 4. No version of the approval is used after a later one.
        if approval.version < self.floors.of(&(approval.group, id)) {
            return Err(Blocked::Withdrawn.into());
        }
        self.floors.raise(&approval);
        // 5. Neither declined, nor stopped, nor too old.
        if approval.action == Action::None {
            return Err(Blocked::Declined.into());
        }
        if let Some(hold) = self.catalog().hold(&id, &approval.group) {
            return Err(Blocked::Held(hold).into());
        }
        unexpired(release.expires, Blocked::ReleaseExpired)?;
        unexpired(approval.expires, Blocked::ApprovalExpired)?;
        Ok(Admitted { id, release: release.as_ref().clone(), approval: approval.as_ref().clone() })
    }

    /// Verifies a document of this kind that the newest index names.
    fn open_named(&self, kind: Kind, bytes: &[u8]) -> Result<Believed, TrustError> {
        let hash = DocHash::of(bytes);
        let entry = self.newest.as_ref().and_then(|newest| newest.entry(&hash));
        let entry = entry.filter(|entry| entry.kind == kind && entry.len as usize == bytes.len());
        let opened = Loaded::open(self.root(), entry.ok_or(TrustError::NotNamed(hash))?, bytes);
        opened.map(|loaded| loaded.document).map_err(|reason| TrustError::Refused { hash, reason })
    }

    /// Whether a release may be installed (or removed, if its approval says so) in a group at this time.
    /// `wall` is this machine's own clock; [`Trust::clock`] is applied to it here.
    pub fn may_install(&self, release: &ReleaseId, group: &GroupId, wall: Wall) -> Result<(), Blocked> {
        let now = self.clock(wall);
        let unexpired = |at: Wall, blocked: fn(Wall) -> Blocked| if now < at { Ok(()) } else { Err(blocked(at)) };
        // From the root down: nothing rests on a document above it that has expired.
        unexpired(self.root().expires, Blocked::RootExpired)?;
        unexpired(self.head().ok_or(Blocked::NoHead)?.expires, Blocked::HeadExpired)?;
        let catalog = self.catalog();
        unexpired(catalog.index.ok_or(Blocked::NoRelease)?.expires, Blocked::IndexExpired)?;
        let approved = catalog.approvals().get(&(*group, *release)).ok_or(Blocked::NotApproved)?;
        let known = catalog.releases().get(release).ok_or(Blocked::NoRelease)?;
        if approved.approval.action == Action::None {
            return Err(Blocked::Declined);
        }
        // A stop by the newest index counts before its documents are there: a hold, a document that it no longer names, an
        // approval of which a later version has been seen.
        if let Some(hold) = catalog.hold(release, group) {
            return Err(Blocked::Held(hold));
        }
        let replaced = approved.approval.version < self.floors.of(&(*group, *release));
        if replaced || !self.newest_names(&known.hash) || !self.newest_names(&approved.hash) {
            return Err(Blocked::Withdrawn);
        }
        unexpired(known.release.expires, Blocked::ReleaseExpired)?;
        unexpired(approved.approval.expires, Blocked::ApprovalExpired)
    }
}
