//! `status`: how the fleet stands, by release first; devices on demand. Renders what the use-case counted.

use super::admin::AdminArgs;
use super::output::{Table, age, count, one_line, word};
use super::{CliError, Common};
use crate::api::devices::DeviceHead;
use crate::api::status::{
    DeploymentStatus, DeviceStatus, Double, ReleaseStatus, RolloutView, Status, StatusQuery, state_words,
    sub_state_words,
};
use crate::units;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm status
  upswarm status --state failed
  upswarm status --release editor@2.1
  upswarm status --device pc7
  upswarm status --devices --output csv > fleet.csv";

/// Lines of the summary for releases, reasons of one release and of all, alarms, rollouts: together they fit a screen. What was
/// asked for by name is shown whole.
const RELEASES: usize = 4;
const REASONS: usize = 6;
const ALL_REASONS: usize = 8;
const ALARMS: usize = 3;
const ROLLOUTS: usize = 3;
/// Columns of the list of devices.
const COLUMNS: usize = 120;
/// Characters of a reason or an alarm in the summary.
const SHORT: usize = 55;

/// Show how the fleet stands: a summary by release, devices on demand.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// List every device with its deployments.
    #[arg(long)]
    devices: bool,
    /// Only this device: its label, or its key or at least eight first digits of it.
    #[arg(long)]
    device: Option<String>,
    /// Only this release: PRODUCT or PRODUCT@VERSION (the last part of the product's name suffices), its id, or at least eight
    /// first digits of it.
    #[arg(long)]
    release: Option<String>,
    /// Only deployments in this state, for example failed, stalled or downloading.
    #[arg(long)]
    state: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let filtered = args.device.is_some() || args.release.is_some() || args.state.is_some();
    let by_device = args.devices || args.device.is_some() || args.state.is_some();
    let query = StatusQuery {
        devices: by_device || common.is_json(),
        gone: false,
        device: args.device,
        release: args.release,
        state: args.state,
    };
    let status = super::runtime()?.block_on(args.admin.client()?.status(&query))?;
    let table = if by_device { devices(&status) } else { states(&status) };
    common.list(&status, &table, || text(&status, by_device, filtered))
}

/// When a device was last heard of.
pub(super) fn seen(device: &DeviceStatus) -> String {
    if device.revoked { "revoked".to_owned() } else { when(device.connected, device.last_seen_s) }
}

/// The same, for what begins a line about a device.
pub(super) fn seen_of(head: &DeviceHead) -> String {
    when(head.connected, head.last_seen_s)
}

/// A line about a name that several devices bear.
pub(super) fn double_line(double: &Double) -> String {
    let ids: Vec<String> = double.devices.iter().map(|device| device.short()).collect();
    let (last, older) = ids.split_first().map_or(("", &[][..]), |(last, older)| (last.as_str(), older));
    format!(
        "\n{} are {}: {last} was heard of last. Gone for good? upswarm device retire {}",
        count(ids.len(), "device", "devices"),
        one_line(&double.name),
        older.join(" or "),
    )
}

fn when(connected: bool, last_seen_s: Option<u64>) -> String {
    if connected { "now".to_owned() } else { age(last_seen_s, "never") }
}

/// A row for each state of each release.
fn states(status: &Status) -> Table {
    let mut table = Table::new(&["RELEASE", "PRODUCT", "VERSION", "TITLE", "GROUPS", "STATE", "DEVICES"]);
    for release in &status.releases {
        let word = |text: &Option<String>| text.clone().unwrap_or_default();
        for (state, devices) in &release.states {
            table.row([
                release.release.short(),
                word(&release.product),
                word(&release.version),
                word(&release.title),
                release.groups.join(","),
                state.clone(),
                devices.to_string(),
            ]);
        }
    }
    table
}

/// A row for each deployment, and one for a device without any.
fn devices(status: &Status) -> Table {
    let mut table = Table::new(&[
        "ID", "DEVICE", "SITE", "ROLE", "GROUPS", "SEEN", "MISSING", "RESTART", "RELEASE", "NAME", "STATE", "AGE",
        "DONE", "ORIGIN", "CACHE", "LAN", "REUSE", "REASON",
    ]);
    for device in &status.devices {
        let restart = match device.pending_restart {
            Some(true) => "pending",
            Some(false) => "no",
            None => "-",
        };
        let of_device = [
            device.device.short(),
            device.name(),
            device.site.clone(),
            word(&device.role),
            groups(device),
            seen(device),
            device.scan.map_or_else(|| "-".to_owned(), |scan| scan.required.to_string()),
            restart.to_owned(),
        ];
        let bytes = device.bytes;
        let sources = [bytes.origin, bytes.cache, bytes.lan_peer, bytes.local_reuse].map(units::size_words);
        let mut row = |about: [String; 5], reason: &str| {
            let cells = of_device.iter().cloned().chain(about).chain(sources.iter().cloned());
            table.row(cells.chain([reason.to_owned()]));
        };
        if device.deployments.is_empty() {
            row(["-", "-", "-", "-", "-"].map(str::to_owned), "");
        }
        for deployment in &device.deployments {
            row(about(deployment), &deployment.reason);
        }
    }
    table
}

