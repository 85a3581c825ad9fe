//! What a group is: its name and who belongs to it, signed by those whom the root lets say that.
//!
//! The coordinator alone assigns machines to groups. A group's document bounds what it can do with that: a machine that the
//! document does not admit installs nothing for the group, whatever its assignment says. A document has no end: it only restrains,
//! and everything that is done because of it rests on an approval, which has one.
//!
//! The list of a group is a Merkle tree as in RFC 6962 over its devices, sorted by key. Each leaf is blinded by a secret of its own,
//! so that the way from one leaf to the root tells nothing of its neighbours.
//!
//! ```text
//! leaf = BLAKE3-derive-key("upswarm group leaf v1", device 32 | blind 16)
//! node = BLAKE3-derive-key("upswarm group node v1", left 32 | right 32)
//! ```

use serde::{Deserialize, Serialize};

use crate::codec::{Bounded, Text};
use crate::ids::{DeviceId, GroupId};
use crate::time::Wall;

/// The most devices of a list.
pub const MAX_LISTED: usize = 1 << MAX_STEPS;
/// The most conditions of a rule.
pub const MAX_RULE: usize = 16;
/// The most groups with lists that one device is in: the ways to their roots travel with its assignment.
pub const MAX_WAYS: usize = 12;
/// Steps from a leaf to the root.
const MAX_STEPS: usize = 16;

const LEAF: &str = "upswarm group leaf v1";
const NODE: &str = "upswarm group node v1";

/// What a group is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDocument {
    /// Its number.
    pub group: GroupId,
    /// Grows with every change.
    pub version: u64,
    /// What people call it.
    pub name: Text<64>,
    /// When it was signed.
    pub issued: Wall,
    /// Who belongs to it.
    pub members: Members,
}

/// Who belongs to a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Members {
    /// Whomever the coordinator assigns. Nothing is removed or taken back to an earlier version for such a group.
    Listed,
    /// Machines whose own inventory fulfils all of these conditions.
    Rule(Bounded<Text<600>, MAX_RULE>),
    /// The devices of a list.
    List(ListRoot),
}

/// The root of a list's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRoot {
    /// The root's hash.
    pub root: [u8; 32],
    /// How many devices it has.
    pub devices: u32,
}

/// The way from one device to the root of a group's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListWay {
    /// The group.
    pub group: GroupId,
    /// The device's place in the list.
    pub place: u32,
    /// Its blind.
    pub blind: [u8; 16],
    /// The other side of each step, from the leaf up.
    pub steps: Bounded<[u8; 32], MAX_STEPS>,
}

/// The devices of a list, and the secret that their blinds come from. Whoever has it can tell who is in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceList {
    /// Of this list alone.
    pub secret: [u8; 32],
    /// Sorted, none twice.
    pub devices: Bounded<DeviceId, MAX_LISTED>,
}

impl DeviceList {
    /// The list of these devices.
    pub fn new(secret: [u8; 32], devices: impl IntoIterator<Item = DeviceId>) -> Option<Self> {
        let mut devices: Vec<DeviceId> = devices.into_iter().collect();
        devices.sort_unstable();
        devices.dedup();
        Some(Self { secret, devices: Bounded::new(devices).ok()? })
    }

    /// Whether the devices are in order, as every list must be before it is used.
    pub fn is_ordered(&self) -> bool {
        self.devices.windows(2).all(|pair| pair.first() < pair.last())
    }

    /// Its tree.
    pub fn tree(&self) -> ListTree {
        let leaves: Vec<_> = self.devices.iter().map(|device| leaf(device, &self.blind(device))).collect();
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            // The last of an odd number goes up alone: the shape of RFC 6962.
            let above = below.chunks(2).filter_map(|pair| match pair {
                [left, right] => Some(node(left, right)),
                [alone] => Some(*alone),
                _ => None,
            });
            let above = above.collect();
            levels.push(above);
        }
        ListTree { list: self.clone(), levels }
    }

    fn blind(&self, device: &DeviceId) -> [u8; 16] {
        let hash = blake3::keyed_hash(&self.secret, device.as_bytes());
        let mut blind = [0; 16];
        blind.copy_from_slice(&hash.as_bytes()[..16]);
        blind
    }
}

/// A list with its whole tree, to find ways in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListTree {
    list: DeviceList,
    /// From the leaves to the root.
    levels: Vec<Vec<[u8; 32]>>,
}

impl ListTree {
    /// The list.
    pub fn list(&self) -> &DeviceList {
        &self.list
    }

    /// The root; zeros for a list of nobody.
    pub fn root(&self) -> ListRoot {
        let top = self.levels.last().and_then(|level| level.first()).copied();
        ListRoot { root: top.unwrap_or_default(), devices: self.list.devices.len() as u32 }
    }

