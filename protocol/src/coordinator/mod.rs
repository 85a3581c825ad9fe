//! The coordinator's state machine: the catalog it publishes, the devices it lets in, the reports it believes.
//!
//! Sans-IO: one of [`CoordinatorState::handle_input`] or [`CoordinatorState::handle_timeout`], then drain
//! [`CoordinatorState::poll_output`], then ask [`CoordinatorState::poll_timeout`] when to come back. Nothing that a restart
//! could take back leaves before it is durable: heads, certificates and acknowledgements wait for [`Input::Persisted`].

#[cfg(test)]
mod assignment_tests;
mod assignments;
#[cfg(test)]
mod audit_tests;
#[cfg(test)]
mod bench;
mod clock;
#[cfg(test)]
mod clock_tests;
mod counts;
mod devices;
mod documents;
mod dynamic;
mod inventories;
#[cfg(test)]
mod inventories_tests;
mod io;
mod logs;
#[cfg(test)]
mod logs_tests;
mod pages;
#[cfg(test)]
mod pages_tests;
mod report_order;
#[cfg(test)]
mod report_order_tests;
#[cfg(test)]
mod report_tests;
mod rollout;
#[cfg(test)]
mod rollout_tests;
mod roots;
#[cfg(test)]
mod roots_tests;
mod shown;
#[cfg(test)]
mod shown_tests;
#[cfg(test)]
mod tests;
mod wan_limits;

pub use counts::{MIN_DECIDED, RingStatus, RolloutStatus};
pub use documents::{AUDIT_SIGNED_WITHIN, CatalogError, CatalogRecord, HEAD_LIFE, INDEX_LIFE, RESTORED_GAP};
pub use dynamic::MAX_DYNAMIC;
pub use inventories::{DeviceInventory, DeviceScan};
pub use io::Distrust;
pub use io::{
    AlarmKind, Command, DeviceRecord, Done, HeldList, Input, Invite, LastReport, MAX_USES, Output, Reason, Record,
    Refusal, ServeWhat,
};
pub use logs::{DeviceLog, MAX_LOG_RECORD};
pub use pages::{PublishedApproval, PublishedGroup, PublishedRelease};
pub use rollout::{HEARD_WITHIN, SILENT_AFTER};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use ed25519_dalek::SigningKey;

use crate::catalog::{AuditEnd, Head, Hold, Root};
use crate::codec::{Bounded, Text};
use crate::envelope::{self, Document, Kind, Role};
use crate::ids::{DeviceId, DocHash, GroupId, PayloadId, PublicKey, ReleaseId};
use crate::node::Verdict;
use crate::report;
use crate::report::MAX_NEWS;
use crate::time::{Mono, Now};
use crate::wire::{Message, RetryOrder, Topic};

pub use devices::CERTIFICATE_LIFE;
use devices::{Device, Opening, Peer};
use documents::{Documents, Issued, open_online};
use dynamic::Dynamic;
use inventories::Inventories;
use rollout::Rollouts;

/// A head is signed anew after this long.
pub const HEAD_INTERVAL: Duration = Duration::from_secs(3600);
/// A peer that has not shown a certificate by then is left.
pub const HELLO_PATIENCE: Duration = Duration::from_secs(10);

/// Changes that wait for the disk; beyond it, new ones are refused.
const MAX_WAITING: usize = 4096;

/// What survives a restart.
#[derive(Debug, Default)]
pub struct Stored {
    /// The last [`Record::Catalog`]; none before the first.
    pub catalog: Option<Vec<u8>>,
    /// Every stored release, approval and page.
    pub documents: Vec<Document>,
    /// Every [`Record::Device`].
    pub devices: Vec<DeviceRecord>,
    /// Every [`Record::Invite`].
    pub invites: Vec<Invite>,
    /// What each device last said.
    pub reports: Vec<LastReport>,
    /// The last [`Record::Rollouts`].
    pub rollouts: Option<Vec<u8>>,
    /// The last [`Record::WanLimits`].
    pub wan_limits: Option<Vec<u8>>,
    /// The last [`Record::InventoryBase`] of each.
    pub inventory_bases: Vec<(DocHash, Vec<u8>)>,
    /// The last [`Record::Inventory`] of each device. One that is damaged is told again by its device.
    pub inventories: Vec<(DeviceId, Vec<u8>)>,
    /// The last [`Record::Scan`] of each device.
    pub scans: Vec<(DeviceId, Vec<u8>)>,
    /// The last [`Record::Groups`].
    pub groups: Option<Vec<u8>>,
    /// Every [`Record::Log`].
    pub logs: Vec<Vec<u8>>,
    /// Payloads that are complete in the store, with their lengths in bytes.
    pub payloads: BTreeMap<PayloadId, u64>,
    /// Chunk lists in the store.
    pub lists: BTreeMap<DocHash, HeldList>,
    /// Envelopes of the roots before today's.
    pub earlier_roots: Vec<Vec<u8>>,
    /// Where the log of decisions ends.
    pub audit: AuditEnd,
    /// All of this comes from a backup, and is used for the first time.
    pub restored: bool,
}