/// The same for people: what stands in a line. The rest is in the other formats.
fn devices_at_a_glance(status: &Status) -> Table {
    let mut table = Table::new(&[
        "ID", "DEVICE", "SITE", "SEEN", "NEEDS", "RELEASE", "NAME", "STATE", "AGE", "DONE", "WAN", "REASON",
    ]);
    for device in &status.devices {
        let needs = device.scan.map_or_else(|| "-".to_owned(), |scan| scan.required.to_string());
        let of_device = [device.device.short(), device.name(), device.site.clone(), seen(device), needs];
        let wan = units::size_words(device.bytes.origin);
        let mut row = |about: [String; 5], reason: &str| {
            table.row(of_device.iter().cloned().chain(about).chain([wan.clone(), reason.to_owned()]));
        };
        if device.deployments.is_empty() {
            row(["-", "-", "-", "-", "-"].map(str::to_owned), "");
        }
        for deployment in &device.deployments {
            row(about(deployment), &deployment.reason);
        }
    }
    table
}

/// Reasons that a line has no room for, of what was asked for by name.
fn whole_reasons(status: &Status) -> Vec<String> {
    let of = |device: &DeviceStatus| {
        let with_reason = device.deployments.iter().filter(|known| known.reason.len() > SHORT / 4).cloned();
        let name = device.name();
        with_reason
            .map(move |known| format!("{name} {}: {}", known.release.short(), one_line(&known.reason)))
            .collect::<Vec<_>>()
    };
    let reasons: Vec<String> = status.devices.iter().flat_map(of).collect();
    if reasons.is_empty() { reasons } else { [vec![String::new()], reasons].concat() }
}

/// Its groups, and whether they are news to it.
fn groups(device: &DeviceStatus) -> String {
    let unheard = if device.groups_heard == Some(false) { " (not heard yet)" } else { "" };
    format!("{}{unheard}", device.groups.join(","))
}

fn about(deployment: &DeploymentStatus) -> [String; 5] {
    let mut state = state_words(&format!("{:?}", deployment.state)).to_owned();
    if let Some(waits) = sub_state_words(deployment.sub_state) {
        state = format!("{state}: {waits}");
    }
    // That a recipe ended well needs no number.
    if let Some(code) = deployment.code.filter(|code| *code != 0) {
        state = format!("{state}, exit code {code}");
    }
    let percent = (u128::from(deployment.done) * 100).checked_div(u128::from(deployment.total));
    [
        deployment.release.short(),
        titled(&deployment.title, &deployment.version),
        state,
        age(Some(deployment.since_s), "-"),
        percent.map_or("-".to_owned(), |percent| format!("{percent} %")),
    ]
}

fn titled(title: &Option<String>, version: &Option<String>) -> String {
    match (title.as_deref().filter(|title| !title.is_empty()), version) {
        (Some(title), Some(version)) => format!("{title} ({version})"),
        _ => "withdrawn".to_owned(),
    }
}

/// The summary, and the devices where they were asked for.
fn text(status: &Status, by_device: bool, whole: bool) -> String {
    let mut lines = vec![first_line(status)];
    if by_device {
        lines.extend(["".to_owned(), devices_at_a_glance(status).text_within(COLUMNS)]);
        if whole {
            lines.extend(whole_reasons(status));
        }
    } else {
        lines.extend(releases(status, whole));
    }
    let rollouts = rollouts(&status.rollouts, whole || by_device);
    lines.extend(rollouts.into_iter().flat_map(|table| ["".to_owned(), table]));
    let mut notes = Vec::new();
    if !status.holds.is_empty() {
        let words: Vec<String> = status.holds.iter().map(|hold| hold.words()).collect();
        notes.push(format!("on hold: {}", words.join(", ")));
    }
    notes.extend(status.alarms.iter().map(|alarm| {
        let about = one_line(&super::alarms::about(alarm));
        let over = if alarm.over { " (over)" } else { "" };
        format!("ALARM {} on {about}, until acknowledged{over}: {}", alarm.id, one_line(&alarm.text))
    }));
    notes.extend(status.doubles.iter().map(|double| double_line(double).trim_start().to_owned()));
    let more = notes.len().saturating_sub(ALARMS + 1);
    if !whole && !by_device && more > 0 {
        notes.truncate(ALARMS + 1);
        notes.iter_mut().for_each(|note| *note = cut(note, SHORT * 2));
        notes.push(format!("and {more} more: upswarm status --devices"));
    }
    if !notes.is_empty() {
        lines.push(String::new());
        lines.extend(notes);
    }
    lines.join("\n")
}

fn first_line(status: &Status) -> String {
    let head = status.head.as_ref().map_or("no head yet".to_owned(), |head| {
        format!("index {} ({} old)", head.index_version, age(Some(head.age_s), "?"))
    });
    let alarms = match status.open_alarms {
        0 => String::new(),
        open => format!("; {}", count(open, "alarm", "alarms")),
    };
    format!(
        "{head}; {}, {} seen in a day, {} connected; origin has served {}{alarms}",
        count(status.fleet, "machine", "machines"),
        status.seen_lately,
        status.connected,
        units::size_words(status.origin.payload_bytes),
    )
}

