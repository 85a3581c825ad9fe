//! What the installer believes, and the one way past it.
//!
//! ```text
//! DIR/pin     JSON: hash of the root envelope, this device's key; written by root at enrolment, never by this program
//! DIR/trust   magic "UPIN" | version u8 = 2 | zero 3 | issued of the newest assignment u64 | trust snapshot
//! ```
//! The node hands in documents and is believed in nothing. What only grows (root, head and index versions, approval versions,
//! the age of the assignment to groups) is durable before anything is run because of it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{Action, Assignment, Members, Recipe};
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::ids::{DeviceId, DocHash, GroupId, ReleaseId};
use upswarm_protocol::inventory::belongs;
use upswarm_protocol::node::takes_back;
use upswarm_protocol::report::LogOrder;
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::{Admitted, MAX_SNAPSHOT, Trust};

use super::timing::{Awake, Timing};
use super::wire::{Answer, AskedLog, Back, Job, Task};
use crate::inventory::{KINDS, Scanner};
use crate::sys::{self, Access};

const MAGIC: [u8; 8] = *b"UPIN\x02\0\0\0";
const HEADER: usize = 16;

/// What root has written down at enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pin {
    /// Hash of the envelope of the root that everything begins with.
    pub(crate) root: DocHash,
    /// This device's key: assignments of others do not count.
    pub(crate) device: DeviceId,
}

impl Pin {
    /// Writes the pin of a new installer. One that is there already is not replaced, unless it says the same.
    pub(crate) fn write(self, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join("pin");
        if path.exists() {
            if Self::read(dir)? == self {
                return Ok(());
            }
            let dir = dir.display();
            bail!("{dir} is pinned to another root or device; if this machine has joined anew, remove {dir} first");
        }
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        sys::close_to_others(dir)
            .and_then(|()| sys::replace(&path, serde_json::to_string_pretty(&self)?.as_bytes(), Access::Owner))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("pin");
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}; pin a root first: upswarm installer pin --data-dir {}",
                path.display(),
                dir.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }
}

/// What may be done.
#[derive(Debug)]
pub(super) struct Permit {
    /// The release, and the approval that says what.
    pub(super) admitted: Admitted,
    /// The earlier release that takes its place when it is uninstalled.
    pub(super) back: Option<Admitted>,
}

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The documents do not say so.
    No(String),
    /// Its time has not come.
    NotYet(String),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::No(why)
    }
}

/// Whether this machine belongs to a group by what approvers have signed about it: the installer looks for itself.
#[derive(Debug)]
struct Membership {
    scanner: Scanner,
}

impl Membership {
    fn belongs(&mut self, admitted: &Admitted, assignment: &Assignment) -> Result<(), Refusal> {
        let Some(group) = &admitted.group else { return Ok(()) };
        let inventory = matches!(group.members, Members::Rule(_)).then(|| {
            self.scanner.rescan();
            &self.scanner.last().inventory
        });
        belongs(group, &assignment.device, &assignment.ways, inventory).map_err(|error| Refusal::No(error.to_string()))
    }
}

/// The installer's own trust.
#[derive(Debug)]
pub(super) struct Gate {
    dir: PathBuf,
    pin: Pin,
    build_time: Wall,
    timing: Timing,
    members: Membership,
    trust: Option<Trust>,
    /// Of assignments issued before this one none counts: the device has left a group since.
    assigned: Wall,
    /// What the file `trust` holds.
    written: Vec<u8>,
}

