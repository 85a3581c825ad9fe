//! Sentences for people, from real nodes: each must name the rule or fact that holds an install back or a peer out.

mod common;

use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::catalog::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;

#[test]
fn a_release_that_is_not_known_or_not_approved_here() {
    let world = World::new();
    let release = world.publish(&tool());
    let approval = world.approve(&approval(GroupId([0x77; 16]), release.release, 1));
    let id = release.release;
    let undecided = world.publish(&Release { product: text("org.example.undecided"), ..tool() });
    let open = undecided.release;
    let bench = Bench::new(&world.edition(7, vec![release, approval, undecided]), |_| ());
    contains(
        &bench.told(open),
        &[
            "org.example.undecided 1.0 is not to be installed here",
            "no approval names a group of this device",
            "0 name other groups",
            "11111111",
            "index version 7",
        ],
    );
    contains(
        &bench.told(id),
        &[
            "This device knows of no release",
            "it holds what is approved for its own groups, and what nobody has decided about",
            "index version 7",
        ],
    );
    contains(&bench.told(ReleaseId([9; 32])), &["knows of no release 09090909", "index version 7"]);
}

#[test]
fn detection_says_why() {
    let (edition, id) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    contains(&bench.told(id), &["tool is being fetched"]);
    let found = |bench: &mut Bench, result| bench.input(Input::Detected { release: id, result });
    found(&mut bench, Detection::NotApplicable("package editor is not installed".into()));
    contains(
        &bench.told(id),
        &["does not concern this device: package editor is not installed", "the rules of org.example.tool"],
    );
    found(&mut bench, Detection::Unknown("/opt/tool\x1b[2J cannot be read".into()));
    contains(&bench.told(id), &["cannot be told", "cannot be read"]);
    found(&mut bench, Detection::Present);
    contains(&bench.told(id), &["org.example.tool 1.0 is installed.", "every detection rule held"]);
}

#[test]
fn holds_name_what_is_held() {
    type Held = fn(ReleaseId) -> Hold;
    let everything: Held = |_| Hold::Everything;
    let group: Held = |_| Hold::Group(GROUP);
    let release: Held = Hold::Release;
    let cases = [(everything, "stopped everything"), (group, "stopped this group"), (release, "stopped this release")];
    for (hold, wanted) in cases {
        let world = World::new();
        let release = world.publish(&tool());
        let id = release.release;
        let approval = world.approve(&approval(GROUP, id, 1));
        let edition = world.edition_with(7, vec![release, approval], |index| index.holds = list(vec![hold(id)]));
        let bench = Bench::new(&edition, |_| ());
        contains(&bench.told(id), &[wanted, "the newest index, version 7"]);
    }
}

