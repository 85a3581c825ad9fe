//! Makes a release of what a release file says, once its payloads are known by hash and length.
//!
//! Every rule that can be checked without a machine is checked here or by the protocol's own validation, before anything is
//! signed. It reads no file.

use std::collections::BTreeMap;
use std::time::Duration;

use upswarm_protocol::catalog::{
    Applicability, Detect, ExitMeaning, ExitRule, FilePlacement, PackageKind, Payload, Piece, Platform, Recipe,
    Release, pieces,
};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::ids::PayloadId;

use super::{
    AppliesTable, Checked, Context, DetectTable, FileTable, InstallTable, ReleaseFile, ReleaseFileError,
    UninstallTable, list, refuse, text,
};
use crate::installer::is_package_file;
use crate::units;

const DEFAULT_LIFE: Duration = Duration::from_secs(180 * 86400);
const INSTALL_TIMEOUT: u32 = 3600;
const DETECT_TIMEOUT: u32 = 30;

impl ReleaseFile {
    /// The release of these payloads, which are in the order of [`ReleaseFile::sources`].
    pub(crate) fn build(&self, payloads: Vec<Payload>, context: Context) -> Checked<Release> {
        let life = self.life.as_deref().map(units::duration).transpose().map_err(ReleaseFileError)?;
        let detect = self.detect.iter().map(|rule| rule.build(&payloads)).collect::<Checked<Vec<_>>>()?;
        if detect.is_empty() {
            return refuse("a release has at least one [[detect]] rule, else nobody can tell that it is installed");
        }
        let applicability = self.applies.iter().map(AppliesTable::build).collect::<Checked<Vec<_>>>()?;
        let install = self.install.build(&payloads)?;
        let uninstall = self.uninstall.as_ref().map(|table| table.build(payloads.len())).transpose()?;
        let cves = self.cves.iter().map(|cve| text("cves", cve)).collect::<Checked<Vec<_>>>()?;
        for (field, value) in [("product", &self.product), ("version", &self.version)] {
            if value.trim().is_empty() {
                return refuse(format!("{field} is empty"));
            }
        }
        let mut release = Release {
            product: text("product", &self.product)?,
            version: text("version", &self.version)?,
            counter: context.counter,
            title: text("title", &self.title)?,
            classification: self.classification,
            severity: self.severity,
            cves: list("cves", cves)?,
            issued: context.issued,
            expires: context.issued + life.unwrap_or(DEFAULT_LIFE),
            platform: Platform {
                os: text("platform.os", &self.platform.os)?,
                arch: text("platform.arch", &self.platform.arch)?,
            },
            payloads: list("payload", payloads)?,
            applicability: list("applies", applicability)?,
            detect: list("detect", detect)?,
            install,
            uninstall,
            restart: self.restart,
            depends: list("depends", context.depends)?,
            supersedes: list("supersedes", context.supersedes)?,
        };
        // Said in what is signed, so that older machines know it too.
        if matches!(release.install, Recipe::Deb { .. } | Recipe::Rpm { .. }) {
            release.uninstall = release.removal();
        }
        Ok(release)
    }
}

impl DetectTable {
    fn build(&self, payloads: &[Payload]) -> Checked<Detect> {
        let kinds = [self.file.is_some(), self.command.is_some(), self.package.is_some()];
        if kinds.iter().filter(|given| **given).count() != 1 {
            return refuse("a [[detect]] rule has one of file, command or package");
        }
        if let Some(argv) = &self.command {
            let timeout_s = seconds(self.timeout.as_deref(), DETECT_TIMEOUT)?;
            return Ok(Detect::Command {
                argv: program("detect.command", argv)?,
                exit_code: self.exit_code.unwrap_or(0),
                timeout_s,
            });
        }
        if let Some(package) = &self.package {
            let Some(version) = &package.version else { return refuse("detect.package needs a version") };
            package_version(package.kind, version)?;
            let (name, version) =
                (text("detect.package.name", &package.name)?, text("detect.package.version", version)?);
            return Ok(Detect::Package { kind: package.kind, name, version });
        }
        let path = absolute("detect.file", self.file.as_deref().unwrap_or_default())?;
        match (&self.contains, &self.blake3, &self.payload, self.exists) {
            (Some(wanted), None, None, None) if !wanted.is_empty() => {
                Ok(Detect::FileContains { path, text: text("detect.contains", wanted)? })
            }
            (None, Some(hash), None, None) => {
                let hash: PayloadId =
                    hash.parse().map_err(|error| ReleaseFileError(format!("detect.blake3: {error}")))?;
                Ok(Detect::FileHash { path, blake3: hash.0 })
            }
            (None, None, Some(name), None) => {
                let payload = &payloads[usize::from(position(payloads, name)?)];
                Ok(Detect::FileHash { path, blake3: payload.id.0 })
            }
            (None, None, None, Some(true)) => Ok(Detect::FileExists { path }),
            _ => refuse("a [[detect]] rule with file has one of contains = \"...\", blake3, payload, or exists = true"),
        }
    }
}