/// A line for each release, those in trouble first, and why.
fn releases(status: &Status, whole: bool) -> Vec<String> {
    let shown = if whole { status.releases.len() } else { RELEASES };
    let mut table = Table::new(&["RELEASE", "NAME", "GROUPS", "DEVICES", "OLDEST"]);
    for release in status.releases.iter().take(shown) {
        let mut states: Vec<(&String, &usize)> = release.states.iter().collect();
        states.sort_by_key(|(state, devices)| (std::cmp::Reverse(**devices), *state));
        let states: Vec<String> =
            states.iter().map(|(state, devices)| format!("{devices} {}", state_words(state))).collect();
        let oldest = release.oldest_s.map_or("-".to_owned(), |oldest| age(Some(oldest), "-"));
        let name = titled(&release.title, &release.version);
        table.row([release.release.short(), name, release.groups.join(","), states.join(", "), oldest]);
    }
    if table.is_empty() {
        return vec![String::new(), "no machine has reported about a release yet".to_owned()];
    }
    let mut lines = vec![String::new(), table.text()];
    if status.releases.len() > shown {
        lines.push(format!("and {} more: upswarm status --output json", status.releases.len() - shown));
    }
    let mut room = if whole { usize::MAX } else { ALL_REASONS };
    for release in status.releases.iter().take(shown).filter(|release| !release.reasons.is_empty()) {
        if room == 0 {
            break;
        }
        lines.extend(reasons(release, whole, &mut room));
    }
    lines
}

fn reasons(release: &ReleaseStatus, whole: bool, room: &mut usize) -> Vec<String> {
    let mut lines = vec![format!("\n{} {}:", release.release.short(), titled(&release.title, &release.version))];
    let shown = if whole { release.reasons.len() } else { REASONS.min(*room) };
    *room -= shown.min(release.reasons.len());
    for reason in release.reasons.iter().take(shown) {
        let text = one_line(&reason.reason);
        let text = if whole { text } else { cut(&text, SHORT) };
        let others = if reason.devices > 1 { format!(" and {} more", reason.devices - 1) } else { String::new() };
        lines.push(format!(
            "  {} {} for up to {}: {text} [{}{others}]",
            reason.devices,
            state_words(&reason.state),
            age(Some(reason.oldest_s), "?"),
            one_line(&reason.example),
        ));
    }
    let more = release.reasons.len().saturating_sub(shown);
    if more > 0 {
        lines.push(format!("  {more} more: upswarm status --release {}", release.release.short()));
    }
    lines
}

/// A line per ring of the rollouts that are not over.
fn rollouts(rollouts: &[RolloutView], whole: bool) -> Option<String> {
    let over = |rollout: &RolloutView| {
        !rollout.held && rollout.rings.iter().all(|ring| ring.has_begun && ring.installed == ring.devices)
    };
    let mut open: Vec<&RolloutView> = rollouts.iter().filter(|rollout| whole || !over(rollout)).collect();
    open.sort_by_key(|rollout| !rollout.held);
    let more = if whole { 0 } else { open.len().saturating_sub(ROLLOUTS) };
    open.truncate(open.len() - more);
    let mut table = Table::new(&[
        "ROLLOUT",
        "GROUP",
        "RING",
        "UP TO",
        "BEGINS",
        "DEVICES",
        "BEGUN",
        "INSTALLED",
        "FAILED",
        "SILENT",
        "STOPS",
    ]);
    for rollout in open {
        let stops = match (rollout.held, rollout.stop_above_percent) {
            (true, _) => "on hold".to_owned(),
            (false, 0.0) => "never".to_owned(),
            (false, share) => format!("above {share} %"),
        };
        // Of a summary a person wants the rings that are on and the next.
        let next = rollout.rings.iter().position(|ring| !ring.has_begun).unwrap_or(rollout.rings.len());
        for ring in rollout.rings.iter().take(if whole { usize::MAX } else { next + 1 }) {
            let begins = if ring.has_begun { "begun".to_owned() } else { ring.begins.clone() };
            let first = [
                titled(&rollout.title, &rollout.version),
                rollout.group.clone(),
                ring.ring.to_string(),
                format!("{} %", ring.up_to_percent),
                begins,
            ];
            let counts = [ring.devices, ring.begun, ring.installed, ring.failed, ring.silent];
            table.row(first.into_iter().chain(counts.map(|count| count.to_string())).chain([stops.clone()]));
        }
    }
    if table.is_empty() {
        return None;
    }
    let more = if more > 0 { format!("\nand {more} more rollouts: upswarm status --devices") } else { String::new() };
    Some(table.text() + &more)
}

fn cut(text: &str, len: usize) -> String {
    match text.char_indices().nth(len) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

#[cfg(test)]
mod tests;
