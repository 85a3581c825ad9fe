//! Hostile names and layouts, case by case: whatever a release names and whatever lies on the machine, nothing outside the root
//! is touched.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use upswarm_protocol::catalog::{Action, FilePlacement, Recipe};
use upswarm_protocol::codec::Text;
use upswarm_protocol::node::InstallOutcome;

use super::fixture::{Fixture, list, snapshot};
use crate::release_file::ReleaseFile;
use crate::sys::find;

/// Parts of names that mean something to some program on the way.
const ODD: [&str; 40] = [
    "..",
    ".",
    "...",
    "-",
    "--",
    "-i",
    "--root=x",
    "-rf",
    "~",
    "~root",
    "*",
    "?",
    "[a]",
    "{a,b}",
    "$HOME",
    "$(id)",
    "`id`",
    ";id",
    "|id",
    "&id",
    ">x",
    "<x",
    "!x",
    "#x",
    "'",
    "\"",
    "\\",
    "%2e%2e",
    "%{lua:x}",
    "a b",
    " ",
    "@x",
    "=x",
    ",",
    "http:",
    "\u{202e}deb",
    "\u{feff}",
    "\u{2215}etc\u{2215}x",
    "\u{ff0e}\u{ff0e}",
    "e\u{301}",
];

/// Names of one component made of them, of at most 255 bytes with an extension of four.
fn names() -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for odd in ODD {
        names.extend([odd.to_owned(), format!("a{odd}"), format!("{odd}a"), format!("{odd}{odd}"), format!("a{odd}a")]);
    }
    names.extend([String::new(), "x".repeat(251), "é".repeat(125), "\u{1f4a9}".repeat(62)]);
    names.sort();
    names.dedup();
    names
}

/// A directory that must stay as it is, and a root in it.
fn house(fixture: &mut Fixture) -> PathBuf {
    let root = fixture.dir.path().join("target/root");
    fs::create_dir_all(root.join("usr/lib")).unwrap();
    fs::create_dir_all(fixture.target("outside/deep")).unwrap();
    fs::write(fixture.target("outside/deep/file"), b"precious").unwrap();
    fs::write(fixture.target("outside/file"), b"precious").unwrap();
    fixture.root = Some(root.clone());
    root
}

fn outside(fixture: &Fixture) -> Vec<(PathBuf, u32, Vec<u8>)> {
    snapshot(&fixture.target("outside"))
}

fn places(path: &str) -> Option<Recipe> {
    let path = Text::new(path).ok()?;
    Some(Recipe::Files { files: list([FilePlacement { payload: 0, path, mode: 0o644 }]) })
}

