//! What an apt recipe comes to: a repository that is made and signed here, a real apt, a root of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use upswarm_protocol::catalog::Action;
use upswarm_protocol::node::{InstallOutcome, Obstacle};

use super::super::fixture::{Fixture, list, reason, text};
use super::super::outcomes::{DONE, hindered, put_shell_into};
use super::*;
use upswarm_protocol::catalog::{AptIndex, WhenAbsent};

/// The date that upstream signs, 2025-11-01, in milliseconds.
const DATE: u64 = 1_761_955_200_000;

/// A machine, an upstream, and packages of it.
struct World {
    dir: tempfile::TempDir,
    packages: Vec<Built>,
}

/// A package of the upstream.
#[derive(Clone)]
struct Built {
    name: String,
    version: String,
    arch: String,
    file: PathBuf,
}

/// What is done to the payloads of a release before it is installed.
type Change = fn(&str, Vec<u8>) -> Vec<u8>;

fn as_is(_: &str, bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl World {
    /// `None` where this cannot be tried.
    fn new() -> Option<Self> {
        let tools = ["dpkg-deb", "apt-get", "gpg"];
        let missing: Vec<&str> = tools.into_iter().filter(|tool| find(tool).is_none()).collect();
        if !missing.is_empty() || !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: this needs root, dpkg, apt and gpg");
            return None;
        }
        let world = Self { dir: tempfile::tempdir().unwrap(), packages: Vec::new() };
        for dir in ["root/var/lib/dpkg/info", "root/var/lib/dpkg/updates", "root/bin", "pool"] {
            fs::create_dir_all(world.dir.path().join(dir)).unwrap();
        }
        fs::write(world.root().join("var/lib/dpkg/status"), b"").unwrap();
        put_shell_into(&world.root());
        for who in ["upstream", "stranger"] {
            let home = world.key(who);
            fs::create_dir(&home).unwrap();
            fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
            let words = ["--passphrase", "", "--quick-gen-key", who, "ed25519", "sign", "never"];
            run(world.gpg(who).args(words));
        }
        Some(world)
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn key(&self, who: &str) -> PathBuf {
        self.dir.path().join(format!("gpg-{who}"))
    }

    fn gpg(&self, who: &str) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.env("GNUPGHOME", self.key(who)).args(["--batch", "--quiet", "--yes"]);
        gpg
    }

    fn certificate(&self, who: &str) -> String {
        run(self.gpg(who).args(["--armor", "--export"]))
    }

    /// A package that upstream has; `fields` are further lines of its control file, `after` its postinst.
    fn offer(&mut self, name: &str, version: &str, arch: &str, fields: &str, after: &str) -> PathBuf {
        let tree = tempfile::tempdir().unwrap();
        let control = tree.path().join("DEBIAN");
        fs::create_dir_all(&control).unwrap();
        let mode = || std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(tree.path(), mode()).unwrap();
        let fields = if fields.is_empty() { String::new() } else { format!("{fields}\n") };
        let about = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: {arch}\nMaintainer: n <n@example.org>\n{fields}Description: t\n"
        );
        fs::write(control.join("control"), about).unwrap();
        if !after.is_empty() {
            fs::write(control.join("postinst"), format!("#!/bin/sh\n{after}\n")).unwrap();
            fs::set_permissions(control.join("postinst"), mode()).unwrap();
        }
        let file = self.dir.path().join(format!("pool/{name}_{}_{arch}.deb", version.replace(':', "%3a")));
        run(Command::new("dpkg-deb").arg("--build").args([tree.path(), &file]));
        let (name, version, arch) = (name.to_owned(), version.to_owned(), arch.to_owned());
        self.packages.push(Built { name, version, arch, file: file.clone() });
        file
    }

    /// As an admin of the machine would, without this program.
    fn dpkg(&self, args: &[&str], package: Option<&Path>) -> Command {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", self.root().display())).args(args).args(package).stdout(Stdio::null());
        command
    }

    /// Has the machine begin with a package.
    fn has(&self, package: &Path) {
        run(&mut self.dpkg(&["--install"], Some(package)));
    }

    /// Has the machine begin with a package that upstream has.
    fn begins_with(&mut self, name: &str, version: &str, arch: &str, fields: &str, after: &str) {
        let package = self.offer(name, version, arch, fields, after);
        self.has(&package);
    }

    /// Upstream's index of everything that it offers.
    fn index(&self) -> Vec<u8> {
        let mut index = String::new();
        for package in &self.packages {
            let bytes = fs::read(&package.file).unwrap();
            index += run(Command::new("dpkg-deb").arg("-f").arg(&package.file)).as_str();
            let file = package.file.file_name().unwrap().to_str().unwrap();
            index += &format!(
                "Filename: pool/main/{}/{file}\nSize: {}\nSHA256: {}\n\n",
                package.name,
                bytes.len(),
                hex::encode(Sha256::digest(&bytes))
            );
        }
        index.into_bytes()
    }

    /// Upstream's signed description of an index. It is long past its time: freshness is none of apt's business here.
    fn in_release(&self, index: &[u8], signer: &str) -> Vec<u8> {
        let hash = hex::encode(Sha256::digest(index));
        let release = format!(
            "Origin: Test\nSuite: stable\nCodename: stable\nDate: Sat, 01 Nov 2025 00:00:00 +0000\n\
             Valid-Until: Sat, 08 Nov 2025 00:00:00 +0000\nAcquire-By-Hash: yes\nArchitectures: amd64 i386\nComponents: main\n\
             SHA256:\n {hash} {} main/binary-amd64/Packages\n",
            index.len()
        );
        let file = self.dir.path().join("Release");
        fs::write(&file, release).unwrap();
        let signed = self.dir.path().join("InRelease");
        run(self.gpg(signer).arg("--clearsign").arg("-o").args([&signed, &file]));
        fs::read(signed).unwrap()
    }

    /// A release with these packages of what is offered: `(name, version, when absent)`. `change` is what became of
    /// the payloads before they were released.
    fn release(&self, selected: &[(&str, &str, WhenAbsent)], change: Change, signer: &str) -> (Fixture, AptRecipe) {
        let index = self.index();
        let description = serde_json::json!({
            "name": "test", "suite": "stable", "components": ["main"], "architectures": ["amd64"], "packages": ["demo-*"],
            "certificates": [self.certificate("upstream")],
        });
        let in_release = self.in_release(&index, signer);
        let mut payloads = vec![
            ("upstream.json".to_owned(), description.to_string().into_bytes()),
            ("InRelease".to_owned(), in_release),
            ("main_binary-amd64_Packages".to_owned(), index),
        ];
        let mut packages = Vec::new();
        for (name, version, when_absent) in selected {
            let package = self.packages.iter().find(|of| of.name == *name && of.version == *version).unwrap();
            packages.push(AptPackage {
                payload: payloads.len() as u16,
                name: text(name),
                version: text(version),
                arch: text(&package.arch),
                source: text(name),
                when_absent: when_absent.clone(),
            });
            let file = package.file.file_name().unwrap().to_str().unwrap().to_owned();
            payloads.push((file, fs::read(&package.file).unwrap()));
        }
        let payloads: Vec<(String, Vec<u8>)> =
            payloads.into_iter().map(|(name, bytes)| (name.clone(), change(&name, bytes))).collect();
        let borrowed: Vec<(&str, &[u8])> = payloads.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
        let mut fixture = Fixture::new(&borrowed);
        fixture.root = Some(self.root());
        fixture.release.counter = DATE + 1;
        let recipe = AptRecipe {
            upstream: 0,
            in_release: 1,
            indexes: list([AptIndex { payload: 2, path: text("main/binary-amd64/Packages") }]),
            packages: list(packages),
            back: false,
            timeout_s: 60,
        };
        (fixture, recipe)
    }

    /// Installs a selection of what is offered.
    fn install(&self, selected: &[(&str, &str, WhenAbsent)]) -> InstallOutcome {
        let (fixture, recipe) = self.release(selected, as_is, "upstream");
        carry_out(&fixture, &recipe)
    }

    fn says(&self, name: &str) -> String {
        let database = format!("--admindir={}", self.root().join("var/lib/dpkg").display());
        let mut asked = Command::new("dpkg-query");
        asked.args([&database, "-W", "-f", "${db:Status-Status} ${Version}", name]);
        String::from_utf8(asked.output().unwrap().stdout).unwrap()
    }
}

