//! RELEASE.toml: how an admin describes a release.
//!
//! Strict: an unknown field, a payload that nobody declares or a path that is not absolute is an error with its line or its
//! name, not something to be guessed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use upswarm_protocol::catalog::{
    Applicability, Classification, Detect, ExitMeaning, ExitRule, FilePlacement, PackageKind, Payload, Platform,
    Recipe, Release, RestartPolicy, Severity,
};
use upswarm_protocol::chunk::{ChunkSizes, MAX_CHUNK};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::ids::{PayloadId, ReleaseId};
use upswarm_protocol::time::Wall;

use crate::cli::units;
use crate::installer::is_package_file;

const MAX_FILE: u64 = 1 << 20;
const DEFAULT_LIFE: Duration = Duration::from_secs(180 * 86400);
const INSTALL_TIMEOUT: u32 = 3600;
const DETECT_TIMEOUT: u32 = 30;

/// An example for `--help`, which the tests parse.
pub(crate) const EXAMPLE: &str = r#"product = "org.example.editor"
version = "2.1"
title = "Editor 2.1"
classification = "security"    # critical, update, feature, definition, driver, application
severity = "important"         # unspecified, low, moderate, critical

[platform]
os = "linux"
arch = "x86_64"

[[payload]]
path = "editor.bin"            # beside this file; or: url = "https://vendor.example/editor.bin"

[[detect]]                     # installed when every rule holds
file = "/opt/editor/editor"
payload = "editor.bin"         # the file equals that payload
# or: contains = "2.1", or: blake3 = "<hex>", or: exists = true
# or instead of file: command = ["/opt/editor/editor", "--check"], exit_code = 0

[install]
files = [{ payload = "editor.bin", path = "/opt/editor/editor", mode = "0755" }]
# or: exec = ["{payload}", "--quiet"], timeout = "10m", exit_codes = { 3010 = "restart-required" }

[uninstall]
remove = ["/opt/editor/editor"]
"#;

/// Chunks of large payloads are larger: each costs every machine a few messages, and a chunk that changed costs little of them.
fn default_sizes(len: u64) -> ChunkSizes {
    if len < 128 << 20 {
        return ChunkSizes::default();
    }
    ChunkSizes { min: 128 << 10, average: 512 << 10, max: 1 << 20 }
}

/// What is wrong with a release file, and where.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ReleaseFileError(String);

type Checked<T> = Result<T, ReleaseFileError>;

