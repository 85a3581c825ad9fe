//! When the machine has changed under a deployment: its detection is asked again at once, not at the next regular time.

use super::{Deployments, Phase};
use crate::ids::ReleaseId;
use crate::node_state::{Detection, NodeState};
use crate::report::DeploymentState;
use crate::time::Now;

impl Deployments {
    /// What detection found last.
    pub(in crate::node_state) fn detection(&self, release: &ReleaseId) -> Option<&Detection> {
        self.map.get(release)?.detection.as_ref()
    }

    /// Whether the release is deployed here, so that its detection is run for that.
    pub(in crate::node_state) fn looks_for(&self, release: &ReleaseId) -> bool {
        self.map
            .get(release)
            .is_some_and(|d| d.detecting || !matches!(d.state, DeploymentState::Superseded | DeploymentState::Canceled))
    }
}

impl NodeState {
    /// What was found of these releases is doubtful. A recipe that runs is let run: it ends with a new look anyway.
    pub(in crate::node_state) fn detect_again(&mut self, releases: &[ReleaseId], now: Now) {
        let mut any = false;
        for release in releases {
            if let Some(deployment) = self.deployments.map.get_mut(release)
                && deployment.phase == Phase::Idle
                && !deployment.detecting
            {
                deployment.detection = None;
                any = true;
            }
        }
        if any {
            self.advance_all(now);
        }
    }
}
