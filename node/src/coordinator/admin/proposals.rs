//! From a snapshot to a release that can be approved: what a selection would do by real apt, its files in the payload store, and
//! the release signed by the sync key. Owns that way; what may be signed for whom is the approver's.
//!
//! The sync key is harmless: the release names upstream's own signed files, and machines hold them against what the root pins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use ed25519_dalek::SigningKey;
use tokio::sync::mpsc;
use upswarm_protocol::catalog::{
    APT_PREFIX, Action, AptIndex, AptPackage, AptRecipe, Classification, Detect, PackageKind, Payload, Platform,
    Recipe, Release, RestartPolicy, Severity, WhenAbsent,
};
use upswarm_protocol::codec::{self, Bounded, Text};
use upswarm_protocol::coordinator::{HeldList, Input, Refusal};
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::{DocHash, ReleaseId};
use upswarm_protocol::trust::validate_release;
use upswarm_protocol::version;

use super::{View, updates};
use crate::api::actor::Actor;
use crate::api::approvals::SignedDocument;
use crate::api::catalog::{Catalog, CatalogRelease, content_of};
use crate::api::proposals::{
    Mending, Proposal, ProposalRequest, ProposalStatus, ProposedPackage, ProposedState, UpdateRow,
};
use crate::background;
use crate::clock;
use crate::coordinator::directory::Directory;
use crate::coordinator::keys::{self, KeyUse};
use crate::coordinator::repositories::fleet::{self, Offer, State};
use crate::coordinator::repositories::progress::Progress;
use crate::coordinator::repositories::selection::{self, Absent, Aim, Chosen, Selected, Wish};
use crate::coordinator::repositories::settings::Upstream;
use crate::coordinator::repositories::simulate::{Install, Kind as Way};
use crate::coordinator::repositories::snapshot::{self, IN_RELEASE, Snapshot};
use crate::coordinator::repositories::store::{self, Known, Stored};
use crate::coordinator::repositories::{Repositories, jobs::Work};
use crate::coordinator::requests::{Request, ask};
use crate::upstream::packages;
use crate::upstream::release::Listed;

/// How long a snapshot's release can be approved.
const LIFE: Duration = Duration::from_secs(180 * 86_400);
/// For apt on a machine, in seconds.
const TIMEOUT_S: u32 = 3600;
/// Releases of one snapshot, at most.
const MAX_OF_A_SNAPSHOT: u64 = 10_000;
/// Packages of a release, besides its metadata.
const MAX_PACKAGES: usize = 480;
/// Packages that a title names.
const NAMED: usize = 3;

/// Everything that a proposal rests on, as it was when it was asked for.
pub(crate) struct Prepared {
    actor: Actor,
    request: ProposalRequest,
    upstream: Upstream,
    snapshot: Snapshot,
    /// Newest snapshots of all upstreams and those before, which may tell of installed versions.
    known: Vec<(Snapshot, Upstream)>,
    states: BTreeMap<State, usize>,
    machines: usize,
    /// What the snapshot offers the group, and what feeds say of it: the worst first.
    offered: Vec<UpdateRow>,
    catalog: Arc<Catalog>,
    pinned: bool,
}

