//! Discrete-event simulation of whole fleets on the state machines that ship.
//!
//! Pure: no clock, no socket, no thread. One heap of events ordered by (time, sequence number), one seed; so a run can be
//! repeated event by event ([`world::World::trace`]). The nodes are real
//! [`NodeState`](upswarm_protocol::node::NodeState)s, the coordinator is a real
//! [`CoordinatorState`](upswarm_protocol::coordinator::CoordinatorState), and every document is signed and verified.
//! What is modelled: links, the WAN, gossip, disks, installers. Payload bytes do not exist, only bitmaps of them.

pub mod admin;
pub mod hostile;
pub mod idle;
pub mod machine;
pub mod pause;
pub mod rollout;
pub mod scenario;
pub mod wan;
pub mod world;
