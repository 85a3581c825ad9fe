//! `scan`: what is installed on this machine, without node or coordinator.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::time::Wall;

use super::output::Table;
use super::{CliError, Common};
use crate::inventory::{KINDS, Scan, cyclonedx, scan, uptime_s};
use crate::local_api::{Client, Request};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm scan
  upswarm scan --kind deb,flatpak --json
  upswarm scan --root /mnt/image --cyclonedx > image.cdx.json
  upswarm scan --now --data-dir /var/lib/upswarm";

/// Show what is installed on this machine, and facts about it. Needs no node and no coordinator.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// Scan the system below this directory instead of the running one.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Print a CycloneDX 1.6 bill of materials as JSON.
    #[arg(long, conflicts_with_all = ["json", "output"])]
    cyclonedx: bool,
    /// Ask the node that runs on this machine to look at once, not within a minute; prints nothing of what it finds.
    #[arg(long, requires = "data_dir", conflicts_with_all = ["root", "cyclonedx", "kind"])]
    now: bool,
    /// The node's data directory, for --now.
    #[arg(long, value_name = "DIR", requires = "now")]
    data_dir: Option<PathBuf>,
    /// Look only for packages of these kinds.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    kind: Vec<Kind>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    Deb,
    Rpm,
    Flatpak,
    Snap,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    if let Some(dir) = args.data_dir.as_ref().filter(|_| args.now) {
        let answer = Client::connect(dir)?.ask(&Request::Rescan {})?;
        common.print(&answer, "the node looks at this machine now");
        return Ok(());
    }
    if let Some(root) = args.root.as_ref().filter(|root| !root.is_dir()) {
        return Err(CliError::Refused(format!("{} is no directory; name one with --root", root.display())));
    }
    let kinds: Vec<PackageKind> = args.kind.iter().map(|kind| kind.package()).collect();
    let live = args.root.is_none();
    let scan = &scan(args.root.as_deref(), if kinds.is_empty() { &KINDS } else { &kinds });
    if args.cyclonedx {
        for notice in &scan.notices {
            eprintln!("upswarm: {notice}");
        }
        let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let made = Wall(u64::try_from(made.as_millis()).unwrap_or(u64::MAX));
        let bom = cyclonedx::bom(scan, cyclonedx::serial(scan), made);
        common.print_json(&bom);
        return Ok(());
    }
    let uptime = if live { uptime_s() } else { None };
    common.list(&to_json(scan, uptime), &packages(scan), || text(scan, uptime))
}

impl Kind {
    fn package(self) -> PackageKind {
        match self {
            Kind::Deb => PackageKind::Deb,
            Kind::Rpm => PackageKind::Rpm,
            Kind::Flatpak => PackageKind::Flatpak,
            Kind::Snap => PackageKind::Snap,
        }
    }
}

fn to_json(scan: &Scan, uptime: Option<u64>) -> serde_json::Value {
    let inventory = &scan.inventory;
    let packages = inventory.packages().iter().flat_map(|(key, versions)| {
        versions.iter().map(|version| {
            json!({
                "kind": word(key.kind),
                "name": key.name.as_str(),
                "version": version.as_str(),
                "arch": key.arch.as_str(),
                "source": scan.sources.get(key).unwrap_or(&key.name).as_str(),
                "purl": inventory.purl(key, version),
            })
        })
    });
    let facts: BTreeMap<&str, &str> =
        inventory.facts().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    json!({
        "digest": inventory.digest().to_string(),
        "packages": packages.collect::<Vec<_>>(),
        "facts": facts,
        "pending_restart": inventory.pending_restart,
        "uptime_s": uptime,
        "notices": scan.notices,
    })
}

fn packages(scan: &Scan) -> Table {
    let inventory = &scan.inventory;
    let mut table = Table::new(&["KIND", "NAME", "VERSION", "ARCH", "PURL"]);
    for (key, versions) in inventory.packages() {
        for version in versions {
            table.row([
                word(key.kind).to_owned(),
                key.name.to_string(),
                version.to_string(),
                key.arch.to_string(),
                inventory.purl(key, version),
            ]);
        }
    }
    table
}

/// A table of the packages, then the facts, then what could not be read.
fn text(scan: &Scan, uptime: Option<u64>) -> String {
    let inventory = &scan.inventory;
    let mut facts = Table::new(&["FACT", "VALUE"]);
    for (name, value) in inventory.facts() {
        facts.row([name.to_string(), value.to_string()]);
    }
    facts.row(["restart pending".into(), if inventory.pending_restart { "yes" } else { "no" }.into()]);
    if let Some(seconds) = uptime {
        facts.row(["uptime".into(), format!("{seconds} s")]);
    }
    let count: usize = inventory.packages().values().map(Vec::len).sum();
    let mut text = format!("{}\n\n{}\n\npackages: {count}\n", packages(scan).text(), facts.text());
    for notice in &scan.notices {
        text.push_str(&format!("NOTICE: {notice}\n"));
    }
    text.trim_end().to_owned()
}

fn word(kind: PackageKind) -> &'static str {
    match kind {
        PackageKind::Deb => "deb",
        PackageKind::Rpm => "rpm",
        PackageKind::Flatpak => "flatpak",
        PackageKind::Snap => "snap",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Verb};
    use super::*;

    #[test]
    fn the_verb_is_understood() {
        let parsed = Cli::try_parse_from(["upswarm", "scan", "--kind", "deb,snap", "--json"]).expect("a good call");
        assert!(parsed.common.is_json());
        let Verb::Scan(args) = parsed.verb else { panic!("another verb") };
        assert!(matches!(*args.kind, [Kind::Deb, Kind::Snap]));
        for bad in [&["--now"][..], &["--data-dir", "d"], &["--cyclonedx", "--json"], &["--kind", "msi"], &["--root"]] {
            let call = ["upswarm", "scan"].iter().chain(bad);
            assert!(Cli::try_parse_from(call).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn text_and_json_show_packages_facts_and_notices() {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in [
            (
                "var/lib/dpkg/status",
                "Package: zlib1g\nStatus: install ok installed\nVersion: 1:1.2\nSource: zlib\n\nX\n",
            ),
            ("etc/os-release", "ID=debian\nVERSION_ID=12\n"),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            std::fs::write(path, text).expect("a file");
        }
        let scan = scan(Some(root.path()), &KINDS);
        let text = text(&scan, Some(7));
        for wanted in
            ["deb   zlib1g  1:1.2", "pkg:deb/debian/zlib1g@1:1.2?distro=debian-12", "os.id", "uptime", "NOTICE: "]
        {
            assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
        }
        let json = to_json(&scan, None);
        assert_eq!(json["packages"][0]["source"], "zlib");
        assert_eq!(json["packages"][0]["purl"], "pkg:deb/debian/zlib1g@1:1.2?distro=debian-12");
        assert_eq!(json["facts"]["os.version"], "12");
        assert_eq!((&json["pending_restart"], json["notices"].as_array().map(Vec::len)), (&false.into(), Some(1)));
    }
}
