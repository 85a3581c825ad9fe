//! How much of the WAN sites may use. Owns what a request changes; machines are told by the core.

use upswarm_protocol::codec::Bounded;
use upswarm_protocol::coordinator::{Command, Refusal};
use upswarm_protocol::wire::{MAX_WAN_RATES, WanLimits, WanRate};

use super::{Decision, Desk, View};
use crate::api::actor::Actor;
use crate::api::audit::{Deed, Topic};
use crate::api::limits::{LimitList, LimitRequest, MIN_WAN, RateView, SiteLimits, too_slow};
use crate::units;

/// The sites that have a limit.
pub(crate) fn list(view: &View<'_>) -> LimitList {
    let shown = |order: &WanLimits| shown(&view.names.site_name(&order.site), &order.rates, order.yields);
    let is_any = |order: &&WanLimits| !order.rates.is_empty() || order.yields.is_some();
    let mut limits: Vec<_> = view.wan_limits().iter().filter(is_any).map(shown).collect();
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
    let before_yields = known.and_then(|order| order.yields);
    let sets_nothing = request.wan.is_none() && request.gives_way.is_none();
    let everything = sets_nothing && window.is_none();
    let yields = if everything { None } else { request.gives_way.or(before_yields) };
    if request.wan.is_some() || sets_nothing {
        rates.retain(|rate| !everything && rate.window != window);
    }
    match request.wan {
        Some(rate) if rate < MIN_WAN => return Err(Refusal::Request(too_slow(rate))),
        Some(bytes_per_s) => rates.push(WanRate { window, bytes_per_s }),
        None if rates.len() == before && yields == before_yields && sets_nothing => {
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
    let answer = shown(&request.site, &rates, yields);
    let deed = Deed::new(Topic::Limit, deed_words(&answer));
    Ok(Decision::new(Command::WanLimits { site, rates: Bounded::truncated(rates), yields }, deed, move |_| answer))
}

fn deed_words(limits: &SiteLimits) -> String {
    let rate = |rate: &RateView| {
        let when = rate.window.as_deref().unwrap_or("always");
        format!("{} bytes/s ({when})", rate.wan)
    };
    let mut words: Vec<String> = limits.rates.iter().map(rate).collect();
    words.extend(
        limits.gives_way.map(|gives| if gives { "gives way to others" } else { "gives way to nobody" }.to_owned()),
    );
    match words.join(", ") {
        words if words.is_empty() => format!("site {} has no limit any more", limits.site),
        words => format!("site {} may use of its WAN: {words}", limits.site),
    }
}

fn shown(site: &str, rates: &[WanRate], gives_way: Option<bool>) -> SiteLimits {
    let rate =
        |rate: &WanRate| RateView { window: rate.window.as_ref().map(ToString::to_string), wan: rate.bytes_per_s };
    SiteLimits { site: site.to_owned(), rates: rates.iter().map(rate).collect(), gives_way }
}
