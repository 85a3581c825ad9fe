//! A machine on battery, whose person puts an install off, and which an install wants restarted: real processes on loopback, a
//! power supply that the test plays, and a root of its own in which a restart is only written down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use upswarm_tests::fleet::text;
use upswarm_tests::{program, wait};

const WITHIN: Duration = Duration::from_secs(60);

const RELEASE: &str = r#"
product = "org.example.driver"
version = "4"
title = "Driver 4"
classification = "driver"
restart = "if-required"
[[payload]]
path = "driver.bin"
[[detect]]
file = "/opt/driver"
exists = true
[install]
exec = ["/bin/sh", "-c", "mkdir -p \"$UPSWARM_ROOT/opt\" && touch \"$UPSWARM_ROOT/opt/driver\" && exit 94"]
exit_codes = { 94 = "restart-required" }
"#;

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_machine_on_battery_waits_its_person_puts_it_off_and_a_restart_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (admin, node, root) = (at("admin"), at("node"), at("root"));
    verb(&["coordinator", "init", "--demo-keys", "--data-dir", text(&admin)]);
    let listen = "/ip4/127.0.0.1/tcp/0";
    let run = ["coordinator", "run", "--data-dir", text(&admin), "--listen", listen, "--http", "127.0.0.1:0"];
    let _coordinator = start(program::command(&run), &at("coordinator.log"));
    wait::until("the coordinator", WITHIN, || match attempt(&["status", "--data-dir", text(&admin)]) {
        (Some(0), _) => Ok(()),
        (_, said) => Err(said.to_string()),
    });
    let invited = verb(&["coordinator", "invite", "--group", "office", "--site", "here", "--data-dir", text(&admin)]);
    let token = invited["token"].as_str().unwrap().to_owned();
    verb(&["node", "join", &token, "--data-dir", text(&node), "--listen", listen, "--no-mdns", "--label", "laptop"]);
    let config = fs::read_to_string(node.join("node.toml")).unwrap();
    assert!(config.contains("wan_weight = \"auto\"") && config.contains("notice_s = 900"), "{config}");
    let config = config.replace("notice_s = 900", "notice_s = 2");
    fs::write(node.join("node.toml"), format!("install_root = {root:?}\n{config}")).unwrap();
    let battery = root.join("sys/class/power_supply/BAT0");
    fs::create_dir_all(&battery).unwrap();
    let supply = |file: &str, value: &str| fs::write(battery.join(file), value).unwrap();
    for (file, value) in [("type", "Battery"), ("status", "Discharging"), ("capacity", "12")] {
        supply(file, value);
    }
    let process = start(program::command(&["node", "run", "--data-dir", text(&node)]), &at("node.log"));

    fs::write(at("driver.bin"), b"bytes").unwrap();
    fs::write(at("release.toml"), RELEASE).unwrap();
    let published = verb(&["publish", "--data-dir", text(&admin), text(&at("release.toml"))]);
    let release = published["release"].as_str().unwrap();
    let approve =
        ["approve", "--data-dir", text(&admin), "--group", "office", release, "--window", "daily 00:00-24:00"];
    verb(&[&approve[..], &["--defer", "1x1h"]].concat());

    // On battery, below the floor: not even its bytes are fetched, and everybody is told why.
    wait_for(&node, "OnHold", "PowerOrLink", "12 % left");
    let told = verb(&["explain", "--data-dir", text(&node), release]).to_string();
    assert!(told.contains("battery_floor") && told.contains("mains power"), "{told}");
    let status = verb(&["node", "status", "--data-dir", text(&node)]);
    assert_eq!((&status["wan_weight"], &status["conditions"]["power"]["battery"]["percent"]), (&0.into(), &12.into()));
    wait::until("the coordinator to know", WITHIN, || {
        let status = verb(&["status", "--data-dir", text(&admin)]);
        let found = &status["devices"][0]["deployments"][0];
        if found["sub_state"] == "PowerOrLink" { Ok(()) } else { Err(found.to_string()) }
    });

    // The person puts it off, once; then the mains are back, and it waits for the person alone.
    let defer = |time: &str| attempt(&["defer", "org.example.driver@4", "--for", time, "--data-dir", text(&node)]);
    let (code, granted) = defer("8s");
    assert_eq!((code, &granted["times_left"]), (Some(0), &0.into()), "{granted}");
    let (code, refused) = defer("8s");
    assert_eq!(code, Some(3));
    assert!(refused["reason"].as_str().unwrap().contains("put off 1 times, and 1 times are allowed"), "{refused}");
    supply("status", "Charging");
    let pid = Pid::from_raw(process.0.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    wait_for(&node, "OnHold", "Deferred", "the person at the machine put it off");
    assert!(!root.join("opt/driver").exists());

    // It is installed, the person is told, and the restart is written down where the machine's root would be.
    wait_for(&node, "RestartRequired", "", "a restart was recorded");
    assert!(root.join("opt/driver").exists());
    let notice = fs::read_to_string(node.join("notice")).unwrap();
    assert!(notice.contains("will be restarted at") && notice.contains("\"Driver 4\""), "{notice}");
    let recorded = fs::read_to_string(root.join("var/lib/upswarm/restart")).unwrap();
    assert!(recorded.contains(release) && recorded.contains("reboot"), "{recorded}");
}

/// Waits until the node's only deployment is so.
fn wait_for(node: &Path, state: &str, sub_state: &str, reason: &str) {
    wait::until(&format!("{state} {sub_state}"), WITHIN, || {
        let (_, status) = attempt(&["node", "status", "--data-dir", text(node)]);
        let found = &status["deployments"][0];
        let is = found["state"] == state && (sub_state.is_empty() || found["sub_state"] == sub_state);
        let says = found["reason"].as_str().is_some_and(|said| said.contains(reason));
        if is && says { Ok(()) } else { Err(status.to_string()) }
    });
}

/// Runs a verb: its exit code, and the JSON that it printed last.
fn attempt(args: &[&str]) -> (Option<i32>, Value) {
    let output = program::command(args).arg("--json").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().last().unwrap_or("null");
    (output.status.code(), serde_json::from_str(last).unwrap_or(Value::Null))
}

#[track_caller]
fn verb(args: &[&str]) -> Value {
    let (code, said) = attempt(args);
    assert_eq!(code, Some(0), "{args:?}: {said}");
    said
}

fn start(mut command: Command, log: &PathBuf) -> Running {
    let file = fs::File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    Running(command.spawn().unwrap())
}
