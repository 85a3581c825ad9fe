//! How a verb's result is shown: a table, JSON or CSV, in one place for all. Owns what reaches a terminal: nothing that a
//! machine, a package or another person wrote can move the cursor, hide text or turn its direction.

use std::io::Write;

use serde::Serialize;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr};

use crate::error::CliError;
use crate::text::{self, is_hostile};
pub(crate) use crate::text::{age, clean, count, one_line, word};

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON object.
    Json,
    /// Comma-separated values (RFC 4180) of the verb's list.
    Csv,
}

/// Rows under column names.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let row: Vec<String> = cells.into_iter().collect();
        debug_assert_eq!(row.len(), self.head.len(), "a cell for each column");
        self.rows.push(row);
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Column under column, without an end of line at its end.
    pub(crate) fn text(&self) -> String {
        let rows = || self.rows.iter().map(|row| row.iter().map(|cell| one_line(cell)).collect::<Vec<_>>());
        let mut widths: Vec<usize> = self.head.iter().map(|head| head.width()).collect();
        for row in rows() {
            for (width, cell) in widths.iter_mut().zip(&row) {
                *width = (*width).max(cell.width());
            }
        }
        let head = self.head.iter().map(|head| (*head).to_owned()).collect();
        let lines: Vec<String> = std::iter::once(head).chain(rows()).map(|row| line(&row, &widths)).collect();
        lines.join("\n")
    }

    /// The same within so many columns: the widest cells are cut. For lists whose rows are to be seen at a glance; what was cut
    /// stands in the other formats.
    pub(crate) fn text_within(&self, columns: usize) -> String {
        let mut widths: Vec<usize> = self.head.iter().map(|head| head.width()).collect();
        for row in &self.rows {
            widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(one_line(cell).width()));
        }
        let mut left = (widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)).saturating_sub(columns);
        while left > 0 {
            // A column is never narrower than its head.
            let spare = widths.iter_mut().zip(&self.head).filter(|(width, head)| **width > head.width());
            let Some((widest, _)) = spare.max_by_key(|(width, _)| **width) else { break };
            (*widest, left) = (*widest - 1, left - 1);
        }
        let mut cut = Self::new(&self.head);
        for row in &self.rows {
            cut.row(row.iter().zip(&widths).map(|(cell, width)| cut_to(&one_line(cell), *width)));
        }
        cut.text()
    }

    /// As RFC 4180 has it, with the column names first.
    pub(crate) fn csv(&self) -> Result<String, CliError> {
        let failed = |error: csv::Error| CliError::Failed(anyhow::Error::new(error).context("writing CSV"));
        let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
        writer.write_record(&self.head).map_err(failed)?;
        for row in &self.rows {
            writer.write_record(row.iter().map(|cell| text::cell(cell))).map_err(failed)?;
        }
        let bytes = writer.into_inner().map_err(|error| CliError::Failed(anyhow::anyhow!("writing CSV: {error}")))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The beginning of a text, with a mark where it does not fit.
fn cut_to(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    for c in text.chars() {
        if cut.width() + c.width().unwrap_or(0) + 1 > columns {
            break;
        }
        cut.push(c);
    }
    cut + "\u{2026}"
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
        if at > 0 {
            line.push_str("  ");
        }
        line.push_str(cell);
        line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width())));
    }
    line.trim_end().to_owned()
}

/// JSON whose strings hold nothing that a terminal would obey. It means the same.
fn clean_json(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) && !c.is_ascii() || c == '\x7f' {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                cleaned.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            cleaned.push(c);
        }
    }
    cleaned
}

/// Prints a result: its text, or the value as JSON. A verb that lists nothing has no CSV.
pub(crate) fn print(format: Format, value: &impl Serialize, text: &str) {
    match format {
        Format::Json => json(value),
        Format::Table => put(&clean(text)),
        Format::Csv => {
            eprintln!("upswarm: this verb lists nothing, so --output csv is as --output table");
            put(&clean(text));
        }
    }
}

/// Prints a list: the text for people, the value as JSON, or the table as CSV.
pub(crate) fn list(
    format: Format,
    value: &impl Serialize,
    table: &Table,
    text: impl FnOnce() -> String,
) -> Result<(), CliError> {
    match format {
        Format::Json => json(value),
        Format::Table => put(&clean(text().trim_end())),
        Format::Csv => put(table.csv()?.trim_end_matches("\r\n")),
    }
    Ok(())
}

fn json(value: &impl Serialize) {
    // Plain data with text keys always becomes JSON.
    put(&clean_json(&serde_json::to_string(value).unwrap_or_default()));
}

fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed pipe is the reader's choice, not a failure of the verb.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stay_under_each_other_whatever_is_in_them() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["pc1".to_owned(), "fine".to_owned()]);
        table.row(["東京-pc".to_owned(), "two\nlines".to_owned()]);
        table.row(["\u{1b}[31mred\u{202e}dekcart".to_owned(), String::new()]);
        let text = table.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| !line.chars().any(is_hostile)), "{text}");
        assert!(lines[3].contains("\\u{1b}[31mred\\u{202e}dekcart"), "{text}");
        let place = |line: &str, word: &str| line[..line.find(word).unwrap()].width();
        assert_eq!(place(lines[0], "STATE"), place(lines[1], "fine"));
        assert_eq!(place(lines[0], "STATE"), place(lines[2], "two lines"));
    }

    #[test]
    fn a_table_is_cut_where_it_is_widest() {
        let mut table = Table::new(&["SOURCE", "FROM", "TO"]);
        table.row(["linux".to_owned(), "6.1.90-1+".repeat(9), "6.1.99-1".to_owned()]);
        table.row(["東京".repeat(20), "1".to_owned(), "2".to_owned()]);
        let text = table.text_within(60);
        assert!(text.lines().all(|line| line.width() <= 60), "{text}");
        assert!(text.contains("linux") && text.contains("6.1.99-1") && text.contains('\u{2026}'), "{text}");
        assert_eq!(table.text_within(500), table.text());
        assert!(table.text_within(1).starts_with("SOURCE  FROM  TO"), "heads stay");
    }

    #[test]
    fn csv_is_quoted_and_holds_no_formula() {
        let mut table = Table::new(&["NAME", "REASON"]);
        table.row(["a,b".to_owned(), "says \"no\"".to_owned()]);
        table.row(["=cmd|' /C calc'!A0".to_owned(), "-".to_owned()]);
        table.row(["@x".to_owned(), "+1".to_owned()]);
        let wanted = "NAME,REASON\r\n\"a,b\",\"says \"\"no\"\"\"\r\n'=cmd|' /C calc'!A0,-\r\n'@x,'+1\r\n";
        assert_eq!(table.csv().unwrap(), wanted);
        let mut reader = csv::Reader::from_reader(wanted.as_bytes());
        assert_eq!(reader.records().filter_map(Result::ok).count(), 3);
    }

    #[test]
    fn json_for_a_terminal_means_the_same() {
        let hostile = "a\u{202e}b\u{1b}c\u{9b}d\u{7f}e\u{e0001}f\né";
        let text = clean_json(&serde_json::to_string(hostile).unwrap());
        assert!(!text.chars().any(is_hostile), "{text}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), hostile);
        assert_eq!(clean("plain é 東\n"), "plain é 東\n");
    }
}
