//! The installer's process: one connection, one job at a time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use jiff::tz::TimeZone;
use tracing::{info, warn};
use upswarm_protocol::catalog::Action;
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::node::InstallOutcome;
use upswarm_protocol::trust::Admitted;

use super::gate::{Gate, Permit, Refusal};
use super::restarts::Restarts;
use super::timing::Awake;
use super::wire::{self, Answer, Ask, Job, MAX_ANSWER, MAX_ASK, MAX_LOG_ANSWER, Patience, Restarted, Task, WireError};
use crate::clock;
use crate::clock::BUILD_TIME;
use crate::installer::{self, Source};
use crate::machine::{Logind, RestartConfig, Restarter};
use crate::sys::{self, BlockingStream, LocalListener, Share};

/// A connection has said everything within this: the node is on the same machine.
const SAY_WITHIN: Duration = Duration::from_secs(10);
/// The node asks for the state, and then for one job.
const MAX_ASKS: usize = 2;
/// How often sleep of the machine is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Before accepting goes on after an error, such as too many open files.
const PAUSE: Duration = Duration::from_millis(500);

/// How an installer runs.
#[derive(Debug, Clone)]
pub(crate) struct ServerConfig {
    /// Where the pin, what has been believed, logs and backups are; closed to everyone but this user.
    pub(crate) data_dir: PathBuf,
    /// Where to listen. Its directory must be writable by this user only.
    pub(crate) socket: PathBuf,
    /// The user that the node runs as; it and root may connect.
    pub(crate) node_uid: u32,
    /// Install below this directory instead of `/`.
    pub(crate) root: Option<PathBuf>,
    /// Where maintenance windows and hours of work are read.
    pub(crate) zone: TimeZone,
    /// How the machine is restarted.
    pub(crate) restart: RestartConfig,
}

/// Serves until `stop` completes; a job that runs then is ended as [`installer::Job::cancel`] says, and waited for.
pub(crate) async fn run(config: ServerConfig, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let lock = sys::lock_patiently(&config.data_dir.join("lock"), Share::Alone)
        .with_context(|| format!("cannot write in {}", config.data_dir.display()))?;
    let Some(_lock) = lock else { bail!("another installer uses {}; stop it first", config.data_dir.display()) };
    let awake = Awake::start(clock::wall());
    let mut gate =
        Gate::open(&config.data_dir, BUILD_TIME, (config.zone.clone(), awake.clone()), config.root.as_deref())?;
    let restarter = Restarter::new(config.data_dir.clone(), config.root.clone(), config.restart);
    let mut restarts = Restarts::open(config.data_dir.clone(), restarter);
    let jobs = config.data_dir.join("jobs");
    installer::private_dir(&config.data_dir, "jobs").map_err(|trouble| anyhow::anyhow!(trouble.reason))?;
    for recovered in installer::recover(&jobs) {
        warn!(release = %recovered.release.short(), "{}", recovered.text);
    }
    let listener = listen(&config.socket, config.node_uid)?;
    info!(socket = %config.socket.display(), node = config.node_uid, "installer listens");
    let ending = Arc::new(AtomicBool::new(false));
    let (node_uid, zone) = (config.node_uid, config.zone);
    let hall = Arc::new(Hall { jobs, root: config.root, node_uid, zone, ending: ending.clone() });
    let mut look = tokio::time::interval(LOOK_EVERY);
    tokio::pin!(stop);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream.into_std()?,
                Err(error) => {
                    warn!("no connection can be taken: {error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            _ = look.tick() => {
                awake.look(clock::wall());
                continue;
            }
            () = &mut stop => break,
        };
        let hall = hall.clone();
        let mut served = tokio::task::spawn_blocking(move || {
            hall.serve(stream, &mut gate, &mut restarts);
            (gate, restarts)
        });
        (gate, restarts) = tokio::select! {
            served = &mut served => served?,
            () = &mut stop => {
                ending.store(true, Ordering::Relaxed);
                served.await?;
                break;
            }
        };
    }
    let _ = fs::remove_file(&config.socket);
    info!("installer stopped");
    Ok(())
}

/// What every connection needs.
#[derive(Debug)]
struct Hall {
    jobs: PathBuf,
    root: Option<PathBuf>,
    node_uid: u32,
    zone: TimeZone,
    ending: Arc<AtomicBool>,
}

impl Hall {
    fn serve(&self, mut stream: BlockingStream, gate: &mut Gate, restarts: &mut Restarts) {
        let served = stream
            .set_nonblocking(false)
            .map_err(WireError::from)
            .and_then(|()| self.converse(&mut stream, gate, restarts));
        if let Err(error) = served {
            warn!("a request was not served: {error}");
            let _ = wire::send(&mut stream, &Answer::Refused(Text::lossy(&error.to_string())), MAX_ANSWER);
        }
    }

