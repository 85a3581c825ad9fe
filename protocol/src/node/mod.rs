//! The node: a sans-IO state machine.
//!
//! The contract, in the order in which a driver uses it:
//! 1. [`NodeState::handle_input`] or, when [`NodeState::poll_timeout`] has come, [`NodeState::handle_timeout`]: exactly one change.
//! 2. [`NodeState::poll_output`] until it gives `None`. Nothing else is handed in before that.
//! 3. Wait for the next input, at most until `poll_timeout`.
//!
//! `Now::mono` never goes back from call to call. Bulk bytes never enter: the driver hashes and stores them and tells
//! the result. An [`Output::Persist`] is a barrier: what rests on the record is asked for only after [`Input::Persisted`].
//! Every map and queue has a bound, named where it is declared.

/// What deployments may read of the node, apart from the deployments and the context, which are written meanwhile.
macro_rules! view {
    ($node:expr) => {
        crate::node::deployments::View {
            trust: &$node.trust,
            downloads: &$node.downloads,
            standing: &$node.standing,
            certificate: &$node.certificate,
            assigned: &$node.assigned,
            inventory: $node.scan.inventory(),
            head_is_confirmed: $node.head_is_confirmed,
        }
    };
}

/// The same for the downloads.
macro_rules! downloads_view {
    ($node:expr) => {
        crate::node::downloads::View {
            origins: $node.trust.catalog().origins(),
            membership: &$node.membership,
            standing: &$node.standing,
            banned: $node.peers.banned(),
            claimed: $node.peers.claimed(),
            is_known: $node.peers.is_known(),
            first_of_site: $node.peers.first_of_site,
        }
    };
}

mod cx;
mod timers;
mod wan_limits;

mod assigned;
mod clock;
mod conditions;
mod deployments;
mod disk;
mod documents;
mod downloads;
mod explain;
mod io;
mod logs;
mod on_demand;
mod peers;
mod reports;
mod retries;
mod scan;
mod status;

use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use jiff::tz::TimeZone;

use crate::catalog::{Certificate, Payload};
use crate::chunk::ChunkList;
use crate::codec::Text;
use crate::envelope::EnvelopeError;
use crate::ids::{DeviceId, DocHash, GroupId, PayloadId, PayloadKey, ReleaseId};
use crate::inventory::Inventory;
use crate::membership::Membership;
use crate::report::Trouble;
use crate::time::{Mono, Now, Wall};
use crate::trust::{Trust, TrustError};
use crate::wire::{BlockWhat, Holding, Lease, Topic};

use cx::Cx;

pub use crate::evaluate::Detection;
pub use conditions::{Conditions, MachineRules, Power};
pub use deployments::{Granted, NotPutOff, NotRetried, takes_back};
pub use disk::DiskStatus;
pub use explain::{Section, Sentence, Subject};
pub use io::{
    FetchError, FetchFrom, FetchId, Input, InstallOutcome, Obstacle, Output, Record, RestartOutcome, ServeWhat,
    StoreError, Verdict,
};
pub use status::{
    AttemptStatus, DownloadStatus, LeaseStatus, MemberStatus, NodeStatus, PeerStatus, ReleaseName, RestartStatus,
};
pub use timers::Reason;

/// What a node is told at its start and does not find out by itself.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The device's key.
    pub key: SigningKey,
    /// Seed of jitter and tie-breaking.
    pub seed: u64,
    /// The device's name for people.
    pub label: Text<64>,
    /// upswarm's version.
    pub agent: Text<32>,
    /// The operating system, for people.
    pub os: Text<64>,
    /// When this program was built: no clock before it is believed.
    pub build_time: Wall,
    /// The coordinator's key.
    pub coordinator: DeviceId,
    /// Where the coordinator may be reached.
    pub coordinator_addresses: Vec<Text<512>>,
    /// Machines of the site that the admin named.
    pub peers: Vec<Text<512>>,
    /// Origins to use until an index names some.
    pub origins: Vec<String>,
    /// How willing this machine is to fetch over the WAN; 0 means never (see [`crate::wire::Presence::wan_weight`]).
    pub wan_weight: u8,
    /// What the machine's power and link change.
    pub machine: MachineRules,
    /// Block requests of peers that are answered at the same time.
    pub upload_slots: usize,
    /// How long after its start a node waits, before it installs anything, to hear whether what its disk says still holds.
    pub ask_first: Duration,
    /// Where maintenance windows and hours of work are read.
    pub zone: TimeZone,
    /// Names this run of the operating system, so that a restart that an install wanted is noticed.
    pub boot: Text<64>,
}

