//! Taking a release back. What was approved is declined by an approver before; the core insists on it.

use upswarm_protocol::coordinator::{Command, Refusal};

use super::{Decision, Desk};
use crate::api::actor::Actor;
use crate::api::audit::{Deed, Topic};
use crate::api::releases::{WithdrawRequest, Withdrawn};

/// Takes a release out of the catalog.
pub(crate) fn withdraw(
    actor: &Actor,
    desk: &Desk<'_>,
    request: &WithdrawRequest,
) -> Result<Decision<Withdrawn>, Refusal> {
    let known = desk.view.catalog.release_exactly(&request.release).map_err(Refusal::Request)?.clone();
    tracing::info!(%actor, release = %known.release.short(), product = known.product, version = known.version, "a release is withdrawn");
    let what = format!("{} was withdrawn", super::standing::named(&known));
    let deed = Deed { document: Some(known.document), ..Deed::new(Topic::Release, what) };
    Ok(Decision::new(Command::Withdraw(known.release), deed, move |done| Withdrawn {
        release: known.release,
        product: known.product,
        version: known.version,
        head_version: done.index_version,
    }))
}
