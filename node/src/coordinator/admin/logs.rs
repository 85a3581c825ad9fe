//! Having a machine tell what programs printed there. Owns who can be asked, and what is shown of the answer: a machine's text is made
//! harmless here, whoever reads it.

use upswarm_protocol::coordinator::{Command, DeviceLog, DeviceRecord, Refusal};
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::time::Wall;

use super::{Decision, Desk};
use crate::api::actor::Actor;
use crate::api::logs::{DeviceLogs, LogAsked, LogQuery, LogRequest, LogView, Reach};
use crate::text;

/// Asks it, itself or through its neighbours; one that is off hears of it when it is back.
pub(crate) fn ask(actor: &Actor, desk: &Desk<'_>, request: &LogRequest) -> Result<Decision<LogAsked>, Refusal> {
    let view = desk.view;
    let release = view.catalog.release_named(&request.release).map_err(Refusal::Request)?.release;
    let record = view.device_named(&request.device)?;
    if view.is_revoked(&record.device) {
        let text = format!("{} is shut out: nothing comes from it any more", request.device);
        return Err(Refusal::Request(text));
    }
    let (what, reach, device) = (what(desk, &release), reach(desk, record), view.named(record));
    tracing::info!(%actor, what, device = device.name, "a machine is asked for its log");
    let command = Command::AskLog { device: record.device, release };
    Ok(Decision::new(command, move |_| LogAsked { device, release, what, reach }))
}

/// What it was asked for, and what has come.
pub(crate) fn list(desk: &Desk<'_>, query: &LogQuery, now: Wall) -> Result<DeviceLogs, Refusal> {
    let view = desk.view;
    let record = view.device_named(&query.device)?;
    let release = query.release.as_deref().map(|text| view.catalog.release_named(text)).transpose();
    let release = release.map_err(Refusal::Request)?.map(|known| known.release);
    let logs = desk.state.device_logs(&record.device).filter(|(log, _)| release.is_none_or(|of| of == log.release));
    let mut logs: Vec<LogView> = logs.map(|(log, pieces)| shown(log, pieces, what(desk, &log.release), now)).collect();
    logs.sort_by_key(|log| log.asked_s);
    Ok(DeviceLogs { device: view.named(record), reach: reach(desk, record), logs })
}

fn shown(log: &DeviceLog, (come, of): (usize, u16), what: String, now: Wall) -> LogView {
    LogView {
        release: log.release,
        what,
        asked_s: now.since(log.asked).as_secs(),
        awaited: log.is_awaited(),
        pieces: (log.is_awaited() && of > 0).then_some([come as u64, u64::from(of)]),
        received_s: log.received.map(|at| now.since(at).as_secs()),
        found: log.found,
        text: harmless(&log.text),
    }
}

fn harmless(bytes: &[u8]) -> String {
    text::clean(&String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\t', "    "))
}

fn what(desk: &Desk<'_>, release: &ReleaseId) -> String {
    let known = desk.view.catalog.release(release);
    known.map_or_else(|| release.short(), |known| format!("{} {}", known.product, known.version))
}

fn reach(desk: &Desk<'_>, record: &DeviceRecord) -> Reach {
    let view = desk.view;
    let here = |other: &DeviceRecord| view.is_connected(&other.device);
    if here(record) {
        Reach::Connected
    } else if view.devices().any(|other| other.site == record.site && here(other)) {
        Reach::ThroughNeighbours
    } else {
        Reach::NotConnected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_says_cannot_steer_a_terminal() {
        let shown = harmless(b"ok\r\n\tE: \x1b[2J\xff\xe2\x80\xaegnp\n");
        assert_eq!(shown, "ok\n    E: \\u{1b}[2J\u{fffd}\\u{202e}gnp\n");
    }
}
