use serde::{Deserialize, Serialize};

use crate::codec::Text;
use crate::ids::{DeviceId, SiteId};
use crate::time::Wall;

/// What a member of a site is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// An office machine.
    Node,
    /// A branch cache: first choice for WAN fetches, keeps what its site may need.
    Cache,
    /// The coordinator itself, which belongs to no site.
    Coordinator,
}

/// The coordinator's word that a key belongs to a device of a site. Peers see it: groups are in the [`super::Assignment`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The device's key.
    pub device: DeviceId,
    /// The site that shares its WAN link.
    pub site: SiteId,
    /// What it is for.
    pub role: NodeRole,
    /// The admin's name for the device, at most 64 bytes; stays between the device and the coordinator when empty.
    pub label: Text<64>,
    /// When it was signed. Of two certificates for one device the later one counts.
    pub issued: Wall,
    /// After this no peer talks to the device.
    pub expires: Wall,
}