/// Looks at what a request rests on; refuses what can be refused at once.
pub(crate) fn prepare(
    actor: Actor,
    view: &View<'_>,
    repositories: &Repositories,
    mut request: ProposalRequest,
) -> Result<Prepared, Refusal> {
    let refuse = |what: String| Err(Refusal::Request(what));
    let upstream = repositories.upstream(&request.upstream)?;
    let mut snapshots = snapshot::all(&upstream.dir);
    let group = view.catalog.group_named(&request.group).map_err(Refusal::Request)?;
    let product = format!("{APT_PREFIX}.{}", upstream.name());
    let of_product = view.catalog.releases.iter().filter(|known| known.product == product);
    let is_approved = |known: &&CatalogRelease| {
        let found = view.catalog.approval(&group, &known.release);
        found.is_some_and(|approval| approval.action == Action::Install)
    };
    let found = match request.snapshot.as_str() {
        "latest" => snapshots.pop(),
        "before" => {
            let newest = of_product.clone().filter(is_approved).map(|known| known.counter).max();
            let now = newest.unwrap_or_else(|| snapshots.last().map_or(0, |newest| newest.facts.date.0 + 1));
            // The state that is approved begins its counter.
            let current = snapshots.iter().rposition(|one| one.facts.date.0 < now);
            current.and_then(|at| at.checked_sub(1)).map(|at| snapshots.swap_remove(at))
        }
        version => snapshots.iter().position(|one| one.version() == version).map(|at| snapshots.swap_remove(at)),
    };
    let Some(snapshot) = found else {
        let known: Vec<String> = snapshot::all(&upstream.dir).iter().map(Snapshot::version).collect();
        return refuse(match known.is_empty() {
            true => format!("{0} has no snapshot yet; make one with: upswarm sync run {0}", upstream.name()),
            false => {
                format!("{} has no snapshot {}; there are: {}", upstream.name(), request.snapshot, known.join(", "))
            }
        });
    };
    if request.back && (request.min_severity.is_some() || !request.install.is_empty()) {
        return refuse(
            "what goes back mends nothing and installs nothing: leave out severity and --install".to_owned(),
        );
    }
    let newest = of_product.map(|known| known.counter).max().unwrap_or(0);
    if !request.back && newest > snapshot.facts.date.0.saturating_add(MAX_OF_A_SNAPSHOT) {
        return refuse(format!(
            "{} {} is an earlier state than one that was approved already; if machines are to go back to it, say --back",
            upstream.name(),
            snapshot.version()
        ));
    }
    for name in request.select.iter().chain(&request.except).chain(&request.install) {
        if !packages::is_name(name) {
            return refuse(format!("{name:?} is no package's name"));
        }
    }
    let hash = DocHash::of(&upstream.bytes);
    let pinned = view.upstreams.iter().any(|rule| *rule.name == *upstream.name() && rule.description == hash);
    if !pinned && !request.dry_run {
        return refuse(format!(
            "the root does not pin {}, so machines would refuse its packages; pin it first. What it would do shows --dry-run",
            upstream.name()
        ));
    }
    let machines = view.devices().filter(|record| record.groups.contains(&group)).count();
    let mut states: BTreeMap<State, usize> = BTreeMap::new();
    for record in updates::told(view, Some(&request.group))? {
        let Some(held) = view.inventory(&record.device) else { continue };
        if fleet::is_for(&snapshot.facts, &held.inventory) {
            *states.entry(fleet::state(&held.inventory)).or_default() += 1;
        }
    }
    states.retain(|state, _| !state.is_empty());
    if states.is_empty() {
        return refuse(format!(
            "no machine of group {} has told what is installed on it and is one that {} is for; see: upswarm inventory",
            request.group,
            upstream.name()
        ));
    }
    let offered = updates::offered(view, repositories, &request.group, &upstream.description, &snapshot)?;
    if let Some(least) = request.min_severity {
        request.select = of_severity(&offered, &request.select, least)?;
    }
    let mut known = Vec::new();
    for name in repositories.names() {
        let other = repositories.upstream(&name)?;
        known.extend(snapshot::all(&other.dir).into_iter().rev().map(|snapshot| (snapshot, other.clone())));
    }
    let catalog = Arc::new(view.catalog.clone());
    Ok(Prepared { actor, request, upstream, snapshot, known, states, machines, offered, catalog, pinned })
}

/// Of the named source packages, or of all, those of which feeds know now that they mend something at least so bad.
fn of_severity(offered: &[UpdateRow], named: &[String], least: Severity) -> Result<Vec<String>, Refusal> {
    let rows = || offered.iter().filter(|row| named.is_empty() || named.contains(&row.source));
    let bad = rows().filter(|row| row.severity.is_some_and(|severity| severity >= least));
    let select: Vec<String> = bad.map(|row| row.source.clone()).collect();
    if select.is_empty() {
        let unknown = rows().filter(|row| updates::is_unknown(row)).count();
        return Err(Refusal::Request(format!(
            "no update is known to mend anything so bad; of {unknown} nobody has said how bad it is. See: upswarm updates, and              upswarm sync feed list"
        )));
    }
    Ok(select)
}

/// Begins; returns at once.
pub(crate) fn begin(
    prepared: Prepared,
    repositories: &Arc<Repositories>,
    directory: Directory,
    driver: mpsc::Sender<Request>,
) -> Result<ProposalStatus, Refusal> {
    let busy =
        || Refusal::Request("other proposals are being worked on; try again when one of them has ended".to_owned());
    let work = repositories.jobs().begin().ok_or_else(busy)?;
    let status = repositories.jobs().status(work.id).ok_or_else(busy)?;
    tokio::spawn(run(prepared, repositories.clone(), directory, driver, work));
    Ok(status)
}

