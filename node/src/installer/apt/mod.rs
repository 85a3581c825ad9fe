//! Packages of a repository, through the distribution's own apt: upstream's signed metadata, and exactly the selection.
//!
//! ```text
//! STATE/private/RANDOM/            verified copies of description, InRelease, indexes and the packages needed here
//! STATE/private/RANDOM/repository  the same by hard link, where apt looks for them: dists/SUITE/..., pool/...
//!                     /etc         the one source, its certificates, preferences that pin the selection
//!                     /lists /cache  what apt writes for itself
//! ```
//! What counts is checked three times by others than us: trust has found release and approval good, apt checks InRelease by
//! upstream's certificate, and by it the indexes and each package. Here it is checked that apt means to do what was selected and
//! nothing else, before it does anything: no package goes, and none comes at a version that is not in the recipe.
//!
//! Nothing goes over a network: there is one source, and it is a directory. The machine's own configuration of apt and dpkg
//! counts where packages are unpacked (hooks, exclusions), not where the repository is read.

mod database;
mod in_use;
mod plan;
mod repository;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use upswarm_protocol::catalog::{AptPackage, AptRecipe, ExitMeaning, Standing};
use upswarm_protocol::node::{Detection, InstallOutcome, Obstacle};
use upswarm_protocol::time::Wall;

use super::deb::{self, ENV};
use super::diagnosis;
use super::exec::Session;
use super::payload::{Source, snapshot};
use super::query::Question;
use super::{Job, Trouble};
use crate::apt_setup::{self, Selected, Snapshot, Word};
use crate::clock;
use crate::sys::{Ended, find};
use crate::upstream::plan::{Step, steps};
use crate::upstream::{self, UpstreamDescription, is_architecture, packages};
use database::Database;
use repository::Repository;

/// What apt prints when it plans; thousands of packages fit.
const MAX_PLAN: usize = 1 << 20;
/// Reading indexes and planning takes seconds; on a slow disk, minutes.
const PLAN_WITHIN_S: u32 = 900;
/// Names of packages in a reason; of more, their number.
const MAX_NAMED: usize = 5;
/// Releases of one snapshot, at most.
const MAX_OF_A_SNAPSHOT: u64 = 10_000;

/// Installs and upgrades what the recipe says this machine needs.
pub(super) fn install(job: &Job<'_>, recipe: &AptRecipe) -> Result<InstallOutcome, Trouble> {
    check(recipe)?;
    let apt = find("apt-get").ok_or_else(|| Trouble::failed("this machine has no apt-get"))?;
    if let Some(locked) = deb::locked(job.root) {
        return Ok(locked);
    }
    let mut database = Database::read(job.root).map_err(Trouble::retry)?;
    let mut wanted = Wanted::of(recipe, &database);
    if wanted.is_empty() {
        return Ok(InstallOutcome::Done { restart: false, code: None });
    }
    if let Some(held) = wanted.packages(recipe).find(|package| database.is_held(package)) {
        let reason = format!("{} is held on this machine by its package manager (apt-mark hold)", held.name);
        return Ok(InstallOutcome::Hindered { by: Obstacle::Held, code: None, reason });
    }
    if let Some(missing) = wanted.files.iter().find(|at| matches!(job.payloads.get(**at), None | Some(Source::Missing)))
    {
        let name = job.release.payloads.get(*missing).map_or("a package", |payload| payload.name.as_str());
        return Err(Trouble::retry(format!("{name} is needed here and not in the store yet")));
    }
    let start = SystemTime::now();
    let mut session = Session::start(job)?;
    if let Some(early) = deb::mend(&mut session, job.root, recipe.timeout_s)? {
        return Ok(session.finish(early, recipe.timeout_s, |_| ExitMeaning::Failure));
    }
    database = Database::read(job.root).map_err(Trouble::retry)?;
    wanted = Wanted::of(recipe, &database);
    if wanted.is_empty() {
        return Ok(InstallOutcome::Done { restart: deb::wants_restart(start), code: None });
    }
    let work = Work { job, recipe, apt, database, wanted };
    work.install(session, start)
}

/// How this machine stands with the packages of a snapshot, by dpkg's own database. One that is left half installed is not
/// installed, and the snapshot is not done.
pub(super) fn detect(recipe: &AptRecipe, root: Option<&Path>) -> Detection {
    if find("dpkg-query").is_none() {
        return Detection::NotApplicable("this machine has no Debian packages".into());
    }
    let database = match Database::read(root) {
        Ok(database) => database,
        Err(why) => return Detection::Unknown(why),
    };
    if !recipe.concerns(|package| database.standing(package)) {
        return Detection::NotApplicable("none of the selected packages is installed".into());
    }
    if Wanted::of(recipe, &database).is_empty() { Detection::Present } else { Detection::Absent }
}

