//! The power supply, as the kernel's power_supply class tells it (Documentation/ABI/testing/sysfs-class-power).

use std::path::Path;

use upswarm_protocol::node::Power;

use super::value;

const DIR: &str = "sys/class/power_supply";
const MAX_SUPPLIES: usize = 64;

/// Battery when one is being emptied and no supply from the mains is on. A machine without a battery is on mains.
pub(super) fn read(root: &Path) -> Power {
    let Ok(entries) = std::fs::read_dir(root.join(DIR)) else { return Power::Mains };
    let (mut mains, mut draining, mut charges) = (false, false, Vec::new());
    for name in entries.flatten().take(MAX_SUPPLIES).filter_map(|entry| entry.file_name().into_string().ok()) {
        let get = |file: &str| value(root, &format!("{DIR}/{name}/{file}")).unwrap_or_default();
        // A mouse has a battery too.
        if get("scope") == "Device" {
            continue;
        }
        match get("type").as_str() {
            "Battery" => {
                draining |= get("status") == "Discharging";
                charges.extend(charge(&get));
            }
            "Mains" | "USB" | "Wireless" => mains |= get("online") == "1",
            _ => {}
        }
    }
    if mains || !draining {
        return Power::Mains;
    }
    let (now, full) = charges.iter().fold((0, 0), |(now, full), charge| (now + charge.0, full + charge.1));
    // Nothing tells how much is left: then it is not called low.
    let percent = (now * 100).checked_div(full).unwrap_or(100).min(100);
    Power::Battery { percent: percent as u8 }
}

/// What is left of a battery and what it takes: in its own unit, or as the share that it tells. Two batteries of a machine tell
/// the same way.
fn charge(get: &impl Fn(&str) -> String) -> Option<(u128, u128)> {
    let number = |file: &str| get(file).parse::<u64>().ok().map(u128::from);
    let pair = |now: &str, full: &str| Some((number(now)?, number(full).filter(|full| *full > 0)?));
    let share = || number("capacity").map(|percent| (percent, 100));
    pair("energy_now", "energy_full").or_else(|| pair("charge_now", "charge_full")).or_else(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(supplies: &[(&str, &[(&str, &str)])]) -> Power {
        let dir = tempfile::tempdir().unwrap();
        for (name, files) in supplies {
            let supply = dir.path().join(DIR).join(name);
            std::fs::create_dir_all(&supply).unwrap();
            for (file, text) in *files {
                std::fs::write(supply.join(file), format!("{text}\n")).unwrap();
            }
        }
        read(dir.path())
    }

    #[test]
    fn mains_and_batteries_are_told_apart() {
        let battery = |status: &'static str, capacity: &'static str| {
            [("type", "Battery"), ("status", status), ("capacity", capacity)]
        };
        assert_eq!(machine(&[]), Power::Mains);
        assert_eq!(machine(&[("BAT0", &battery("Discharging", "40"))]), Power::Battery { percent: 40 });
        assert_eq!(machine(&[("BAT0", &battery("Full", "100"))]), Power::Mains);
        let supply = |online| [("type", "Mains"), ("online", online)];
        assert_eq!(machine(&[("AC", &supply("1")), ("BAT0", &battery("Discharging", "40"))]), Power::Mains);
        let on_battery = [("AC", &supply("0")[..]), ("BAT0", &battery("Discharging", "7"))];
        assert_eq!(machine(&on_battery), Power::Battery { percent: 7 });
        // A mouse, and a battery that does not tell how much is left.
        let mouse = [("type", "Battery"), ("status", "Discharging"), ("capacity", "3"), ("scope", "Device")];
        assert_eq!(machine(&[("hid", &mouse)]), Power::Mains);
        let silent = [("type", "Battery"), ("status", "Discharging"), ("capacity", "much")];
        assert_eq!(machine(&[("BAT0", &silent)]), Power::Battery { percent: 100 });
        // A small one that is full beside a large one that is nearly empty.
        let own =
            |now, full| [("type", "Battery"), ("status", "Discharging"), ("energy_now", now), ("energy_full", full)];
        let two = [("BAT0", &own("1000", "1000")[..]), ("BAT1", &own("500", "9000"))];
        assert_eq!(machine(&two), Power::Battery { percent: 15 });
    }
}
