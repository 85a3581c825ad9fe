//! The log of decisions: every decision has its entry, and whoever changes the file is found out.

use upswarm_protocol::coordinator::AlarmKind;

use super::*;
use crate::api::alarms::AlarmQuery;
use crate::api::audit::{EntryQuery, NumberedEntry, Topic};

async fn entries(bench: &Bench) -> Vec<NumberedEntry> {
    let page = bench.client().audit_log(&EntryQuery { limit: Some(1000), ..EntryQuery::default() }).await.unwrap();
    assert_eq!(page.broken, None);
    page.entries
}

/// What `audit verify` says of these bytes in place of the log.
async fn verified(bench: &Bench, log: &[u8]) -> Result<(), String> {
    std::fs::write(bench.data().join("audit.log"), log).unwrap();
    bench.verb(&["audit", "verify"]).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_decision_has_its_entry_and_the_index_names_the_last() {
    let mut bench = Bench::start().await;
    let machine = Machine::joined(&bench, "office").await;
    bench.write("tool.bin", b"tool");
    let file = bench.write("tool.toml", RELEASE.as_bytes());
    let approve = ["approve", "org.example.tool@1", "--group", "office"];
    let key = machine.device().to_string();
    for (verb, topic, words) in [
        (&["publish", &file][..], Topic::Release, "org.example.tool 1 was published"),
        (
            &[&approve[..], &["--note", "because"]].concat()[..],
            Topic::Approval,
            "was approved for group office, version 1",
        ),
        (&["expedite", "org.example.tool@1", "--group", "office"], Topic::Approval, "replaces version 1 (approved"),
        (&["pause", "--group", "office"], Topic::Hold, "everything in group office was paused"),
        (&["resume", "--group", "office"], Topic::Hold, "everything in group office was let go on"),
        (&["retry", "org.example.tool@1"], Topic::Retry, "org.example.tool 1 again"),
        (
            &["decline", "org.example.tool@1", "--group", "office"],
            Topic::Approval,
            "was declined for group office, version 3",
        ),
        (&["release", "withdraw", "org.example.tool@1"], Topic::Release, "was withdrawn"),
        (&["group", "add", "pilots"], Topic::Group, "the group pilots was made"),
        (&["group", "assign", "pc7", "--group", "pilots"], Topic::Group, "was put into group pilots"),
        (
            &["group", "add", "debs", "--where", "os.id=debian"],
            Topic::Group,
            "what group debs is was signed, version 1",
        ),
        (
            &["rule", "add", "--group", "pilots", "--product", "org.example."],
            Topic::Rule,
            "rules about products, version 1: new: rule 1",
        ),
        (&["rule", "remove", "1"], Topic::Rule, "removed: rule 1"),
        (&["limit", "set", "--site", "berlin", "--wan", "10mbit"], Topic::Limit, "site berlin may use of its WAN"),
        (&["root", "renew", "--for", "800d", "--yes"], Topic::Root, "root of trust, version 2 after 1"),
        (
            &["coordinator", "invite", "--group", "pilots", "--uses", "3"],
            Topic::Token,
            "3 machines may join group pilots",
        ),
        (&["device", "revoke", "pc7"], Topic::Device, "was shut out"),
        (&["device", "readmit", &key], Topic::Device, "was let in again"),
    ] {
        let before = entries(&bench).await.len();
        bench.verb(verb).await.unwrap_or_else(|error| panic!("{verb:?}: {error}"));
        let after = entries(&bench).await;
        assert!(after.len() > before, "{verb:?}");
        let entry = &after[0].entry;
        assert!(entry.topic == topic && entry.what.contains(words), "{verb:?}: {entry:?}");
        assert!(entry.actor.starts_with("admin token") && entry.from.contains("admin socket, user "), "{entry:?}");
        let signs = matches!(topic, Topic::Approval | Topic::Root | Topic::Rule) || words.contains("published");
        assert_eq!(!entry.holders.is_empty(), signs || words.contains("was signed"), "{entry:?}");
    }
    // What is refused was decided by nobody, and a question decides nothing.
    let before = entries(&bench).await;
    refused(bench.verb(&["pause", "--group", "nobody"]).await);
    refused(bench.verb(&["expedite", "org.example.tool@1", "--group", "office"]).await);
    bench.verb(&["status"]).await.unwrap();
    bench.verb(&["group", "add", "pilots"]).await.unwrap();
    assert_eq!(entries(&bench).await, before);
    assert!(before.last().unwrap().entry.what.contains("begins"), "{before:?}");
    // A decision that the index holds stands in the index that holds it.
    bench.verb(&["pause"]).await.unwrap();
    let (index, _) = Directory::new(&bench.data()).index().unwrap().unwrap();
    assert_eq!(index.audit.unwrap().entries, entries(&bench).await.len() as u64);
    for output in ["table", "json", "csv"] {
        bench.verb(&["audit", "list", "--output", output, "--topic", "hold"]).await.unwrap();
        bench.verb(&["audit", "verify", "--output", output]).await.unwrap();
    }
    let exported = bench.dir.path().join("export").display().to_string();
    bench.verb(&["audit", "export", &exported]).await.unwrap();
    refused(bench.verb(&["audit", "export", &exported]).await);
    bench.verb(&["audit", "verify", "--file", &exported]).await.unwrap();
    machine.host.stop().await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_a_removed_a_moved_and_a_cut_entry_are_named() {
    let mut bench = Bench::start().await;
    for group in ["a", "b", "c"] {
        bench.verb(&["group", "add", group]).await.unwrap();
        bench.verb(&["pause", "--group", group]).await.unwrap();
    }
    bench.stop().await;
    let path = bench.data().join("audit.log");
    let whole = std::fs::read(&path).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 1 + 1 + 6, "{text}");
    verified(&bench, &whole).await.unwrap();
    let edited = text.replace("everything in group b was paused", "everything in group b was let go on");
    let reason = verified(&bench, edited.as_bytes()).await.unwrap_err();
    assert!(reason.contains("entry 5 is not what was written"), "{reason}");
    let without = |line: usize| [&lines[..line], &lines[line + 1..]].concat().concat();
    let reason = verified(&bench, without(4).as_bytes()).await.unwrap_err();
    assert!(reason.contains("where entry 4 should stand there is entry 5"), "{reason}");
    let mut moved = lines.clone();
    moved.swap(3, 4);
    let reason = verified(&bench, moved.concat().as_bytes()).await.unwrap_err();
    assert!(reason.contains("where entry 3 should stand there is entry 4"), "{reason}");
    let cut = lines[..6].concat();
    let reason = verified(&bench, cut.as_bytes()).await.unwrap_err();
    assert!(reason.contains("the entries after 5 were cut off"), "{reason}");
    let reason = verified(&bench, b"").await.unwrap_err();
    assert!(reason.contains("the entries after 0 were cut off"), "{reason}");
    // An index from before is enough for what it names, and one of another coordinator for nothing.
    std::fs::write(&path, &whole).unwrap();
    let (_, index) = Directory::new(&bench.data()).index().unwrap().unwrap();
    let index = bench.write("index.bin", &index);
    bench.verb(&["audit", "verify", "--index", &index]).await.unwrap();
    let other = bench.dir.path().join("other");
    setup::init(&other, None).unwrap();
    let (_, foreign) = Directory::new(&other).index().unwrap().unwrap();
    let foreign = bench.write("foreign.bin", &foreign);
    let error = bench.verb(&["audit", "verify", "--index", &foreign]).await.unwrap_err().to_string();
    assert!(error.contains("not signed by the online keys"), "{error}");

    // A coordinator that starts from a log that was cut says so, to the admin and in the log, and goes on.
    std::fs::write(&path, cut).unwrap();
    bench.run().await;
    let alarms = bench.client().alarms(&AlarmQuery { all: false }).await.unwrap().alarms;
    let alarm = alarms.iter().find(|alarm| alarm.kind == AlarmKind::Audit).expect("an alarm");
    assert!(alarm.text.contains("cut off"), "{}", alarm.text);
    let newest = &entries(&bench).await[0];
    assert!(
        (newest.number, newest.entry.topic) == (6, Topic::Log) && newest.entry.what.contains("cut off"),
        "{newest:?}"
    );
    let error = bench.verb(&["audit", "verify", "--index", &index]).await.unwrap_err().to_string();
    assert!(error.contains("not the one that the signed index names") || error.contains("cut off"), "{error}");
    bench.stop().await;
    // One that was edited is kept, and another begins.
    std::fs::write(&path, edited).unwrap();
    bench.run().await;
    assert_eq!(entries(&bench).await.len(), 1);
    let kept = std::fs::read_to_string(bench.data().join("audit.damaged-1")).unwrap();
    assert!(kept.contains("group b was let go on"));
    // The new chain is right in itself: what is aside must not look settled before somebody has looked at it.
    let page = bench.client().audit_log(&EntryQuery::default()).await.unwrap();
    assert_eq!(page.aside, ["audit.damaged-1"]);
    let error = bench.verb(&["audit", "verify"]).await.unwrap_err().to_string();
    assert!(error.contains("audit.damaged-1") && error.contains("Compare it"), "{error}");
    bench.stop().await;
    let error = bench.verb(&["audit", "verify"]).await.unwrap_err().to_string();
    assert!(error.contains("audit.damaged-1"), "{error}");
    std::fs::remove_file(bench.data().join("audit.damaged-1")).unwrap();
    bench.verb(&["audit", "verify"]).await.unwrap();
}
