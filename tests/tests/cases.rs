//! What people type on an ordinary day, and what the program must say to it: each case is a line that once did not work.

use std::time::Duration;

use serde_json::Value;
use upswarm_tests::office::{Family, Machine, Office};
use upswarm_tests::process::Process;
use upswarm_tests::wait;

const WITHIN: Duration = Duration::from_secs(60);
const PROFILE: &str =
    "data_dir = \"/var/lib/c\"\nkeys_dir = \"/var/lib/c-offline-keys\"\npassphrase_file = \"/root/passphrase\"\n";
const RELEASE: &str = "product = \"org.example.hello-lan\"\nversion = \"1.0\"\ntitle = \"Hello\"\nclassification = \"update\"\n\
    [[payload]]\npath = \"hello\"\n[[detect]]\nfile = \"/opt/hello\"\npayload = \"hello\"\n\
    [install]\nfiles = [{ payload = \"hello\", path = \"/opt/hello\" }]\n";

fn json(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A coordinator that runs, and the profile that names it: no verb below says where it is.
fn coordinator(admin: &Machine) -> Process {
    std::fs::write(admin.path("/root/passphrase"), "correct horse battery staple\n").unwrap();
    admin.done("upswarm coordinator init --data-dir /var/lib/c --passphrase-file /root/passphrase");
    admin.done("mkdir -p /root/.config/upswarm");
    std::fs::write(admin.path("/root/.config/upswarm/profile.toml"), PROFILE).unwrap();
    let mut process = admin.start("upswarm coordinator run --data-dir /var/lib/c");
    wait::until("the coordinator", WITHIN, || {
        process.must_run();
        let output = admin.run("upswarm status");
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
    process
}

fn devices(admin: &Machine) -> Vec<Value> {
    json(&admin.done("upswarm status --json"))["devices"].as_array().cloned().unwrap_or_default()
}

fn wait_for_state(admin: &Machine, state: &str) {
    wait::until("the state of hello-lan", WITHIN, || {
        let devices = devices(admin);
        let found = devices.iter().flat_map(|device| device["deployments"].as_array().into_iter().flatten());
        let states: Vec<_> = found.map(|deployment| deployment["state"].clone()).collect();
        if states.iter().any(|found| found == state) { Ok(()) } else { Err(format!("{devices:?}")) }
    });
}

/// Cases 14, 15, 16, 17, 18, 22, 27, 38 and 44, in the order of a day.
#[test]
fn an_admin_with_a_profile_types_short_lines_and_is_told_what_is_wrong() {
    let Some(office) = Office::new(&["admin", "pc1"], Family::V4) else { return };
    let (admin, pc1) = (office.machine("admin"), office.machine("pc1"));
    let coordinator = coordinator(admin);

    // Case 14: verbs of one admin share their arguments, and take them from the profile.
    for verb in [
        "missing",
        "status",
        "inventory",
        "updates",
        "alarms list",
        "device list",
        "group list",
        "release list",
        "rule list",
        "token list",
        "limit list",
        "sync list",
        "root show",
    ] {
        admin.done(&format!("upswarm {verb}"));
        admin.done(&format!("upswarm {verb} --keys-dir /var/lib/c-offline-keys --passphrase-file /root/passphrase"));
    }
    let token = admin.done("upswarm coordinator invite --uses 2");
    std::fs::write(admin.path("/root/hello"), vec![b'h'; 100_000]).unwrap();
    std::fs::write(admin.path("/root/hello.toml"), RELEASE).unwrap();
    let published = json(&admin.done("upswarm publish /root/hello.toml --json"));
    // Case 27: the same content is the same release.
    let again = json(&admin.done("upswarm publish /root/hello.toml --json"));
    assert_eq!((&again["release"], &again["already_published"]), (&published["release"], &true.into()));

    // Case 17: whoever may not read the directory hears that, and nothing else.
    for verb in ["status", "alarms list", "missing"] {
        let said = admin.refused(
            &format!("setpriv --reuid 65534 --regid 65534 --clear-groups upswarm {verb} --data-dir /var/lib/c"),
            3,
        );
        let named = said.contains("permission denied: /var/lib/c")
            && said.contains("run it as root or as the coordinator's user");
        assert!(named && !said.contains("init"), "{verb}: {said}");
    }

    pc1.done(&format!("upswarm node join {token} --data-dir /var/lib/upswarm"));
    let node = pc1.start("upswarm node run --data-dir /var/lib/upswarm");
    wait::until("the first report", WITHIN, || {
        let devices = devices(admin);
        if devices.iter().any(|device| !device["last_seen_s"].is_null()) { Ok(()) } else { Err(format!("{devices:?}")) }
    });

    // Case 18: a date that is past is said to be one, however it is written.
    for deadline in ["--deadline -7d", "--deadline=-7d", "--deadline -1h"] {
        let said = admin.refused(&format!("upswarm approve hello-lan@1.0 --group everyone {deadline}"), 3);
        assert!(said.contains("a deadline lies ahead; write +7d or a date"), "{deadline}: {said}");
    }
    let said = admin.refused("upswarm approve hello-lan@1.0 --group everyone --available -2h", 3);
    assert!(said.contains("write now, +2h or a date"), "{said}");
    // Case 16: a ring that tries nothing is asked about.
    let said = admin.refused("upswarm approve hello-lan@1.0 --group everyone --ring 0.01% --ring 100%+1d", 3);
    assert!(said.contains("ring 1 (up to 0.01 %) holds") && said.contains("it tries nothing"), "{said}");
    // What is signed is named with its version; for everything else the last part of the name suffices.
    let said = admin.refused("upswarm approve hello-lan --group everyone", 3);
    assert!(said.contains("with its version"), "{said}");
    admin.done("upswarm approve hello-lan@1.0 --group everyone");
    wait_for_state(admin, "Installed");
    for line in [
        "status --release hello-lan",
        "missing --release hello-lan",
        "release show hello-lan",
        "pause --release hello-lan",
    ] {
        admin.done(&format!("upswarm {line}"));
    }
    admin.done("upswarm resume --release hello-lan");
    let said = admin.refused("upswarm retry hello-lan", 3);
    assert!(said.contains("org.example.hello-lan 1.0 has come to its end"), "{said}");
    assert!(pc1.done("upswarm explain hello-lan --data-dir /var/lib/upswarm").contains("is installed"));
    // Case 15: the summary comes first, and fits a screen.
    let summary = admin.done("upswarm status");
    assert!(summary.lines().count() <= 24 && summary.contains("Hello (1.0)"), "{summary}");
    assert!(admin.done("upswarm status --state installed").contains("Installed"));
    let none = admin.done("upswarm status --state failed");
    assert!(!none.contains("Installed"), "{none}");

    // Cases 38 and 44: enrolled again, there are two of one name; the older one is offered for retirement, and goes.
    assert!(node.stop().success());
    pc1.done(&format!("upswarm node join {token} --data-dir /var/lib/upswarm --again"));
    let node = pc1.start("upswarm node run --data-dir /var/lib/upswarm");
    let list = wait::until("two machines of one name", WITHIN, || {
        let list = admin.done("upswarm device list");
        if list.contains("2 devices are pc1") { Ok(list) } else { Err(list) }
    });
    assert!(list.contains("upswarm device retire "), "{list}");
    let old = list.split("upswarm device retire ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    admin.done(&format!("upswarm device retire {old}"));
    let shown = admin.done("upswarm status --devices");
    assert!(!shown.contains(&old), "{old} is retired: {shown}");
    assert!(admin.done("upswarm device list --all").contains(&old));
    wait_for_state(admin, "Installed");

    // Case 22: no reason is empty.
    assert!(coordinator.stop().success());
    wait::until("the node to say why it does not reach the coordinator", WITHIN, || {
        let told = pc1.done("upswarm explain --data-dir /var/lib/upswarm");
        assert!(!told.contains("reached: .") && !told.contains("failed: ."), "{told}");
        if told.contains("refused") { Ok(()) } else { Err(told) }
    });
    assert!(node.stop().success());
}

/// Case 19: one machine is killed, and its time does not count for those that lived.
#[test]
fn the_demo_ends_with_the_time_of_the_machines_that_lived() {
    let Some(office) = Office::new(&["admin"], Family::V4) else { return };
    let admin = office.machine("admin");
    std::fs::write(admin.path("/root/payload"), (0..8u32 << 18).flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
        .unwrap();
    let said = admin.done("upswarm demo --nodes 3 --payload /root/payload --wan 50mbit --kill 1");
    let time = said.lines().find(|line| line.starts_with("Time of the machines that lived: "));
    assert!(time.is_some_and(|line| line.contains("the WAN alone needs")), "{said}");
    assert!(said.contains("3 of 3 nodes installed"), "{said}");
    let killed = said.lines().skip_while(|line| !line.starts_with("Time of")).nth(1).unwrap_or_default();
    assert!(killed.starts_with("Killed half way") && killed.contains("done after"), "{said}");
}
