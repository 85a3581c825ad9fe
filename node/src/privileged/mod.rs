//! Who installs: this process, or the privileged installer.
//!
//! The process that talks to the network need not be the one that has the right to change the machine. With
//! `installer_socket` in node.toml it has no rights at all, and asks a small process of root's over a Unix socket. That one
//! trusts nothing it is told: it has a pin of its own ([`Pin`]), walks the roots itself, verifies head, index, certificate,
//! release and approval, remembers the versions that only grow, and hashes each payload on the copy that it uses. A node that
//! is taken over can keep updates from being installed; it cannot have anything installed that is not released and approved
//! for this device, nor at another time than ring, jitter, windows, active hours and deadline of the approval say by the
//! installer's own clock, zone and notes; nor can it restart the machine but as `restarts` says. Its word is believed in what
//! only restrains: what the person at the machine has put off, and what waits for mains power.
//!
//! Architecture invariant: the installer opens no network socket and no path that the node names; payloads come as descriptors.

mod gate;
mod restarts;
mod server;
mod timing;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use tokio::sync::Mutex;
use upswarm_protocol::catalog::{Action, Detect, Recipe, Release};
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::ids::{DocHash, PayloadId, ReleaseId};
use upswarm_protocol::node::{Detection, InstallOutcome, NodeState, RestartOutcome, ServeWhat};
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::Trust;

use crate::background;
use crate::clock;
use crate::installer::{self, Source};
use crate::machine::{Logind, RestartConfig, Restarter};
use crate::sys::{self, Access, BlockingStream};

pub(crate) use gate::Pin;
pub(crate) use server::{ServerConfig, run};

use wire::{
    Answer, Ask, AskedLog, Back, Job, MAX_ANSWER, MAX_ASK, MAX_LOG_ANSWER, MAX_ROOTS, Outcome, Patience, Restarted,
    Task, WireError,
};

/// To the coordinator's question for a log that is not there.
const NO_LOG: &str =
    "there is no log: nothing of it was begun here, or its log was one of those that made room for newer ones";

/// Detects and installs for a node.
#[derive(Debug)]
pub(crate) struct Installer {
    /// Of the privileged installer; none means in this process.
    socket: Option<PathBuf>,
    /// Where copies, logs and backups go, in process.
    state_dir: PathBuf,
    root: Option<PathBuf>,
    /// Set when the node is about to end.
    ending: Arc<AtomicBool>,
    /// Every root since enrolment by version, for an installer that has not heard of them.
    roots: PathBuf,
    /// Where the node's documents lie.
    docs: PathBuf,
    root_version: u64,
    /// In process.
    restarter: Option<Restarter>,
    /// The installer apart does one thing at a time: the others wait here, where they cost nothing.
    turn: Arc<Mutex<()>>,
}

