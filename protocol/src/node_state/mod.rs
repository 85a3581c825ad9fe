//! The node's mind: a sans-IO state machine.
//!
//! The contract, in the order in which a shell uses it:
//! 1. [`NodeState::handle_input`] or, when [`NodeState::poll_timeout`] has come, [`NodeState::handle_timeout`]: exactly one change.
//! 2. [`NodeState::poll_output`] until it gives `None`. Nothing else is handed in before that.
//! 3. Wait for the next input, at most until `poll_timeout`.
//!
//! `Now::mono` never goes back from call to call. Bulk bytes never enter: the shell hashes and stores them and tells
//! the result. An [`Output::Persist`] is a barrier: what rests on the record is asked for only after [`Input::Persisted`].
//! Every map and queue has a bound, named where it is declared.

mod conditions;
mod deployments;
mod documents;
mod downloads;
mod explain;
mod io;
mod peers;
mod reports;
mod scan;
mod status;

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use jiff::tz::TimeZone;

use crate::catalog::{Certificate, NodeRole};
use crate::codec::Text;
use crate::ids::{DeviceId, DocHash, PayloadId, ReleaseId};
use crate::inventory::Inventory;
use crate::membership::Membership;
use crate::rng::Rng;
use crate::time::{Mono, Now, Wall};
use crate::trust::{Trust, TrustError};
use crate::wire::{BlockWhat, Topic};

pub use conditions::{Conditions, MachineRules, Power};
pub use deployments::{Granted, NotPutOff, takes_back};
pub use explain::{Section, Sentence, Subject};
pub use io::{
    Detection, FetchError, FetchFrom, FetchId, Input, InstallOutcome, Output, Record, RestartOutcome, ServeWhat,
    StoreError, Verdict,
};
pub use status::{
    AttemptStatus, DownloadStatus, LeaseStatus, MemberStatus, NodeStatus, PeerStatus, ReleaseName, RestartStatus,
};

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
    /// How willing this machine is to fetch over the WAN; 0 means never (see [`crate::wire::Beacon::wan_weight`]).
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
    /// Documents from [`Output::StoreDoc`].
    pub documents: Vec<Vec<u8>>,
    /// [`Record::Deployment`]s.
    pub deployments: Vec<(ReleaseId, Vec<u8>)>,
    /// [`Record::Counters`].
    pub counters: Option<Vec<u8>>,
    /// [`Record::Inventory`].
    pub inventory: Option<Vec<u8>>,
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

/// A gap between the clocks that is sleep, not a correction of the time.
const SLEPT: Duration = Duration::from_secs(120);

/// Why a timeout was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A peer must have said hello by now.
    Hello(DeviceId),
    /// A beacon is due.
    Beacon,
    /// Members may have gone silent.
    Members,
    /// Neighbours may be missing.
    Dial,
    /// The connection to the coordinator may be missing or needless.
    Uplink,
    /// Documents are to be asked for.
    Documents,
    /// Leases of a payload are to be looked after.
    Lease(PayloadId),
    /// LAN peers may be asked again.
    Pump,
    /// New chunks are to be announced.
    Announce,
    /// Slow fetches are to be given up.
    Stalls,
    /// What is held back on battery or a metered link may have become urgent.
    Conditions,
    /// The machine may be to be restarted.
    Restart,
    /// A deployment may go on.
    Deployment(ReleaseId),
    /// A report is due.
    Report,
    /// Unacknowledged reports are to be sent again.
    Relay,
    /// The certificate is to be renewed.
    Renew,
    /// The inventory is to be told.
    Inventory,
    /// The scan's result is to be told.
    Scan,
    /// A release is to be looked for.
    Probe,
}

/// One node. See the module's text for the contract.
#[derive(Debug)]
pub struct NodeState {
    config: NodeConfig,
    me: DeviceId,
    rng: Rng,
    started: Mono,
    /// Whether a newer head has come since, or the coordinator has said that there is none.
    head_is_confirmed: bool,
    /// Both clocks when an input last came, and since when the machine has been awake: a wall clock that runs ahead of the
    /// monotonic one means sleep.
    last: Now,
    awake_since: Wall,
    output: VecDeque<Output>,
    timers: BTreeMap<Reason, Mono>,
    trust: Trust,
    certificate: Certificate,
    certificate_bytes: Vec<u8>,
    next_token: u64,
    durable: u64,
    /// The barrier before anything that rests on the newest head or index.
    trust_token: u64,
    next_fetch: FetchId,
    membership: Membership,
    peers: peers::Peers,
    documents: documents::Documents,
    downloads: downloads::Downloads,
    deployments: deployments::Deployments,
    standing: conditions::Standing,
    reports: reports::Reports,
    scan: scan::Scan,
}

