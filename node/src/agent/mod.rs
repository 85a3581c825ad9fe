//! The agent on an office machine: the driver of the node's core, its journal, and its client of origins.
//! It moves inputs and outputs and never decides; what is decided, the core in the protocol crate decides.

mod coordinator_link;
pub(crate) mod driver;
pub(crate) mod http_uplink;
pub(crate) mod journal;
mod origin;