/// What a coordinator is made of.
#[derive(Debug)]
pub struct Setup {
    /// Its transport key.
    pub device: DeviceId,
    /// The root of trust, already verified.
    pub root: Root,
    /// The hash of that root's envelope.
    pub root_hash: DocHash,
    /// The online key, which the root names.
    pub online: SigningKey,
    /// Base URLs of origins, best first.
    pub origins: Vec<Text<512>>,
    /// What survived.
    pub stored: Stored,
}

/// Why a coordinator cannot start from what is stored.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The online key is not the one that the root names, or the root asks for more than one.
    #[error("the root of trust does not let this online key sign alone; put the key back that belongs to it")]
    OnlineKey,
    /// A root before today's is damaged.
    #[error("an earlier root of trust is damaged; restore it from a copy, or from the origin of an export")]
    EarlierRoot,
    /// What is stored does not make a catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The lists of groups are damaged.
    #[error("the lists of the groups are damaged ({0}); restore the file from a copy")]
    Groups(String),
    /// What was ordered for sites is damaged.
    #[error(
        "the limits of the sites are damaged ({0}); restore the file wan-limits from a copy, or remove it and set them again"
    )]
    WanLimits(crate::codec::CodecError),
    /// A first document cannot be signed.
    #[error("cannot sign: {0}")]
    Sign(#[from] crate::envelope::EnvelopeError),
}

/// What follows when a record is durable.
#[derive(Debug)]
enum After {
    Head(Vec<u8>),
    Answer { request: u64, index_version: u64 },
    Enrolled { peer: DeviceId },
    Renewed { peer: DeviceId },
    Assigned { device: DeviceId },
    LogAsked { device: DeviceId },
    Held { device: DeviceId, digest: DocHash },
    Acknowledge(Acknowledge),
}

/// A message of a device that is acknowledged when it is durable.
#[derive(Debug)]
struct Acknowledge {
    /// Who brought it.
    peers: Vec<DeviceId>,
    device: DeviceId,
    seq: u64,
    receipt: [u8; 32],
    /// For the device alone. Everything in it was handed out for writing before.
    news: Bounded<u8, MAX_NEWS>,
}

/// The coordinator's state. See the module's words for the contract.
#[derive(Debug)]
pub struct CoordinatorState {
    me: DeviceId,
    root: Root,
    root_hash: DocHash,
    roots: roots::Roots,
    online: SigningKey,
    certificate: Bounded<u8, 4096>,
    documents: Documents,
    published: Vec<u8>,
    head_due: Mono,
    clock: clock::Clock,
    shown: shown::Shown,
    peers: BTreeMap<DeviceId, Peer>,
    devices: BTreeMap<DeviceId, Device>,
    invites: BTreeMap<[u8; 32], Invite>,
    rollouts: Rollouts,
    wan_limits: wan_limits::Orders,
    logs: logs::Logs,
    inventories: Inventories,
    dynamic: Dynamic,
    audit: AuditEnd,
    opening: BTreeMap<u64, Opening>,
    next_open: u64,
    serving: BTreeMap<u64, DeviceId>,
    waiting: VecDeque<(u64, After)>,
    next_token: u64,
    durable: u64,
    outputs: VecDeque<Output>,
}