/// What an earlier run left on disk.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// [`Record::Trust`].
    pub trust: Vec<u8>,
    /// [`Record::Certificate`].
    pub certificate: Vec<u8>,
    /// [`Record::Assignment`]; empty for none.
    pub assignment: Vec<u8>,
    /// Documents from [`Output::StoreDoc`].
    pub documents: Vec<Vec<u8>>,
    /// [`Record::Deployment`]s.
    pub deployments: Vec<(ReleaseId, Vec<u8>)>,
    /// [`Record::Counters`].
    pub counters: Option<Vec<u8>>,
    /// [`Record::Inventory`].
    pub inventory: Option<Vec<u8>>,
    /// [`Record::WanLimits`].
    pub wan_limits: Option<Vec<u8>>,
    /// Payloads that the store holds, whole or in part.
    pub payloads: Vec<PayloadId>,
}

/// Why a node cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The stored trust does not open.
    #[error("the stored trust data is damaged ({0}); join again with a new token")]
    Trust(TrustError),
    /// The certificate is not good.
    #[error("this device's certificate is not accepted ({0}); join again with a new token")]
    Certificate(TrustError),
    /// The certificate is for another key.
    #[error("the stored certificate is for device {0}, but the stored key is another; join again with a new token")]
    OtherDevice(DeviceId),
}

/// Rounds of deployments and those who serve them in one event; what is left is looked at in the next.
const MAX_ROUNDS: usize = 8;
/// A gap between the clocks that is sleep, not a correction of the time.
const SLEPT: Duration = Duration::from_secs(120);

/// One node. See the module's text for the contract.
#[derive(Debug)]
pub struct NodeState {
    cx: Cx,
    /// Whether a newer head has come since, or the coordinator has said that there is none.
    head_is_confirmed: bool,
    clock: clock::ClockWatch,
    trust: Trust,
    certificate: Certificate,
    certificate_bytes: Vec<u8>,
    assigned: assigned::Assigned,
    membership: Membership,
    peers: peers::Peers,
    documents: documents::Documents,
    downloads: downloads::Downloads,
    disk: DiskStatus,
    on_demand: on_demand::OnDemand,
    deployments: deployments::Deployments,
    standing: conditions::Standing,
    reports: reports::Reports,
    retries: retries::Retries,
    logs: logs::Logs,
    wan_limits: wan_limits::Ordered,
    scan: scan::Scan,
}

