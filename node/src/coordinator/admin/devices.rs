//! Devices as a whole: shutting one out for good, and letting one that is gone out of the lists.

use upswarm_protocol::coordinator::{Command, DeviceRecord, Refusal};

use super::{Decision, Desk};
use crate::api::actor::Actor;
use crate::api::audit::{Deed, Topic};
use crate::api::catalog::MIN_PREFIX;
use crate::api::devices::{ReadmitRequest, Readmitted, RetireRequest, Retired, RevokeRequest, Revoked};

/// Takes a device's certificate away for good. What it told goes with it.
pub(crate) fn revoke(actor: &Actor, desk: &Desk<'_>, request: &RevokeRequest) -> Result<Decision<Revoked>, Refusal> {
    let record = desk.view.device_named(&request.device)?;
    let (device, name) = (record.device, desk.view.name(record));
    tracing::info!(%actor, device = %device.short(), name, "a device is shut out");
    let deed = Deed::new(Topic::Device, format!("{name} ({}) was shut out", device.short()));
    Ok(Decision::new(Command::Revoke(device), deed, move |done| Revoked {
        device,
        name,
        head_version: done.index_version,
    }))
}

/// Lets a device back in that was shut out, or left out by a rotation of the online key.
pub(crate) fn readmit(
    actor: &Actor,
    desk: &Desk<'_>,
    request: &ReadmitRequest,
) -> Result<Decision<Readmitted>, Refusal> {
    // What a machine that was shut out told is forgotten, its name too: it is known by its key.
    let digits = request.device.to_ascii_lowercase();
    let by_key = |record: &&DeviceRecord| digits.len() >= MIN_PREFIX && record.device.to_string().starts_with(&digits);
    let of_key: Vec<_> = desk.state.devices().filter(by_key).collect();
    let record = match of_key[..] {
        [one] => one,
        _ => desk.view.device_named(&request.device)?,
    };
    let (device, name) = (record.device, desk.view.name(record));
    tracing::info!(%actor, device = %device.short(), name, "a device is let in again");
    let deed = Deed::new(Topic::Device, format!("{name} ({}) was let in again", device.short()));
    Ok(Decision::new(Command::Readmit(device), deed, move |done| Readmitted {
        device,
        name,
        head_version: done.index_version,
    }))
}

/// Takes a machine that is gone out of the lists. Of several of one name the one that was heard of least is meant.
pub(crate) fn retire(actor: &Actor, desk: &mut Desk<'_>, request: &RetireRequest) -> Result<(Retired, Deed), Refusal> {
    let view = desk.view;
    let of_name: Vec<_> = view.devices().filter(|record| view.name(record) == request.device).collect();
    let silent = of_name.iter().filter(|record| !view.is_connected(&record.device));
    let age = |device| view.said(device).map_or(u64::MAX, |said| view.age(said.received));
    let record = match silent.max_by_key(|record| age(&record.device)) {
        Some(silent) if of_name.len() > 1 => silent,
        _ => view.device_named(&request.device)?,
    };
    let (device, name) = (record.device, view.name(record));
    if view.is_revoked(&device) || view.is_retired(&device) {
        return Err(Refusal::Request(format!("{name} is out of the lists already")));
    }
    if view.is_connected(&device) && !request.force {
        return Err(Refusal::Request(format!(
            "{name} is connected now, and would come back at once; shut it out with: upswarm device revoke {}",
            device.short()
        )));
    }
    desk.names.retire(device, view.now).map_err(Refusal::Request)?;
    tracing::info!(%actor, device = %device.short(), name, "a device is retired");
    let deed = Deed::new(Topic::Device, format!("{name} ({}) was retired", device.short()));
    Ok((Retired { device, name }, deed))
}
