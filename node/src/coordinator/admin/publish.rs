//! A signed release on its way to the core, which verifies it: that is the core's and the signer's. Looks into it only to say what it is.

use upswarm_protocol::coordinator::Command;

use super::{Decision, Desk, deeds};
use crate::api::actor::Actor;
use crate::api::approvals::{Accepted, SignedDocument};

/// Takes a signed release.
pub(crate) fn submit(actor: &Actor, desk: &Desk<'_>, document: SignedDocument) -> Decision<Accepted> {
    tracing::info!(%actor, bytes = document.0.len(), "a signed release is submitted");
    let deed = deeds::release(desk, &document.0);
    Decision::new(Command::Publish(document.0), deed, |done| Accepted { index_version: done.index_version })
}
