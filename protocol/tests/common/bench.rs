//! A node whose shell is the test: it answers at once what a shell would, and lets time pass timer by timer.

use std::collections::BTreeMap;
use std::time::Duration;

use upswarm_protocol::catalog::*;
use upswarm_protocol::chunk::{Bitmap, ChunkList, ChunkSizes};
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::report::{DeploymentState, SubState};
use upswarm_protocol::time::{Mono, Now};
use upswarm_protocol::wire::{self, Message};

use super::*;

/// Two chunks of one MiB in all.
pub fn chunk_list() -> ChunkList {
    let pieces = [b"one", b"two"].map(|bytes| (ChunkId(*blake3::hash(bytes).as_bytes()), 512 << 10));
    ChunkList::new(ChunkSizes::default(), pieces).unwrap()
}

pub fn tool() -> Release {
    let list_bytes = chunk_list().to_bytes();
    let payload =
        Payload { chunk_list: DocHash::of(&list_bytes), chunk_list_len: list_bytes.len() as u32, ..payload("tool") };
    Release { payloads: list(vec![payload]), ..release("org.example.tool", 1) }
}

/// A snapshot each file of which has a chunk list that the machine has.
pub fn snapshot_with_lists(packages: &[(&str, WhenAbsent)]) -> Release {
    let list_bytes = chunk_list().to_bytes();
    let mut release = snapshot(1, packages);
    let with_list = |file: Payload| Payload {
        chunk_list: DocHash::of(&list_bytes),
        chunk_list_len: list_bytes.len() as u32,
        ..file
    };
    release.payloads = list(release.payloads.into_vec().into_iter().map(with_list).collect());
    release
}

/// Whom a bench's node believes to be the coordinator.
pub const COORDINATOR: DeviceId = DeviceId([0xcc; 32]);

/// A node with what it asked of its driver.
pub struct Bench {
    pub state: NodeState,
    pub now: Now,
    pub asked: Vec<Output>,
    /// What is on disk, of deployments.
    pub records: BTreeMap<ReleaseId, Vec<u8>>,
    /// The assignments that it has written down, newest last.
    pub assignments: Vec<Vec<u8>>,
    pub restored: Restored,
    config: NodeConfig,
    /// What detection answers.
    pub found: Detection,
}

impl Bench {
    pub fn new(edition: &Edition, change: impl FnOnce(&mut NodeConfig)) -> Self {
        Self::of(&key(40), "pc-1", edition, change)
    }

    pub fn of(
        device: &ed25519_dalek::SigningKey,
        label: &str,
        edition: &Edition,
        change: impl FnOnce(&mut NodeConfig),
    ) -> Self {
        let certificate = Certificate { label: text(label), ..certificate(device) };
        Self::certified(device, (certificate, assignment(device)), edition, change)
    }

    /// A machine that is in these groups.
    pub fn of_groups(groups: &[GroupId], role: NodeRole, edition: &Edition) -> Self {
        let device = key(40);
        let assignment = Assignment { groups: list(groups.to_vec()), ..assignment(&device) };
        let certificate = Certificate { role, ..certificate(&device) };
        Self::certified(&device, (certificate, assignment), edition, |_| ())
    }

    pub fn certified(
        device: &ed25519_dalek::SigningKey,
        (certificate, assignment): (Certificate, Assignment),
        edition: &Edition,
        change: impl FnOnce(&mut NodeConfig),
    ) -> Self {
        let world = World::new();
        let mut trust = world.trust();
        edition.offer_to(&mut trust);
        let mut documents: Vec<_> = edition.stored().into_values().collect();
        documents.push(chunk_list().to_bytes());
        let restored = Restored {
            trust: trust.snapshot(),
            certificate: world.certificate_doc(&certificate),
            assignment: world.assignment_doc(&assignment),
            documents,
            ..Restored::default()
        };
        let mut config = NodeConfig {
            label: certificate.label.clone(),
            coordinator: COORDINATOR,
            coordinator_addresses: vec![text("/coordinator")],
            ..settings(device)
        };
        change(&mut config);
        let now = Now { mono: Mono(1_000_000_000), wall: NOW };
        let state = NodeState::new(config.clone(), restored.clone(), now).unwrap();
        let (found, records) = (Detection::Absent, BTreeMap::new());
        let mut bench = Self { state, now, asked: vec![], records, assignments: vec![], restored, config, found };
        bench.drain();
        bench.pass(Duration::from_millis(100));
        bench
    }

