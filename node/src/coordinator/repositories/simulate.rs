//! What real apt would do on a machine with a snapshot, without doing it: on a root of its own, made of the snapshot's indexes and
//! of what the machine has told.
//!
//! Inventories name packages and versions. What an installed version depends on is read from an index that still names it; where
//! none does, apt knows less than on the machine, and the answer is [`Simulated::partial`]. The machine's own installer simulates
//! again before it acts, so that a wrong guess here costs an update that is not done, never one that breaks something.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};
use upswarm_protocol::catalog::PackageKind;
use upswarm_protocol::version;

use super::fleet::{Offer, State};
use super::snapshot::Snapshot;
use super::status::Status;
use crate::apt_setup;
use crate::sys::{Ended, Program, find};
use crate::upstream::compression::Compression;
use crate::upstream::is_architecture;
use crate::upstream::packages::Package;
use crate::upstream::plan::{self, Step};

/// For one run of apt; real ones take a second.
const PATIENCE: Duration = Duration::from_secs(300);
/// The most bytes that are kept of what apt prints: a whole distribution's upgrade has 1 MB.
const MAX_OUTPUT: usize = 16 << 20;

/// A private root for apt.
pub(crate) struct Apt {
    root: tempfile::TempDir,
    program: PathBuf,
}

/// What apt would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Simulated {
    /// What would be unpacked, in apt's order.
    pub(crate) installs: Vec<Install>,
    /// Names of packages that would be removed.
    pub(crate) removes: Vec<String>,
    /// Why apt does nothing.
    pub(crate) refused: Option<String>,
    /// Installed packages of which no index tells what they depend on.
    pub(crate) partial: usize,
}

/// A package that would be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Install {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) arch: String,
    /// The version that is there, if one is.
    pub(crate) before: Option<String>,
}

impl Install {
    /// How the machine gets it.
    pub(crate) fn kind(&self) -> Kind {
        match &self.before {
            None => Kind::New,
            Some(before) if version::compare(PackageKind::Deb, before, &self.version).is_gt() => Kind::Back,
            Some(_) => Kind::Upgrade,
        }
    }
}

/// How a package comes to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    New,
    Upgrade,
    /// A later version goes.
    Back,
}

/// A version and how apt is to take it.
pub(crate) struct Pin<'a> {
    pub(crate) package: &'a Package,
    pub(crate) priority: i32,
}

impl<'a> Pin<'a> {
    /// It does not come.
    pub(crate) fn not(package: &'a Package) -> Self {
        Self { package, priority: -1 }
    }

    /// It comes in place of a later one too.
    pub(crate) fn back(package: &'a Package) -> Self {
        Self { package, priority: apt_setup::priority(true).into() }
    }
}

impl Apt {
    /// Makes the root and has apt read the snapshot. `archs` are dpkg's, the machine's own first. Blocks.
    pub(crate) fn new(snapshot: &Snapshot, suite: &str, archs: &[String]) -> anyhow::Result<Self> {
        let program = find("apt-get").context(
            "apt-get is not on this machine, and only apt knows what apt would do; install apt here, or run the coordinator on \
             Debian or Ubuntu",
        )?;
        let root = tempfile::Builder::new().prefix("upswarm-apt-").tempdir().context("making a root for apt")?;
        let apt = Self { root, program };
        apt.lay_out(snapshot, suite, archs).context("making a root for apt")?;
        let said = apt.run(&["update"])?;
        match said {
            (Ended::Code(0), _) => Ok(apt),
            (ended, text) => bail!("apt cannot read the snapshot ({ended:?}): {}", last_lines(&text)),
        }
    }

