//! What an admin can do, each a function of a typed request, its actor and the coordinator's state: HTTP, command line and
//! console call the same ones. Owns what is allowed, counted and answered; never speaks HTTP, prints, signs or writes a file.
//!
//! What only looks takes a [`View`] and can run beside the driver. What decides takes a [`Desk`] and returns the command for the
//! core, which the driver gives it, with the answer that follows when the core has agreed.

pub(crate) mod alarms;
pub(crate) mod approve;
pub(crate) mod audit;
mod deeds;
pub(crate) mod devices;
pub(crate) mod failing;
pub(crate) mod feeds;
pub(crate) mod groups;
pub(crate) mod hold;
pub(crate) mod inventory;
pub(crate) mod invite;
pub(crate) mod limits;
pub(crate) mod logs;
pub(crate) mod machines;
pub(crate) mod metrics;
pub(crate) mod missing;
pub(crate) mod overview;
pub(crate) mod preview;
pub(crate) mod proposals;
pub(crate) mod publish;
pub(crate) mod releases;
pub(crate) mod reports;
pub(crate) mod repositories;
pub(crate) mod retry;
pub(crate) mod root;
pub(crate) mod rules;
pub(crate) mod sites;
mod standing;
pub(crate) mod status;
pub(crate) mod updates;

use upswarm_protocol::coordinator::{Command, CoordinatorState, Done, Refusal};
use upswarm_protocol::ids::GroupId;

use super::store::names::Names;
use super::store::view::View;
use crate::api::audit::Deed;
use crate::api::catalog::group_named;

/// What a decision rests on, and the names that it may add to.
pub(crate) struct Desk<'a> {
    /// The core, to look at: what is decided goes to it as a command.
    pub(crate) state: &'a CoordinatorState,
    /// What is shown to admins, which names devices and releases.
    pub(crate) view: &'a View<'a>,
    /// The admin's names.
    pub(crate) names: &'a mut Names,
}

/// A command for the core, and the answer when it has agreed.
pub(crate) struct Decision<T> {
    pub(crate) command: Command,
    /// What the log says of it.
    pub(crate) deed: Deed,
    pub(crate) answer: Box<dyn FnOnce(Done) -> T + Send>,
}

impl<T> Decision<T> {
    fn new(command: Command, deed: Deed, answer: impl FnOnce(Done) -> T + Send + 'static) -> Self {
        Self { command, deed, answer: Box::new(answer) }
    }
}

impl Desk<'_> {
    fn group_named(&self, name: &str) -> Result<GroupId, Refusal> {
        group_named(self.names.groups(), name).map_err(Refusal::Request)
    }
}