impl NodeState {
    /// A node as an earlier run (or the enrolment) left it.
    pub fn new(config: NodeConfig, restored: Restored, now: Now) -> Result<Self, NodeError> {
        let me = DeviceId(config.key.verifying_key().to_bytes());
        let trust = Trust::restore(&restored.trust, config.build_time).map_err(NodeError::Trust)?;
        // One that has expired, or whose signer the root has removed, is renewed by the coordinator; or the clock is wrong.
        let certificate = trust.check_own_certificate(&restored.certificate).or_else(|error| match error {
            TrustError::Envelope { source: EnvelopeError::Threshold { .. }, .. } if trust.root().version > 1 => {
                trust.read_own_certificate(&restored.certificate)
            }
            error => Err(error),
        });
        let certificate = certificate.map_err(NodeError::Certificate)?;
        if certificate.device != me {
            return Err(NodeError::OtherDevice(certificate.device));
        }
        let (assigned, unusable) = match assigned::Assigned::restore(restored.assignment, &trust, me) {
            Ok(assigned) => (assigned, None),
            Err(reason) => (assigned::Assigned::default(), Some(reason)),
        };
        let wan_limits = wan_limits::Ordered::restore(restored.wan_limits, &trust, certificate.site);
        let mut state = Self {
            head_is_confirmed: false,
            clock: clock::ClockWatch::default(),
            trust,
            membership: Membership::new(me, certificate.site),
            certificate,
            certificate_bytes: restored.certificate,
            assigned,
            peers: peers::Peers::new(&config),
            documents: documents::Documents::default(),
            downloads: downloads::Downloads::new(me, restored.payloads),
            disk: DiskStatus::default(),
            on_demand: on_demand::OnDemand::new(),
            deployments: deployments::Deployments::restore(restored.deployments, &config.boot),
            standing: conditions::Standing::new(&config),
            reports: reports::Reports::restore(restored.counters.as_deref(), now),
            retries: retries::Retries::default(),
            logs: logs::Logs::default(),
            wan_limits,
            scan: scan::Scan::restore(restored.inventory.as_deref()),
            cx: Cx::new(config, me, now),
        };
        state.cx.out.push_back(Output::Subscribe(Topic::Head));
        state.cx.out.push_back(Output::Subscribe(Topic::Site(state.certificate.site)));
        state.restore_documents(restored.documents, now);
        state.start_peers(now);
        state.start_reports(now);
        if let Some(reason) = unusable {
            state.alarm(
                Trouble::Document,
                format!("the stored assignment to groups is not used ({reason}); the coordinator is asked"),
            );
        }
        state.catalog_changed(now);
        state.look_at_clock(now);
        state.end_event(now);
        Ok(state)
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.cx.me
    }

    /// What this device's certificate says.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The envelope of this device's certificate.
    pub fn certificate_bytes(&self) -> &[u8] {
        &self.certificate_bytes
    }

    /// The groups that this device belongs to.
    pub fn groups(&self) -> &[GroupId] {
        self.assigned.groups()
    }

    /// The envelope of its assignment to groups; empty for none.
    pub fn assignment_bytes(&self) -> &[u8] {
        self.assigned.bytes()
    }

    /// A document that this node holds: a release, an approval, an index, a page, a chunk list. Either its bytes, or
    /// [`ServeWhat::Doc`] when they are on disk.
    pub fn document(&self, hash: &DocHash) -> Option<ServeWhat> {
        self.document_held(&BlockWhat::Doc(*hash))
    }

    /// Members of its site that it knows to be here, this node included.
    pub fn members(&self) -> usize {
        self.membership.size()
    }

    /// Peers that it has shut out for a while.
    pub fn bans(&self) -> usize {
        self.peers.bans()
    }

    /// What it believes.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// What is installed here, once it was looked at.
    pub fn inventory(&self) -> Option<&Inventory> {
        self.scan.inventory()
    }

