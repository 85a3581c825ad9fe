//! Typed requests and answers that server, command line and console share, with serde both ways.
//! Owns their shapes and the finding of things by name; never reads a disk, a clock or a socket, and decides nothing.

pub(crate) mod actor;
pub(crate) mod alarms;
pub(crate) mod approvals;
pub(crate) mod audit;
pub(crate) mod catalog;
pub(crate) mod devices;
pub(crate) mod feeds;
pub(crate) mod fleet;
pub(crate) mod groups;
pub(crate) mod holds;
pub(crate) mod inventory;
pub(crate) mod invites;
pub(crate) mod limits;
pub(crate) mod logs;
pub(crate) mod missing;
pub(crate) mod overview;
pub(crate) mod proposals;
pub(crate) mod releases;
pub(crate) mod report_lines;
pub(crate) mod reports;
pub(crate) mod repositories;
pub(crate) mod retries;
pub(crate) mod roots;
pub(crate) mod rules;
pub(crate) mod schedule;
pub(crate) mod status;
