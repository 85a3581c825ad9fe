//! What is asked of whoever installs: each in a task of its own, with one input when it has ended. It decides nothing.

use tracing::{info, warn};
use upswarm_protocol::catalog::Action;
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::node::Input;
use upswarm_protocol::time::Wall;

use super::Driver;

impl Driver {
    /// Writes the notice where programs of the person at the machine find it, and shows it.
    pub(super) fn tell(&mut self, release: Option<ReleaseId>, text: String, near: bool) {
        let path = self.notice.clone();
        let Some(release) = release else {
            let _ = std::fs::remove_file(&path);
            return;
        };
        info!("{text}");
        if let Err(error) = std::fs::write(&path, format!("{text}\n")) {
            warn!("cannot write {}: {error}", path.display());
        }
        tokio::spawn(self.installer.tell(&self.state, release, text, near));
    }

    pub(super) fn detect(&mut self, release: ReleaseId) {
        let (done, detected) = (self.done.clone(), self.installer.detect(&self.state, release));
        tokio::spawn(async move {
            let result = detected.await;
            let _ = done.send(vec![Input::Detected { release, result }]).await;
        });
    }

    pub(super) fn install(&mut self, release: ReleaseId, action: Action) {
        let installed = self.installer.install(&self.state, |id| self.store.path(id), release, action);
        let done = self.done.clone();
        info!(release = %release.short(), ?action, "begins");
        tokio::spawn(async move {
            let outcome = installed.await;
            info!(release = %release.short(), ?outcome, "ended");
            let _ = done.send(vec![Input::InstallEnded { release, action, outcome }]).await;
        });
    }

    pub(super) fn restart(&mut self, release: ReleaseId) {
        let (done, restarted) = (self.done.clone(), self.installer.restart(&self.state, release));
        tokio::spawn(async move {
            let outcome = restarted.await;
            info!(release = %release.short(), ?outcome, "restart");
            let _ = done.send(vec![Input::RestartEnded { release, outcome }]).await;
        });
    }

    /// Reads what the coordinator has ordered to be told.
    pub(super) fn read_log(&mut self, release: ReleaseId, ordered: Wall, order: Vec<u8>) {
        let (done, read) = (self.done.clone(), self.installer.log(release, order));
        info!(release = %release.short(), "the coordinator asks for the log");
        tokio::spawn(async move {
            let result = read.await;
            let _ = done.send(vec![Input::LogRead { release, ordered, result }]).await;
        });
    }
}