    /// The node ends and starts again, with what was on disk; its payloads are there.
    pub fn again(&mut self, change: impl FnOnce(&mut NodeConfig)) {
        change(&mut self.config);
        let deployments = self.records.iter().map(|(id, bytes)| (*id, bytes.clone())).collect();
        let restored = Restored { deployments, ..self.restored.clone() };
        self.state = NodeState::new(self.config.clone(), restored, self.now).unwrap();
        self.asked.clear();
        self.drain();
        self.pass(Duration::from_millis(100));
        self.fill();
    }

    /// Where it stands with a release: state, finer, why.
    pub fn standing(&self, release: ReleaseId) -> (DeploymentState, SubState, String) {
        let status = self.state.status(self.now.mono);
        let found = status.deployments.into_iter().find(|deployment| deployment.release == release).unwrap();
        (found.state, found.sub_state, found.reason.to_string())
    }

    /// Installs that were asked for since the last time.
    pub fn installs(&mut self) -> Vec<ReleaseId> {
        let asked = self.asked.extract_if(.., |output| matches!(output, Output::Install { .. }));
        asked
            .filter_map(|output| if let Output::Install { release, .. } = output { Some(release) } else { None })
            .collect()
    }

    pub fn ended(&mut self, release: ReleaseId, outcome: InstallOutcome) {
        self.input(Input::InstallEnded { release, action: Action::Install, outcome });
    }

    /// Answers what a shell would at once, and keeps the rest.
    pub fn drain(&mut self) {
        while let Some(output) = self.state.poll_output() {
            if let Output::Persist { record: Record::Deployment(release, bytes), .. } = &output {
                self.records.insert(*release, bytes.clone());
            }
            if let Output::Persist { record: Record::WanLimits(bytes), .. } = &output {
                self.restored.wan_limits = Some(bytes.clone());
            }
            if let Output::Persist { record: Record::Assignment(bytes), .. } = &output {
                self.assignments.push(bytes.clone());
            }
            self.asked.push(output);
        }
        let answers: Vec<Input> = self
            .asked
            .iter()
            .filter_map(|output| match output {
                Output::Persist { token, .. } => Some(Input::Persisted { token: *token }),
                Output::FetchDoc { fetch, from: FetchFrom::Disk, what: wire::BlockWhat::Doc(hash), .. } => {
                    let found = self.restored.documents.iter().find(|bytes| DocHash::of(bytes) == *hash).cloned();
                    let result = found.ok_or(FetchError::Unreachable("not on disk".into()));
                    Some(Input::DocFetched { fetch: *fetch, result })
                }
                Output::Detect { release } => Some(Input::Detected { release: *release, result: self.found.clone() }),
                Output::Open { payload, .. } => {
                    Some(Input::Opened { payload: *payload, result: Ok((Bitmap::new(2), 0)) })
                }
                _ => None,
            })
            .collect();
        let done = |output: &Output| {
            let disk = matches!(output, Output::FetchDoc { from: FetchFrom::Disk, .. });
            disk || matches!(output, Output::Persist { .. } | Output::Detect { .. } | Output::Open { .. })
        };
        self.asked.retain(|output| !done(output));
        for answer in answers {
            self.input(answer);
        }
    }

    /// The coordinator is connected, greets with this head, and says this.
    pub fn hears_the_coordinator(&mut self, edition: &Edition, says: &[Message]) {
        self.input(Input::PeerUp { peer: COORDINATOR, dialled: None });
        let (certificate, head) = (list(vec![]), list(edition.head.clone()));
        let hello = Message::Hello { version: wire::VERSION, certificate, head, root_version: 1 };
        for message in [&hello].into_iter().chain(says) {
            self.input(Input::Frame { peer: COORDINATOR, bytes: message.encode().unwrap() });
        }
    }

