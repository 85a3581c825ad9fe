//! How much of the WAN sites may use. Owns what a request changes; machines are told by the core.

use upswarm_protocol::codec::Bounded;
use upswarm_protocol::coordinator::{Command, Refusal};
use upswarm_protocol::wire::{MAX_WAN_RATES, WanLimits, WanRate};

use super::{Decision, Desk, View};
use crate::api::actor::Actor;
use crate::api::audit::{Deed, Topic};
use crate::api::limits::{LimitList, LimitRequest, RateView, SiteLimits};
use crate::units;

/// The sites that have a limit.
pub(crate) fn list(view: &View<'_>) -> LimitList {
    let shown = |order: &WanLimits| shown(&view.names.site_name(&order.site), &order.rates);
    let mut limits: Vec<_> = view.wan_limits().iter().filter(|order| !order.rates.is_empty()).map(shown).collect();
    limits.sort_by(|a, b| a.site.cmp(&b.site));
    LimitList { limits }
}

/// Sets the rate of one window, or takes that or all of them back.
pub(crate) fn limit(actor: &Actor, desk: &Desk<'_>, request: &LimitRequest) -> Result<Decision<SiteLimits>, Refusal> {
    let Some(site) = desk.names.site(&request.site) else {
        let known: Vec<&str> = desk.names.sites().collect();
        let text = format!("there is no site {:?}; there are: {}", request.site, known.join(", "));
        return Err(Refusal::Request(text));
    };
    let window = request.window.as_deref().map(units::window).transpose().map_err(Refusal::Request)?;
    let known = desk.view.wan_limits().iter().find(|order| order.site == site);
    let mut rates: Vec<WanRate> = known.map(|order| order.rates.to_vec()).unwrap_or_default();
    let before = rates.len();
    let everything = request.wan.is_none() && window.is_none();
    rates.retain(|rate| !everything && rate.window != window);
    match request.wan {
        Some(0) => {
            return Err(Refusal::Request("--wan: a rate is above 0; hold a group with upswarm pause".to_owned()));
        }
        Some(bytes_per_s) => rates.push(WanRate { window, bytes_per_s }),
        None if rates.len() == before => {
            return Err(Refusal::Request(format!(
                "site {} has no such limit, so there is nothing to take back; see: upswarm limit list",
                request.site
            )));
        }
        None => {}
    }
    if rates.len() > MAX_WAN_RATES {
        return Err(Refusal::Request(format!("a site can have {MAX_WAN_RATES} rates; take one back first")));
    }
    tracing::info!(%actor, site = request.site, rates = rates.len(), "the limits of a site are set");
    let answer = shown(&request.site, &rates);
    let deed = Deed::new(Topic::Limit, deed_words(&answer));
    Ok(Decision::new(Command::WanLimits { site, rates: Bounded::truncated(rates) }, deed, move |_| answer))
}

fn deed_words(limits: &SiteLimits) -> String {
    let rate = |rate: &RateView| {
        let when = rate.window.as_deref().unwrap_or("always");
        format!("{} bytes/s ({when})", rate.wan)
    };
    match limits.rates.iter().map(rate).collect::<Vec<_>>().join(", ") {
        words if words.is_empty() => format!("site {} has no limit any more", limits.site),
        words => format!("site {} may use of its WAN: {words}", limits.site),
    }
}

fn shown(site: &str, rates: &[WanRate]) -> SiteLimits {
    let rate =
        |rate: &WanRate| RateView { window: rate.window.as_ref().map(ToString::to_string), wan: rate.bytes_per_s };
    SiteLimits { site: site.to_owned(), rates: rates.iter().map(rate).collect() }
}
