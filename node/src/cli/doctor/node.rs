//! Checks of a node: its settings, its files, what it needs on the machine, and what it says of itself.

use std::path::Path;

use serde_json::Value;

use super::{Findings, machine};
use crate::cli::output::count;
use crate::config::{Config, NodeDir, time_zone};
use crate::local_api::{Client, Request};
use crate::sys;

pub(super) fn check(dir: &Path, findings: &mut Findings) {
    let node = NodeDir::new(dir);
    machine::clock(findings);
    machine::writable(dir, findings);
    let config = match Config::read(&node.config()) {
        Ok(config) => config,
        Err(error) => {
            return findings.wrong(
                "node.toml",
                format!("{error:#}"),
                "mend what it names: unknown fields are errors, and it must be a file itself",
            );
        }
    };
    findings.right("node.toml", "can be read");
    machine::room(dir, config.store.reserve.0, findings);
    settings(&config, findings);
    identity(&node, &config, findings);
    package_managers(findings);
    match &config.installer_socket {
        Some(socket) => findings.holds(
            "installer",
            socket.exists(),
            &socket.display().to_string(),
            (format!("nothing listens at {}", socket.display()), "start it: systemctl start upswarm-installer"),
        ),
        None => findings.right("installer", "the node installs in its own process"),
    }
    match Client::connect(dir).and_then(|mut client| client.ask(&Request::Status {})) {
        Ok(status) => {
            findings.right("process", "the node runs and answers");
            running(&status, findings);
        }
        Err(error) => findings.wrong(
            "process",
            error.to_string(),
            format!("start it: systemctl start upswarm-node, or upswarm node run --data-dir {}", dir.display()),
        ),
    }
}

fn settings(config: &Config, findings: &mut Findings) {
    match time_zone(&config.time_zone) {
        Ok(_) => {
            findings.right("time zone", if config.time_zone.is_empty() { "the machine's" } else { &config.time_zone })
        }
        Err(error) => findings.wrong(
            "time zone",
            format!("{error:#}"),
            "write for example time_zone = \"Europe/Berlin\" in node.toml",
        ),
    }
    machine::web(&config.proxy, config.ca_file.as_deref(), findings);
    if let Some(file) = &config.proxy.credentials_file {
        findings.holds(
            "proxy's password",
            file.exists(),
            "its file is there",
            (format!("{} is missing", file.display()), "write it: one line, user:password"),
        );
    }
    let command = config.restart.command.first().map(String::as_str).unwrap_or_default();
    let there = Path::new(command).is_absolute() && Path::new(command).exists() || sys::find(command).is_some();
    findings.holds(
        "restart",
        there,
        command,
        (
            format!("the command {command:?} is not there: a restart that an update wants would not come"),
            "set restart.command in node.toml",
        ),
    );
    findings.holds(
        "listening",
        !config.listen.is_empty(),
        &config.listen.join(", "),
        (
            "it listens nowhere: other machines cannot ask it".to_owned(),
            "take listen out of node.toml, or name addresses there",
        ),
    );
    findings.holds(
        "mDNS",
        config.mdns || !config.peers.is_empty(),
        "finds neighbours",
        (
            "mdns is off and no peers are named: it finds others by the coordinator alone".to_owned(),
            "set mdns = true, or name peers",
        ),
    );
    findings.holds(
        "quota",
        config.store.quota.0 > 1 << 30,
        "room for payloads",
        ("the store's quota is below 1 GiB: large updates do not fit".to_owned(), "raise store.quota in node.toml"),
    );
}

fn identity(node: &NodeDir, config: &Config, findings: &mut Findings) {
    findings.holds(
        "identity",
        node.key().exists(),
        "its key is there",
        ("its key is missing".to_owned(), "join again: upswarm node join TOKEN --again"),
    );
    if config.installer_socket.is_some() {
        findings.holds(
            "roots",
            node.roots().exists(),
            "its roots of trust are there for the installer",
            ("the installer has no roots of trust to begin with".to_owned(), "start the node once: it writes them"),
        );
    }
    for (check, path) in [("journal", node.journal()), ("store", node.store())] {
        findings.holds(
            check,
            path.exists(),
            "is there",
            (format!("{} is not there yet", path.display()), "the first run makes it: upswarm node run"),
        );
    }
    findings.holds(
        "coordinator's address",
        !config.coordinator.addresses.is_empty(),
        &config.coordinator.addresses.join(", "),
        (
            "none is known".to_owned(),
            "join again with a token that names one: upswarm coordinator invite --address HOST:PORT",
        ),
    );
}

fn package_managers(findings: &mut Findings) {
    let found: Vec<&str> =
        ["dpkg", "rpm", "flatpak", "snap"].into_iter().filter(|name| sys::find(name).is_some()).collect();
    findings.holds(
        "package managers",
        !found.is_empty(),
        &found.join(", "),
        ("none is installed here".to_owned(), "files and commands can be installed all the same"),
    );
    if found.contains(&"dpkg") {
        machine::program("apt-get", "updates of repositories cannot be installed", "apt", findings);
    }
}

/// What the node says of itself.
fn running(status: &Value, findings: &mut Findings) {
    let list = |name: &str| status[name].as_array().map(Vec::as_slice).unwrap_or_default();
    findings.holds(
        "coordinator",
        status["coordinator"] == true,
        "connected",
        (
            "it is not connected to the coordinator; it may reach it through neighbours or by HTTP".to_owned(),
            "upswarm explain says why; look at the firewall: port 4701 and 4702 of the coordinator",
        ),
    );
    let members = status["members"].as_u64().unwrap_or(0);
    findings.holds(
        "neighbours",
        members > 0,
        &format!("{members} machines of its site"),
        (
            "it sees nobody of its site".to_owned(),
            "if others are there: look at the firewall, port 4410 by TCP and UDP, and multicast DNS",
        ),
    );
    findings.holds(
        "catalog",
        status["index_version"].as_u64() > Some(0),
        &format!("index {}", status["index_version"]),
        ("it has no catalog yet".to_owned(), "upswarm explain says what is missing"),
    );
    let alarms: Vec<&str> = list("alarms").iter().filter_map(Value::as_str).collect();
    findings.holds("alarms", alarms.is_empty(), "it has none", (alarms.join("; "), "see what each says"));
    let failed =
        list("deployments").iter().filter(|known| known["state"] == "Failed" || known["state"] == "Stalled").count();
    findings.holds(
        "updates",
        failed == 0,
        "none has failed",
        (
            count(failed, "update has failed or stands still", "updates have failed or stand still"),
            "upswarm explain says why; try again: upswarm node retry RELEASE",
        ),
    );
    match status["disk"]["trouble"].as_str() {
        Some(trouble) => findings.wrong("disk trouble", trouble, "free some room, or look at dmesg"),
        None => findings.right("disk trouble", "none"),
    }
    let rotten = status["disk"]["rotten"].as_u64().unwrap_or(0);
    findings.holds(
        "rot",
        rotten == 0,
        "nothing has rotted",
        (format!("{rotten} chunks had rotted and were fetched again"), "watch the disk: smartctl -a"),
    );
    findings.holds(
        "link",
        status["conditions"]["metered"] != true,
        "not metered",
        ("the link is metered: payloads wait".to_owned(), "set metered = \"no\" in node.toml if that is wrong"),
    );
    findings.holds(
        "system restart",
        status["system_restart"].is_null(),
        "none is wanted",
        ("the operating system waits for a restart".to_owned(), "restart the machine when it suits"),
    );
}
