//! Repositories for machines without an agent, one a group:
//!
//! ```text
//! GET /apt/filtered/GROUP.sources                     all that such a machine needs: a stanza with the approvers' certificates
//! GET /apt/filtered/GROUP.asc                         those certificates alone
//! GET /apt/filtered/GROUP/dists/UPSTREAM/InRelease    of the approval in force, as its approver signed it
//! GET /apt/filtered/GROUP/dists/UPSTREAM/main/...     indexes by name, and by hash those of the one before too
//! GET /apt/filtered/GROUP/pool/UPSTREAM/FILE.deb      the packages of the approval
//! ```
//! Owns what follows from an approval here, and how long it is kept; the approver has signed it, and this machine has no key.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use upswarm_protocol::catalog::{Filtered, Payload, Recipe};

use super::answer::{Found, Refusal, Shared, busy, internal, not_found};
use super::built::by_hash;
use super::request::Part;
use super::{Filter, Question};
use crate::upstream::compression::Compression;
use crate::upstream::filtered::{self, Indexes};
use crate::upstream::proof::MAX_METADATA;

/// Files that are here are read within this.
const READ_WITHIN: Duration = Duration::from_secs(20);

impl Shared {
    /// Answers for a part of a group's repositories. `host` is how the client calls this machine.
    pub(super) async fn filtered(&self, group: String, part: Part, host: &str) -> Result<Found, Refusal> {
        let named = group.clone();
        let approved = self.ask(|reply| Question::Filtered(named, reply)).await?;
        let nothing = || {
            not_found(format!(
                "nothing is approved for the machines without an agent of the group {group:?}; where more than one approver must sign, \
                 nothing ever is: such machines would trust one approver's key"
            ))
        };
        match part {
            Part::Sources => {
                if approved.is_empty() {
                    return Err(nothing());
                }
                let suites = approved.iter().map(|of| filtered::upstream(&of.release).to_owned()).collect();
                let mut arches = BTreeSet::new();
                for of in &approved {
                    arches.extend(self.indexes(of).await?.architectures().map(str::to_owned));
                }
                let url = format!("http://{host}/apt/filtered/{group}");
                let text = filtered::sources(&url, &suites, &arches, &certificates(&approved)?);
                Ok(Found::text(text.into_bytes(), newest(&approved)))
            }
            Part::Certificates if approved.is_empty() => Err(nothing()),
            Part::Certificates => Ok(Found::text(certificates(&approved)?.concat().into_bytes(), newest(&approved))),
            Part::Dists { upstream, path } => {
                if let Some((_, hash)) = path.split_once("/by-hash/SHA256/") {
                    // What is not computed yet was named by no InRelease of this machine.
                    let mut bytes = self.built().hashed(&upstream, hash);
                    let of = approved.iter().find(|of| filtered::upstream(&of.release) == upstream);
                    if let (None, Some(of)) = (&bytes, of) {
                        let indexes = self.indexes(of).await?;
                        bytes = by_hash(&indexes, hash);
                    }
                    let missing = || not_found(format!("no index of {upstream} has this hash"));
                    return Ok(Found::text(bytes.ok_or_else(missing)?, upswarm_protocol::time::Wall(0)));
                }
                let of = approved.iter().find(|of| filtered::upstream(&of.release) == upstream).ok_or_else(nothing)?;
                let indexes = self.indexes(of).await?;
                let bytes = if path == "InRelease" {
                    let text = indexes.release_file(&of.approval, &of.release);
                    filtered::in_release(&text, signed(of)?).map_err(internal)?.into_bytes()
                } else {
                    let missing = || not_found(format!("{path} is no file of this repository"));
                    indexes.at(&path).ok_or_else(missing)?.to_vec()
                };
                Ok(Found::text(bytes, of.approval.issued))
            }
            Part::Pool { upstream, file } => {
                let found = approved.iter().filter(|of| filtered::upstream(&of.release) == upstream).find_map(|of| {
                    let Recipe::Apt(recipe) = &of.release.install else { return None };
                    let mut payloads =
                        recipe.packages.iter().filter_map(|one| of.release.payloads.get(usize::from(one.payload)));
                    let payload = payloads.find(|payload| payload.name.as_str() == file)?.clone();
                    Some(Found::payload(payload, of.release.issued))
                });
                found.ok_or_else(|| not_found(format!("{file:?} of {upstream} is not approved for this group")))
            }
        }
    }

    /// The indexes of an approval, computed once.
    async fn indexes(&self, of: &Filter) -> Result<Arc<Indexes>, Refusal> {
        let key = ((of.approval.group, filtered::upstream(&of.release).to_owned()), of.approval.release);
        let turn = {
            let mut built = self.built();
            if let Some(known) = built.get(&key, Instant::now()) {
                return known;
            }
            built.turn(&key).ok_or_else(|| busy("the indexes of many repositories are awaited here; try again"))?
        };
        // One computes, the others wait for that; no lock that another repository needs is held meanwhile.
        let _mine = turn.lock().await;
        if let Some(known) = self.built().get(&key, Instant::now()) {
            return known;
        }
        let outcome = self.compute(of).await.map(Arc::new);
        self.built().put(key, outcome.clone(), Instant::now());
        outcome
    }

    async fn compute(&self, of: &Filter) -> Result<Indexes, Refusal> {
        let Recipe::Apt(recipe) = &of.release.install else { return Err(internal("it is no snapshot")) };
        let payloads: Vec<Payload> = recipe
            .indexes
            .iter()
            .filter_map(|index| of.release.payloads.get(usize::from(index.payload)).cloned())
            .collect();
        if payloads.iter().fold(0, |sum: u64, payload| sum.saturating_add(payload.len)) > MAX_METADATA {
            return Err(internal("upstream's indexes are larger than what an approver could have signed"));
        }
        for payload in &payloads {
            self.arrives(payload).await?;
        }
        // Whoever computes is not waiting for files any more: these take no room from those whose files are here.
        let _room = self.computing.acquire().await.map_err(internal)?;
        let mut files: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
        for (index, payload) in recipe.indexes.iter().zip(&payloads) {
            let bytes = timeout(READ_WITHIN, self.whole(payload)).await;
            files.insert(index.payload, bytes.map_err(|_| busy("an index of upstream's has just been evicted"))??);
        }
        let release = of.release.clone();
        let computed = tokio::task::spawn_blocking(move || {
            let Recipe::Apt(recipe) = &release.install else { anyhow::bail!("it is no snapshot") };
            Indexes::of(&release, recipe, |index| {
                let bytes = files.remove(&index.payload).ok_or(io::ErrorKind::NotFound)?;
                Compression::of(&index.path).open(Cursor::new(bytes))
            })
        });
        computed.await.map_err(internal)?.map_err(|error| internal(format!("{error:#}")))
    }
}

fn signed(of: &Filter) -> Result<&Filtered, Refusal> {
    of.approval.filtered.as_ref().ok_or_else(|| internal("the approval has no repository"))
}

/// Each once.
fn certificates(approved: &[Filter]) -> Result<Vec<String>, Refusal> {
    let mut found = Vec::new();
    for of in approved {
        let certificate = filtered::certificate(signed(of)?).map_err(internal)?;
        if !found.contains(&certificate) {
            found.push(certificate);
        }
    }
    Ok(found)
}

fn newest(approved: &[Filter]) -> upswarm_protocol::time::Wall {
    approved.iter().map(|of| of.approval.issued).max().unwrap_or_default()
}
