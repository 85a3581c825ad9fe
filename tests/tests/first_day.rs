//! The first day of a new user: lines as they are typed, on machines as they are.

use std::time::Duration;

use serde_json::Value;
use upswarm_tests::office::{Family, Machine, Office};
use upswarm_tests::packages::{Kind, Package};
use upswarm_tests::process::Process;
use upswarm_tests::vendor::Vendor;
use upswarm_tests::wait;

const WITHIN: Duration = Duration::from_secs(40);
/// Package managers run at idle priority: where others want the processors, an install waits.
const INSTALLED_WITHIN: Duration = Duration::from_secs(240);
/// Starts of a coordinator in the test of its addresses; each must be right.
const STARTS: &str = "UPSWARM_STARTS";

const INIT: &str = "upswarm coordinator init --data-dir /var/lib/upswarm-coordinator";
const RUN: &str = "upswarm coordinator run --data-dir /var/lib/upswarm-coordinator";
const PUBLISH: &str = "upswarm publish --data-dir /var/lib/upswarm-coordinator";
const INVITE: &str = "upswarm coordinator invite --data-dir /var/lib/upswarm-coordinator --group office --site berlin";

/// The admin's day as the README has it: where a line is typed, and the line. `TOKEN` is what `invite` printed.
const DAY: [(&str, &str); 8] = [
    ("admin", INIT),
    ("admin", RUN),
    ("admin", "upswarm coordinator invite --data-dir /var/lib/upswarm-coordinator --uses 2"),
    ("pc", "upswarm node join TOKEN --data-dir /var/lib/upswarm"),
    ("pc", "upswarm node run --data-dir /var/lib/upswarm"),
    ("admin", "upswarm publish --data-dir /var/lib/upswarm-coordinator demo_1.0-1_all.deb"),
    ("admin", "upswarm approve --data-dir /var/lib/upswarm-coordinator demo@1.0-1 --group everyone"),
    ("admin", "upswarm status --data-dir /var/lib/upswarm-coordinator"),
];

