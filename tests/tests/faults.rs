//! Everyday faults that need several machines: what each of them says, and that it ends.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use upswarm_tests::fleet::{Coordinator, GROUP, Joining, Node, join_all, text};
use upswarm_tests::lab::{Lab, Rates};
use upswarm_tests::office::{Family, Machine, Office};
use upswarm_tests::{program, wait};

const WITHIN: Duration = Duration::from_secs(60);
/// Once a copied disk has an identity of its own, the original has its connections again within this.
const AT_EASE_WITHIN: Duration = Duration::from_secs(40);
/// Who is alone is looked for twice, half a minute apart.
const ALONE_WITHIN: Duration = Duration::from_secs(120);

/// The alarms of the coordinator that are of this kind.
fn alarms<'list>(list: &'list Value, kind: &str) -> Vec<&'list Value> {
    list["alarms"].as_array().into_iter().flatten().filter(|alarm| alarm["kind"] == kind).collect()
}

/// Case 29: the threshold stops the rollout, and a machine whose turn has not come says so. Case 30: it has fetched nothing for a
/// ring that may never come. Case 34: the summary says a reason once. Case 39: a general resume leaves this rollout stopped.
#[test]
fn a_rollout_that_stops_by_itself_is_said_as_such_on_the_machines() {
    let Some(lab) = Lab::new(&[4], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    let script = lab.dir().join("fails.sh");
    std::fs::write(&script, "#!/bin/sh\necho no licence for this machine >&2\nexit 9\n").expect("a script");
    let release = lab.dir().join("fails.toml");
    let content = format!(
        "product = \"org.example.fails\"\nversion = \"1.0\"\ntitle = \"Fails 1.0\"\nclassification = \"update\"\n\
         [[payload]]\npath = {script:?}\nname = \"fails.sh\"\n[[detect]]\nfile = \"/never-there\"\nexists = true\n\
         [install]\nexec = [\"/bin/sh\", \"{{payload:0}}\"]\n"
    );
    std::fs::write(&release, content).expect("a release file");
    let published = coordinator.verb(&["publish", text(&release)]).done();
    let release = published["release"].as_str().expect("its id").to_owned();
    // Places in a ring are by chance: the first is made to have some of them, not all.
    let approve = |share: &str, more: &[&str]| {
        let rings = ["--ring", share, "--ring", "100%+1d", "--stop-above", "5%", "--yes"];
        coordinator.verb(&[&["approve", &release, "--group", GROUP], &rings[..], more].concat()).done()
    };
    let divides = |share: &String| {
        let shown = approve(share, &["--dry-run"]);
        let first = shown["preview"]["rings"][0]["devices"].as_array().map_or(0, Vec::len);
        (1..nodes.len()).contains(&first)
    };
    let share = (1..50).map(|step| format!("{}%", 2 * step)).find(divides).expect("a share that divides them");
    approve(&share, &[]);
    let by_itself = |reason: &str| reason.contains("its rollout has stopped by itself");
    wait::until("a machine of the second ring to say why nothing happens", WITHIN, || {
        let status = coordinator.status();
        let found: Vec<_> = nodes.iter().filter_map(|node| status.deployment(&node.label, &release)).collect();
        let held = found.iter().any(|deployment| deployment.state == "OnHold" && by_itself(&deployment.reason));
        let failed = found.iter().any(|deployment| deployment.state == "Failed");
        if held && failed { Ok(()) } else { Err(format!("{found:?}")) }
    });
    // Case 30: whoever is not in the first ring has not a byte of it, and a later release comes ahead where its approval says so.
    let status = coordinator.status();
    let held: Vec<_> = nodes.iter().filter_map(|node| status.deployment(&node.label, &release)).collect();
    let held = held.into_iter().filter(|deployment| deployment.state == "OnHold");
    assert!(held.clone().count() > 0 && held.clone().all(|deployment| deployment.done == 0), "{status:?}");
    let ahead = coordinator.publish("2.0", &upswarm_tests::fleet::random_file(&lab.dir().join("ahead"), 1 << 20, 30));
    let rings = ["--ring", "0.01%", "--ring", "100%+1d", "--yes"];
    coordinator
        .verb(&[&["approve", &ahead.release, "--group", GROUP, "--fetch-ahead", "0s"], &rings[..]].concat())
        .done();
    wait::until("every machine to know of its ring", WITHIN, || {
        let status = coordinator.status();
        let found: Vec<_> = nodes.iter().filter_map(|node| status.deployment(&node.label, &ahead.release)).collect();
        let wait =
            found.iter().filter(|deployment| deployment.sub_state == "Scheduled" && deployment.done == 0).count();
        if wait == nodes.len() { Ok(()) } else { Err(format!("{found:?}")) }
    });
    coordinator
        .verb(&[&["approve", &ahead.release, "--group", GROUP, "--fetch-ahead", "2d"], &rings[..]].concat())
        .done();
    coordinator.wait_for_bytes(&nodes, &ahead.release, WITHIN);
    assert!(nodes.iter().all(|node| !node.installed().exists()), "its turn has not come");
    // Case 34.
    let mut command = program::command(&["status", "--data-dir", text(&coordinator.dir)]);
    let output = lab.wan.run(|| command.output()).expect("upswarm runs");
    let summary = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(summary.matches("no licence for this machine").count(), 1, "{summary}");
    // Case 39.
    coordinator.verb(&["pause"]).done();
    let resumed = coordinator.verb(&["resume"]).done();
    let still = resumed["still_held"].to_string();
    assert!(still.contains(&release[..8]), "{resumed}");
    // Case 25: who hears of the coordinator through neighbours alone hears of its group too, and `status` says that it has.
    coordinator.verb(&["group", "add", "pilots"]).done();
    nodes.iter().for_each(|node| drop(coordinator.verb(&["group", "assign", &node.label, "--group", "pilots"]).done()));
    wait::until("every machine to know that it is a pilot", WITHIN, || {
        let status = coordinator.verb(&["status"]).done();
        let devices = status["devices"].as_array().cloned().unwrap_or_default();
        let pilot = |device: &&Value| device["groups"].to_string().contains("pilots") && device["groups_heard"] == true;
        if devices.iter().filter(pilot).count() == nodes.len() { Ok(()) } else { Err(status["devices"].to_string()) }
    });
    // The admin's own hold is another thing, and letting go lifts both.
    coordinator.verb(&["pause", "--group", GROUP, "--release", &release]).done();
    coordinator.verb(&["resume", "--group", GROUP, "--release", &release, "--all-due"]).done();
    wait::until("nobody to be on hold", WITHIN, || {
        let status = coordinator.status();
        let found: Vec<_> = nodes.iter().filter_map(|node| status.deployment(&node.label, &release)).collect();
        if found.iter().all(|deployment| deployment.state != "OnHold") { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// Cases 6 and 42: a copied disk. The third machine shuts nobody out, and keeps its connections.
#[test]
fn a_clone_is_an_alarm_and_nobody_honest_is_shut_out() {
    let Some(lab) = Lab::new(&[4], Rates::default()) else { return };
    let coordinator = Coordinator::new(&lab);
    let mut nodes = join_all(&coordinator, &lab, 0, Joining::default());
    let mut clone = nodes.remove(3);
    std::fs::remove_dir_all(&clone.dir).expect("its own identity goes");
    assert!(Command::new("cp").arg("-a").arg(&nodes[0].dir).arg(&clone.dir).status().expect("cp").success());
    nodes.iter_mut().for_each(Node::start);
    coordinator.wait_for_reports(&nodes);
    clone.start();
    let list = wait::until("an alarm about the clone", WITHIN, || {
        let list = coordinator.verb(&["alarms", "list"]).done();
        if alarms(&list, "clone").is_empty() { Err(list.to_string()) } else { Ok(list) }
    });
    assert_eq!(alarms(&list, "clone").len(), 1, "{list}");
    // As long as both run they take turns; what the others make of it shows within some of them.
    let payload = upswarm_tests::fleet::random_file(&lab.dir().join("payload"), 8 << 20, 42);
    let published = coordinator.publish("1.0", &payload);
    coordinator.approve(&published.release);
    coordinator.wait_for_installs(&nodes[1..], &published.release, WITHIN);
    for node in &nodes[1..] {
        let status = program::verb(&node.host.namespace, &["node", "status", "--data-dir", text(&node.dir)]).done();
        let shut_out = status["alarms"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|alarm| alarm.as_str().is_some_and(|text| text.contains("shut out")));
        assert!(!shut_out, "{status}");
        let others = status["peers"].as_array().into_iter().flatten().filter(|peer| peer["kind"] == "member").count();
        assert!(others >= 1, "the two that are no clones stay connected: {status}");
    }
    let list = coordinator.verb(&["alarms", "list"]).done();
    assert!(alarms(&list, "peer").is_empty(), "{list}");
    // The copy takes an identity of its own: nobody refuses the original for long, and everything comes to it.
    clone.stop();
    let token = coordinator.invite("site-1", 1);
    let again = ["node", "join", &token, "--data-dir", text(&clone.dir), "--again", "--label", "pc-again"];
    program::verb(&clone.host.namespace, &again).done();
    clone.start();
    let joined = std::time::Instant::now();
    wait::until("the original to be connected with its neighbours", AT_EASE_WITHIN, || {
        let original = &nodes[0];
        let status =
            program::verb(&original.host.namespace, &["node", "status", "--data-dir", text(&original.dir)]).done();
        let members = status["peers"].as_array().into_iter().flatten().filter(|peer| peer["kind"] == "member").count();
        if members >= 2 { Ok(()) } else { Err(status["peers"].to_string()) }
    });
    println!(
        "the original has its neighbours again {:.1} s after the clone joined anew",
        joined.elapsed().as_secs_f64()
    );
    let payload = upswarm_tests::fleet::random_file(&lab.dir().join("second"), 1 << 20, 43);
    let published = coordinator.publish("2.0", &payload);
    coordinator.approve(&published.release);
    coordinator.wait_for_installs(&nodes, &published.release, WITHIN);
}

/// Case 32: one machine has IPv4 alone, one IPv6 alone, and the coordinator both. What they cannot share they do not share; but the
/// admin is told, and it is over when they see each other.
#[test]
fn a_machine_alone_at_a_site_that_has_others_is_an_alarm() {
    let Some(mut office) = Office::new(&["admin", "pc1", "pc2"], Family::Both) else { return };
    office.machines[0].set("UPSWARM_PASSPHRASE", "correct horse battery staple");
    let [admin, pc1, pc2] = ["admin", "pc1", "pc2"].map(|name| office.machine(name));
    pc1.done("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
    pc2.ip(&["-4", "address", "flush", "dev", "eth0"]);
    admin.done("upswarm coordinator init --data-dir /var/lib/c");
    let _coordinator = admin.start("upswarm coordinator run --data-dir /var/lib/c");
    let token = wait::until("a token", WITHIN, || {
        let output = admin.run("upswarm coordinator invite --data-dir /var/lib/c --uses 2");
        let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let running = admin.path("/var/lib/c/run.json").exists();
        if running && token.starts_with("upswarm1:") { Ok(token) } else { Err(format!("{output:?}")) }
    });
    let join = |machine: &Machine| machine.done(&format!("upswarm node join {token} --data-dir /var/lib/upswarm"));
    [pc1, pc2].into_iter().for_each(|machine| drop(join(machine)));
    let _running = [pc1, pc2].map(|machine| machine.start("upswarm node run --data-dir /var/lib/upswarm"));
    let list = || -> Value {
        let said = admin.done("upswarm alarms list --data-dir /var/lib/c --json");
        serde_json::from_str(said.lines().last().unwrap_or_default()).expect("JSON")
    };
    wait::until("both machines to be told as alone", ALONE_WITHIN, || {
        let list = list();
        match alarms(&list, "alone")[..] {
            [alarm] if alarm["devices"] == 2 && alarm["over"] == false => Ok(()),
            _ => Err(list.to_string()),
        }
    });
    pc2.ip(&["address", "add", "10.79.0.99/24", "dev", "eth0"]);
    wait::until("the alarm to be over", ALONE_WITHIN, || {
        let list = list();
        if alarms(&list, "alone").iter().all(|alarm| alarm["over"] == true) { Ok(()) } else { Err(list.to_string()) }
    });
}