/// What is to be done here.
struct Wanted {
    /// Positions in the release of the files of packages that are to be installed or upgraded.
    files: BTreeSet<usize>,
    /// Positions in the recipe of those packages, and of others at their version that are left half installed.
    packages: Vec<usize>,
}

impl Wanted {
    fn of(recipe: &AptRecipe, database: &Database) -> Self {
        let needed = recipe.needed(|package| database.standing(package));
        let is_left_over = |package: &AptPackage| {
            matches!(database.standing(package), Standing::Same | Standing::Newer) && database.is_broken(package)
        };
        let packages = recipe.packages.iter().enumerate();
        let packages = packages.filter(|(at, package)| needed.contains(at) || is_left_over(package));
        let files = needed.iter().filter_map(|at| recipe.packages.get(*at));
        Self {
            files: files.map(|package| usize::from(package.payload)).collect(),
            packages: packages.map(|(at, _)| at).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    fn packages<'a>(&'a self, recipe: &'a AptRecipe) -> impl Iterator<Item = &'a AptPackage> {
        self.packages.iter().filter_map(|at| recipe.packages.get(*at))
    }
}

/// One transaction.
struct Work<'a> {
    job: &'a Job<'a>,
    recipe: &'a AptRecipe,
    apt: PathBuf,
    database: Database,
    wanted: Wanted,
}

impl Work<'_> {
    fn install(self, mut session: Session<'_>, start: SystemTime) -> Result<InstallOutcome, Trouble> {
        let (job, recipe) = (self.job, self.recipe);
        let upstream = usize::from(recipe.upstream);
        let mut positions: BTreeSet<usize> = [upstream, usize::from(recipe.in_release)].into();
        positions.extend(recipe.indexes.iter().map(|index| usize::from(index.payload)));
        positions.extend(self.wanted.files.iter().copied());
        let copies = snapshot(job, &positions.iter().copied().collect::<Vec<_>>(), None)?;
        let copy = |at: usize| copies.path(at).ok_or_else(|| Trouble::failed("a payload of the recipe was not copied"));
        let description = description(copy(upstream)?)?;
        must_follow(job, &description, recipe)?;
        if let Some(foreign) = recipe.packages.iter().find(|package| !description.may_supply(&package.name)) {
            let (name, upstream) = (&foreign.name, &description.name);
            return Err(Trouble::failed(format!("{upstream} may not supply {name}: its description does not name it")));
        }
        let repository = Repository::build(job, &description, recipe, &self.database, copy)?;
        let options = repository.options(job.root);

        let update = self.ask(&mut session, &options, &["-oAPT::Update::Error-Mode=any"], &["update"])?;
        if update.code != 0 {
            let why = plan::complaint(&update.text);
            return Ok(self.refused(session, format!("apt does not accept the repository {}: {why}", description.name)));
        }
        let signed = read_signed(&description, copy(usize::from(recipe.in_release))?)?;
        must_be_of_its_date(job.release.counter, signed.date)?;
        // What apt accepts is what plain apt may be shown too.
        if let Err(trouble) = write_note(job, &description, recipe, signed) {
            if recipe.back {
                // What an approver said before would count again.
                return Err(trouble);
            }
            session.log.write(format!("\nupswarm: plain apt does not follow: {}\n", trouble.reason).as_bytes());
        }
        let packages: Vec<String> = self.arguments();
        let words: Vec<&str> = packages.iter().map(String::as_str).collect();
        let simulate: Vec<&str> = ["-s", "install", "--"].into_iter().chain(words.iter().copied()).collect();
        let planned = self.ask(&mut session, &options, &self.manner(), &simulate)?;
        if planned.code != 0 {
            return Ok(self.not_planned(session, &planned));
        }
        let steps = steps(&planned.text).map_err(Trouble::failed)?;
        if let Some(reason) = self.strays(&steps) {
            return Ok(InstallOutcome::Hindered {
                by: Obstacle::Dependency,
                code: None,
                reason: format!("{reason}; nothing was changed [{}]", session.log.close().display()),
            });
        }
        let list: Vec<&str> =
            ["-qq", "--print-uris", "install", "--"].into_iter().chain(words.iter().copied()).collect();
        let listed = self.ask(&mut session, &options, &self.manner(), &list)?;
        if listed.code != 0 {
            return Ok(self.not_planned(session, &listed));
        }
        for path in plan::files(&listed.text, repository.uri()).map_err(Trouble::failed)? {
            self.place(&repository, &path, copy)?;
        }

        let in_use = in_use::replaced(job.root);
        let lock_timeout = deb::lock_timeout(recipe.timeout_s);
        let mut args = options;
        args.extend(self.manner().into_iter().map(OsString::from));
        args.extend([lock_timeout.as_str(), "-q", "install", "--"].map(OsString::from));
        args.extend(packages.iter().map(OsString::from));
        let ended = session.run(&self.apt, args, &ENV, recipe.timeout_s, false)?;
        self.finish(session, ended, start, &in_use)
    }

