//! The coordinator: the admin's node. It publishes releases and approvals, lets devices in, keeps the fleet's status, and is
//! the first origin.
//!
//! [`driver`] owns the pure core and moves its inputs and outputs; [`server`] is the HTTP face; [`directory`] is the disk.

pub(crate) mod directory;
pub(crate) mod keys;

pub(crate) mod fleet;
pub(crate) mod names;

pub(crate) mod driver;
pub(crate) mod requests;
pub(crate) mod setup;

mod admin;
mod payloads;
pub(crate) mod server;

pub(crate) mod client;
pub(crate) mod export;