fn carry_out(fixture: &Fixture, recipe: &AptRecipe) -> InstallOutcome {
    fixture.with_job(Action::Install, |job| {
        let outcome = install(job, recipe).unwrap_or_else(InstallOutcome::from);
        let left = fs::read_dir(job.state_dir.join("private")).map_or(0, |entries| entries.count());
        assert_eq!(left, 0, "nothing of a job stays behind");
        outcome
    })
}

use WhenAbsent::{Always, Never};

fn with(positions: &[u16]) -> WhenAbsent {
    WhenAbsent::With(list(positions.iter().copied()))
}

#[test]
fn exactly_the_selection_comes_and_what_is_newer_or_not_here_does_not() {
    let Some(mut world) = World::new() else { return };
    let old = world.offer("demo-app", "1:1.0", "amd64", "", "");
    let doc = world.offer("demo-doc", "1.0", "all", "", "");
    let other = world.offer("demo-other", "1.0", "amd64", "", "");
    for package in [&old, &doc, &other] {
        world.has(package);
    }
    world.offer("demo-app", "1:2.0", "amd64", "Depends: demo-lib (>= 2)", "");
    world.offer("demo-app", "1:3.0", "amd64", "", "");
    world.offer("demo-doc", "2.0", "all", "", "");
    world.offer("demo-lib", "2.0", "amd64", "", "");
    world.offer("demo-other", "2.0", "amd64", "", "");
    world.offer("demo-game", "2.0", "amd64", "", "");
    let selection = [
        ("demo-app", "1:2.0", Never),
        ("demo-doc", "2.0", Never),
        ("demo-lib", "2.0", with(&[0])),
        ("demo-game", "2.0", Never),
    ];
    let (fixture, recipe) = world.release(&selection, as_is, "upstream");
    assert_eq!(detect(&recipe, Some(&world.root())), Detection::Absent);
    assert_eq!(carry_out(&fixture, &recipe), DONE);
    assert_eq!(world.says("demo-app"), "installed 1:2.0");
    assert_eq!(world.says("demo-doc"), "installed 2.0");
    assert_eq!(world.says("demo-lib"), "installed 2.0", "a new dependency comes along");
    assert_eq!(world.says("demo-other"), "installed 1.0", "what is not selected stays");
    assert_eq!(world.says("demo-game"), "", "what is not here does not come");
    assert_eq!(detect(&recipe, Some(&world.root())), Detection::Present);
    assert_eq!(carry_out(&fixture, &recipe), InstallOutcome::Done { restart: false, code: None });

    assert_eq!(world.install(&[("demo-game", "2.0", Always)]), DONE);
    assert_eq!(world.says("demo-game"), "installed 2.0");
}

