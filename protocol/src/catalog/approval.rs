use core::fmt;

use serde::{Deserialize, Serialize};

use crate::codec::{Bounded, Text};
use crate::ids::{GroupId, ReleaseId};
use crate::time::Wall;

/// What is to be done with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Install where it is required.
    Install,
    /// Remove where it is installed.
    Uninstall,
    /// Declined: do nothing, and retire earlier approvals of the same release and group.
    None,
}

/// Minutes since local midnight, 0 to 1440.
pub type MinuteOfDay = u16;

/// Days of the week: bit 0 is Monday, bit 6 is Sunday.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weekdays(pub u8);

impl Weekdays {
    /// Every day.
    pub const ALL: Self = Self(0x7f);
    /// The days as people write them, Monday first.
    pub const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

    /// Whether the day with this offset from Monday (0 to 6) is one of them.
    pub fn contains(self, from_monday: u8) -> bool {
        from_monday < 7 && self.0 >> from_monday & 1 == 1
    }
}

/// A maintenance window in the device's local time. One that ends at or before its start ends on the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Days on which it opens.
    pub days: Weekdays,
    /// When it opens.
    pub start: MinuteOfDay,
    /// When it closes.
    pub end: MinuteOfDay,
}

impl fmt::Display for Window {
    /// `mon-fri 22:00-05:00`, as windows are read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<&str> =
            (0..).zip(Weekdays::NAMES).filter(|(day, _)| self.days.contains(*day)).map(|(_, name)| name).collect();
        match days.as_slice() {
            all if all.len() == Weekdays::NAMES.len() => f.write_str("daily")?,
            ["mon", "tue", "wed", "thu", "fri"] => f.write_str("mon-fri")?,
            some => f.write_str(&some.join(","))?,
        }
        let (start, end) = (self.start, self.end);
        write!(f, " {:02}:{:02}-{:02}:{:02}", start / 60, start % 60, end / 60, end % 60)
    }
}

/// Hours of work in the device's local time, in which nothing is installed unless the deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveHours {
    /// Days of work.
    pub days: Weekdays,
    /// When work begins.
    pub start: MinuteOfDay,
    /// When work ends; at or before `start` means on the next day.
    pub end: MinuteOfDay,
}

/// How often and for how long the person at the machine may put an install off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Deferral {
    /// How many times.
    pub max_times: u8,
    /// For how many seconds in all.
    pub max_total_s: u32,
}

/// How long before a device's turn its bytes may come, and at which hours. From its turn on they come at any hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchAhead {
    /// Seconds before the turn: a rollout that is stopped must not have cost everyone the download.
    pub within_s: u32,
    /// Only in these windows, in the device's local time; none means at any hour.
    pub windows: Bounded<Window, 4>,
}

impl FetchAhead {
    /// An hour.
    pub const WITHIN_S: u32 = 3600;
}

impl Default for FetchAhead {
    fn default() -> Self {
        Self { within_s: Self::WITHIN_S, windows: Bounded::default() }
    }
}

/// When an approved action may and must happen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Schedule {
    /// Nothing is installed before this; bytes may be fetched earlier, as `fetch_ahead` has it.
    pub available_from: Option<Wall>,
    /// From here on windows, active hours and deferral no longer hold it back.
    pub deadline: Option<Wall>,
    /// After the deadline, how many seconds a device that was asleep or off still has before it is forced.
    pub grace_s: u32,
    /// Windows; none means at any time.
    pub windows: Bounded<Window, 16>,
    /// Hours of work to keep clear of.
    pub active_hours: Option<ActiveHours>,
    /// What the person at the machine may put off.
    pub deferral: Deferral,
    /// Starts are spread over this many seconds, by a stable hash of device and release.
    pub jitter_s: u32,
    /// Ignore windows, active hours, deferral, rings and jitter: now.
    pub expedite: bool,
    /// When bytes may come before the device's turn.
    pub fetch_ahead: FetchAhead,
}

/// One stage of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// Devices in this ring and the ones before it, in hundredths of a percent of the group (10000 = all).
    pub up_to: u16,
    /// Seconds after `Approval::issued` at which the ring may begin.
    pub delay_s: u32,
}

/// Stages of a rollout; none means everyone at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RingPlan {
    /// In order; `up_to` and `delay_s` grow.
    pub rings: Bounded<Ring, 16>,
    /// The coordinator holds the approval when failed plus silent devices pass this share of those begun, in hundredths
    /// of a percent; 0 means never.
    pub stop_above: u16,
}

/// What an approver signs for machines without an agent: the Release file of a repository that holds exactly the packages of the
/// approval, and that follows from the rest of the approval and its release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filtered {
    /// OpenPGP signature packet over that file.
    pub signature: Bounded<u8, 512>,
    /// OpenPGP certificate of the approver's repository key.
    pub certificate: Bounded<u8, 1024>,
}

/// The approver's decision: a release, for a group, with a schedule. A newer version of the same (group, release) replaces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The group it is for.
    pub group: GroupId,
    /// The least version of the group's document that must be there. With 0 none need be: then the coordinator's word about who
    /// belongs to the group is enough, as long as there is none.
    pub group_version: u64,
    /// The release it is about.
    pub release: ReleaseId,
    /// Grows with every change for this (group, release).
    pub version: u64,
    /// What to do.
    pub action: Action,
    /// Machines with later versions go back to those of the release. Its release must say so too; without it none goes back.
    pub back: bool,
    /// When it was signed.
    pub issued: Wall,
    /// After this no new install rests on it.
    pub expires: Wall,
    /// When.
    pub schedule: Schedule,
    /// In which stages.
    pub rings: RingPlan,
    /// The admin's remark.
    pub note: Text<256>,
    /// For machines without an agent; nothing where there is no such repository.
    pub filtered: Option<Filtered>,
}
