//! Alarms: looking at them, and acknowledging them. Nothing is decided by an alarm.

use std::collections::BTreeMap;
use std::time::Duration;

use upswarm_protocol::catalog::Hold;
use upswarm_protocol::coordinator::{AlarmKind, CERTIFICATE_LIFE, CoordinatorState, Refusal, RolloutStatus};
use upswarm_protocol::ids::{ReleaseId, SiteId};
use upswarm_protocol::report::{DeviceAlarm, Report};
use upswarm_protocol::time::Wall;

use super::View;
use super::failing::{failing_alarm, rollout_alarm};
use crate::api::actor::Actor;
use crate::api::alarms::{AcknowledgeRequest, Acknowledged, AlarmList, AlarmQuery, AlarmView};
use crate::api::audit::{Deed, Topic};
use crate::coordinator::store::alarms::{Alarm, Alarms, Seen};

const ROOT_WARNING: Duration = Duration::from_secs(60 * 86_400);
const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 86_400);

/// The alarms, the newest first.
pub(crate) fn list(view: &View<'_>, query: &AlarmQuery) -> AlarmList {
    let shown = view.alarms.all().iter().filter(|alarm| query.all || alarm.is_open());
    let mut alarms: Vec<AlarmView> = shown.map(|alarm| shown_as(view, alarm)).collect();
    alarms.sort_by_key(|alarm| (alarm.acknowledged.is_some(), alarm.over, alarm.last_s, u64::MAX - alarm.id));
    AlarmList { alarms, open: view.alarms.all().iter().filter(|alarm| alarm.is_open()).count() }
}

/// Takes alarms out of `status`. They come back when what they say ends and begins again.
pub(crate) fn acknowledge(
    actor: &Actor,
    alarms: &mut Alarms,
    request: &AcknowledgeRequest,
) -> Result<(Acknowledged, Deed), Refusal> {
    if request.all != request.ids.is_empty() {
        return Err(Refusal::Request("name the alarms' numbers, or all of them with --all".to_owned()));
    }
    let ids = (!request.all).then_some(request.ids.as_slice());
    let acknowledged = alarms.acknowledge(ids, &actor.to_string()).map_err(Refusal::Request)?;
    tracing::info!(%actor, ?acknowledged, "alarms are acknowledged");
    let texts: Vec<String> = alarms
        .all()
        .iter()
        .filter(|alarm| acknowledged.contains(&alarm.id))
        .map(|alarm| format!("{} ({})", alarm.id, alarm.text))
        .collect();
    let deed = Deed::new(Topic::Alarm, format!("alarms were acknowledged: {}", texts.join("; ")));
    Ok((Acknowledged { acknowledged, open: alarms.all().iter().filter(|alarm| alarm.is_open()).count() }, deed))
}

/// What a machine says of itself. Its clock is judged by the coordinator, which knows those of others too.
pub(crate) fn of_report(report: &Report) -> Vec<Seen> {
    let alarms = report.alarms.iter();
    let seen = |alarm: &DeviceAlarm| {
        let kind = AlarmKind::of_device(alarm.kind)?;
        Some(Seen { kind, device: Some(report.device), text: alarm.text.as_str().to_owned() })
    };
    alarms.filter_map(seen).collect()
}

/// Machines that see nobody at a site where another machine is there: both are connected to the coordinator now.
pub(crate) fn alone(view: &View<'_>) -> Vec<Seen> {
    let mut connected: BTreeMap<SiteId, usize> = BTreeMap::new();
    let here = || view.devices().filter(|record| view.is_connected(&record.device));
    here().for_each(|record| *connected.entry(record.site).or_default() += 1);
    let alone = here().filter(|record| {
        let sees_nobody = view.said(&record.device).is_some_and(|said| said.neighbours == 0);
        sees_nobody && connected.get(&record.site).is_some_and(|here| *here > 1)
    });
    let text = "it sees no other machine of its site, although others are there: what it installs, it fetches over the WAN for itself. \
                Are they on one LAN, and does its firewall let UDP 5353 and TCP 4410 in? On the machine: upswarm explain";
    alone.map(|record| Seen { kind: AlarmKind::Alone, device: Some(record.device), text: text.to_owned() }).collect()
}

/// Rollouts that have stopped by themselves, and approvals that fail widely and that nothing has stopped.
pub(crate) fn rollouts(view: &View<'_>, holds: &[Hold]) -> Vec<Seen> {
    let title = |release: &ReleaseId| {
        let known = view.catalog.release(release);
        known.map_or_else(|| release.short(), |known| format!("{} ({})", known.title, known.version))
    };
    let seen = |text: String| Seen { kind: AlarmKind::Rollout, device: None, text };
    let stopped = view.rollouts().iter().filter(|status| holds.contains(&Hold::Rollout(status.group, status.release)));
    let group = |status: &RolloutStatus| view.names.group_name(&status.group);
    let stopped = stopped.map(|status| seen(rollout_alarm(status, &title(&status.release), &group(status))));
    let failing = super::failing::failing(view).into_iter().filter(|status| !status.held);
    let failing = failing.map(|status| seen(failing_alarm(&status, &title(&status.release), &group(&status))));
    stopped.chain(failing).collect()
}

/// What will expire: the root, and certificates that machines have not renewed in time.
pub(crate) fn expiries(state: &CoordinatorState, now: Wall) -> Vec<Seen> {
    let root = state.root().expires;
    let mut seen = Vec::new();
    if root <= now + ROOT_WARNING {
        let days = root.since(now).as_secs() / 86_400;
        let text = format!(
            "the root of trust expires at {root}, in {days} days; after that nothing is installed anywhere. Renew it: upswarm root \
                 renew"
        );
        seen.push(Seen { kind: AlarmKind::Expiry, device: None, text });
    }
    let late = state.devices().filter(|record| {
        !state.revoked().contains(&record.device) && record.certified + CERTIFICATE_LIFE <= now + CERTIFICATE_WARNING
    });
    let text = "its certificate ends within 14 days, and it has not renewed it: it has not been here for long. Switch it on, or \
                let it go: upswarm device retire";
    seen.extend(late.map(|record| Seen {
        kind: AlarmKind::Expiry,
        device: Some(record.device),
        text: text.to_owned(),
    }));
    seen
}

fn shown_as(view: &View<'_>, alarm: &Alarm) -> AlarmView {
    let device = alarm.devices.first().copied();
    let subject = device.map_or_else(|| "coordinator".to_owned(), |device| view.name_of(&device));
    let named = |release: &&crate::api::catalog::CatalogRelease| alarm.text.contains(&release.release.short());
    let release = (alarm.kind == AlarmKind::Rollout).then(|| view.catalog.releases.iter().find(named)).flatten();
    AlarmView {
        release: release.map(|release| release.release),
        id: alarm.id,
        kind: alarm.kind,
        subject,
        device,
        devices: alarm.devices.len(),
        text: alarm.text.clone(),
        count: alarm.count,
        first_s: view.age(alarm.first),
        last_s: view.age(alarm.last),
        over: alarm.over,
        acknowledged: alarm.acknowledged.clone(),
    }
}