#[test]
fn a_package_that_is_not_in_the_store_is_waited_for_if_it_is_needed_here_and_not_else() {
    let Some(mut world) = World::new() else { return };
    world.begins_with("demo-app", "1.0", "amd64", "", "");
    world.offer("demo-app", "2.0", "amd64", "", "");
    world.offer("demo-game", "2.0", "amd64", "", "");
    let (fixture, recipe) =
        world.release(&[("demo-app", "2.0", Never), ("demo-game", "2.0", Never)], as_is, "upstream");
    let lacking = |missing: usize| {
        fixture.with_job(Action::Install, |job| {
            let mut payloads: Vec<Source> = (0..5).map(|at| Source::Path(fixture.stored(at))).collect();
            payloads[missing] = Source::Missing;
            let (id, release, action, state_dir, root) = (job.id, job.release, job.action, job.state_dir, job.root);
            let said = job.said;
            let job =
                Job { id, release, action, downgrade: false, said, payloads, state_dir, root, cancel: job.cancel };
            install(&job, &recipe).unwrap_or_else(InstallOutcome::from)
        })
    };
    let outcome = lacking(3);
    assert!(matches!(&outcome, InstallOutcome::Retry { .. }), "{outcome:?}");
    assert_eq!(reason(&outcome), "demo-app_2.0_amd64.deb is needed here and not in the store yet");
    assert_eq!(lacking(4), DONE);
}

