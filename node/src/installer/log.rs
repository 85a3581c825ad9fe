//! What a job's programs printed: the head and the tail in a file, the end in the reason.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::report::MAX_LOG as MAX_TOLD;

use super::{Job, Trouble, private_dir};
use crate::sys;

/// Half of what a log file may hold.
const HALF: usize = 512 << 10;
/// The most bytes of a log file that are read: both halves, and the line between them.
const MAX_LOG: u64 = 2 * HALF as u64 + 4096;
/// Room for the line that says what is left out.
const NOTE: usize = 80;
/// Log files that are kept.
const KEPT: usize = 50;
/// Log files of one release that are shown.
const SHOWN: usize = 4;
/// Bytes from which the end of a reason is made.
const LAST: usize = 16 << 10;
/// Characters of the output that a reason quotes: a report has room for 400 bytes of reason, and the end is what counts.
const QUOTED: usize = 300;
/// Beginnings and ends of lines that every failure of a package manager has, and that say nothing about this one.
const IDLE: [&str; 4] = [
    "(Reading database",
    "dpkg: error processing package ",
    "Errors were encountered while processing:",
    "E: Sub-process /usr/bin/dpkg returned an error code",
];
const IDLE_ENDS: [&str; 2] = [": install failed", ": erase skipped"];

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    head_left: usize,
    tail: VecDeque<u8>,
    left_out: u64,
    last: VecDeque<u8>,
}

impl Log {
    /// A new file in the job's `logs`, the oldest of which are removed.
    pub(super) fn create(job: &Job<'_>) -> Result<Self, Trouble> {
        let dir = private_dir(job.state_dir, "logs")?;
        let mut names: Vec<_> = fs::read_dir(&dir)
            .map_err(|error| Trouble::io("cannot list", &dir, error))?
            .flatten()
            .map(|entry| (entry.metadata().and_then(|found| found.modified()).ok(), entry.path()))
            .collect();
        names.sort();
        for (_, old) in names.iter().rev().skip(KEPT - 1) {
            let _ = fs::remove_file(old);
        }
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let mut path = dir.join(format!("{}-{time}.log", job.id.short()));
        let mut number = 1;
        let file = loop {
            match sys::create_private(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < 1000 => {
                    number += 1;
                    path = dir.join(format!("{}-{time}-{number}.log", job.id.short()));
                }
                other => break other.map_err(|error| Trouble::io("cannot create", &path, error))?,
            }
        };
        Ok(Self { path, file, head_left: HALF, tail: VecDeque::new(), left_out: 0, last: VecDeque::new() })
    }

    /// Adds output. A log that cannot be written is no reason to stop a job.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        push_bounded(&mut self.last, bytes, LAST);
        let (head, rest) = bytes.split_at(bytes.len().min(self.head_left));
        self.head_left -= head.len();
        let _ = self.file.write_all(head);
        self.left_out += push_bounded(&mut self.tail, rest, HALF);
    }

    /// Writes the tail to the file and returns the end of the output for a reason, with where the rest is; empty when nothing
    /// was printed. Control characters become spaces.
    pub(super) fn finish(mut self) -> String {
        self.write_tail();
        let text = readable(self.last.make_contiguous());
        if text.is_empty() { String::new() } else { format!(": {text} [{}]", self.path.display()) }
    }

    /// Where the log is, once its tail is written.
    pub(super) fn close(mut self) -> PathBuf {
        self.write_tail();
        self.path
    }

    fn write_tail(&mut self) {
        if self.left_out > 0 {
            let _ = write!(self.file, "\n[... {} bytes left out ...]\n", self.left_out);
        }
        let _ = self.file.write_all(self.tail.make_contiguous());
    }

    /// Another program begins: what the one before it printed is no part of the end.
    pub(super) fn begin(&mut self) {
        self.last.clear();
    }

    /// The end of the output of the last program, as it came.
    pub(super) fn end(&mut self) -> String {
        String::from_utf8_lossy(self.last.make_contiguous()).into_owned()
    }
}

/// A log as it lies on disk.
#[derive(Debug, Serialize)]
pub(crate) struct Kept {
    pub(crate) path: PathBuf,
    /// Fit for any terminal.
    pub(crate) text: String,
}