impl CoordinatorState {
    /// A coordinator that goes on from what is stored. Signs a fresh head at once: drain the outputs.
    pub fn new(setup: Setup, now: Now) -> Result<Self, SetupError> {
        let Setup { device, root, root_hash, online, origins, stored } = setup;
        let key = PublicKey(online.verifying_key().to_bytes());
        if root.online.threshold != 1 || !root.online.contains(&key) {
            return Err(SetupError::OnlineKey);
        }
        let roots = roots::Roots::restore(&stored.earlier_roots, (root_hash, root.version))?;
        let mut documents = match &stored.catalog {
            Some(record) => Documents::load(record, &stored.documents, &root, roots.before())?,
            None => Documents::default(),
        };
        documents.payloads = stored.payloads;
        documents.lists = stored.lists;
        documents.audit = stored.audit.head;
        if stored.restored {
            documents.raise_floor(documents.version().saturating_add(RESTORED_GAP));
        }
        let change = stored.restored || documents.origins != origins;
        documents.origins = origins;
        let mut state = Self {
            me: device,
            root,
            root_hash,
            roots,
            online,
            certificate: Bounded::default(),
            documents,
            published: Vec::new(),
            head_due: now.mono,
            clock: clock::Clock::default(),
            shown: shown::Shown::default(),
            peers: BTreeMap::new(),
            devices: stored.devices.into_iter().map(|record| (record.device, Device::new(record, now.mono))).collect(),
            invites: stored.invites.into_iter().map(|invite| (invite.secret_hash, invite)).collect(),
            rollouts: Rollouts::restore(stored.rollouts.as_deref()),
            wan_limits: wan_limits::Orders::restore(stored.wan_limits.as_deref()).map_err(SetupError::WanLimits)?,
            logs: logs::Logs::restore(&stored.logs),
            inventories: Inventories::default(),
            dynamic: Dynamic::default(),
            audit: stored.audit,
            opening: BTreeMap::new(),
            next_open: 0,
            serving: BTreeMap::new(),
            waiting: VecDeque::new(),
            next_token: 0,
            durable: 0,
            outputs: VecDeque::new(),
        };
        state.dynamic = Dynamic::restore(stored.groups.as_deref(), &state.documents).map_err(SetupError::Groups)?;
        state.outputs.push_back(Output::Subscribe(Topic::Head));
        state.issue(now, change)?;
        for LastReport { device, seq, received, addresses, deployments, papers } in stored.reports {
            if let Some(known) = state.devices.get_mut(&device) {
                known.had_reported(seq, addresses, received, papers);
                state.remember_outcomes(&device, &deployments, now.wall);
            }
        }
        let mut damaged = BTreeSet::new();
        for (device, record) in stored.scans {
            if !state.inventories.restore_scan(device, &record) {
                damaged.insert(device);
            }
        }
        for (digest, record) in stored.inventory_bases {
            state.inventories.restore_base(digest, &record);
        }
        // A device that hears that its inventory is not held tells both anew.
        for (device, record) in stored.inventories.into_iter().filter(|(device, _)| !damaged.contains(device)) {
            if let Some(known) = state.devices.get_mut(&device)
                && let Some(digest) = state.inventories.restore(device, &record)
            {
                known.held = digest;
            }
        }
        for needless in state.inventories.needless_bases() {
            state.persist(Record::InventoryBase(needless, Vec::new()));
        }
        if state.dynamic.has_any() {
            state.regroup_all(now);
        }
        state.check_rollouts(now);
        Ok(state)
    }

    /// The head that is public: durable, and gossiped. Empty before the first.
    pub fn head(&self) -> &[u8] {
        &self.published
    }

    /// Version of the newest index, public or about to be.
    pub fn index_version(&self) -> u64 {
        self.documents.version()
    }

    /// Where the log of decisions ends, on disk or about to be.
    pub fn audit(&self) -> AuditEnd {
        self.audit
    }

    /// The root of trust.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The hash of the root's envelope.
    pub fn root_hash(&self) -> DocHash {
        self.root_hash
    }

    /// Every published release.
    pub fn releases(&self) -> &BTreeMap<ReleaseId, PublishedRelease> {
        &self.documents.releases
    }

    /// Every current approval, by group and release.
    pub fn approvals(&self) -> &BTreeMap<(GroupId, ReleaseId), PublishedApproval> {
        &self.documents.approvals
    }