async fn run(
    prepared: Prepared,
    repositories: Arc<Repositories>,
    directory: Directory,
    driver: mpsc::Sender<Request>,
    work: Work,
) {
    let progress = work.progress.clone();
    let end = propose(prepared, &repositories, &directory, &driver, &progress).await;
    work.end(end.map_err(|error| format!("{error:#}")));
}

/// Tries and publishes, and comes back when that is done.
pub(crate) async fn propose(
    prepared: Prepared,
    repositories: &Repositories,
    directory: &Directory,
    driver: &mpsc::Sender<Request>,
    progress: &Progress,
) -> anyhow::Result<Proposal> {
    let watched = progress.clone();
    let (prepared, selected) = background::run(move || -> anyhow::Result<_> {
        let selected = try_out(&prepared, &watched)?;
        Ok((prepared, selected))
    })
    .await??;
    let mut proposal = shown(&prepared, &selected);
    if selected.packages.is_empty() {
        if let Some(why) = selected.tried.iter().find_map(|one| one.simulated.refused.as_ref()) {
            let group = &prepared.request.group;
            bail!("apt finds no way to bring it to the machines of group {group}: {why}");
        }
        let other = if prepared.request.back { "a version from a later state" } else { "an earlier version" };
        bail!("nothing is to be done: no machine of group {} has {other} of what was selected", prepared.request.group);
    }
    if selected.packages.len() > MAX_PACKAGES {
        bail!(
            "{} packages are more than the {MAX_PACKAGES} of a release; approve them in parts with --select",
            selected.packages.len()
        );
    }
    let removing: usize = proposal.states.iter().filter(|one| !one.removes.is_empty()).map(|one| one.machines).sum();
    if removing > 0 && !prepared.request.allow_removals && !prepared.request.dry_run {
        let names: BTreeSet<&str> = proposal.states.iter().flat_map(|one| &one.removes).map(String::as_str).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        bail!(
            "apt would remove {names} on {removing} machines; select what keeps them with --select, leave out what removes them with \
             --except, or say --allow-removals: machines remove nothing then either, and report it"
        );
    }
    if prepared.request.dry_run {
        return Ok(proposal);
    }
    anyhow::ensure!(prepared.pinned, "the root does not pin {}", prepared.upstream.name());
    prepared.snapshot.note_used()?;
    let stored = collect(&prepared, &selected.packages, repositories, directory, driver, progress).await?;
    let release = release(&prepared, &selected.packages, &stored)?;
    proposal.version = release.version.to_string();
    progress.begin("publishing", 0);
    let content = content_of(&release);
    let before = prepared.catalog.releases.iter().find(|known| known.content == content);
    if let Some(before) = before {
        proposal.release = Some(before.release);
        return Ok(proposal);
    }
    let body = codec::encode(&release, Kind::Release.cap()).context("the release is too large; approve it in parts")?;
    let key = sync_key(directory)?;
    let bytes = envelope::sign_body(Kind::Release, Role::Publisher, &body, &[&key]).context("signing the release")?;
    let actor = prepared.actor.clone();
    let answer = ask(driver, |reply| Request::Publish(actor, SignedDocument(bytes), reply)).await?;
    answer.map_err(|refusal| anyhow!("the release was refused: {refusal}"))?;
    proposal.release = Some(ReleaseId::of(&body));
    Ok(proposal)
}

/// Blocks.
fn try_out(prepared: &Prepared, progress: &Progress) -> anyhow::Result<Selected> {
    progress.begin("reading the snapshot", 0);
    let request = &prepared.request;
    let offer = Offer::read(&prepared.snapshot, &prepared.upstream.description, None)?;
    let names: BTreeSet<String> = prepared.states.keys().flatten().map(|one| one.name.clone()).collect();
    let (mut others, mut later) = (Vec::new(), Vec::new());
    let is_later = |snapshot: &Snapshot, of: &Upstream| {
        of.name() == prepared.upstream.name() && snapshot.facts.date > prepared.snapshot.facts.date
    };
    for (snapshot, upstream) in prepared.known.iter().filter(|(snapshot, _)| snapshot.id != prepared.snapshot.id) {
        match Offer::read(snapshot, &upstream.description, Some(&names)) {
            Ok(offer) if request.back && is_later(snapshot, upstream) => later.push(offer),
            Ok(offer) => others.push(offer),
            // It is only asked what installed versions depend on.
            Err(error) => tracing::warn!(upstream = upstream.name(), "{error:#}"),
        }
    }
    for source in &request.select {
        let there = names.iter().flat_map(|name| offer.named(name)).any(|package| package.source == *source);
        if !there {
            bail!(
                "{source} is no source package of anything that is installed in group {}; see: upswarm updates",
                request.group
            );
        }
    }
    for package in &request.install {
        if offer.named(package).is_empty() {
            bail!("{} has no package {package}, or may not supply it", prepared.upstream.name());
        }
    }
    let wish = Wish {
        select: request.select.iter().cloned().collect(),
        except: request.except.iter().cloned().collect(),
        install: request.install.clone(),
    };
    let known: Vec<&Offer> = std::iter::once(&offer).chain(&later).chain(&others).collect();
    let later: Vec<&Offer> = later.iter().collect();
    let aim = Aim { offer: &offer, back_from: request.back.then_some(&*later) };
    let suite = prepared.upstream.description.suite.as_str();
    selection::select((&prepared.snapshot, suite), aim, &known, &prepared.states, &wish, progress)
}

