//! The way back from a bad version of a package, on one machine whose package database this test plays.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::*;
use upswarm_protocol::catalog::*;
use upswarm_protocol::chunk::{Bitmap, ChunkList, ChunkSizes};
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::report::DeploymentState as S;
use upswarm_protocol::time::{Mono, Now};

fn chunk_list() -> ChunkList {
    let pieces = [b"one", b"two"].map(|bytes| (ChunkId(*blake3::hash(bytes).as_bytes()), 512 << 10));
    ChunkList::new(ChunkSizes::default(), pieces).unwrap()
}

/// A version of the package `tool`; a payload of its own.
fn tool(version: u64) -> Release {
    let list_bytes = chunk_list().to_bytes();
    let payload = Payload {
        chunk_list: DocHash::of(&list_bytes),
        chunk_list_len: list_bytes.len() as u32,
        ..payload(&format!("tool-{version}.deb"))
    };
    let rule = Detect::Package { kind: PackageKind::Deb, name: text("tool"), version: text(&format!("{version}.0")) };
    Release {
        payloads: list(vec![payload]),
        detect: list(vec![rule]),
        install: Recipe::Deb { timeout_s: 60 },
        uninstall: Some(Recipe::RemoveDeb { packages: list(vec![text("tool")]), timeout_s: 60 }),
        ..release("org.example.tool", version)
    }
}

/// What stays of a machine when it is switched off.
#[derive(Default)]
struct Machine {
    /// Version of the package.
    installed: Option<u64>,
    /// Versions whose install fails and leaves nothing.
    broken: Vec<u64>,
    /// Detection finds a version only while it is the one installed, not a later one.
    exact: bool,
    /// Versions whose approval begins this much later.
    later: BTreeMap<u64, Duration>,
    journals: BTreeMap<ReleaseId, Vec<u8>>,
    /// Every job: the release, and what is asked for.
    jobs: Vec<(u64, Action)>,
    /// Payloads that were opened since the start.
    opened: Vec<PayloadId>,
}

struct Bench<'a> {
    state: NodeState,
    now: Now,
    machine: &'a mut Machine,
    jobs: Vec<(ReleaseId, Action)>,
}

impl<'a> Bench<'a> {
    /// Switches the machine on with a catalog of releases and what is approved of each.
    fn start(machine: &'a mut Machine, releases: &[(Release, Option<Action>)]) -> (Self, Vec<ReleaseId>) {
        let world = World::new();
        let published: Vec<Doc> = releases.iter().map(|(release, _)| world.publish(release)).collect();
        let ids: Vec<ReleaseId> = published.iter().map(|document| document.release).collect();
        let approvals = releases.iter().zip(&ids).filter_map(|((release, action), id)| {
            let available_from = machine.later.get(&release.counter).map(|later| NOW + *later);
            let schedule = Schedule { available_from, ..Schedule::default() };
            action.map(|action| world.approve(&Approval { action, schedule, ..approval(GROUP, *id, 1) }))
        });
        // Nothing is removed where the coordinator alone says who belongs to the group.
        let listed = group(GROUP, 1, Members::List(own_list(&key(40)).root()));
        let listed = describe(&listed, &[&world.approvers[0]]);
        let documents: Vec<Doc> = published.iter().cloned().chain(approvals).chain([listed]).collect();
        let edition = world.edition(7, documents);
        let mut trust = world.trust();
        edition.offer_to(&mut trust);
        let mut documents: Vec<_> = edition.stored().into_values().collect();
        documents.push(chunk_list().to_bytes());
        let restored = Restored {
            trust: trust.snapshot(),
            certificate: world.certificate_doc(&certificate(&key(40))),
            assignment: world.assignment_doc(&assignment(&key(40))),
            documents,
            deployments: machine.journals.clone().into_iter().collect(),
            ..Restored::default()
        };
        let config = settings(&key(40));
        let now = Now { mono: Mono(1_000_000_000), wall: NOW };
        let state = NodeState::new(config, restored, now).unwrap();
        machine.opened.clear();
        let mut bench = Self { state, now, machine, jobs: vec![] };
        bench.drain();
        bench.pass(Duration::from_secs(1));
        (bench, ids)
    }