    fn converse(&self, stream: &mut BlockingStream, gate: &mut Gate, restarts: &mut Restarts) -> Result<(), WireError> {
        let peer = sys::peer_user(stream)?;
        if peer != self.node_uid && peer != 0 {
            let text = format!("user {peer} may not ask this installer");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text).into());
        }
        // Nobody may hold up the installer by not listening.
        stream.set_write_timeout(Some(SAY_WITHIN))?;
        let patience = Patience::Until(Instant::now() + SAY_WITHIN);
        for _ in 0..MAX_ASKS {
            match wire::receive(stream, MAX_ASK, patience)? {
                Ask::State => wire::send(stream, &gate.state(), MAX_ANSWER)?,
                Ask::Log(asked) => {
                    let (answer, limit) = match gate.may_tell_log(&asked, clock::wall()) {
                        Ok(release) => (self.log(release), MAX_LOG_ANSWER),
                        Err(Refusal::No(why) | Refusal::NotYet(why)) => {
                            warn!("refused: {why}");
                            (Answer::Refused(Text::lossy(&why)), MAX_ANSWER)
                        }
                    };
                    return wire::send(stream, &answer, limit);
                }
                Ask::Job(job) => {
                    let answer = self.work(stream, &job, gate, restarts, patience)?;
                    return wire::send(stream, &answer, MAX_ANSWER);
                }
            }
        }
        Ok(())
    }

    fn log(&self, release: ReleaseId) -> Answer {
        match installer::log_for_coordinator(&self.jobs, release) {
            Ok(text) => {
                info!(release = %release.short(), "tells the coordinator the log");
                Answer::Log(Bounded::truncated(text))
            }
            Err(error) => Answer::Refused(Text::lossy(&format!("the log cannot be read: {error}"))),
        }
    }

    fn work(
        &self,
        stream: &BlockingStream,
        job: &Job,
        gate: &mut Gate,
        restarts: &mut Restarts,
        patience: Patience<'_>,
    ) -> Result<Answer, WireError> {
        let files = match &job.task {
            Task::Detect | Task::Restart { .. } => Vec::new(),
            Task::Install { payloads, .. } => wire::receive_files(stream, payloads.len(), patience)?,
            Task::Note { payloads } => wire::receive_files(stream, payloads.len(), patience)?,
        };
        let Permit { admitted, back } = match gate.admit(job, restarts.notice(), clock::wall()) {
            Ok(permit) => permit,
            Err(Refusal::No(why)) => {
                warn!("refused: {why}");
                return Ok(Answer::Refused(Text::lossy(&why)));
            }
            Err(Refusal::NotYet(why)) => {
                info!("not yet: {why}");
                return Ok(Answer::NotYet(Text::lossy(&why)));
            }
        };
        let (action, positions): (Action, &[u16]) = match &job.task {
            Task::Detect => {
                return Ok(Answer::Detected(installer::detect(&admitted.release, self.root.as_deref()).into()));
            }
            Task::Restart { go } => return Ok(self.restart(&admitted, *go, restarts)),
            Task::Note { payloads } => (Action::None, payloads),
            Task::Install { action, payloads } => (*action, payloads),
        };
        if let Some(why) = self.root.is_none().then(|| Logind::of_this_machine().goes_down(clock::wall())).flatten() {
            info!("not yet: {why}");
            return Ok(Answer::NotYet(Text::lossy(&why)));
        }
        let asked = (admitted.id, admitted.release.clone(), action);
        // The earlier version is installed where the admitted one is to be uninstalled.
        let downgrade = back.is_some() || (admitted.approval.back && admitted.release.goes_back());
        let said = admitted.said;
        let (done, action) = back.map_or((admitted, action), |older| (older, Action::Install));
        let mut sources: Vec<Source> = done.release.payloads.iter().map(|_| Source::Missing).collect();
        for (position, file) in positions.iter().zip(files) {
            // The gate has looked at the positions.
            sources[usize::from(*position)] = Source::File(file);
        }
        let work = installer::Job {
            id: done.id,
            release: &done.release,
            action,
            downgrade,
            said,
            payloads: sources,
            state_dir: &self.jobs,
            root: self.root.as_deref(),
            cancel: &self.ending,
        };
        if let Task::Note { .. } = job.task {
            let outcome = match installer::note(&work) {
                Ok(()) => InstallOutcome::Done { restart: false, code: None },
                Err(reason) => InstallOutcome::Failed { code: None, reason },
            };
            return Ok(Answer::Ended(outcome.into()));
        }
        info!(release = %done.id.short(), ?action, downgrade, "begins");
        let outcome = installer::run(&work);
        info!(release = %done.id.short(), ?outcome, "ended");
        let (id, release, action) = asked;
        restarts.note(id, &release, action, &outcome);
        Ok(Answer::Ended(outcome.into()))
    }

    /// Tells the person at the machine of a restart, or restarts. The gate has looked at its time.
    fn restart(&self, admitted: &Admitted, go: bool, restarts: &mut Restarts) -> Answer {
        if let Err(why) = restarts.is_wanted(admitted.id) {
            warn!("refused: {why}");
            return Answer::Refused(Text::lossy(&why));
        }
        if go {
            return match restarts.go(admitted.id) {
                Ok(outcome) => Answer::Restart(outcome.into()),
                Err(why) => Answer::NotYet(Text::lossy(&why)),
            };
        }
        let at = clock::wall() + restarts.notice();
        let stamp = jiff::Timestamp::from_millisecond(i64::try_from(at.0).unwrap_or(i64::MAX)).unwrap_or_default();
        let at = stamp.to_zoned_datetime(self.zone.clone()).strftime("%Y-%m-%d %H:%M %Z");
        let title = &admitted.release.title;
        let text =
            format!("This computer will be restarted at {at} to finish the update \"{title}\". Please save your work.");
        restarts.tell(admitted.id, &text);
        Answer::Restart(Restarted::DeviceMessage)
    }
}

/// A socket that only the node's user and root can connect to, from its first instant on.
fn listen(path: &Path, node_uid: u32) -> anyhow::Result<LocalListener> {
    let what = || format!("cannot listen at {}", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(what)?;
    }
    sys::listen_for(path, node_uid).with_context(what)
}