fn shown(prepared: &Prepared, selected: &Selected) -> Proposal {
    let tried_on: usize = prepared.states.values().sum();
    let is_of = |install: &Install, chosen: &Chosen| {
        (install.name.as_str(), install.arch.as_str()) == (chosen.package.name.as_str(), chosen.package.arch.as_str())
    };
    let count = |chosen: &Chosen, way: Way| -> usize {
        let is = |one: &&selection::Tried| {
            one.simulated.installs.iter().any(|install| is_of(install, chosen) && install.kind() == way)
        };
        selected.tried.iter().filter(is).map(|one| one.machines).sum()
    };
    let from = |chosen: &Chosen| -> Vec<String> {
        let installs = selected.tried.iter().flat_map(|one| &one.simulated.installs);
        let before = installs.filter(|install| is_of(install, chosen)).filter_map(|install| install.before.clone());
        let mut before: Vec<String> = before.collect();
        before.sort_by(|a, b| version::compare(PackageKind::Deb, a, b));
        before.dedup();
        before
    };
    let mut packages: Vec<ProposedPackage> = selected
        .packages
        .iter()
        .map(|chosen| ProposedPackage {
            source: chosen.package.source.clone(),
            name: chosen.package.name.clone(),
            version: chosen.package.version.clone(),
            arch: chosen.package.arch.clone(),
            phased: chosen.package.phased,
            from: from(chosen),
            upgrades: count(chosen, Way::Upgrade),
            back: count(chosen, Way::Back),
            new: count(chosen, Way::New),
        })
        .collect();
    packages.sort_by(|a, b| (&a.source, &a.name, &a.arch).cmp(&(&b.source, &b.name, &b.arch)));
    let mut states: Vec<ProposedState> = selected
        .tried
        .iter()
        .map(|one| ProposedState {
            machines: one.machines,
            upgrades: one.simulated.installs.iter().filter(|install| install.kind() == Way::Upgrade).count(),
            back: one.simulated.installs.iter().filter(|install| install.kind() == Way::Back).count(),
            new: one.simulated.installs.iter().filter(|install| install.kind() == Way::New).count(),
            removes: one.simulated.removes.clone(),
            refused: one.simulated.refused.clone(),
            partial: one.simulated.partial,
        })
        .collect();
    states.sort_by_key(|one| std::cmp::Reverse(one.machines));
    Proposal {
        product: format!("{APT_PREFIX}.{}", prepared.upstream.name()),
        version: prepared.snapshot.version(),
        release: None,
        machines: prepared.machines,
        left_out: prepared.machines.saturating_sub(tried_on),
        bytes: selected.packages.iter().map(|chosen| chosen.package.len).sum(),
        packages,
        added: selected.added.iter().cloned().collect(),
        back: prepared.request.back,
        stays: selected.stays.iter().cloned().collect(),
        states,
        mends: mends(prepared, &selected.packages),
    }
}

/// What feeds say that the chosen packages mend, the worst first.
fn mends(prepared: &Prepared, chosen: &[Chosen]) -> Vec<Mending> {
    let sources: BTreeSet<&str> = chosen.iter().map(|one| one.package.source.as_str()).collect();
    let rows = prepared.offered.iter().filter(|row| sources.contains(row.source.as_str()));
    if prepared.request.back {
        return Vec::new();
    }
    let mending = |row: &UpdateRow| {
        let (source, cves) = (row.source.clone(), row.cves.clone());
        row.severity.map(|severity| Mending { source, severity, cves })
    };
    rows.filter_map(mending).collect()
}