    fn drain(&mut self) {
        let mut answers = Vec::new();
        while let Some(output) = self.state.poll_output() {
            match output {
                Output::Persist { token, record } => {
                    if let Record::Deployment(id, bytes) = record {
                        self.machine.journals.insert(id, bytes);
                    }
                    answers.push(Input::Persisted { token });
                }
                Output::Detect { release } => {
                    let wanted = self.version(release);
                    let exact = self.machine.exact;
                    let there = self.machine.installed;
                    let there = there.is_some_and(|there| if exact { there == wanted } else { there >= wanted });
                    let result = if there { Detection::Present } else { Detection::Absent };
                    answers.push(Input::Detected { release, result });
                }
                // Complete at once.
                Output::Open { payload, .. } => {
                    self.machine.opened.push(payload);
                    let mut have = Bitmap::new(2);
                    for chunk in 0..2 {
                        have.set(chunk);
                    }
                    answers.push(Input::Opened { payload, result: Ok((have, 0)) });
                }
                Output::FetchDoc { fetch, from: FetchFrom::Disk, .. } => {
                    // Of all that is on disk, only the chunk list is read again.
                    answers.push(Input::DocFetched { fetch, result: Ok(chunk_list().to_bytes()) });
                }
                Output::Install { release, action } => self.jobs.push((release, action)),
                _ => {}
            }
        }
        for answer in answers {
            self.state.handle_input(answer, self.now);
            self.drain();
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        while let Some((at, _)) = self.state.poll_timeout().filter(|(at, _)| *at <= end) {
            let step = at.since(self.now.mono);
            self.now = Now { mono: self.now.mono.max(at), wall: self.now.wall + step };
            self.state.handle_timeout(self.now);
            self.drain();
        }
        self.now = Now { mono: end, wall: self.now.wall + end.since(self.now.mono) };
    }

    fn version(&self, release: ReleaseId) -> u64 {
        self.state.trust().catalog().releases()[&release].release.counter
    }

    /// Does every job as the installer does, until there is none.
    fn work(&mut self) {
        while let Some((release, action)) = self.jobs.pop() {
            assert!(self.machine.jobs.len() < 20, "it goes round in circles: {:?}", self.machine.jobs);
            let back = (action == Action::Uninstall).then(|| self.state.goes_back_to(&release)).flatten();
            let done = back.as_ref().map_or(release, |(older, _)| *older);
            let version = self.version(done);
            self.machine.jobs.push((self.version(release), action));
            let mut outcome = InstallOutcome::Done { restart: false, code: Some(0) };
            if action == Action::Install && self.machine.broken.contains(&version) {
                self.machine.installed = None;
                outcome = InstallOutcome::Failed { code: Some(1), reason: "postinst".into() };
            } else if action == Action::Install || back.is_some() {
                self.machine.installed = Some(version);
            } else {
                self.machine.installed = None;
            }
            self.state.handle_input(Input::InstallEnded { release, action, outcome }, self.now);
            self.drain();
            self.pass(Duration::from_secs(2));
        }
    }

    fn stand(&self, release: ReleaseId) -> S {
        let status = self.state.status(self.now.mono);
        status.deployments.iter().find(|found| found.release == release).expect("it is deployed").state
    }

    fn told(&self, release: ReleaseId) -> String {
        let sentences = self.state.explain(&release, self.now);
        sentences.iter().map(|sentence| format!("{} ({})\n", sentence.text, sentence.because)).collect()
    }
}

const INSTALL: Option<Action> = Some(Action::Install);
const UNINSTALL: Option<Action> = Some(Action::Uninstall);

#[test]
fn an_uninstalled_version_makes_room_for_the_approved_one_before_it() {
    let mut machine = Machine { installed: Some(3), ..Machine::default() };
    // Of two earlier versions the later one counts; one that is not approved does not.
    let releases = [(tool(1), INSTALL), (tool(2), INSTALL), (tool(3), UNINSTALL), (tool(0), None)];
    let (mut bench, ids) = Bench::start(&mut machine, &releases);
    assert_eq!(bench.jobs, [(ids[2], Action::Uninstall)]);
    assert!(bench.told(ids[2]).contains("being removed now"));
    bench.work();
    assert_eq!([0, 1, 2].map(|at| bench.stand(ids[at])), [S::Superseded, S::Installed, S::Uninstalled]);
    drop(bench);
    assert_eq!(machine.installed, Some(2));
    assert_eq!(machine.jobs, [(3, Action::Uninstall)]);
    assert!(machine.opened.contains(&PayloadId::of(b"tool-2.deb")), "the older package is fetched");
    assert!(!machine.opened.contains(&PayloadId::of(b"tool-3.deb")), "the newer one is not needed");
    // Nothing more happens, not even after a restart.
    let (mut bench, _) = Bench::start(&mut machine, &releases);
    bench.pass(Duration::from_secs(8 * 3600));
    assert!(bench.jobs.is_empty());
}

#[test]
fn without_an_approved_earlier_version_it_is_removed() {
    for action in [None, Some(Action::None)] {
        let mut machine = Machine { installed: Some(2), ..Machine::default() };
        let (mut bench, ids) = Bench::start(&mut machine, &[(tool(1), action), (tool(2), UNINSTALL)]);
        assert!(bench.state.goes_back_to(&ids[1]).is_none());
        bench.work();
        assert_eq!(bench.stand(ids[1]), S::Uninstalled);
        drop(bench);
        assert_eq!(machine.installed, None);
    }
}

#[test]
fn what_is_no_earlier_version_of_the_same_package_takes_nothing_back() {
    let (one, two) = (tool(1), tool(2));
    assert!(takes_back(&one, &two) && !takes_back(&two, &one) && !takes_back(&one, &one));
    let of = |change: &dyn Fn(&mut Release)| {
        let mut changed = tool(1);
        change(&mut changed);
        changed
    };
    let rule = |name: &str, version: &str| Detect::Package {
        kind: PackageKind::Deb,
        name: text(name),
        version: text(version),
    };
    for changed in [
        of(&|r| r.product = text("org.example.other")),
        of(&|r| r.install = Recipe::Rpm { timeout_s: 60 }),
        of(&|r| r.install = release("org.example.tool", 1).install),
        of(&|r| r.detect = list(vec![rule("other", "1.0")])),
        of(&|r| r.detect = list(vec![rule("tool", "2.0")])),
        of(&|r| r.detect = list(vec![Detect::FileExists { path: text("/opt/tool") }])),
    ] {
        assert!(!takes_back(&changed, &two), "{changed:?}");
    }
    // Up with one package, down with another.
    let mixed = of(&|r| r.detect = list(vec![rule("tool", "1.0"), rule("tool-data", "3.0")]));
    let newer = Release { detect: list(vec![rule("tool", "2.0"), rule("tool-data", "2.0")]), ..tool(2) };
    assert!(!takes_back(&mixed, &newer));
    // By dpkg's order, not by the text.
    let tilde = of(&|r| r.detect = list(vec![rule("tool", "2.0~rc1")]));
    assert!(takes_back(&tilde, &two));
}

/// A rule that says "at least" holds for a later version too: uninstalling the earlier must not take the later away.
#[test]
fn uninstalling_an_earlier_version_does_not_touch_a_later_one() {
    let mut machine = Machine { installed: Some(3), ..Machine::default() };
    let (mut bench, ids) = Bench::start(&mut machine, &[(tool(2), UNINSTALL), (tool(3), INSTALL)]);
    bench.work();
    assert_eq!([0, 1].map(|at| bench.stand(ids[at])), [S::Superseded, S::Installed]);
    assert!(bench.told(ids[0]).contains("a later version of the same package"), "{}", bench.told(ids[0]));
    drop(bench);
    assert_eq!((machine.installed, machine.jobs.len()), (Some(3), 0));
}

/// A bad version is not kept for the sake of a later one that comes tomorrow.
#[test]
fn a_later_version_that_waits_keeps_no_bad_one() {
    let mut machine = Machine { installed: Some(1), exact: true, ..Machine::default() };
    machine.later.insert(2, Duration::from_secs(86_400));
    let (mut bench, ids) = Bench::start(&mut machine, &[(tool(1), UNINSTALL), (tool(2), INSTALL)]);
    bench.work();
    assert_eq!(bench.stand(ids[0]), S::Uninstalled, "{}", bench.told(ids[0]));
    drop(bench);
    assert_eq!((machine.installed, &machine.jobs[..]), (None, &[(1, Action::Uninstall)][..]));
}

#[test]
fn an_upgrade_that_fails_lets_the_version_before_it_come_back() {
    let mut machine = Machine { installed: Some(1), broken: vec![2], ..Machine::default() };
    let first = tool(1);
    let id = World::new().publish(&first).release;
    let second = Release { supersedes: list(vec![id]), ..tool(2) };
    let releases = [(first, INSTALL), (second, INSTALL)];
    let (mut bench, ids) = Bench::start(&mut machine, &releases);
    assert_eq!(bench.stand(ids[0]), S::Superseded);
    bench.work();
    assert_eq!([0, 1].map(|at| bench.stand(ids[at])), [S::Installed, S::Failed]);
    bench.pass(Duration::from_secs(8 * 3600));
    assert!(bench.jobs.is_empty(), "and that is the end of it");
    drop(bench);
    assert_eq!(machine.installed, Some(1));
    assert_eq!(machine.jobs, [(2, Action::Install), (1, Action::Install)]);
}

/// A publisher would otherwise keep every other's updates from being installed by naming them.
#[test]
fn what_one_publisher_calls_superseded_is_its_own() {
    let id = World::new().publish(&tool(1)).release;
    for (product, gives_way) in [("org.example.other", true), ("org.example.critical.door", false)] {
        let mut machine = Machine { exact: true, ..Machine::default() };
        let later = Release { product: text(product), supersedes: list(vec![id]), ..tool(2) };
        let (bench, ids) = Bench::start(&mut machine, &[(tool(1), INSTALL), (later, INSTALL)]);
        assert_eq!(bench.stand(ids[0]) == S::Superseded, gives_way, "{product}: {:?}", bench.stand(ids[0]));
    }
}

/// Each version finds itself gone when the other is installed; without an order between them they would take turns for ever.
#[test]
fn of_two_approved_versions_the_later_one_is_installed_and_stays() {
    for installed in [None, Some(1), Some(2)] {
        let mut machine = Machine { installed, exact: true, ..Machine::default() };
        let (mut bench, ids) = Bench::start(&mut machine, &[(tool(1), INSTALL), (tool(2), INSTALL)]);
        bench.work();
        assert_eq!([0, 1].map(|at| bench.stand(ids[at])), [S::Superseded, S::Installed]);
        assert!(bench.told(ids[0]).contains("a later release of the same product"), "{}", bench.told(ids[0]));
        bench.pass(Duration::from_secs(13 * 3600));
        assert!(bench.jobs.is_empty(), "nor does a later look at the machine begin it again");
        drop(bench);
        let expected = if installed == Some(2) { vec![] } else { vec![(2, Action::Install)] };
        assert_eq!((machine.installed, machine.jobs), (Some(2), expected));
    }
}

#[test]
fn until_the_later_version_may_be_installed_the_earlier_one_is() {
    let later = BTreeMap::from([(2, Duration::from_secs(3 * 3600))]);
    let mut machine = Machine { exact: true, later, ..Machine::default() };
    let (mut bench, ids) = Bench::start(&mut machine, &[(tool(1), INSTALL), (tool(2), INSTALL)]);
    bench.work();
    assert_eq!([0, 1].map(|at| bench.stand(ids[at])), [S::Installed, S::Pending]);
    bench.pass(Duration::from_secs(4 * 3600));
    bench.work();
    bench.pass(Duration::from_secs(4 * 3600));
    assert_eq!([0, 1].map(|at| bench.stand(ids[at])), [S::Superseded, S::Installed]);
    drop(bench);
    assert_eq!(machine.jobs, [(1, Action::Install), (2, Action::Install)]);
}

#[test]
fn a_held_earlier_version_is_waited_for() {
    let mut machine = Machine { installed: Some(2), ..Machine::default() };
    let expired = Release { expires: NOW, ..tool(1) };
    let (bench, ids) = Bench::start(&mut machine, &[(expired, INSTALL), (tool(2), UNINSTALL)]);
    assert!(bench.jobs.is_empty());
    assert_eq!(bench.stand(ids[1]), S::OnHold);
    let told = bench.told(ids[1]);
    assert!(told.contains("org.example.tool 1.0 takes the place of") && told.contains("expired"), "{told}");
}

/// The database may say "installed" of a package whose install was cut short before the end.
#[test]
fn an_install_that_was_cut_short_is_run_again_whatever_detection_says() {
    let mut machine = Machine::default();
    let releases = [(tool(1), INSTALL)];
    let (bench, ids) = Bench::start(&mut machine, &releases);
    assert_eq!(bench.jobs, [(ids[0], Action::Install)]);
    // The power goes while the package manager works.
    drop(bench);
    machine.installed = Some(1);
    let (mut bench, _) = Bench::start(&mut machine, &releases);
    assert_eq!(bench.jobs, [(ids[0], Action::Install)]);
    bench.work();
    assert_eq!(bench.stand(ids[0]), S::Installed);
    drop(bench);
    let (bench, _) = Bench::start(&mut machine, &releases);
    assert!(bench.jobs.is_empty(), "once is enough");
}
