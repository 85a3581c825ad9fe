//! The private repository of one job, and how apt is told of it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use upswarm_protocol::catalog::AptRecipe;

use super::super::{Job, Trouble, private_dir, random_name};
use super::database::Database;
use super::plan::is_downward;
use crate::apt_setup;
use crate::sys;
use crate::upstream::UpstreamDescription;

/// How an index may be compressed; apt reads all of these.
const PACKINGS: [&str; 5] = ["", ".gz", ".xz", ".zst", ".bz2"];

/// Directories of one job; gone with it.
#[derive(Debug)]
pub(super) struct Repository {
    dir: PathBuf,
    /// Of the directory below which `dists` and `pool` lie.
    uri: String,
}

impl Drop for Repository {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Repository {
    /// Lays out upstream's metadata and writes what apt reads. `copy` gives the verified copy of a payload.
    pub(super) fn build<'a>(
        job: &Job<'_>,
        description: &UpstreamDescription,
        recipe: &AptRecipe,
        database: &Database,
        copy: impl Fn(usize) -> Result<&'a Path, Trouble>,
    ) -> Result<Self, Trouble> {
        let dir = private_dir(job.state_dir, "private")?.join(random_name()?);
        let Some(text) = dir.to_str().filter(|text| is_downward(text.trim_start_matches('/'))) else {
            let reason = format!("apt cannot be told of {}: use a state directory of plain letters", dir.display());
            return Err(Trouble::failed(reason));
        };
        let repository = Self { uri: format!("file:{text}/repository"), dir: dir.clone() };
        sys::create_private_dir(&dir).map_err(|error| Trouble::io("cannot create", &dir, error))?;
        for part in ["etc/sources.list.d", "lists/partial", "cache/archives/partial", "repository"] {
            make(&dir.join(part))?;
        }
        let suite = format!("dists/{}", description.suite);
        repository.link(copy(usize::from(recipe.in_release))?, &format!("{suite}/InRelease"))?;
        let mut offered = Vec::new();
        for index in &recipe.indexes {
            let (component, arch) = parts(&index.path)
                .filter(|(component, arch)| {
                    let arches = description.architectures.iter().map(String::as_str);
                    description.components.iter().any(|known| known == component)
                        && arches.chain(["all"]).any(|known| known == *arch)
                })
                .ok_or_else(|| {
                    let reason = format!("{:?} is no index of the upstream {}", index.path.as_str(), description.name);
                    Trouble::failed(reason)
                })?;
            repository.link(copy(usize::from(index.payload))?, &format!("{suite}/{}", index.path))?;
            offered.push((component.to_owned(), arch.to_owned()));
        }
        let mut keys = Vec::new();
        for (number, certificate) in description.certificates.iter().enumerate() {
            let path = dir.join(format!("etc/{number}.asc"));
            write(&path, certificate)?;
            keys.push(format!("{text}/etc/{number}.asc"));
        }
        offered.retain(|(_, arch)| database.accepts(arch));
        if offered.is_empty() {
            return Err(Trouble::failed("the recipe has no index for the architecture of this machine"));
        }
        write(
            &dir.join("etc/sources.list.d/upstream.sources"),
            &sources(&repository.uri, description, &keys, &offered),
        )?;
        write(&dir.join("etc/preferences"), &preferences(recipe))?;
        if let Some(root) = job.root {
            for part in ["var/lib/apt", "var/log/apt"] {
                make(&root.join(part))?;
            }
        }
        Ok(repository)
    }

    /// Where apt believes the repository to be.
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// Has a verified copy appear at a path of the repository. It is there once: a link to the same bytes.
    pub(super) fn link(&self, copy: &Path, path: &str) -> Result<(), Trouble> {
        if !is_downward(path) {
            return Err(Trouble::failed(format!("{path:?} is no path of a repository")));
        }
        let place = self.dir.join("repository").join(path);
        if let Some(parent) = place.parent() {
            make(parent)?;
        }
        fs::hard_link(copy, &place).map_err(|error| Trouble::io("cannot link", &place, error))
    }

