//! Runs a program without a shell, in an environment of its own, and ends it with its children when its time is up.

use std::ffi::{OsStr, OsString};
use std::io::{self, PipeReader, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::lookup::PATH;
use super::priority::{lower_disk_priority, lower_priority};

/// Between the request to end and the end.
const GRACE: Duration = Duration::from_secs(5);
/// How often an ending program is looked for while it prints nothing.
const LOOK: Duration = Duration::from_millis(50);

/// What takes a program's output, piece by piece.
pub(crate) type Output<'a> = &'a mut (dyn FnMut(&[u8]) + Send);

/// A program to run.
pub(crate) struct Program<'a> {
    /// Absolute path.
    pub(crate) path: &'a Path,
    /// Arguments, without the program's name.
    pub(crate) args: Vec<OsString>,
    /// Variables beside `PATH`, `LANG` and `HOME`.
    pub(crate) env: &'a [(&'a str, &'a str)],
    /// After this its process group is asked to end (TERM), 5 s later made to (KILL).
    pub(crate) timeout: Duration,
    /// Ends it early when set.
    pub(crate) cancel: Option<&'a AtomicBool>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
    TimedOut,
    Canceled,
}

impl Program<'_> {
    /// Runs it at idle CPU and disk priority, in `/`, with no input, in a process group of its own, and hands over what it
    /// prints (standard output and error in one stream). Programs that it leaves behind in the background go on.
    pub(crate) fn run(&self, output: Output<'_>) -> io::Result<Ended> {
        self.run_lowered(output, None)
    }

    /// As [`Program::run`], with standard error apart from the output.
    pub(crate) fn run_apart(&self, output: Output<'_>, errors: Output<'_>) -> io::Result<Ended> {
        self.run_lowered(output, Some(errors))
    }

    fn run_lowered(&self, output: Output<'_>, errors: Option<Output<'_>>) -> io::Result<Ended> {
        // On Linux priorities belong to threads, and children inherit them: so a thread of its own is lowered.
        std::thread::scope(|scope| {
            let supervisor = std::thread::Builder::new().name("installer".into()).spawn_scoped(scope, || {
                lower_priority();
                lower_disk_priority();
                self.supervise(output, errors)
            })?;
            supervisor.join().unwrap_or_else(|_| Err(io::Error::other("the supervising thread failed")))
        })
    }

    fn supervise(&self, output: Output<'_>, errors: Option<Output<'_>>) -> io::Result<Ended> {
        let (mut child, mut pipe, error_pipe) = self.spawn(errors.is_some())?;
        let mut errors = error_pipe.zip(errors);
        let group = Pid::from_child(&child);
        let deadline = Instant::now().checked_add(self.timeout);
        let mut ending: Option<(Ended, Instant)> = None;
        let mut open = true;
        loop {
            open = open && drain(&mut pipe, output);
            if let Some((error_pipe, errors)) = &mut errors {
                drain(error_pipe, *errors);
            }
            let now = Instant::now();
            // Not reaped yet: until then the group's number cannot become somebody else's.
            let exited =
                waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
                    .map_err(io::Error::from)?
                    .is_some();
            match ending {
                None if exited => break,
                None => {
                    let canceled = self.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed));
                    if canceled || deadline.is_some_and(|deadline| now >= deadline) {
                        let _ = kill_process_group(group, Signal::TERM);
                        ending = Some((if canceled { Ended::Canceled } else { Ended::TimedOut }, now + GRACE));
                    }
                }
                // Its children have the same grace; an output that nobody holds open says that they are gone.
                Some((_, kill_at)) if now >= kill_at || (exited && !open) => {
                    let _ = kill_process_group(group, Signal::KILL);
                    break;
                }
                Some(_) => {}
            }
            wait_for_output(&pipe, open);
        }
        let status = child.wait()?;
        if open {
            drain(&mut pipe, output);
        }
        if let Some((mut error_pipe, errors)) = errors {
            drain(&mut error_pipe, errors);
        }
        Ok(match (ending, status.code(), status.signal()) {
            (Some((ended, _)), ..) => ended,
            (None, Some(code), _) => Ended::Code(code),
            (None, None, signal) => Ended::Signal(signal.unwrap_or_default()),
        })
    }

    fn spawn(&self, apart: bool) -> io::Result<(Child, PipeReader, Option<PipeReader>)> {
        let mut patience = 100;
        loop {
            let (pipe, writer) = io::pipe()?;
            let (error_pipe, error_writer) = match apart {
                true => io::pipe().map(|(pipe, writer)| (Some(pipe), writer))?,
                false => (None, writer.try_clone()?),
            };
            let mut command = Command::new(self.path);
            command
                .args(&self.args)
                .env_clear()
                .envs([("PATH", OsStr::new(PATH)), ("LANG", OsStr::new("C.UTF-8")), ("HOME", &home())])
                .envs(self.env.iter().copied())
                .current_dir("/")
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(writer)
                .stderr(error_writer);
            match command.spawn() {
                // A child of another thread holds our finished file open for writing until it has called exec.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && patience > 0 => {
                    patience -= 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error),
                Ok(child) => {
                    for pipe in [Some(&pipe), error_pipe.as_ref()].into_iter().flatten() {
                        rustix::io::ioctl_fionbio(pipe, true)?;
                    }
                    return Ok((child, pipe, error_pipe));
                }
            }
        }
    }
}

/// Hands over what is there; false when no more can come. At most 1 MiB at a time, so that a flood cannot hide a deadline.
fn drain(pipe: &mut PipeReader, output: Output<'_>) -> bool {
    let mut buffer = [0; 16 << 10];
    for _ in 0..64 {
        match pipe.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => output(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}

fn wait_for_output(pipe: &PipeReader, open: bool) {
    if open {
        let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
        // Whatever wakes it, the loop looks at everything.
        let _ = poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&timeout));
    } else {
        // Output is closed a moment before the exit shows.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn home() -> OsString {
    if rustix::process::geteuid().is_root() {
        return "/root".into();
    }
    std::env::var_os("HOME").unwrap_or_else(|| "/".into())
}
