//! Telling the person at the machine of a restart, and restarting it.
//!
//! ```text
//! DIR/restart   JSON: the run of the operating system in which a restart was last asked for
//! ROOT/var/lib/upswarm/restart   JSON: what would have been done, when recipes work below a ROOT
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::node::RestartOutcome;
use upswarm_protocol::time::Wall;

use super::logind::Logind;
use crate::sys::{self, Access, Ended, Program, find};
use crate::{clock, inventory};

/// `systemctl reboot` comes back at once, and so does `wall`.
const WITHIN: Duration = Duration::from_secs(60);
/// Bytes of what a command printed that a failure quotes.
const QUOTED: usize = 300;

/// How a machine is restarted, and how the person at it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RestartConfig {
    /// Seconds between the notice and the restart, 1 to 86400.
    pub(crate) notice_s: u32,
    /// Program and arguments that restart the machine. Run without a shell.
    pub(crate) command: Vec<String>,
    /// Program and arguments that show a notice; the text is added as the last argument. Without a program the notice is only
    /// written to the file `notice` in the data directory. Run without a shell.
    pub(crate) notify_command: Vec<String>,
}

impl Default for RestartConfig {
    fn default() -> Self {
        let words = |words: [&str; 2]| words.map(str::to_owned).to_vec();
        Self { notice_s: 15 * 60, command: words(["systemctl", "reboot"]), notify_command: words(["wall", "-n"]) }
    }
}

impl RestartConfig {
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        if !(1..=86_400).contains(&self.notice_s) {
            anyhow::bail!("notice_s is {}; it must be 1 to 86400 seconds", self.notice_s);
        }
        if self.command.is_empty() {
            anyhow::bail!("command is empty; write for example [\"systemctl\", \"reboot\"]");
        }
        Ok(())
    }

    pub(crate) fn notice(&self) -> Duration {
        Duration::from_secs(self.notice_s.into())
    }
}

/// What stands in `DIR/restart`.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    boot: String,
    release: ReleaseId,
    at: Wall,
}

/// Restarts this machine.
#[derive(Debug, Clone)]
pub(crate) struct Restarter {
    dir: PathBuf,
    root: Option<PathBuf>,
    config: RestartConfig,
    boot: String,
    logind: Logind,
}

impl Restarter {
    /// Keeps its mark in `dir`. With a `root` it only writes down what it would do.
    pub(crate) fn new(dir: PathBuf, root: Option<PathBuf>, config: RestartConfig) -> Self {
        let boot = inventory::fact(inventory::FACT_BOOT_ID).unwrap_or_default();
        Self { dir, root, config, boot, logind: Logind::of_this_machine() }
    }

    pub(crate) fn config(&self) -> &RestartConfig {
        &self.config
    }

    /// The run of the operating system.
    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    /// Shows a text to whoever is logged in; best effort. Below a root nobody is bothered.
    pub(crate) fn tell(&self, text: &str) {
        let Some((program, args)) = self.config.notify_command.split_first().filter(|_| self.root.is_none()) else {
            return;
        };
        let args: Vec<String> = args.iter().cloned().chain([text.to_owned()]).collect();
        if let Err(why) = run(program, &args) {
            tracing::warn!("the person at the machine was not told: {why}");
        }
    }

    /// Restarts the machine, at most once in each run of the operating system.
    pub(crate) fn restart(&self, release: ReleaseId) -> RestartOutcome {
        let failed = |reason: String| RestartOutcome::Failed { reason };
        let mark = self.dir.join("restart");
        let before: Option<Mark> = std::fs::read(&mark).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if before.is_some_and(|before| before.boot == self.boot) || self.boot.is_empty() {
            return failed("a restart was asked for in this run of the system already".into());
        }
        // Somebody is at something that a restart would break off: it is asked again later.
        if let Some(reason) = self.root.is_none().then(|| self.logind.held_off()).flatten() {
            return RestartOutcome::NotNow { reason };
        }
        let now = Mark { boot: self.boot.clone(), release, at: clock::wall() };
        let written = serde_json::to_vec(&now)
            .map_err(std::io::Error::from)
            .and_then(|bytes| sys::replace(&mark, &bytes, Access::Owner));
        if let Err(error) = written {
            return failed(format!("cannot write {}: {error}", mark.display()));
        }
        if let Some(root) = &self.root {
            return self.record(root, &now).map_or_else(failed, |()| RestartOutcome::Recorded);
        }
        let Some((program, args)) = self.config.command.split_first() else {
            return failed("no command restarts this machine".into());
        };
        tracing::warn!(release = %release.short(), "restarts the machine: {}", self.config.command.join(" "));
        run(program, args).map_or_else(failed, |()| RestartOutcome::Asked)
    }