    /// Takes in one input. Drain [`NodeState::poll_output`] before the next.
    pub fn handle_input(&mut self, input: Input, now: Now) {
        debug_assert!(self.cx.out.is_empty(), "drain the outputs of the last change first");
        self.notice_sleep(now);
        match input {
            Input::PeerUp { peer, dialled } => self.peer_up(peer, dialled, now),
            Input::PeerDown { peer } => self.peer_down(peer, now),
            Input::DialFailed { address, reason } => self.dial_failed(&address, reason, now),
            Input::Frame { peer, bytes } => self.frame(peer, &bytes, now),
            Input::Gossip { id, from, topic, bytes } => self.gossip(id, from, topic, bytes, now),
            Input::BlockRequested { peer, serve, what } => self.block_requested(peer, serve, what),
            Input::Served { serve, bytes } => self.downloads.served(serve, bytes),
            Input::Hint { address } => self.hint(address, now),
            Input::Listening { addresses } => self.listening(addresses),
            Input::ChunkStored { fetch, payload, chunk } => {
                let view = downloads_view!(self);
                self.downloads.chunk_stored(fetch, payload, chunk, &mut self.cx, view);
            }
            Input::ChunkRejected { fetch, payload, chunk } => {
                self.downloads.chunk_rejected(fetch, payload, chunk, &mut self.cx);
            }
            Input::FetchEnded { fetch, bytes: _, result } => {
                let view = downloads_view!(self);
                self.downloads.fetch_ended(fetch, result, &mut self.cx, view);
            }
            Input::DocFetched { fetch, result } => self.document_fetched(fetch, result, now),
            Input::DocStored { hash, kept } => self.document_stored(hash, kept),
            Input::Opened { payload, result } => {
                let view = downloads_view!(self);
                self.downloads.opened(payload, result, &mut self.cx, view);
            }
            Input::Evicted { payload } => self.downloads.evicted(payload, &mut self.cx),
            Input::ChunksLost { payload, chunks } => self.chunks_rotten(payload, &chunks),
            Input::PayloadFailed { payload, reason } => self.disk_failed(payload, reason),
            Input::Scrubbed { bytes, round_ended } => self.scrubbed(bytes, round_ended, now),
            Input::Disk { trouble } => self.disk_trouble(trouble),
            Input::Detected { release, result } => self.detection_answered(release, result, now),
            Input::InstallEnded { release, action, outcome } => {
                let view = view!(self);
                self.deployments.install_ended(release, action, outcome, &mut self.cx, view);
                self.probe_product(&release, now);
            }
            Input::Encrypted { seq, bytes, receipt } => self.report_encrypted(seq, bytes, receipt, now),
            Input::LogRead { release, ordered, result } => self.log_read(release, ordered, result, now),
            Input::Inventory { inventory } => self.inventory_seen(inventory, now),
            Input::Persisted { token } => self.persisted(token, now),
            Input::Conditions(conditions) => self.conditions(conditions, now),
            Input::RestartEnded { release, outcome } => {
                let view = view!(self);
                self.deployments.restart_ended(release, outcome, &mut self.cx, view);
            }
            Input::Defer { release, by_s } => {
                let view = view!(self);
                self.deployments.defer(release, by_s, &mut self.cx, view);
            }
            Input::Want { payload } => self.want_on_demand(payload, now),
            Input::Retry { release } => self.deployments.retry(release, &mut self.cx),
            Input::Shutdown => self.say_goodbye(now),
        }
        self.end_event(now);
    }

    /// Does what has become due. Drain [`NodeState::poll_output`] afterwards.
    pub fn handle_timeout(&mut self, now: Now) {
        debug_assert!(self.cx.out.is_empty(), "drain the outputs of the last change first");
        self.notice_sleep(now);
        self.look_at_clock(now);
        // One that a handler sets for now comes with the next call: each call ends.
        let due: Vec<_> = core::iter::from_fn(|| self.cx.timers.pop_due(now.mono)).collect();
        for reason in due {
            self.cx.timers.remove(&reason);
            match reason {
                Reason::Hello(peer) => self.hello_overdue(peer, now),
                Reason::Presence | Reason::Spread | Reason::Pull | Reason::Members | Reason::Compare => {
                    self.presence_due(reason, now);
                }
                Reason::Claims => self.make_claims(now),
                Reason::Dial => self.dial_neighbours(now),
                Reason::Uplink => self.look_after_uplink(now),
                Reason::Documents => self.fetch_documents(now),
                Reason::Lease(_) | Reason::Wan | Reason::Pump | Reason::Announce | Reason::Stalls => {
                    let view = downloads_view!(self);
                    self.downloads.timeout(reason, &mut self.cx, view);
                }
                Reason::Conditions => {
                    self.follow_conditions(now);
                    self.advance_all();
                }
                Reason::Restart => {
                    let view = view!(self);
                    self.deployments.look_after_restart(&mut self.cx, view);
                }
                Reason::Deployment(release) => self.deployments.touch(release),
                // What is left over is looked at as this event ends.
                Reason::Deployments if self.deployments.prefetch_is_due(now) => self.deployments_changed(now),
                Reason::Deployments => self.deployments.look_again_for_prefetch(&mut self.cx),
                Reason::Report => self.make_reports(now),
                Reason::Relay => self.relay_reports(now),
                Reason::Renew => self.renew_certificate(now),
                Reason::Inventory => self.report_inventory(now),
                Reason::Scan => self.report_scan(now),
                Reason::Log => self.report_log(now),
                Reason::Probe => self.probe(now),
            }
        }
        self.end_event(now);
    }

