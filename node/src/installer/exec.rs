//! The `exec` recipe, and what every recipe that runs programs shares.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use upswarm_protocol::catalog::{BadPlaceholder, ExitMeaning, ExitRule, Piece, pieces};
use upswarm_protocol::codec::Text;
use upswarm_protocol::node::InstallOutcome;

use super::log::Log;
use super::payload::{self, Snapshot};
use super::{Job, Trouble};
use crate::sys::{Ended, Program};

/// No program runs longer than a day, whatever a release says.
const LONGEST: u32 = 24 * 3600;

/// Runs the recipe's program with verified payloads.
pub(super) fn run(
    job: &Job<'_>,
    argv: &[Text<1024>],
    exit_codes: &[ExitRule],
    timeout_s: u32,
) -> Result<InstallOutcome, Trouble> {
    let argv: Vec<Vec<Piece<'_>>> = argv
        .iter()
        .map(|arg| pieces(arg))
        .collect::<Result<_, _>>()
        .map_err(|bad: BadPlaceholder| Trouble::failed(bad.to_string()))?;
    let mut used: Vec<usize> = Vec::new();
    for piece in argv.iter().flatten() {
        if let Piece::Payload(position) = piece
            && !used.contains(position)
        {
            used.push(*position);
        }
    }
    let executable = match argv.first().map(Vec::as_slice) {
        Some([Piece::Payload(position)]) => Some(*position),
        Some(_) => None,
        None => return Err(Trouble::failed("the recipe names no program")),
    };
    let snapshot = payload::snapshot(job, &used, executable)?;
    let mut argv = argv.iter().map(|pieces| fill_in(pieces, &snapshot));
    let program = argv.next().unwrap_or_default();
    let program = Path::new(&program);
    if !program.is_absolute() {
        let reason = format!("{} is not an absolute path; the recipe must name its program by one", program.display());
        return Err(Trouble::failed(reason));
    }
    let mut session = Session::start(job)?;
    // A program cannot be held to a directory from outside; it is told, and a trial's recipe keeps to it.
    let root = job.root.map(|root| root.to_string_lossy());
    let env: Vec<(&str, &str)> = root.iter().map(|root| ("UPSWARM_ROOT", &**root)).collect();
    let ended = session.run(program, argv.collect(), &env, timeout_s, true)?;
    Ok(session.finish(ended, timeout_s, |code| meaning(exit_codes, code)))
}

/// A job's programs, one after the other, and their common log.
#[derive(Debug)]
pub(super) struct Session<'a> {
    job: &'a Job<'a>,
    pub(super) log: Log,
}

impl<'a> Session<'a> {
    pub(super) fn start(job: &'a Job<'a>) -> Result<Self, Trouble> {
        if job.cancel.load(Ordering::Relaxed) {
            return Err(Trouble::retry("the node is about to end"));
        }
        Ok(Self { job, log: Log::create(job)? })
    }

    /// Runs a program; its output goes to the log. `timeout_s` of 0 counts as 1.
    pub(super) fn run(
        &mut self,
        path: &Path,
        args: Vec<OsString>,
        env: &[(&str, &str)],
        timeout_s: u32,
        may_cancel: bool,
    ) -> Result<Ended, Trouble> {
        let timeout = Duration::from_secs(timeout_s.clamp(1, LONGEST).into());
        let program = Program { path, args, env, timeout, cancel: may_cancel.then_some(self.job.cancel) };
        let log = &mut self.log;
        log.begin();
        program.run(&mut |bytes| log.write(bytes)).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Trouble::failed(format!(
                "{} must not be run by this user, or its file system is mounted noexec",
                path.display()
            )),
            _ => Trouble::io("cannot run", path, error),
        })
    }

    /// The outcome of the job when its last program has ended.
    pub(super) fn finish(
        self,
        ended: Ended,
        timeout_s: u32,
        meaning: impl FnOnce(i32) -> ExitMeaning,
    ) -> InstallOutcome {
        let output = self.log.finish();
        match ended {
            Ended::Code(code) => {
                let (reason, code) = (format!("exit code {code}{output}"), Some(code));
                match meaning(code.unwrap_or_default()) {
                    ExitMeaning::Success => InstallOutcome::Done { restart: false, code },
                    ExitMeaning::RestartRequired => InstallOutcome::Done { restart: true, code },
                    ExitMeaning::Retry => InstallOutcome::Retry { code, reason },
                    ExitMeaning::Failure => InstallOutcome::Failed { code, reason },
                }
            }
            Ended::Signal(signal) => {
                InstallOutcome::Failed { code: None, reason: format!("ended by signal {signal}{output}") }
            }
            Ended::TimedOut => {
                let reason = format!("did not end within {} s and was stopped{output}", timeout_s.clamp(1, LONGEST));
                InstallOutcome::Failed { code: None, reason }
            }
            Ended::Canceled => {
                let reason = format!("was stopped because the node is about to end{output}");
                InstallOutcome::Retry { code: None, reason }
            }
        }
    }
}

/// What an exit code means: the first row for it, else 0 is success and the rest failure.
fn meaning(rules: &[ExitRule], code: i32) -> ExitMeaning {
    let plain = if code == 0 { ExitMeaning::Success } else { ExitMeaning::Failure };
    rules.iter().find(|rule| rule.code == code).map_or(plain, |rule| rule.meaning)
}

fn fill_in(pieces: &[Piece<'_>], snapshot: &Snapshot) -> OsString {
    let mut arg = OsString::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => arg.push(text),
            // Every position in an argument was copied.
            Piece::Payload(position) => arg.push(snapshot.path(*position).unwrap_or(Path::new(""))),
        }
    }
    arg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_for_a_code_counts() {
        let row = |code, meaning| ExitRule { code, meaning };
        let rules = [
            row(3010, ExitMeaning::RestartRequired),
            row(0, ExitMeaning::Failure),
            row(5, ExitMeaning::Retry),
            row(5, ExitMeaning::Success),
        ];
        assert_eq!(meaning(&rules, 3010), ExitMeaning::RestartRequired);
        assert_eq!(meaning(&rules, 0), ExitMeaning::Failure);
        assert_eq!(meaning(&rules, 5), ExitMeaning::Retry);
        assert_eq!(meaning(&rules, 1), ExitMeaning::Failure);
        assert_eq!(meaning(&[], 0), ExitMeaning::Success);
    }
}