#[test]
fn what_upstream_did_not_sign_is_refused_with_what_apt_says() {
    let Some(mut world) = World::new() else { return };
    world.begins_with("demo-app", "1.0", "amd64", "", "");
    world.offer("demo-app", "2.0", "amd64", "", "");
    let selection = [("demo-app", "2.0", Never)];
    let refused = |change: Change, signer: &str, says: &str| {
        let (fixture, recipe) = world.release(&selection, change, signer);
        let outcome = carry_out(&fixture, &recipe);
        assert!(matches!(outcome, InstallOutcome::Failed { .. }), "{outcome:?}");
        assert!(reason(&outcome).contains(says), "{outcome:?} does not say {says}");
        assert_eq!(world.says("demo-app"), "installed 1.0");
    };
    refused(as_is, "stranger", "NO_PUBKEY");
    let tampered: Change = |name, bytes| match name {
        "InRelease" => String::from_utf8(bytes).unwrap().replace("Origin: Test", "Origin: Tost").into_bytes(),
        _ => bytes,
    };
    refused(tampered, "upstream", "BADSIG");
    let unsigned: Change = |name, bytes| match name {
        "InRelease" => {
            let text = String::from_utf8(bytes).unwrap();
            let body = text.split("\n\n").nth(1).unwrap().split("-----BEGIN").next().unwrap();
            body.as_bytes().to_vec()
        }
        _ => bytes,
    };
    refused(unsigned, "upstream", "not accept the repository test: ");
    let index: Change = |name, bytes| match name {
        "main_binary-amd64_Packages" => {
            String::from_utf8(bytes).unwrap().replace("Description: t", "Description: u").into_bytes()
        }
        _ => bytes,
    };
    refused(index, "upstream", "Hash Sum mismatch");
    let package: Change = |name, mut bytes| {
        if name.ends_with(".deb") {
            *bytes.last_mut().unwrap() ^= 1;
        }
        bytes
    };
    refused(package, "upstream", "Hash Sum mismatch");
    let pattern: Change = |name, bytes| match name {
        "upstream.json" => String::from_utf8(bytes).unwrap().replace("demo-*", "demo-x*").into_bytes(),
        _ => bytes,
    };
    refused(pattern, "upstream", "test may not supply demo-app");
    assert_eq!(world.install(&selection), DONE);
}

#[test]
fn a_payload_that_is_not_the_one_of_the_release_never_reaches_apt() {
    let Some(mut world) = World::new() else { return };
    world.begins_with("demo-app", "1.0", "amd64", "", "");
    world.offer("demo-app", "2.0", "amd64", "", "echo owned > /owned");
    let (fixture, recipe) = world.release(&[("demo-app", "2.0", Never)], as_is, "upstream");
    for at in 0..4 {
        let good = fs::read(fixture.stored(at)).unwrap();
        let mut bad = good.clone();
        bad[0] ^= 1;
        fs::write(fixture.stored(at), &bad).unwrap();
        let outcome = carry_out(&fixture, &recipe);
        assert!(matches!(outcome, InstallOutcome::Retry { .. }), "{at} {outcome:?}");
        fs::write(fixture.stored(at), good).unwrap();
    }
    assert_eq!(world.says("demo-app"), "installed 1.0");
    assert_eq!(carry_out(&fixture, &recipe), DONE);
}

