//! The last question before an install: may it happen now?

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::catalog::page::Look;
use crate::catalog::{Action, Approval, DocEntry, GroupDocument, Hold, Members, Page, Release};
use crate::envelope::Kind;
use crate::ids::{DocHash, GroupId, ReleaseId};
use crate::time::Wall;

use super::assembly::Assembly;
use super::catalog::{Approvers, Believed, Loaded};
use super::verify::{open_approval, open_group};
use super::{Trust, TrustError};

/// The most pages that lead to a release and its approval.
pub const MAX_PROOF: usize = 32;

/// Why nothing may be installed or removed now, in a sentence for `status` and `explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// This machine's clock is behind the time when the program was built.
    Clock(Wall),
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
    /// The approval is for a group whose document must be there, and it is not, or only an older one.
    GroupUnknown,
    /// Nothing is removed where the coordinator alone says who belongs to the group.
    OnlyListed,
    /// Of release and approval, one takes machines back to earlier versions, and the other does not.
    NotBack,
    /// The approval says that nothing is to be done.
    Declined,
    /// The release has expired at this time.
    ReleaseExpired(Wall),
    /// The approval has expired at this time.
    ApprovalExpired(Wall),
    /// The newest index no longer names the release or the approval, or a later approval is known; the catalog that says
    /// so is on its way.
    Withdrawn,
    /// The newest head names another index, and what that names has not come by this time, when the last head that named the one
    /// in use expired.
    Overdue(Wall),
    /// The admin has stopped it.
    Held(Hold),
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocked::Clock(built) => {
                write!(f, "this machine's clock is wrong: it is behind {built}, when upswarm was built; set the clock")
            }
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
            Blocked::GroupUnknown => {
                f.write_str("the approval is for a group as an approver described it, and that description has not come")
            }
            Blocked::OnlyListed => f.write_str(
                "nothing is removed or taken back for a group whose members only the coordinator names; an approver must sign who \
                 they are: upswarm group sign",
            ),
            Blocked::NotBack => f.write_str(
                "release and approval do not both say that machines go back to earlier versions; approve it with --back",
            ),
            Blocked::Declined => f.write_str("the approver declined the release for this group"),
            Blocked::ReleaseExpired(at) => {
                write!(f, "the release expired at {at}; its publisher must sign it again")
            }
            Blocked::ApprovalExpired(at) => write!(f, "the approval expired at {at}; it must be renewed"),
            Blocked::Withdrawn => {
                f.write_str("a newer index replaces this release or approval; its documents are still being fetched")
            }
            Blocked::Overdue(at) => {
                write!(f, "a newer index is known, and what it names has not come; the one in use counted until {at}")
            }
            Blocked::Held(Hold::Everything) => f.write_str("the admin has stopped everything"),
            Blocked::Held(Hold::Group(_)) => f.write_str("the admin has stopped this group"),
            Blocked::Held(Hold::Release(_)) => f.write_str("the admin has stopped this release"),
            Blocked::Held(Hold::Approval(..)) => f.write_str("the admin has stopped this release in this group"),
            Blocked::Held(Hold::Rollout(..)) => {
                f.write_str("its rollout has stopped by itself: on too many machines it failed, or they fell silent")
            }
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
    /// When an approver said so; see [`super::CatalogApproval::said`].
    pub said: Wall,
    /// What its group is, if that has a document: whether this machine belongs to it is for the caller to see.
    pub group: Option<GroupDocument>,
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
    /// the bytes of both envelopes, of documents of groups, and of the pages that lead to them ([`Trust::proof`] names them); asks
    /// all that [`Trust::may_install`] asks.
    ///
    /// The approval's version counts from now on, an older one does not: persist [`Trust::snapshot`] before acting.
    pub fn admit<'a>(
        &mut self,
        release: &[u8],
        approval: &[u8],
        groups: &[&[u8]],
        pages: impl IntoIterator<Item = &'a [u8]>,
        wall: Wall,
    ) -> Result<Admitted, NotAdmitted> {
        let now = self.clock(wall);
        let unexpired = |at: Wall, blocked: fn(Wall) -> Blocked| if now < at { Ok(()) } else { Err(blocked(at)) };
        self.behind_build(wall).map_or(Ok(()), |built| Err(Blocked::Clock(built)))?;
        // 1. From the root down: nothing rests on a document above it that has expired, or on an index that the head has replaced.
        unexpired(self.root().expires, Blocked::RootExpired)?;
        let newest =
            self.newest.as_ref().ok_or(if self.head().is_some() { Blocked::Withdrawn } else { Blocked::NoHead })?;
        self.counts(newest, now)?;
        // 2. The index names both, and they are signed by the product's publisher and the group's approvers.
        let of_group = open_approval(self.root(), approval)?.value.group;
        let given = pages
            .into_iter()
            .take(MAX_PROOF)
            .filter_map(|bytes| Some((DocHash::of(bytes), Arc::new(Page::decode(bytes).ok()?))));
        let given = given.collect();
        let [of_release, of_approval] =
            self.named_in(&of_group, [DocHash::of(release), DocHash::of(approval)], &given, now)?;
        let (Believed::Release(known), _) = self.open_named(Kind::Release, &of_release, release)? else {
            return Err(Blocked::NoRelease.into());
        };
        let (Believed::Approval(approved), approvers) = self.open_named(Kind::Approval, &of_approval, approval)? else {
            return Err(Blocked::NotApproved.into());
        };
        let said = approved.said();
        let (id, release, approval, approved_by) = (known.id, known.release, approved.approval, approved.by_rule);
        // 3. One is about the other.
        if approval.release != id {
            return Err(TrustError::OtherRelease { approved: approval.release, release: id }.into());
        }
        if let Some(by_rule) = &approved_by {
            by_rule.permits(&release, &approval)?;
        }
        // 4. No version of the approval is used after a later one.
        if approval.version < self.floors.of_approval(&(approval.group, id)) {
            return Err(Blocked::Withdrawn.into());
        }
        self.floors.raise_approval(&approval, approvers);
        // 5. For a group as an approver has described it, if one has.
        let is_its_own =
            |bytes: &&&[u8]| open_group(self.root(), bytes).is_ok_and(|opened| opened.value.group == of_group);
        let group = groups.iter().find(is_its_own).copied();
        let group = group.map(|bytes| self.admit_group(bytes, &of_group, &given, now)).transpose()?;
        self.may_act_for(&approval, group.as_deref())?;
        // 6. Neither declined, nor stopped, nor too old.
        if approval.action == Action::None {
            return Err(Blocked::Declined.into());
        }
        agree(&release, &approval)?;
        if let Some(hold) = self.catalog().hold(&id, &approval.group) {
            return Err(Blocked::Held(hold).into());
        }
        unexpired(release.expires, Blocked::ReleaseExpired)?;
        unexpired(approval.expires, Blocked::ApprovalExpired)?;
        Ok(Admitted {
            id,
            release: release.as_ref().clone(),
            approval: approval.as_ref().clone(),
            said,
            group: group.map(Arc::unwrap_or_clone),
        })
    }

    /// The document of a group, as the index names it; no version is used after a later one.
    fn admit_group(
        &mut self,
        bytes: &[u8],
        of_group: &GroupId,
        given: &BTreeMap<DocHash, Arc<Page>>,
        now: Wall,
    ) -> Result<Arc<GroupDocument>, NotAdmitted> {
        let [entry, _] = self.named_in(of_group, [DocHash::of(bytes); 2], given, now)?;
        let (Believed::Group(known), approvers) = self.open_named(Kind::Group, &entry, bytes)? else {
            return Err(Blocked::GroupUnknown.into());
        };
        if known.document.version < self.floors.of_group(of_group) {
            return Err(Blocked::GroupUnknown.into());
        }
        self.floors.raise_group(&known.document, approvers);
        Ok(known.document)
    }

    /// Whether what is known of its group is enough for an approval: the document that its approver has seen or a later one, and of
    /// a group that was ever described the newest; and for a removal more than the coordinator's word.
    fn may_act_for(&self, approval: &Approval, group: Option<&GroupDocument>) -> Result<(), Blocked> {
        let needed = approval.group_version.max(self.floors.of_group(&approval.group));
        if group.map_or(0, |group| group.version) < needed {
            return Err(Blocked::GroupUnknown);
        }
        let only_listed = group.is_none_or(|group| group.members == Members::Listed);
        if (approval.action == Action::Uninstall || approval.back) && only_listed {
            return Err(Blocked::OnlyListed);
        }
        Ok(())
    }

    /// Verifies a document of this kind as an index describes it, and says which approvers have signed it.
    fn open_named(&self, kind: Kind, entry: &DocEntry, bytes: &[u8]) -> Result<(Believed, Approvers), TrustError> {
        let hash = entry.hash;
        if entry.kind != kind || entry.len as usize != bytes.len() {
            return Err(TrustError::NotNamed(hash));
        }
        let opened = Loaded::open(self.root(), entry, bytes);
        let named = opened.map(|loaded| {
            let approvers = loaded.approvers(self.root());
            (loaded.document, approvers)
        });
        named.map_err(|reason| TrustError::Refused { hash, reason })
    }

    /// What the newest index says of two documents of a group; without its pages, what the one before says for as long as that
    /// counts.
    fn named_in(
        &self,
        group: &GroupId,
        hashes: [DocHash; 2],
        given: &BTreeMap<DocHash, Arc<Page>>,
        now: Wall,
    ) -> Result<[DocEntry; 2], NotAdmitted> {
        for set in self.newest.iter().chain(&self.older) {
            if let Err(blocked) = self.counts(set, now) {
                return Err(blocked.into());
            }
            let found = hashes.map(|hash| set.find(group, &hash, given, &mut Vec::new()));
            match found {
                [Look::There(first), Look::There(second)] => return Ok([first, second]),
                [Look::Lacks(_), _] | [_, Look::Lacks(_)] => {}
                [Look::NotThere, _] => return Err(TrustError::NotNamed(hashes[0]).into()),
                [_, Look::NotThere] => return Err(TrustError::NotNamed(hashes[1]).into()),
            }
        }
        Err(Blocked::Withdrawn.into())
    }

    /// The pages that show that an index which counts names a release and an approval of it for this group, for
    /// [`Trust::admit`] elsewhere. `None` without them.
    pub fn proof(&self, release: &ReleaseId, group: &GroupId) -> Option<BTreeSet<DocHash>> {
        let approved = self.catalog().approvals().get(&(*group, *release))?;
        let known = self.catalog().releases().get(release)?;
        self.newest.iter().chain(&self.older).find_map(|set| {
            let mut way = Vec::new();
            let there = |hash: &DocHash, way: &mut Vec<DocHash>| {
                matches!(set.find(group, hash, &BTreeMap::new(), way), Look::There(_))
            };
            let described = self.catalog().groups().get(group).is_none_or(|group| there(&group.hash, &mut way));
            let all = described && there(&known.hash, &mut way) && there(&approved.hash, &mut way);
            all.then(|| way.into_iter().collect())
        })
    }

    /// The rule about withholding: an index counts while the newest head names it, and after that for what is left of the life of
    /// the last head that did. So nobody gains more than a head's life by keeping back an index, a page or a document.
    fn counts(&self, set: &Assembly, now: Wall) -> Result<(), Blocked> {
        let unexpired = |at: Wall, blocked: fn(Wall) -> Blocked| if now < at { Ok(()) } else { Err(blocked(at)) };
        let head = self.head().ok_or(Blocked::NoHead)?;
        unexpired(head.expires, Blocked::HeadExpired)?;
        if set.label.hash != head.index_hash {
            if set.named_until == Wall(0) {
                // No head of today's keys has ever named it.
                return Err(Blocked::Withdrawn);
            }
            unexpired(set.named_until, Blocked::Overdue)?;
        }
        unexpired(set.label.expires, Blocked::IndexExpired)
    }

    /// Whether the newest index still names a document, or cannot be asked because of a page that is missing.
    fn newest_may_name(&self, hash: &DocHash) -> bool {
        self.newest.as_ref().is_some_and(|newest| newest.names(hash) || !newest.has_pages())
    }

    /// Whether a release may be installed (or removed, if its approval says so) in a group at this time.
    /// `wall` is this machine's own clock; [`Trust::clock`] is applied to it here.
    pub fn may_install(&self, release: &ReleaseId, group: &GroupId, wall: Wall) -> Result<(), Blocked> {
        let now = self.clock(wall);
        let unexpired = |at: Wall, blocked: fn(Wall) -> Blocked| if now < at { Ok(()) } else { Err(blocked(at)) };
        self.behind_build(wall).map_or(Ok(()), |built| Err(Blocked::Clock(built)))?;
        // From the root down: nothing rests on a document above it that has expired.
        unexpired(self.root().expires, Blocked::RootExpired)?;
        unexpired(self.head().ok_or(Blocked::NoHead)?.expires, Blocked::HeadExpired)?;
        let catalog = self.catalog();
        let in_use = |set: &&Assembly| catalog.index == Some(set.label);
        self.counts(self.newest.iter().chain(&self.older).find(in_use).ok_or(Blocked::NoRelease)?, now)?;
        let approved = catalog.approvals().get(&(*group, *release)).ok_or(Blocked::NotApproved)?;
        let known = catalog.releases().get(release).ok_or(Blocked::NoRelease)?;
        if approved.approval.action == Action::None {
            return Err(Blocked::Declined);
        }
        agree(&known.release, &approved.approval)?;
        // A stop by the newest index counts before its documents are there: a hold, a document that it no longer names, an
        // approval of which a later version has been seen.
        if let Some(hold) = catalog.hold(release, group) {
            return Err(Blocked::Held(hold));
        }
        let replaced = approved.approval.version < self.floors.of_approval(&(*group, *release));
        if replaced || !self.newest_may_name(&known.hash) || !self.newest_may_name(&approved.hash) {
            return Err(Blocked::Withdrawn);
        }
        self.may_act_for(&approved.approval, catalog.groups().get(group).map(|known| &*known.document))?;
        unexpired(known.release.expires, Blocked::ReleaseExpired)?;
        unexpired(approved.approval.expires, Blocked::ApprovalExpired)
    }
}

/// Whether both say alike that machines go back to earlier versions. What the release says is the sync key's word; what an old
/// approval of it said, an approver did not mean for this.
fn agree(release: &Release, approval: &Approval) -> Result<(), Blocked> {
    let both = approval.action != Action::Install || approval.back == release.goes_back();
    if both { Ok(()) } else { Err(Blocked::NotBack) }
}
