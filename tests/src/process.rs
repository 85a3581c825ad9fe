//! Processes in a namespace: started, watched, ended by their id.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::lab::Namespace;

/// A process that was asked to end has this long to do so.
const END_WITHIN: Duration = Duration::from_secs(20);

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Seconds on a core, user and system.
    pub cpu_s: f64,
    /// The most memory it held, in bytes.
    pub peak_rss: u64,
}

/// A process that ends with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a namespace. What it says goes to the end of `log`.
    pub fn start(namespace: &Namespace, name: &str, command: &mut Command, log: &Path) -> Self {
        let open = || File::options().create(true).append(true).open(log);
        let file = open().unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let out = file.try_clone().unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        command.stdin(Stdio::null()).stdout(out).stderr(file);
        let child = namespace.run(|| command.spawn()).unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { child, name: name.to_owned(), log: log.to_owned() }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its last words so far.
    pub fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Panics with its last words if it has ended.
    pub fn must_run(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("{} has ended ({status}):\n{}", self.name, self.last_words());
        }
    }

    /// What it has used so far (proc(5): `stat` in ticks of 1/100 s, `status` in KiB).
    pub fn usage(&self) -> Usage {
        let proc = Path::new("/proc").join(self.id().to_string());
        let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
        // The name in brackets may hold anything; the numbers begin behind it with field 3.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at - 3).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Usage { cpu_s: (ticks(14) + ticks(15)) as f64 / 100.0, peak_rss: peak.unwrap_or(0) * 1024 }
    }

    /// As `kill -9` does.
    pub fn kill(mut self) {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .unwrap_or_else(|error| panic!("killing {}: {error}", self.name));
    }

    /// Asks it to end and waits until it has; panics if it does not.
    pub fn stop(mut self) -> ExitStatus {
        self.ask_to_end();
        self.ended_within(END_WITHIN).unwrap_or_else(|| panic!("{} does not end when asked to", self.name))
    }

    /// Waits for its end.
    pub fn ended_within(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    fn ask_to_end(&self) {
        if let Some(pid) = i32::try_from(self.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
