//! What the counters of history hold of one device: its groups, and its state of each release that was approved for them. Owns which
//! state counts as what, and the numbers of states on disk; never adds anything up.

use serde::{Deserialize, Serialize};
use upswarm_protocol::codec;
use upswarm_protocol::report::{DeploymentState, SubState};

const VERSION: u8 = 1;
/// A device has at most 64 groups and 512 deployments.
const MAX_BYTES: usize = 64 << 10;

/// How a state counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// What was decided is so, or does not concern the device.
    Done,
    /// It is not so yet.
    Pending,
    /// It did not work, or stands still.
    Failed,
}

/// Numbers of states in rows; they never change. 0 is a device of which nothing is counted.
const NUMBERS: [(DeploymentState, u8, Class); 15] = {
    use Class::{Done, Failed, Pending};
    use DeploymentState as S;
    [
        (S::Pending, 1, Pending),
        (S::OnHold, 2, Pending),
        (S::Offering, 3, Pending),
        (S::Downloading, 4, Pending),
        (S::Downloaded, 5, Pending),
        (S::Installing, 6, Pending),
        (S::RestartRequired, 7, Pending),
        (S::Installed, 8, Done),
        (S::Uninstalling, 9, Pending),
        (S::Uninstalled, 10, Done),
        (S::Canceled, 11, Pending),
        (S::Superseded, 12, Done),
        (S::Failed, 13, Failed),
        (S::Stalled, 14, Failed),
        (S::NotApplicable, 15, Done),
    ]
};

/// A state's number.
pub(crate) fn number(state: DeploymentState) -> u8 {
    NUMBERS.iter().find(|(known, ..)| *known == state).map_or(0, |(_, number, _)| *number)
}

/// How the state of that number counts; nothing for 0.
pub(crate) fn class(number: i64) -> Option<Class> {
    NUMBERS.iter().find(|(_, known, _)| i64::from(*known) == number).map(|(.., class)| *class)
}

/// One device's state of one release in one group, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) group: u32,
    pub(super) release: u32,
    pub(super) state: u8,
    pub(super) sub_state: SubState,
    pub(super) code: Option<i32>,
}

impl Mark {
    pub(super) fn key(&self) -> (u32, u32) {
        (self.group, self.release)
    }
}

/// What is counted of one device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Counted {
    /// In order.
    pub(super) groups: Box<[u32]>,
    /// In order of group and release, each pair once.
    pub(super) marks: Box<[Mark]>,
}

/// Its row.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u8,
    groups: Vec<u32>,
    marks: Vec<Mark>,
}

impl Counted {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let stored = Stored { version: VERSION, groups: self.groups.to_vec(), marks: self.marks.to_vec() };
        // Its numbers are bounded by those of a device's groups and deployments.
        codec::encode(&stored, MAX_BYTES).unwrap_or_default()
    }

    pub(super) fn restore(bytes: &[u8]) -> Option<Self> {
        let stored: Stored = codec::decode(bytes, MAX_BYTES).ok()?;
        let Stored { version, groups, marks } = stored;
        (version == VERSION).then(|| Self { groups: groups.into(), marks: marks.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_number_of_its_own_and_its_bytes_are_what_they_were() {
        let mut numbers: Vec<u8> = NUMBERS.iter().map(|(_, number, _)| *number).collect();
        numbers.dedup();
        assert_eq!(numbers, (1..=15).collect::<Vec<u8>>());
        assert_eq!((class(0), class(8), class(13)), (None, Some(Class::Done), Some(Class::Failed)));
        let mark = Mark { group: 2, release: 3, state: 13, sub_state: SubState::NoSpace, code: Some(-2) };
        let counted = Counted { groups: [2, 7].into(), marks: [mark].into() };
        let bytes = counted.to_bytes();
        let golden = "01020000000000000002000000070000000100000000000000020000000300000000".to_owned();
        assert_eq!(hex::encode(&bytes)[..64], golden[..64]);
        assert_eq!(Counted::restore(&bytes), Some(counted));
        assert_eq!(Counted::restore(&bytes[1..]), None);
        assert_eq!(Counted::restore(&[]), None);
    }

    #[test]
    fn the_largest_device_fits_its_row() {
        let mark = Mark { group: 1, release: 1, state: 8, sub_state: SubState::None, code: Some(1) };
        let counted = Counted { groups: vec![1; 64].into(), marks: vec![mark; 512].into() };
        assert_eq!(Counted::restore(&counted.to_bytes()), Some(counted));
    }
}
