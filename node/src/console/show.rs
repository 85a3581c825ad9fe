//! How values look on a page: states with shape and word, bytes, ages, bars, links. Everything here that is HTML is made of this
//! file's own text and of numbers; what others wrote stays text, and templates escape it.

use std::fmt::{self, Write};

use askama::filters::{Escaper, Html};
use reqwest::Url;
use upswarm_protocol::report::BytesBySource;

use crate::api::catalog::Catalog;
use crate::api::fleet::Standing;
use crate::api::holds::HoldView;
use crate::api::status::{RingView, state_words};
use crate::text;

/// The style sheet and script that pages name: a new program has new names, so that browsers may keep what they have.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How templates write every value (`askama.toml` names it): as text of HTML, in which nothing controls or hides anything.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Harmless;

impl Escaper for Harmless {
    fn write_escaped_str<W: Write>(&self, mut dest: W, value: &str) -> fmt::Result {
        // For HTML, every kind of space is one.
        for (at, piece) in value.split(['\t', '\r']).enumerate() {
            if at > 0 {
                dest.write_char(' ')?;
            }
            Html.write_escaped_str(&mut dest, &text::clean(piece))?;
        }
        Ok(())
    }
}

/// A state for people: its word, and which shape and colour it has.
pub(crate) fn standing_label(standing: Standing) -> &'static str {
    match standing {
        Standing::Attention => "Needs attention",
        Standing::Unknown => "Not known",
        Standing::Pending => "Pending",
        Standing::Approval => "Needs approval",
        Standing::Exception => "Exception",
        Standing::Current => "Up to date",
    }
}

/// Shape and word, as HTML.
pub(crate) fn standing(standing: Standing) -> String {
    badge(standing.word(), standing_label(standing))
}

/// A deployment's or a scan's state, as HTML. Words that are not known are shown as unknown.
pub(crate) fn state(word: &str) -> String {
    let shape = match word {
        "Installed" | "Uninstalled" => "current",
        "Failed" | "Stalled" => "attention",
        "OnHold" => "held",
        "Pending" | "Offering" | "Downloading" | "Downloaded" | "Installing" | "RestartRequired" | "Uninstalling" => {
            "pending"
        }
        "Superseded" | "Canceled" | "NotApplicable" | "Declined" => "exception",
        "Required" => "approval",
        _ => "unknown",
    };
    badge(shape, state_words(word))
}

/// A shape with a word; both are words of this program.
pub(crate) fn badge(shape: &'static str, label: &'static str) -> String {
    format!(
        "<span class=\"b b-{shape}\"><svg class=\"i\" aria-hidden=\"true\"><use href=\"#i-{shape}\"/></svg>{label}</span>"
    )
}

/// What is on hold, by name.
pub(crate) fn hold(hold: &HoldView, catalog: &Catalog) -> String {
    let release = hold.release.map(|id| {
        let known = catalog.release(&id);
        known.map_or_else(|| id.short(), |known| format!("{} {}", known.product, known.version))
    });
    match (release, &hold.group) {
        (None, None) => "everything".to_owned(),
        (None, Some(group)) => format!("everything in {group}"),
        (Some(release), None) => format!("{release} in every group"),
        (Some(release), Some(group)) => format!("{release} in {group}"),
    }
}

/// Bytes in the unit that people would take.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if value < 9.995 { format!("{value:.2} {name}") } else { format!("{value:.1} {name}") }
}

/// An age, or what stands for one that nobody knows.
pub(crate) fn age(seconds: Option<u64>) -> String {
    text::age(seconds, "never")
}

/// When a machine was heard of last.
pub(crate) fn seen(connected: bool, seconds: Option<u64>) -> String {
    match (connected, seconds) {
        (true, _) => "connected".to_owned(),
        (false, None) => "never".to_owned(),
        (false, seconds) => format!("{} ago", age(seconds)),
    }
}

/// A share of a whole, in percent with as many digits as it needs.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".to_owned();
    }
    share(100.0 * part as f64 / whole as f64)
}

