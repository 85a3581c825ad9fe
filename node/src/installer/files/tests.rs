use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use upswarm_protocol::catalog::{Action, Recipe};
use upswarm_protocol::ids::ReleaseId;

use super::super::fixture::{Fixture, done, list, reason, text};
use super::*;

const PAYLOADS: [(&str, &[u8]); 3] = [("a", b"new a"), ("b", b"new b"), ("c", b"new c")];

/// `a` is a file, `b` is a link, `c` is not there.
fn three() -> Fixture {
    let fixture = Fixture::new(&PAYLOADS).placing(&["a", "b", "c"]);
    fs::write(fixture.target("a"), b"old a").unwrap();
    fs::set_permissions(fixture.target("a"), fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("a", fixture.target("b")).unwrap();
    fixture
}

fn contents(fixture: &Fixture) -> Vec<Vec<u8>> {
    fixture.snapshot().into_iter().map(|(_, _, content)| content).collect()
}

fn backups(fixture: &Fixture) -> usize {
    fs::read_dir(fixture.state().join("backup")).unwrap().count()
}

#[test]
fn files_come_and_go_and_what_they_replaced_comes_back() {
    let fixture = three();
    let before = fixture.snapshot();
    assert_eq!(fixture.run(Action::Install), done());
    assert_eq!(contents(&fixture), [b"new a", b"new b", b"new c"]);
    assert!(fixture.snapshot().iter().all(|(_, mode, _)| *mode == 0o640));
    // Again, after someone has damaged one of them: the first backup still counts.
    fs::write(fixture.target("a"), b"damaged").unwrap();
    assert_eq!(fixture.run(Action::Install), done());
    assert_eq!(contents(&fixture), [b"new a", b"new b", b"new c"]);
    assert_eq!(fixture.run(Action::Uninstall), done());
    assert_eq!(fixture.snapshot(), before);
    assert_eq!(backups(&fixture), 0);
    // Once more, as after a crash: what came back stays.
    assert_eq!(fixture.run(Action::Uninstall), done());
    assert_eq!(fixture.snapshot(), before);
    // Placed by this release, and the backup is gone: it goes, with nothing to bring back.
    fs::write(fixture.target("c"), b"new c").unwrap();
    assert_eq!(fixture.run(Action::Uninstall), done());
    assert_eq!(fixture.snapshot(), before);
}

#[test]
fn an_own_recipe_may_take_some_files_away() {
    let mut fixture = three();
    let path = |name: &str| text(&fixture.target(name).display().to_string());
    fixture.release.uninstall = Some(Recipe::RemoveFiles { paths: list([path("a"), path("gone/x")]) });
    assert_eq!(fixture.run(Action::Install), done());
    assert_eq!(fixture.run(Action::Uninstall), done());
    assert_eq!(contents(&fixture), [&b"old a"[..], b"new b", b"new c"]);
    fixture.release.uninstall = None;
    assert_eq!(fixture.run(Action::Uninstall), done());
    assert_eq!(contents(&fixture), [&b"old a"[..], b"a"]);
}

#[test]
fn a_failure_in_the_middle_leaves_everything_as_it_was() {
    type Spoil = fn(&mut Fixture);
    let spoils: [(&str, Spoil); 8] = [
        ("cannot reach", |fixture| {
            let paths = ["made/a", "file/b", "c"];
            *fixture = std::mem::replace(fixture, Fixture::new(&[])).placing(&paths);
            fs::write(fixture.target("file"), b"no directory").unwrap();
        }),
        ("bytes that the release says", |fixture| {
            let paths = ["a", "made/deep/b", "made/c"];
            *fixture = std::mem::replace(fixture, Fixture::new(&[])).placing(&paths);
            fs::write(fixture.stored(2), b"another length").unwrap();
        }),
        ("neither a plain file", |fixture| {
            fs::remove_file(fixture.target("b")).unwrap();
            fs::create_dir(fixture.target("b")).unwrap();
        }),
        ("hashes to", |fixture| fs::write(fixture.stored(1), b"bad b").unwrap()),
        ("5 bytes", |fixture| fs::write(fixture.stored(1), b"new b and more").unwrap()),
        ("not in the store", |fixture| fs::remove_file(fixture.stored(1)).unwrap()),
        ("cannot read", |fixture| {
            fs::rename(fixture.stored(1), fixture.stored(7)).unwrap();
            symlink(fixture.stored(7), fixture.stored(1)).unwrap();
        }),
        ("two files at", |fixture| {
            *fixture = std::mem::replace(fixture, Fixture::new(&[])).placing(&["a", "b", "b"]);
        }),
    ];
    for (expected, spoil) in spoils {
        let mut fixture = three();
        spoil(&mut fixture);
        let before = fixture.snapshot();
        let outcome = fixture.run(Action::Install);
        assert!(reason(&outcome).contains(expected), "{expected}: {outcome:?}");
        assert_eq!(fixture.snapshot(), before, "{expected}");
        assert!(!fixture.target("made").exists(), "{expected}: directories that were made go too");
        assert_eq!(recover(&fixture.state()), [], "{expected}: nothing is left to undo");
    }
}

/// A directory appears in the place of the second file after everything was checked: the rename fails, the first goes back.
#[test]
fn a_failed_rename_brings_back_what_was_renamed_before() {
    let fixture = three();
    let before = fixture.snapshot();
    let Recipe::Files { files } = &fixture.release.install else { panic!("a files recipe") };
    fixture.with_job(Action::Install, |job| {
        let places: Vec<Place> = files.iter().map(|file| locate(Path::new("/"), &file.path).unwrap()).collect();
        let backups = Backups::open(job.state_dir).unwrap();
        let manifest = back_up(job, &backups, Path::new("/"), files, &places).unwrap();
        fs::remove_file(fixture.target("b")).unwrap();
        fs::create_dir(fixture.target("b")).unwrap();
        let trouble = put_in_place(job, files, &places, &manifest).unwrap_err();
        assert!(trouble.reason.contains("cannot put in place"), "{trouble:?}");
        assert_eq!(fs::read(fixture.target("a")).unwrap(), b"new a");
        let notes = roll_back(&backups, job.id).unwrap();
        assert_eq!(notes.len(), 1, "the directory is somebody else's: {notes:?}");
    });
    fs::remove_dir(fixture.target("b")).unwrap();
    symlink("a", fixture.target("b")).unwrap();
    assert_eq!(fixture.snapshot(), before);
}

/// Every instant at which a crash can happen: so many files staged, so many renamed, with and without the manifest.
#[test]
fn a_crash_at_any_step_is_undone_at_the_next_start() {
    for (staged, renamed) in [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (3, 3)] {
        let fixture = three();
        let before = fixture.snapshot();
        crash(&fixture, staged, renamed);
        let recovered = recover(&fixture.state());
        assert_eq!(recovered.len(), 1, "{staged} {renamed}");
        assert_eq!(recovered[0].release, fixture.id);
        assert_eq!(recovered[0].text, "an interrupted placement of files was undone");
        assert_eq!(fixture.snapshot(), before, "{staged} {renamed}");
        assert_eq!(recover(&fixture.state()), []);
        assert_eq!(backups(&fixture), 0);
        assert_eq!(fixture.run(Action::Install), done());
        assert_eq!(contents(&fixture), [b"new a", b"new b", b"new c"]);
    }
    // Before the manifest, and on the way of removing a backup.
    let fixture = three();
    let before = fixture.snapshot();
    crash(&fixture, 0, 0);
    let pending = fixture.state().join(format!("backup/{}.pending", fixture.id));
    fs::remove_file(pending.join("manifest")).unwrap();
    fs::create_dir(fixture.state().join(format!("backup/{}.gone", ReleaseId([7; 32])))).unwrap();
    assert_eq!(recover(&fixture.state()).len(), 1);
    assert_eq!(fixture.snapshot(), before);
    assert_eq!(backups(&fixture), 0);
}

#[test]
fn a_crash_is_undone_by_the_next_install_too() {
    let fixture = three();
    let before = fixture.snapshot();
    crash(&fixture, 3, 2);
    assert_eq!(fixture.run(Action::Install), done());
    assert_eq!(fixture.run(Action::Uninstall), done());
    assert_eq!(fixture.snapshot(), before);
}

#[test]
fn recovery_leaves_what_somebody_else_has_changed_since() {
    let fixture = three();
    crash(&fixture, 3, 3);
    fs::remove_file(fixture.target("c")).unwrap();
    fs::remove_file(fixture.target("a")).unwrap();
    fs::write(fixture.target("a"), b"the admin's").unwrap();
    let recovered = recover(&fixture.state());
    assert!(recovered[0].text.contains("target/a was changed by something else"), "{recovered:?}");
    assert_eq!(contents(&fixture), [&b"the admin's"[..], b"a"]);
}

#[test]
fn a_damaged_manifest_is_reported_and_kept() {
    let fixture = three();
    crash(&fixture, 3, 1);
    let manifest = fixture.state().join(format!("backup/{}.pending/manifest", fixture.id));
    fs::write(&manifest, b"{").unwrap();
    let recovered = recover(&fixture.state());
    assert!(
        recovered[0].text.contains("could not be undone") && recovered[0].text.contains("damaged"),
        "{recovered:?}"
    );
    assert!(manifest.exists());
}

fn crash(fixture: &Fixture, staged: usize, renamed: usize) {
    let Recipe::Files { files } = &fixture.release.install else { panic!("a files recipe") };
    fixture.with_job(Action::Install, |job| {
        let places: Vec<Place> = files.iter().map(|file| locate(Path::new("/"), &file.path).unwrap()).collect();
        let backups = Backups::open(job.state_dir).unwrap();
        let manifest = back_up(job, &backups, Path::new("/"), files, &places).unwrap();
        for (at, (place, entry)) in places.iter().zip(&manifest.entries).take(staged).enumerate() {
            let mut file = place.create(&entry.staged).unwrap();
            let (payload, source) = payload::find(job, at).unwrap();
            payload::copy_verified(payload, source, &mut file).unwrap();
        }
        for (place, entry) in places.iter().zip(&manifest.entries).take(renamed) {
            place.take(&entry.staged).unwrap();
        }
    });
}

#[test]
fn later_releases_keep_their_files_when_an_earlier_one_goes() {
    let first = three();
    assert_eq!(first.run(Action::Install), done());
    // The next version, on the same machine.
    let mut second = Fixture::new(&[("a", b"newer a"), ("b", b"newer b"), ("c", b"new c")]);
    second.dir = first.dir;
    second = second.placing(&["a", "b", "c"]);
    second.id = ReleaseId([2; 32]);
    for at in 0..3 {
        fs::write(second.stored(at), [&b"newer a"[..], b"newer b", b"new c"][at]).unwrap();
    }
    assert_eq!(second.run(Action::Install), done());
    let mut first = Fixture::new(&PAYLOADS);
    std::mem::swap(&mut first.dir, &mut second.dir);
    let first = first.placing(&["a", "b", "c"]);
    assert_eq!(first.run(Action::Uninstall), done());
    assert_eq!(contents(&first)[..2], [b"newer a", b"newer b"]);
}

#[test]
fn backups_of_a_product_do_not_pile_up() {
    let mut fixture = three();
    for n in 1..8 {
        fixture.id = ReleaseId([n; 32]);
        assert_eq!(fixture.run(Action::Install), done());
        assert_eq!(backups(&fixture), usize::from(n).min(3));
    }
    assert!(fixture.state().join("backup").join(ReleaseId([7; 32]).to_string()).exists());
}

#[test]
fn links_on_the_way_are_followed_only_when_root_or_this_user_made_them() {
    let fixture = Fixture::new(&PAYLOADS).placing(&["lib/a"]);
    fs::create_dir_all(fixture.target("usr/lib")).unwrap();
    symlink("../target/./usr//lib", fixture.target("lib")).unwrap();
    assert_eq!(fixture.run(Action::Install), done());
    assert_eq!(fs::read(fixture.target("usr/lib/a")).unwrap(), b"new a");
    assert_eq!(fixture.run(Action::Uninstall), done());
    fs::remove_file(fixture.target("lib")).unwrap();
    symlink(fixture.target("usr/lib"), fixture.target("lib")).unwrap();
    assert_eq!(fixture.run(Action::Install), done());
    assert_eq!(fixture.run(Action::Uninstall), done());

    fs::remove_file(fixture.target("lib")).unwrap();
    symlink("lib", fixture.target("lib")).unwrap();
    assert!(reason(&fixture.run(Action::Install)).contains("cannot reach"), "a loop");

    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can make a link of another user");
        return;
    }
    fs::remove_file(fixture.target("lib")).unwrap();
    symlink(fixture.target("usr/lib"), fixture.target("lib")).unwrap();
    std::os::unix::fs::lchown(fixture.target("lib"), Some(12345), None).unwrap();
    let outcome = fixture.run(Action::Install);
    assert!(reason(&outcome).contains("made by user 12345"), "{outcome:?}");
    assert!(!fixture.target("usr/lib/a").exists());
}

