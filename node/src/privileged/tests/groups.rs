//! What approvers signed about a group binds the installer, whatever coordinator and node say: it looks at its own machine.

use upswarm_protocol::catalog::*;
use upswarm_protocol::ids::DeviceId;

use super::world::{Bench, World, list, text};
use crate::privileged::wire::{Answer, Outcome, Task};

const DONE: Answer = Answer::Ended(Outcome::Done { restart: false, code: Some(0) });

fn rule(condition: &str) -> Members {
    Members::Rule(list([text(condition)]))
}

fn said(bench: &Bench, version: u64, members: Members) -> World {
    World { said: Some((version, members)), ..bench.world.clone() }
}

fn refused(answer: &Answer, why: &str) {
    assert!(matches!(answer, Answer::Refused(said) if said.contains(why)), "{why}: {answer:?}");
}

#[test]
fn the_installer_holds_the_rule_of_a_group_against_its_own_machine() {
    let bench = Bench::in_a_root();
    let release = std::path::Path::new("etc/os-release");
    let etc = bench.below().join(release);
    std::fs::create_dir_all(etc.parent().unwrap()).unwrap();
    std::fs::write(&etc, "ID=debian\nVERSION_ID=12\n").unwrap();
    // The coordinator has put this machine into the group; the rule is of another kind of machine.
    refused(&bench.install(&said(&bench, 1, rule("os.id=fedora")).good(1)), "rule is os.id=fedora");
    assert!(bench.marks().is_empty());
    assert_eq!(bench.install(&said(&bench, 2, rule("os.id=debian")).good(2)), DONE);
    // It looks again each time.
    std::fs::write(&etc, "ID=other\nVERSION_ID=12.1\n").unwrap();
    refused(&bench.install(&said(&bench, 3, rule("os.id=debian")).good(3)), "rule is os.id=debian");
}

#[test]
fn neither_a_list_without_a_way_nor_a_description_that_is_kept_back_lets_anything_in() {
    let bench = Bench::in_a_root();
    let others = DeviceList::new([7; 32], [DeviceId([9; 32])]).unwrap().tree();
    refused(&bench.install(&said(&bench, 2, Members::List(others.root())).good(1)), "in the list of the group");
    // The node keeps the description back, or hands an older one over that the index names too.
    let mut withheld = said(&bench, 3, Members::Listed).good(2);
    withheld.group = Vec::new();
    let job = |edition: &super::world::Edition| {
        let mut job = edition.install();
        job.groups = list([]);
        job
    };
    refused(&bench.ask(&job(&withheld), &bench.files(&[&bench.world.good_script()])), "has not come");
    refused(&bench.install(&said(&bench, 1, Members::Listed).good(3)), "has not come");
    // Nothing is removed on the coordinator's word alone.
    let removal = Task::Install { action: Action::Uninstall, payloads: list([]) };
    let listed = said(&bench, 4, Members::Listed);
    refused(&bench.ask(&listed.removal(4).job(removal.clone()), &[]), "upswarm group sign");
    assert!(bench.marks().is_empty());
    assert_eq!(bench.install(&listed.good(5)), DONE);
    // With a list that shows this machine it is.
    let shown = said(&bench, 5, Members::List(bench.world.members().root()));
    assert_eq!(bench.ask(&shown.removal(6).job(removal), &[]), DONE);
}
