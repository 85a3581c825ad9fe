//! How quantities are written for people, in one way everywhere: sizes in binary units, rates in bits, times in the unit that people
//! would take. What this writes of a rate can be read again where rates are given.

use core::time::Duration;

/// A number of bytes: `948 B`, `4.9 MiB`, rounded down.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let exponent = (bytes.ilog2() / 10).min(UNITS.len() as u32);
    let tenths = (u128::from(bytes) * 10) >> (10 * exponent);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[exponent as usize - 1])
}

/// Bytes per second: `16 Mbit/s`, exactly.
pub fn rate(bytes_per_s: u64) -> String {
    const UNITS: [(u128, &str); 3] = [(1_000_000_000, "Gbit"), (1_000_000, "Mbit"), (1_000, "kbit")];
    let bits = u128::from(bytes_per_s) * 8;
    match UNITS.iter().find(|(unit, _)| bits >= *unit && bits.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{} {name}/s", bits / unit),
        None => format!("{bits} bit/s"),
    }
}

/// A length of time.
pub fn span(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// Whole percent, rounded down.
pub fn percent(part: u64, of: u64) -> u128 {
    (u128::from(part) * 100).checked_div(u128::from(of)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_of_writing() {
        let sizes = [0, 1023, 1024, 1_638, 57 << 20, (1 << 30) - 1, 1 << 40, u64::MAX].map(size);
        assert_eq!(
            sizes,
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "57.0 MiB", "1023.9 MiB", "1.0 TiB", "16777215.9 TiB"]
        );
        let rates = [1, 125, 2_000_000, 6_250_000, 125_000_000, 1_310_720, u64::MAX].map(rate);
        assert_eq!(
            rates,
            [
                "8 bit/s",
                "1 kbit/s",
                "16 Mbit/s",
                "50 Mbit/s",
                "1 Gbit/s",
                "10485760 bit/s",
                "147573952589676412920 bit/s"
            ]
        );
        let spans = [1, 119, 120, 7_200, 172_800].map(|s| span(Duration::from_secs(s)));
        assert_eq!(spans, ["1 s", "119 s", "2 min", "2 h", "2 d"]);
        assert_eq!((percent(1, 3), percent(0, 0)), (33, 0));
    }
}