/// A link in the last place is replaced, what it points at is not touched.
#[test]
fn a_link_in_place_of_the_file_is_not_followed() {
    let fixture = Fixture::new(&PAYLOADS).placing(&["a"]);
    let victim = fixture.dir.path().join("victim");
    fs::write(&victim, b"precious").unwrap();
    symlink(&victim, fixture.target("a")).unwrap();
    assert_eq!(fixture.run(Action::Install), done());
    assert!(fs::symlink_metadata(fixture.target("a")).unwrap().is_file());
    assert_eq!(fixture.run(Action::Uninstall), done());
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(fs::read_link(fixture.target("a")).unwrap(), victim);
}

#[test]
fn another_root_is_not_left() {
    let mut fixture = Fixture::new(&PAYLOADS);
    let root = fixture.dir.path().join("target/image");
    fs::create_dir_all(root.join("usr")).unwrap();
    symlink("/../../../../../usr", root.join("opt")).unwrap();
    fixture.root = Some(root.clone());
    let file = FilePlacement { payload: 0, path: text("/opt/upswarm-test-a"), mode: 0o644 };
    fixture.release.install = Recipe::Files { files: list([file]) };
    assert_eq!(fixture.run(Action::Install), done());
    assert_eq!(fs::read(root.join("usr/upswarm-test-a")).unwrap(), b"new a");
    assert_eq!(fixture.run(Action::Uninstall), done());
    assert!(!root.join("usr/upswarm-test-a").exists());
}

#[test]
fn backups_cross_file_systems() {
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("SKIPPED: no second file system at /dev/shm");
        return;
    };
    let open = |path: &Path| open_dir(path).unwrap();
    let here = tempfile::tempdir().unwrap();
    fs::write(here.path().join("plain"), b"content").unwrap();
    fs::set_permissions(here.path().join("plain"), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("nowhere", here.path().join("link")).unwrap();
    fs::create_dir(here.path().join("dir")).unwrap();
    let copy = |name: &str| duplicate(&open(here.path()), OsStr::new(name), &open(other.path()), OsStr::new(name));
    assert_eq!(copy("plain").unwrap(), Kind::Plain);
    assert_eq!(copy("link").unwrap(), Kind::Link);
    assert_eq!(copy("absent").unwrap(), Kind::Absent);
    assert!(copy("dir").is_err());
    let strip = |dir: &Path| -> Vec<_> {
        let found = super::super::fixture::snapshot(dir);
        found.into_iter().map(|(path, mode, content)| (path.file_name().unwrap().to_owned(), mode, content)).collect()
    };
    assert_eq!(strip(here.path()), strip(other.path()));
}