impl Installer {
    /// Installs in this process, with this process's rights, below `root` if there is one. Undoes first what an earlier run
    /// was stopped in the middle of.
    pub(crate) fn in_process(
        state_dir: PathBuf,
        root: Option<PathBuf>,
        restart: RestartConfig,
        ending: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        for dir in root.iter().chain([&state_dir]) {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        for recovered in installer::recover(&state_dir) {
            tracing::warn!(release = %recovered.release.short(), "{}", recovered.text);
        }
        let (roots, docs, turn) = (PathBuf::new(), PathBuf::new(), Arc::default());
        let restarter = Some(Restarter::new(state_dir.clone(), root.clone(), restart));
        Ok(Self { socket: None, state_dir, root, ending, roots, docs, root_version: 0, restarter, turn })
    }

    /// Asks the installer at this socket. Roots are kept in the directory `roots`; documents lie in `docs`, by hash.
    pub(crate) fn connect(
        socket: PathBuf,
        roots: PathBuf,
        docs: PathBuf,
        ending: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(&roots).with_context(|| format!("cannot create {}", roots.display()))?;
        let state_dir = PathBuf::new();
        let (socket, turn) = (Some(socket), Arc::default());
        Ok(Self { socket, state_dir, root: None, ending, roots, docs, root_version: 0, restarter: None, turn })
    }

    /// Keeps today's root for the privileged installer. To be called whenever it may have changed, before it is persisted: a gap
    /// in the chain would stop every install.
    pub(crate) fn keep_root(&mut self, trust: &Trust) {
        let version = trust.root().version;
        if self.socket.is_none() || version == self.root_version {
            return;
        }
        let path = self.roots.join(version.to_string());
        let written = sys::replace(&path, trust.root_bytes(), Access::Owner);
        match written {
            Ok(()) => self.root_version = version,
            Err(error) => tracing::error!("{} cannot be written: {error}; the installer will miss it", path.display()),
        }
    }

    /// Whether a release of the catalog is installed here.
    pub(crate) fn detect(&self, state: &NodeState, id: ReleaseId) -> impl Future<Output = Detection> + Send + 'static {
        let release = release(state, &id);
        let (root, errand) = (self.root.clone(), self.errand(state, &id, What::Detect));
        async move {
            let Some(release) = release else {
                return Detection::Unknown("the release is no longer in the catalog".into());
            };
            // Looking at files and packages needs no rights, as a rule; programs get the rights they were written for.
            let runs_programs = release.detect.iter().any(|rule| matches!(rule, Detect::Command { .. }));
            if errand.is_none() || !runs_programs {
                let here = background::run(move || installer::detect(&release, root.as_deref())).await;
                let here = here.unwrap_or_else(|error| Detection::Unknown(format!("detection broke off: {error}")));
                if errand.is_none() || !matches!(here, Detection::Unknown(_)) {
                    return here;
                }
            }
            let Some(errand) = errand else { return Detection::Unknown("there is no installer".into()) };
            match errand.run(Vec::new()).await {
                Ok(Answer::Detected(found)) => found.into(),
                Ok(other) => Detection::Unknown(unexpected(&other)),
                Err(why) => Detection::Unknown(why),
            }
        }
    }