    pub fn input(&mut self, input: Input) {
        self.state.handle_input(input, self.now);
        self.drain();
    }

    pub fn frame(&mut self, peer: DeviceId, message: &Message) {
        self.input(Input::Frame { peer, bytes: message.encode().unwrap() });
    }

    /// Lets time pass, timer by timer.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        while let Some((at, _)) = self.state.poll_timeout().filter(|(at, _)| *at <= end) {
            let step = at.since(self.now.mono);
            self.now = Now { mono: self.now.mono.max(at), wall: self.now.wall + step };
            self.state.handle_timeout(self.now);
            self.drain();
        }
        self.now = Now { mono: end, wall: self.now.wall + end.since(self.now.mono) };
    }

    /// The payload arrives, from nowhere in particular.
    pub fn fill(&mut self) {
        let payload = PayloadId::of(b"tool");
        for chunk in 0..2 {
            self.input(Input::ChunkStored { fetch: 999_999, payload, chunk });
        }
    }

    pub fn told(&self, release: ReleaseId) -> String {
        told(&self.state.explain(&release, self.now))
    }

    pub fn device(&self) -> DeviceId {
        self.state.device()
    }
}

pub fn told(sentences: &[Sentence]) -> String {
    assert!(!sentences.is_empty());
    for sentence in sentences {
        assert!(!sentence.text.is_empty() && !sentence.because.is_empty(), "{sentence:?}");
        assert!(!sentence.text.chars().chain(sentence.because.chars()).any(char::is_control), "{sentence:?}");
    }
    sentences.iter().map(|sentence| format!("{} [{}]\n", sentence.text, sentence.because)).collect()
}

pub fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

pub fn approved(change: impl FnOnce(&mut Approval)) -> (Edition, ReleaseId) {
    with_release(tool(), change)
}

pub fn with_release(release: Release, change: impl FnOnce(&mut Approval)) -> (Edition, ReleaseId) {
    let world = World::new();
    let release = world.publish(&release);
    let mut approval = approval(GROUP, release.release, 3);
    change(&mut approval);
    let approval = world.approve(&approval);
    let id = release.release;
    (world.edition(7, vec![release, approval]), id)
}

/// Hands frames to and fro until nobody has more to say.
pub fn talk(a: &mut Bench, b: &mut Bench) {
    let (of_a, of_b) = (a.device(), b.device());
    loop {
        let take = |from: &mut Bench| -> Vec<Vec<u8>> {
            let frames = from.asked.iter().filter_map(|output| match output {
                Output::Send { frame, .. } => Some(frame.clone()),
                _ => None,
            });
            let frames = frames.collect();
            from.asked.retain(|output| !matches!(output, Output::Send { .. }));
            frames
        };
        let (to_b, to_a) = (take(a), take(b));
        if to_b.is_empty() && to_a.is_empty() {
            return;
        }
        to_b.into_iter().for_each(|bytes| b.input(Input::Frame { peer: of_a, bytes }));
        to_a.into_iter().for_each(|bytes| a.input(Input::Frame { peer: of_b, bytes }));
    }
}

/// Two nodes of a site connect.
pub fn meet(here: &mut Bench, there: &mut Bench) {
    here.input(Input::PeerUp { peer: there.device(), dialled: None });
    there.input(Input::PeerUp { peer: here.device(), dialled: None });
    talk(here, there);
}

/// Lets time pass for two nodes that are connected, and lets them talk meanwhile.
pub fn pass_together(a: &mut Bench, b: &mut Bench, time: Duration) {
    let step = Duration::from_millis(10);
    for _ in 0..time.as_millis() / step.as_millis() {
        a.pass(step);
        b.pass(step);
        talk(a, b);
    }
}