#[test]
fn the_schedule_says_when() {
    let first = |change: fn(&mut Approval)| {
        let (edition, id) = approved(change);
        let mut bench = Bench::new(&edition, |_| ());
        bench.fill();
        (bench.told(id), bench, id)
    };
    // The tests' now is Friday, 09:00 in Berlin.
    let (text, ..) = first(|approval| approval.schedule.available_from = Some(NOW + HOUR));
    contains(&text, &["may not begin before 2027-01-15 10:00 CET", "available_from, in approval version 3"]);
    let (text, ..) = first(|approval| {
        let ring = |up_to, delay_s| Ring { up_to, delay_s };
        approval.rings.rings = list(vec![ring(1, 0), ring(2, 60), ring(10_000, 7 * 86_400)]);
    });
    contains(&text, &["Ring 3 of the rollout", "begins at 2027-01-22 08:00 CET", "ring 3 of 3, up to 100.00 %"]);
    let (text, ..) = first(|approval| approval.rings.rings = list(vec![Ring { up_to: 1, delay_s: 0 }]));
    contains(&text, &["no ring for this device", "reach 0.01 %"]);
    let (text, ..) = first(|approval| {
        approval.schedule.windows = list(vec![Window { days: Weekdays::ALL, start: 22 * 60, end: 23 * 60 }]);
        approval.schedule.deadline = Some(NOW + 3 * DAY);
    });
    contains(
        &text,
        &["No maintenance window is open", "2027-01-15 22:00 CET", "the deadline lifts this at 2027-01-18 09:00 CET"],
    );
    let (text, ..) = first(|approval| {
        approval.schedule.active_hours = Some(ActiveHours { days: Weekdays(0x1f), start: 8 * 60, end: 18 * 60 });
    });
    contains(&text, &["time of work", "2027-01-15 18:00 CET", "active_hours"]);

    let (text, mut bench, id) = first(|approval| {
        approval.schedule.deferral = Deferral { max_times: 2, max_total_s: 7200 };
        approval.schedule.available_from = Some(NOW);
        approval.schedule.windows = list(vec![Window { days: Weekdays::ALL, start: 9 * 60, end: 23 * 60 }]);
        approval.schedule.jitter_s = 0;
        approval.action = Action::Install;
        approval.schedule.expedite = false;
    });
    contains(&text, &["being installed now"]);
    assert_eq!(bench.state.would_defer(&id, 3600, bench.now), Err(NotPutOff::Begun));
    bench.input(Input::InstallEnded {
        release: id,
        action: Action::Install,
        outcome: InstallOutcome::Retry { code: Some(75), reason: "the package database is locked".into() },
    });
    let granted = Granted { until: bench.now.wall + HOUR, times_left: 1, seconds_left: 3600 };
    assert_eq!(bench.state.would_defer(&id, 3600, bench.now), Ok(granted));
    bench.input(Input::Defer { release: id, by_s: 3600 });
    contains(
        &bench.told(id),
        &[
            "put it off until 2027-01-15 10:00 CET",
            "1 of 2 times",
            "did not work (exit code 75): the package database is locked",
            "attempt 1 of 4",
        ],
    );
    assert_eq!(bench.state.would_defer(&ReleaseId([1; 32]), 1, bench.now), Err(NotPutOff::NotDeployed));
}

#[test]
fn failures_dependencies_and_the_queue() {
    let world = World::new();
    let base = world.publish(&Release { product: text("org.example.base"), ..tool() });
    let on_top = Release { depends: list(vec![base.release]), product: text("org.example.top"), ..tool() };
    let on_top = world.publish(&on_top);
    let other = world.publish(&Release { product: text("org.example.other"), ..tool() });
    let ids = [base.release, on_top.release, other.release];
    let mut documents = vec![base, on_top, other];
    documents.extend(ids.map(|id| world.approve(&approval(GROUP, id, 1))));
    let mut bench = Bench::new(&world.edition(7, documents), |_| ());
    contains(
        &bench.told(ids[1]),
        &["waits for org.example.base 1.0, which is not installed", "dependencies that the publisher"],
    );
    bench.fill();
    let running = bench.asked.iter().find_map(|output| match output {
        Output::Install { release, .. } => Some(*release),
        _ => None,
    });
    let running = running.expect("one begins");
    let waiting = if running == ids[0] { ids[2] } else { ids[0] };
    contains(&bench.told(waiting), &["waits for its turn", "one install at a time"]);
    let outcome = InstallOutcome::Failed { code: Some(3), reason: "disk on fire\nlast line".into() };
    bench.input(Input::InstallEnded { release: running, action: Action::Install, outcome });
    contains(&bench.told(running), &["failed with exit code 3", "disk on fire last line", "unless upswarm retry asks"]);
    let all = bench.state.explain_all(bench.now);
    assert_eq!(all.iter().filter(|section| section.title.starts_with("org.example")).count(), 3);
}

#[test]
fn an_expired_head_and_a_silent_coordinator() {
    let (edition, id) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    bench.pass(Duration::from_secs(10));
    bench.input(Input::DialFailed { address: text("/coordinator"), reason: text("connection refused") });
    contains(
        &told(&bench.state.explain_node(bench.now)),
        &["cannot be reached: connection refused", "1 failed dials", "index version 7"],
    );
    bench.now.wall = NOW + 4 * DAY;
    contains(
        &bench.told(id),
        &["the head expired at 2027-01-18T08:00:00Z", "(24 h ago)", "the last that was heard", "connection refused"],
    );
    contains(&told(&bench.state.explain_node(bench.now)), &["Nothing may be installed", "head expired"]);
}

