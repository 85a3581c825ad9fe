//! Durations, sizes, rates and instants as people write them.

use std::time::Duration;

use upswarm_protocol::time::Wall;

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
    let refuse = || format!("{text:?} is no rate; write for example 100mbit, 500kbit or 10MiB");
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
}