impl AppliesTable {
    fn build(&self) -> Checked<Applicability> {
        match (&self.package, &self.file, &self.fact, &self.value) {
            (Some(package), None, None, None) if package.version.is_none() => {
                Ok(Applicability::HasPackage { kind: package.kind, name: text("applies.package.name", &package.name)? })
            }
            (None, Some(file), None, None) => Ok(Applicability::FileExists { path: absolute("applies.file", file)? }),
            (None, None, Some(fact), Some(value)) => {
                Ok(Applicability::Fact { name: text("applies.fact", fact)?, value: text("applies.value", value)? })
            }
            _ => refuse("an [[applies]] rule has one of package (without version), file, or fact with value"),
        }
    }
}

impl InstallTable {
    fn build(&self, payloads: &[Payload]) -> Checked<Recipe> {
        let given = [self.files.is_some(), self.exec.is_some(), self.deb, self.rpm];
        if given.iter().filter(|given| **given).count() != 1 {
            return refuse("[install] has one of files, exec, deb = true or rpm = true");
        }
        if self.exec.is_none() && !self.exit_codes.is_empty() {
            return refuse("[install] exit_codes belong to exec");
        }
        let timeout_s = seconds(self.timeout.as_deref(), INSTALL_TIMEOUT)?;
        if let Some(files) = &self.files {
            if files.is_empty() {
                return refuse("[install] files is empty");
            }
            let files = files.iter().map(|file| file.build(payloads)).collect::<Checked<Vec<_>>>()?;
            return Ok(Recipe::Files { files: list("install.files", files)? });
        }
        let extension = if self.deb { ".deb" } else { ".rpm" };
        // Patches to packages are not named in release files.
        if let Some(other) = payloads.iter().find(|payload| !is_package_file(&payload.name, extension))
            && self.exec.is_none()
        {
            let hint = format!("give one with name = \"package{extension}\"");
            return refuse(format!(
                "the payload name {:?} is not one that package managers are given; {hint}",
                other.name
            ));
        }
        match &self.exec {
            Some(argv) => exec("install", argv, &self.exit_codes, timeout_s, payloads.len()),
            None if self.deb => Ok(Recipe::Deb { timeout_s }),
            None => Ok(Recipe::Rpm { timeout_s }),
        }
    }
}

impl FileTable {
    fn build(&self, payloads: &[Payload]) -> Checked<FilePlacement> {
        let digits = self.mode.as_deref().unwrap_or("0644");
        let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o7777 && !digits.starts_with('+'));
        let Some(mode) = mode else {
            return refuse(format!("install.files mode {digits:?} is not octal permission bits such as \"0755\""));
        };
        Ok(FilePlacement {
            payload: position(payloads, &self.payload)?,
            path: absolute("install.files path", &self.path)?,
            mode,
        })
    }
}

impl UninstallTable {
    fn build(&self, payloads: usize) -> Checked<Recipe> {
        let given = [self.remove.is_some(), self.exec.is_some(), self.deb.is_some(), self.rpm.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            return refuse("[uninstall] has one of remove, exec, deb or rpm");
        }
        if self.exec.is_none() && !self.exit_codes.is_empty() {
            return refuse("[uninstall] exit_codes belong to exec");
        }
        let timeout_s = seconds(self.timeout.as_deref(), INSTALL_TIMEOUT)?;
        let packages = |names: &[String]| -> Checked<_> {
            list(
                "uninstall packages",
                names.iter().map(|name| text("uninstall package", name)).collect::<Checked<_>>()?,
            )
        };
        if let Some(paths) = &self.remove {
            let paths = paths.iter().map(|path| absolute("uninstall.remove", path)).collect::<Checked<Vec<_>>>()?;
            return Ok(Recipe::RemoveFiles { paths: list("uninstall.remove", paths)? });
        }
        match (&self.exec, &self.deb, &self.rpm) {
            (Some(argv), ..) => exec("uninstall", argv, &self.exit_codes, timeout_s, payloads),
            (None, Some(names), _) => Ok(Recipe::RemoveDeb { packages: packages(names)?, timeout_s }),
            (None, None, names) => {
                Ok(Recipe::RemoveRpm { packages: packages(names.as_deref().unwrap_or_default())?, timeout_s })
            }
        }
    }
}