    /// The releases that the devices of each group are told of, beside [`Self::undecided`].
    pub fn documents_by_group(&self) -> impl Iterator<Item = (GroupId, BTreeSet<ReleaseId>)> + '_ {
        let groups: BTreeSet<GroupId> = self.documents.approvals.keys().map(|(group, _)| *group).collect();
        groups.into_iter().map(|group| (group, self.documents.content().releases_of(group)))
    }

    /// Releases that no group has decided about: every device is told of them.
    pub fn undecided(&self) -> &BTreeSet<ReleaseId> {
        self.documents.content().undecided
    }

    /// What is stopped.
    pub fn holds(&self) -> &[Hold] {
        &self.documents.holds
    }

    /// Devices that are shut out for good.
    pub fn revoked(&self) -> &BTreeSet<DeviceId> {
        &self.documents.revoked
    }

    /// Every invitation that is kept, over or not.
    pub fn invites(&self) -> impl Iterator<Item = &Invite> {
        self.invites.values()
    }

    /// Every device that was let in.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceRecord> {
        self.devices.values().map(|device| &device.record)
    }

    /// Devices that are connected and have shown a good certificate.
    pub fn connected(&self) -> impl Iterator<Item = DeviceId> {
        self.peers.iter().filter(|(_, peer)| peer.is_member()).map(|(peer, _)| *peer)
    }

    /// Takes one input. The outputs must have been drained.
    pub fn handle_input(&mut self, input: Input, now: Now) {
        debug_assert!(self.outputs.is_empty(), "one mutation, then drain");
        match input {
            Input::PeerUp { peer } => self.peer_up(peer, now),
            Input::PeerDown { peer } => self.peer_down(peer),
            Input::Frame { peer, bytes } => self.frame(peer, &bytes, now),
            Input::Gossip { id, from, topic, bytes } => self.gossip(id, from, topic, &bytes, now),
            Input::BlockRequested { peer, serve, what } => self.block_requested(peer, serve, what),
            Input::Served { serve } => self.served(serve),
            Input::ReportOpened { open, bytes } => self.report_opened(open, bytes, now),
            Input::PayloadHeld { payload, len } => self.documents.payload_held(payload, len),
            Input::ChunkListHeld { hash, list } => self.documents.list_held(hash, list),
            Input::Admin { request, command, entry } => self.admin(request, command, entry, now),
            Input::Persisted { token } => self.persisted(token),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        debug_assert!(self.outputs.is_empty(), "one mutation, then drain");
        if now.mono >= self.head_due
            && let Err(error) = self.issue(now, false)
        {
            self.alarm(format!("cannot sign a head: {error}"));
        }
        self.leave_the_silent(now);
        if self.rollouts.due.is_some_and(|due| due <= now.mono) {
            self.check_rollouts(now);
        }
        if self.dynamic.due.is_some_and(|due| due <= now.mono) {
            self.regroup_some(now);
        }
        if self.shown.due.is_some_and(|due| due <= now.mono) {
            self.judge_clocks();
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`] at the latest, and why.
    pub fn poll_timeout(&self) -> Option<(Mono, Reason)> {
        let head = (self.head_due, Reason::HeadDue);
        let hello = self.peers.values().filter_map(Peer::hello_due).min().map(|due| (due, Reason::HelloOverdue));
        let rollout = self.rollouts.due.map(|due| (due, Reason::RolloutDue));
        let groups = self.dynamic.due.map(|due| (due, Reason::GroupsDue));
        let clocks = self.shown.due.map(|due| (due, Reason::ClocksDue));
        [Some(head), hello, rollout, groups, clocks].into_iter().flatten().min()
    }

    fn admin(&mut self, request: u64, command: Command, entry: Option<Vec<u8>>, now: Now) {
        if let Err(refusal) = self.try_admin(request, command, entry, now) {
            self.outputs.push_back(Output::Answer { request, result: Err(refusal) });
        }
    }

    fn try_admin(&mut self, request: u64, command: Command, entry: Option<Vec<u8>>, now: Now) -> Result<(), Refusal> {
        let is_note = matches!(command, Command::Note);
        let added = entry.map(|entry| self.audit.append(&entry).ok_or(Refusal::Full("the log's entry"))).transpose()?;
        // What lies outside of the core is decided already.
        if self.is_behind() && !is_note {
            return Err(Refusal::Busy);
        }
        if !is_note && !matches!(command, Command::Hold { on: true, .. } | Command::Revoke(_) | Command::Disinvite(_)) {
            self.clock_is_right(now)?;
        }
        let change = match command {
            Command::Note => false,
            Command::Publish(bytes) => self.enter(|documents, root| documents.publish(root, bytes, now.wall))?,
            Command::Approve(bytes) => {
                let change = self.enter(|documents, root| documents.approve(root, bytes, now.wall))?;
                self.watch_rollouts(now);
                change
            }
            Command::Root { root, online } => self.take_root(root, &online, now)?,
            Command::Withdraw(release) => self.documents.withdraw(&release)?,
            Command::Hold { hold, on } => {
                let mut change = self.documents.hold(hold, on)?;
                // Whoever lets one approval go on means it, whoever stopped it.
                if let Hold::Approval(group, release) = hold
                    && !on
                {
                    change |= self.documents.hold(Hold::Rollout(group, release), false)?;
                    if change {
                        self.accept_rollout(group, release, now);
                    }
                }
                change
            }
            Command::Assign { device, groups } => {
                self.assign(device, groups, now)?;
                self.regroup(device, now);
                false
            }
            Command::Group { document, list } => self.describe(document, list, now)?,
            Command::Revoke(device) => self.revoke(device)?,
            Command::Readmit(device) => self.readmit(device, now)?,
            Command::Disinvite(secret_hash) => {
                self.disinvite(&secret_hash)?;
                false
            }
            Command::Retry { release, group, device } => {
                self.order_retry(RetryOrder { release, group, device, issued: now.wall })?;
                false
            }
            Command::WanLimits { site, rates, yields } => {
                self.order_wan_limits(site, (rates, yields), now.wall)?;
                false
            }
            Command::AskLog { device, release } => {
                self.ask_log(device, release, now)?;
                false
            }
            Command::Invite(invite) => {
                self.invite(invite, now.wall)?;
                false
            }
        };
        if let Some((bytes, end)) = added {
            self.persist(Record::Audit(self.audit.len, bytes));
            self.audit = end;
            self.documents.audit = end.head;
            self.head_due = self.head_due.min(now.mono + AUDIT_SIGNED_WITHIN);
        }
        if change {
            self.issue(now, true)?;
        }
        let after = After::Answer { request, index_version: self.documents.version() };
        // Behind everything that is under way, so that an answer never runs ahead of the head it speaks of.
        self.when_durable(after);
        Ok(())
    }

    /// Tells the machines that are connected; each passes it on to its neighbours.
    fn order_retry(&mut self, order: RetryOrder) -> Result<(), Refusal> {
        if !self.documents.releases.contains_key(&order.release) {
            return Err(Refusal::UnknownRelease(order.release));
        }
        let site = match order.device {
            None => None,
            Some(device) => Some(self.devices.get(&device).ok_or(Refusal::UnknownDevice(device))?.record.site),
        };
        let signed = envelope::sign(Kind::Retry, Role::Online, &order, &[&self.online])?;
        let message = Message::Retry(Bounded::truncated(signed));
        let concerned = |peer: &Peer| site.map_or(peer.is_member(), |site| peer.is_of(&site));
        let peers: Vec<_> = self.peers.iter().filter(|(_, peer)| concerned(peer)).map(|(device, _)| *device).collect();
        peers.into_iter().for_each(|peer| self.send(peer, &message));
        Ok(())
    }

    fn enter(
        &mut self,
        enter: impl FnOnce(&mut Documents, &Root) -> Result<Option<Document>, Refusal>,
    ) -> Result<bool, Refusal> {
        let Some(document) = enter(&mut self.documents, &self.root)? else { return Ok(false) };
        self.persist(Record::Document(document));
        Ok(true)
    }

    /// Signs a head (and an index when there is a `change`) that becomes public when it is durable.
    fn issue(&mut self, now: Now, change: bool) -> Result<(), crate::envelope::EnvelopeError> {
        // Set first: a failure must not be tried again in a tight loop.
        self.head_due = now.mono + HEAD_INTERVAL;
        let date = self.date(now);
        if date.is_none() {
            self.head_due = now.mono + clock::LOOK_AGAIN;
            if !change {
                return self.publish_last();
            }
        }
        // What must be signed all the same, a stop, has the date of the last signature.
        let date = date.unwrap_or_else(|| self.documents.signed());
        self.certificate = self.own_certificate(date)?;
        let Issued { documents, head, record } = self.documents.issue(&self.root, &self.online, date, change)?;
        for document in documents {
            self.persist(Record::Document(document));
        }
        self.persist(Record::Catalog(record));
        self.when_durable(After::Head(head));
        Ok(())
    }

    /// Publishes the last head anew, when nothing may be signed.
    fn publish_last(&mut self) -> Result<(), crate::envelope::EnvelopeError> {
        if self.published.is_empty() {
            self.certificate = self.own_certificate(self.documents.signed())?;
            self.publish_head(self.documents.last_head().to_vec());
        }
        Ok(())
    }

    fn persist(&mut self, record: Record) {
        self.next_token += 1;
        self.outputs.push_back(Output::Persist { token: self.next_token, record });
    }

    /// `after` follows when the last record handed out is durable, at once if it is.
    fn when_durable(&mut self, after: After) {
        if self.durable == self.next_token {
            self.follow(after);
        } else {
            self.waiting.push_back((self.next_token, after));
        }
    }

    fn persisted(&mut self, token: u64) {
        self.durable = self.durable.max(token.min(self.next_token));
        while self.waiting.front().is_some_and(|(waits_for, _)| *waits_for <= self.durable) {
            if let Some((_, after)) = self.waiting.pop_front() {
                self.follow(after);
            }
        }
    }

    fn is_behind(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    fn follow(&mut self, after: After) {
        match after {
            After::Head(head) => self.publish_head(head),
            After::Answer { request, index_version } => {
                self.outputs.push_back(Output::Answer { request, result: Ok(Done { index_version }) });
            }
            After::Enrolled { peer } => self.enrolled(peer),
            After::Renewed { peer } => self.renewed(peer),
            After::Assigned { device } => self.send_assignment(device),
            After::LogAsked { device } => self.call(device),
            After::Held { device, digest } => {
                if let Some(known) = self.devices.get_mut(&device) {
                    known.held = digest;
                }
            }
            After::Acknowledge(Acknowledge { peers, device, seq, receipt, news }) => {
                let held = self.devices.get(&device).map(|device| device.held).unwrap_or_default();
                let proof = report::acknowledgement(&receipt, seq, &held, &news);
                let message = Message::RelayAck { device, seq, held, news, proof };
                peers.into_iter().for_each(|peer| self.send(peer, &message));
            }
        }
    }

    fn publish_head(&mut self, head: Vec<u8>) {
        self.outputs.push_back(Output::Publish { topic: Topic::Head, bytes: head.clone() });
        let message = Message::Head(Bounded::truncated(head.clone()));
        let members: Vec<DeviceId> =
            self.peers.iter().filter(|(_, peer)| peer.is_member()).map(|(peer, _)| *peer).collect();
        members.into_iter().for_each(|peer| self.send(peer, &message));
        self.published = head;
        let old = self.documents.retire();
        self.outputs.extend(old.into_iter().map(Output::DropDocument));
    }

    fn gossip(&mut self, id: u64, from: DeviceId, topic: Topic, bytes: &[u8], now: Now) {
        let member = self.peers.get(&from).is_some_and(Peer::is_member);
        let verdict = if member && topic == Topic::Head { self.observe_head(bytes, now) } else { Verdict::Ignore };
        self.outputs.push_back(Output::GossipVerdict { id, from, verdict });
    }

    /// Looks at a head that somebody else holds. One that is newer than anything this coordinator remembers shows that its
    /// data directory is an old copy: its versions are spent, and nodes would refuse them.
    fn observe_head(&mut self, bytes: &[u8], now: Now) -> Verdict {
        if bytes == self.published {
            return Verdict::Accept;
        }
        let Ok(head) = open_online::<Head>(&self.root, bytes, Kind::Head) else {
            // No fault of a machine that has not got the new root yet.
            return if self.is_of_the_root_before(bytes) { Verdict::Ignore } else { Verdict::Reject };
        };
        if head.index_version > self.documents.version() {
            let text = format!(
                "a head with index version {} was published, this data directory knows only {}: it is an old copy, and what \
                 was published after it is gone; going on above that version",
                head.index_version,
                self.documents.version()
            );
            self.raise(AlarmKind::Restored, None, text);
            self.documents.raise_floor(head.index_version);
            if let Err(error) = self.issue(now, true) {
                self.alarm(format!("cannot sign a head: {error}"));
            }
        }
        Verdict::Ignore
    }

    fn send(&mut self, peer: DeviceId, message: &Message) {
        match message.encode() {
            Ok(frame) => self.outputs.push_back(Output::Send { peer, frame }),
            Err(error) => self.alarm(format!("cannot encode a message to {peer}: {error}")),
        }
    }

    fn disconnect(&mut self, peer: DeviceId, reason: String) {
        self.peers.remove(&peer);
        self.outputs.push_back(Output::Disconnect { peer, reason });
    }

    fn raise(&mut self, kind: AlarmKind, device: Option<DeviceId>, text: String) {
        self.outputs.push_back(Output::Raise { kind, device, text });
    }

    fn alarm(&mut self, what: String) {
        self.outputs.push_back(Output::Alarm(what));
    }
}