impl NodeState {
    /// A node as an earlier run (or the enrolment) left it.
    pub fn new(config: NodeConfig, restored: Restored, now: Now) -> Result<Self, NodeError> {
        let me = DeviceId(config.key.verifying_key().to_bytes());
        let trust = Trust::restore(&restored.trust, config.build_time).map_err(NodeError::Trust)?;
        let certificate = trust.check_certificate(&restored.certificate, now.wall).map_err(NodeError::Certificate)?;
        if certificate.device != me {
            return Err(NodeError::OtherDevice(certificate.device));
        }
        let mut state = Self {
            me,
            rng: Rng::new(config.seed),
            started: now.mono,
            head_is_confirmed: false,
            last: now,
            awake_since: now.wall,
            output: VecDeque::new(),
            timers: BTreeMap::new(),
            trust,
            membership: Membership::new(me, certificate.site),
            certificate,
            certificate_bytes: restored.certificate,
            next_token: 1,
            durable: 0,
            trust_token: 0,
            next_fetch: 1,
            peers: peers::Peers::new(&config),
            documents: documents::Documents::default(),
            downloads: downloads::Downloads::new(restored.payloads),
            deployments: deployments::Deployments::restore(restored.deployments),
            standing: conditions::Standing::default(),
            reports: reports::Reports::restore(restored.counters.as_deref(), now),
            scan: scan::Scan::restore(restored.inventory.as_deref()),
            config,
        };
        state.output.push_back(Output::Subscribe(Topic::Head));
        state.output.push_back(Output::Subscribe(Topic::Site(state.certificate.site)));
        state.restore_documents(restored.documents, now);
        state.start_peers(now);
        state.start_reports(now);
        state.catalog_changed(now);
        Ok(state)
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.me
    }

    /// What this device's certificate says.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The envelope of this device's certificate.
    pub fn certificate_bytes(&self) -> &[u8] {
        &self.certificate_bytes
    }

    /// The envelope of a document that this node holds: a release, an approval, an index, a chunk list.
    pub fn document(&self, hash: &DocHash) -> Option<Arc<Vec<u8>>> {
        self.document_bytes(&BlockWhat::Doc(*hash))
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
        debug_assert!(self.output.is_empty(), "drain the outputs of the last change first");
        self.notice_sleep(now);
        match input {
            Input::PeerUp { peer, dialled } => self.peer_up(peer, dialled, now),
            Input::PeerDown { peer } => self.peer_down(peer, now),
            Input::DialFailed { address, reason } => self.dial_failed(&address, reason, now),
            Input::Frame { peer, bytes } => self.frame(peer, &bytes, now),
            Input::Gossip { id, from, topic, bytes } => self.gossip(id, from, topic, bytes, now),
            Input::BlockRequested { peer, serve, what } => self.block_requested(peer, serve, what),
            Input::Served { serve, bytes } => self.served(serve, bytes),
            Input::Hint { address } => self.hint(address, now),
            Input::Listening { addresses } => self.listening(addresses, now),
            Input::ChunkStored { fetch, payload, chunk } => self.chunk_stored(fetch, payload, chunk, now),
            Input::ChunkRejected { fetch, payload, chunk } => self.chunk_rejected(fetch, payload, chunk, now),
            Input::FetchEnded { fetch, bytes: _, result } => self.fetch_ended(fetch, result, now),
            Input::DocFetched { fetch, result } => self.document_fetched(fetch, result, now),
            Input::Opened { payload, result } => self.opened(payload, result, now),
            Input::Evicted { payload } => self.evicted(payload, now),
            Input::Detected { release, result } => self.detection_answered(release, result, now),
            Input::InstallEnded { release, action, outcome } => {
                self.install_ended(release, action, outcome, now);
                self.probe_product(&release, now);
            }
            Input::Sealed { seq, bytes, receipt } => self.report_sealed(seq, bytes, receipt, now),
            Input::Inventory { inventory } => self.inventory_seen(inventory, now),
            Input::Persisted { token } => self.persisted(token, now),
            Input::Conditions(conditions) => self.conditions(conditions, now),
            Input::RestartEnded { release, outcome } => self.restart_ended(release, outcome, now),
            Input::Defer { release, by_s } => self.defer(release, by_s, now),
            Input::Shutdown => self.say_goodbye(now),
        }
    }

