//! A real package on its whole way: published, approved, fetched by a node without rights, installed by the privileged installer with
//! the real tools into a root of its own, confirmed, and taken away again.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use upswarm_tests::fleet::text;
use upswarm_tests::{program, wait};

const WITHIN: Duration = Duration::from_secs(90);
/// The user nobody.
const NODE: u32 = 65534;

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_package_reaches_a_machine_whose_network_process_has_no_rights() {
    let tools = ["dpkg-deb", "setpriv"];
    let has = |tool: &&str| Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !rustix::process::geteuid().is_root() || !tools.iter().all(has) {
        assert!(std::env::var_os("CI").is_none(), "this test needs root and {tools:?}, and CI must not skip it");
        eprintln!("SKIPPED: an installer of root's is tested by root only, with {tools:?}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    // The node's user must be able to reach its own files and the program.
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::copy(program::path(), at("upswarm")).unwrap();
    let (admin, node, pin, root, socket) = (at("admin"), at("node"), at("pin"), at("root"), at("installer.sock"));

    verb(&["coordinator", "init", "--demo-keys", "--data-dir", text(&admin)]);
    let listen = "/ip4/127.0.0.1/tcp/0";
    let run = ["coordinator", "run", "--data-dir", text(&admin), "--listen", listen, "--http", "127.0.0.1:0"];
    let _coordinator = start(program::command(&run), &at("coordinator.log"));
    wait::until("the coordinator", WITHIN, || match attempt(&["status", "--data-dir", text(&admin)]) {
        (true, _) => Ok(()),
        (false, said) => Err(said.to_string()),
    });
    let invited = verb(&["coordinator", "invite", "--group", "office", "--site", "here", "--data-dir", text(&admin)]);
    let token = invited["token"].as_str().unwrap().to_owned();
    let join = ["node", "join", &token, "--data-dir", text(&node), "--listen", listen, "--no-mdns", "--label", "pc"];
    verb(&[&join[..], &["--installer-dir", text(&pin), "--owner", "nobody"]].concat());
    for (path, owner, mode) in [(&node, NODE, 0o700), (&node.join("device.key"), NODE, 0o600), (&pin, 0, 0o700)] {
        let found = fs::metadata(path).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o777), (owner, mode), "{}", path.display());
    }
    let config = fs::read_to_string(node.join("node.toml")).unwrap();
    assert!(config.contains("/run/upswarm/installer.sock"), "{config}");
    fs::write(node.join("node.toml"), config.replace("/run/upswarm/installer.sock", text(&socket))).unwrap();

    for place in ["var/lib/dpkg/info", "var/lib/dpkg/updates"] {
        fs::create_dir_all(root.join(place)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), b"").unwrap();
    let mut run = program::command(&["installer", "run", "--data-dir", text(&pin), "--socket", text(&socket)]);
    run.args(["--node-uid", "nobody", "--install-root", text(&root)]);
    let _installer = start(run, &at("installer.log"));
    let mut run = Command::new("setpriv");
    run.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]);
    run.arg(at("upswarm")).args(["node", "run", "--data-dir", text(&node)]);
    let _node = start(run, &at("node.log"));

    let release = publish(&admin, &at("release"));
    let file = root.join("opt/upswarm-test/file");
    approve(&admin, &release, "install");
    wait_for(&admin, &release, "Installed", &at("node.log"));
    assert_eq!(fs::read(&file).unwrap(), b"from the package");
    assert_eq!(fs::metadata(&file).unwrap().uid(), 0, "root has installed it");
    // Only root may read what was printed; the coordinator's order is enough for the installer to tell it.
    let log = ["explain", &release, "--device", "pc", "--log", "--data-dir", text(&admin)];
    let told = wait::until("the log", WITHIN, || {
        let (_, log) = attempt(&log);
        if log["awaited"] == false { Ok(log) } else { Err(log.to_string()) }
    });
    assert!(told["found"] == true && told["text"].as_str().unwrap().contains("upswarm-test-app"), "{told}");
    verb(&["group", "sign", "office", "--list", "--yes", "--data-dir", text(&admin)]);
    approve(&admin, &release, "uninstall");
    wait_for(&admin, &release, "Uninstalled", &at("node.log"));
    assert!(!file.exists());
}

/// Builds and publishes a package; returns the release.
fn publish(admin: &Path, dir: &Path) -> String {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::create_dir_all(tree.join("opt/upswarm-test")).unwrap();
    fs::write(tree.join("opt/upswarm-test/file"), b"from the package").unwrap();
    let control = "Package: upswarm-test-app\nVersion: 1.2-3\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n\
                   Description: a test\n";
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let built = Command::new("dpkg-deb").arg("--build").args([&tree, &dir.join("app.deb")]).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    // Whether it is there is told by a program that only root may run: the node has to ask for that too.
    let check = dir.join("check");
    fs::write(&check, "#!/bin/sh\ntest \"$(id -u)\" = 0 && test -e \"$1\"\n").unwrap();
    fs::set_permissions(&check, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let file = dir.parent().unwrap().join("root/opt/upswarm-test/file");
    let description = format!(
        "product = \"org.example.app\"\nversion = \"1.2\"\ntitle = \"App\"\nclassification = \"update\"\n\
         [[payload]]\npath = \"app.deb\"\n\
         [[detect]]\npackage = {{ kind = \"deb\", name = \"upswarm-test-app\", version = \"1.2-3\" }}\n\
         [[detect]]\ncommand = [\"{}\", \"{}\"]\n\
         [install]\ndeb = true\n[uninstall]\ndeb = [\"upswarm-test-app\"]\n",
        check.display(),
        file.display()
    );
    let path = dir.join("RELEASE.toml");
    fs::write(&path, description).unwrap();
    let published = verb(&["publish", "--data-dir", text(admin), text(&path)]);
    published["release"].as_str().unwrap().to_owned()
}

fn approve(admin: &Path, release: &str, action: &str) {
    verb(&["approve", "--data-dir", text(admin), "--group", "office", "--action", action, release]);
}

fn wait_for(admin: &Path, release: &str, state: &str, log: &Path) {
    wait::until(state, WITHIN, || {
        let (_, status) = attempt(&["status", "--data-dir", text(admin)]);
        let devices = status["devices"].as_array().cloned().unwrap_or_default();
        let mut deployments =
            devices.iter().flat_map(|device| device["deployments"].as_array().cloned().unwrap_or_default());
        let found = deployments.find(|deployment| deployment["release"] == release).unwrap_or_default();
        let log = || fs::read_to_string(log).unwrap_or_default();
        if found["state"] == state { Ok(()) } else { Err(format!("{found}\n{}", log())) }
    });
}

/// Runs a verb, and whether it did what it was asked for.
fn attempt(args: &[&str]) -> (bool, Value) {
    let output = program::command(args).arg("--json").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().last().unwrap_or("null");
    (output.status.success(), serde_json::from_str(last).unwrap_or(Value::Null))
}

#[track_caller]
fn verb(args: &[&str]) -> Value {
    let (done, said) = attempt(args);
    assert!(done, "{args:?}: {said}");
    said
}

fn start(mut command: Command, log: &PathBuf) -> Running {
    let file = fs::File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    Running(command.spawn().unwrap())
}
