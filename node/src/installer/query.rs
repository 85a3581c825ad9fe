//! Questions to the package managers' databases. They change nothing, and give up on one that does not answer.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use crate::sys::{Ended, Program};

/// A query of a package database that takes longer hangs on a lock.
const QUERY_TIMEOUT_S: u32 = 60;
/// Output of a query beyond this is dropped.
const MAX_OUTPUT: usize = 64 << 10;

/// Whether a rule holds; the error says why that cannot be told.
pub(super) type Verdict = Result<bool, String>;

/// What a query of a package database printed, and its exit code.
pub(super) fn query(path: &Path, args: &[&str]) -> Result<(i32, String), String> {
    let args = args.iter().map(OsString::from).collect();
    Question { path, args, env: &[], limit: MAX_OUTPUT, within_s: QUERY_TIMEOUT_S }.ask()
}

/// A question that takes longer, or whose answer is longer.
pub(super) struct Question<'a> {
    /// Absolute path of the program.
    pub(super) path: &'a Path,
    /// Arguments, without the program's name.
    pub(super) args: Vec<OsString>,
    /// Variables beside those that every program gets.
    pub(super) env: &'a [(&'a str, &'a str)],
    /// Bytes of output beyond this are dropped.
    pub(super) limit: usize,
    /// Seconds after which it is ended.
    pub(super) within_s: u32,
}

impl Question<'_> {
    /// The exit code and what was printed.
    pub(super) fn ask(self) -> Result<(i32, String), String> {
        let Self { path, args, env, limit, within_s } = self;
        let mut output = Vec::new();
        let program = Program { path, args, env, timeout: Duration::from_secs(within_s.into()), cancel: None };
        let ended = program.run(&mut |bytes| {
            let room = limit - output.len();
            output.extend_from_slice(&bytes[..bytes.len().min(room)]);
        });
        match ended {
            Ok(Ended::Code(code)) => Ok((code, String::from_utf8_lossy(&output).into_owned())),
            Ok(Ended::TimedOut) => Err(format!("{} did not answer within {within_s} s", path.display())),
            Ok(other) => Err(format!("{} ended by {other:?}", path.display())),
            Err(error) => Err(format!("{} cannot be run: {error}", path.display())),
        }
    }
}
