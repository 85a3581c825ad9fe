//! When the installer lets something happen: the approval's schedule by its own clock, zone and notes.
//!
//! ```text
//! DIR/overdue   JSON: since when the deadlines of approvals have been passed on this machine
//! ```
//! What the person at the machine has put off is known to the node alone, and only the node holds back because of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{Approval, RestartPolicy};
use upswarm_protocol::ids::{DeviceId, ReleaseId};
use upswarm_protocol::schedule::{self, Decision, DeviceFacts, Why};
use upswarm_protocol::time::Wall;

use crate::sys::{self, Access};

/// Standing still for longer is sleep.
const SLEPT: Duration = Duration::from_secs(120);
/// Notes that are kept; the oldest go.
const MAX_NOTES: usize = 256;

/// Since when the machine has been on and awake.
#[derive(Debug, Clone)]
pub(super) struct Awake(Arc<Mutex<(Wall, Duration)>>);

impl Awake {
    /// Of a machine that has not slept since it was started, since then; else since now.
    pub(super) fn start(wall: Wall) -> Self {
        let (up, slept) = sys::uptime();
        let since = if slept < SLEPT { Wall(wall.0.saturating_sub(up.as_millis() as u64)) } else { wall };
        Self(Arc::new(Mutex::new((since, slept))))
    }

