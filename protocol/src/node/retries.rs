//! Orders of the coordinator that a release be tried again, on their way through the site and as far as they concern this device.
//!
//! It checks that the coordinator signed them and passes each on once; whether anything is to be tried is the deployments' word.

use std::collections::VecDeque;

use super::NodeState;
use crate::envelope::{Envelope, Kind, Role};
use crate::ids::{DeviceId, DocHash};
use crate::wire::{Message, RetryOrder, SignedBytes};

/// Orders that are remembered by what was signed, so that each is acted on and passed on once, whatever signatures somebody adds to
/// it on its way. One that was forgotten and comes again costs what
/// [`super::Deployments::retry_ordered`] lets it.
const MAX_SEEN: usize = 256;

/// The orders that have come, the latest last.
#[derive(Debug, Default)]
pub(super) struct Retries {
    seen: VecDeque<DocHash>,
}

impl Retries {
    fn knows(&self, order: &DocHash) -> bool {
        self.seen.contains(order)
    }

    fn remember(&mut self, order: DocHash) {
        if self.seen.len() == MAX_SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(order);
    }
}

impl NodeState {
    /// An order has come from a neighbour or from the coordinator. A bad one is dropped without a word against its bearer, who
    /// may know another root.
    pub(super) fn retry_ordered(&mut self, from: DeviceId, bytes: SignedBytes<1024>) {
        let online = &self.trust.root().online;
        let Ok(envelope) = Envelope::parse(&bytes, Kind::Retry, Role::Online) else { return };
        let order = DocHash::of(envelope.unverified_body());
        if self.retries.knows(&order) {
            return;
        }
        let Ok(verified) = envelope.verify(online) else { return };
        let Ok(RetryOrder { release, group, device, .. }) = verified.decode() else { return };
        self.retries.remember(order);
        let neighbours: Vec<_> = self.peers.members().map(|(device, _)| *device).filter(|peer| *peer != from).collect();
        let message = Message::Retry(bytes);
        neighbours.into_iter().for_each(|peer| self.send(peer, &message));
        if device.is_none_or(|device| device == self.cx.me) {
            self.deployments.retry_ordered(release, group, &mut self.cx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_remembered_and_few_are() {
        let mut retries = Retries::default();
        let order = |number: u16| DocHash::of(&number.to_le_bytes());
        for number in 0..1000 {
            assert!(!retries.knows(&order(number)));
            retries.remember(order(number));
            assert!(retries.knows(&order(number)) && retries.seen.len() <= MAX_SEEN);
        }
        assert!(retries.knows(&order(999 - MAX_SEEN as u16 + 1)));
    }
}