    /// As apt works here: nothing goes, nothing comes that was not asked for, and nobody is asked.
    fn manner(&self) -> Vec<&'static str> {
        let downgrade = self.recipe.back.then_some("--allow-downgrades");
        let manner = [
            "-y",
            "--no-remove",
            "--no-install-recommends",
            "-oAPT::Get::AutomaticRemove=false",
            "-oAPT::Get::AllowUnauthenticated=false",
            "-oAPT::Get::Always-Include-Phased-Updates=true",
            "-oDpkg::Options::=--force-confdef",
            "-oDpkg::Options::=--force-confold",
            "-oDpkg::Use-Pty=0",
        ];
        manner.into_iter().chain(downgrade).collect()
    }

    /// Every needed package with its architecture and version.
    fn arguments(&self) -> Vec<String> {
        let argument = |name: &str, arch: &str, version: &str| {
            if arch == "all" { format!("{name}={version}") } else { format!("{name}:{arch}={version}") }
        };
        let packages = self.wanted.packages(self.recipe);
        packages.map(|package| argument(&package.name, &package.arch, &package.version)).collect()
    }

    /// Asks apt for something that changes nothing but its own lists; what it prints goes to the log too.
    fn ask(
        &self,
        session: &mut Session<'_>,
        options: &[OsString],
        manner: &[&str],
        words: &[&str],
    ) -> Result<Said, Trouble> {
        let mut args = options.to_vec();
        args.extend(manner.iter().chain(words).map(OsString::from));
        let within_s = self.recipe.timeout_s.clamp(60, PLAN_WITHIN_S);
        let question = Question { path: &self.apt, args, env: &ENV, limit: MAX_PLAN, within_s };
        let (code, text) = question.ask().map_err(Trouble::retry)?;
        session.log.begin();
        session.log.write(text.as_bytes());
        if text.len() >= MAX_PLAN {
            return Err(Trouble::failed(format!("apt-get printed more than {MAX_PLAN} bytes")));
        }
        Ok(Said { code, text })
    }

    /// Says what apt would do beside the selection.
    fn strays(&self, steps: &[Step]) -> Option<String> {
        let mut goes: Vec<&str> = Vec::new();
        let mut comes: Vec<String> = Vec::new();
        for step in steps {
            match step {
                Step::Remove { name } => goes.push(name),
                Step::Install { name, version, arch, .. } => {
                    let selected = self.recipe.packages.iter().any(|package| {
                        *package.name == **name && *package.version == **version && *package.arch == **arch
                    });
                    if !selected {
                        comes.push(format!("{name} {version} ({arch})"));
                    }
                }
            }
        }
        if !goes.is_empty() {
            return Some(format!("apt would remove {}", some(&goes)));
        }
        let comes: Vec<&str> = comes.iter().map(String::as_str).collect();
        (!comes.is_empty()).then(|| format!("apt would install {}, which is not selected", some(&comes)))
    }

    /// Puts a package where apt looks for it. Its file name is the payload's; apt itself compares the content with the index.
    fn place<'a>(
        &self,
        repository: &Repository,
        path: &str,
        copy: impl Fn(usize) -> Result<&'a Path, Trouble>,
    ) -> Result<(), Trouble> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let needed = self
            .wanted
            .files
            .iter()
            .find(|at| self.job.release.payloads.get(**at).is_some_and(|payload| payload.name.as_str() == name));
        let Some(at) = needed else {
            return Err(Trouble::failed(format!("apt looks for {name}, which is no package that is needed here")));
        };
        repository.link(copy(*at)?, path)
    }

    /// The repository was not accepted: the same bytes will not be accepted later.
    fn refused(&self, session: Session<'_>, reason: String) -> InstallOutcome {
        InstallOutcome::Failed { code: None, reason: format!("{reason} [{}]", session.log.close().display()) }
    }

    /// Apt found no way to do what was asked for.
    fn not_planned(&self, session: Session<'_>, said: &Said) -> InstallOutcome {
        let names: Vec<&str> = self.wanted.packages(self.recipe).map(|package| package.name.as_str()).collect();
        let found = diagnosis::of_dpkg(&said.text, &names);
        let removes = said.text.contains("Packages need to be removed but remove is disabled");
        let going = plan::going(&said.text);
        let (by, why) = match (removes, going.as_slice()) {
            (true, []) => (Some(Obstacle::Dependency), "apt would remove packages".to_owned()),
            (true, going) => (Some(Obstacle::Dependency), format!("apt would remove {}", some(going))),
            (false, _) => (found.by.filter(|by| *by != Obstacle::NoNetwork), found.why),
        };
        let why = if why.is_empty() { plan::complaint(&said.text) } else { why };
        let reason =
            format!("{why}; nothing was changed (exit code {}) [{}]", said.code, session.log.close().display());
        match by {
            Some(by) => InstallOutcome::Hindered { by, code: Some(said.code), reason },
            None => InstallOutcome::Failed { code: Some(said.code), reason },
        }
    }

    /// The outcome when apt has ended. What it left half done is finished as far as that goes, once.
    fn finish(
        self,
        mut session: Session<'_>,
        ended: Ended,
        start: SystemTime,
        in_use: &BTreeSet<String>,
    ) -> Result<InstallOutcome, Trouble> {
        let said = session.log.end();
        let root = self.job.root;
        let timeout_s = self.recipe.timeout_s;
        if ended != Ended::Code(0) {
            deb::mend(&mut session, root, timeout_s)?;
        }
        let database = Database::read(root).map_err(Trouble::retry)?;
        let left = Wanted::of(self.recipe, &database);
        let code = if let Ended::Code(code) = ended { Some(code) } else { None };
        if left.is_empty() {
            let fresh = in_use::replaced(root);
            let stale: Vec<&str> = fresh.difference(in_use).map(String::as_str).collect();
            if !stale.is_empty() {
                let words = format!("\nupswarm: replaced and still in use by {}\n", some(&stale));
                session.log.write(words.as_bytes());
            }
            let restart = deb::wants_restart(start) || !stale.is_empty();
            session.log.close();
            return Ok(InstallOutcome::Done { restart, code });
        }
        let names: Vec<&str> = self.wanted.packages(self.recipe).map(|package| package.name.as_str()).collect();
        let found = diagnosis::of_dpkg(&said, &names);
        let broken = left.packages(self.recipe).filter(|package| database.is_broken(package));
        let broken: Vec<&str> = broken.map(|package| package.name.as_str()).collect();
        let mut words = Vec::new();
        match ended {
            Ended::TimedOut => words.push(format!("apt did not end within {timeout_s} s and was stopped")),
            Ended::Signal(signal) => words.push(format!("apt was ended by signal {signal}")),
            Ended::Canceled => words.push("apt was stopped".to_owned()),
            Ended::Code(_) => {}
        }
        if found.why.is_empty() {
            words.push(plan::complaint(&said))
        } else {
            words.push(found.why)
        }
        if !broken.is_empty() {
            words.push(format!("{} is left half installed", some(&broken)));
        }
        let open = left.packages.len();
        let all = self.wanted.packages.len();
        words.push(format!("{} of {all} packages are done", all.saturating_sub(open)));
        words.retain(|word| !word.is_empty());
        let number = code.map_or(String::new(), |code| format!(" (exit code {code})"));
        let reason = format!("{}{number} [{}]", words.join("; "), session.log.close().display());
        // Nothing came over a network: a file is not what the index says.
        let by = found.by.filter(|by| *by != Obstacle::NoNetwork);
        Ok(match by {
            Some(by) => InstallOutcome::Hindered { by, code, reason },
            None => InstallOutcome::Failed { code, reason },
        })
    }
}