    /// What every call of apt is told: this source and no other, these preferences and no other, nothing weaker than signed.
    pub(super) fn options(&self, root: Option<&Path>) -> Vec<OsString> {
        let dir = self.dir.display();
        let mut options = vec![
            format!("-oDir::State::lists={dir}/lists"),
            format!("-oDir::Cache={dir}/cache"),
            format!("-oDir::Cache::archives={dir}/cache/archives"),
            format!("-oDir::Cache::pkgcache={dir}/cache/pkgcache.bin"),
            format!("-oDir::Cache::srcpkgcache={dir}/cache/srcpkgcache.bin"),
            "-oDir::Etc::SourceList=/dev/null".to_owned(),
            format!("-oDir::Etc::SourceParts={dir}/etc/sources.list.d"),
            format!("-oDir::Etc::Preferences={dir}/etc/preferences"),
            "-oDir::Etc::PreferencesParts=/dev/null".to_owned(),
            "-oDir::Etc::Trusted=/dev/null".to_owned(),
            "-oDir::Etc::TrustedParts=/dev/null".to_owned(),
            "-oAcquire::Languages=none".to_owned(),
            "-oAcquire::AllowInsecureRepositories=false".to_owned(),
            "-oAcquire::AllowWeakRepositories=false".to_owned(),
            "-oAcquire::AllowDowngradeToInsecureRepositories=false".to_owned(),
            // The verified copies can be read by this user alone.
            "-oAPT::Sandbox::User=root".to_owned(),
            // The release that the machine prefers is not among the sources.
            "-oAPT::Default-Release=".to_owned(),
        ];
        if let Some(root) = root {
            let root = root.display();
            options.extend([
                format!("-oDir::State::status={root}/var/lib/dpkg/status"),
                format!("-oDir::State::extended_states={root}/var/lib/apt/extended_states"),
                format!("-oDir::Log={root}/var/log/apt"),
                format!("-oDPkg::Options::=--root={root}"),
            ]);
        }
        options.into_iter().map(OsString::from).collect()
    }
}

/// Component and architecture of an index: `COMPONENT/binary-ARCH/Packages`, perhaps compressed.
pub(super) fn parts(path: &str) -> Option<(&str, &str)> {
    let (dir, file) = path.rsplit_once('/')?;
    let packing = file.strip_prefix("Packages")?;
    let (component, last) = dir.rsplit_once('/')?;
    PACKINGS.contains(&packing).then_some((component, last.strip_prefix("binary-")?))
}

/// One stanza a component, in the form of sources.list(5): only the indexes that are here are read.
fn sources(uri: &str, description: &UpstreamDescription, keys: &[String], offered: &[(String, String)]) -> String {
    let mut text = String::new();
    for component in &description.components {
        let mut arches: Vec<&str> =
            offered.iter().filter(|(of, _)| of == component).map(|(_, arch)| arch.as_str()).collect();
        arches.sort_unstable();
        arches.dedup();
        if arches.is_empty() {
            continue;
        }
        // Freshness comes from the coordinator's signed head; by-hash paths and translations are not laid out.
        text.push_str(&format!(
            "Types: deb\nURIs: {uri}\nSuites: {}\nComponents: {component}\nArchitectures: {}\nTargets: Packages\nBy-Hash: no\n\
             Check-Valid-Until: no\nCheck-Date: no\nSigned-By: {}\n\n",
            description.suite,
            arches.join(" "),
            keys.join(",")
        ));
    }
    text
}

/// The selection is the only candidate of its packages, and nothing else of the repository is a candidate.
fn preferences(recipe: &AptRecipe) -> String {
    let mut text = "Package: *\nPin: origin \"\"\nPin-Priority: -1\n".to_owned();
    for package in &recipe.packages {
        let arch = if *package.arch == *"all" { String::new() } else { format!(":{}", package.arch) };
        text.push_str(&format!(
            "\nPackage: {}{arch}\nPin: version {}\nPin-Priority: {}\n",
            package.name,
            package.version,
            apt_setup::priority(recipe.back)
        ));
    }
    text
}

fn make(dir: &Path) -> Result<(), Trouble> {
    fs::create_dir_all(dir).map_err(|error| Trouble::io("cannot create", dir, error))
}

fn write(path: &Path, text: &str) -> Result<(), Trouble> {
    fs::write(path, text).map_err(|error| Trouble::io("cannot write", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_its_component_and_architecture() {
        assert_eq!(parts("main/binary-amd64/Packages.xz"), Some(("main", "amd64")));
        assert_eq!(parts("updates/main/binary-all/Packages"), Some(("updates/main", "all")));
        for bad in
            ["main/binary-amd64/Packages.exe", "Packages", "binary-amd64/Packages", "main/i18n/Translation-en", "a/b/c"]
        {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }
}