    /// Notices sleep; to be called often.
    pub(super) fn look(&self, wall: Wall) -> Wall {
        let (_, slept) = sys::uptime();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slept.saturating_sub(state.1) > SLEPT {
            state.0 = wall;
        }
        state.1 = slept;
        state.0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    release: ReleaseId,
    version: u64,
    since: Wall,
}

/// The schedule's side of the gate.
#[derive(Debug)]
pub(super) struct Timing {
    dir: PathBuf,
    device: DeviceId,
    zone: TimeZone,
    awake: Awake,
    notes: Vec<Note>,
}

impl Timing {
    pub(super) fn open(dir: &Path, device: DeviceId, zone: TimeZone, awake: Awake) -> Self {
        // Without the notes a machine has its grace once more.
        let notes = fs::read(dir.join("overdue")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { dir: dir.to_owned(), device, zone, awake, notes: notes.unwrap_or_default() }
    }

    /// Whether the approval lets its action begin at this time. The error says what it waits for.
    pub(super) fn may_begin(&mut self, approval: &Approval, wall: Wall) -> Result<(), String> {
        let facts = self.facts(approval, wall)?;
        allowed(schedule::decide(approval, &facts, wall))
    }

    /// Whether the approval's time on this device has begun: its ring has. Windows and hours of work are no part of that.
    pub(super) fn has_begun(&mut self, approval: &Approval, wall: Wall) -> Result<(), String> {
        let facts = self.facts(approval, wall)?;
        match schedule::decide(approval, &facts, wall) {
            Decision::NotBefore { why, .. } if !matches!(why, Why::AvailableFrom | Why::Ring { .. }) => Ok(()),
            decision => allowed(decision),
        }
    }

    /// Whether the machine may be restarted at this time.
    pub(super) fn may_restart(&mut self, policy: RestartPolicy, approval: &Approval, wall: Wall) -> Result<(), String> {
        let facts = self.facts(approval, wall)?;
        allowed(schedule::decide_restart(policy, approval, &facts, wall).map_err(|no| no.to_string())?)
    }

    fn facts(&mut self, approval: &Approval, wall: Wall) -> Result<DeviceFacts<'_>, String> {
        let known = |note: &&Note| note.release == approval.release && note.version == approval.version;
        let noted = self.notes.iter().find(known).map(|note| note.since);
        let awake_since = self.awake.look(wall);
        let Self { device, zone, .. } = self;
        let facts = DeviceFacts { device: *device, zone, awake_since, overdue_since: noted, deferred: None };
        let overdue_since = schedule::overdue_since(&approval.schedule, &facts, wall);
        if let Some(since) = overdue_since.filter(|_| overdue_since != noted) {
            self.notes.retain(|note| note.release != approval.release);
            self.notes.push(Note { release: approval.release, version: approval.version, since });
            let excess = self.notes.len().saturating_sub(MAX_NOTES);
            self.notes.drain(..excess);
            serde_json::to_vec(&self.notes)
                .map_err(std::io::Error::from)
                .and_then(|bytes| sys::replace(&self.dir.join("overdue"), &bytes, Access::Owner))
                .map_err(|error| format!("the installer cannot write in {}: {error}", self.dir.display()))?;
        }
        Ok(DeviceFacts { device: self.device, zone: &self.zone, awake_since, overdue_since, deferred: None })
    }
}

fn allowed(decision: Decision) -> Result<(), String> {
    match decision {
        Decision::Now { .. } => Ok(()),
        Decision::NotBefore { at, why } => Err(format!("{why}; not before {at} by the installer's clock and zone")),
        Decision::NotInRings => Err("the rollout has no ring for this device".into()),
        Decision::Expired => Err("the approval has expired".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use upswarm_protocol::catalog::{Action, RingPlan, Schedule, Weekdays, Window};
    use upswarm_protocol::codec::{Bounded, Text};
    use upswarm_protocol::ids::GroupId;

    const HOUR: Duration = Duration::from_secs(3600);
    /// A Monday, 00:00 UTC.
    const MONDAY: Wall = Wall(1_799_625_600_000);

    fn approval() -> Approval {
        let night = Window { days: Weekdays::ALL, start: 22 * 60, end: 23 * 60 };
        let schedule = Schedule {
            deadline: Some(MONDAY + 8 * HOUR),
            grace_s: 3600,
            windows: Bounded::new(vec![night]).unwrap(),
            ..Schedule::default()
        };
        Approval {
            group: GroupId([1; 16]),
            group_version: 0,
            release: ReleaseId([2; 32]),
            version: 1,
            action: Action::Install,
            back: false,
            issued: MONDAY - HOUR,
            expires: MONDAY + 1000 * HOUR,
            schedule,
            rings: RingPlan::default(),
            note: Text::default(),
            filtered: None,
        }
    }

    #[test]
    fn the_grace_after_sleep_is_given_once() {
        let dir = tempfile::tempdir().unwrap();
        let (_, slept) = sys::uptime();
        let at = |hours: u32| MONDAY + hours * HOUR;
        let open = |awake: Wall| {
            let awake = Awake(Arc::new(Mutex::new((awake, slept))));
            Timing::open(dir.path(), DeviceId([3; 32]), TimeZone::UTC, awake)
        };
        // Awake at the deadline: no grace. Before it, the window counts.
        let mut timing = open(at(0));
        let early = timing.may_begin(&approval(), at(7)).unwrap_err();
        assert!(early.contains("outside the maintenance windows"), "{early}");
        assert_eq!(timing.may_begin(&approval(), at(8)), Ok(()));
        fs::remove_file(dir.path().join("overdue")).unwrap();
        // Asleep then: an hour from when it woke, whatever it does after that.
        assert!(open(at(10)).may_begin(&approval(), at(10)).is_err());
        let mut later = open(at(14));
        assert_eq!(later.may_begin(&approval(), at(14)), Ok(()), "its grace was over at eleven");
        // Another version of the approval has a grace of its own.
        assert!(later.may_begin(&Approval { version: 2, ..approval() }, at(14)).is_err());
    }

    #[test]
    fn the_zone_is_the_installers() {
        let dir = tempfile::tempdir().unwrap();
        let berlin = schedule::zone("Europe/Berlin").unwrap();
        let (since, slept) = (MONDAY, sys::uptime().1);
        let mut timing =
            Timing::open(dir.path(), DeviceId([3; 32]), berlin, Awake(Arc::new(Mutex::new((since, slept)))));
        let mut approval = approval();
        approval.schedule.deadline = None;
        let half = Duration::from_secs(1800);
        assert_eq!(timing.may_begin(&approval, MONDAY + 21 * HOUR + half), Ok(()));
        assert!(timing.may_begin(&approval, MONDAY + 22 * HOUR + half).is_err());
        // A restart needs a time too, and the publisher's leave.
        let restart =
            |timing: &mut Timing, policy, hour: u32| timing.may_restart(policy, &approval, MONDAY + hour * HOUR + half);
        assert_eq!(restart(&mut timing, RestartPolicy::Always, 21), Ok(()));
        assert!(restart(&mut timing, RestartPolicy::Always, 22).is_err());
        assert!(restart(&mut timing, RestartPolicy::Never, 21).is_err());
    }
}
