//! The coordinator: the admin's node. It publishes releases and approvals, lets devices in, keeps the fleet's status, and is
//! the first origin.
//!
//! [`driver`] owns the pure core and moves its inputs and outputs; [`server`] is the HTTP face, [`network`] the libp2p face,
//! [`directory`] the disk.

pub(crate) mod run;
pub(crate) mod setup;

pub(crate) mod driver;
pub(crate) mod fleet;
pub(crate) mod inventories;
pub(crate) mod names;
mod network;
pub(crate) mod requests;
mod rollouts;
pub(crate) mod rules;

mod admin;
mod payloads;
mod server;

pub(crate) mod directory;
pub(crate) mod keys;

pub(crate) mod client;
pub(crate) mod export;

#[cfg(test)]
mod tests;
