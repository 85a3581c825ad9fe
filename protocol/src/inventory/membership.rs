//! Whether a device belongs to a group, by what an approver has signed about the group. Owns that one question, for the node and for
//! the privileged installer alike; the coordinator's assignment is asked for elsewhere, and counts beside this.

use super::{Conditions, Machine};
use crate::catalog::{GroupDocument, ListWay, Members};
use crate::ids::DeviceId;

/// Why a device does not belong to a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMember {
    /// What is installed here has not been looked at yet.
    #[error("who belongs to the group {group:?} follows from what is installed, which has not been looked at yet")]
    NotScanned {
        /// The group's signed name.
        group: String,
    },
    /// A condition of the group does not hold.
    #[error("this machine is not in the group {group:?}, whose rule is {rule}")]
    Rule {
        /// The group's signed name.
        group: String,
        /// The rule.
        rule: String,
    },
    /// A condition that this version cannot read.
    #[error("the rule of the group {group:?} cannot be read here: {reason}; this program may be too old")]
    Unreadable {
        /// The group's signed name.
        group: String,
        /// Why.
        reason: String,
    },
    /// It is not in the list, or nobody has shown it the way.
    #[error("this machine is not in the list of the group {group:?} that an approver signed")]
    List {
        /// The group's signed name.
        group: String,
    },
}

/// Whether the group's document admits this device, with the ways that its assignment brought and what is installed on it.
pub fn belongs(
    document: &GroupDocument,
    device: &DeviceId,
    ways: &[ListWay],
    machine: Option<&impl Machine>,
) -> Result<(), NotMember> {
    let group = || document.name.to_string();
    match &document.members {
        Members::Listed => Ok(()),
        Members::Rule(texts) => {
            let machine = machine.ok_or_else(|| NotMember::NotScanned { group: group() })?;
            let conditions = Conditions::parse(texts)
                .map_err(|error| NotMember::Unreadable { group: group(), reason: error.to_string() })?;
            if conditions.hold(machine) {
                return Ok(());
            }
            let rule: Vec<String> = texts.iter().map(|text| text.to_string()).collect();
            Err(NotMember::Rule { group: group(), rule: rule.join(" and ") })
        }
        Members::List(list) => {
            let shown = ways.iter().filter(|way| way.group == document.group).any(|way| list.holds(device, way));
            if shown { Ok(()) } else { Err(NotMember::List { group: group() }) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::DeviceList;
    use crate::codec::{Bounded, Text};
    use crate::ids::GroupId;
    use crate::inventory::Inventory;
    use crate::time::Wall;

    const GROUP: GroupId = GroupId([1; 16]);
    const ME: DeviceId = DeviceId([5; 32]);

    fn group(members: Members) -> GroupDocument {
        GroupDocument { group: GROUP, version: 1, name: Text::lossy("web"), issued: Wall(1), members }
    }

    fn rule(texts: &[&str]) -> GroupDocument {
        group(Members::Rule(Bounded::new(texts.iter().map(|text| Text::lossy(text)).collect()).unwrap()))
    }

    fn debian() -> Inventory {
        let mut inventory = Inventory::default();
        inventory.set_fact(Text::lossy("os.id"), Some(Text::lossy("debian"))).unwrap();
        inventory
    }

    #[test]
    fn a_rule_is_held_against_this_machine() {
        let of = |document: &GroupDocument, inventory: Option<&Inventory>| belongs(document, &ME, &[], inventory);
        assert_eq!(of(&rule(&["os.id=debian"]), Some(&debian())), Ok(()));
        assert!(matches!(of(&rule(&["os.id=debian"]), None), Err(NotMember::NotScanned { .. })));
        assert!(matches!(of(&rule(&["os.id=debian", "os.version=12"]), Some(&debian())), Err(NotMember::Rule { .. })));
        // What cannot be read admits nobody.
        assert!(matches!(of(&rule(&["package:a>"]), Some(&debian())), Err(NotMember::Unreadable { .. })));
        assert!(matches!(of(&rule(&[]), Some(&debian())), Err(NotMember::Unreadable { .. })));
        assert_eq!(of(&group(Members::Listed), None), Ok(()));
    }

    #[test]
    fn a_list_wants_the_way_of_this_device_in_this_group() {
        let tree = DeviceList::new([3; 32], [ME, DeviceId([6; 32]), DeviceId([7; 32])]).unwrap().tree();
        let document = group(Members::List(tree.root()));
        let of = |device: &DeviceId, ways: &[ListWay]| belongs(&document, device, ways, None::<&Inventory>);
        let mine = tree.way(GROUP, &ME).unwrap();
        assert_eq!(of(&ME, std::slice::from_ref(&mine)), Ok(()));
        let theirs = tree.way(GROUP, &DeviceId([6; 32])).unwrap();
        let elsewhere = ListWay { group: GroupId([2; 16]), ..mine };
        for ways in [vec![], vec![theirs], vec![elsewhere]] {
            assert!(matches!(of(&ME, &ways), Err(NotMember::List { .. })), "{ways:?}");
        }
    }
}
