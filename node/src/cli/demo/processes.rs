//! Child processes of this program: verbs that end, and servers that run until they are told to stop.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use serde_json::Value;

use crate::sys;

/// A server that was asked to stop has this long to do so.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// This program, and where its children write their logs.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    logs: PathBuf,
}

impl Program {
    pub(super) fn this(home: &Path) -> anyhow::Result<Self> {
        let logs = home.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(Self { path: std::env::current_exe().context("cannot find this program")?, logs })
    }

    /// Runs a verb with `--json` and returns what it printed last.
    pub(super) async fn verb(&self, args: &[&str]) -> anyhow::Result<Value> {
        let ran = tokio::process::Command::new(&self.path).args(args).arg("--json").stdin(Stdio::null()).output().await;
        let output = ran.with_context(|| format!("cannot run {}", self.path.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(anyhow!("upswarm {} {} failed: {}", args[0], args[1], said.trim()));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("null");
        serde_json::from_str(last).with_context(|| format!("upswarm {} printed no JSON", args[0]))
    }

    /// Starts a server; what it says goes to its log, behind what it said in an earlier run.
    pub(super) fn start(&self, name: &str, args: &[&str]) -> anyhow::Result<Process> {
        let path = self.logs.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot open {}", path.display()))?;
        let child = Command::new(&self.path)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Process { child })
    }
}

/// A running child. Ends with this value, whatever happens.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
}

impl Process {
    /// As kill -9 does.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).map(drop).context("cannot kill a process")
    }

    pub(super) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        sys::ask_to_end(&self.child);
        let deadline = Instant::now() + STOP_WITHIN;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
