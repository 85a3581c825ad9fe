//! The coordinator: the admin's node. It publishes releases and approvals, lets devices in, keeps the fleet's status, and is
//! the first origin.
//!
//! [`driver`] owns the pure core and moves its inputs and outputs; [`admin`] holds what an admin can do; [`store`] what is
//! written and read of the fleet; [`http`] is the HTTP face, [`network`] the libp2p face, [`directory`] the disk.

pub(crate) mod run;
pub(crate) mod setup;

mod driver;
mod network;

mod http;

pub(crate) mod repositories;

pub(crate) mod admin;
pub(crate) mod anchor;
mod projection;
mod repository_rules;
mod requests;

mod load;
mod store;

pub(crate) mod database_setting;
pub(crate) mod directory;
pub(crate) mod files;
pub(crate) mod keys;
pub(crate) mod tls;
pub(crate) mod token;

pub(crate) mod client;
pub(crate) mod export;

#[cfg(test)]
mod tests;