/// Percent.
pub(crate) fn share(percent: f64) -> String {
    if percent == 0.0 || percent >= 10.0 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

/// A line of bytes by where they came from.
pub(crate) struct Source {
    pub(crate) shape: &'static str,
    pub(crate) label: &'static str,
    pub(crate) bytes: String,
    pub(crate) share: String,
}

/// Bytes by where they came from, a line each, and a bar of all.
pub(crate) fn sources(bytes: &BytesBySource) -> (Vec<Source>, String) {
    let total = bytes.total();
    let parts = [
        ("wan", "over the WAN", bytes.origin),
        ("cache", "from a branch cache", bytes.cache),
        ("lan", "from neighbours", bytes.lan_peer),
        ("reuse", "already on the disk", bytes.local_reuse),
    ];
    let line = |(shape, label, part)| Source { shape, label, bytes: self::bytes(part), share: percent(part, total) };
    (parts.map(line).into(), bar(&parts.map(|(shape, _, part)| (shape, part)), total))
}

/// A bar of parts, as HTML; what is missing to the whole stays empty. Its words stand beside it.
pub(crate) fn bar(parts: &[(&'static str, u64)], whole: u64) -> String {
    let mut at = 0.0;
    let mut rects = String::new();
    for (shape, part) in parts.iter().filter(|(_, part)| *part > 0 && whole > 0) {
        let wide = 100.0 * *part as f64 / whole as f64;
        rects += &format!("<rect class=\"f-{shape}\" x=\"{at:.2}\" width=\"{wide:.2}\" height=\"6\"/>");
        at += wide;
    }
    format!("<svg class=\"bar\" viewBox=\"0 0 100 6\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{rects}</svg>")
}

/// A ring's bar.
pub(crate) fn ring_bar(ring: &RingView) -> String {
    let ended = ring.installed + ring.failed + ring.silent;
    let parts = [
        ("current", u64::from(ring.installed)),
        ("attention", u64::from(ring.failed)),
        ("unknown", u64::from(ring.silent)),
        ("pending", u64::from(ring.begun.saturating_sub(ended))),
    ];
    bar(&parts, u64::from(ring.devices))
}

/// A link within this console: segments of a path and a query.
pub(crate) fn href(path: &[&str], query: &[(&str, &str)]) -> String {
    let Ok(mut url) = Url::parse("http://console/") else { return "/".to_owned() };
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}{query}", url.path())
}

/// A list of machines.
pub(crate) fn devices(query: &[(&str, &str)]) -> String {
    href(&["devices"], query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short_and_right_at_the_edges() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10 << 10, "10.0 KiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (5_368_709_120, "5.00 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn a_value_on_a_page_neither_is_markup_nor_turns_or_hides_anything() {
        let mut page = String::new();
        Harmless.write_escaped_str(&mut page, "<b>\u{202e}gpj\u{200b}\tx\r\n\u{5d0}\u{7}").unwrap();
        assert_eq!(page, "&#60;b&#62;\\u{202e}gpj\\u{200b} x \n\u{5d0}\\u{7}");
    }

    #[test]
    fn links_hold_whatever_names_hold() {
        assert_eq!(href(&["sites", "a/b?c#d \u{5d0}"], &[]), "/sites/a%2Fb%3Fc%23d%20%D7%90");
        assert_eq!(devices(&[("text", "a&b=<c>")]), "/devices?text=a%26b%3D%3Cc%3E");
        assert_eq!(href(&[], &[]), "/");
    }

    #[test]
    fn a_bar_is_as_wide_as_its_parts() {
        let text = bar(&[("current", 1), ("attention", 0), ("pending", 1)], 4);
        assert!(text.contains("x=\"0.00\" width=\"25.00\"") && text.contains("x=\"25.00\" width=\"25.00\""), "{text}");
        assert_eq!(text.matches("<rect").count(), 2);
        assert_eq!(bar(&[("current", 0)], 0).matches("<rect").count(), 0);
    }
}
