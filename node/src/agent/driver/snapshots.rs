//! Snapshots of repositories that plain apt of this machine is to follow: whoever installs is told of each that is approved here
//! and has begun, whether or not the agent has anything of it to install. It decides nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::{debug, info};
use upswarm_cache::Store;
use upswarm_protocol::catalog::{Recipe, Release};
use upswarm_protocol::ids::{PayloadId, ReleaseId};
use upswarm_protocol::node::{Input, NodeState};
use upswarm_protocol::time::Now;

use crate::privileged::Installer;

/// How often it is looked for snapshots that are not noted yet.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Noted snapshots that are remembered; noting one again changes nothing.
const MAX_NOTED: usize = 1024;

/// What has been noted in this run.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    noted: Arc<Mutex<BTreeSet<ReleaseId>>>,
}

impl Snapshots {
    /// Has the newest snapshot of each upstream noted. Returns what the core must fetch for that.
    pub(super) fn look(&self, state: &NodeState, store: &Arc<Store>, installer: &Installer, now: Now) -> Vec<Input> {
        let mut wanted = Vec::new();
        let mut seen = String::new();
        for (id, release) in state.offers(now) {
            let Some(metadata) = metadata(&release) else { continue };
            // The newest of a product comes first.
            if seen == release.product.as_str() {
                continue;
            }
            seen = release.product.to_string();
            if self.lock().contains(&id) {
                continue;
            }
            let missing: Vec<PayloadId> = metadata.into_iter().filter(|id| !store.is_complete(*id)).collect();
            if !missing.is_empty() {
                wanted.extend(missing.into_iter().map(|payload| Input::Want { payload }));
                continue;
            }
            self.note(state, store, installer, (id, &release));
        }
        wanted
    }

    fn note(&self, state: &NodeState, store: &Arc<Store>, installer: &Installer, snapshot: (ReleaseId, &Release)) {
        let (id, release) = snapshot;
        let name = format!("{} {}", release.product, release.version);
        {
            let mut noted = self.lock();
            if noted.len() >= MAX_NOTED {
                noted.clear();
            }
            noted.insert(id);
        }
        let (noting, noted) = (installer.note(state, |payload| store.path(payload), id), self.noted.clone());
        tokio::spawn(async move {
            match noting.await {
                Ok(()) => info!("noted for apt: {name}"),
                Err(why) => {
                    debug!("not noted for apt yet: {name}: {why}");
                    noted.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                }
            }
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<ReleaseId>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The description and InRelease of a snapshot.
fn metadata(release: &Release) -> Option<[PayloadId; 2]> {
    let Recipe::Apt(recipe) = &release.install else { return None };
    let id = |at: u16| release.payloads.get(usize::from(at)).map(|payload| payload.id);
    Some([id(recipe.upstream)?, id(recipe.in_release)?])
}
