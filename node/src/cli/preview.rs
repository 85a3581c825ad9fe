//! Whom an approval would affect, and when, before anything is signed.

use jiff::tz::TimeZone;
use serde_json::{Value, json};
use upswarm_protocol::catalog::{Action, Approval};
use upswarm_protocol::ids::{DeviceId, ReleaseId};
use upswarm_protocol::schedule::{DeviceFacts, earliest, ring_of, zone};
use upswarm_protocol::time::Wall;

use super::CliError;
use super::schedule::percent;

/// Devices that a ring's line names; the rest is a number. `--json` has them all.
const NAMED: usize = 8;

/// A device of the group, as far as the coordinator knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    device: DeviceId,
    name: String,
    /// What it last said about the release: of its deployment, or else of its scan.
    state: Option<String>,
    /// Whether its scan says that it lacks the release.
    needs: bool,
    /// Its time zone, if it has told one that is known here.
    zone: Option<String>,
}

/// What an approval would do.
#[derive(Debug)]
pub(super) struct Preview {
    action: Action,
    zone: String,
    stop_above: u16,
    rings: Vec<Stage>,
    left_out: Vec<Machine>,
    devices: usize,
    required: usize,
    already: usize,
    not_applicable: usize,
    zones: usize,
}

/// The devices of one ring.
#[derive(Debug)]
struct Stage {
    up_to: u16,
    begins: Wall,
    machines: Vec<(Machine, Option<Wall>)>,
}

/// The devices of a group that are not shut out, from the fleet's status, and what they said of the release when they looked
/// (the answer of `missing` about it).
pub(super) fn machines(status: &Value, missing: &Value, group: &str, release: &ReleaseId) -> Vec<Machine> {
    let release = release.to_string();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let empty = Vec::new();
    let devices = status["devices"].as_array().unwrap_or(&empty).iter();
    let member = |device: &&Value| {
        device["revoked"] != true && device["groups"].as_array().is_some_and(|groups| groups.iter().any(|g| g == group))
    };
    let machine = |device: &Value| {
        let id: DeviceId = text(&device["device"]).parse().ok()?;
        let name = Some(text(&device["label"])).filter(|label| !label.is_empty()).unwrap_or_else(|| id.short());
        let about = device["deployments"].as_array().unwrap_or(&empty).iter();
        let deployed =
            about.filter(|deployment| deployment["release"] == release.as_str()).map(|d| text(&d["state"])).next();
        let scanned = missing["releases"][0]["devices"].as_array().unwrap_or(&empty).iter();
        let scanned: Option<String> =
            scanned.filter(|seen| seen["device"] == device["device"]).map(|seen| text(&seen["state"])).next();
        let needs = scanned.as_deref() == Some("Required");
        // A deployment that was given up says nothing of the machine; one that is under way knows more than the scan.
        let deployed = deployed.filter(|state| !["Canceled", "Superseded"].contains(&state.as_str()));
        let state = deployed.or(scanned).filter(|state| state != "NotTold");
        let zone = device["time_zone"].as_str().filter(|name| zone(name).is_some()).map(str::to_owned);
        Some(Machine { device: id, name, state, needs, zone })
    };
    devices.filter(member).filter_map(machine).collect()
}