fn office(names: &[&str], family: Family) -> Option<Office> {
    let mut office = Office::new(names, family)?;
    office.machines[0].set("UPSWARM_PASSPHRASE", "correct horse battery staple");
    Some(office)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Starts the coordinator and returns when it says that it is ready, with what its run.json says at that moment.
fn start_coordinator(admin: &Machine, line: &str) -> (Process, Value) {
    start_in(admin, "/", line, "/var/lib/upswarm-coordinator/run.json")
}

fn start_in(admin: &Machine, dir: &str, line: &str, run_file: &str) -> (Process, Value) {
    let file = admin.path(run_file);
    let _ = std::fs::remove_file(&file);
    let mut process = admin.start_in(dir, line);
    let info = wait::closely("the coordinator to be ready", WITHIN, || {
        process.must_run();
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    });
    (process, info)
}

fn listens_on(info: &Value) -> Vec<String> {
    let bare = |address: &Value| address.as_str().unwrap().split("/p2p/").next().unwrap().to_owned();
    info["listen"].as_array().unwrap().iter().map(bare).collect()
}

fn of(admin: &Machine, family: Family) -> Vec<String> {
    let v4 = format!("/ip4/{}/tcp/4701", admin.v4);
    let v6 = format!("/ip6/{}/tcp/4701", admin.v6);
    match family {
        Family::V4 => vec![v4],
        Family::V6 => vec![v6],
        Family::Both => vec![v4, v6],
        Family::LinkLocal => Vec::new(),
    }
}

/// Case 23: the addresses are complete before the coordinator says that it is ready.
#[test]
fn a_coordinator_knows_all_its_addresses_before_it_says_that_it_is_ready() {
    let starts = std::env::var(STARTS).ok().and_then(|number| number.parse().ok()).unwrap_or(3);
    for (family, line) in [
        (Family::V4, RUN.to_owned()),
        (
            Family::V4,
            format!(
                "{RUN} --listen /ip4/0.0.0.0/tcp/4701 --http 0.0.0.0:4702 --origin-url http://admin.example.org:4702"
            ),
        ),
        (Family::V6, RUN.to_owned()),
        (Family::Both, RUN.to_owned()),
    ] {
        let Some(office) = office(&["admin"], family) else { return };
        let admin = office.machine("admin");
        admin.done(INIT);
        for start in 0..starts {
            let (process, info) = start_coordinator(admin, &line);
            assert_eq!(listens_on(&info), of(admin, family), "start {start} of {family:?}, {line}");
            if start == 0 {
                let invited = json(&admin.done(&format!("{INVITE} --json")));
                assert_eq!(invited["addresses"], info["listen"]);
                assert_eq!(invited["warnings"], Value::Array(Vec::new()));
            }
            assert!(process.stop().success());
        }
    }
}

#[test]
fn the_addresses_of_a_coordinator_follow_its_interfaces() {
    let Some(office) = office(&["admin"], Family::V4) else { return };
    let admin = office.machine("admin");
    admin.done(INIT);
    let (_process, _) = start_coordinator(admin, RUN);
    let wait_for = |wanted: &[&str]| {
        wait::until("the token to name the addresses of now", WITHIN, || {
            let invited = json(&admin.done(&format!("{INVITE} --json")));
            let found = listens_on(&serde_json::json!({ "listen": invited["addresses"] }));
            if found == wanted { Ok(invited) } else { Err(format!("{found:?}")) }
        })
    };
    admin.ip(&["address", "add", "10.79.0.200/24", "dev", "eth0"]);
    wait_for(&["/ip4/10.79.0.11/tcp/4701", "/ip4/10.79.0.200/tcp/4701"]);
    admin.ip(&["address", "del", "10.79.0.11/24", "dev", "eth0"]);
    admin.ip(&["address", "replace", "10.79.0.200/24", "dev", "eth0"]);
    wait_for(&["/ip4/10.79.0.200/tcp/4701"]);
    // Nothing but loopback is left: the token says so.
    admin.ip(&["address", "flush", "dev", "eth0"]);
    let invited = wait_for(&["/ip4/127.0.0.1/tcp/4701"]);
    assert!(invited["warnings"][0].as_str().unwrap().contains("on this machine only"), "{invited}");
}

/// Case 23: an address is checked where it is written.
#[test]
fn an_address_for_tokens_is_taken_as_people_write_it_and_checked_there() {
    let Some(office) = office(&["admin", "pc1"], Family::Both) else { return };
    let (admin, pc1) = (office.machine("admin"), office.machine("pc1"));
    admin.done(INIT);
    let (_process, _) = start_coordinator(admin, RUN);
    for (at, address) in
        ["admin.example.org:4701", "10.79.0.11:4701", "[fd79::b]:4701", "/dns4/admin/tcp/4701"].iter().enumerate()
    {
        let token = admin.done(&format!("{INVITE} --address {address}"));
        pc1.done(&format!("upswarm node join {token} --data-dir /root/n{at}"));
    }
    for (address, named) in [
        ("admin.example.org", "names no port"),
        ("'http://admin.example.org:4701'", "neither a host name nor an IP address"),
        ("fd79::b", "write [fd79::b]:4701"),
        ("0.0.0.0:4701", "every interface"),
    ] {
        let said = admin.refused(&format!("{INVITE} --address {address}"), 3);
        assert!(said.contains("--address") && said.contains(named), "{address}: {said}");
    }
    // The first address of a token need not be one that every machine can reach.
    let token = admin.done(&format!("{INVITE} --address 10.79.0.99:4701 --address 10.79.0.11:4701"));
    pc1.done(&format!("upswarm node join {token} --data-dir /root/last"));
}

/// A package `demo` of this version, built with the real tool and put on a machine.
fn demo_package(machine: &Machine, version: u32) -> String {
    let dir = tempfile::tempdir().unwrap();
    let package = Package { kind: Kind::Deb, name: "demo", version, len: 300_000, before: "", after: "", depends: "" };
    let built = package.build(dir.path());
    let path = format!("/root/demo_{version}.0-1_all.deb");
    std::fs::copy(built, machine.path(&path)).unwrap();
    path
}

/// Case 1.
#[test]
fn relative_paths_are_good_wherever_a_program_reads_them_later() {
    let Some(office) = office(&["admin", "pc1"], Family::V4) else { return };
    let (admin, pc1) = (office.machine("admin"), office.machine("pc1"));
    let package = demo_package(admin, 1);
    admin.done("mkdir -p /srv/office");
    let file = format!(
        "product = \"demo\"\nversion = \"1\"\ntitle = \"Demo\"\nclassification = \"update\"\n[[payload]]\npath = \"{}\"\n\
         [[detect]]\npackage = {{ kind = \"deb\", name = \"demo\", version = \"1.0-1\" }}\n[install]\ndeb = true\n",
        "../../root/demo_1.0-1_all.deb"
    );
    std::fs::write(admin.path("/srv/office/demo.toml"), file).unwrap();
    assert!(admin.path(&package).exists());
    admin.done("cd /srv && upswarm coordinator init --data-dir c1");
    let (_coordinator, _) = start_in(admin, "/srv", "upswarm coordinator run --data-dir c1", "/srv/c1/run.json");
    let token = admin.done("cd /srv && upswarm coordinator invite --data-dir c1 --group office --site berlin");
    pc1.done(&format!("cd /root && upswarm node join {token} --data-dir n1"));
    let _node = pc1.start_in("/root", "upswarm node run --data-dir n1");
    admin.done("cd /srv && upswarm publish --data-dir c1 office/demo.toml");
    admin.done("cd / && upswarm approve --data-dir srv/c1 demo@1 --group office --allow-empty");
    wait::until("the package to be installed", INSTALLED_WITHIN, || {
        let status = json(&admin.done("cd /srv && upswarm status --data-dir c1 --json"));
        let deployment = &status["devices"][0]["deployments"][0];
        assert!(deployment["state"] != "Failed", "{deployment}");
        if deployment["state"] == "Installed" { Ok(()) } else { Err(deployment.to_string()) }
    });
    assert!(pc1.done("dpkg-query -W demo").contains("1.0-1"));
}

/// Case 2.
#[test]
fn a_release_at_its_vendor_is_read_once_and_what_is_wrong_there_is_said() {
    let Some(office) = office(&["admin"], Family::V4) else { return };
    let admin = office.machine("admin");
    let _vendor = Vendor::start(&admin.namespace, "127.0.0.1:9001");
    admin.done(INIT);
    let (_process, _) = start_coordinator(admin, RUN);
    let publish = |path: &str| {
        let file = format!(
            "product = \"demo\"\nversion = \"1\"\ntitle = \"Demo\"\nclassification = \"update\"\n[[payload]]\n\
             url = \"http://127.0.0.1:9001/{path}\"\n[[detect]]\nfile = \"/opt/demo\"\nexists = true\n\
             [install]\nfiles = [{{ payload = \"lib_a++_1.0~rc1+b2.bin\", path = \"/opt/demo\" }}]\n"
        );
        std::fs::write(admin.path("/root/demo.toml"), file).unwrap();
        "upswarm publish --data-dir /var/lib/upswarm-coordinator /root/demo.toml --patience 1s"
    };
    let file = "lib%20a++_1.0~rc1+b2.bin";
    let published = json(&admin.done(&format!("{} --json", publish(&format!("pool/{file}")))));
    assert_eq!(published["payloads"][0]["name"], "lib_a++_1.0~rc1+b2.bin");
    assert_eq!(published["payloads"][0]["len"], 300_000);
    for (place, code, named) in [
        ("missing", 3, "there is no such file"),
        ("page", 3, "a web page instead of the file"),
        ("whole", 3, "does not serve byte ranges"),
        ("stops", 1, "has sent nothing for 1 s, after 1000 bytes"),
        ("drips", 1, "is too slow"),
        ("breaks", 1, "broke off after 1000 of 300000 bytes"),
        ("silent", 1, "does not answer within 1 s"),
    ] {
        let said = admin.refused(publish(&format!("{place}/{file}")), code);
        assert!(said.contains(named) && said.contains(file), "{place}: {said}");
    }
}

/// Cases 13, 26, 27 and 38: what the file says need not be written, and what contradicts it is not signed.
#[test]
fn a_package_file_is_a_release_and_what_disagrees_is_said_before_signing() {
    let Some(office) = office(&["admin"], Family::V4) else { return };
    let admin = office.machine("admin");
    admin.done(INIT);
    let (_process, _) = start_coordinator(admin, RUN);
    let package = demo_package(admin, 1);

    // The file says it all; the same content is the same release.
    let published = json(&admin.done(&format!("{PUBLISH} {package} --json")));
    assert_eq!((&published["product"], &published["version"]), (&"demo".into(), &"1.0-1".into()));
    let again = json(&admin.done(&format!("{PUBLISH} {package} --json")));
    assert_eq!((&again["release"], &again["already_published"]), (&published["release"], &true.into()));

    // Another content of that name and version replaces it by intent only.
    let other = format!("{PUBLISH} {package} --severity important --title Other");
    let said = admin.refused(&other, 3);
    assert!(said.contains("--replace"), "{said}");
    let replaced = json(&admin.done(&format!("{other} --replace --json")));
    assert_ne!(replaced["release"], published["release"]);

    // The long form says the same.
    admin.done(&format!("upswarm publish --init {package} --severity important --title Other > /root/demo.toml"));
    let long = json(&admin.done(&format!("{PUBLISH} /root/demo.toml --json")));
    assert_eq!(long["release"], replaced["release"]);

    let text = std::fs::read_to_string(admin.path("/root/demo.toml")).unwrap();
    for (change, named) in [
        (("version = \"1.0-1\" }", "version = \"1.1\" }"), "never found"),
        (("version = \"1.0-1\" }", "version = \">=1.0\" }"), "write \"1.0\""),
        (("name = \"demo\"", "name = \"dmeo\""), "never found"),
        (("deb = true", "rpm = true"), "package.rpm"),
    ] {
        assert!(text.contains(change.0), "{text}");
        std::fs::write(admin.path("/root/changed.toml"), text.replace(change.0, change.1)).unwrap();
        let said = admin.refused(&format!("{PUBLISH} /root/changed.toml"), 3);
        assert!(said.contains(named), "{change:?}: {said}");
    }
    let said = admin.refused(&format!("{PUBLISH} /root/demo.toml --severity low"), 3);
    assert!(said.contains("stands in its RELEASE.toml"), "{said}");
    std::fs::write(admin.path("/root/broken.deb"), "!<arch>\ndebian-binary   and nothing else").unwrap();
    let said = admin.refused(&format!("{PUBLISH} /root/broken.deb"), 3);
    assert!(said.contains("/root/broken.deb cannot be read"), "{said}");

    // A slip of the hand makes no group.
    admin.done(INVITE);
    let said = admin.refused(&INVITE.replace("office", "offcie"), 3);
    assert!(said.contains("there are: office") && said.contains("group add offcie"), "{said}");
}

#[test]
fn the_admins_day_leads_from_nothing_to_a_package_on_two_machines() {
    assert!(DAY.iter().all(|(_, line)| line.matches(" --").count() <= 2), "no line has more than two options");
    let days = std::env::var(STARTS).ok().and_then(|number| number.parse().ok()).unwrap_or(1);
    // A long run comes to every family early: UPSWARM_STARTS=20 is 20 days of each.
    let families = [Family::V4, Family::V6, Family::Both, Family::LinkLocal];
    for day in 1..=days {
        for family in families {
            let Some(office) = office(&["admin", "pc1", "pc2"], family) else { return };
            let admin = office.machine("admin");
            demo_package(admin, 1);
            let (mut running, mut token) = (Vec::new(), String::new());
            for (place, line) in DAY {
                for machine in office.machines.iter().filter(|machine| machine.name.starts_with(place)) {
                    let line = line.replace("TOKEN", &token);
                    if line == RUN {
                        running.push(start_coordinator(machine, &line).0);
                    } else if line.contains(" run ") {
                        running.push(machine.start(&line));
                    } else {
                        let said = machine.done(&format!("cd /root && {line}"));
                        if said.starts_with("upswarm1:") {
                            token = said;
                        }
                    }
                }
                if line.contains("node run") {
                    wait_for_reports(admin, 2);
                }
            }
            let began = std::time::Instant::now();
            for name in ["pc1", "pc2"] {
                wait::until("the package to be installed", INSTALLED_WITHIN, || {
                    let output = office.machine(name).run("dpkg-query -W -f '${Version} ${db:Status-Status}' demo");
                    let said = String::from_utf8_lossy(&output.stdout).into_owned();
                    if said == "1.0-1 installed" {
                        return Ok(());
                    }
                    Err(admin.done(DAY[7].1))
                });
            }
            println!(
                "day {day} of {days}, {family:?}: installed on both machines {:.1} s after the last line",
                began.elapsed().as_secs_f64()
            );
        }
    }
}

fn devices(admin: &Machine) -> Vec<Value> {
    json(&admin.done(&format!("{} --json", DAY[7].1)))["devices"].as_array().cloned().unwrap_or_default()
}

fn wait_for_reports(admin: &Machine, machines: usize) {
    wait::until("every machine to have reported", WITHIN, || {
        let heard = devices(admin).iter().filter(|device| !device["last_seen_s"].is_null()).count();
        if heard == machines { Ok(()) } else { Err(format!("{heard} of {machines}")) }
    });
}

/// Case 20: no machine has an address but those that interfaces give themselves, and one has a second interface.
#[test]
fn machines_with_nothing_but_link_local_addresses_find_each_other_and_share() {
    let Some(office) = office(&["admin", "pc1", "pc2", "pc3"], Family::LinkLocal) else { return };
    let admin = office.machine("admin");
    admin.done(INIT);
    let (coordinator, _) = start_coordinator(admin, RUN);
    let invited = json(&admin.done(&format!("{INVITE} --uses 3 --json")));
    let addresses = listens_on(&serde_json::json!({ "listen": invited["addresses"] }));
    assert!(
        !addresses.is_empty() && addresses.iter().all(|address| address.starts_with("/ip6/fe80::")),
        "{addresses:?}"
    );
    assert!(invited["warnings"][0].as_str().is_some_and(|said| said.contains("on this LAN only")), "{invited}");
    let pcs = ["pc1", "pc2", "pc3"].map(|name| office.machine(name));
    // The other interface comes first in the list of one machine, and leads nowhere.
    pcs[0].ip(&["link", "add", "aaa", "type", "veth", "peer", "name", "aab"]);
    pcs[0].ip(&["link", "set", "aab", "up"]);
    pcs[0].ip(&["link", "set", "aaa", "up"]);
    for machine in pcs {
        machine.done(&DAY[3].1.replace("TOKEN", invited["token"].as_str().unwrap()));
    }
    // Without the coordinator's hints: by multicast alone.
    assert!(coordinator.stop().success());
    let _running: Vec<_> = pcs.iter().map(|machine| machine.start(DAY[4].1)).collect();
    for machine in pcs {
        wait::until("each machine to be connected to the other two", WITHIN, || {
            let output = machine.run("upswarm node status --data-dir /var/lib/upswarm --json");
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned());
            }
            let status = json(String::from_utf8_lossy(&output.stdout).trim());
            let peers = status["peers"].as_array().cloned().unwrap_or_default();
            let members = peers.iter().filter(|peer| peer["kind"] == "member").count();
            if members == 2 { Ok(()) } else { Err(status.to_string()) }
        });
    }
    let (_coordinator, _) = start_coordinator(admin, RUN);
    wait_for_reports(admin, 3);
    let package = demo_package(admin, 1);
    admin.done(&format!("{PUBLISH} {package}"));
    admin.done(&DAY[6].1.replace("everyone", "office"));
    for machine in pcs {
        wait::until("the package to be installed", INSTALLED_WITHIN, || {
            let output = machine.run("dpkg-query -W -f '${Version} ${db:Status-Status}' demo");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            if said == "1.0-1 installed" { Ok(()) } else { Err(admin.done(DAY[7].1)) }
        });
    }
}

