//! The pages of the catalog: what one change makes anew, what stays readable, and that a start finds the same pages.

use super::bench::Bench;
use super::*;
use crate::catalog::page;
use crate::catalog::{DocEntry, Index};
use crate::codec;
use crate::envelope::{Envelope, Role};

fn index(bench: &Bench) -> Index {
    let record = bench.durable.iter().rev().find_map(|record| match record {
        Record::Catalog(bytes) => Some(CatalogRecord::decode(bytes).unwrap()),
        _ => None,
    });
    let record = record.unwrap();
    let body = Envelope::parse(&record.index, Kind::Index, Role::Online).unwrap().unverified_body().to_vec();
    codec::decode(&body, Kind::Index.cap()).unwrap()
}

/// The hashes of documents that were written since a point, apart from envelopes.
fn pages_written(bench: &Bench, from: usize) -> Vec<usize> {
    let written = bench.durable[from..].iter().filter_map(|record| match record {
        Record::Document(document) => page::Page::decode(&document.bytes).is_ok().then_some(document.bytes.len()),
        _ => None,
    });
    written.collect()
}

fn group(at: u8) -> GroupId {
    GroupId([at.wrapping_mul(29); 16])
}

/// A coordinator with so many releases, each approved for its own group.
fn wide(releases: u8) -> (Bench, Vec<ReleaseId>) {
    let mut bench = Bench::new();
    bench.sync();
    let ids: Vec<_> = (1..=releases).map(|at| bench.published(u64::from(at))).collect();
    for (at, id) in ids.iter().enumerate() {
        bench.approved(*id, group(at as u8), 1);
    }
    (bench, ids)
}

#[test]
fn one_change_makes_one_path_anew() {
    let (mut bench, ids) = wide(100);
    let before = bench.named(&index(&bench));
    assert_eq!((before.documents.len(), before.revoked.len()), (200, 0));
    let from = bench.durable.len();
    bench.approved(ids[3], group(3), 2);
    let pages = pages_written(&bench, from);
    assert_eq!(pages.len(), 2, "the group's page, and the page of groups that names it");
    assert!(pages.iter().sum::<usize>() < 1500, "{pages:?}");
    let after = bench.named(&index(&bench));
    assert_eq!(after.pages.difference(&before.pages).count(), 2);
    // A hold and a renewed head change no page.
    let from = bench.durable.len();
    bench.done(Command::Hold { hold: Hold::Everything, on: true }).unwrap();
    assert!(pages_written(&bench, from).is_empty());
}

#[test]
fn a_release_is_told_to_everybody_until_a_group_decides_and_what_it_depends_on_goes_with_it() {
    let mut bench = Bench::new();
    bench.sync();
    let first = bench.published(1);
    let second = bench.published_that(2, |release| release.depends = Bounded::new(vec![first]).unwrap());
    let entries = |node: &page::Node<DocEntry, { page::INDEX_ENTRIES }>| match node {
        page::Node::Leaf(entries) => entries.len(),
        page::Node::Fork(_) => panic!("few enough for the index"),
    };
    assert_eq!(entries(&index(&bench).published), 2);
    bench.approved(second, group(1), 1);
    let index = index(&bench);
    assert_eq!(entries(&index.published), 1, "nobody has decided about the first");
    let mut groups = bench.state.documents_by_group();
    assert_eq!(groups.next().unwrap(), (group(1), BTreeSet::from([first, second])));
}

#[test]
fn a_start_finds_the_same_pages_and_old_ones_are_dropped_in_time() {
    let (mut bench, ids) = wide(40);
    let first = bench.named(&index(&bench));
    let mut dropped = BTreeSet::new();
    for version in 2..=12 {
        let outputs = bench.approved(ids[0], group(0), version);
        dropped.extend(outputs.iter().filter_map(|output| match output {
            Output::DropDocument(hash) => Some(*hash),
            _ => None,
        }));
        // A node that is one index behind can still read.
        let named = bench.named(&index(&bench));
        assert!(dropped.is_disjoint(&named.pages));
    }
    let last = bench.named(&index(&bench));
    assert!(first.pages.difference(&last.pages).all(|page| dropped.contains(page)), "the first path is gone");
    let before = index(&bench);
    let again = Bench::restart(bench.durable.clone(), bench.now);
    assert_eq!(again.state.index_version(), before.version, "nothing is signed anew");
    assert_eq!((again.state.releases().len(), again.state.approvals().len()), (40, 40));
}

#[test]
fn many_revoked_devices_stand_in_pages() {
    let mut bench =
        Bench::with(super::bench::stored_fleet(300, group(1)), Now { mono: Mono(0), wall: super::bench::START });
    bench.sync();
    let devices: Vec<DeviceId> = bench.state.devices().map(|record| record.device).collect();
    for revoked in &devices {
        bench.done(Command::Revoke(*revoked)).unwrap();
    }
    let index = index(&bench);
    assert!(matches!(index.revoked, page::Node::Fork(_)));
    assert_eq!(bench.named(&index).revoked, devices.into_iter().collect());
    let again = Bench::restart(bench.durable.clone(), bench.now);
    assert_eq!(again.state.revoked().len(), 300);
}