/// The newest logs of a release in an installer's directory, the latest last: what failed, and what took it away again. Errors are
/// those of reading.
pub(crate) fn newest_logs(state_dir: &Path, release: ReleaseId) -> io::Result<Vec<Kept>> {
    let entries = match fs::read_dir(state_dir.join("logs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let beginning = format!("{}-", release.short());
    let of_release = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&beginning));
    let mut paths: Vec<_> = of_release
        .map(|entry| (entry.metadata().and_then(|found| found.modified()).ok(), entry.path()))
        .take(KEPT)
        .collect();
    paths.sort();
    let newest = paths.split_off(paths.len().saturating_sub(SHOWN));
    newest.into_iter().map(|(_, path)| read(path)).collect()
}

/// The same in one text for whoever is not here, each log below its path; of more than the coordinator takes, the end. Nothing when
/// there is no log.
pub(crate) fn log_for_coordinator(state_dir: &Path, release: ReleaseId) -> io::Result<Vec<u8>> {
    let logs = newest_logs(state_dir, release)?;
    let texts: Vec<String> =
        logs.iter().map(|log| format!("{}\n{}\n", log.path.display(), log.text.trim_end())).collect();
    Ok(end_of(texts.join("\n"), MAX_TOLD).into_bytes())
}

/// A text that fits into `limit` bytes. Of a longer one, whole lines of its end, below a line that says what is left out.
fn end_of(text: String, limit: usize) -> String {
    if text.len() <= limit {
        return text;
    }
    let mut from = text.len().saturating_sub(limit.saturating_sub(NOTE));
    while !text.is_char_boundary(from) {
        from += 1;
    }
    // One line may be longer than all that is told; then its end is better than nothing.
    let end = &text[from..];
    let end = end.split_once('\n').map(|(_, lines)| lines).filter(|lines| !lines.trim().is_empty()).unwrap_or(end);
    format!("[... {} bytes of earlier text left out ...]\n{end}", text.len() - end.len())
}

fn read(path: PathBuf) -> io::Result<Kept> {
    let mut bytes = Vec::new();
    File::open(&path)?.take(MAX_LOG).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.chars().map(|c| if is_hidden(c) && c != '\n' && c != '\t' { ' ' } else { c }).collect();
    Ok(Kept { path, text })
}

/// Marks that reverse or hide text are as good as control characters.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Some text as words on one line, fit for any terminal.
pub(super) fn plain(text: &str) -> String {
    let plain: String = text.chars().map(|c| if is_hidden(c) { ' ' } else { c }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The last characters of some output.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let idle = |line: &str| {
        IDLE.iter().any(|idle| line.starts_with(idle)) || IDLE_ENDS.iter().any(|idle| line.ends_with(idle))
    };
    let telling: Vec<&str> = text.lines().filter(|line| !idle(line)).collect();
    let words = plain(&telling.join("\n"));
    let skip = words.chars().count().saturating_sub(QUOTED);
    words.chars().skip(skip).collect()
}

/// Appends bytes and drops the oldest beyond `limit`; returns how many were dropped.
fn push_bounded(queue: &mut VecDeque<u8>, bytes: &[u8], limit: usize) -> u64 {
    let fitting = &bytes[bytes.len().saturating_sub(limit)..];
    let over = (queue.len() + fitting.len()).saturating_sub(limit);
    queue.drain(..over);
    queue.extend(fitting);
    (over + bytes.len() - fitting.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_log_whole_lines_are_told_below_a_line_that_says_so() {
        let text: String = (0..1000).map(|n| format!("line {n} \u{e9}\n")).collect();
        assert_eq!(end_of(text.clone(), text.len()), text);
        for limit in 400..420 {
            let told = end_of(text.clone(), limit);
            assert!(told.len() <= limit && told.ends_with("line 999 \u{e9}\n"), "{told}");
            let (first, lines) = told.split_once('\n').unwrap();
            let left_out = text.len() - lines.len();
            assert_eq!(first, format!("[... {left_out} bytes of earlier text left out ...]"));
            assert!(lines.starts_with("line 9") && text.ends_with(&format!("\n{lines}")), "{lines}");
        }
        // A line without an end.
        let told = end_of("x".repeat(1000), 400);
        assert!(told.starts_with("[... 680 bytes") && told.ends_with("xxx") && told.len() <= 400, "{told}");
    }
}
