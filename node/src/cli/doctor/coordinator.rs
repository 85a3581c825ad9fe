//! Checks of a coordinator: its files, its keys, its doors, its fleet.

use std::path::Path;

use upswarm_protocol::catalog::Root;

use super::{Findings, machine};
use crate::api::fleet::Standing;
use crate::api::overview::Overview;
use crate::api::repositories::UpstreamRow;
use crate::api::status::RolloutView;
use crate::cli::output::{age, count};
use crate::clock::wall;
use crate::coordinator::audit_log;
use crate::coordinator::client::Client;
use crate::coordinator::directory::Directory;
use crate::coordinator::keys::{self, KeyUse};
use crate::net;
use crate::web::ProxyConfig;

const DAY_S: u64 = 86_400;
/// A root is renewed before this little of its life is left.
const ROOT_SOON_S: u64 = 60 * DAY_S;

pub(super) fn check(dir: &Path, findings: &mut Findings) {
    machine::writable(dir, findings);
    machine::room(dir, 0, findings);
    machine::clock(findings);
    machine::web(&ProxyConfig::default(), None, findings);
    let directory = match Directory::existing(dir) {
        Ok(directory) => directory,
        Err(error) => return findings.wrong("data directory", format!("{error:#}"), "restore it from a copy"),
    };
    match directory.newest_root() {
        Ok((root, _)) => keys_of(&directory, &root, findings),
        Err(error) => findings.wrong("root of trust", format!("{error:#}"), "restore the directory roots from a copy"),
    }
    catalog(&directory, findings);
    log_of_decisions(&directory, findings);
    machine::program("dpkg-deb", "a .deb cannot be published from here", "dpkg", findings);
    machine::program("rpm", "an .rpm cannot be published from here", "rpm", findings);
    machine::program("apt-get", "snapshots of repositories cannot be tried", "apt", findings);
    running(&directory, findings);
}

fn log_of_decisions(directory: &Directory, findings: &mut Findings) {
    let (check, path) = ("log of decisions", directory.audit_log());
    let compare = "compare it with a backup or an export; see: upswarm audit verify";
    match audit_log::aside(&path) {
        Ok(aside) if aside.is_empty() => {}
        Ok(aside) => return findings.wrong(check, audit_log::aside_words(&aside), compare),
        Err(error) => return findings.wrong(check, error.to_string(), "run this as the coordinator's user"),
    }
    // Before the log: what the index names is in the log already.
    let signed = match directory.index() {
        Ok(index) => index.and_then(|(index, _)| index.audit),
        Err(error) => return findings.wrong(check, format!("{error:#}"), "restore the directory from a backup"),
    };
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && signed.is_none() => {
            return findings.right(check, "none is written yet");
        }
        Err(error) => return findings.wrong(check, format!("{}: {error}", path.display()), compare),
    };
    match audit_log::follow(std::io::BufReader::new(file), signed, |_, _| {}) {
        Ok(followed) => {
            let entries = followed.end.head.map_or(0, |head| head.entries);
            findings.right(check, format!("{entries} entries, each as it was written"));
        }
        Err(error) => findings.wrong(check, error.to_string(), compare),
    }
}

