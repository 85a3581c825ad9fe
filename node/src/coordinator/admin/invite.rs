//! Letting machines in: an invitation for the core, and the token that stands for it.

use std::time::Duration;

use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::coordinator::{Command, CoordinatorState, Invite, Refusal};
use upswarm_protocol::ids::{DeviceId, DocHash};
use upswarm_protocol::time::Wall;

use super::{Decision, Desk};
use crate::api::actor::Actor;
use crate::api::audit::{Deed, Topic};
use crate::api::catalog::MIN_PREFIX;
use crate::api::invites::{DisinviteRequest, InviteList, InviteRequest, InviteView, Invited};
use crate::coordinator::keys;
use crate::coordinator::store::names::Names;
use crate::coordinator::token::JoinToken;

const MAX_TTL: Duration = Duration::from_secs(366 * 86400);

/// Makes an invitation and its token. Names are made up as needed; the caller saves them before the core's record.
pub(crate) fn invite(
    names: &mut Names,
    request: &InviteRequest,
    addresses: &[String],
    origins: Vec<Text<512>>,
    (coordinator, root): (DeviceId, DocHash),
    now: Wall,
) -> Result<(Invite, Invited), Refusal> {
    let refuse = |error: String| Refusal::Request(error);
    if request.ttl_s == 0 || request.ttl_s > MAX_TTL.as_secs() {
        return Err(refuse("a token is good for at least a second and at most a year".to_owned()));
    }
    let texts: Result<Vec<Text<512>>, _> = addresses.iter().map(|address| Text::new(address.as_str())).collect();
    let addresses = Bounded::truncated(texts.map_err(|error| refuse(format!("an address is {error}")))?);
    if addresses.is_empty() {
        return Err(refuse("the coordinator's address is not known; give it with --address HOST:PORT".to_owned()));
    }
    // The first group is made by inviting for it. From then on a name that nobody knows is more likely a slip of the hand, and
    // a group of its own would get no approval.
    if names.group(&request.group).is_none() && !names.groups().is_empty() {
        let known = names.groups().keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(refuse(format!(
            "there is no group {name:?}; there are: {known}. Make it first: upswarm group add {name}",
            name = request.group
        )));
    }
    let group = names.group_or_new(&request.group).map_err(|error| refuse(error.to_string()))?;
    let site = names.site_or_new(&request.site).map_err(|error| refuse(error.to_string()))?;
    let secret: [u8; 32] = keys::random().map_err(|error| refuse(error.to_string()))?;
    let expires = now + Duration::from_secs(request.ttl_s);
    let token = JoinToken { addresses, origins: Bounded::truncated(origins), coordinator, root, secret, expires };
    let token = token.encode().map_err(|error| refuse(format!("the token: {error}")))?;
    let invite = Invite {
        secret_hash: *blake3::hash(&secret).as_bytes(),
        group,
        site,
        expires,
        uses: request.uses,
        spent: Bounded::default(),
    };
    Ok((invite, Invited { token, expires: expires.to_string() }))
}

/// What the log says of an invitation.
pub(crate) fn deed(invite: &Invite, request: &InviteRequest) -> Deed {
    let digits: String = hex::encode(invite.secret_hash).chars().take(12).collect();
    let what = format!(
        "the token {digits} was made: {} machines may join group {} at site {} until {}",
        invite.uses, request.group, request.site, invite.expires
    );
    Deed::new(Topic::Token, what)
}

/// Every token that is kept.
pub(crate) fn list(state: &CoordinatorState, names: &Names, now: Wall) -> InviteList {
    let tokens = state.invites().map(|invite| view(invite, names, now)).collect();
    InviteList { tokens }
}

/// Lets nobody in any more with a token. Who came with it stays.
pub(crate) fn revoke(
    actor: &Actor,
    desk: &Desk<'_>,
    request: &DisinviteRequest,
) -> Result<Decision<InviteView>, Refusal> {
    let digits = request.token.to_ascii_lowercase();
    if digits.len() < MIN_PREFIX {
        return Err(Refusal::Request(format!("write at least {MIN_PREFIX} digits; upswarm token list shows them")));
    }
    let matching: Vec<&Invite> =
        desk.state.invites().filter(|invite| hex::encode(invite.secret_hash).starts_with(&digits)).collect();
    let [invite] = matching[..] else {
        let several = if matching.is_empty() { "no token is" } else { "several tokens are" };
        return Err(Refusal::Request(format!("{several} named {digits}; upswarm token list shows them")));
    };
    let revoked = view(invite, desk.names, desk.view.now);
    tracing::info!(%actor, token = revoked.token, "a token is taken back");
    let digits: String = revoked.token.chars().take(12).collect();
    let what = format!("the token {digits} for group {} at site {} was taken back", revoked.group, revoked.site);
    Ok(Decision::new(Command::Disinvite(invite.secret_hash), Deed::new(Topic::Token, what), |_| revoked))
}

fn view(invite: &Invite, names: &Names, now: Wall) -> InviteView {
    InviteView {
        token: hex::encode(invite.secret_hash),
        group: names.group_name(&invite.group),
        site: names.site_name(&invite.site),
        expires: invite.expires.to_string(),
        over: invite.expires <= now,
        uses: invite.uses,
        spent: invite.spent.len(),
    }
}