/// Case 21.
#[test]
fn a_machine_whose_address_changes_is_back_within_five_seconds() {
    let Some(office) = office(&["admin", "pc1", "pc2"], Family::V4) else { return };
    let (admin, pc1) = (office.machine("admin"), office.machine("pc1"));
    admin.done(INIT);
    let (_coordinator, _) = start_coordinator(admin, RUN);
    let token = admin.done(DAY[2].1);
    let mut running = Vec::new();
    for machine in [pc1, office.machine("pc2")] {
        machine.done(&DAY[3].1.replace("TOKEN", &token));
        running.push(machine.start(DAY[4].1));
    }
    wait_for_reports(admin, 2);
    let package = demo_package(admin, 1);
    // As DHCP does on another network: the old address goes, a new one comes.
    pc1.ip(&["address", "del", &format!("{}/24", pc1.v4), "dev", "eth0"]);
    pc1.ip(&["address", "add", "10.79.0.112/24", "dev", "eth0"]);
    let moved = std::time::Instant::now();
    admin.done(&format!("{PUBLISH} {package}"));
    admin.done(DAY[6].1);
    wait::closely("the machine that has moved to hear of the release", Duration::from_secs(5), || {
        let devices = devices(admin);
        let device = devices.iter().find(|device| device["label"] == "pc1").ok_or("not heard of")?;
        match device["deployments"].as_array().map(Vec::len) {
            Some(1..) => Ok(()),
            _ => Err(device.to_string()),
        }
    });
    println!("back after {:.1} s", moved.elapsed().as_secs_f64());
}

