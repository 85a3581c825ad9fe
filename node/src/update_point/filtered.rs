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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Cursor};
use std::sync::Arc;

use tokio::sync::Mutex;
use upswarm_protocol::catalog::{Filtered, Payload, Recipe};
use upswarm_protocol::ids::{GroupId, PayloadId};

use super::answer::{Found, Refusal, Shared, internal, not_found};
use super::{Filter, Question};
use crate::upstream::compression::Compression;
use crate::upstream::filtered::{self, Indexes};
use crate::upstream::proof::MAX_METADATA;

/// States of one repository that are kept for clients in the middle of an update.
const GENERATIONS: usize = 2;
/// Repositories whose indexes are kept; each has some hundred KiB.
const MAX_REPOSITORIES: usize = 64;

/// What is asked for of a group's repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Sources,
    Certificates,
    /// Below `dists/` of an upstream.
    Dists {
        upstream: String,
        path: String,
    },
    /// A package of an upstream.
    Pool {
        upstream: String,
        file: String,
    },
}

/// The part that a path below `/apt/filtered/` names, and the group's name or number.
pub(super) fn part(path: &str) -> Option<(String, Part)> {
    let Some((group, rest)) = path.split_once('/') else {
        let whole = |end: &str, part| Some((path.strip_suffix(end)?.to_owned(), part));
        return whole(".sources", Part::Sources).or_else(|| whole(".asc", Part::Certificates));
    };
    let (kind, rest) = rest.split_once('/')?;
    let (upstream, path) = rest.split_once('/')?;
    let upstream = upstream.to_owned();
    let part = match kind {
        "dists" => Part::Dists { upstream, path: path.to_owned() },
        "pool" if !path.contains('/') => Part::Pool { upstream, file: path.to_owned() },
        _ => return None,
    };
    Some((group.to_owned(), part))
}

/// Indexes of one repository, the newest first.
type Generations = VecDeque<(PayloadId, Arc<Indexes>)>;

/// Indexes that were computed.
#[derive(Debug, Default)]
pub(super) struct Built(Mutex<BTreeMap<(GroupId, String), Generations>>);

impl Shared {
    /// Answers for a part of a group's repositories. `host` is how the client calls this machine.
    pub(super) async fn filtered(&self, group: String, part: Part, host: &str) -> Result<Found, Refusal> {
        let named = group.clone();
        let approved = self.ask(|reply| Question::Filtered(named, reply)).await?;
        let nothing =
            || not_found(format!("nothing is approved for the machines without an agent of the group {group:?}"));
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
                    let bytes = match self.built.hashed(&upstream, hash).await {
                        Some(bytes) => Some(bytes),
                        None => match approved.iter().find(|of| filtered::upstream(&of.release) == upstream) {
                            Some(of) => by_hash(&*self.indexes(of).await?, hash),
                            None => None,
                        },
                    };
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
        let Recipe::Apt(recipe) = &of.release.install else { return Err(internal("it is no snapshot")) };
        let key = (of.approval.group, filtered::upstream(&of.release).to_owned());
        let id = PayloadId(of.approval.release.0);
        // One computes, the others wait for that.
        let mut built = self.built.0.lock().await;
        if let Some((_, known)) = built.get(&key).into_iter().flatten().find(|(known, _)| *known == id) {
            return Ok(known.clone());
        }
        let payloads: Vec<Payload> = recipe
            .indexes
            .iter()
            .filter_map(|index| of.release.payloads.get(usize::from(index.payload)).cloned())
            .collect();
        if payloads.iter().fold(0, |sum: u64, payload| sum.saturating_add(payload.len)) > MAX_METADATA {
            return Err(internal("upstream's indexes are larger than what an approver could have signed"));
        }
        let mut files: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
        for (index, payload) in recipe.indexes.iter().zip(&payloads) {
            files.insert(index.payload, self.whole(payload).await?);
        }
        let release = of.release.clone();
        let computed = tokio::task::spawn_blocking(move || {
            let Recipe::Apt(recipe) = &release.install else { anyhow::bail!("it is no snapshot") };
            Indexes::of(&release, recipe, |index| {
                let bytes = files.remove(&index.payload).ok_or(io::ErrorKind::NotFound)?;
                Compression::of(&index.path).open(Cursor::new(bytes))
            })
        });
        let indexes = Arc::new(computed.await.map_err(internal)?.map_err(|error| internal(format!("{error:#}")))?);
        if !built.contains_key(&key) && built.len() >= MAX_REPOSITORIES {
            built.pop_first();
        }
        let generations = built.entry(key).or_default();
        generations.push_front((id, indexes.clone()));
        generations.truncate(GENERATIONS);
        Ok(indexes)
    }
}

impl Built {
    async fn hashed(&self, upstream: &str, hash: &str) -> Option<Vec<u8>> {
        let built = self.0.lock().await;
        let of_it = built.iter().filter(|((_, of), _)| of == upstream).flat_map(|(_, generations)| generations);
        of_it.into_iter().find_map(|(_, indexes)| by_hash(indexes, hash))
    }
}

fn by_hash(indexes: &Indexes, hash: &str) -> Option<Vec<u8>> {
    indexes.hashed(&hex::decode(hash).ok()?).map(<[u8]>::to_vec)
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
