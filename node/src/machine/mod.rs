//! What the machine runs on: its power, and its link to the WAN; and how it is restarted. What Linux tells is read here and
//! nowhere else; what follows from it, the core decides.

mod link;
mod logind;
mod power;
mod restart;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use upswarm_protocol::node::Conditions;

use link::Links;
pub(crate) use logind::Logind;
pub(crate) use restart::{RestartConfig, Restarter};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(30);

/// Whether the link to the WAN is paid by volume, as node.toml says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Metered {
    /// As NetworkManager knows it; without it, mobile broadband is metered and everything else is not.
    #[default]
    Auto,
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// Reads the conditions again and again.
#[derive(Debug)]
struct Machine {
    /// Stands for `/`; the running system, if none.
    root: Option<PathBuf>,
    metered: Metered,
    links: Links,
}

impl Machine {
    fn read(&mut self) -> Conditions {
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        let link = self.links.read(root, self.root.is_none() && self.metered == Metered::Auto);
        let metered = match self.metered {
            Metered::Auto => link.metered,
            Metered::Yes => true,
            Metered::No => false,
        };
        Conditions { power: power::read(root), wireless: link.wireless, metered }
    }
}

/// A task that looks twice a minute. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct MachineWatch {
    changes: mpsc::Receiver<Conditions>,
    look: Arc<Notify>,
}

impl MachineWatch {
    /// Looks at once, and then again and again. Below `root`, if there is one, lie the `sys` and `proc` that count.
    pub(crate) fn start(root: Option<PathBuf>, metered: Metered) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let look = Arc::new(Notify::new());
        tokio::spawn(watch(Machine { root, metered, links: Links::default() }, sender, look.clone()));
        Self { changes, look }
    }

    /// Completes with the first conditions, and then with each that differ from the ones before. Dropping the future loses
    /// nothing.
    pub(crate) async fn changed(&mut self) -> Conditions {
        match self.changes.recv().await {
            Some(conditions) => conditions,
            None => std::future::pending().await,
        }
    }

    /// Asks for a look without delay.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }
}

async fn watch(mut machine: Machine, changes: mpsc::Sender<Conditions>, look: Arc<Notify>) {
    let mut last = None;
    loop {
        let Ok(place) = changes.reserve().await else { return };
        let read = tokio::task::spawn_blocking(move || {
            let conditions = machine.read();
            (machine, conditions)
        });
        // Ends only with the runtime.
        let Ok((back, conditions)) = read.await else { return };
        machine = back;
        if last != Some(conditions) {
            last = Some(conditions);
            place.send(conditions);
        } else {
            drop(place);
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = look.notified() => {}
            () = changes.closed() => return,
        }
    }
}

/// What a small file below the root holds; nothing when there is no such file.
fn value(root: &Path, path: &str) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(root.join(path)).ok()?.take(64 << 10).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use upswarm_protocol::node::Power;

    #[tokio::test]
    async fn a_watch_tells_changes_only() {
        let dir = tempfile::tempdir().unwrap();
        let battery = dir.path().join("sys/class/power_supply/BAT0");
        std::fs::create_dir_all(&battery).unwrap();
        let write = |file: &str, text: &str| std::fs::write(battery.join(file), text).unwrap();
        write("type", "Battery\n");
        write("status", "Discharging\n");
        write("capacity", "12\n");
        let mut watch = MachineWatch::start(Some(dir.path().to_owned()), Metered::Yes);
        let first = watch.changed().await;
        assert_eq!(first, Conditions { power: Power::Battery { percent: 12 }, wireless: false, metered: true });
        // Nothing has changed, then the mains are back.
        watch.look();
        write("status", "Charging\n");
        watch.look();
        assert_eq!(watch.changed().await, Conditions { power: Power::Mains, ..first });
    }
}
