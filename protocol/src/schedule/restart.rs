//! May the machine be restarted for a release that is installed, and wants it?

use super::{Decision, DeviceFacts, decide};
use crate::catalog::{Approval, RestartPolicy};
use crate::time::Wall;

/// Why a machine is not restarted by itself, whatever the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRestart {
    /// The publisher's word.
    #[error("its publisher leaves the restart to the person at the machine")]
    Policy,
    /// The approver has named no time at which a restart disturbs nobody.
    #[error("the approval names no window, active hours or deadline, and so no time for a restart")]
    NoTime,
}

/// Whether the machine may be restarted now: at the times at which the release may be installed, with the same deferral and the
/// same deadline. An approval that lets installs begin at any time says nothing about restarts, which disturb more; unless it
/// is expedited.
pub fn decide_restart(
    policy: RestartPolicy,
    approval: &Approval,
    facts: &DeviceFacts<'_>,
    now: Wall,
) -> Result<Decision, NoRestart> {
    let schedule = &approval.schedule;
    if policy == RestartPolicy::Never {
        return Err(NoRestart::Policy);
    }
    let timed = !schedule.windows.is_empty() || schedule.active_hours.is_some();
    if !timed && !schedule.expedite {
        // Only the deadline is a time.
        let forced = super::forced_at(schedule, facts, now).ok_or(NoRestart::NoTime)?;
        let decision = decide(approval, facts, now);
        return Ok(match decision {
            Decision::Now { .. } if now < forced => Decision::NotBefore { at: forced, why: super::Why::Deadline },
            other => other,
        });
    }
    Ok(decide(approval, facts, now))
}