/// Payloads of the metadata, in the order of a release, then one for each package.
async fn collect(
    prepared: &Prepared,
    chosen: &[Chosen],
    repositories: &Repositories,
    directory: &Directory,
    driver: &mpsc::Sender<Request>,
    progress: &Progress,
) -> anyhow::Result<Vec<Payload>> {
    let (upstream, snapshot) = (&prepared.upstream, &prepared.snapshot);
    let mut payloads = Vec::new();
    let metadata = [("upstream.json".to_owned(), upstream.dir.join("upstream.json"))].into_iter();
    let metadata = metadata.chain([(IN_RELEASE.to_owned(), snapshot.dir.join(IN_RELEASE))]);
    let indexes = snapshot.facts.indexes.iter().map(|index| (index.file_name(), snapshot.dir.join(index.file_name())));
    for (name, path) in metadata.chain(indexes) {
        let stored = put(directory, &path, true, driver).await?;
        payloads.push(stored.payload(&name)?);
    }
    let mut known = Known::load(&upstream.dir);
    let missing = chosen.iter().filter(|one| known.get(&hex::encode(one.package.sha256), directory).is_none());
    let missing: Vec<&Chosen> = missing.collect();
    progress.begin(format!("fetching {} packages", missing.len()), missing.iter().map(|one| one.package.len).sum());
    let arriving = upstream.dir.join("arriving");
    std::fs::create_dir_all(&arriving).context("making a folder for packages")?;
    let mut fetched = Vec::new();
    for one in missing {
        let hash = hex::encode(one.package.sha256);
        let (to, listed) = (arriving.join(&hash), Listed { len: one.package.len, sha256: one.package.sha256 });
        let came = repositories.fetch(upstream, &one.package.filename, listed, &to, progress).await;
        came.with_context(|| match prepared.request.back {
            true => format!(
                "{} {} is not here any more, and no mirror gave it; leave it out with --except {}, or name a mirror that keeps old \
                 packages (for Debian, snapshot.debian.org)",
                one.package.name, one.package.version, one.package.source
            ),
            false => format!("fetching {} {}", one.package.name, one.package.version),
        })?;
        let stored = put(directory, &to, false, driver).await?;
        anyhow::ensure!(stored.sha256 == hash, "{} changed while it was stored", to.display());
        fetched.push(stored);
    }
    known.add(fetched, directory)?;
    for one in chosen {
        let hash = hex::encode(one.package.sha256);
        let stored =
            known.get(&hash, directory).with_context(|| format!("{} is gone from the store", one.package.name))?;
        payloads.push(stored.payload(one.package.file_name())?);
    }
    Ok(payloads)
}

/// Puts a file into the payload store, and tells the core of it.
async fn put(directory: &Directory, file: &Path, keep: bool, driver: &mpsc::Sender<Request>) -> anyhow::Result<Stored> {
    let (owned, path) = (directory.clone(), file.to_owned());
    let stored = background::run(move || store::put(&owned, &path, keep)).await??;
    let (payload, len, hash) = (stored.id, stored.len, stored.chunk_list);
    let list = HeldList { len: stored.chunk_list_len, payload_len: len };
    ask(driver, |reply| Request::Held(Input::ChunkListHeld { hash, list }, reply)).await?;
    ask(driver, |reply| Request::Held(Input::PayloadHeld { payload, len }, reply)).await?;
    Ok(stored)
}

