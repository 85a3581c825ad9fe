//! A Debian repository that a test makes and signs: real packages, real indexes, a real InRelease.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::openpgp::{MADE, Manner, Signer};

/// A package to build with dpkg-deb. Begin with [`Deb::new`].
#[derive(Debug, Clone, Copy)]
pub struct Deb<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its whole version.
    pub version: &'a str,
    /// Its architecture.
    pub arch: &'a str,
    /// The field Source; empty for its own name.
    pub source: &'a str,
    /// The field Depends; empty for nothing.
    pub depends: &'a str,
    /// Further fields, each with the end of its line.
    pub fields: &'a str,
    /// Files: absolute path and content. Those below /etc are configuration files.
    pub files: &'a [(&'a str, &'a str)],
    /// Maintainer's scripts: name (`postinst`) and what follows `set -e`.
    pub scripts: &'a [(&'a str, &'a str)],
}

impl<'a> Deb<'a> {
    /// A package without anything.
    pub fn new(name: &'a str, version: &'a str) -> Self {
        Self { name, version, arch: "all", source: "", depends: "", fields: "", files: &[], scripts: &[] }
    }

    /// Builds it; returns its file, named as a mirror names it.
    pub fn build(&self, dir: &Path) -> PathBuf {
        fs::create_dir_all(dir).expect("a directory for packages");
        let tree = tempfile::tempdir_in(dir).expect("a tree");
        let control = tree.path().join("DEBIAN");
        fs::create_dir(&control).expect("a control directory");
        fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).expect("a tree for everybody");
        for (path, content) in self.files {
            let file = tree.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(file.parent().expect("a folder")).expect("folders");
            fs::write(file, content).expect("a file");
        }
        let field = |name: &str, value: &str| match value {
            "" => String::new(),
            value => format!("{name}: {value}\n"),
        };
        let (name, version, arch) = (self.name, self.version, self.arch);
        let fields = format!(
            "Package: {name}\n{}Version: {version}\nArchitecture: {arch}\nMaintainer: nobody <nobody@example.org>\n{}{}\
             Description: a test\n",
            field("Source", self.source),
            field("Depends", self.depends),
            self.fields,
        );
        fs::write(control.join("control"), fields).expect("a control file");
        let conffiles = self.files.iter().filter(|(path, _)| path.starts_with("/etc/"));
        let conffiles: String = conffiles.map(|(path, _)| format!("{path}\n")).collect();
        fs::write(control.join("conffiles"), conffiles).expect("a list of conffiles");
        for (script, body) in self.scripts {
            let path = control.join(script);
            fs::write(&path, format!("#!/bin/sh\nset -e\n{body}\n")).expect("a script");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script that runs");
        }
        let file = version.split_once(':').map_or(version, |(_, rest)| rest);
        let package = dir.join(format!("{name}_{file}_{arch}.deb"));
        let output = Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Znone", "--build"])
            .args([tree.path(), &package])
            .output()
            .expect("dpkg-deb");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        package
    }
}

/// A package in the repository.
#[derive(Debug, Clone)]
struct Held {
    /// As in an index.
    stanza: String,
    arch: String,
}

/// A repository below a folder, which a web server or `file:` can serve. Whatever is changed shows after
/// [`Repository::publish`].
#[derive(Debug, Clone)]
pub struct Repository {
    /// The folder that holds `dists` and `pool`.
    pub dir: PathBuf,
    /// The folder below `dists`, and the codename.
    pub suite: String,
    /// The architecture beside `all`.
    pub arch: String,
    /// Fields of the Release beside those that are made here, each with the end of its line.
    pub fields: String,
    /// Whether indexes lie there by their hash too.
    pub by_hash: bool,
    /// Endings of the forms in which indexes are there: `""`, `.gz`, `.xz`.
    pub forms: Vec<&'static str>,
    /// Who signs.
    pub signer: Signer,
    /// How. The time follows [`Repository::publish`].
    pub manner: Manner,
    /// By file name.
    packages: BTreeMap<String, Held>,
}

