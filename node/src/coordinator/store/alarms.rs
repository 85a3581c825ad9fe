//! The alarms: what the coordinator and the machines have seen, until an admin has acknowledged it.
//!
//! Owns what is one alarm and what another, their numbers, their bound, and the content of their file. It never decides that
//! something is wrong.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use upswarm_protocol::coordinator::AlarmKind;
use upswarm_protocol::ids::DeviceId;
use upswarm_protocol::time::Wall;

use crate::coordinator::files::read_json_or_default;

/// The most alarms that are kept; the oldest acknowledged ones go first.
const MAX_ALARMS: usize = 256;
/// Machines that are remembered of one alarm.
const MAX_DEVICES: usize = 256;
const MAX_TEXT: usize = 600;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: AlarmKind,
    /// The machine that it is about.
    pub(crate) device: Option<DeviceId>,
    pub(crate) text: String,
}

/// One alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Alarm {
    pub(crate) id: u64,
    pub(crate) kind: AlarmKind,
    /// What tells it from others of its kind.
    key: String,
    pub(crate) devices: BTreeSet<DeviceId>,
    pub(crate) text: String,
    pub(crate) count: u64,
    pub(crate) first: Wall,
    pub(crate) last: Wall,
    pub(crate) over: bool,
    pub(crate) acknowledged: Option<String>,
}

impl Alarm {
    pub(crate) fn is_open(&self) -> bool {
        self.acknowledged.is_none()
    }
}

/// Every alarm, oldest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Alarms {
    last: u64,
    alarms: Vec<Alarm>,
}

impl Alarms {
    /// The alarms in a file; none when there is no file yet.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        read_json_or_default(path)
    }

    /// The bytes that [`Alarms::load`] reads.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Plain data with text keys always becomes JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Every alarm, oldest first.
    pub(crate) fn all(&self) -> &[Alarm] {
        &self.alarms
    }

    /// Notes what was seen. Returns whether an admin has something new to look at.
    ///
    /// What was acknowledged stays so while it goes on; it is open again when it had ended meanwhile.
    pub(crate) fn see(&mut self, seen: Seen, now: Wall) -> bool {
        let key = key(&seen);
        let text = cut(&seen.text);
        if let Some(known) = self.alarms.iter_mut().find(|known| known.kind == seen.kind && known.key == key) {
            let again = core::mem::take(&mut known.over);
            let reopened = again && known.acknowledged.take().is_some();
            (known.text, known.last) = (text, now);
            known.count = known.count.saturating_add(1);
            if known.devices.len() < MAX_DEVICES {
                known.devices.extend(seen.device);
            }
            return reopened;
        }
        if self.alarms.len() >= MAX_ALARMS {
            let goes = self.alarms.iter().position(|known| !known.is_open()).unwrap_or(0);
            self.alarms.remove(goes);
        }
        self.last = self.last.saturating_add(1);
        self.alarms.push(Alarm {
            id: self.last,
            kind: seen.kind,
            key,
            devices: seen.device.into_iter().collect(),
            text,
            count: 1,
            first: now,
            last: now,
            over: false,
            acknowledged: None,
        });
        true
    }

    /// Of this kind, nothing is wrong with this machine (or with the coordinator) any more, but for what is named in `still`.
    /// Returns whether that is a change.
    pub(crate) fn ended(&mut self, kind: AlarmKind, device: Option<DeviceId>, still: &[Seen]) -> bool {
        let still: Vec<String> = still.iter().filter(|seen| seen.kind == kind).map(key).collect();
        let mut changed = false;
        for known in self.alarms.iter_mut().filter(|known| known.kind == kind && !still.contains(&known.key)) {
            match device {
                Some(device) => {
                    let had = known.devices.remove(&device);
                    if had && known.devices.is_empty() {
                        // Whom it was about stays known.
                        known.devices.insert(device);
                        changed |= !core::mem::replace(&mut known.over, true);
                    }
                }
                None if known.devices.is_empty() => changed |= !core::mem::replace(&mut known.over, true),
                None => {}
            }
        }
        changed
    }

    /// Whether an alarm is about this machine.
    pub(crate) fn concern(&self, device: DeviceId) -> bool {
        self.alarms.iter().any(|known| known.devices.contains(&device))
    }

    /// What is about nobody but this machine goes with it.
    pub(crate) fn forget(&mut self, device: DeviceId) {
        self.alarms.retain_mut(|known| !(known.devices.remove(&device) && known.devices.is_empty()));
    }

    /// Acknowledges these, or every open one. Returns which were open; says which number does not exist.
    pub(crate) fn acknowledge(&mut self, ids: Option<&[u64]>, by: &str) -> Result<Vec<u64>, String> {
        let unknown = ids.into_iter().flatten().find(|id| self.alarms.iter().all(|known| known.id != **id));
        if let Some(id) = unknown {
            return Err(format!("there is no alarm {id}; see: upswarm alarms list --all"));
        }
        let meant = |known: &&mut Alarm| known.is_open() && ids.is_none_or(|ids| ids.contains(&known.id));
        let mut acknowledged = Vec::new();
        for known in self.alarms.iter_mut().filter(meant) {
            known.acknowledged = Some(by.to_owned());
            acknowledged.push(known.id);
        }
        Ok(acknowledged)
    }
}