impl Gate {
    /// Reads what was pinned and what has been believed since.
    /// Packages and facts are those below `root`.
    pub(super) fn open(
        dir: &Path,
        build_time: Wall,
        (zone, awake): (TimeZone, Awake),
        root: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let pin = Pin::read(dir)?;
        let path = dir.join("trust");
        let mut written = Vec::new();
        match File::open(&path) {
            Ok(file) => drop(file.take((HEADER + MAX_SNAPSHOT) as u64).read_to_end(&mut written)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
        let timing = Timing::open(dir, pin.device, zone, awake);
        let members = Membership { scanner: Scanner::new(root.map(Path::to_owned), &KINDS) };
        let mut gate =
            Self { dir: dir.to_owned(), pin, build_time, timing, members, trust: None, assigned: Wall(0), written };
        if !gate.written.is_empty() {
            // Starting from the pin again would bring old versions back: that is for root to decide.
            let damaged = || format!("{} is damaged; restore it, or pin this machine anew", path.display());
            let head = gate.written.first_chunk::<HEADER>().with_context(damaged)?;
            if head[..8] != MAGIC {
                bail!(damaged());
            }
            gate.assigned = Wall(u64::from_le_bytes(*head.last_chunk().with_context(damaged)?));
            gate.trust = Some(Trust::restore(&gate.written[HEADER..], build_time).with_context(damaged)?);
        }
        Ok(gate)
    }

    /// What the node need not send again.
    pub(super) fn state(&self) -> Answer {
        let trust = self.trust.as_ref();
        Answer::State {
            root: trust.map_or(0, |trust| trust.root().version),
            index: trust.and_then(Trust::index_bytes).map(DocHash::of),
        }
    }

    /// Takes in the job's documents and says whether it may be done at this time, a restart `notice` after its announcement. The
    /// error is for the person who asks why not.
    pub(super) fn admit(&mut self, job: &Job, notice: Duration, wall: Wall) -> Result<Permit, Refusal> {
        let admitted = self.judge(job, notice, wall);
        // Whatever came of it, what was learnt must not be forgotten.
        self.persist().map_err(|error| format!("the installer cannot write {}: {error}", self.dir.display()))?;
        admitted
    }

    /// Says of which release the coordinator asks this device for the log. Whoever took the node over can show an order again; that
    /// gives it what it was given before.
    pub(super) fn may_tell_log(&mut self, asked: &AskedLog, wall: Wall) -> Result<ReleaseId, Refusal> {
        let beliefs = (&mut self.trust, &mut self.assigned);
        let followed = follow_roots(beliefs, &asked.roots, (&self.pin, self.build_time), wall).map(|_| ());
        self.persist().map_err(|error| format!("the installer cannot write {}: {error}", self.dir.display()))?;
        followed?;
        let Some(trust) = &self.trust else { return Err(Refusal::No("no root is known".into())) };
        let envelope =
            Envelope::parse(&asked.order, Kind::LogOrder, Role::Online).map_err(|error| error.to_string())?;
        let verified = envelope.verify(&trust.root().online).map_err(|error| error.to_string())?;
        let order: LogOrder = verified.decode().map_err(|error| error.to_string())?;
        if order.device != self.pin.device {
            return Err(Refusal::No("the coordinator asks another device for its log".into()));
        }
        Ok(order.release)
    }

    fn judge(&mut self, job: &Job, notice: Duration, wall: Wall) -> Result<Permit, Refusal> {
        // 1. The pinned root, and from it step by step to today's.
        let beliefs = (&mut self.trust, &mut self.assigned);
        let trust = follow_roots(beliefs, &job.roots, (&self.pin, self.build_time), wall)?;
        // 2. The head and the index that it names; an older one is no error and changes nothing.
        trust.offer_head(&job.head, wall).map_err(|error| error.to_string())?;
        if let Some(index) = &job.index {
            trust.offer_index(index.to_vec()).map_err(|error| error.to_string())?;
        }
        // 3. The assignment to groups is this device's, and the newest that was seen.
        let assignment = trust.check_assignment(&job.assignment).map_err(|error| error.to_string())?;
        trust.check_expiry(&assignment, wall).map_err(|error| error.to_string())?;
        if assignment.device != self.pin.device {
            return Err(Refusal::No("the assignment to groups is another device's".into()));
        }
        if assignment.issued < self.assigned {
            return Err(Refusal::No(format!("a later assignment than the one of {} is known", assignment.issued)));
        }
        self.assigned = assignment.issued;
        // 4. Release and approval: signed, named by the index, about each other, not stopped, not expired.
        let pages = || job.pages.iter().map(|page| &**page);
        let described: Vec<&[u8]> = job.groups.iter().map(|group| &**group).collect();
        let admitted =
            trust.admit(&job.release, &job.approval, &described, pages(), wall).map_err(|error| error.to_string())?;
        // 5. For this device, and for this.
        if !assignment.groups.contains(&admitted.approval.group) {
            return Err(Refusal::No("the approval is for a group that this device is not in".into()));
        }
        self.members.belongs(&admitted, &assignment)?;
        let back = job.back.as_ref().map(|back| may_take_back(trust, (back, job), &admitted, &assignment.groups, wall));
        let back = back.transpose()?;
        if let Some(back) = &back {
            self.members.belongs(back, &assignment)?;
        }
        // 6. At this time, by the clock that the core goes by too.
        let now = wall;
        match &job.task {
            Task::Detect => {}
            Task::Install { action, payloads } => {
                if *action == Action::None || *action != admitted.approval.action {
                    let why = format!("{action:?} was asked for, {:?} is approved", admitted.approval.action);
                    return Err(Refusal::No(why));
                }
                let count = back.as_ref().unwrap_or(&admitted).release.payloads.len();
                if payloads.windows(2).any(|pair| pair[0] >= pair[1])
                    || payloads.last().is_some_and(|last| usize::from(*last) >= count)
                {
                    let why =
                        format!("the positions of payloads are not in order, or beyond the {count} of the release");
                    return Err(Refusal::No(why));
                }
                self.timing.may_begin(&admitted.approval, now).map_err(Refusal::NotYet)?;
            }
            Task::Note { payloads } => {
                let Recipe::Apt(recipe) = &admitted.release.install else {
                    return Err(Refusal::No("the release is no snapshot of a repository".into()));
                };
                if admitted.approval.action != Action::Install {
                    return Err(Refusal::No("the snapshot is not approved for install".into()));
                }
                let mut metadata = [recipe.upstream, recipe.in_release];
                metadata.sort_unstable();
                if payloads[..] != metadata {
                    return Err(Refusal::No(
                        "a note needs the description of the upstream, its InRelease and no more".into(),
                    ));
                }
                self.timing.has_begun(&admitted.approval, now).map_err(Refusal::NotYet)?;
            }
            Task::Restart { go } => {
                // It is announced when the time will have come at the end of the notice.
                let at = if *go { now } else { now + notice };
                let policy = admitted.release.restart;
                self.timing.may_restart(policy, &admitted.approval, at).map_err(Refusal::NotYet)?;
            }
        }
        Ok(Permit { admitted, back })
    }

    fn persist(&mut self) -> io::Result<()> {
        let Some(trust) = &self.trust else { return Ok(()) };
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.assigned.0.to_le_bytes());
        bytes.extend_from_slice(&trust.snapshot());
        if bytes != self.written {
            sys::replace(&self.dir.join("trust"), &bytes, Access::Owner)?;
            self.written = bytes;
        }
        Ok(())
    }
}

/// From the pinned root step by step to today's. What a removed key signed is no bound for assignments.
fn follow_roots<'a>(
    (trust, assigned): (&'a mut Option<Trust>, &mut Wall),
    roots: &[Bounded<u8, { Kind::Root.cap() }>],
    (pin, build_time): (&Pin, Wall),
    wall: Wall,
) -> Result<&'a mut Trust, Refusal> {
    let mut roots = roots.iter().map(|root| &**root);
    if trust.is_none() {
        let pinned = roots.by_ref().find(|root| DocHash::of(root) == pin.root).ok_or_else(|| {
            format!("the root {} that is pinned here was not sent; pin this machine anew", pin.root.short())
        })?;
        let pinned = Trust::pin(pinned.to_vec(), pin.root, build_time);
        *trust = Some(pinned.map_err(|error| format!("the pinned root is not good: {error}"))?);
    }
    let Some(trust) = trust else { return Err(Refusal::No("no root is known".into())) };
    let online = trust.root().online.clone();
    for root in roots {
        if *root == *trust.root_bytes() {
            continue;
        }
        trust.offer_root(root, wall).map_err(|error| error.to_string())?;
        if trust.root().online != online {
            *assigned = Wall(0);
        }
    }
    Ok(trust)
}

/// A downgrade rests on two approvals: that the newer release goes, and that the older one may be there. So it can neither be
/// brought about with an old approval that still stands, nor end at a version that nobody wants.
fn may_take_back(
    trust: &mut Trust,
    (back, job): (&Back, &Job),
    newer: &Admitted,
    groups: &[GroupId],
    wall: Wall,
) -> Result<Admitted, String> {
    let pages = job.pages.iter().map(|page| &**page);
    let described: Vec<&[u8]> = job.groups.iter().map(|group| &**group).collect();
    let older =
        trust.admit(&back.release, &back.approval, &described, pages, wall).map_err(|error| error.to_string())?;
    if !groups.contains(&older.approval.group) {
        return Err("the approval of the earlier version is for a group that this device is not in".into());
    }
    if newer.approval.action != Action::Uninstall || older.approval.action != Action::Install {
        return Err("an earlier version takes the place only of one that is to be uninstalled".into());
    }
    if let Some(from) = older.approval.schedule.available_from.filter(|from| wall < *from) {
        return Err(format!("the approval of the earlier version counts from {from}"));
    }
    if !takes_back(&older.release, &newer.release) {
        return Err("it is not an earlier version of the same package".into());
    }
    Ok(older)
}
