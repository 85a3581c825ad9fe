//! What is installed on machines, and what it costs to tell.

use std::sync::Arc;

use upswarm_protocol::codec;
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::inventory::Inventory;
use upswarm_protocol::node::Input;
use upswarm_protocol::report::DeviceMessage;

use super::World;

impl World {
    /// The machine is as this inventory says, and is looked at.
    pub fn set_system(&mut self, node: usize, inventory: Inventory) {
        self.machines[node].disk.system = Some(Arc::new(inventory));
        self.scan(node);
    }

    /// The machine is looked at.
    pub fn scan(&mut self, node: usize) {
        if let Some(inventory) = self.machines[node].disk.system.clone() {
            self.input(node, Input::Inventory { inventory });
        }
    }

    /// Whether the coordinator holds the inventories of these machines as they are, and a scan of as many releases as are
    /// published.
    pub fn inventories_agree(&self, nodes: impl IntoIterator<Item = usize>) -> bool {
        nodes.into_iter().all(|node| {
            let machine = &self.machines[node];
            let held = self.hub.state.inventory(&machine.device);
            let scan = self.hub.state.scan(&machine.device);
            let told = scan.map_or(0, |scan| scan.counts.iter().sum::<u32>() as usize);
            match (held, &machine.disk.system) {
                (Some(held), Some(system)) => held.digest == system.digest() && told == self.releases.len(),
                (held, system) => held.is_none() && system.is_none(),
            }
        })
    }

    /// Counts a report that has reached the coordinator. In a simulation nothing is encrypted; encryption adds 48 bytes more.
    pub(super) fn count_told(&mut self, report: &[u8]) {
        let Ok(envelope) = Envelope::parse(report, Kind::Report, Role::Device) else { return };
        let Ok(message) = codec::decode::<DeviceMessage>(envelope.unverified_body(), Kind::Report.cap()) else {
            return;
        };
        let at = match message {
            DeviceMessage::Status(_) => 0,
            DeviceMessage::Inventory(_) => 1,
            DeviceMessage::Scan(_) => 2,
            // Nobody asks for one here.
            DeviceMessage::Log(_) => return,
        };
        self.counts.told_bytes[at] += report.len() as u64 + 48;
    }
}