    /// Runs a release's recipe; where it is uninstalled and an earlier version of its package takes its place, that one's.
    /// `path` tells where the store has a payload.
    pub(crate) fn install(
        &self,
        state: &NodeState,
        path: impl Fn(PayloadId) -> Option<PathBuf>,
        id: ReleaseId,
        action: Action,
    ) -> impl Future<Output = InstallOutcome> + Send + 'static {
        let back = (action == Action::Uninstall).then(|| state.goes_back_to(&id)).flatten();
        let errand = self.errand(state, &id, What::Do(action));
        let (said, says_back) = word(state, &id);
        let downgrade = back.is_some() || says_back;
        let (id, release, action) =
            back.map_or((id, release(state, &id), action), |(older, back)| (older, Some(back), Action::Install));
        let paths: Vec<Option<PathBuf>> =
            release.iter().flat_map(|release| &release.payloads).map(|payload| path(payload.id)).collect();
        let (state_dir, root, ending) = (self.state_dir.clone(), self.root.clone(), self.ending.clone());
        async move {
            let failed = |reason: String| InstallOutcome::Failed { code: None, reason };
            let Some(release) = release else { return failed("the release is no longer in the catalog".into()) };
            if let Some(errand) = errand {
                return match errand.run(paths).await {
                    Ok(Answer::Ended(outcome)) => outcome.into(),
                    Ok(Answer::NotYet(why)) => InstallOutcome::NotNow { reason: format!("the installer waits: {why}") },
                    Ok(other) => InstallOutcome::Retry { code: None, reason: unexpected(&other) },
                    Err(reason) => InstallOutcome::Retry { code: None, reason },
                };
            }
            let payloads = paths.into_iter().map(|path| path.map_or(Source::Missing, Source::Path)).collect();
            let installed = background::run(move || {
                if let Some(reason) =
                    root.is_none().then(|| Logind::of_this_machine().goes_down(clock::wall())).flatten()
                {
                    return InstallOutcome::NotNow { reason };
                }
                let (release, state_dir, root) = (&*release, &*state_dir, root.as_deref());
                let cancel = &ending;
                let job = installer::Job { id, release, action, downgrade, said, payloads, state_dir, root, cancel };
                installer::run(&job)
            });
            installed.await.unwrap_or_else(|error| failed(format!("the installer broke off: {error}")))
        }
    }

    /// Has a snapshot of a repository written down for plain apt. `path` tells where the store has a payload. The error says why
    /// that is not so yet.
    pub(crate) fn note(
        &self,
        state: &NodeState,
        path: impl Fn(PayloadId) -> Option<PathBuf>,
        id: ReleaseId,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let errand = self.errand(state, &id, What::Note);
        let (said, downgrade) = word(state, &id);
        let release = release(state, &id);
        let paths: Option<Vec<Option<PathBuf>>> = release.as_ref().and_then(|release| {
            let Recipe::Apt(recipe) = &release.install else { return None };
            let is_metadata = |at: usize| [recipe.upstream, recipe.in_release].map(usize::from).contains(&at);
            let payloads = release.payloads.iter().enumerate();
            Some(payloads.map(|(at, payload)| if is_metadata(at) { path(payload.id) } else { None }).collect())
        });
        let (state_dir, root, ending) = (self.state_dir.clone(), self.root.clone(), self.ending.clone());
        async move {
            let (Some(release), Some(paths)) = (release, paths) else {
                return Err("the release is no snapshot in the catalog".into());
            };
            if let Some(errand) = errand {
                return match errand.run(paths).await? {
                    Answer::Ended(Outcome::Done { .. }) => Ok(()),
                    Answer::Ended(outcome) => Err(format!("the installer did not note it: {outcome:?}")),
                    Answer::NotYet(why) => Err(format!("the installer waits: {why}")),
                    other => Err(unexpected(&other)),
                };
            }
            let payloads = paths.into_iter().map(|path| path.map_or(Source::Missing, Source::Path)).collect();
            let noted = background::run(move || {
                let (release, state_dir, root, cancel) = (&*release, &*state_dir, root.as_deref(), &*ending);
                let action = Action::None;
                let job = installer::Job { id, release, action, downgrade, said, payloads, state_dir, root, cancel };
                installer::note(&job)
            });
            noted.await.unwrap_or_else(|error| Err(format!("noting broke off: {error}")))
        }
    }

    /// Tells the person at the machine of a restart. When its time is set (`near`), the privileged installer tells, and its notice
    /// runs from then on.
    pub(crate) fn tell(
        &self,
        state: &NodeState,
        id: ReleaseId,
        text: String,
        near: bool,
    ) -> impl Future<Output = ()> + Send + 'static {
        let errand = self.errand(state, &id, What::Restart { go: false }).filter(|_| near);
        let restarter = self.restarter.clone();
        async move {
            if let Some(restarter) = restarter {
                let _ = tokio::task::spawn_blocking(move || restarter.tell(&text)).await;
            } else if let Some(errand) = errand {
                match errand.run(Vec::new()).await {
                    Ok(Answer::Restart(Restarted::DeviceMessage)) => {}
                    Ok(Answer::NotYet(why)) => tracing::warn!("the installer does not tell of a restart yet: {why}"),
                    Ok(other) => tracing::warn!("{}", unexpected(&other)),
                    Err(why) => tracing::warn!("the person at the machine was not told of a restart: {why}"),
                }
            }
        }
    }

    /// Restarts the machine for a release that wanted it.
    pub(crate) fn restart(
        &self,
        state: &NodeState,
        id: ReleaseId,
    ) -> impl Future<Output = RestartOutcome> + Send + 'static {
        let errand = self.errand(state, &id, What::Restart { go: true });
        let restarter = self.restarter.clone();
        async move {
            let failed = |reason: String| RestartOutcome::Failed { reason };
            if let Some(restarter) = restarter {
                let restarted = tokio::task::spawn_blocking(move || restarter.restart(id)).await;
                return restarted.unwrap_or_else(|error| failed(format!("it broke off: {error}")));
            }
            let Some(errand) = errand else { return failed("there is no installer".into()) };
            match errand.run(Vec::new()).await {
                Ok(Answer::Restart(Restarted::Asked)) => RestartOutcome::Asked,
                Ok(Answer::Restart(Restarted::Recorded)) => RestartOutcome::Recorded,
                Ok(Answer::Restart(Restarted::Failed(why))) => failed(why.to_string()),
                Ok(Answer::NotYet(why)) => RestartOutcome::NotNow { reason: format!("the installer waits: {why}") },
                Ok(other) => RestartOutcome::NotNow { reason: unexpected(&other) },
                Err(reason) => RestartOutcome::NotNow { reason },
            }
        }
    }

    /// What programs printed when a release was last tried, because the coordinator has ordered it. The error says why there is
    /// nothing.
    pub(crate) fn log(
        &self,
        release: ReleaseId,
        order: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, String>> + Send + 'static {
        let (state_dir, roots, ending, turn) =
            (self.state_dir.clone(), self.roots.clone(), self.ending.clone(), self.turn.clone());
        let socket = self.socket.clone();
        async move {
            let read = match socket {
                None => background::run(move || {
                    installer::log_for_coordinator(&state_dir, release)
                        .map_err(|error| format!("the log cannot be read: {error}"))
                })
                .await
                .map_err(|error| format!("reading the log broke off: {error}"))?,
                Some(socket) => {
                    let turn = turn.lock_owned().await;
                    let asked = tokio::task::spawn_blocking(move || {
                        let _turn = turn;
                        ask_log(&socket, &roots, order, &ending)
                    });
                    asked.await.map_err(|error| format!("asking the installer broke off: {error}"))?
                }
            };
            read.and_then(|text| if text.is_empty() { Err(NO_LOG.to_owned()) } else { Ok(text) })
        }
    }

    /// What to ask the privileged installer, if there is one.
    fn errand(&self, state: &NodeState, id: &ReleaseId, what: What) -> Option<Errand> {
        let socket = self.socket.clone()?;
        let documents = Documents::of(state, id, what.action());
        let (roots, docs) = (self.roots.clone(), self.docs.clone());
        let (ending, turn) = (self.ending.clone(), self.turn.clone());
        Some(Errand { socket, documents, what, roots, docs, ending, turn })
    }
}