    /// The way of a device of the list.
    pub fn way(&self, group: GroupId, device: &DeviceId) -> Option<ListWay> {
        let place = self.list.devices.binary_search(device).ok()?;
        let beside = |(height, level): (usize, &Vec<[u8; 32]>)| level.get((place >> height) ^ 1).copied();
        let steps = self.levels.iter().enumerate().filter_map(beside).collect();
        Some(ListWay { group, place: place as u32, blind: self.list.blind(device), steps: Bounded::truncated(steps) })
    }
}

impl ListRoot {
    /// Whether this is the way of this device to this root (RFC 9162, section 2.1.3.2).
    pub fn holds(&self, device: &DeviceId, way: &ListWay) -> bool {
        let (mut at, Some(mut last)) = (way.place, self.devices.checked_sub(1)) else { return false };
        if at > last {
            return false;
        }
        let mut hash = leaf(device, &way.blind);
        for step in way.steps.iter() {
            if last == 0 {
                return false;
            }
            if at & 1 == 1 || at == last {
                hash = node(step, &hash);
                while at & 1 == 0 && at != 0 {
                    (at, last) = (at >> 1, last >> 1);
                }
            } else {
                hash = node(&hash, step);
            }
            (at, last) = (at >> 1, last >> 1);
        }
        last == 0 && hash == self.root
    }
}

fn leaf(device: &DeviceId, blind: &[u8; 16]) -> [u8; 32] {
    *blake3::Hasher::new_derive_key(LEAF).update(device.as_bytes()).update(blind).finalize().as_bytes()
}

fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    *blake3::Hasher::new_derive_key(NODE).update(left).update(right).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId([7; 16]);

    fn device(number: u32) -> DeviceId {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        DeviceId(key)
    }

    fn list(count: u32) -> DeviceList {
        DeviceList::new([9; 32], (0..count).rev().map(device)).unwrap()
    }

    #[test]
    fn every_device_of_a_list_finds_the_root_and_nobody_else_does() {
        for count in (1..=33).chain([64, 100, 257]) {
            let (tree, stranger) = (list(count).tree(), device(count + 1));
            let root = tree.root();
            for device in tree.list().devices.iter() {
                let way = tree.way(GROUP, device).unwrap();
                assert!(root.holds(device, &way), "{count} devices, {device}");
                assert!(!root.holds(&stranger, &way), "{count} devices, the way of {device} for a stranger");
                let other_place = ListWay { place: way.place ^ 1, ..way.clone() };
                assert!(!root.holds(device, &other_place), "{count} devices, {device} at another place");
                let mut longer = way.steps.clone().into_vec();
                longer.push([0; 32]);
                assert!(!root.holds(device, &ListWay { steps: Bounded::truncated(longer), ..way.clone() }));
                if let Some((_, shorter)) = way.steps.split_last() {
                    let shorter = Bounded::truncated(shorter.to_vec());
                    assert!(!root.holds(device, &ListWay { steps: shorter, ..way.clone() }));
                }
                let more = ListRoot { devices: count + 1, ..root };
                let ways_differ = (count + 1).next_power_of_two() != count.next_power_of_two();
                assert!(!ways_differ || !more.holds(device, &way), "{count} devices, said to be one more");
            }
            assert_eq!(tree.way(GROUP, &stranger), None);
        }
        assert!(
            !ListRoot { root: [0; 32], devices: 0 }.holds(&device(1), &list(1).tree().way(GROUP, &device(0)).unwrap())
        );
    }

    #[test]
    fn a_node_is_no_leaf_and_a_way_does_not_tell_who_the_neighbours_are() {
        let (list, way) = (list(2), list(2).tree().way(GROUP, &device(0)).unwrap());
        // The neighbour's leaf is in the way; whoever guesses its key cannot tell without its blind.
        assert_ne!(way.steps[0], leaf(&device(1), &way.blind));
        assert_ne!(way.steps[0], leaf(&device(1), &[0; 16]));
        assert_eq!(way.steps[0], leaf(&device(1), &list.blind(&device(1))));
        let other = DeviceList { secret: [8; 32], ..list.clone() };
        assert_ne!(other.tree().root(), list.tree().root());
        // One device of the whole, and the root taken for a leaf.
        let one = ListRoot { root: list.tree().root().root, devices: 1 };
        assert!(!one.holds(&device(0), &ListWay { steps: Bounded::default(), ..way }));
    }

    #[test]
    fn a_list_is_in_order_or_is_told() {
        assert!(list(5).is_ordered() && list(0).is_ordered() && list(1).is_ordered());
        let swapped = DeviceList { secret: [1; 32], devices: Bounded::new(vec![device(2), device(1)]).unwrap() };
        let twice = DeviceList { secret: [1; 32], devices: Bounded::new(vec![device(1), device(1)]).unwrap() };
        assert!(!swapped.is_ordered() && !twice.is_ordered());
    }
}