/// The release of these payloads, which are as [`collect`] orders them.
fn release(prepared: &Prepared, chosen: &[Chosen], payloads: &[Payload]) -> anyhow::Result<Release> {
    let (upstream, snapshot) = (&prepared.upstream, &prepared.snapshot);
    let first = 2 + snapshot.facts.indexes.len();
    let position = |at: usize| u16::try_from(at).context("too many payloads");
    let indexes = snapshot.facts.indexes.iter().enumerate().map(|(at, index)| -> anyhow::Result<AptIndex> {
        Ok(AptIndex { payload: position(2 + at)?, path: Text::new(index.path.as_str())? })
    });
    let packages = chosen.iter().enumerate().map(|(at, one)| -> anyhow::Result<AptPackage> {
        let when_absent = match &one.absent {
            Absent::Never => WhenAbsent::Never,
            Absent::Always => WhenAbsent::Always,
            Absent::With(others) => {
                let others = others.iter().map(|other| position(*other)).collect::<anyhow::Result<Vec<u16>>>()?;
                WhenAbsent::With(Bounded::new(others)?)
            }
        };
        Ok(AptPackage {
            payload: position(first + at)?,
            name: Text::new(one.package.name.as_str())?,
            version: Text::new(one.package.version.as_str())?,
            arch: Text::new(one.package.arch.as_str())?,
            source: Text::new(one.package.source.as_str())?,
            when_absent,
        })
    });
    let recipe = AptRecipe {
        upstream: 0,
        in_release: 1,
        indexes: Bounded::new(indexes.collect::<anyhow::Result<Vec<_>>>()?)?,
        packages: Bounded::new(packages.collect::<anyhow::Result<Vec<_>>>()?)?,
        back: prepared.request.back,
        timeout_s: TIMEOUT_S,
    };
    let product = format!("{APT_PREFIX}.{}", upstream.name());
    let classification =
        if upstream.description.suite.contains("security") { Classification::Security } else { Classification::Update };
    let issued = clock::wall();
    let mends = mends(prepared, chosen);
    let cves: BTreeSet<&str> = mends.iter().flat_map(|one| &one.cves).map(String::as_str).collect();
    let mut release = Release {
        product: Text::new(product.as_str())?,
        version: Text::new(snapshot.version())?,
        counter: 0,
        title: Text::lossy(&title(upstream.name(), chosen, prepared.request.back)),
        classification,
        severity: mends.iter().map(|one| one.severity).max().unwrap_or(Severity::Unspecified),
        cves: Bounded::truncated(cves.into_iter().map(Text::lossy).collect()),
        issued,
        expires: issued + LIFE,
        platform: Platform { os: Text::lossy("linux"), arch: Text::default() },
        payloads: Bounded::new(payloads.to_vec())?,
        applicability: Bounded::default(),
        detect: Bounded::truncated(vec![Detect::Selection]),
        install: Recipe::Apt(recipe),
        uninstall: None,
        restart: RestartPolicy::IfRequired,
        depends: Bounded::default(),
        supersedes: Bounded::default(),
    };
    number(&mut release, snapshot, &prepared.catalog)?;
    validate_release(&release).context("the release")?;
    Ok(release)
}

/// Gives a release its version and counter: those of an equal one that is published already, or the next of its snapshot.
fn number(release: &mut Release, snapshot: &Snapshot, catalog: &Catalog) -> anyhow::Result<()> {
    let base = snapshot.version();
    let of_product: Vec<_> = catalog.releases.iter().filter(|known| *known.product == *release.product).collect();
    let is_of =
        |version: &str| version == base || version.strip_prefix(&base).is_some_and(|rest| rest.starts_with('+'));
    let of_snapshot = of_product.iter().filter(|known| is_of(&known.version));
    let mut count = 0;
    for known in of_snapshot {
        count += 1;
        release.version = Text::new(known.version.as_str())?;
        if content_of(release) == known.content {
            release.counter = known.counter;
            return Ok(());
        }
    }
    let number = count + 1;
    let version = if number == 1 { base } else { format!("{base}+{number}") };
    release.version = Text::new(version)?;
    release.counter = snapshot.facts.date.0.saturating_add(number);
    Ok(())
}

fn title(upstream: &str, chosen: &[Chosen], back: bool) -> String {
    let sources: BTreeSet<&str> = chosen.iter().map(|one| one.package.source.as_str()).collect();
    let named: Vec<&str> = sources.iter().copied().take(NAMED).collect();
    let more = sources.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let way = if back { "back to earlier " } else { "" };
    format!("{upstream}: {way}{}{more}", named.join(", "))
}

/// The key that signs snapshots' releases; made when it is needed first.
pub(crate) fn sync_key(directory: &Directory) -> anyhow::Result<SigningKey> {
    let path = keys::file(&directory.keys(), KeyUse::Sync, 1);
    if !path.exists() {
        let key = keys::generate()?;
        // Of two that want the first one at once, the other finds it there.
        match keys::write(&path, KeyUse::Sync, keys::public(&key), &key.to_bytes(), None) {
            Err(error) if !path.exists() => return Err(error),
            _ => {}
        }
    }
    let mut none = || -> anyhow::Result<keys::Passphrase> { bail!("the sync key is encrypted, which it must not be") };
    Ok(SigningKey::from_bytes(&*keys::read(&path, KeyUse::Sync, &mut none)?))
}