/// A release as its file describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReleaseFile {
    /// The product, for example `org.mozilla.firefox`, at most 128 bytes; its prefix decides who may publish it.
    product: String,
    /// The product's own version text, at most 128 bytes.
    version: String,
    /// One line for people, at most 255 bytes.
    title: String,
    /// Why it exists: security, critical, update, feature, definition, driver or application.
    classification: Classification,
    /// How bad it is not to have it: unspecified (the default), low, moderate, important or critical.
    #[serde(default = "unspecified")]
    severity: Severity,
    /// Vulnerabilities it mends, for example `CVE-2026-1234`.
    #[serde(default)]
    cves: Vec<String>,
    /// For how long installs may rest on it, for example `180d` (the default).
    life: Option<String>,
    /// Machines it is for; without it, any.
    #[serde(default)]
    platform: PlatformTable,
    /// Its files, at least one.
    #[serde(default)]
    payload: Vec<PayloadTable>,
    /// Conditions for it to concern a device; all must hold.
    #[serde(default)]
    applies: Vec<AppliesTable>,
    /// Signs that it is installed, at least one; all must hold.
    #[serde(default)]
    detect: Vec<DetectTable>,
    /// How to install it.
    install: InstallTable,
    /// How to remove it; without it, uninstalling is refused.
    uninstall: Option<UninstallTable>,
    /// What may be done when a restart is wanted: never, if-required (the default) or always.
    #[serde(default = "if_required")]
    restart: RestartPolicy,
    /// How payloads are cut into chunks.
    #[serde(default)]
    chunk: ChunkTable,
    /// Releases that must be installed first: release ids, or `product@version`.
    #[serde(default)]
    depends: Vec<String>,
    /// Releases that this one makes needless: release ids, or `product@version`.
    #[serde(default)]
    supersedes: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlatformTable {
    /// linux, windows or macos; empty for any.
    #[serde(default)]
    os: String,
    /// x86_64, aarch64, ...; empty for any.
    #[serde(default)]
    arch: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PayloadTable {
    /// A file, relative to the release file; its bytes are uploaded.
    path: Option<PathBuf>,
    /// Where the vendor serves it; it is downloaded once to be hashed, and its bytes stay there.
    url: Option<String>,
    /// Its name in this file and on the machines; without it, the last part of path or URL.
    name: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PackageTable {
    /// deb, rpm, flatpak or snap.
    kind: PackageKind,
    /// The package's name.
    name: String,
    /// The least version that counts.
    version: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct AppliesTable {
    /// Holds when this package is installed.
    package: Option<PackageTable>,
    /// Holds when this file exists.
    file: Option<String>,
    /// Holds when this inventory fact, for example `os.id`, has the value `value`.
    fact: Option<String>,
    value: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct DetectTable {
    /// Absolute path of a file; one of contains, blake3, payload or exists says what must hold.
    file: Option<String>,
    /// It contains this text; for files of at most 1 MiB.
    contains: Option<String>,
    /// Its content has this BLAKE3, in hex.
    blake3: Option<String>,
    /// It equals this payload.
    payload: Option<String>,
    /// It exists.
    exists: Option<bool>,
    /// Program and arguments, without a shell.
    command: Option<Vec<String>>,
    /// The code with which the command must end; 0 without it.
    exit_code: Option<i32>,
    /// After this long the command is ended and the rule does not hold; `30s` without it.
    timeout: Option<String>,
    /// A package at `version` or a later one.
    package: Option<PackageTable>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTable {
    /// Name of a payload.
    payload: String,
    /// Where it goes: an absolute path.
    path: String,
    /// Unix permission bits in octal, for example `"0755"`; `"0644"` without it.
    mode: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallTable {
    /// Files that are put in place, all or none.
    files: Option<Vec<FileTable>>,
    /// Program and arguments, without a shell; `{payload}` and `{payload:N}` stand for the path of a verified payload.
    exec: Option<Vec<String>>,
    /// What exit codes of `exec` mean: success, restart-required, retry or failure.
    #[serde(default)]
    exit_codes: BTreeMap<String, ExitMeaning>,
    /// Install every payload with apt.
    #[serde(default)]
    deb: bool,
    /// Install every payload with rpm or dnf.
    #[serde(default)]
    rpm: bool,
    /// After this long it is ended; `1h` without it.
    timeout: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct UninstallTable {
    /// Absolute paths of files that the install put in place.
    remove: Option<Vec<String>>,
    /// Program and arguments, without a shell.
    exec: Option<Vec<String>>,
    /// What exit codes of `exec` mean.
    #[serde(default)]
    exit_codes: BTreeMap<String, ExitMeaning>,
    /// Names of Debian packages to remove.
    deb: Option<Vec<String>>,
    /// Names of RPM packages to remove.
    rpm: Option<Vec<String>>,
    /// After this long it is ended; `1h` without it.
    timeout: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChunkTable {
    /// What most chunks come near, for example `256KiB` (the default); a quarter of it is the least, four times the most.
    average: Option<String>,
}

/// Where a payload's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file on this machine.
    File(PathBuf),
    /// The vendor's URL.
    Url(String),
}

/// What only the coordinator and the clock know about a new release.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Orders the releases of the product.
    pub(crate) counter: u64,
    /// Now.
    pub(crate) issued: Wall,
    /// [`ReleaseFile::depends`], resolved.
    pub(crate) depends: Vec<ReleaseId>,
    /// [`ReleaseFile::supersedes`], resolved.
    pub(crate) supersedes: Vec<ReleaseId>,
}

fn unspecified() -> Severity {
    Severity::Unspecified
}

fn if_required() -> RestartPolicy {
    RestartPolicy::IfRequired
}

impl ReleaseFile {
    /// Reads and checks a release file.
    pub(crate) fn read(path: &Path) -> Checked<Self> {
        let told = |error: String| ReleaseFileError(format!("{}: {error}", path.display()));
        let len = std::fs::metadata(path).map_err(|error| told(error.to_string()))?.len();
        if len > MAX_FILE {
            return Err(told(format!("{len} bytes are too many for a release file; is it the payload?")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
        Self::parse(&text).map_err(|error| told(error.0))
    }

    /// Reads and checks the text of a release file.
    pub(crate) fn parse(text: &str) -> Checked<Self> {
        let file: Self = toml::from_str(text).map_err(|error| ReleaseFileError(error.to_string()))?;
        // Built once with stand-ins, so that everything is wrong before a payload is read and not after.
        let stand_in = |name: String| Payload {
            name: Text::lossy(&name),
            id: PayloadId::default(),
            len: 1,
            chunk_list: Default::default(),
            chunk_list_len: 1,
            sha256: [0; 32],
            urls: Bounded::default(),
            patches: Bounded::default(),
        };
        let payloads = file.sources()?.into_iter().map(|(name, _)| stand_in(name)).collect();
        let context = Context { counter: 1, issued: Wall(0), depends: Vec::new(), supersedes: Vec::new() };
        file.build(payloads, context)?;
        file.chunk_sizes(0)?;
        Ok(file)
    }

    pub(crate) fn product(&self) -> &str {
        &self.product
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Releases that must be installed first, as written.
    pub(crate) fn depends(&self) -> &[String] {
        &self.depends
    }

    /// Releases that this one makes needless, as written.
    pub(crate) fn supersedes(&self) -> &[String] {
        &self.supersedes
    }

    /// Names and sources of its payloads, in order. Paths are as written: relative to the file.
    pub(crate) fn sources(&self) -> Checked<Vec<(String, Source)>> {
        let mut sources: Vec<(String, Source)> = Vec::new();
        for payload in &self.payload {
            let (source, last) = match (&payload.path, &payload.url) {
                (Some(path), None) => {
                    let last = path.file_name().map(|name| name.to_string_lossy().into_owned());
                    (Source::File(path.clone()), last)
                }
                (None, Some(url)) => {
                    if !(url.starts_with("https://") || url.starts_with("http://")) {
                        return refuse(format!("the payload URL {url:?} is neither https:// nor http://"));
                    }
                    let path = url.split(['?', '#']).next().unwrap_or_default();
                    (Source::Url(url.clone()), path.rsplit('/').next().map(str::to_owned))
                }
                _ => return refuse("a [[payload]] has either path or url"),
            };
            let name = payload.name.clone().or(last).unwrap_or_default();
            if matches!(&*name, "" | "." | "..") || name.contains(['/', '\\', ':']) {
                return refuse(format!("the payload name {name:?} is no file name; give one with name = \"...\""));
            }
            text::<255>("payload name", &name)?;
            if sources.iter().any(|(known, _)| *known == name) {
                return refuse(format!("two payloads have the name {name:?}; give one another name = \"...\""));
            }
            sources.push((name, source));
        }
        if sources.is_empty() {
            return refuse("a release has at least one [[payload]] with path or url");
        }
        Ok(sources)
    }

    /// Sizes for the chunker.
    pub(crate) fn chunk_sizes(&self, len: u64) -> Checked<ChunkSizes> {
        let Some(average) = &self.chunk.average else { return Ok(default_sizes(len)) };
        let average = units::size(average).map_err(ReleaseFileError)?;
        if !(4096..=u64::from(MAX_CHUNK) / 4).contains(&average) {
            return refuse(format!("chunk.average lies between 4KiB and {}KiB", MAX_CHUNK / 4096));
        }
        let average = average as u32;
        Ok(ChunkSizes { min: average / 4, average, max: average * 4 })
    }

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
        Ok(Release {
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
        })
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

fn exec(
    table: &str,
    argv: &[String],
    codes: &BTreeMap<String, ExitMeaning>,
    timeout_s: u32,
    payloads: usize,
) -> Checked<Recipe> {
    for argument in argv {
        for (_, rest) in argument.match_indices("{payload").map(|(at, _)| argument.split_at(at)) {
            let number = rest.strip_prefix("{payload").and_then(|rest| rest.split_once('}')).map(|(number, _)| number);
            let known = match number {
                Some("") => true,
                Some(number) => {
                    number.strip_prefix(':').and_then(|n| n.parse().ok()).is_some_and(|n: usize| n < payloads)
                }
                None => false,
            };
            if !known {
                return refuse(format!("{table}.exec: {argument:?} names no payload; they are {{payload:0}} and up"));
            }
        }
    }
    let mut rules = Vec::new();
    for (code, meaning) in codes {
        let Ok(code) = code.parse() else { return refuse(format!("{table}.exit_codes: {code:?} is no exit code")) };
        rules.push(ExitRule { code, meaning: *meaning });
    }
    rules.sort_by_key(|rule| rule.code);
    let first = argv.first().is_some_and(|program| program.starts_with("{payload") || program.starts_with('/'));
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

fn text<const N: usize>(field: &str, value: &str) -> Checked<Text<N>> {
    Text::new(value).map_err(|error| ReleaseFileError(format!("{field}: {error}")))
}

fn list<T, const N: usize>(field: &str, values: Vec<T>) -> Checked<Bounded<T, N>> {
    Bounded::new(values).map_err(|error| ReleaseFileError(format!("{field}: {error}")))
}

fn refuse<T>(reason: impl Into<String>) -> Checked<T> {
    Err(ReleaseFileError(reason.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: (&str, &str)) -> String {
        assert!(EXAMPLE.contains(change.0), "{change:?}");
        ReleaseFile::parse(&EXAMPLE.replacen(change.0, change.1, 1)).unwrap_err().to_string()
    }

    #[test]
    fn the_example_of_the_help_text_is_good() {
        let file = ReleaseFile::parse(EXAMPLE).unwrap();
        let sources = file.sources().unwrap();
        assert_eq!(sources, [("editor.bin".to_owned(), Source::File("editor.bin".into()))]);
        assert_eq!(file.chunk_sizes(0).unwrap(), ChunkSizes::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (change, named) in [
            (("title =", "tilte ="), "tilte"),
            (("\"security\"", "\"securty\""), "securty"),
            (("payload = \"editor.bin\", path", "payload = \"other.bin\", path"), "other.bin"),
            (("[[payload]]\npath = \"editor.bin\"", ""), "at least one [[payload]]"),
            (("path = \"editor.bin\"", "path = \"editor.bin\"\nurl = \"http://x/y\""), "either path or url"),
            (("path = \"editor.bin\"", "url = \"ftp://x/y\""), "ftp://"),
            (("\"0755\"", "\"0999\""), "0999"),
            (("path = \"/opt/editor/editor\"", "path = \"/opt/../etc/passwd\""), "absolute path"),
            (("path = \"/opt/editor/editor\"", "path = \"opt/editor\""), "absolute path"),
            (("payload = \"editor.bin\"         #", "#"), "exists = true"),
            (("file = \"/opt/editor/editor\"\n", ""), "one of file, command or package"),
            (("remove = [", "removes = ["), "removes"),
            (("files = [{", "deb = true\nfiles = [{"), "one of files"),
            (("version = \"2.1\"", "version = \"2\\n1\""), "control character"),
            (("version = \"2.1\"", "version = \"2.1\"\nlife = \"long\""), "duration"),
        ] {
            let error = wrong(change);
            assert!(error.contains(named), "{change:?}: {error}");
        }
        assert!(wrong(("title =", "tilte =")).contains("line 3"), "the place is told");
    }

    #[test]
    fn exec_recipes_know_their_payloads_and_codes() {
        let exec = |with: &str| {
            let start = EXAMPLE.find("[install]").unwrap();
            ReleaseFile::parse(&format!("{}[install]\n{with}\n", &EXAMPLE[..start]))
        };
        let file = exec(
            "exec = [\"{payload}\", \"--log={payload:0}.log\"]\nexit_codes = { 3010 = \"restart-required\", -1 = \"retry\" }\ntimeout = \"10m\"",
        );
        let payloads = vec![Payload {
            name: Text::lossy("editor.bin"),
            id: PayloadId([7; 32]),
            len: 5,
            chunk_list: Default::default(),
            chunk_list_len: 1,
            sha256: [0; 32],
            urls: Bounded::default(),
            patches: Bounded::default(),
        }];
        let context = Context { counter: 3, issued: Wall(0), depends: vec![], supersedes: vec![] };
        let release = file.unwrap().build(payloads, context).unwrap();
        let Recipe::Exec { exit_codes, timeout_s, .. } = &release.install else { panic!("{:?}", release.install) };
        assert_eq!((exit_codes[0].code, exit_codes[1].code, *timeout_s), (-1, 3010, 600));
        let wanted = Detect::FileHash { path: Text::lossy("/opt/editor/editor"), blake3: [7; 32] };
        assert_eq!((release.counter, &release.detect[0]), (3, &wanted));
        for bad in [
            "exec = [\"sh\", \"-c\"]",
            "exec = [\"{payload:1}\"]",
            "exec = [\"{payload\"]",
            "exec = []",
            "exec = [\"/x\"]\nexit_codes = { x = \"retry\" }",
            "exec = [\"/x\"]\ntimeout = \"0s\"",
        ] {
            assert!(exec(bad).is_err(), "{bad}");
        }
    }
}