/// When an approver said what is to be done with a release, and whether machines go back to it.
fn word(state: &NodeState, id: &ReleaseId) -> (Wall, bool) {
    let release = state.trust().catalog().releases().get(id);
    let goes_back = release.is_some_and(|known| known.release.goes_back());
    state.approval_of(id).map_or((Wall(0), false), |known| (known.said(), known.approval.back && goes_back))
}

/// What is wanted of the privileged installer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Detect,
    Do(Action),
    Note,
    Restart { go: bool },
}

impl What {
    /// The action that must be approved; none for any.
    fn action(self) -> Option<Action> {
        match self {
            What::Do(action) => Some(action),
            What::Note => Some(Action::Install),
            What::Detect | What::Restart { .. } => None,
        }
    }
}

/// A question for the privileged installer.
#[derive(Debug)]
struct Errand {
    socket: PathBuf,
    documents: Result<Documents, String>,
    what: What,
    roots: PathBuf,
    docs: PathBuf,
    ending: Arc<AtomicBool>,
    turn: Arc<Mutex<()>>,
}

/// The envelopes that a question rests on.
#[derive(Debug)]
struct Documents {
    head: Vec<u8>,
    index: Vec<u8>,
    pages: BTreeMap<DocHash, ServeWhat>,
    assignment: Vec<u8>,
    release: ServeWhat,
    approval: ServeWhat,
    groups: BTreeMap<DocHash, ServeWhat>,
    /// Release and approval of the earlier version that takes its place.
    back: Option<[ServeWhat; 2]>,
}

impl Documents {
    fn of(state: &NodeState, id: &ReleaseId, action: Option<Action>) -> Result<Self, String> {
        let trust = state.trust();
        let back = (action == Some(Action::Uninstall)).then(|| state.goes_back_to(id)).flatten();
        let (mut pages, mut groups) = (BTreeMap::new(), BTreeMap::new());
        let mut papers = |id: &ReleaseId, action| approved(state, id, action, (&mut pages, &mut groups));
        let back = back.map(|(older, _)| papers(&older, Some(Action::Install))).transpose()?;
        let [release, approval] = papers(id, action)?;
        Ok(Self {
            head: trust.head_bytes().ok_or("no head has come from the coordinator yet")?.to_vec(),
            index: trust.index_bytes().ok_or("the index is still on its way")?.to_vec(),
            pages,
            assignment: state.assignment_bytes().to_vec(),
            release,
            approval,
            groups,
            back,
        })
    }
}