/// 400 and more destinations: refused, or a file below the root. Nothing beside the root changes either way.
#[test]
fn destinations_stay_below_the_root() {
    let mut destinations: Vec<String> = names().iter().map(|name| format!("/opt/{name}")).collect();
    destinations.extend(names().iter().map(|name| format!("/{name}/x")));
    for depth in 1..12 {
        let up = "../".repeat(depth);
        destinations.extend([
            format!("/{up}outside/file"),
            format!("/usr/{up}outside/file"),
            format!("{up}outside/file"),
            format!("/{}/x", "d/".repeat(depth * 20)),
        ]);
    }
    destinations
        .extend(["", "/", "//outside/file", "/usr//lib/x", "/usr/lib/", "outside/file", "/usr/lib"].map(str::to_owned));
    assert!(destinations.len() >= 400, "{}", destinations.len());
    let mut fixture = Fixture::new(&[("x", b"bytes")]);
    let root = house(&mut fixture);
    let before = outside(&fixture);
    let (mut placed, mut refused) = (0, 0);
    for path in &destinations {
        let Some(recipe) = places(path) else {
            refused += 1;
            continue;
        };
        fixture.release.install = recipe;
        match fixture.run(Action::Install) {
            InstallOutcome::Done { .. } => {
                assert!(path.starts_with('/') && !path.contains("/../"), "{path:?}");
                assert_eq!(fs::read(root.join(&path[1..])).unwrap(), b"bytes", "{path:?}");
                assert!(matches!(fixture.run(Action::Uninstall), InstallOutcome::Done { .. }), "{path:?}");
                assert!(!root.join(&path[1..]).exists(), "{path:?}");
                placed += 1;
            }
            _ => refused += 1,
        }
        assert_eq!(outside(&fixture), before, "{path:?}");
        let beside: Vec<_> =
            fs::read_dir(fixture.target("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(beside.len(), 2, "{path:?}: {beside:?}");
    }
    assert!(placed > 200 && refused > 50, "{placed} placed, {refused} refused");
}

/// What a machine's links may be like: each with a destination that goes through it.
#[test]
fn links_on_the_way_never_lead_out_of_the_root() {
    let targets = [
        "/outside",
        "../outside",
        "../../outside",
        "../../../../../../../../outside",
        "/../outside",
        "/usr/../../outside",
        "./../outside",
        "outside",
        "/",
        "..",
        "../..",
        ".",
        "",
        "loop",
        "/usr/lib",
        "../usr/lib",
        "usr/lib/../../..",
        "/proc/self/cwd",
        "/proc/1/root",
        "missing",
        "usr/lib/file",
        "//outside",
        "/./../.././outside",
        "hop",
    ];
    let destinations = ["/link/file", "/link/deep/file", "/usr/lib/link/file", "/link/new/deep/file", "/link"];
    let mut cases = 0;
    for target in targets.into_iter().filter(|target| !target.is_empty()) {
        for destination in destinations {
            for absolute in [false, true] {
                let mut fixture = Fixture::new(&[("x", b"bytes")]);
                let root = house(&mut fixture);
                fs::write(root.join("usr/lib/file"), b"inside").unwrap();
                // An absolute link may even name the directory outside by its true path.
                let target = match absolute {
                    true => fixture.target("").join(target.trim_start_matches('/')).display().to_string(),
                    false => target.to_owned(),
                };
                for place in ["link", "usr/lib/link"] {
                    symlink(&target, root.join(place)).unwrap();
                }
                symlink("loop", root.join("loop")).unwrap();
                symlink("../outside", root.join("hop")).unwrap();
                let before = outside(&fixture);
                fixture.release.install = places(destination).unwrap();
                let outcome = fixture.run(Action::Install);
                assert_eq!(outside(&fixture), before, "{target:?} {destination} {outcome:?}");
                let beside = fs::read_dir(fixture.target("")).unwrap().count();
                assert_eq!(beside, 2, "{target:?} {destination} {outcome:?}");
                fixture.run(Action::Uninstall);
                assert_eq!(outside(&fixture), before, "{target:?} {destination}");
                cases += 1;
            }
        }
    }
    assert!(cases >= 200, "{cases}");
}

/// RELEASE.toml: a payload's name is a plain file name, or the file is refused before anything is read.
#[test]
fn release_files_take_plain_names_only() {
    let quoted = |name: &str| toml::Value::String(name.to_owned()).to_string();
    let file = |name: &str, install: &str| {
        format!(
            "product = \"org.example.x\"\nversion = \"1\"\ntitle = \"X\"\nclassification = \"update\"\n[[payload]]\npath = \"x\"\n\
             name = {}\n[[detect]]\nfile = \"/x\"\nexists = true\n[install]\n{install}\n",
            quoted(name)
        )
    };
    let mut all = names();
    for odd in ODD {
        all.extend([
            format!("/{odd}"),
            format!("{odd}/x"),
            format!("../{odd}"),
            format!("a/../{odd}"),
            format!("{odd}\0"),
        ]);
    }
    assert!(all.len() >= 300, "{}", all.len());
    let mut taken = 0;
    for name in &all {
        let plain =
            !matches!(&**name, "" | "." | "..") && !name.contains(['/', '\\', ':']) && !name.contains(char::is_control);
        let parsed = ReleaseFile::parse(&file(name, "exec = [\"{payload}\"]"));
        assert_eq!(parsed.is_ok(), plain, "{name:?}: {parsed:?}");
        taken += usize::from(plain);
        // Package managers are given tamer ones.
        for (recipe, extension) in [("deb = true", ".deb"), ("rpm = true", ".rpm")] {
            let name = format!("{name}{extension}");
            if ReleaseFile::parse(&file(&name, recipe)).is_ok() {
                let tame = |c: char| c.is_ascii_alphanumeric() || "+._-~^%=@".contains(c);
                assert!(name.chars().all(tame) && name.starts_with(|c: char| c.is_ascii_alphanumeric()), "{name:?}");
            }
        }
        let placed =
            format!("files = [{{ payload = {}, path = {} }}]", quoted("x"), quoted(&format!("/opt/{name}/../x")));
        assert!(ReleaseFile::parse(&file("x", &placed)).is_err(), "{name:?}");
    }
    assert!(taken > 100, "{taken}");
    for good in ["foo_1%3a2.0-1~bpo+1_amd64.deb", "x.deb", "7zip.deb"] {
        assert!(ReleaseFile::parse(&file(good, "deb = true")).is_ok(), "{good}");
    }
}

/// A real package under every one of those names: it is installed below the root, or refused by its name before dpkg and rpm
/// see it.
#[test]
fn package_managers_see_no_name_that_they_could_misread() {
    let ready =
        ["dpkg-deb", "rpmbuild"].iter().all(|tool| find(tool).is_some()) && rustix::process::geteuid().is_root();
    if !ready {
        eprintln!("SKIPPED: this needs root, dpkg-deb and rpmbuild");
        return;
    }
    let build = tempfile::tempdir().unwrap();
    for (extension, package) in [(".deb", deb(build.path())), (".rpm", rpm(build.path()))] {
        let (mut installed, mut refused) = (0, 0);
        for name in names() {
            let name = format!("{name}{extension}");
            let mut fixture = Fixture::new(&[(&name, &package)]);
            let root = house(&mut fixture);
            for place in ["var/lib/dpkg/info", "var/lib/dpkg/updates"] {
                fs::create_dir_all(root.join(place)).unwrap();
            }
            fs::write(root.join("var/lib/dpkg/status"), b"").unwrap();
            let before = outside(&fixture);
            fixture.release.install =
                if extension == ".deb" { Recipe::Deb { timeout_s: 60 } } else { Recipe::Rpm { timeout_s: 60 } };
            match fixture.run(Action::Install) {
                InstallOutcome::Done { .. } => installed += 1,
                InstallOutcome::Failed { code: None, reason } if reason.contains("files are") => refused += 1,
                other => panic!("{name:?}: {other:?}"),
            }
            assert_eq!(
                root.join("opt/upswarm-test/file").exists(),
                super::is_package_file(&name, extension),
                "{name:?}"
            );
            assert_eq!(outside(&fixture), before, "{name:?}");
            let beside = fs::read_dir(fixture.target("")).unwrap().count();
            assert_eq!(beside, 2, "{name:?}");
        }
        assert!(installed >= 10 && refused >= 100, "{extension}: {installed} installed, {refused} refused");
    }
    // rpm would take any other text for a list of packages to install.
    let list_of_others = format!("{}\n", build.path().join("app.rpm").display());
    let mut fixture = Fixture::new(&[("x.rpm", list_of_others.as_bytes())]).install(Recipe::Rpm { timeout_s: 60 });
    let root = house(&mut fixture);
    let outcome = fixture.run(Action::Install);
    assert!(super::fixture::reason(&outcome).contains("no RPM package"), "{outcome:?}");
    assert!(!root.join("opt").exists());
}

fn deb(dir: &Path) -> Vec<u8> {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::create_dir_all(tree.join("opt/upswarm-test")).unwrap();
    fs::write(tree.join("opt/upswarm-test/file"), b"x").unwrap();
    let control =
        "Package: upswarm-test\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: a test\n";
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let package = dir.join("app.deb");
    let built = Command::new("dpkg-deb").arg("--build").args([&tree, &package]).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    fs::read(package).unwrap()
}

fn rpm(dir: &Path) -> Vec<u8> {
    let spec = "Name: upswarm-test\nVersion: 1\nRelease: 1\nSummary: a test\nLicense: none\nBuildArch: noarch\n%description\nA test.\n\
                %install\nmkdir -p %{buildroot}/opt/upswarm-test\nprintf x > %{buildroot}/opt/upswarm-test/file\n\
                %files\n/opt/upswarm-test/file\n";
    let path = dir.join("app.spec");
    fs::write(&path, spec).unwrap();
    let top = format!("_topdir {}", dir.join("build").display());
    let built = Command::new("rpmbuild").args(["-bb", "--define", &top]).arg(&path).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    let package = dir.join("app.rpm");
    fs::rename(dir.join("build/RPMS/noarch/upswarm-test-1-1.noarch.rpm"), &package).unwrap();
    fs::read(package).unwrap()
}