#[test]
fn no_package_is_removed_and_none_comes_that_was_not_selected() {
    let Some(mut world) = World::new() else { return };
    world.begins_with("demo-lib", "1.0", "amd64", "", "");
    world.begins_with("demo-dev", "1.0", "amd64", "Depends: demo-lib (= 1.0)", "");
    world.offer("demo-lib", "2.0", "amd64", "", "");
    world.offer("demo-dev", "2.0", "amd64", "Depends: demo-lib (= 2.0)", "");
    let outcome = world.install(&[("demo-lib", "2.0", Never)]);
    assert_eq!(hindered(&outcome), Obstacle::Dependency, "{outcome:?}");
    assert!(reason(&outcome).contains("demo-dev"), "{outcome:?}");
    assert!(reason(&outcome).contains("nothing was changed"), "{outcome:?}");
    assert_eq!((world.says("demo-lib"), world.says("demo-dev")), ("installed 1.0".into(), "installed 1.0".into()));

    world.begins_with("demo-app", "1.0", "amd64", "", "");
    world.offer("demo-app", "2.0", "amd64", "Depends: demo-extra", "");
    world.offer("demo-extra", "2.0", "amd64", "", "");
    let outcome = world.install(&[("demo-app", "2.0", Never)]);
    assert_eq!(hindered(&outcome), Obstacle::Dependency, "{outcome:?}");
    assert!(reason(&outcome).contains("demo-extra"), "{outcome:?}");
    assert_eq!(world.says("demo-extra"), "");

    assert_eq!(world.install(&[("demo-lib", "2.0", Never), ("demo-dev", "2.0", Never)]), DONE);
    assert_eq!((world.says("demo-lib"), world.says("demo-dev")), ("installed 2.0".into(), "installed 2.0".into()));
}

#[test]
fn a_held_package_waits_and_keeps_the_others_waiting() {
    let Some(mut world) = World::new() else { return };
    world.begins_with("demo-app", "1.0", "amd64", "", "");
    world.offer("demo-app", "2.0", "amd64", "", "");
    let select = |what: &str| {
        let list = world.dir.path().join("selections");
        fs::write(&list, format!("demo-app {what}\n")).unwrap();
        run(world.dpkg(&["--set-selections"], None).stdin(fs::File::open(&list).unwrap()));
    };
    select("hold");
    let outcome = world.install(&[("demo-app", "2.0", Never)]);
    assert_eq!(hindered(&outcome), Obstacle::Held);
    assert_eq!(reason(&outcome), "demo-app is held on this machine by its package manager (apt-mark hold)");
    assert_eq!(world.says("demo-app"), "installed 1.0");
    select("install");
    assert_eq!(world.install(&[("demo-app", "2.0", Never)]), DONE);
}

