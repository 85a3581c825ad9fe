//! Standing rules about repositories at work: what a rule covers is tried with apt, published, and approved as the rule says. Owns when
//! it is looked, and what an admin is told of a rule that cannot be applied.
//!
//! An approver has signed each rule; the online keys only say that its time has come, and machines hold every such approval against
//! the rule itself. So nothing here can go beyond what was signed. What apt would not do without removing something, or not at all, is
//! approved nowhere, and raises an alarm.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use upswarm_protocol::catalog::{APT_PREFIX, ApprovalRule, Recipe, Release, RuledApproval, Severity};
use upswarm_protocol::codec::{self, Bounded};
use upswarm_protocol::envelope::{self, Envelope, Kind, Role};
use upswarm_protocol::ids::{DocHash, ReleaseId};
use upswarm_protocol::trust::verify_rule;

use super::admin::{proposals, updates};
use super::directory::Directory;
use super::keys;
use super::repositories::progress::Progress;
use super::repositories::{Repositories, snapshot};
use super::requests::{Request, ask};
use super::store::FleetStore;
use super::store::view::{Live, View};
use crate::api::actor::Actor;
use crate::api::approvals::SignedDocument;
use crate::api::proposals::{ProposalRequest, UpdateRow};
use crate::api::rules::RepositoryRule;
use crate::clock;

/// Machines come, and tell what is installed on them; nothing rings for that.
const AGAIN: Duration = Duration::from_secs(30 * 60);
/// After a start machines connect first.
const FIRST: Duration = Duration::from_secs(120);

/// Applies the rules of a running coordinator.
pub(crate) struct RepositoryRules {
    repositories: Arc<Repositories>,
    directory: Directory,
    fleet: FleetStore,
    driver: mpsc::Sender<Request>,
}

/// A rule that has something to do.
struct Due {
    rule: ApprovalRule,
    prepared: proposals::Prepared,
}

impl RepositoryRules {
    pub(crate) fn new(
        repositories: Arc<Repositories>,
        directory: Directory,
        fleet: FleetStore,
        driver: mpsc::Sender<Request>,
    ) -> Self {
        Self { repositories, directory, fleet, driver }
    }

    /// Looks whenever there is something new, and from time to time, until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut wait = FIRST;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.repositories.something_new() => {}
                () = tokio::time::sleep(wait) => {}
            }
            wait = AGAIN;
            tokio::select! {
                () = stop.cancelled() => return,
                done = self.look() => {
                    if let Err(error) = done {
                        tracing::warn!("standing rules: {error:#}");
                    }
                }
            }
        }
    }

    /// Applies every rule, and tells which cannot be.
    async fn look(&self) -> anyhow::Result<()> {
        let live: Live = ask(&self.driver, Request::Live).await?;
        let mut troubles = Vec::new();
        for known in live.rules.repositories().all() {
            if let Err(error) = self.apply(known).await {
                let (number, of, group) = (known.id, &known.upstream, &known.group);
                troubles.push(format!("rule r{number} (repository {of}, group {group}) approved nothing: {error:#}"));
            }
        }
        Ok(ask(&self.driver, |reply| Request::RuleTroubles(troubles, reply)).await?)
    }

    async fn apply(&self, known: &RepositoryRule) -> anyhow::Result<()> {
        let Some(Due { rule, prepared }) = self.due(known).await? else { return Ok(()) };
        let (actor, progress) = (Actor::rule(rule.number), Progress::default());
        let proposal =
            proposals::propose(prepared, &self.repositories, &self.directory, &self.driver, &progress).await?;
        if let Some(state) = proposal.states.iter().find(|state| state.refused.is_some()) {
            let why = state.refused.as_deref().unwrap_or_default();
            bail!("apt finds no way on {} of the machines: {why}", state.machines);
        }
        let id = proposal.release.context("nothing was published")?;
        let live = ask(&self.driver, Request::Live).await?;
        if live.catalog.approval(&rule.group, &id).is_some() {
            return Ok(());
        }
        let document =
            live.catalog.releases.iter().find(|of| of.release == id).context("the release is gone")?.document;
        let (directory, rule_document) = (self.directory.clone(), known.document.0.clone());
        let signed =
            tokio::task::spawn_blocking(move || sign(&directory, &rule, rule_document, id, &document)).await??;
        let answer = ask(&self.driver, |reply| Request::Approve(actor.clone(), signed, reply)).await?;
        let accepted = answer.map_err(|refusal| anyhow!("the approval was refused: {refusal}"))?;
        let (version, group, index) = (&proposal.version, &known.group, accepted.index_version);
        tracing::info!(%actor, release = %id.short(), version, group, index, "a rule has approved a snapshot");
        Ok(())
    }

    /// What a rule has to do now, if it has anything to do.
    async fn due(&self, known: &RepositoryRule) -> anyhow::Result<Option<Due>> {
        let live = ask(&self.driver, Request::Live).await?;
        let (fleet, repositories, directory) =
            (self.fleet.snapshot(), self.repositories.clone(), self.directory.clone());
        let known = known.clone();
        let work = move || due(&View::new(&live, &fleet), &repositories, &directory, &known);
        tokio::task::spawn_blocking(work).await?
    }
}