#[test]
fn a_download_names_its_sources_leases_and_troubles() {
    let (edition, id) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    bench.pass(Duration::from_secs(5));
    contains(
        &bench.told(id),
        &["0 B of 1.0 MiB (0 %)", "0 of 2 chunks", "This device fetches 1 of 1 extents over the WAN now (0)"],
    );
    let fetch = bench.asked.iter().find_map(|output| match output {
        Output::Fetch { fetch, .. } => Some(*fetch),
        _ => None,
    });
    let fetch = fetch.expect("it has the lease");
    bench.input(Input::ChunkStored { fetch, payload: PayloadId::of(b"tool"), chunk: 0 });
    let result = Err(FetchError::Unreachable("connection reset".into()));
    bench.input(Input::FetchEnded { fetch, bytes: 512 << 10, result });
    contains(
        &bench.told(id),
        &[
            "512.0 KiB of 1.0 MiB (50 %)",
            "1 of 2 chunks",
            "the origin cannot be reached: connection reset",
            "1 failures in a row",
        ],
    );
    contains(&told(&bench.state.explain_bytes()), &["512.0 KiB (100 %) came over the WAN", "no byte is counted twice"]);
    let status = bench.state.status(bench.now.mono);
    assert_eq!((status.downloads[0].name.as_str(), status.releases[0].product.as_str()), ("tool", "org.example.tool"));

    let metered = Bench::new(&edition, |config| config.wan_weight = 0);
    contains(&metered.told(id), &["Nobody at this site fetches it over the WAN", "this device may not use the WAN"]);
    contains(&told(&metered.state.explain_node(metered.now)), &["fetches nothing over the WAN"]);
}

#[test]
fn peers_that_are_used_and_peers_that_are_not() {
    let (edition, id) = approved(|_| ());
    let (mut here, mut there) =
        (Bench::new(&edition, |_| ()), Bench::of(&key(41), "pc-2", &edition, |c| c.wan_weight = 0));
    let (me, peer) = (here.device(), there.device());
    contains(
        &told(&here.state.explain_peer(&peer, here.now)),
        &["not known as a machine of this site", "no presence record"],
    );
    there.fill();
    here.input(Input::PeerUp { peer, dialled: None });
    contains(&told(&here.state.explain_peer(&peer, here.now)), &["has not shown its certificate"]);
    there.input(Input::PeerUp { peer: me, dialled: None });
    talk(&mut here, &mut there);
    contains(
        &told(&here.state.explain_peer(&peer, here.now)),
        &[
            "pc-2 (",
            "is connected",
            "requests to it are under way",
            "a machine of this site by its certificate",
            "fetches nothing over the WAN",
        ],
    );
    contains(&here.told(id), &["1 neighbours hold some of it: pc-2 (", ") 2."]);
    contains(&told(&there.state.explain_peer(&me, there.now)), &["this device lacks nothing"]);
    assert_eq!(here.state.find("pc-2"), [Subject::Peer(peer)]);

    let fetch = here.asked.iter().find_map(|output| match output {
        Output::Fetch { fetch, from: FetchFrom::Peer(_), .. } => Some(*fetch),
        _ => None,
    });
    let fetch = fetch.expect("a block is asked of the neighbour");
    let payload = PayloadId::of(b"tool");
    here.input(Input::ChunkStored { fetch, payload, chunk: 0 });
    contains(&told(&here.state.explain_bytes()), &["By device: pc-2 (", "512.0 KiB"]);
    here.input(Input::ChunkRejected { fetch, payload, chunk: 1 });
    let sentences = told(&here.state.explain_peer(&peer, here.now));
    contains(&sentences, &["is shut out for another 60 min", "it served a chunk that is not what it should be (1)"]);
    contains(&told(&here.state.explain_bytes()), &["By device: pc-2 (", "512.0 KiB"]);
    assert!(here.state.explain_all(here.now).iter().any(|section| section.title.starts_with("Peer pc-2")));
}

