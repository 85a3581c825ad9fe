//! An office whose firewall lets out nothing but HTTP through a proxy that asks for a user and a password.

use std::time::Duration;

use serde_json::Value;
use upswarm_tests::office::{Family, Machine, Office};
use upswarm_tests::process::Process;
use upswarm_tests::wait;

const WITHIN: Duration = Duration::from_secs(60);
const COORDINATOR: &str = "--data-dir /var/lib/upswarm-coordinator";
const PROXY: &str = "\
Port 3128
Timeout 600
MaxClients 50
LogFile \"/tmp/proxy.log\"
LogLevel Connect
BasicAuth office secret
";
const RELEASE: &str = r#"
product = "org.example.notes"
version = "1.0"
title = "Notes"
classification = "update"
severity = "moderate"
[platform]
os = "linux"
arch = "x86_64"
[[payload]]
path = "notes.bin"
[[detect]]
file = "/opt/notes.bin"
payload = "notes.bin"
[install]
files = [{ payload = "notes.bin", path = "/opt/notes.bin", mode = "0644" }]
"#;

fn json(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn start_proxy(gate: &Machine) -> Process {
    std::fs::write(gate.path("/tmp/proxy.conf"), PROXY).unwrap();
    gate.start("tinyproxy -d -c /tmp/proxy.conf")
}

/// Nothing of the coordinator is reached directly from here.
fn shut(machine: &Machine, admin: &Machine) {
    machine.ip(&["route", "add", "prohibit", &format!("{}/32", admin.v4)]);
}

fn deployments(admin: &Machine) -> Vec<(String, String)> {
    let status = json(&admin.done(&format!("upswarm status {COORDINATOR} --json")));
    let mut found = Vec::new();
    for device in status["devices"].as_array().unwrap() {
        for deployment in device["deployments"].as_array().unwrap() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            found.push((text(&device["label"]), text(&deployment["state"])));
        }
    }
    found.sort();
    found
}

#[track_caller]
fn all_are(admin: &Machine, state: &str, count: usize) {
    wait::until(&format!("{count} machines to be {state}"), WITHIN, || {
        let found = deployments(admin);
        let right = found.iter().filter(|(_, s)| s == state).count();
        if right == count { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// Case 9.
#[test]
fn a_site_behind_a_proxy_with_a_password_installs_reports_and_pauses() {
    let Some(mut office) = Office::new(&["admin", "gate", "pc1", "pc2"], Family::V4) else { return };
    office.machines[0].set("UPSWARM_PASSPHRASE", "correct horse battery staple");
    let (admin, gate) = (office.machine("admin"), office.machine("gate"));
    admin.done(&format!("upswarm coordinator init {COORDINATOR}"));
    let run = format!(
        "upswarm coordinator run {COORDINATOR} --listen /ip4/0.0.0.0/tcp/4701 --http 0.0.0.0:4702 \
         --origin-url http://{}:4702",
        admin.v4
    );
    let mut coordinator = admin.start(&run);
    wait::until("the coordinator to be ready", WITHIN, || {
        coordinator.must_run();
        if admin.path("/var/lib/upswarm-coordinator/run.json").exists() { Ok(()) } else { Err("not yet".into()) }
    });
    let _proxy = start_proxy(gate);
    let invite = format!("upswarm coordinator invite {COORDINATOR} --group office --site berlin --uses 4");
    let token = admin.done(&invite).lines().last().unwrap().to_owned();
    let mut nodes = Vec::new();
    for name in ["pc1", "pc2"] {
        let pc = office.machine(name);
        shut(pc, admin);
        std::fs::write(pc.path("/root/credentials"), "office:wrong\n").unwrap();
        let proxy = format!("--proxy http://{}:3128", gate.v4);
        let said = pc.refused(&format!("upswarm node join {token} --data-dir /root/node {proxy}"), 1);
        assert!(said.contains(&format!("the proxy http://{}:3128", gate.v4)) && said.contains("credentials"), "{said}");
        let join = format!(
            "upswarm node join {token} --data-dir /root/node --no-mdns --label {name} {proxy} --proxy-credentials /root/credentials"
        );
        let said = pc.refused(&join, 1);
        assert!(said.contains("credentials"), "{said}");
        std::fs::write(pc.path("/root/credentials"), "office:secret\n").unwrap();
        pc.done(&join);
        nodes.push(pc.start("upswarm node run --data-dir /root/node"));
    }
    std::fs::create_dir_all(admin.path("/root/notes")).unwrap();
    std::fs::write(admin.path("/root/notes/RELEASE.toml"), RELEASE).unwrap();
    std::fs::write(admin.path("/root/notes/notes.bin"), vec![7; 3 << 20]).unwrap();
    admin.done(&format!("upswarm publish {COORDINATOR} /root/notes/RELEASE.toml"));
    admin.done(&format!("upswarm approve {COORDINATOR} org.example.notes@1.0 --group office"));
    all_are(admin, "Installed", 2);
    for name in ["pc1", "pc2"] {
        assert_eq!(std::fs::read(office.machine(name).path("/opt/notes.bin")).unwrap().len(), 3 << 20);
        let said = office.machine(name).done("upswarm explain --data-dir /root/node");
        assert!(said.contains(&format!("through the proxy http://{}:3128", gate.v4)), "{said}");
    }
    // A stop arrives in the same way: what is approved while everything is paused does not begin.
    admin.done(&format!("upswarm pause {COORDINATOR}"));
    std::fs::write(admin.path("/root/notes/RELEASE.toml"), RELEASE.replace("1.0", "2.0")).unwrap();
    std::fs::write(admin.path("/root/notes/notes.bin"), vec![8; 3 << 20]).unwrap();
    admin.done(&format!("upswarm publish {COORDINATOR} /root/notes/RELEASE.toml"));
    admin.done(&format!("upswarm approve {COORDINATOR} org.example.notes@2.0 --group office"));
    all_are(admin, "OnHold", 2);
    admin.done(&format!("upswarm resume {COORDINATOR}"));
    wait::until("the second version on both", WITHIN, || {
        let there = |name: &&str| std::fs::read(office.machine(name).path("/opt/notes.bin")).unwrap()[0] == 8;
        if ["pc1", "pc2"].iter().all(there) { Ok(()) } else { Err(format!("{:?}", deployments(admin))) }
    });
    nodes.iter_mut().for_each(Process::must_run);
}