    /// The next thing that the driver should do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.cx.out.pop_front()
    }

    /// When to call [`NodeState::handle_timeout`], and why, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<(Mono, Reason)> {
        self.cx.timers.next()
    }

    /// The monotonic clock stands still while the machine sleeps, the wall clock does not. A schedule that passed meanwhile is
    /// looked at again.
    fn notice_sleep(&mut self, now: Now) {
        let (wall, mono) = (now.wall.since(self.cx.now.wall), now.mono.since(self.cx.now.mono));
        let back = self.cx.now.wall.since(now.wall);
        self.cx.now = now;
        if wall.saturating_sub(mono) > SLEPT || back > SLEPT {
            self.clock_jumped(now);
        }
    }

    fn timer(&mut self, reason: Reason, at: Mono) {
        self.cx.timer(reason, at);
    }

    fn retime(&mut self, reason: Reason, at: Mono) {
        self.cx.retime(reason, at);
    }

    fn persist_trust(&mut self) {
        let snapshot = self.trust.snapshot();
        self.cx.persist_trust(snapshot);
    }

    fn persisted(&mut self, token: u64, now: Now) {
        self.cx.persisted(token);
        let (mut effects, view) = (Vec::new(), view!(self));
        self.deployments.persisted(&mut self.cx, view, &mut effects);
        self.deployment_effects(effects, now);
    }

    fn view(&self) -> deployments::View<'_> {
        view!(self)
    }

    /// Something has changed on which every deployment may rest.
    fn advance_all(&mut self) {
        self.deployments.touch_all();
    }

    /// The catalog or this device's groups have changed.
    fn deployments_changed(&mut self, now: Now) {
        self.standing.set_role(self.certificate.role);
        let view = view!(self);
        let effects = self.deployments.catalog_changed(&mut self.cx, view);
        self.deployment_effects(effects, now);
        self.follow_conditions(now);
    }

    fn deployment_effects(&mut self, effects: Vec<deployments::Effect>, now: Now) {
        use deployments::Effect as E;
        for effect in effects {
            match effect {
                E::Want(release, files) => {
                    let files = files.into_iter().filter_map(|at| release.payloads.get(at));
                    files.for_each(|payload| self.want_payload(payload, true));
                }
                E::Keep { payload, wanted } => self.want_payload(&payload, wanted),
                E::Release(payload) => self.downloads.release(&payload, &mut self.cx),
                E::Pause(payload) => self.downloads.pause(&payload, &mut self.cx),
                E::KeepOnly(payloads) => self.downloads.keep_only(&payloads, &mut self.cx),
                E::Changed(release) => self.report_changed(release, now),
            }
        }
    }

    fn download_effects(&mut self, now: Now) {
        use downloads::Effect as E;
        while let Some(effect) = self.downloads.poll_effect() {
            match effect {
                E::Stake(payload) => self.stake_changed(&payload, now),
                E::PassedOver(payload) => self.consider_claim(&PayloadKey::from(&payload), now),
                E::AtWork(payload) => self.claim_at_once(&payload, now),
                E::Shares => self.be_known(),
                E::Moved(payload) => {
                    let more_to_come = self.downloads.is_fetching();
                    self.deployments.payload_moved(&payload, more_to_come, &mut self.cx);
                    self.on_demand_moved(&payload);
                }
                E::Evicted => self.deployments.touch_all(),
                E::AllHere => self.persist_counters(),
                E::Report => self.report_soon(now),
                E::Documents => self.fetch_documents(now),
                E::Ban { peer, reason } => self.ban(peer, reason, now),
            }
        }
    }

    fn want_payload(&mut self, payload: &Payload, wanted: bool) {
        let view = downloads_view!(self);
        self.downloads.want(payload, wanted, &mut self.cx, view);
    }

    fn block_requested(&mut self, peer: DeviceId, serve: u64, what: BlockWhat) {
        let document = self.document_held(&what);
        let view = downloads_view!(self);
        self.downloads.block_requested(peer, serve, what, document, &mut self.cx, view);
    }

    fn downloads_peer_came(&mut self, peer: DeviceId, cache: bool) {
        let view = downloads_view!(self);
        self.downloads.neighbour_came(peer, cache, &mut self.cx, view);
    }

    fn downloads_peer_gone(&mut self, peer: DeviceId) -> u64 {
        self.downloads.neighbour_gone(peer, &mut self.cx)
    }

    fn holdings_heard(&mut self, peer: DeviceId, holdings: Vec<Holding>) {
        let view = downloads_view!(self);
        self.downloads.holdings_heard(peer, holdings, &mut self.cx, view);
    }

    fn lease_taken(&mut self, lease: &Lease) -> Verdict {
        let view = downloads_view!(self);
        self.downloads.lease_taken(lease, &mut self.cx, view)
    }

    fn candidates_changed(&mut self, payload: &PayloadId) {
        let view = downloads_view!(self);
        self.downloads.candidates_changed(payload, &mut self.cx, view);
    }

    fn stake_in(&self, payload: &PayloadId) -> Option<downloads::Stake> {
        self.downloads.stake(payload, &self.standing)
    }

    fn is_passed_over(&self, payload: &PayloadId, device: &DeviceId) -> bool {
        self.downloads.is_passed_over(payload, device)
    }

    fn lacking(&self) -> Vec<PayloadId> {
        self.downloads.lacking()
    }

    fn holders_of_what_is_lacking(&self, somewhere: PayloadId) -> BTreeSet<DeviceId> {
        self.downloads.holders_of_what_is_lacking(somewhere, downloads_view!(self))
    }

    fn explain_payload(&self, payload: &Payload, now: Now) -> Vec<Sentence> {
        let mut sentences = self.downloads.explain(payload, &self.cx, downloads_view!(self), now);
        if matches!(self.downloads.progress(&payload.id), downloads::PayloadProgress::Partial { .. }) {
            sentences.extend(self.explain_wan_limit(now));
        }
        sentences
    }

    fn candidates_departed(&mut self, device: &DeviceId) {
        self.downloads.member_left(device, &mut self.cx);
    }

    fn look_after_all_leases(&mut self) {
        self.downloads.look_after_all_leases(&mut self.cx);
    }

    fn list_arrived(&mut self, payload: PayloadId, list: Arc<ChunkList>) {
        self.downloads.list_arrived(payload, list, &mut self.cx);
    }

    fn list_unusable(&mut self, payload: PayloadId, reason: String) {
        self.downloads.list_unusable(payload, reason, &mut self.cx);
    }

    fn alarm(&mut self, kind: Trouble, text: String) {
        self.cx.alarm(kind, text);
    }

    /// Ends an event: the deployments that it concerned are looked at, and alarms go into the next report.
    fn end_event(&mut self, now: Now) {
        self.deployments.rested();
        // What the deployments want of others can bring them news, of which little is new the second time.
        for _ in 0..MAX_ROUNDS {
            self.download_effects(now);
            let view = view!(self);
            let effects = self.deployments.work(&mut self.cx, view);
            self.deployment_effects(effects, now);
            if !self.deployments.has_work() && !self.downloads.has_effects() {
                break;
            }
        }
        self.look_whether_alone(now);
        for (kind, text) in self.cx.take_alarms() {
            self.reports.alarm(kind, &text);
            self.report_soon(now);
        }
    }
}
