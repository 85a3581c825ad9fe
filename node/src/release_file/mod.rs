//! RELEASE.toml: how an admin describes a release.
//!
//! Strict: an unknown field, a payload that nobody declares or a path that is not absolute is an error with its line or its
//! name, not something to be guessed.

mod build;
pub(crate) mod package;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use upswarm_protocol::catalog::{Classification, ExitMeaning, PackageKind, Payload, RestartPolicy, Severity};
use upswarm_protocol::chunk::{ChunkSizes, MAX_CHUNK};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::ids::{PayloadId, ReleaseId};
use upswarm_protocol::time::Wall;
use upswarm_protocol::version;

use crate::units;

const MAX_FILE: u64 = 1 << 20;

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
    /// How to remove it. Without it, packages are removed by their own names, as detection and file names tell them, and files from
    /// where they were put; for everything else uninstalling is refused.
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

    /// What installs it, if that is a package manager.
    pub(crate) fn package_kind(&self) -> Option<PackageKind> {
        match (self.install.deb, self.install.rpm) {
            (true, false) => Some(PackageKind::Deb),
            (false, true) => Some(PackageKind::Rpm),
            _ => None,
        }
    }

    /// Holds a package file against what the release says of it. `name` is the payload's.
    pub(crate) fn check_against(&self, name: &str, facts: &package::Facts) -> Checked<()> {
        if self.package_kind() != Some(facts.kind) {
            return refuse(format!("{name} is {}, which [install] does not install", facts.what()));
        }
        if let Some(arch) = facts.platform()
            && !self.platform.arch.is_empty()
            && self.platform.arch != arch
        {
            return refuse(format!("{name} is for {arch}, and platform.arch says {:?}", self.platform.arch));
        }
        let rules = self.detect.iter().filter_map(|rule| rule.package.as_ref());
        for rule in rules.filter(|rule| rule.kind == facts.kind && rule.name == facts.name) {
            let wanted = rule.version.as_deref().unwrap_or_default();
            if version::compare(facts.kind, &facts.version, wanted).is_lt() {
                return refuse(format!(
                    "{name} is {} {}, and [[detect]] wants {wanted}: it would be installed and never found",
                    facts.name, facts.version
                ));
            }
        }
        Ok(())
    }

    /// The packages by which it is detected.
    pub(crate) fn detected_packages(&self) -> impl Iterator<Item = &str> {
        self.detect.iter().filter_map(|rule| rule.package.as_ref()).map(|package| package.name.as_str())
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
                    (Source::Url(url.clone()), Some(file_name_of(url)))
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
}

/// The file name that a URL suggests: its last part without escapes, and without what a shell or a package manager would take
/// for something else.
fn file_name_of(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    let (mut bytes, mut rest) = (Vec::with_capacity(last.len()), last.as_bytes());
    while let [first, after @ ..] = rest {
        let escaped = after.get(..2).filter(|_| *first == b'%').and_then(|digits| hex::decode(digits).ok());
        bytes.push(escaped.as_ref().map_or(*first, |bytes| bytes[0]));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || "+._-~^=@".contains(c) { c } else { '_' };
    String::from_utf8_lossy(&bytes).chars().map(plain).collect()
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
    use upswarm_protocol::catalog::{Detect, Recipe};

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
    fn versions_are_held_against_the_rules_of_their_kind() {
        use super::build::package_version;
        let good = |kind, text| package_version(kind, text).is_ok();
        for text in ["1.0", "1:2.1-3", "2.0~rc1+b2-1", "0"] {
            assert!(good(PackageKind::Deb, text) && good(PackageKind::Rpm, text), "{text}");
        }
        assert!(good(PackageKind::Rpm, "v1.0^git") && !good(PackageKind::Deb, "v1.0"));
        for text in ["", ">=1.0", "= 1", "~1", "1.0 beta", "x:1", ":1", "1/2", "1:"] {
            assert!(!good(PackageKind::Deb, text) && !good(PackageKind::Rpm, text), "{text}");
        }
        let error = package_version(PackageKind::Deb, ">=1.0").unwrap_err().to_string();
        assert!(error.contains("write \"1.0\""), "{error}");
    }

    #[test]
    fn a_url_suggests_a_file_name_without_escapes() {
        for (url, name) in [
            ("http://127.0.0.1:9001/pool/lib%20a++_1.0~rc1+b2.bin", "lib_a++_1.0~rc1+b2.bin"),
            ("https://x.example/foo_1%3a2.0-1_amd64.deb?mirror=1#x", "foo_1_2.0-1_amd64.deb"),
            ("https://x.example/a%2Fb%zz%4", "a_b_zz_4"),
            ("https://x.example/%e4%bd%a0.bin", "_.bin"),
        ] {
            assert_eq!(file_name_of(url), name, "{url}");
        }
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