/// The envelopes of a release and of an approval of it for this device. The pages that lead to them go to `pages`, the document of
/// the approval's group to `described`.
fn approved(
    state: &NodeState,
    id: &ReleaseId,
    action: Option<Action>,
    (pages, described): (&mut BTreeMap<DocHash, ServeWhat>, &mut BTreeMap<DocHash, ServeWhat>),
) -> Result<[ServeWhat; 2], String> {
    let (trust, groups) = (state.trust(), state.groups());
    let wall = clock::wall();
    let mut approvals: Vec<_> = groups
        .iter()
        .filter_map(|group| Some((group, trust.catalog().approvals().get(&(*group, *id))?)))
        .filter(|(_, known)| action.is_none_or(|action| known.approval.action == action))
        .collect();
    // Of several groups' approvals, one that stands.
    approvals.sort_by_key(|(group, _)| trust.may_install(id, group, wall).is_err());
    let (group, approval) = approvals.first().ok_or("no approval for a group of this device says so any more")?;
    let release = trust.catalog().releases().get(id).ok_or("the release is no longer in the catalog")?;
    let document = |hash: DocHash| state.document(&hash).ok_or(format!("document {} is not here", hash.short()));
    let proof = trust.proof(id, group).ok_or("the pages of the newest catalog are still on their way")?;
    for page in proof {
        pages.insert(page, document(page)?);
    }
    if let Some(known) = trust.catalog().groups().get(group) {
        described.insert(known.hash, document(known.hash)?);
    }
    Ok([document(release.hash)?, document(approval.hash)?])
}

impl Errand {
    /// Asks, and waits for the answer. The error is a sentence: the installer is not there, or it refuses.
    async fn run(self, paths: Vec<Option<PathBuf>>) -> Result<Answer, String> {
        let turn = self.turn.clone().lock_owned().await;
        let asked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            self.ask(&paths)
        });
        match asked.await.map_err(|error| format!("asking the installer broke off: {error}"))?? {
            Answer::Refused(why) => Err(format!("the installer refuses: {why}")),
            answer => Ok(answer),
        }
    }

    fn ask(self, paths: &[Option<PathBuf>]) -> Result<Answer, String> {
        let Documents { head, index, pages, assignment, release, approval, groups, back } = self.documents?;
        let broke = |error: WireError| broke_off(&self.socket, &error);
        let patience = Patience::Unless(&self.ending);
        let (mut stream, (known, known_index)) = begin(&self.socket, patience)?;
        let mut files = Vec::new();
        let task = match self.what {
            What::Detect => Task::Detect,
            What::Restart { go } => Task::Restart { go },
            What::Do(_) | What::Note => {
                let mut positions = Vec::new();
                for (position, path) in paths.iter().enumerate() {
                    if let Some(file) = path.as_deref().and_then(|path| sys::open_plain(path).ok()) {
                        positions.push(u16::try_from(position).unwrap_or(u16::MAX));
                        files.push(file);
                    }
                }
                match self.what {
                    What::Do(action) => Task::Install { action, payloads: Bounded::truncated(positions) },
                    _ => Task::Note { payloads: Bounded::truncated(positions) },
                }
            }
        };
        let roots = later_roots(&self.roots, known).map_err(|error| format!("{}: {error}", self.roots.display()))?;
        let index = (known_index != Some(DocHash::of(&index))).then(|| Bounded::truncated(index));
        let read = |held: ServeWhat| read_held(&self.docs, held);
        let pages = pages.into_values().map(|page| Ok(Bounded::truncated(read(page)?)));
        let pages = pages.collect::<Result<Vec<_>, String>>()?;
        let groups = groups.into_values().map(|group| Ok(Bounded::truncated(read(group)?)));
        let groups = groups.collect::<Result<Vec<_>, String>>()?;
        let back = back.map(|[release, approval]| {
            Ok::<_, String>(Back {
                release: Bounded::truncated(read(release)?),
                approval: Bounded::truncated(read(approval)?),
            })
        });
        let back = back.transpose()?;
        let job = Job {
            roots: Bounded::truncated(roots),
            head: Bounded::truncated(head),
            index,
            pages: Bounded::truncated(pages),
            assignment: Bounded::truncated(assignment),
            release: Bounded::truncated(read(release)?),
            approval: Bounded::truncated(read(approval)?),
            groups: Bounded::truncated(groups),
            back,
            task,
        };
        wire::send(&mut stream, &Ask::Job(Box::new(job)), MAX_ASK).map_err(broke)?;
        sys::send_files(&stream, &files).map_err(|error| broke(error.into()))?;
        wire::receive(&mut stream, MAX_ANSWER, patience).map_err(|error| match error {
            WireError::Ending => "the node is about to end; the installer goes on by itself".to_owned(),
            other => broke(other),
        })
    }
}

