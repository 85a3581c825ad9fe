//! This process and its machine: who it is, what it may use, since when the system runs.

use std::io;
use std::process::Child;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Lets this process have as many open files and connections as the system allows it: many give 1024 at first.
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Lets everybody read, and only the owner write, what children of this process create without saying who may.
pub(crate) fn set_default_modes() {
    rustix::process::umask(Mode::from_raw_mode(0o022));
}

/// Asks a child to end, as it likes.
pub(crate) fn ask_to_end(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Time since the system was started, and how much of it it slept.
pub(crate) fn uptime() -> (Duration, Duration) {
    let read = |id| Duration::try_from(clock_gettime(id)).unwrap_or_default();
    let (all, awake) = (read(ClockId::Boottime), read(ClockId::Monotonic));
    (all, all.saturating_sub(awake))
}

/// The machine's name on the network; empty when it has none.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
