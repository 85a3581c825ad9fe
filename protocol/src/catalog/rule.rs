use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::codec::{Bounded, Text};
use crate::ids::{GroupId, ReleaseId};
use crate::time::Wall;

use super::approval::{Action, Approval, RingPlan, Schedule};
use super::apt::{APT_PREFIX, WhenAbsent};
use super::release::{Recipe, Release, Severity};

/// A snapshot may be dated further ahead of the approval that a rule makes of it by no more than this: clocks differ.
const AHEAD: Duration = Duration::from_secs(3600);

/// An approver's standing decision: which snapshots of a repository are approved for a group as soon as they are there, and when.
///
/// The coordinator makes the approvals, with its online keys, each with the rule beside it. A rule makes exactly one approval of a
/// release, [`ApprovalRule::approval`], whose only freedom is the moment at which it is issued; of which releases,
/// [`ApprovalRule::covers`] says. How bad it is to be without a release is the coordinator's claim: a rule bounds that by its sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRule {
    /// The admin's number of it.
    pub number: u32,
    /// The group it is for.
    pub group: GroupId,
    /// Of the group's signed document that the approver saw: each approval of it has this one.
    pub group_version: u64,
    /// The repository, by the name that the root has for it.
    pub upstream: Text<64>,
    /// Source packages, of which no other may come; none for all of the repository.
    pub sources: Bounded<Text<255>, 256>,
    /// Releases that are less severe are left alone.
    pub min_severity: Severity,
    /// When, without moments: those count from the approval.
    pub schedule: Schedule,
    /// Seconds from the approval to its `available_from`.
    pub available_after_s: Option<u32>,
    /// Seconds from the approval to its deadline.
    pub deadline_after_s: Option<u32>,
    /// In which stages.
    pub rings: RingPlan,
    /// Seconds for which an approval counts; never longer than the rule itself.
    pub life_s: u32,
    /// When it was signed.
    pub issued: Wall,
    /// After this it makes no approval, and none that it made counts.
    pub expires: Wall,
}

/// An approval as a rule makes it: what the online keys sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuledApproval {
    /// The approval. Its version is 0, so that every word of an approver replaces it, and none is ever replaced by it.
    pub approval: Approval,
    /// The envelope of the rule.
    pub rule: Bounded<u8, { 16 << 10 }>,
}

impl ApprovalRule {
    /// The approval that it makes of a release at this time.
    pub fn approval(&self, release: ReleaseId, now: Wall) -> Approval {
        let after = |seconds: Option<u32>| seconds.map(|seconds| now + Duration::from_secs(seconds.into()));
        let mut schedule = self.schedule.clone();
        (schedule.available_from, schedule.deadline) = (after(self.available_after_s), after(self.deadline_after_s));
        Approval {
            group: self.group,
            release,
            group_version: self.group_version,
            version: 0,
            action: Action::Install,
            // Only a person takes a fleet back.
            back: false,
            issued: now,
            expires: (now + Duration::from_secs(self.life_s.into())).min(self.expires),
            schedule,
            rings: self.rings.clone(),
            note: Text::lossy(&format!("by rule r{}", self.number)),
            filtered: None,
        }
    }

    /// Whether it makes an approval of a release at this time; the error says why not.
    ///
    /// A snapshot's counter begins with upstream's own date of it, which the installer compares: so rings never count from before
    /// upstream published.
    pub fn covers(&self, release: &Release, issued: Wall) -> Result<(), String> {
        let Recipe::Apt(apt) = &release.install else { return Err("it is no snapshot of a repository".to_owned()) };
        let name = release.product.strip_prefix(APT_PREFIX).and_then(|rest| rest.strip_prefix('.'));
        if name != Some(&*self.upstream) {
            return Err(format!("it is of {}, the rule is about the repository {}", release.product, self.upstream));
        }
        if release.severity < self.min_severity {
            return Err(format!("its severity is {:?}, the rule begins at {:?}", release.severity, self.min_severity));
        }
        for package in &apt.packages {
            if !self.sources.is_empty() && !self.sources.contains(&package.source) {
                return Err(format!("{} is built from {}, which the rule does not name", package.name, package.source));
            }
            if package.when_absent == WhenAbsent::Always {
                return Err(format!("it installs {} on every machine, which no rule may", package.name));
            }
        }
        if Wall(release.counter) > issued + AHEAD {
            return Err(format!("upstream dates it {}, after the approval", Wall(release.counter)));
        }
        Ok(())
    }
}