impl Preview {
    /// The effect of an approval on these devices. Windows are read in each machine's own time zone, and in `zone` where that is
    /// not known.
    pub(super) fn new(
        approval: &Approval,
        machines: Vec<Machine>,
        zone_name: &str,
        fallback: &TimeZone,
        now: Wall,
    ) -> Self {
        let available_from = approval.schedule.available_from.unwrap_or_default();
        let stage = |up_to, delay_s: u32| Stage {
            up_to,
            begins: available_from.max(approval.issued + std::time::Duration::from_secs(delay_s.into())),
            machines: Vec::new(),
        };
        let everyone = approval.rings.rings.is_empty() || approval.schedule.expedite;
        let mut rings: Vec<Stage> = if everyone {
            vec![stage(10_000, 0)]
        } else {
            approval.rings.rings.iter().map(|ring| stage(ring.up_to, ring.delay_s)).collect()
        };
        let done = match approval.action {
            Action::Uninstall => &["Uninstalled"][..],
            Action::Install | Action::None => &["Installed", "RestartRequired"],
        };
        let says = |states: &[&str]| {
            let of = |machine: &&Machine| machine.state.as_deref().is_some_and(|state| states.contains(&state));
            machines.iter().filter(of).count()
        };
        let (devices, already, not_applicable) = (machines.len(), says(done), says(&["NotApplicable"]));
        let required = machines.iter().filter(|machine| machine.needs).count();
        let zones = machines.iter().filter(|machine| machine.zone.is_some()).count();
        let mut left_out = Vec::new();
        for machine in machines {
            let own = machine.zone.as_deref().and_then(zone);
            let zone = own.as_ref().unwrap_or(fallback);
            let facts =
                DeviceFacts { device: machine.device, zone, awake_since: now, overdue_since: None, deferred: None };
            let place = ring_of(machine.device, approval.release);
            match rings.iter_mut().find(|ring| place < ring.up_to) {
                Some(ring) => ring.machines.push((machine, earliest(approval, &facts, now))),
                None => left_out.push(machine),
            }
        }
        for ring in &mut rings {
            ring.machines.sort_by_key(|(machine, at)| (at.is_none(), *at, machine.name.clone()));
        }
        Self {
            action: approval.action,
            zone: zone_name.to_owned(),
            stop_above: approval.rings.stop_above,
            rings,
            left_out,
            devices,
            required,
            already,
            not_applicable,
            zones,
        }
    }

    /// Refuses an approval that reaches nobody.
    pub(super) fn must_reach_somebody(&self, group: &str) -> Result<(), CliError> {
        let refuse =
            |reason: String| Err(CliError::Refused(format!("{reason}; if that is what you want, say --allow-empty")));
        if self.action == Action::None {
            return Ok(());
        }
        if self.devices == 0 {
            return refuse(format!("group {group:?} has no devices, so this approval would reach nobody"));
        }
        if self.left_out.len() == self.devices {
            return refuse(format!("the rings leave out all {} devices of group {group:?}", self.devices));
        }
        if self.rings.iter().flat_map(|ring| &ring.machines).all(|(_, at)| at.is_none()) {
            return refuse(format!("no device of group {group:?} could begin before the approval expires"));
        }
        if self.not_applicable == self.devices {
            return refuse(format!("the release concerns no device of group {group:?}, by their last reports"));
        }
        Ok(())
    }