/// Writes down for plain apt what an approved snapshot says, whether or not anything of it is to be installed here. Of the job's
/// payloads it needs the description and InRelease.
pub(super) fn note(job: &Job<'_>, recipe: &AptRecipe) -> Result<(), Trouble> {
    check(recipe)?;
    let (upstream, in_release) = (usize::from(recipe.upstream), usize::from(recipe.in_release));
    let copies = snapshot(job, &[upstream, in_release], None)?;
    let copy = |at: usize| copies.path(at).ok_or_else(|| Trouble::failed("a payload of the recipe was not copied"));
    let description = description(copy(upstream)?)?;
    let signed = read_signed(&description, copy(in_release)?)?;
    write_note(job, &description, recipe, signed)
}

/// Of an approval that takes machines back and one that takes them forward the later counts; the note of it outlives what a
/// coordinator leaves out. And who asks for this says so only if the approval does.
fn must_follow(job: &Job<'_>, description: &UpstreamDescription, recipe: &AptRecipe) -> Result<(), Trouble> {
    if recipe.back != job.downgrade {
        return Err(Trouble::failed("release and approval do not both say that machines go back to earlier versions"));
    }
    let word = Word { counter: job.release.counter, said: job.said, back: recipe.back };
    apt_setup::must_follow(job.state_dir, &description.name, &word).map_err(Trouble::failed)
}