#[test]
fn a_lock_is_told_with_its_holder_before_anything_is_begun() {
    let Some(mut world) = World::new() else { return };
    world.begins_with("demo-app", "1.0", "amd64", "", "");
    world.offer("demo-app", "2.0", "amd64", "", "");
    run(Command::new("mkfifo").arg(world.root().join("pipe")));
    let slow = world.offer("demo-slow", "1", "amd64", "", ": > /started; read word < /pipe");
    let mut holder = world.dpkg(&["--install"], Some(&slow)).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !world.root().join("started").exists() {
        assert!(Instant::now() < deadline, "the other dpkg never came to its script");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (fixture, recipe) = world.release(&[("demo-app", "2.0", Never)], as_is, "upstream");
    let outcome = fixture.with_job(Action::Install, |job| install(job, &recipe).unwrap_or_else(InstallOutcome::from));
    fs::write(world.root().join("pipe"), b"go on\n").unwrap();
    assert!(holder.wait().unwrap().success());
    assert_eq!(hindered(&outcome), Obstacle::Locked);
    assert_eq!(reason(&outcome), format!("the package manager is locked by dpkg (pid {})", holder.id()));
    assert!(!fixture.state().exists(), "nothing was begun");
    assert_eq!(carry_out(&fixture, &recipe), DONE);
}

#[test]
fn a_script_that_fails_is_told_with_its_words_and_the_rest_is_done() {
    let Some(mut world) = World::new() else { return };
    for name in ["demo-app", "demo-bad"] {
        world.begins_with(name, "1.0", "amd64", "", "");
    }
    world.offer("demo-app", "2.0", "amd64", "", "");
    world.offer("demo-bad", "2.0", "amd64", "", "[ -e /repaired ] || { echo 'demo-bad: no licence' >&2; exit 1; }");
    let selection = [("demo-app", "2.0", Never), ("demo-bad", "2.0", Never)];
    let outcome = world.install(&selection);
    assert!(matches!(outcome, InstallOutcome::Failed { code: Some(100), .. }), "{outcome:?}");
    for told in ["demo-bad: no licence", "demo-bad is left half installed", "1 of 2 packages are done"] {
        assert!(reason(&outcome).contains(told), "{outcome:?} does not tell {told}");
    }
    assert_eq!(
        (world.says("demo-app"), world.says("demo-bad")),
        ("installed 2.0".into(), "half-configured 2.0".into())
    );
    let (_, recipe) = world.release(&selection, as_is, "upstream");
    assert_eq!(detect(&recipe, Some(&world.root())), Detection::Absent, "a half installed package is not installed");
    // What was left is finished when its cause is gone, before apt is asked for anything.
    fs::write(world.root().join("repaired"), b"").unwrap();
    assert!(matches!(world.install(&selection), InstallOutcome::Done { .. }));
    assert_eq!(world.says("demo-bad"), "installed 2.0");
}

#[test]
fn a_package_of_another_architecture_is_left_alone() {
    let Some(mut world) = World::new() else { return };
    run(&mut world.dpkg(&["--add-architecture", "i386"], None));
    world.begins_with("demo-app", "1.0", "i386", "", "");
    world.begins_with("demo-own", "1.0", "amd64", "", "");
    world.packages.retain(|package| package.arch != "i386");
    world.offer("demo-app", "2.0", "amd64", "", "");
    world.offer("demo-own", "2.0", "amd64", "", "");
    assert_eq!(world.install(&[("demo-app", "2.0", Never), ("demo-own", "2.0", Never)]), DONE);
    assert_eq!(world.says("demo-app:i386"), "installed 1.0");
    assert_eq!(world.says("demo-own"), "installed 2.0");
}

#[test]
fn texts_that_mean_something_to_apt_are_refused_before_it_is_asked() {
    let Some(mut world) = World::new() else { return };
    world.begins_with("demo-app", "1.0", "amd64", "", "");
    world.offer("demo-app", "2.0", "amd64", "", "");
    let (fixture, good) = world.release(&[("demo-app", "2.0", Never)], as_is, "upstream");
    let refused = |change: &dyn Fn(&mut AptRecipe), says: &str| {
        let mut recipe = good.clone();
        change(&mut recipe);
        let outcome = carry_out(&fixture, &recipe);
        assert!(matches!(outcome, InstallOutcome::Failed { .. }), "{outcome:?}");
        assert!(reason(&outcome).contains(says), "{outcome:?} does not say {says}");
    };
    let package = |recipe: &mut AptRecipe, change: &dyn Fn(&mut AptPackage)| {
        let mut packages = recipe.packages.to_vec();
        change(&mut packages[0]);
        recipe.packages = list(packages);
    };
    for name in ["-oX=y", "demo*", "demo-app:i386", "../x", "a b", ""] {
        refused(&|recipe| package(recipe, &|p| p.name = text(name)), "no name of a Debian package");
    }
    for version in ["2.0 ", "*", "$(id)", ""] {
        refused(&|recipe| package(recipe, &|p| p.version = text(version)), "no version of a Debian package");
    }
    for arch in ["amd64,i386", "../x", "", "*"] {
        refused(&|recipe| package(recipe, &|p| p.arch = text(arch)), "no architecture");
    }
    for path in
        ["../../etc/binary-amd64/Packages", "contrib/binary-amd64/Packages", "main/binary-arm64/Packages", "InRelease"]
    {
        let index = || list([AptIndex { payload: 2, path: text(path) }]);
        refused(&|recipe| recipe.indexes = index(), "no index of the upstream");
    }
    assert_eq!(carry_out(&fixture, &good), DONE);
}

#[test]
fn a_release_that_is_dated_otherwise_than_upstream_signed_installs_nothing() {
    let Some(mut world) = World::new() else { return };
    world.begins_with("demo-app", "1.0", "amd64", "", "");
    world.offer("demo-app", "2.0", "amd64", "", "");
    let (mut fixture, recipe) = world.release(&[("demo-app", "2.0", Never)], as_is, "upstream");
    for counter in [1, DATE - 1, DATE + 10_000, u64::MAX] {
        fixture.release.counter = counter;
        let outcome = carry_out(&fixture, &recipe);
        assert!(reason(&outcome).contains("upstream signed this state at 2025-11-01"), "{counter}: {outcome:?}");
        assert_eq!(world.says("demo-app"), "installed 1.0");
    }
    fixture.release.counter = DATE + 9_999;
    assert_eq!(carry_out(&fixture, &recipe), DONE);
    assert_eq!(world.says("demo-app"), "installed 2.0");
}

#[test]
fn a_machine_goes_back_where_an_approver_said_so_and_forward_again() {
    let Some(mut world) = World::new() else { return };
    world.begins_with("demo-app", "1.0", "amd64", "", "");
    world.begins_with("demo-doc", "1.0", "all", "", "");
    world.offer("demo-app", "2.0", "amd64", "", "");
    world.offer("demo-doc", "2.0", "all", "", "");
    // Its script refuses: going back is not always possible.
    world.begins_with("demo-stiff", "2.0", "amd64", "", "");
    world.offer(
        "demo-stiff",
        "1.0",
        "amd64",
        "",
        "test \"$2\" != 2.0 || { echo cannot go back from 2.0 >&2; exit 1; }",
    );
    let said = |version: &str, (at, release_back, approval_back): (u64, bool, bool)| {
        let (mut fixture, mut recipe) =
            world.release(&[("demo-app", version, Never), ("demo-doc", version, Never)], as_is, "upstream");
        fixture.release.counter = DATE + if release_back { 1 } else { 2 };
        (fixture.said, fixture.downgrade, recipe.back) = (Wall(at), approval_back, release_back);
        (fixture, recipe)
    };
    let carry = |(fixture, recipe): &(Fixture, AptRecipe)| -> InstallOutcome {
        // One machine: what it has noted stays.
        fixture.with_job(Action::Install, |job| {
            let state_dir = &world.dir.path().join("state");
            let payloads = (0..job.release.payloads.len()).map(|at| Source::Path(fixture.stored(at))).collect();
            let job = Job { payloads, state_dir, release: job.release, ..*job };
            install(&job, recipe).unwrap_or_else(InstallOutcome::from)
        })
    };
    let versions = || ["demo-app", "demo-doc"].map(|name| world.says(name)).join(" ");
    let two = said("2.0", (10, false, false));
    assert_eq!(carry(&two), DONE);
    assert_eq!(versions(), "installed 2.0 installed 2.0");

    // Not without the approval's word, not by the approval's alone, and not by a word from before.
    for (how, why) in [
        ((20, true, false), "do not both say"),
        ((20, false, true), "do not both say"),
        ((9, true, true), "approve it anew"),
    ] {
        let outcome = carry(&said("1.0", how));
        if how.1 {
            assert!(reason(&outcome).contains(why), "{how:?}: {outcome:?}");
        }
        assert_eq!(versions(), "installed 2.0 installed 2.0");
    }
    let back = said("1.0", (20, true, true));
    assert_eq!(detect(&back.1, Some(&world.root())), Detection::Absent);
    assert_eq!(carry(&back), DONE);
    assert_eq!(versions(), "installed 1.0 installed 1.0");
    assert_eq!(detect(&back.1, Some(&world.root())), Detection::Present);

    // Whoever leaves the word out of the catalog does not bring the bad version back.
    assert!(reason(&carry(&two)).contains("takes machines back"), "{:?}", carry(&two));
    assert_eq!(versions(), "installed 1.0 installed 1.0");
    assert_eq!(carry(&said("2.0", (30, false, false))), DONE);
    assert_eq!(versions(), "installed 2.0 installed 2.0");

    let (mut fixture, mut recipe) = world.release(&[("demo-stiff", "1.0", Never)], as_is, "upstream");
    (fixture.said, fixture.downgrade, recipe.back) = (Wall(40), true, true);
    let stiff = carry(&(fixture, recipe));
    assert!(reason(&stiff).contains("demo-stiff"), "{stiff:?}");
}
