//! The log of decisions: what is written, and what the index says of it.

use super::bench::*;
use super::*;
use crate::catalog::{AuditHead, Index};
use crate::time::Wall;

impl Bench {
    fn decided(&mut self, command: Command, entry: &str) -> Vec<Output> {
        self.input(Input::Admin { request: 77, command, entry: Some(entry.as_bytes().to_vec()) })
    }

    /// What the public head's index says of the log.
    fn signed_audit(&self) -> Option<AuditHead> {
        let head: Head = open_online(self.state.root(), self.state.head(), Kind::Head).unwrap();
        let index = self.durable.iter().find_map(|record| match record {
            Record::Document(document) if document.hash == head.index_hash => Some(document.bytes.clone()),
            _ => None,
        });
        let index: Index = open_online(self.state.root(), &index.expect("the index"), Kind::Index).unwrap();
        index.audit
    }
}

#[test]
fn a_decision_stands_in_the_log_before_it_counts_and_in_the_index_that_holds_it() {
    let mut bench = Bench::new();
    bench.sync();
    assert_eq!((bench.signed_audit(), bench.state.audit()), (None, AuditEnd::default()));
    bench.decided(Command::Hold { hold: Hold::Everything, on: true }, "paused");
    let first = bench.written.iter().position(|(_, record)| matches!(record, Record::Audit(0, _)));
    let catalog = bench.written.iter().position(|(_, record)| matches!(record, Record::Catalog(_)));
    assert!(first.is_some() && first < catalog, "the log first: {:?}", bench.written);
    bench.sync();
    let paused = AuditHead::after(None, b"paused");
    assert_eq!(bench.signed_audit(), Some(paused));
    // What is refused was decided by nobody.
    let refused = bench.decided(Command::Withdraw(ReleaseId([9; 32])), "withdrew");
    assert!(matches!(answer(refused), Some(Err(Refusal::UnknownRelease(_)))));
    let long = bench.decided(Command::Note, &"x".repeat(crate::catalog::MAX_AUDIT_ENTRY + 1));
    assert!(matches!(answer(long), Some(Err(Refusal::Full(_)))));
    assert_eq!(bench.state.audit().head, Some(paused));
    let mut again = Bench::restart(bench.durable, bench.now);
    again.sync();
    assert_eq!((again.state.audit().head, again.signed_audit()), (Some(paused), Some(paused)));
}

#[test]
fn an_end_and_a_start_sign_what_no_index_names_yet() {
    let mut bench = Bench::new();
    bench.sync();
    bench.decided(Command::Note, "somebody logged in");
    bench.sync();
    let (noted, version) = (AuditHead::after(None, b"somebody logged in"), bench.state.index_version());
    assert_eq!(bench.signed_audit(), None);
    let mut killed = Bench::restart(bench.durable.clone(), bench.now);
    killed.sync();
    assert_eq!(killed.signed_audit(), Some(noted), "a start signs at once");
    bench.end();
    assert_eq!((bench.signed_audit(), bench.state.index_version()), (Some(noted), version + 1));
    bench.end();
    assert_eq!(bench.state.index_version(), version + 1, "an end with nothing to sign signs nothing");
}

#[test]
fn a_directory_from_a_backup_uses_no_version_again() {
    let mut bench = Bench::new();
    bench.sync();
    let backup = (bench.durable.clone(), bench.state.index_version());
    bench.decided(Command::Hold { hold: Hold::Everything, on: true }, "paused");
    bench.sync();
    let lost = bench.state.index_version();
    let stored = Stored { restored: true, ..Stored::default() };
    let mut restored = Bench::restart_with(backup.0, stored, bench.now);
    restored.sync();
    let version = restored.state.index_version();
    assert!(lost > backup.1 && version > backup.1 + RESTORED_GAP - 1, "{version} after {lost}");
    let head: Head = open_online(restored.state.root(), restored.state.head(), Kind::Head).unwrap();
    assert_eq!(head.index_version, version);
}

#[test]
fn a_decision_outside_of_the_index_is_signed_within_minutes_and_then_no_more() {
    let mut bench = Bench::new();
    bench.sync();
    bench.decided(Command::Note, "somebody logged in");
    let outputs = bench.sync();
    assert!(matches!(answer(outputs), Some(Ok(_))));
    let version = bench.state.index_version();
    assert_eq!(bench.signed_audit(), None, "not for each of them an index");
    bench.later(AUDIT_SIGNED_WITHIN);
    bench.sync();
    assert_eq!(bench.signed_audit(), Some(AuditHead::after(None, b"somebody logged in")));
    assert_eq!(bench.state.index_version(), version + 1);
    bench.later(HEAD_INTERVAL);
    bench.sync();
    assert_eq!(bench.state.index_version(), version + 1, "nothing was decided since");
    // A clock that is wrong keeps nobody from saying what was decided.
    bench.now.wall = Wall(0);
    let mut outputs = bench.decided(Command::Note, "an alarm was acknowledged");
    outputs.extend(bench.sync());
    assert!(matches!(answer(outputs), Some(Ok(_))));
    assert_eq!(bench.state.audit().head.map(|head| head.entries), Some(2));
}
