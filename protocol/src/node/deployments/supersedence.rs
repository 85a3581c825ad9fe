//! Of several releases of one product that are approved here, the latest that can be had is the one to be.
//!
//! Without this, two versions that write the same file would put each other right for ever: each finds itself gone when the
//! other has been installed.

use super::{Ask, Deployment, Phase};
use crate::catalog::{Action, Release};
use crate::ids::ReleaseId;
use crate::node::Detection;
use crate::report::DeploymentState;
use crate::schedule::{self, Decision, Why};
use crate::time::Wall;

/// Whether another release takes a deployment's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Superseded {
    /// Nothing does.
    No,
    /// A later one may, once its detection has answered. Nothing is begun before.
    NotKnownYet,
    /// Yes.
    By {
        /// Product and version of the other.
        later: String,
        /// What that rests on, for people.
        because: String,
    },
}

/// A release that is approved here.
type Approved<'a> = (&'a ReleaseId, &'a Deployment, &'a Release);

/// What decides between approved releases of one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) struct Word {
    pub(in crate::node) counter: u64,
    /// When an approver said so.
    pub(in crate::node) said: Wall,
    /// Whether machines go back to it.
    pub(in crate::node) back: bool,
}

/// How a release stands to another of the same product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Order {
    Before,
    Later,
    /// Machines go back to it.
    Back,
}

impl Word {
    /// Later by its counter, unless an approval takes machines back. That counts against everything that was said before it. An
    /// approver says each; of two words the later counts.
    pub(in crate::node) fn order(&self, own: &Word) -> Order {
        let by_number = if self.counter > own.counter { Order::Later } else { Order::Before };
        match (self.back, own.back) {
            (false, false) => by_number,
            (true, true) if (self.said, self.counter) > (own.said, own.counter) => Order::Back,
            (true, true) => Order::Before,
            (true, false) if self.said >= own.said => Order::Back,
            (true, false) => by_number,
            (false, true) if self.said > own.said => by_number,
            (false, true) => Order::Before,
        }
    }
}

impl Ask<'_> {
    /// A release gives way to one that names it as superseded, and to a later one of the same product, as soon as that is
    /// installed or may be installed. It does not give way to one that is held, has failed or waits for its ring: until then
    /// the earlier is better than nothing.
    pub(super) fn superseded_by(&self, id: &ReleaseId) -> Superseded {
        let (Some(deployment), Some(release)) = (self.all.map.get(id), self.release(id)) else {
            return Superseded::No;
        };
        let name = |release: &Release| format!("{} {}", release.product, release.version);
        if deployment.approval.action == Action::Uninstall {
            return self.overtaken(id, release);
        }
        let mut verdict = Superseded::No;
        for other in self.all.index.rivals(id) {
            let (Some(theirs), Some(later)) = (self.all.map.get(&other), self.release(&other)) else { continue };
            // What a publisher calls superseded is its own: another's release does not give way to it.
            let root = self.view.trust.root();
            let its_own = root.publisher_of(&later.product) == root.publisher_of(&release.product);
            let says_so = its_own && later.supersedes.contains(id);
            let order = if later.product == release.product {
                self.order((&other, theirs, later), (id, deployment, release))
            } else {
                Order::Before
            };
            if !says_so && order == Order::Before {
                continue;
            }
            match self.takes_over(&other, theirs, later) {
                None => verdict = Superseded::NotKnownYet,
                Some(false) => {}
                Some(true) => {
                    let why = match order {
                        _ if says_so => "its publisher says so",
                        Order::Back => "that approval, the later of both, takes machines back to it",
                        _ => "it is a later release of the same product",
                    };
                    let because = format!("{} is approved here, and {why}", name(later));
                    return Superseded::By { later: name(later), because };
                }
            }
        }
        verdict
    }

    fn order(&self, other: Approved<'_>, own: Approved<'_>) -> Order {
        let approvals = self.view.trust.catalog().approvals();
        let word = |(id, deployment, release): Approved<'_>| {
            let known = approvals.get(&(deployment.group, *id));
            Word {
                counter: release.counter,
                said: known.map_or(deployment.approval.issued, |known| known.said()),
                back: deployment.approval.back && release.goes_back(),
            }
        };
        word(other).order(&word(own))
    }

    /// A removal gives way to a later version of the package that is there or on its way: what detection finds is that one, and
    /// removing the earlier would take it away. It does not wait for one that waits itself.
    fn overtaken(&self, id: &ReleaseId, earlier: &Release) -> Superseded {
        let mut verdict = Superseded::No;
        for (other, later) in self.later_versions(id, earlier) {
            let Some(theirs) = self.all.map.get(&other) else { continue };
            match self.takes_over(&other, theirs, later) {
                None => verdict = Superseded::NotKnownYet,
                Some(false) => {}
                Some(true) => {
                    let later = format!("{} {}", later.product, later.version);
                    let because = format!("{later} is a later version of the same package, and approved here");
                    return Superseded::By { later, because };
                }
            }
        }
        verdict
    }

    /// Whether a later release is there or on its way; `None` while its detection has not answered.
    fn takes_over(&self, id: &ReleaseId, deployment: &Deployment, release: &Release) -> Option<bool> {
        let approved = self.view.trust.catalog().approvals().contains_key(&(deployment.group, *id));
        if deployment.approval.action != Action::Install || !approved {
            return Some(false);
        }
        if deployment.phase != Phase::Idle {
            return Some(true);
        }
        if deployment.journal.failed.is_some() {
            return Some(false);
        }
        // Its own detection is not asked then; whatever takes its place takes this one's too.
        if deployment.state == DeploymentState::Superseded {
            return Some(true);
        }
        match deployment.detection.as_ref()? {
            Detection::NotApplicable(_) => Some(false),
            // It may be there: going back over it would be worse than waiting.
            Detection::Present | Detection::Unknown(_) => Some(true),
            Detection::Absent => {
                let facts = self.facts(&deployment.journal);
                let decision = schedule::decide(&deployment.approval, &facts, self.wall());
                let soon = match decision {
                    Decision::Now { .. } => true,
                    Decision::NotBefore { why, .. } => matches!(why, Why::Jitter | Why::Window | Why::ActiveHours),
                    Decision::NotInRings | Decision::Expired => false,
                };
                let allowed = self.view.trust.may_install(id, &deployment.group, self.now.wall).is_ok()
                    && self.view.belongs(&deployment.group).is_ok();
                Some(soon && allowed && self.missing_dependency(release).is_none())
            }
        }
    }

    pub(super) fn missing_dependency(&self, release: &Release) -> Option<String> {
        release.depends.iter().find_map(|needed| {
            let there = self.all.map.get(needed).is_some_and(|d| d.detection == Some(Detection::Present));
            let name = || match self.release(needed) {
                Some(found) => format!("{} {}", found.product, found.version),
                None => format!("release {}, which is not in the catalog", needed.short()),
            };
            (!there).then(name)
        })
    }
}