    fn lay_out(&self, snapshot: &Snapshot, suite: &str, archs: &[String]) -> anyhow::Result<()> {
        // They go into apt's configuration, which can name programs to run.
        if let Some(odd) = archs.iter().find(|arch| !is_architecture(arch)) {
            bail!("{odd:?} is no architecture");
        }
        for dir in [
            "etc/apt/apt.conf.d",
            "etc/apt/preferences.d",
            "etc/apt/sources.list.d",
            "etc/apt/trusted.gpg.d",
            "var/lib/apt/lists/partial",
            "var/cache/apt/archives/partial",
            "var/lib/dpkg",
            "var/log/apt",
        ] {
            fs::create_dir_all(self.at(dir))?;
        }
        let dists = self.at("repository/dists").join(suite);
        let mut components: BTreeSet<&str> = BTreeSet::new();
        let mut list = String::new();
        for index in &snapshot.facts.indexes {
            // apt wants the plain file to be named too, and reads it in its place without making a copy.
            let path = index.path.strip_suffix(Compression::of(&index.path).ending()).unwrap_or(&index.path);
            let (sha256, len) = unpack(&snapshot.dir.join(index.file_name()), &dists.join(path))?;
            components.extend(index.path.split("/binary-").next());
            list.push_str(&format!(" {sha256} {len} {path}\n"));
        }
        let components: Vec<&str> = components.into_iter().collect();
        let components = components.join(" ");
        // The signature was verified when the snapshot was made; this root needs none, and no program that reads one.
        let release = format!(
            "Suite: {suite}\nCodename: {suite}\nArchitectures: {} all\nComponents: {components}\n\
             Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n{list}",
            archs.join(" ")
        );
        fs::write(dists.join("Release"), release)?;
        let root = self.root.path().display();
        let source =
            format!("deb [trusted=yes arch={}] file:{root}/repository {suite} {components}\n", archs.join(","));
        fs::write(self.at("etc/apt/sources.list"), source)?;
        let foreign: String = archs.iter().map(|arch| format!("\"{arch}\"; ")).collect();
        let native = archs.first().map_or("amd64", String::as_str);
        let config = format!(
            "Dir \"{root}\";\nDir::State::status \"{root}/var/lib/dpkg/status\";\nDir::Bin::methods \"/usr/lib/apt/methods\";\n\
             APT::Architecture \"{native}\";\nAPT::Architectures {{ {foreign}}};\nAPT::Sandbox::User \"root\";\n\
             APT::Install-Recommends \"false\";\nAPT::Get::Always-Include-Phased-Updates \"true\";\nDebug::NoLocking \"true\";\n\
             Acquire::Languages \"none\";\nAcquire::Check-Valid-Until \"false\";\nAPT::Cmd::Disable-Script-Warning \"true\";\n\
             Acquire::AllowInsecureRepositories \"true\";\nDir::Ignore-Files-Silently:: \".*\";\n"
        );
        fs::write(self.at("apt.conf"), config)?;
        fs::write(self.at("var/lib/dpkg/status"), "")?;
        Ok(())
    }

    /// What a whole upgrade would do on a machine in this state, with these packages installed too, and these versions pinned.
    /// `known` are indexes that may tell of installed versions. Blocks.
    pub(crate) fn upgrade(
        &self,
        state: &State,
        pins: &[Pin<'_>],
        install: &[String],
        known: &[&Offer],
    ) -> anyhow::Result<Simulated> {
        let status = Status::of(state, known);
        let stanza = |pin: &Pin<'_>| {
            let Pin { package, priority } = pin;
            let arch = if package.arch == "all" { String::new() } else { format!(":{}", package.arch) };
            format!("Package: {}{arch}\nPin: version {}\nPin-Priority: {priority}\n\n", package.name, package.version)
        };
        let preferences: String = pins.iter().map(stanza).collect();
        fs::write(self.at("var/lib/dpkg/status"), status.text).context("writing what is installed")?;
        fs::write(self.at("etc/apt/preferences"), preferences).context("writing what is to stay")?;
        let back = pins.iter().any(|pin| pin.priority > 1000).then_some("--allow-downgrades");
        let args = ["-s", "-q", "-y"].into_iter().chain(back).chain(["dist-upgrade", "--"]);
        let args: Vec<&str> = args.chain(install.iter().map(String::as_str)).collect();
        let (ended, text) = self.run(&args)?;
        let mut simulated = read(&text)?;
        simulated.partial = status.partial;
        if ended != Ended::Code(0) {
            simulated.refused = Some(last_lines(&text));
        }
        Ok(simulated)
    }