fn due(
    view: &View<'_>,
    repositories: &Repositories,
    directory: &Directory,
    known: &RepositoryRule,
) -> anyhow::Result<Option<Due>> {
    let anew =
        || format!("sign it anew with: upswarm rule add, and remove this one with: upswarm rule remove r{}", known.id);
    let (root, _) = directory.newest_root()?;
    let rule = verify_rule(&root, &known.document.0).with_context(|| format!("it counts no more; {}", anew()))?;
    if rule.expires <= view.now {
        bail!("it expired at {}; {}", rule.expires, anew());
    }
    let upstream = repositories.upstream(&known.upstream)?;
    let Some(newest) = snapshot::all(&upstream.dir).pop() else { return Ok(None) };
    // The group's number counts; it may have another name by now.
    let group = view.names.group_name(&rule.group);
    let offered = updates::offered(view, repositories, &group, &upstream.description, &newest);
    let rows: Vec<UpdateRow> =
        offered.map_err(|refusal| anyhow!("{refusal}"))?.into_iter().filter(|row| is_about(&rule, row)).collect();
    let decided = decided(view, directory, &rule, &newest.version())?;
    if rows.iter().flat_map(|row| &row.packages).all(|package| decided.contains(package)) {
        return Ok(None);
    }
    let request = ProposalRequest {
        upstream: known.upstream.clone(),
        snapshot: newest.version(),
        group,
        select: rows.into_iter().map(|row| row.source).collect(),
        ..ProposalRequest::default()
    };
    let prepared = proposals::prepare(Actor::rule(rule.number), view, repositories, request);
    Ok(Some(Due { rule, prepared: prepared.map_err(|refusal| anyhow!("{refusal}"))? }))
}

fn is_about(rule: &ApprovalRule, row: &UpdateRow) -> bool {
    let named = rule.sources.is_empty() || rule.sources.iter().any(|source| **source == *row.source);
    let bad = rule.min_severity == Severity::Unspecified
        || row.severity.is_some_and(|severity| severity >= rule.min_severity);
    named && bad
}

/// Packages of a snapshot about which something has been decided for the rule's group, by a rule or by a person: they are on their
/// way, or declined.
fn decided(
    view: &View<'_>,
    directory: &Directory,
    rule: &ApprovalRule,
    version: &str,
) -> anyhow::Result<BTreeSet<String>> {
    let product = format!("{APT_PREFIX}.{}", rule.upstream);
    let is_of = |other: &str| other.strip_prefix(version).is_some_and(|rest| rest.is_empty() || rest.starts_with('+'));
    let mut packages = BTreeSet::new();
    for known in view.catalog.releases.iter().filter(|known| known.product == product && is_of(&known.version)) {
        if view.catalog.approval(&rule.group, &known.release).is_none() {
            continue;
        }
        if let Recipe::Apt(recipe) = read(directory, &known.document)?.install {
            packages.extend(recipe.packages.iter().map(|package| package.name.to_string()));
        }
    }
    Ok(packages)
}

fn read(directory: &Directory, document: &DocHash) -> anyhow::Result<Release> {
    let bytes = std::fs::read(directory.doc(document)).context("reading a release")?;
    let envelope = Envelope::parse(&bytes, Kind::Release, Role::Publisher)?;
    Ok(codec::decode(envelope.unverified_body(), Kind::Release.cap())?)
}

/// The approval that a rule makes of a release now. What the rule does not cover, machines would refuse.
fn sign(
    directory: &Directory,
    rule: &ApprovalRule,
    document: Vec<u8>,
    id: ReleaseId,
    release: &DocHash,
) -> anyhow::Result<SignedDocument> {
    let now = clock::wall();
    rule.covers(&read(directory, release)?, now)
        .map_err(|why| anyhow!("{why}; approve it by hand: upswarm approve {} --group ...", id.short()))?;
    let body = RuledApproval { approval: rule.approval(id, now), rule: Bounded::new(document)? };
    let (root, _) = directory.newest_root()?;
    let held = directory.online_keys()?;
    let signing: Vec<_> = held.iter().filter(|key| root.online.contains(&keys::public(key))).collect();
    let bytes = envelope::sign(Kind::Approval, Role::Online, &body, &signing).context("signing an approval")?;
    Ok(SignedDocument(bytes))
}
