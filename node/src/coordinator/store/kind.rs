//! What a row of the fleet store is about. Owns the numbers of kinds on disk.

use upswarm_protocol::ids::DeviceId;

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// How the device is.
    Status = 0,
    /// What is installed on it.
    Inventory = 1,
    /// What it is missing.
    Scan = 2,
}

impl Kind {
    /// Every kind.
    pub(crate) const ALL: [Kind; 3] = [Kind::Status, Kind::Inventory, Kind::Scan];

    pub(super) fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as i64 == number)
    }
}

/// The device and kind of a row.
pub(crate) type Key = (DeviceId, Kind);