#[test]
fn a_peer_of_another_site_and_one_that_does_not_answer() {
    let (edition, _) = approved(|_| ());
    let mut here = Bench::new(&edition, |config| config.peers = vec![text("/pc-9")]);
    let (stranger, world) = (key(42), World::new());
    let peer = DeviceId(*stranger.verifying_key().as_bytes());
    let foreign = Certificate { site: SiteId([0x44; 16]), ..certificate(&stranger) };
    here.input(Input::PeerUp { peer, dialled: Some(text("/pc-9")) });
    let hello = upswarm_protocol::wire::Message::Hello {
        version: upswarm_protocol::wire::VERSION,
        certificate: list(world.certificate_doc(&foreign)),
        head: list(vec![]),
        root_version: 1,
    };
    here.input(Input::Frame { peer, bytes: hello.encode().unwrap() });
    contains(
        &told(&here.state.explain_peer(&peer, here.now)),
        &["it belongs to another site", "0 s ago", "is not dialled for another 5 min"],
    );
    here.input(Input::DialFailed { address: text("/pc-9"), reason: text("no route to host") });
    contains(
        &told(&here.state.explain_peer(&peer, here.now)),
        &["Dialling it at /pc-9 failed: no route to host. The next try is in", "1 failures in a row"],
    );
    contains(&told(&here.state.explain_peer(&COORDINATOR, here.now)), &["coordinator"]);
    contains(&told(&here.state.explain_peer(&here.device(), here.now)), &["this device"]);
}

/// Where one identity runs twice, greetings reach the wrong one of the two: nobody is refused for long because of that.
#[test]
fn a_peer_that_did_not_say_hello_is_dialled_again_soon() {
    let (edition, _) = approved(|_| ());
    for spoke in [false, true] {
        let mut here = Bench::new(&edition, |config| config.peers = vec![text("/pc-9")]);
        let peer = DeviceId(*key(42).verifying_key().as_bytes());
        here.input(Input::PeerUp { peer, dialled: Some(text("/pc-9")) });
        if spoke {
            here.frame(peer, &upswarm_protocol::wire::Message::Catalog { index: DocHash([1; 32]) });
        }
        here.pass(Duration::from_secs(11));
        contains(
            &told(&here.state.explain_peer(&peer, here.now)),
            &[if spoke { "it spoke before" } else { "say hello" }],
        );
        here.input(Input::PeerDown { peer });
        here.asked.clear();
        here.pass(Duration::from_secs(20));
        let again = here.asked.iter().any(|output| matches!(output, Output::Dial { address } if **address == *"/pc-9"));
        assert!(again, "spoke: {spoke}; {}", told(&here.state.explain_peer(&peer, here.now)));
    }
}

#[test]
fn words_name_releases_and_peers() {
    let world = World::new();
    let releases = [1, 2].map(|counter| world.publish(&release("org.example.tool", counter)));
    let ids = [releases[0].release, releases[1].release];
    let bench = Bench::new(&world.edition(7, releases.to_vec()), |_| ());
    let mut both = ids.map(Subject::Release);
    both.sort();
    assert_eq!(bench.state.find("org.example.tool"), both);
    assert_eq!(bench.state.find("org.example.tool@2.0"), [Subject::Release(ids[1])]);
    assert_eq!(bench.state.find("tool"), both, "the last part suffices");
    assert_eq!(bench.state.find("tool@2.0"), [Subject::Release(ids[1])]);
    assert_eq!(bench.state.find(&ids[0].to_string().to_uppercase()[..8]), [Subject::Release(ids[0])]);
    assert_eq!(bench.state.find(&bench.device().short()), [Subject::Peer(bench.device())]);
    for nothing in ["", "or", "org.example", "zzzz", "org.example.tool@9"] {
        assert!(bench.state.find(nothing).is_empty(), "{nothing:?}");
    }
}

#[test]
fn a_refused_document_is_named() {
    let world = World::new();
    let bad = world.publish(&Release { payloads: list(vec![]), ..tool() });
    let id = bad.release;
    let trust = &mut world.trust();
    let edition = world.edition(7, vec![bad]);
    trust.offer_head(&edition.head, NOW).unwrap();
    edition.offer_index(trust);
    edition.offer_documents(trust);
    assert_eq!(trust.refusals().len(), 1);
    let bench = Bench::new(&edition, |_| ());
    contains(&bench.told(id), &["knows of no release", "A release in the catalog is refused", "root version 1"]);
}
