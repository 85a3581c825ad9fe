//! Sites: what the machines that share a WAN link have fetched, from where, and who is there.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use upswarm_protocol::catalog::NodeRole;
use upswarm_protocol::coordinator::{DeviceRecord, Refusal};
use upswarm_protocol::report::{BytesBySource, DeploymentState};

use super::View;
use super::standing::{Judge, Judged};
use crate::api::fleet::{SiteList, SiteQuery, SiteRow, SiteView, SwarmMachine};
use crate::api::limits::RateView;

/// Machines of a site that are told of one by one.
const MAX_SWARM: usize = 240;

/// Every site that has machines or a name.
pub(crate) fn list(view: &View<'_>) -> SiteList {
    let judge = Judge::new(view);
    let limits = limits(view);
    let mut sites: BTreeMap<String, SiteRow> =
        view.names.sites().map(|site| (site.to_owned(), empty(site, &limits))).collect();
    for record in view.devices() {
        let site = view.names.site_name(&record.site);
        let row = sites.entry(site.clone()).or_insert_with(|| empty(&site, &limits));
        count(view, row, record, &judge.judge(record));
    }
    SiteList { sites: sites.into_values().collect() }
}

/// One site with its machines.
pub(crate) fn one(view: &View<'_>, query: &SiteQuery) -> Result<SiteView, Refusal> {
    let judge = Judge::new(view);
    let mut row = empty(&query.site, &limits(view));
    let mut swarm = Vec::new();
    for record in view.devices().filter(|record| view.names.site_name(&record.site) == query.site) {
        let judged = judge.judge(record);
        count(view, &mut row, record, &judged);
        swarm.push(machine(view, record, &judged));
    }
    if swarm.is_empty() && view.names.site(&query.site).is_none() {
        let known: Vec<&str> = view.names.sites().collect();
        let text = format!("there is no site {:?}; there are: {}", query.site, known.join(", "));
        return Err(Refusal::Request(text));
    }
    swarm.sort_by_key(|machine| {
        let cache = machine.role == NodeRole::Cache;
        (!cache, machine.silent, Reverse(machine.bytes.origin), machine.name.clone(), machine.device)
    });
    swarm.truncate(MAX_SWARM);
    Ok(SiteView { row, swarm })
}

fn limits(view: &View<'_>) -> BTreeMap<String, Vec<RateView>> {
    super::limits::list(view).limits.into_iter().map(|limits| (limits.site, limits.rates)).collect()
}

fn empty(site: &str, limits: &BTreeMap<String, Vec<RateView>>) -> SiteRow {
    SiteRow {
        site: site.to_owned(),
        machines: 0,
        connected: 0,
        caches: 0,
        silent: 0,
        standings: BTreeMap::new(),
        bytes: BytesBySource::default(),
        limits: limits.get(site).cloned().unwrap_or_default(),
    }
}

fn count(view: &View<'_>, row: &mut SiteRow, record: &DeviceRecord, judged: &Judged) {
    row.machines += 1;
    row.connected += usize::from(view.is_connected(&record.device));
    row.caches += usize::from(record.role == NodeRole::Cache);
    row.silent += usize::from(judged.silent);
    *row.standings.entry(judged.standing).or_default() += 1;
    if let Some(said) = view.said(&record.device) {
        row.bytes.add(&said.bytes);
    }
}

fn machine(view: &View<'_>, record: &DeviceRecord, judged: &Judged) -> SwarmMachine {
    let said = view.said(&record.device);
    let fetching = view.deployments(&record.device).iter().filter(|known| known.state == DeploymentState::Downloading);
    let (done, total) = fetching
        .fold((0u128, 0u128), |(done, total), known| (done + u128::from(known.done), total + u128::from(known.total)));
    // A machine may say that it has more than there is.
    let percent = (done * 100).checked_div(total).map(|percent| u8::try_from(percent.min(100)).unwrap_or(100));
    SwarmMachine {
        device: record.device,
        name: view.name(record),
        role: record.role,
        connected: view.is_connected(&record.device),
        silent: judged.silent,
        standing: judged.standing,
        neighbours: said.map_or(0, |said| said.neighbours),
        bytes: said.map(|said| said.bytes).unwrap_or_default(),
        percent,
    }
}