/// Connects, and asks what the installer knows: the version of its root, and its index.
fn begin(socket: &Path, patience: Patience<'_>) -> Result<(BlockingStream, (u64, Option<DocHash>)), String> {
    let mut stream = BlockingStream::connect(socket).map_err(|error| {
        let socket = socket.display();
        format!("the installer does not answer at {socket} ({error}); start it: systemctl start upswarm-installer")
    })?;
    let broke = |error: WireError| broke_off(socket, &error);
    wire::send(&mut stream, &Ask::State, MAX_ASK).map_err(broke)?;
    match wire::receive(&mut stream, MAX_ANSWER, patience).map_err(broke)? {
        Answer::State { root, index } => Ok((stream, (root, index))),
        other => Err(unexpected(&other)),
    }
}

fn broke_off(socket: &Path, error: &WireError) -> String {
    format!("the installer at {} broke off: {error}; see its log", socket.display())
}

/// Has the installer judge the coordinator's order, and tell what it asks for.
fn ask_log(socket: &Path, roots: &Path, order: Vec<u8>, ending: &AtomicBool) -> Result<Vec<u8>, String> {
    let patience = Patience::Unless(ending);
    let broke = |error: WireError| broke_off(socket, &error);
    let (mut stream, (known, _)) = begin(socket, patience)?;
    let later = later_roots(roots, known).map_err(|error| format!("{}: {error}", roots.display()))?;
    let asked = AskedLog { roots: Bounded::truncated(later), order: Bounded::truncated(order) };
    wire::send(&mut stream, &Ask::Log(Box::new(asked)), MAX_ASK).map_err(broke)?;
    match wire::receive(&mut stream, MAX_LOG_ANSWER, patience).map_err(broke)? {
        Answer::Log(text) => Ok(text.into_vec()),
        Answer::Refused(why) => Err(format!("the installer refuses: {why}")),
        other => Err(unexpected(&other)),
    }
}

fn release(state: &NodeState, id: &ReleaseId) -> Option<Arc<Release>> {
    state.trust().catalog().releases().get(id).map(|found| found.release.clone())
}

/// The bytes of a document that the node holds.
fn read_held(docs: &Path, held: ServeWhat) -> Result<Vec<u8>, String> {
    match held {
        ServeWhat::Bytes(bytes) => Ok(bytes.to_vec()),
        ServeWhat::Doc(hash) => {
            let path = docs.join(hash.to_string());
            fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
        }
        ServeWhat::Chunks { .. } => Err("chunks are no document".into()),
    }
}

fn unexpected(answer: &Answer) -> String {
    format!("the installer gave another answer than was asked for: {answer:?}")
}

/// The envelopes of the first roots after this version, in order.
fn later_roots(
    dir: &Path,
    known: u64,
) -> io::Result<Vec<Bounded<u8, { upswarm_protocol::envelope::Kind::Root.cap() }>>> {
    let names = fs::read_dir(dir)?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    let mut versions: Vec<u64> = names.filter(|version| *version > known).collect();
    versions.sort_unstable();
    versions.truncate(MAX_ROOTS);
    let read = |version: u64| Ok(Bounded::truncated(fs::read(dir.join(version.to_string()))?));
    versions.into_iter().map(read).collect()
}