    fn record(&self, root: &Path, mark: &Mark) -> Result<(), String> {
        let dir = root.join("var/lib/upswarm");
        let text = serde_json::json!({ "release": mark.release, "at": mark.at, "command": self.config.command });
        std::fs::create_dir_all(&dir)
            .and_then(|()| sys::replace(&dir.join("restart"), text.to_string().as_bytes(), Access::Owner))
            .map_err(|error| format!("cannot write in {}: {error}", dir.display()))
    }
}

fn run(program: &str, args: &[String]) -> Result<(), String> {
    let path = if program.starts_with('/') { Some(PathBuf::from(program)) } else { find(program) };
    let path = path.ok_or_else(|| format!("this machine has no program {program}"))?;
    let args = args.iter().map(Into::into).collect();
    let mut said = Vec::new();
    let mut keep = |bytes: &[u8]| said.extend_from_slice(&bytes[..bytes.len().min(QUOTED.saturating_sub(said.len()))]);
    let ended = Program { path: &path, args, env: &[], timeout: WITHIN, cancel: None }.run(&mut keep);
    match ended {
        Ok(Ended::Code(0)) => Ok(()),
        Ok(other) => Err(format!("{program} ended with {other:?}: {}", String::from_utf8_lossy(&said).trim())),
        Err(error) => Err(format!("{} cannot be run: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> RestartConfig {
        let script =
            |name: &str| vec!["/bin/sh".into(), "-c".into(), format!("echo \"$0\" >> '{}'", dir.join(name).display())];
        RestartConfig {
            command: [script("restarts"), vec!["now".into()]].concat(),
            notify_command: script("notices"),
            ..RestartConfig::default()
        }
    }

    #[test]
    fn it_is_asked_for_once_in_each_run_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let restarter = Restarter::new(dir.path().to_owned(), None, config(dir.path()));
        let release = ReleaseId([7; 32]);
        restarter.tell("Save; $(your) work");
        assert_eq!(std::fs::read_to_string(dir.path().join("notices")).unwrap(), "Save; $(your) work\n");
        assert_eq!(restarter.restart(release), RestartOutcome::Asked);
        assert_eq!(std::fs::read_to_string(dir.path().join("restarts")).unwrap(), "now\n");
        let again = Restarter::new(dir.path().to_owned(), None, config(dir.path())).restart(release);
        assert!(matches!(&again, RestartOutcome::Failed { reason } if reason.contains("already")), "{again:?}");
        let next = Restarter { boot: "another".into(), ..restarter };
        assert_eq!(next.restart(release), RestartOutcome::Asked);
        assert_eq!(std::fs::read_to_string(dir.path().join("restarts")).unwrap(), "now\nnow\n");
        let missing = RestartConfig { command: vec!["/nonexistent/reboot".into()], ..RestartConfig::default() };
        let broken = Restarter { boot: "a third".into(), config: missing, ..next };
        assert!(matches!(broken.restart(release), RestartOutcome::Failed { reason } if reason.contains("nonexistent")));
    }

    #[test]
    fn below_a_root_it_is_written_down_only() {
        let (dir, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let restarter = Restarter::new(dir.path().to_owned(), Some(root.path().to_owned()), config(dir.path()));
        restarter.tell("nobody is there");
        assert_eq!(restarter.restart(ReleaseId([7; 32])), RestartOutcome::Recorded);
        let recorded = std::fs::read_to_string(root.path().join("var/lib/upswarm/restart")).unwrap();
        assert!(recorded.contains("/bin/sh") && recorded.contains("0707"), "{recorded}");
        assert!(!dir.path().join("restarts").exists() && !dir.path().join("notices").exists());
    }

    #[test]
    fn whoever_holds_a_restart_off_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let properties = [r#"{"type":"b","data":false}"#, r#"{"type":"(st)","data":["",0]}"#];
        let burns = r#"["shutdown","Brasero","burns a disc","block",1000,3]"#;
        let mut restarter = Restarter::new(dir.path().to_owned(), None, config(dir.path()));
        restarter.logind = super::super::logind::tests::says(dir.path(), burns, properties);
        let release = ReleaseId([7; 32]);
        let reason = "Brasero holds off a restart: burns a disc".to_owned();
        assert_eq!(restarter.restart(release), RestartOutcome::NotNow { reason });
        assert!(!dir.path().join("restarts").exists() && !dir.path().join("restart").exists());
        restarter.logind = super::super::logind::tests::says(dir.path(), "", properties);
        assert_eq!(restarter.restart(release), RestartOutcome::Asked);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(RestartConfig::default().validate().is_ok());
        assert!(RestartConfig { notice_s: 0, ..RestartConfig::default() }.validate().is_err());
        assert!(RestartConfig { command: vec![], ..RestartConfig::default() }.validate().is_err());
    }
}
