//! Which groups this device belongs to: the newest assignment that the coordinator signed for it.
//!
//! It owns the rule that an older assignment never takes the place of a later one, over restarts too. It never shows one to a
//! neighbour, and decides nothing about installs.

use super::{NodeState, Record};
use crate::catalog::Assignment;
use crate::ids::{DeviceId, GroupId};
use crate::inventory::{Inventory, NotMember, belongs};
use crate::report::Trouble;
use crate::time::{Now, Wall};
use crate::trust::{Trust, TrustError};
use crate::wire::{Message, SignedBytes};

/// The newest assignment.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    held: Option<Assignment>,
    bytes: Vec<u8>,
    /// Whether today's online keys have signed it, and have not shut this device out.
    stands: bool,
}

/// Why an assignment is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("it is for device {0}")]
    OtherDevice(DeviceId),
    #[error("it is of {given}, and one of {known} is known")]
    Older { given: Wall, known: Wall },
}

impl Assigned {
    /// What an earlier run has written. One that has expired still says which groups there were; one that today's online keys
    /// have not signed says nothing.
    pub(super) fn restore(bytes: Vec<u8>, trust: &Trust, me: DeviceId) -> Result<Self, NotTaken> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let held = trust.check_assignment(&bytes)?;
        if held.device != me {
            return Err(NotTaken::OtherDevice(held.device));
        }
        Ok(Self { held: Some(held), bytes, stands: true })
    }

    /// Takes one that has come. Returns whether it is another than the one before, which is to be written down then.
    pub(super) fn take(&mut self, bytes: &[u8], trust: &Trust, me: DeviceId, wall: Wall) -> Result<bool, NotTaken> {
        let given = trust.check_assignment(bytes)?;
        trust.check_expiry(&given, wall)?;
        if given.device != me {
            return Err(NotTaken::OtherDevice(given.device));
        }
        // What only a key signed that the root has removed since is no bound: whoever stole it would have the last word.
        let known = self.held.as_ref().filter(|_| trust.check_assignment(&self.bytes).is_ok()).map(|held| held.issued);
        match known {
            Some(known) if given.issued < known => Err(NotTaken::Older { given: given.issued, known }),
            Some(known) if given.issued == known => Ok(false),
            _ => {
                (self.held, self.bytes, self.stands) = (Some(given), bytes.to_vec(), true);
                Ok(true)
            }
        }
    }

    /// After a change of the root or of the shut-out devices: what a removed key has signed still says what is kept here, and lets
    /// nothing begin until the coordinator has said it anew.
    pub(super) fn count_again(&mut self, trust: &Trust) {
        self.stands = trust.check_assignment(&self.bytes).is_ok();
    }

    pub(super) fn stands(&self) -> bool {
        self.stands
    }

    /// The device's groups; none before the first assignment.
    pub(super) fn groups(&self) -> &[GroupId] {
        self.held.as_ref().map(|held| &*held.groups).unwrap_or_default()
    }

    pub(super) fn contains(&self, group: &GroupId) -> bool {
        self.groups().contains(group)
    }

    /// Whether this device belongs to a group by what an approver has signed about it. Of a group without a document the
    /// assignment alone tells.
    pub(super) fn belongs(
        &self,
        group: &GroupId,
        trust: &Trust,
        inventory: Option<&Inventory>,
    ) -> Result<(), NotMember> {
        let (Some(known), Some(held)) = (trust.catalog().groups().get(group), &self.held) else { return Ok(()) };
        belongs(&known.document, &held.device, &held.ways, inventory)
    }

    pub(super) fn held(&self) -> Option<&Assignment> {
        self.held.as_ref()
    }

    /// Its envelope; empty for none.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// When it was signed; zero for none.
    pub(super) fn issued(&self) -> Wall {
        self.held.as_ref().map(|held| held.issued).unwrap_or_default()
    }
}

impl NodeState {
    /// What the coordinator is shown of it when the connection stands: then it sends a later one.
    pub(super) fn show_assignment(&mut self, coordinator: DeviceId) {
        let held = SignedBytes::truncated(self.assigned.bytes().to_vec());
        self.send(coordinator, &Message::Assignment(held));
    }

    /// An assignment has come from the coordinator, straight or with an acknowledgement.
    pub(super) fn assignment_arrived(&mut self, bytes: &[u8], now: Now) {
        match self.assigned.take(bytes, &self.trust, self.cx.me, now.wall) {
            Ok(true) => {
                self.cx.persist(Record::Assignment(bytes.to_vec()));
                self.catalog_changed(now);
                self.report_anyway(now);
            }
            Ok(false) | Err(NotTaken::Older { .. }) => {}
            // By keys that a root names which is on its way.
            Err(_) if self.trust.wanted_root().is_some() => {}
            Err(reason) => {
                self.alarm(Trouble::Document, format!("the coordinator sent an assignment that is not good: {reason}"))
            }
        }
    }
}