/// What is about one machine is one alarm a machine; what many machines may say is one alarm a text, whatever its numbers.
fn key(seen: &Seen) -> String {
    match (seen.kind, seen.device) {
        (AlarmKind::Clock | AlarmKind::Clone, Some(device)) => device.to_string(),
        (AlarmKind::Clock | AlarmKind::Restored | AlarmKind::Fork, None) => "coordinator".to_owned(),
        _ => without_numbers(&cut(&seen.text)),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// A text with every run of digits as one mark, so that sizes, process ids and times do not tell texts apart.
pub(crate) fn without_numbers(text: &str) -> String {
    let mut key = String::with_capacity(text.len());
    for c in text.chars() {
        let mark = if c.is_ascii_digit() { '#' } else { c };
        if mark != '#' || !key.ends_with('#') {
            key.push(mark);
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(kind: AlarmKind, device: Option<u8>, text: &str) -> Seen {
        Seen { kind, device: device.map(|number| DeviceId([number; 32])), text: text.to_owned() }
    }

    #[test]
    fn the_same_is_one_alarm_and_stays_acknowledged_while_it_goes_on() {
        let mut alarms = Alarms::default();
        let full =
            |number| seen(AlarmKind::Device, Some(number), &format!("the disk is full: {number} bytes are free"));
        assert!(alarms.see(full(1), Wall(1)));
        assert!(!alarms.see(full(2), Wall(2)), "another machine, other numbers");
        assert!(alarms.see(seen(AlarmKind::Clock, Some(1), "5 days ahead"), Wall(3)));
        assert!(alarms.see(seen(AlarmKind::Clock, Some(2), "5 days ahead"), Wall(3)), "each machine has its clock");
        assert!(!alarms.see(seen(AlarmKind::Clock, Some(2), "6 days ahead"), Wall(4)));
        let first = &alarms.all()[0];
        assert_eq!((first.count, first.devices.len(), first.first, first.last), (2, 2, Wall(1), Wall(2)));
        assert_eq!(alarms.acknowledge(Some(&[1]), "ann"), Ok(vec![1]));
        assert_eq!(alarms.acknowledge(Some(&[1]), "bob"), Ok(vec![]), "once");
        assert!(alarms.acknowledge(Some(&[1, 9]), "ann").unwrap_err().contains("no alarm 9"));
        assert!(!alarms.see(full(1), Wall(5)));
        assert!(!alarms.all()[0].is_open(), "it goes on, and is known");
        // It ends on both, and comes back.
        assert!(!alarms.ended(AlarmKind::Device, full(1).device, &[full(1)]), "told again: not over");
        assert!(!alarms.ended(AlarmKind::Device, full(1).device, &[]), "one machine has it still");
        assert!(alarms.ended(AlarmKind::Device, full(2).device, &[]));
        assert!(alarms.all()[0].over);
        assert!(alarms.see(full(3), Wall(6)), "it is back");
        assert!(alarms.all()[0].is_open());
        assert_eq!(alarms.acknowledge(None, "ann").unwrap().len(), 3);
    }

    #[test]
    fn they_survive_a_restart_and_their_number_is_bounded() {
        let mut alarms = Alarms::default();
        for number in 0..3 * MAX_ALARMS {
            let letters: String = format!("{number:04}").bytes().map(|digit| char::from(digit + 49)).collect();
            alarms.see(seen(AlarmKind::Other, None, &letters.repeat(1000)), Wall(number as u64));
            if number == 0 {
                alarms.acknowledge(None, "ann").unwrap();
            }
            for device in 0..=u8::MAX {
                alarms.see(seen(AlarmKind::Device, Some(device), "one text"), Wall(0));
            }
        }
        assert_eq!(alarms.all().len(), MAX_ALARMS);
        assert!(alarms.all().iter().all(|alarm| alarm.is_open() && alarm.devices.len() <= MAX_DEVICES));
        assert!(alarms.to_bytes().len() < 512 << 10, "{}", alarms.to_bytes().len());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alarms.json");
        assert!(Alarms::load(&path).unwrap().all().is_empty());
        std::fs::write(&path, alarms.to_bytes()).unwrap();
        let mut again = Alarms::load(&path).unwrap();
        assert_eq!(again.all(), alarms.all());
        again.see(seen(AlarmKind::Other, None, "new"), Wall(9));
        assert!(again.all().last().unwrap().id > alarms.all().last().unwrap().id);
    }
}
