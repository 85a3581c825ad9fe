//! A signed release on its way to the core, which verifies it. Never looks into it: that is the core's and the signer's.

use upswarm_protocol::coordinator::Command;

use super::Decision;
use crate::api::actor::Actor;
use crate::api::approvals::{Accepted, SignedDocument};

/// Takes a signed release.
pub(crate) fn submit(actor: &Actor, document: SignedDocument) -> Decision<Accepted> {
    tracing::info!(%actor, bytes = document.0.len(), "a signed release is submitted");
    Decision::new(Command::Publish(document.0), |done| Accepted { index_version: done.index_version })
}