/// A version by the rules of its kind (deb-version(7), rpm-version(7)): a least version is meant, without an operator.
pub(super) fn package_version(kind: PackageKind, version: &str) -> Checked<()> {
    if version.is_empty() || version.starts_with(['<', '>', '=', '~', '^']) {
        let plain = version.trim_start_matches(['<', '>', '=', '~', '^', ' ']);
        let plain = if plain.is_empty() { "1.0" } else { plain };
        return refuse(format!("the package version {version:?} is none; write {plain:?}: a later one counts too"));
    }
    let (what, more, needs_digit) = match kind {
        PackageKind::Deb => ("a Debian", ".+-~", true),
        PackageKind::Rpm => ("an RPM", "._+-~^", false),
        PackageKind::Flatpak | PackageKind::Snap => return Ok(()),
    };
    let (epoch, rest) = version.split_once(':').map_or(("0", version), |(epoch, rest)| (epoch, rest));
    let epoch_is_good = !epoch.is_empty() && epoch.len() <= 9 && epoch.bytes().all(|byte| byte.is_ascii_digit());
    let plain = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.as_bytes().contains(&byte));
    let begins = rest.bytes().next().is_some_and(|byte| !needs_digit || byte.is_ascii_digit());
    if epoch_is_good && plain && begins {
        return Ok(());
    }
    refuse(format!("{version:?} is not the version of {what} package; they look like 2.1-3 or 1:2.1-3"))
}

fn exec(
    table: &str,
    argv: &[String],
    codes: &BTreeMap<String, ExitMeaning>,
    timeout_s: u32,
    payloads: usize,
) -> Checked<Recipe> {
    for argument in argv {
        let known = pieces(argument).is_ok_and(|pieces| {
            pieces.iter().all(|piece| !matches!(piece, Piece::Payload(number) if *number >= payloads))
        });
        if !known {
            return refuse(format!("{table}.exec: {argument:?} names no payload; they are {{payload:0}} and up"));
        }
    }
    let mut rules = Vec::new();
    for (code, meaning) in codes {
        let Ok(code) = code.parse() else { return refuse(format!("{table}.exit_codes: {code:?} is no exit code")) };
        rules.push(ExitRule { code, meaning: *meaning });
    }
    rules.sort_by_key(|rule| rule.code);
    let first = argv.first().is_some_and(|program| {
        program.starts_with('/') || matches!(pieces(program).as_deref(), Ok([Piece::Payload(_), ..]))
    });
    if !first {
        return refuse(format!("{table}.exec begins with {{payload}} or the absolute path of a program"));
    }
    let argv = argv.iter().map(|argument| text(&format!("{table}.exec"), argument)).collect::<Checked<Vec<_>>>()?;
    let (argv, exit_codes) = (list(&format!("{table}.exec"), argv)?, list(&format!("{table}.exit_codes"), rules)?);
    Ok(Recipe::Exec { argv, exit_codes, timeout_s })
}

fn program(field: &str, argv: &[String]) -> Checked<Bounded<Text<1024>, 64>> {
    if !argv.first().is_some_and(|program| program.starts_with('/')) {
        return refuse(format!("{field} begins with the absolute path of a program"));
    }
    list(field, argv.iter().map(|argument| text(field, argument)).collect::<Checked<Vec<_>>>()?)
}

fn position(payloads: &[Payload], name: &str) -> Checked<u16> {
    let found = payloads.iter().position(|payload| payload.name.as_str() == name).and_then(|at| u16::try_from(at).ok());
    found.ok_or_else(|| {
        let known: Vec<&str> = payloads.iter().map(|payload| payload.name.as_str()).collect();
        ReleaseFileError(format!("no [[payload]] has the name {name:?}; there are: {}", known.join(", ")))
    })
}

fn absolute(field: &str, path: &str) -> Checked<Text<1024>> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    match path.strip_prefix('/') {
        Some(rest) if rest.split('/').all(plain) => text(field, path),
        _ => refuse(format!("{field}: {path:?} is not an absolute path without . and ..")),
    }
}

fn seconds(given: Option<&str>, default: u32) -> Checked<u32> {
    let Some(given) = given else { return Ok(default) };
    let seconds = units::duration(given).map_err(ReleaseFileError)?.as_secs();
    match u32::try_from(seconds) {
        Ok(seconds) if (1..=7 * 86400).contains(&seconds) => Ok(seconds),
        _ => refuse(format!("a timeout lies between 1s and 7d, unlike {given:?}")),
    }
}