    /// For `--json`.
    pub(super) fn json(&self) -> Value {
        let machine = |machine: &Machine| {
            json!({
                "device": machine.device, "name": machine.name, "state": machine.state, "time_zone": machine.zone,
            })
        };
        let rings: Vec<Value> = self
            .rings
            .iter()
            .enumerate()
            .map(|(at, ring)| {
                let devices = ring.machines.iter().map(|(known, at)| {
                    let mut value = machine(known);
                    value["earliest"] = at.map_or(Value::Null, |at| at.to_string().into());
                    value
                });
                json!({
                    "ring": at + 1,
                    "up_to_percent": f64::from(ring.up_to) / 100.0,
                    "begins": ring.begins.to_string(),
                    "earliest": ring.earliest().map(|at| at.to_string()),
                    "latest": ring.latest().map(|at| at.to_string()),
                    "devices": devices.collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({
            "devices": self.devices,
            "required": self.required,
            "already": self.already,
            "not_applicable": self.not_applicable,
            "left_out": self.left_out.iter().map(machine).collect::<Vec<_>>(),
            "zone": self.zone,
            "stop_above_percent": f64::from(self.stop_above) / 100.0,
            "rings": rings,
        })
    }

    /// One line: how many, who has it, when it begins.
    pub(super) fn short(&self) -> String {
        let mut line = self.who();
        if self.action != Action::None {
            for (at, ring) in self.rings.iter().enumerate().filter(|_| self.rings.len() > 1) {
                line.push_str(&format!("; ring {}: {} from {}", at + 1, count(ring.machines.len()), ring.begins));
            }
            if let Some(first) = self.rings.iter().filter_map(Stage::earliest).min() {
                line.push_str(&format!("; the first may begin at {first}"));
            }
        }
        line
    }

    /// Everything, ring by ring.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![self.who()];
        if self.action == Action::None {
            lines.push("declined: nothing is done on any of them".to_owned());
            return lines.join("\n");
        }
        lines.push(match self.devices - self.zones {
            0 => "each machine's windows and active hours are read in its own time zone; times are shown in UTC".to_owned(),
            unknown => format!(
                "windows and active hours are read in each machine's own time zone, of {unknown} that have told none in {}; \
                 times are shown in UTC",
                self.zone
            ),
        });
        if self.stop_above > 0 {
            lines.push(format!("stops by itself when more than {} fail or fall silent", percent(self.stop_above)));
        }
        for (at, ring) in self.rings.iter().enumerate() {
            let (from, to) = (ring.earliest(), ring.latest());
            let when = match from.zip(to) {
                None if ring.machines.is_empty() => format!("begins {}", ring.begins),
                None => "no device could begin before the approval expires".to_owned(),
                Some((from, to)) if from == to => format!("begin {from}"),
                Some((from, to)) => format!("begin {from} to {to}"),
            };
            let names = names(ring.machines.iter().map(|(machine, _)| machine));
            lines.push(format!(
                "ring {} (up to {}): {}{}{names}",
                at + 1,
                percent(ring.up_to),
                count(ring.machines.len()),
                format_args!(", {when}"),
            ));
            let never = ring.machines.iter().filter(|(_, at)| at.is_none()).count();
            if never > 0 && from.is_some() {
                lines.push(format!("  {} of them could not begin before the approval expires", never));
            }
        }
        if !self.left_out.is_empty() {
            lines.push(format!("in no ring: {}{}", count(self.left_out.len()), names(self.left_out.iter())));
        }
        lines.join("\n")
    }

    fn who(&self) -> String {
        let mut line = count(self.devices);
        let known = [
            (self.required, "needing it"),
            (self.already, if self.action == Action::Uninstall { "without it already" } else { "with it already" }),
            (self.not_applicable, "that it does not concern"),
        ];
        for (number, what) in known.iter().filter(|(number, _)| *number > 0) {
            line.push_str(&format!(", {number} {what} by the last report"));
        }
        line
    }
}

impl Stage {
    fn earliest(&self) -> Option<Wall> {
        self.machines.iter().filter_map(|(_, at)| *at).min()
    }

    fn latest(&self) -> Option<Wall> {
        self.machines.iter().filter_map(|(_, at)| *at).max()
    }
}

fn count(devices: usize) -> String {
    if devices == 1 { "1 device".to_owned() } else { format!("{devices} devices") }
}

fn names<'a>(machines: impl Iterator<Item = &'a Machine>) -> String {
    let mut names: Vec<&str> = machines.map(|machine| machine.name.as_str()).collect();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    match (names.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!(": {}", names.join(", ")),
        (false, more) => format!(": {} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use upswarm_protocol::catalog::{Ring, RingPlan, Schedule, Weekdays, Window};
    use upswarm_protocol::codec::{Bounded, Text};
    use upswarm_protocol::ids::GroupId;
    use upswarm_protocol::schedule::zone;

    /// 2027-01-15 08:00 UTC, a Friday.
    const NOW: Wall = Wall(1_800_000_000_000);
    const RELEASE: ReleaseId = ReleaseId([2; 32]);

    fn approval(rings: &[(u16, u32)], schedule: Schedule) -> Approval {
        let rings = rings.iter().map(|(up_to, delay_s)| Ring { up_to: *up_to, delay_s: *delay_s }).collect();
        Approval {
            group: GroupId([1; 16]),
            release: RELEASE,
            version: 1,
            action: Action::Install,
            issued: NOW,
            expires: NOW + super::super::schedule::LIFE,
            schedule,
            rings: RingPlan { rings: Bounded::new(rings).unwrap(), stop_above: 500 },
            note: Text::default(),
        }
    }

    fn fleet(number: u8) -> Vec<Machine> {
        let state = |at: u8| match at {
            0 => Some("Installed".to_owned()),
            1 => Some("NotApplicable".to_owned()),
            2 => Some("Failed".to_owned()),
            _ => None,
        };
        (0..number)
            .map(|at| Machine {
                device: DeviceId([at; 32]),
                name: format!("pc{at}"),
                state: state(at),
                needs: false,
                zone: None,
            })
            .collect()
    }

    fn preview(approval: &Approval, machines: Vec<Machine>, name: &str) -> Preview {
        Preview::new(approval, machines, name, &zone(name).unwrap(), NOW)
    }

    #[test]
    fn a_dozen_devices_ring_by_ring() {
        let night = Window { days: Weekdays::ALL, start: 22 * 60, end: 5 * 60 };
        let schedule = Schedule { windows: Bounded::new(vec![night]).unwrap(), ..Schedule::default() };
        let approval = approval(&[(2000, 0), (9000, 86_400)], schedule);
        let preview = preview(&approval, fleet(12), "Europe/Berlin");
        assert_eq!((preview.devices, preview.already, preview.not_applicable), (12, 1, 1));
        let by_place = |from: u16, to: u16| {
            let of = |at: &u8| (from..to).contains(&ring_of(DeviceId([*at; 32]), RELEASE));
            (0..12).filter(of).map(|at| format!("pc{at}")).collect::<std::collections::BTreeSet<_>>()
        };
        for (at, wanted, evening) in [
            // 22:00 in Berlin, in winter, on the day and on the day after.
            (0, by_place(0, 2000), "2027-01-15T21:00:00Z"),
            (1, by_place(2000, 9000), "2027-01-16T21:00:00Z"),
        ] {
            let ring = &preview.rings[at];
            let found: std::collections::BTreeSet<_> = ring.machines.iter().map(|(m, _)| m.name.clone()).collect();
            assert_eq!(found, wanted, "ring {at}");
            assert!(!found.is_empty(), "the example has somebody in ring {at}");
            assert!(ring.machines.iter().all(|(_, at)| at.unwrap().to_string() == evening), "ring {at}");
        }
        assert_eq!(preview.left_out.len(), by_place(9000, 10_000).len());
        let text = preview.text();
        for wanted in [
            "12 devices, 1 with it already by the last report, 1 that it does not concern",
            "Europe/Berlin",
            "ring 1 (up to 20 %)",
            "begin 2027-01-16T21:00:00Z",
            "stops by itself when more than 5 %",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
        }
        let json = preview.json();
        assert_eq!((json["devices"].as_u64(), json["rings"][1]["up_to_percent"].as_f64()), (Some(12), Some(90.0)));
        assert_eq!(json["rings"][0]["devices"][0]["earliest"], "2027-01-15T21:00:00Z");
        assert!(preview.must_reach_somebody("office").is_ok());
        assert!(preview.short().contains("the first may begin at 2027-01-15T21:00:00Z"), "{}", preview.short());
    }

    #[test]
    fn each_machine_has_its_own_night() {
        let night = Window { days: Weekdays::ALL, start: 22 * 60, end: 5 * 60 };
        let schedule = Schedule { windows: Bounded::new(vec![night]).unwrap(), ..Schedule::default() };
        let mut machines = fleet(4);
        machines[0].zone = Some("Asia/Tokyo".to_owned());
        (machines[0].state, machines[0].needs) = (Some("Required".to_owned()), true);
        machines[1].zone = Some("America/New_York".to_owned());
        let preview = preview(&approval(&[], schedule), machines, "Europe/Berlin");
        let earliest = |name: &str| {
            let (_, at) = preview.rings[0].machines.iter().find(|(machine, _)| machine.name == name).unwrap();
            at.unwrap().to_string()
        };
        assert_eq!(earliest("pc0"), "2027-01-15T13:00:00Z");
        // It is three in the morning there.
        assert_eq!(earliest("pc1"), "2027-01-15T08:00:00Z");
        assert_eq!(earliest("pc3"), "2027-01-15T21:00:00Z");
        let text = preview.text();
        for wanted in [
            "4 devices, 1 needing it by the last report, 1 that it does not concern",
            "of 2 that have told none in Europe/Berlin",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
        }
        assert_eq!(preview.json()["rings"][0]["devices"][0]["time_zone"], "America/New_York");
        assert_eq!(preview.json()["required"], 1);
    }

    #[test]
    fn many_devices_are_numbers_and_nobody_is_refused() {
        let all = preview(&approval(&[], Schedule::default()), fleet(100), "UTC");
        assert!(
            all.text().contains("and 92 more") && all.text().contains("begin 2027-01-15T08:00:00Z"),
            "{}",
            all.text()
        );
        let refused = |preview: &Preview| match preview.must_reach_somebody("office") {
            Err(CliError::Refused(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert!(refused(&preview(&approval(&[], Schedule::default()), vec![], "UTC")).contains("no devices"));
        let nobody = approval(&[(1, 0)], Schedule::default());
        assert!(refused(&preview(&nobody, fleet(3), "UTC")).contains("leave out all 3"));
        let late = approval(&[(10_000, 31 * 86_400)], Schedule::default());
        assert!(refused(&preview(&late, fleet(3), "UTC")).contains("before the approval expires"));
        let concerned = fleet(2).split_off(1);
        assert!(
            refused(&preview(&approval(&[], Schedule::default()), concerned, "UTC")).contains("concerns no device")
        );
        let mut declined = approval(&[], Schedule::default());
        declined.action = Action::None;
        assert!(preview(&declined, vec![], "UTC").must_reach_somebody("office").is_ok());
    }

    #[test]
    fn machines_come_from_the_status() {
        let status = json!({ "devices": [
            { "device": "ab".repeat(32), "label": "pc1", "time_zone": "Europe/Berlin", "groups": ["office", "lab"], "revoked": false,
              "deployments": [{ "release": RELEASE, "state": "Installed" }, { "release": ReleaseId([3; 32]), "state": "Failed" }] },
            { "device": "cd".repeat(32), "label": "", "time_zone": "Mars/Olympus", "groups": ["office"], "revoked": false,
              "deployments": [] },
            { "device": "98".repeat(32), "label": "", "groups": ["office"], "revoked": false, "deployments": [] },
            { "device": "ef".repeat(32), "label": "pc3", "groups": ["office"], "revoked": true, "deployments": [] },
            { "device": "12".repeat(32), "label": "pc4", "groups": ["lab"], "revoked": false, "deployments": [] },
        ]});
        let missing = json!({ "releases": [{ "devices": [
            { "device": "ab".repeat(32), "state": "Required" }, { "device": "cd".repeat(32), "state": "Required" },
            { "device": "98".repeat(32), "state": "NotTold" },
        ]}]});
        let found = machines(&status, &missing, "office", &RELEASE);
        let named: Vec<_> = found
            .iter()
            .map(|machine| (machine.name.as_str(), machine.state.as_deref(), machine.zone.as_deref()))
            .collect();
        let wanted = [
            ("pc1", Some("Installed"), Some("Europe/Berlin")),
            ("cdcdcdcd", Some("Required"), None),
            ("98989898", None, None),
        ];
        assert_eq!(named, wanted);
    }
}