/// Case 41.
#[test]
fn joining_for_the_service_says_so_and_nobody_else_runs_it() {
    let Some(office) = office(&["admin", "pc1"], Family::V4) else { return };
    let (admin, pc1) = (office.machine("admin"), office.machine("pc1"));
    admin.done(INIT);
    let (_coordinator, _) = start_coordinator(admin, RUN);
    let token = admin.done(DAY[2].1);
    let as_service = "--installer-dir /var/lib/upswarm-installer --owner nobody";
    let said = pc1.done(&format!("{} {as_service}", DAY[3].1.replace("TOKEN", &token)));
    assert!(said.contains("start it: systemctl enable --now upswarm-installer upswarm-node"), "{said}");
    let said = pc1.refused(DAY[4].1, 3);
    assert!(said.contains("belongs to nobody") && said.contains("systemctl"), "{said}");
    assert_eq!(
        pc1.done("find /var/lib/upswarm ! -user nobody"),
        "",
        "nothing was left for the service to stumble over"
    );
}

/// Case 35: manual pages; the rest of it is the package's own test.
#[test]
fn manual_pages_and_completions_come_from_the_same_source_as_the_help() {
    let Some(office) = office(&["admin"], Family::V4) else { return };
    let admin = office.machine("admin");
    admin.done("mkdir /root/man && upswarm man /root/man");
    let page = |name: &str| std::fs::read_to_string(admin.path(&format!("/root/man/{name}.1"))).unwrap();
    assert!(page("upswarm-publish").contains("RELEASE.toml") && page("upswarm-node-join").contains("data\\-dir"));
    assert!(page("upswarm").contains("upswarm\\-publish"), "the first page names the others");
    for shell in ["bash", "zsh", "fish"] {
        let text = admin.done(&format!("upswarm completions {shell}"));
        assert!(text.contains("publish") && text.contains("data-dir"), "{shell}");
    }
}
