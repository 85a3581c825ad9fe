//! Asking a package manager's own tool, with bounds on what it says.

use std::ffi::OsString;
use std::time::Duration;

use upswarm_protocol::inventory::MAX_PACKAGES;

use crate::sys::{Ended, Program, find};

/// A tool that takes longer hangs on a lock or a dead disk.
const TIMEOUT: Duration = Duration::from_secs(120);
/// A longer line describes no package.
const MAX_LINE: usize = 2 << 10;
const MAX_COMPLAINT: usize = 2 << 10;

/// What a tool printed.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// Lines of standard output, at most [`MAX_PACKAGES`]; a long one is cut.
    pub(super) lines: Vec<String>,
    /// Standard error, the beginning.
    errors: Vec<u8>,
    /// The exit code, if it was not 0.
    failed: Option<i32>,
    dropped: bool,
    line: Vec<u8>,
}

impl Rows {
    /// What went wrong while it answered all the same.
    pub(super) fn complaint(&self) -> Option<String> {
        let said = self.said();
        match self.failed {
            Some(code) => Some(format!("it ended with exit code {code} ({said})")),
            None if self.dropped => Some(format!("more than {MAX_PACKAGES} entries; the rest is left out")),
            None if !said.is_empty() => Some(said),
            None => None,
        }
    }

    fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.errors);
        text.lines().map(str::trim).filter(|line| !line.is_empty()).take(5).collect::<Vec<_>>().join("; ")
    }

    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = MAX_LINE - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if text.len() < piece.len() {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
        } else if self.lines.len() < MAX_PACKAGES {
            self.lines.push(String::from_utf8_lossy(&line).into_owned());
        } else {
            self.dropped = true;
        }
    }
}

/// Runs a system tool, at idle priority, and returns its lines. The error says why there are none.
pub(super) fn rows(tool: &str, args: &[OsString], env: &[(&str, &str)]) -> Result<Rows, String> {
    let path = find(tool).ok_or_else(|| format!("this machine has no program {tool}; install it"))?;
    let program = Program { path: &path, args: args.to_vec(), env, timeout: TIMEOUT, cancel: None };
    let (mut rows, mut errors) = (Rows::default(), Vec::new());
    let ended = program.run_apart(&mut |bytes| rows.take(bytes), &mut |bytes| {
        let room = MAX_COMPLAINT - errors.len();
        errors.extend_from_slice(&bytes[..bytes.len().min(room)]);
    });
    rows.end_line();
    rows.errors = errors;
    match ended {
        Ok(Ended::Code(0)) => Ok(rows),
        Ok(Ended::Code(code)) if rows.lines.is_empty() => {
            Err(format!("{tool} ended with exit code {code} ({})", rows.said()))
        }
        Ok(Ended::Code(code)) => {
            rows.failed = Some(code);
            Ok(rows)
        }
        Ok(Ended::TimedOut) => Err(format!("{tool} did not answer within {} s", TIMEOUT.as_secs())),
        Ok(Ended::Signal(signal)) => Err(format!("{tool} was ended by signal {signal}")),
        Ok(Ended::Canceled) => Err(format!("{tool} was canceled")),
        Err(error) => Err(format!("{} cannot be run: {error}", path.display())),
    }
}
