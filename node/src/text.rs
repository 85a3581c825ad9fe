//! Text for people, whoever shows it: ages, counts, and what others wrote made harmless. Owns how these read; never prints.

use std::time::Duration;

use serde::Serialize;

use crate::units;

/// Somebody else's text as one line, so that it cannot pass for a line of ours.
pub(crate) fn one_line(text: &str) -> String {
    clean(text).replace('\n', " ")
}

/// Somebody else's text as a cell of a file for spreadsheets.
pub(crate) fn cell(text: &str) -> String {
    no_formula(&clean(text))
}

/// A spreadsheet takes a cell that begins so for a formula; an apostrophe makes it text.
fn no_formula(cell: &str) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.len() > 1 {
        return format!("'{cell}");
    }
    cell.to_owned()
}

/// A text for a terminal: ends of lines stay, whatever else controls it or turns the direction of writing is spelled out.
pub(crate) fn clean(text: &str) -> String {
    if !text.chars().any(|c| is_hostile(c) && c != '\n') {
        return text.to_owned();
    }
    let mut cleaned = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hostile(c) && c != '\n' {
            cleaned.extend(c.escape_unicode());
        } else {
            cleaned.push(c);
        }
    }
    cleaned
}

/// Control characters, marks and overrides of direction, invisible separators, ends of line of Unicode.
pub(crate) fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Seconds in the unit that people would take.
pub(crate) fn age(seconds: Option<u64>, unknown: &str) -> String {
    seconds.map_or_else(|| unknown.to_owned(), |seconds| units::span_words(Duration::from_secs(seconds)))
}

/// The minutes within which something was done, if it was.
pub(crate) fn within_minutes(minutes: Option<u64>) -> String {
    match minutes {
        None => "not yet".to_owned(),
        Some(minutes @ ..120) => format!("at most {minutes} min"),
        Some(minutes) => format!("at most {}", age(Some(minutes.saturating_mul(60)), "")),
    }
}

/// A number of things.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// The name that a value has in text formats.
pub(crate) fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