fn keys_of(directory: &Directory, root: &Root, findings: &mut Findings) {
    match directory.chain(root.version) {
        Ok(chain) => findings
            .right("root of trust", format!("version {}, {}", root.version, count(chain.len(), "root", "roots"))),
        Err(error) => findings.wrong("root of trust", format!("{error:#}"), "restore the directory roots from a copy"),
    }
    let left = root.expires.since(wall()).as_secs();
    let says = format!("it expires at {}", root.expires);
    match left {
        0 => findings.wrong("root's life", says, "renew it with the root keys: upswarm root renew"),
        _ => findings.holds(
            "root's life",
            left > ROOT_SOON_S,
            &says,
            (says.clone(), "renew it with the root keys: upswarm root renew"),
        ),
    }
    match directory.online_keys() {
        Ok(held) if held.iter().any(|key| root.online.contains(&keys::public(key))) => {
            findings.right("online key", format!("{} here", count(held.len(), "key is", "keys are")));
        }
        Ok(_) => findings.wrong(
            "online key",
            "none of those that are here is named by the root",
            "put the right one back into keys/, or let the root name this one: upswarm root rotate online",
        ),
        Err(error) => findings.wrong("online key", format!("{error:#}"), "restore keys/ from a copy"),
    }
    let offline = [KeyUse::Approver, KeyUse::Publisher, KeyUse::Root];
    let here: Vec<&str> = offline
        .iter()
        .filter(|r#use| keys::file(&directory.keys(), **r#use, 1).exists())
        .map(|r#use| r#use.name())
        .collect();
    findings.holds(
        "offline keys",
        here.is_empty(),
        "none lie in the data directory",
        (
            format!(
                "{} keys lie here unencrypted: whoever reads this disk can approve updates for every machine",
                here.join(", ")
            ),
            "for demonstrations only; in earnest set up anew without --demo-keys",
        ),
    );
    let needed = usize::from(root.root.threshold);
    findings.holds(
        "root keys",
        root.root.keys.len() > needed,
        &format!("{needed} of {}", root.root.keys.len()),
        (format!("all {needed} are needed: one that is lost locks you out"), "add one: upswarm root add-key root"),
    );
}

fn catalog(directory: &Directory, findings: &mut Findings) {
    match directory.origins() {
        Ok(origins) if origins.is_empty() => {
            findings.look("catalog", "it names no origin yet", "start the coordinator once: upswarm coordinator run");
        }
        Ok(origins) => {
            findings.right("catalog", format!("names {}", count(origins.len(), "origin", "origins")));
            let far = origins.iter().any(|url| {
                let host = url.split("://").nth(1).unwrap_or_default();
                !["127.", "[::1]", "localhost"].iter().any(|near| host.starts_with(near))
            });
            findings.holds(
                "origins",
                far,
                "machines elsewhere can reach one",
                (
                    "all of them lead back to the machine that asks".to_owned(),
                    "run with --http 0.0.0.0:4702, or name the URL at which machines reach it: --origin-url",
                ),
            );
        }
        Err(error) => findings.wrong("catalog", format!("{error:#}"), "restore the data directory from a copy"),
    }
    match directory.payloads() {
        Ok(payloads) => {
            findings.right("payloads", format!("{} here", count(payloads.len(), "payload is", "payloads are")))
        }
        Err(error) => findings.wrong("payloads", format!("{error:#}"), "look at the disk"),
    }
    let arriving = std::fs::read_dir(directory.upload()).map(Iterator::count).unwrap_or(0);
    findings.holds(
        "uploads",
        arriving == 0,
        "none is under way",
        (
            count(arriving, "upload is under way, or was cut", "uploads are under way, or were cut"),
            "the next start removes what was cut",
        ),
    );
}

fn running(directory: &Directory, findings: &mut Findings) {
    let run = format!("upswarm coordinator run --data-dir {}", directory.path().display());
    match directory.is_served() {
        Ok(true) => findings.right("process", "a coordinator serves the directory"),
        Ok(false) => {
            return findings.wrong("process", "no coordinator serves the directory", format!("start it: {run}"));
        }
        Err(error) => return findings.wrong("process", format!("{error:#}"), "run this as the coordinator's user"),
    }
    match directory.run_info() {
        Some(info) => {
            let far = !info.listen.iter().all(|address| net::is_loopback(address));
            findings.holds(
                "listening",
                far,
                &info.listen.join(", "),
                ("on loopback alone: no other machine can join".to_owned(), "run it with --listen 0.0.0.0:4701"),
            );
        }
        None => findings.unknown("listening", "run.json cannot be read", "start the coordinator again"),
    }
    let asked = Client::of(directory.path()).and_then(|client| {
        super::super::runtime()?
            .block_on(async { Ok((client.overview().await?, client.upstreams().await?, client.invites().await?)) })
    });
    match asked {
        Ok((overview, upstreams, invites)) => {
            findings.right("admin door", "it answers");
            fleet(&overview, findings);
            upstreams.upstreams.iter().for_each(|row| repository(row, findings));
            findings.right("invitations", count(invites.tokens.len(), "token is about", "tokens are about"));
        }
        Err(error) => {
            findings.wrong("admin door", error.to_string(), format!("look at its log, and start it again: {run}"))
        }
    }
}

fn fleet(overview: &Overview, findings: &mut Findings) {
    match &overview.head {
        None => findings.wrong("head", "none is public", "look at the coordinator's log"),
        Some(head) => {
            let says = format!(
                "index {}, signed {} ago, good until {}",
                head.index_version,
                age(Some(head.age_s), ""),
                head.expires
            );
            findings.holds(
                "head",
                head.age_s < DAY_S,
                &says,
                (says.clone(), "look at alarms: the clock or the disk keeps it from signing"),
            );
        }
    }
    let machines = overview.fleet;
    findings.holds(
        "machines",
        machines > 0,
        &count(machines, "machine", "machines"),
        ("none has joined yet".to_owned(), "invite one: upswarm coordinator invite"),
    );
    let some = |number: usize, what: &str| format!("{number} of {machines} {what}");
    let number = |standing| overview.standings.get(&standing).copied().unwrap_or(0);
    for (check, found, what, todo) in [
        (
            "attention",
            number(Standing::Attention),
            "need attention",
            "see why: upswarm status --state failed, or the console",
        ),
        (
            "approval",
            number(Standing::Approval),
            "need something that nobody has decided about",
            "decide: upswarm missing",
        ),
        (
            "not known",
            number(Standing::Unknown),
            "have not told how they stand",
            "wait, or look at them: upswarm device list",
        ),
        (
            "silent",
            overview.silent,
            "were not heard of for a day",
            "retire those that are gone: upswarm device retire NAME",
        ),
    ] {
        findings.holds(check, found == 0, "none", (some(found, what), todo));
    }
    findings.holds(
        "connections",
        machines == 0 || overview.connected > 0,
        &some(overview.connected, "are connected"),
        ("no machine is connected".to_owned(), "look at the firewall: machines come to port 4701"),
    );
    findings.holds(
        "alarms",
        overview.open_alarms == 0,
        "none is open",
        (count(overview.open_alarms, "alarm is open", "alarms are open"), "look at them: upswarm alarms list"),
    );
    findings.holds(
        "names",
        overview.doubles.is_empty(),
        "no two machines have one name",
        (
            count(overview.doubles.len(), "name is borne by several machines", "names are borne by several machines"),
            "retire the silent one: upswarm device retire NAME",
        ),
    );
    let everything = overview.holds.iter().any(|hold| hold.group.is_none() && hold.release.is_none());
    findings.holds(
        "holds",
        overview.holds.is_empty(),
        "nothing is on hold",
        (
            if everything {
                "everything is on hold".to_owned()
            } else {
                count(overview.holds.len(), "hold stands", "holds stand")
            },
            "let it go on: upswarm resume",
        ),
    );
    let stopped = |rollout: &&RolloutView| rollout.held && rollout.bad_percent() > rollout.stop_above_percent;
    let stopped = overview.rollouts.iter().filter(stopped).count();
    findings.holds(
        "rollouts",
        stopped == 0,
        "none has stopped by itself",
        (
            count(stopped, "rollout has stopped by itself", "rollouts have stopped by themselves"),
            "see why: upswarm status; then resume, or take it back: upswarm approve --action uninstall",
        ),
    );
}

fn repository(row: &UpstreamRow, findings: &mut Findings) {
    let name = &row.name;
    if let Some(error) = &row.error {
        findings.look("repository", format!("{name}: the last sync failed: {error}"), "try again: upswarm sync run");
    } else if !row.pinned {
        findings.look(
            "repository",
            format!("{name} is not pinned in the root"),
            "pin it: upswarm sync add, with the root keys",
        );
    } else if row.snapshots.is_empty() {
        findings.look("repository", format!("{name} has no snapshot yet"), "upswarm sync run");
    } else if let Some(unfit) = row.certificates.iter().find_map(|known| known.unfit.as_ref()) {
        findings.look(
            "repository",
            format!("{name}: a certificate counts no more: {unfit}"),
            "add the vendor's new one: upswarm sync add",
        );
    } else {
        findings.right("repository", format!("{name}, synced {} ago", age(row.last_success_s, "never")));
    }
}
