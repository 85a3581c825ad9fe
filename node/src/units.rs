//! Durations, sizes, rates and instants as people write them, and how they are written for people: one way for every verb.

use std::time::Duration;

use upswarm_protocol::catalog::{MinuteOfDay, Weekdays, Window};
use upswarm_protocol::time::Wall;
pub(crate) use upswarm_protocol::units::{rate as rate_words, size as size_words, span as span_words};

const DAYS: [&str; 7] = Weekdays::NAMES;

/// `30s`, `10m`, `2h`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?} is no duration; write for example 30s, 10m, 2h or 7d");
    let (number, unit) = split(text).ok_or_else(refuse)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(refuse()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(refuse)
}

/// Bytes: `65536`, `256KiB`, `1MiB`, `10MB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let refuse = || format!("{text:?} is no size; write for example 256KiB, 1MiB or 65536");
    let (number, unit) = split(text).ok_or_else(refuse)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "kib" => 1 << 10,
        "mb" => 1_000_000,
        "mib" => 1 << 20,
        "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        _ => return Err(refuse()),
    };
    number.checked_mul(factor).ok_or_else(refuse)
}

/// Bytes per second: `100mbit`, `2gbit`, `500kbit` (bits, decimal), or a size per second such as `10MiB`.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    let refuse = || format!("{text:?} is no rate; write for example 100mbit, 500kbit, 2MB/s or 10MiB");
    let text = text.strip_suffix("/s").unwrap_or(text);
    let (number, unit) = split(text).ok_or_else(refuse)?;
    let bits: u64 = match unit.to_ascii_lowercase().as_str() {
        "bit" => 1,
        "kbit" => 1000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => return size(text).map_err(|_| refuse()).and_then(|rate| if rate == 0 { Err(refuse()) } else { Ok(rate) }),
    };
    number.checked_mul(bits).map(|bits| bits / 8).filter(|rate| *rate > 0).ok_or_else(refuse)
}

/// `now`, `+2h`, or RFC 3339 such as `2026-12-01T22:00:00Z`.
pub(crate) fn instant(text: &str, now: Wall) -> Result<Wall, String> {
    if text == "now" {
        return Ok(now);
    }
    if let Some(later) = text.strip_prefix('+') {
        return Ok(now + duration(later)?);
    }
    let stamp: jiff::Timestamp = text
        .parse()
        .map_err(|error| format!("{text:?} is no time ({error}); write now, +2h or 2026-12-01T22:00:00Z"))?;
    u64::try_from(stamp.as_millisecond()).map(Wall).map_err(|_| format!("{text:?} lies before 1970"))
}

/// `mon-fri 22:00-05:00`, `sat,sun 00:00-24:00`, `daily 02:00-04:00`. A window that ends at or before its start ends on the
/// next day.
pub(crate) fn window(text: &str) -> Result<Window, String> {
    let refuse =
        || format!("{text:?} is no window; write for example \"mon-fri 22:00-05:00\" or \"daily 02:00-04:00\"");
    let mut words = text.split_whitespace();
    let (Some(on), Some(hours), None) = (words.next(), words.next(), words.next()) else { return Err(refuse()) };
    let (start, end) = hours.split_once('-').ok_or_else(refuse)?;
    let (start, end) = (minute(start).ok_or_else(refuse)?, minute(end).ok_or_else(refuse)?);
    if start == 1440 {
        return Err(format!("{text:?}: a window begins before 24:00; write 00:00 and the next day"));
    }
    Ok(Window { days: days(on).ok_or_else(refuse)?, start, end })
}

fn minute(text: &str) -> Option<MinuteOfDay> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let digits = (1..=2).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute).filter(|_| minute.len() == 2)?);
    (hour < 24 && minute < 60 || (hour, minute) == (24, 0)).then_some(hour * 60 + minute)
}

fn days(text: &str) -> Option<Weekdays> {
    let day = |name: &str| DAYS.iter().position(|known| *known == name);
    if text == "daily" {
        return Some(Weekdays::ALL);
    }
    let mut found = 0;
    for part in text.to_ascii_lowercase().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // fri-mon goes over the weekend.
        let length = (last + 7 - first) % 7;
        (0..=length).for_each(|step| found |= 1 << ((first + step) % 7));
    }
    Some(Weekdays(found))
}

/// A size for narrow columns: three digits and the first letter of the binary unit, `948K`, `1.6M`.
pub(crate) fn narrow(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "K", "M", "G", "T"];
    let (mut scaled, mut unit) = (bytes as f64, 0);
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        (scaled, unit) = (scaled / 1024.0, unit + 1);
    }
    let unit_name = UNITS.get(unit).copied().unwrap_or_default();
    if unit > 0 && scaled < 9.95 { format!("{scaled:.1}{unit_name}") } else { format!("{scaled:.0}{unit_name}") }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..at].parse().ok()?, text[at..].trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(size("256KiB"), Ok(262144));
        assert_eq!(rate("100mbit"), Ok(12_500_000));
        assert_eq!(rate("1MiB"), Ok(1 << 20));
        let now = Wall(1_000_000);
        assert_eq!(instant("now", now), Ok(now));
        assert_eq!(instant("+2h", now), Ok(Wall(8_200_000)));
        assert_eq!(instant("1970-01-01T01:00:00+01:00", now), Ok(Wall(0)));
        for bad in ["", "m", "10", "-1s", "10 parsecs", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(bad).is_err(), "{bad}");
            assert!(instant(&format!("+{bad}"), now).is_err(), "{bad}");
        }
        for bad in ["", "0mbit", "fast", "0"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        assert!(instant("yesterday", now).is_err());
    }

    #[test]
    fn what_is_written_for_people_can_be_read_again() {
        for bytes_per_s in [1, 125, 2_000_000, 6_250_000, 125_000_000, 1_310_720] {
            assert_eq!(rate(&rate_words(bytes_per_s)), Ok(bytes_per_s));
        }
        for text in ["mon-fri 22:00-05:00", "daily 02:00-04:00", "sat,sun 00:00-24:00", "mon,wed 01:05-02:00"] {
            assert_eq!(window(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn numbers_for_narrow_columns_stay_short() {
        let shown = [0, 999, 1000, 1024, 10_188, 10_240, 1 << 20, 1023 << 20, u64::MAX].map(narrow);
        assert_eq!(shown, ["0B", "999B", "1.0K", "1.0K", "9.9K", "10K", "1.0M", "1.0G", "16777216T"]);
    }
}