    /// Does what has become due. Drain [`NodeState::poll_output`] afterwards.
    pub fn handle_timeout(&mut self, now: Now) {
        debug_assert!(self.output.is_empty(), "drain the outputs of the last change first");
        self.notice_sleep(now);
        let due: Vec<_> = self.timers.iter().filter(|(_, at)| **at <= now.mono).map(|(reason, _)| *reason).collect();
        for reason in due {
            self.timers.remove(&reason);
            match reason {
                Reason::Hello(peer) => self.hello_overdue(peer, now),
                Reason::Beacon => self.send_beacon(false, now),
                Reason::Members => self.expire_members(now),
                Reason::Dial => self.dial_neighbours(now),
                Reason::Uplink => self.look_after_uplink(now),
                Reason::Documents => self.fetch_documents(now),
                Reason::Lease(payload) => self.look_after_lease(payload, now),
                Reason::Pump => self.ask_neighbours(now),
                Reason::Announce => self.announce_chunks(),
                Reason::Stalls => self.give_up_stalled(now),
                Reason::Conditions => {
                    self.follow_conditions(now);
                    self.advance_all(now);
                }
                Reason::Restart => self.look_after_restart(now),
                Reason::Deployment(release) => self.advance(release, now),
                Reason::Report => self.make_reports(now),
                Reason::Relay => self.relay_reports(now),
                Reason::Renew => self.renew_certificate(now),
                Reason::Inventory => self.tell_inventory(now),
                Reason::Scan => self.tell_scan(now),
                Reason::Probe => self.probe(now),
            }
        }
    }

    /// The next thing that the shell should do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// When to call [`NodeState::handle_timeout`], and why, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<(Mono, Reason)> {
        self.timers.iter().map(|(reason, at)| (*at, *reason)).min()
    }

    /// The monotonic clock stands still while the machine sleeps, the wall clock does not. A schedule that passed meanwhile is
    /// looked at again.
    fn notice_sleep(&mut self, now: Now) {
        let slept = now.wall.since(self.last.wall).saturating_sub(now.mono.since(self.last.mono));
        self.last = now;
        if slept > SLEPT {
            self.awake_since = now.wall;
            for release in self.deployed() {
                self.timer(Reason::Deployment(release), now.mono);
            }
        }
    }

    fn is_cache(&self) -> bool {
        self.certificate.role == NodeRole::Cache
    }

    /// Asks for a timeout at `at`, or earlier if one for this reason is already asked for.
    fn timer(&mut self, reason: Reason, at: Mono) {
        let slot = self.timers.entry(reason).or_insert(at);
        *slot = (*slot).min(at);
    }

    /// Asks for a timeout at `at` and at no other time.
    fn retime(&mut self, reason: Reason, at: Mono) {
        self.timers.insert(reason, at);
    }

    fn fetch_id(&mut self) -> FetchId {
        let id = self.next_fetch;
        self.next_fetch = self.next_fetch.wrapping_add(1).max(1);
        id
    }

    fn persist(&mut self, record: Record) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.output.push_back(Output::Persist { token, record });
        token
    }

    fn persist_trust(&mut self) {
        let snapshot = self.trust.snapshot();
        self.trust_token = self.persist(Record::Trust(snapshot));
    }

    fn persisted(&mut self, token: u64, now: Now) {
        self.durable = self.durable.max(token);
        self.restart_persisted(now);
        self.deployments_persisted(now);
    }

    fn alarm(&mut self, text: String, now: Now) {
        self.reports.alarm(&text);
        self.report_soon(now);
        self.output.push_back(Output::Alarm(text));
    }
}