/// What upstream signed in an InRelease, by a certificate of the description.
fn read_signed(description: &UpstreamDescription, in_release: &Path) -> Result<upstream::release::Release, Trouble> {
    let refuse = |error: &dyn std::fmt::Display| Trouble::failed(format!("InRelease of {}: {error}", description.name));
    let mut bytes = Vec::new();
    File::open(in_release)
        .and_then(|file| file.take(upstream::MAX_IN_RELEASE as u64).read_to_end(&mut bytes))
        .map_err(|error| Trouble::io("cannot read", in_release, error))?;
    let certificates = description.certificates().map_err(|error| refuse(&error))?;
    let text = upstream::openpgp::verify(&bytes, &certificates, clock::wall()).map_err(|error| refuse(&error))?;
    upstream::release::Release::parse(&text).map_err(|error| refuse(&error))
}

/// The counter of a snapshot's release is upstream's date of it and a small number. Whoever says another one would have rules count
/// their rings from before upstream published, or older states pass for newer ones.
fn must_be_of_its_date(counter: u64, date: Wall) -> Result<(), Trouble> {
    if (date.0..date.0.saturating_add(MAX_OF_A_SNAPSHOT)).contains(&counter) {
        return Ok(());
    }
    Err(Trouble::failed(format!("the release is dated {}, upstream signed this state at {date}", Wall(counter))))
}

fn write_note(
    job: &Job<'_>,
    description: &UpstreamDescription,
    recipe: &AptRecipe,
    release: upstream::release::Release,
) -> Result<(), Trouble> {
    let arches: BTreeSet<&str> =
        recipe.indexes.iter().filter_map(|index| repository::parts(&index.path)).map(|(_, arch)| arch).collect();
    let snapshot = Snapshot {
        upstream: description.name.clone(),
        word: Word { counter: job.release.counter, said: job.said, back: recipe.back },
        suite: description.suite.clone(),
        aliases: [release.suite, release.codename].into_iter().filter(|name| !name.is_empty()).collect(),
        origin: release.origin,
        components: description.components.clone(),
        architectures: arches.into_iter().filter(|arch| *arch != "all").map(str::to_owned).collect(),
        certificates: description.certificates.clone(),
        packages: recipe
            .packages
            .iter()
            .map(|package| Selected {
                name: package.name.to_string(),
                arch: package.arch.to_string(),
                version: package.version.to_string(),
            })
            .collect(),
    };
    let root = job.root.unwrap_or(Path::new("/"));
    apt_setup::note(job.state_dir, root, &snapshot).map_err(|error| Trouble::io("cannot note", job.state_dir, error))
}

/// Reads the description of an upstream from a verified copy.
fn description(path: &Path) -> Result<UpstreamDescription, Trouble> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(upstream::MAX_DESCRIPTION as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| Trouble::io("cannot read", path, error))?;
    UpstreamDescription::parse(&bytes).map_err(|error| Trouble::failed(format!("the upstream's description: {error}")))
}

/// What a program said.
struct Said {
    code: i32,
    text: String,
}

/// Every text of the recipe that apt will read: nothing in it can mean anything else than what it is.
fn check(recipe: &AptRecipe) -> Result<(), Trouble> {
    for package in &recipe.packages {
        let name = package.name.as_str();
        if !packages::is_name(name) {
            return Err(Trouble::failed(format!("{name:?} is no name of a Debian package")));
        }
        if !packages::is_version(&package.version) {
            return Err(Trouble::failed(format!("{:?} is no version of a Debian package", package.version.as_str())));
        }
        if !is_architecture(&package.arch) {
            return Err(Trouble::failed(format!("{:?} is no architecture", package.arch.as_str())));
        }
    }
    Ok(())
}

/// A few names, and how many more.
fn some(names: &[&str]) -> String {
    let first = names.get(..MAX_NAMED).unwrap_or(names).join(", ");
    if names.len() > MAX_NAMED { format!("{first} and {} more", names.len() - MAX_NAMED) } else { first }
}
