//! Keys of their own for what groups are: who approves does not say which machines that is for.

use super::*;

/// The coordinator's draft of a group that it puts machines into.
fn asked(bench: &Bench, version: u64) -> RequestFile {
    let document =
        GroupDocument { group: GROUP, version, name: Text::lossy("office"), issued: NOW, members: Members::Listed };
    let body = HexBytes(codec::encode(&document, Kind::Group.cap()).unwrap());
    let wanted = NewGroup { group: "office".to_owned(), members: Some(Belong::Coordinator), ..NewGroup::default() };
    let draft = GroupDraft { body, list: None, before: None };
    bench.file(Asked::Group(Box::new(AskedGroup { wanted, draft })))
}

fn signs(bench: &Bench, version: u64) -> Result<Vec<u8>, String> {
    let signed =
        bench.check(asked(bench, version))?.sign(&bench.place(KeyUse::Approver)).map_err(|error| error.to_string())?;
    Ok(signed.complete().map_err(|error| error.to_string())?.0)
}

#[test]
fn where_the_root_names_targeting_keys_they_alone_sign_groups_and_nothing_else() {
    let mut bench = bench();
    let by_approver = signs(&bench, 1).unwrap();
    verify_group(&bench.root, &by_approver).unwrap();

    let targeter = keys::generate().unwrap();
    let held = HeldKey { key: keys::public(&targeter), holder: Text::lossy("Eva Roos") };
    let by: Vec<SigningKey> = bench.root_keys.clone();
    bench.grow(&RootChange::Add(RoleName::Targeting, None, held), &[&by[0], &by[1]]);
    assert!(verify_group(&bench.root, &by_approver).is_err(), "an approver's word from before");
    assert!(signs(&bench, 2).unwrap_err().contains("may sign this"), "the approver's key alone");

    let path = keys::file(bench.dir.path(), KeyUse::Targeting, 1);
    keys::write(&path, KeyUse::Targeting, keys::public(&targeter), &targeter.to_bytes(), None).unwrap();
    verify_group(&bench.root, &signs(&bench, 2).unwrap()).unwrap();
    std::fs::remove_file(keys::file(bench.dir.path(), KeyUse::Approver, 1)).unwrap();
    verify_group(&bench.root, &signs(&bench, 3).unwrap()).unwrap();
}

#[test]
fn where_the_root_names_targeting_keys_approvals_are_the_approver_s_still() {
    let mut bench = bench();
    let targeter = keys::generate().unwrap();
    let held = HeldKey { key: keys::public(&targeter), holder: Text::lossy("Eva Roos") };
    let by: Vec<SigningKey> = bench.root_keys.clone();
    bench.grow(&RootChange::Add(RoleName::Targeting, None, held), &[&by[0], &by[1]]);
    let path = keys::file(bench.dir.path(), KeyUse::Targeting, 1);
    keys::write(&path, KeyUse::Targeting, keys::public(&targeter), &targeter.to_bytes(), None).unwrap();

    bench.sign(&bench.request(&bench.approval()), install()).unwrap();
    std::fs::remove_file(keys::file(bench.dir.path(), KeyUse::Approver, 1)).unwrap();
    let reason = bench.sign(&bench.request(&bench.approval()), install()).unwrap_err();
    assert!(reason.contains("may sign this"), "{reason}");
}