impl Repository {
    /// An empty repository in a folder, of the suite `stable` for amd64.
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a folder");
        Self {
            dir: dir.to_owned(),
            suite: "stable".to_owned(),
            arch: "amd64".to_owned(),
            fields: "Origin: Test\nLabel: Test\n".to_owned(),
            by_hash: true,
            forms: vec!["", ".gz", ".xz"],
            signer: Signer::new(1),
            manner: Manner::default(),
            packages: BTreeMap::new(),
        }
    }

    /// Builds a package and adds it.
    pub fn add(&mut self, deb: &Deb<'_>) -> PathBuf {
        let building = tempfile::tempdir().expect("a folder");
        self.add_file(&deb.build(building.path()))
    }

    /// Adds a package's file; returns its place in the pool.
    pub fn add_file(&mut self, file: &Path) -> PathBuf {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        let package = name.split('_').next().expect("a package's name");
        let place = format!("pool/main/{}/{package}/{name}", &package[..1]);
        let target = self.dir.join(&place);
        fs::create_dir_all(target.parent().expect("a folder")).expect("a pool");
        fs::copy(file, &target).expect("a copy");
        let output = Command::new("dpkg-deb").arg("-f").arg(file).output().expect("dpkg-deb");
        let control = String::from_utf8(output.stdout).expect("text");
        let bytes = fs::read(file).expect("the package");
        let arch = control.lines().find_map(|line| line.strip_prefix("Architecture: ")).expect("an architecture");
        let stanza = format!(
            "{}\nFilename: {place}\nSize: {}\nSHA256: {}\n",
            control.trim_end(),
            bytes.len(),
            hex::encode(Sha256::digest(&bytes))
        );
        self.packages.insert(name, Held { arch: arch.to_owned(), stanza });
        target
    }

    /// Takes packages of this name out of the index; their files stay.
    pub fn remove(&mut self, package: &str) {
        self.packages.retain(|name, _| name.split('_').next() != Some(package));
    }

    /// Writes indexes and InRelease of this date, in seconds since 1970.
    pub fn publish(&mut self, date: u32) {
        let dists = self.dists();
        let all: String = self
            .packages
            .values()
            .filter(|held| held.arch == "all" || held.arch == self.arch)
            .map(|held| held.stanza.clone() + "\n")
            .collect();
        let mut list = String::new();
        for form in ["", ".gz", ".xz"] {
            let path = format!("main/binary-{}/Packages{form}", self.arch);
            let bytes = packed(all.as_bytes(), form);
            let hash = hex::encode(Sha256::digest(&bytes));
            list.push_str(&format!(" {hash} {} {path}\n", bytes.len()));
            if self.forms.contains(&form) {
                let file = dists.join(&path);
                let by_hash = file.parent().expect("a folder").join("by-hash/SHA256");
                fs::create_dir_all(&by_hash).expect("folders");
                fs::write(&file, &bytes).expect("an index");
                if self.by_hash {
                    fs::write(by_hash.join(hash), &bytes).expect("an index");
                }
            }
        }
        let by_hash = if self.by_hash { "yes" } else { "no" };
        let text = format!(
            "{}Suite: {suite}\nCodename: {suite}\nDate: {}\nAcquire-By-Hash: {by_hash}\nArchitectures: {}\nComponents: main\n\
             SHA256:\n{list}",
            self.fields,
            rfc2822(date),
            self.arch,
            suite = self.suite,
        );
        self.publish_text(&text, date);
    }

    /// Signs a Release of one's own and puts it there.
    pub fn publish_text(&mut self, text: &str, date: u32) {
        self.manner.at = date.max(MADE);
        let signed = self.signer.clear_sign(text, self.manner);
        fs::create_dir_all(self.dists()).expect("folders");
        fs::write(self.dists().join("InRelease"), signed).expect("an InRelease");
    }

    /// The folder of the suite.
    pub fn dists(&self) -> PathBuf {
        self.dir.join("dists").join(&self.suite)
    }

    /// Writes the signer's certificate to a file and returns its path.
    pub fn keyring(&self) -> PathBuf {
        let path = self.dir.join("keyring.asc");
        fs::write(&path, self.signer.certificate()).expect("a keyring");
        path
    }
}

/// A date as a Release has it.
pub fn rfc2822(seconds: u32) -> String {
    let time = jiff::Timestamp::from_second(seconds.into()).expect("a time");
    time.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string()
}

fn packed(bytes: &[u8], form: &str) -> Vec<u8> {
    let mut packed = Vec::new();
    match form {
        ".xz" => drop(liblzma::read::XzEncoder::new(bytes, 6).read_to_end(&mut packed).expect("xz")),
        ".gz" => {
            let mut gzip = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::default());
            gzip.write_all(bytes).expect("gzip");
            gzip.finish().expect("gzip");
        }
        _ => packed.extend_from_slice(bytes),
    }
    packed
}

/// The tool that is missing here, in words; none when packages can be built.
pub fn missing_tools() -> Option<String> {
    Command::new("dpkg-deb").arg("--version").output().err().map(|_| "dpkg-deb is missing".to_owned())
}
