//! The `Range` header of a request, for whatever serves files over HTTP.

use std::ops::Range;

/// A single byte range (RFC 9110, section 14.1.2). `None`: not one that can be satisfied. Several ranges at once are
/// refused, not widened to the whole: that would cost what ranges are there to save.
pub(crate) fn parse(value: &[u8], len: u64) -> Option<Range<u64>> {
    let (first, last) = std::str::from_utf8(value).ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let range = match (first, last) {
        ("", suffix) => len.saturating_sub(digits(suffix)?)..len,
        (first, "") => digits(first)?..len,
        (first, last) => digits(first)?..digits(last)?.checked_add(1)?.min(len),
    };
    (range.start < range.end).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_the_standard() {
        for (text, wanted) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=5-", Some(5..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=-30", Some(0..10)),
            ("bytes=8-99", Some(8..10)),
            ("bytes=10-", None),
            ("bytes=5-4", None),
            ("bytes=-0", None),
            ("bytes=-", None),
            ("bytes=0-1,3-4", None),
            ("bytes=+1-2", None),
            ("lines=0-1", None),
            ("bytes=0-18446744073709551615", None),
        ] {
            assert_eq!(parse(text.as_bytes(), 10), wanted, "{text}");
        }
    }
}
