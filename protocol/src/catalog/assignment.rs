use serde::{Deserialize, Serialize};

use super::group::{ListWay, MAX_WAYS};
use crate::codec::Bounded;
use crate::ids::{DeviceId, GroupId};
use crate::time::Wall;

/// The coordinator's word that a device belongs to these groups and to no others. It goes to the device alone: a peer has no need of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The device's key.
    pub device: DeviceId,
    /// Its groups, by opaque number.
    pub groups: Bounded<GroupId, 64>,
    /// For each of them that has a list: how the device shows that it is in it.
    pub ways: Bounded<ListWay, MAX_WAYS>,
    /// When it was signed. Of two assignments for one device the later one counts.
    pub issued: Wall,
    /// After this nothing new is installed because of it.
    pub expires: Wall,
}
