//! An approval that no longer reaches a device: the device says so once, and keeps nothing of it when that was heard.

mod common;

use std::time::Duration;

use common::bench::*;
use common::*;
use upswarm_protocol::codec::Text;
use upswarm_protocol::ids::*;
use upswarm_protocol::node::*;
use upswarm_protocol::report::{self, DeploymentState as S, DeviceMessage};
use upswarm_protocol::wire::{BlockWhat, Message};

const SECOND: Duration = Duration::from_secs(1);

/// The coordinator's newest catalog arrives, whole.
fn publish(bench: &mut Bench, edition: &Edition) {
    bench.input(Input::Frame { peer: COORDINATOR, bytes: Message::Head(list(edition.head.clone())).encode().unwrap() });
    loop {
        let fetches: Vec<_> = bench.asked.extract_if(.., |output| matches!(output, Output::FetchDoc { .. })).collect();
        if fetches.is_empty() {
            break;
        }
        for output in fetches {
            let Output::FetchDoc { fetch, what, .. } = output else { unreachable!() };
            let mut documents = edition.stored();
            documents.insert(DocHash::of(&edition.index), edition.index.clone());
            let BlockWhat::Doc(hash) = what else { panic!("{what:?}") };
            let result = documents.remove(&hash).ok_or(FetchError::Unreachable("not here".into()));
            bench.input(Input::DocFetched { fetch, result });
        }
    }
}

/// Reports that the node made since the last time, each acknowledged if `heard`.
fn reports(bench: &mut Bench, heard: bool) -> Vec<report::Report> {
    bench.pass(SECOND);
    let encrypted: Vec<_> = bench.asked.extract_if(.., |output| matches!(output, Output::Encrypt { .. })).collect();
    let mut reports = Vec::new();
    for output in encrypted {
        let Output::Encrypt { message: DeviceMessage::Status(report), .. } = output else { continue };
        let (seq, receipt) = (report.seq, [7; 32]);
        bench.input(Input::Encrypted { seq, bytes: vec![1], receipt });
        if heard {
            let held = DocHash::default();
            let proof = report::acknowledgement(&receipt, seq, &held, &[]);
            let message = Message::RelayAck { device: bench.device(), seq, held, news: list(vec![]), proof };
            bench.input(Input::Frame { peer: COORDINATOR, bytes: message.encode().unwrap() });
        }
        reports.push(*report);
    }
    reports
}

fn said(reports: &[report::Report], release: ReleaseId) -> Vec<(S, Text<400>)> {
    let all = reports.iter().flat_map(|report| &report.deployments).filter(|of| of.release == release);
    all.map(|of| (of.state, of.reason.clone())).collect()
}

#[test]
fn it_is_said_once_and_forgotten_when_that_was_heard() {
    let world = World::new();
    let (edition, id) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    bench.hears_the_coordinator(&edition, &[]);
    bench.fill();
    assert_eq!(bench.installs(), [id]);
    bench.ended(id, InstallOutcome::Failed { code: Some(1), reason: "no".into() });
    let before = reports(&mut bench, true);
    assert_eq!(said(&before, id).last().unwrap().0, S::Failed);
    assert!(!bench.records[&id].is_empty());

    let release = edition.documents.iter().find(|document| document.release == id).unwrap().clone();
    publish(&mut bench, &world.edition(8, vec![release]));
    let told = reports(&mut bench, false);
    let words = "the approval no longer reaches this device";
    assert_eq!(said(&told, id), [(S::Canceled, text(words))], "{told:?}");
    assert_eq!(bench.standing(id).0, S::Canceled, "nobody has heard it");
    // It is among the next full report, and now it is heard.
    let mut again = Vec::new();
    for _ in 0..20 {
        bench.pass(60 * SECOND);
        again.extend(reports(&mut bench, true));
    }
    assert_eq!(said(&again, id), [(S::Canceled, text(words))]);
    assert!(bench.state.status(bench.now.mono).deployments.is_empty());
    assert!(bench.records[&id].is_empty(), "its journal is removed");

    // Approved anew, it begins anew.
    publish(&mut bench, &world.edition(9, edition.documents));
    assert_eq!(bench.installs(), [id]);
}

#[test]
fn however_many_come_and_go_unheard_a_bounded_number_is_kept() {
    /// Withdrawn deployments that a node keeps to tell the coordinator of them.
    const KEPT: usize = 256;
    let world = World::new();
    let (edition, first) = approved(|_| ());
    let mut bench = Bench::new(&edition, |_| ());
    bench.hears_the_coordinator(&edition, &[]);
    let mut last = first;
    for version in 8..8 + 2 * KEPT as u64 {
        let release = world.publish(&release(&format!("org.example.tool{version}"), 1));
        let approval = world.approve(&approval(GROUP, release.release, 1));
        last = release.release;
        publish(&mut bench, &world.edition(version, vec![release, approval]));
        bench.asked.clear();
        assert!(bench.state.status(bench.now.mono).deployments.len() <= KEPT + 1, "at {version}");
    }
    let kept = bench.state.standings().filter(|(_, state, _)| *state == S::Canceled).count();
    assert_eq!(kept, KEPT, "the oldest are forgotten unheard");
    let journals = bench.records.values().filter(|bytes| !bytes.is_empty()).count();
    assert!(journals <= KEPT + 1, "{journals} journals are left on disk");
    for _ in 0..20 {
        bench.pass(60 * SECOND);
        reports(&mut bench, true);
    }
    let left: Vec<_> = bench.state.standings().map(|(id, ..)| id).collect();
    assert_eq!(left, [last], "the coordinator has heard of the others");
    assert_eq!(bench.records.values().filter(|bytes| !bytes.is_empty()).count(), 0);
}