    fn run(&self, args: &[&str]) -> anyhow::Result<(Ended, String)> {
        let config = self.at("apt.conf").display().to_string();
        let env = [("APT_CONFIG", config.as_str()), ("LC_ALL", "C"), ("DEBIAN_FRONTEND", "noninteractive")];
        let args = args.iter().map(OsString::from).collect();
        let program = Program { path: &self.program, args, env: &env, timeout: PATIENCE, cancel: None };
        let mut said: Vec<u8> = Vec::new();
        let ended = program.run(&mut |piece| {
            let room = MAX_OUTPUT.saturating_sub(said.len());
            said.extend_from_slice(piece.get(..piece.len().min(room)).unwrap_or_default());
        });
        let ended = ended.with_context(|| format!("running {}", self.program.display()))?;
        Ok((ended, String::from_utf8_lossy(&said).into_owned()))
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(Path::new(path))
    }
}

/// Writes an index as it is without its compression; returns its SHA-256 in hex and its bytes.
fn unpack(from: &Path, to: &Path) -> anyhow::Result<(String, u64)> {
    fs::create_dir_all(to.parent().context("a folder")?)?;
    let mut input = Compression::of(&from.to_string_lossy()).open(File::open(from)?)?;
    let (mut output, mut hash, mut len) = (File::create(to)?, Sha256::new(), 0);
    loop {
        let piece = input.fill_buf()?;
        if piece.is_empty() {
            return Ok((hex::encode(hash.finalize()), len));
        }
        hash.update(piece);
        output.write_all(piece)?;
        let count = piece.len();
        len += count as u64;
        input.consume(count);
    }
}

/// What the steps of apt's plan are.
fn read(text: &str) -> anyhow::Result<Simulated> {
    let mut found = Simulated::default();
    for step in plan::steps(text).map_err(anyhow::Error::msg)? {
        match step {
            Step::Remove { name } => found.removes.push(name),
            // Inventories lack fields by which apt tells builds of one version apart: to it, that is an upgrade.
            Step::Install { before, version, .. } if before.as_ref() == Some(&version) => {}
            Step::Install { name, before, version, arch } => {
                found.installs.push(Install { name, version, arch, before });
            }
        }
    }
    Ok(found)
}

/// The end of what apt said, as one line.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.get(lines.len().saturating_sub(6)..).unwrap_or_default().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_prints_is_read() {
        let text = "Reading package lists...\nInst libssl3 [3.0.9-1] (3.0.15-1~deb12u1 Debian-Security:12/oldstable [amd64]) []\n\
            Inst libc6:i386 [2.36] (2.37 Debian:12 [i386])\nInst new-thing (1:2.0 Test:stable [all])\n\
            Inst old-thing [1.1] (1.0 Test:stable [all])\n\
            Inst same [2.0] (2.0 Test:stable [all])\nRemv old:i386 [1.0]\nConf libssl3 (3.0.15-1~deb12u1 x [amd64])\n";
        let found = read(text).unwrap();
        let installs: Vec<String> = found
            .installs
            .iter()
            .map(|one| format!("{} {} {} {:?}", one.name, one.version, one.arch, one.kind()))
            .collect();
        assert_eq!(
            installs,
            [
                "libssl3 3.0.15-1~deb12u1 amd64 Upgrade",
                "libc6 2.37 i386 Upgrade",
                "new-thing 1:2.0 all New",
                "old-thing 1.0 all Back"
            ]
        );
        assert_eq!(found.removes, ["old:i386"]);
    }
}
