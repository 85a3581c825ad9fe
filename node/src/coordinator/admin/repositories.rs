//! Upstream repositories: adding, syncing, listing and forgetting them. Owns what an admin may say of one; what mirrors answer is
//! `repositories`'.

use std::sync::Arc;

use upswarm_protocol::catalog::{APT_PREFIX, HeldKey, Keys, PublisherRule, Root, UpstreamRule};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::coordinator::Refusal;
use upswarm_protocol::ids::{DocHash, PublicKey};

use crate::api::actor::Actor;
use crate::api::repositories::{
    CertificateRow, NewUpstream, RemoveUpstream, SnapshotRow, SyncRequest, UpstreamAdded, UpstreamList, UpstreamRow,
};
use crate::clock;
use crate::coordinator::keys::COORDINATOR;
use crate::coordinator::repositories::settings::{EVERY_S, Settings, Upstream};
use crate::coordinator::repositories::{MAX_UPSTREAMS, Repositories, RepositoryError, snapshot};
use crate::upstream::UpstreamDescription;

/// What a root pins, by an upstream's name.
pub(crate) type Pinned<'a> = &'a dyn Fn(&str) -> Option<DocHash>;

/// Has a root pin an upstream's description, and lets the sync key publish snapshots: the change that the next root makes. The error
/// says what to do instead.
pub(crate) fn pin(root: &mut Root, name: &str, description: DocHash, sync_key: PublicKey) -> Result<(), String> {
    let mut upstreams = root.upstreams.clone().into_vec();
    upstreams.retain(|rule| *rule.name != *name);
    let name = Text::new(name).map_err(|error| format!("the upstream's name: {error}"))?;
    upstreams.push(UpstreamRule { name, description });
    upstreams.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    let full = format!("a root pins at most {MAX_UPSTREAMS} upstreams");
    root.upstreams = Bounded::new(upstreams).map_err(|_| full)?;
    let mut publishers = root.publishers.clone().into_vec();
    match publishers.iter_mut().find(|rule| rule.names() == APT_PREFIX) {
        Some(rule) if rule.keys.contains(&sync_key) => {}
        // One that the coordinator holds no more signs nothing.
        Some(rule) => rule.keys = one_key(sync_key),
        None => publishers.push(PublisherRule { product_prefix: Text::lossy(APT_PREFIX), keys: one_key(sync_key) }),
    }
    let full = "the root has rules for as many publishers as it can; take one out first: upswarm root revoke-key";
    root.publishers = Bounded::new(publishers).map_err(|_| full.to_owned())?;
    Ok(())
}

fn one_key(key: PublicKey) -> Keys {
    Keys::single(HeldKey { key, holder: Text::lossy(COORDINATOR) })
}

/// Adds an upstream, or changes what is known of one. Blocks for a moment.
pub(crate) fn add(
    actor: &Actor,
    repositories: &Repositories,
    (pinned, sync_key): (Pinned<'_>, PublicKey),
    request: NewUpstream,
) -> Result<UpstreamAdded, Refusal> {
    let bytes = request.description.into_bytes();
    let refused = |error: String| Refusal::Request(error);
    let description = UpstreamDescription::parse(&bytes).map_err(|error| refused(error.to_string()))?;
    let settings = Settings { urls: request.urls, every_s: request.every_s.unwrap_or(EVERY_S) };
    settings.mirrors().map_err(refused)?;
    let now = clock::wall();
    let certificates = description.certificates().map_err(|error| refused(error.to_string()))?;
    if !certificates.iter().any(|certificate| certificate.good_until(now).is_ok()) {
        let why: Vec<String> = certificates
            .iter()
            .filter_map(|certificate| Some(format!("{certificate}: {}", certificate.good_until(now).err()?)))
            .collect();
        return Err(refused(format!("none of its certificates counts now: {}", why.join("; "))));
    }
    let names = repositories.names();
    let new = !names.contains(&description.name);
    if new && names.len() >= MAX_UPSTREAMS {
        return Err(Refusal::Full("upstreams"));
    }
    let (name, hash) = (description.name.clone(), DocHash::of(&bytes));
    let upstream = Upstream { description, bytes, settings, dir: repositories.folder(&name) };
    upstream.save().map_err(|error| refused(format!("{error:#}")))?;
    tracing::info!(%actor, upstream = name, new, description = %hash, "an upstream is added");
    Ok(UpstreamAdded { pinned: pinned(&name) == Some(hash), description: hash, sync_key, new, name })
}

/// Begins to ask mirrors, and returns at once.
pub(crate) fn sync(
    actor: &Actor,
    repositories: &Arc<Repositories>,
    pinned: Pinned<'_>,
    request: &SyncRequest,
) -> Result<UpstreamList, Refusal> {
    let names = match &request.name {
        Some(name) => vec![name.clone()],
        None => repositories.names(),
    };
    if names.is_empty() {
        return Err(Refusal::Request("there is no upstream yet; add one with: upswarm sync add".to_owned()));
    }
    for name in &names {
        repositories.begin(name)?;
    }
    tracing::info!(%actor, upstreams = names.join(" "), "mirrors are asked");
    let mut list = list(repositories, pinned)?;
    list.upstreams.retain(|row| names.contains(&row.name));
    Ok(list)
}

/// Forgets an upstream. What was approved of it stays approved: releases do not rest on snapshots.
pub(crate) fn remove(
    actor: &Actor,
    repositories: &Repositories,
    pinned: Pinned<'_>,
    request: &RemoveUpstream,
) -> Result<UpstreamList, Refusal> {
    if repositories.progress(&request.name).is_some() {
        return Err(Refusal::Request(format!("{} is being synced; try again when that has ended", request.name)));
    }
    repositories.remove(&request.name)?;
    tracing::info!(%actor, upstream = request.name, "an upstream is forgotten");
    list(repositories, pinned)
}

/// Every upstream and how it stands.
pub(crate) fn list(repositories: &Repositories, pinned: Pinned<'_>) -> Result<UpstreamList, Refusal> {
    let names = repositories.names();
    let rows = names.iter().map(|name| Ok(row(repositories, &repositories.upstream(name)?, pinned)));
    Ok(UpstreamList { upstreams: rows.collect::<Result<_, Refusal>>()? })
}

fn row(repositories: &Repositories, upstream: &Upstream, pinned: Pinned<'_>) -> UpstreamRow {
    // First: whoever sees that no sync runs any more is to see what the last one brought.
    let running = repositories.progress(&upstream.description.name).map(|progress| progress.stage());
    let (description, state, now) = (upstream.description.clone(), upstream.state(), clock::wall());
    let age = |then: Option<upswarm_protocol::time::Wall>| then.map(|then| now.since(then).as_secs());
    let hash = DocHash::of(&upstream.bytes);
    let certificates = description.certificates().unwrap_or_default();
    let certificates = certificates.iter().map(|certificate| {
        let good = certificate.good_until(now);
        CertificateRow {
            fingerprint: certificate.fingerprint(),
            holder: certificate.holder(),
            until: good.as_ref().ok().copied().flatten().map(|until| until.to_string()),
            unfit: good.err().map(|error| error.to_string()),
        }
    });
    let snapshots = snapshot::all(&upstream.dir).into_iter().rev().map(|snapshot| SnapshotRow {
        id: snapshot.id,
        version: snapshot.version(),
        valid_until: snapshot.facts.valid_until.map(|until| until.to_string()),
        packages: snapshot.packages(),
        bytes: snapshot.len(),
    });
    UpstreamRow {
        pinned: pinned(&description.name) == Some(hash),
        certificates: certificates.collect(),
        snapshots: snapshots.collect(),
        running,
        name: description.name,
        suite: description.suite,
        components: description.components,
        architectures: description.architectures,
        packages: description.packages,
        urls: upstream.settings.urls.clone(),
        every_s: upstream.settings.every_s,
        description: hash,
        last_try_s: age(state.last_try),
        last_success_s: age(state.last_success),
        error: state.error,
    }
}

impl From<RepositoryError> for Refusal {
    fn from(error: RepositoryError) -> Self {
        Refusal::Request(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use upswarm_protocol::time::Wall;
    use upswarm_protocol::trust::validate_root;

    use super::*;

    #[test]
    fn a_root_pins_an_upstream_once_and_its_publisher_is_the_sync_key() {
        let key = |byte: u8| PublicKey(ed25519_dalek::SigningKey::from_bytes(&[byte; 32]).verifying_key().to_bytes());
        let mut root = Root {
            version: 2,
            issued: Wall(1),
            expires: Wall(2),
            root: one_key(key(1)),
            publishers: Bounded::truncated(vec![PublisherRule {
                product_prefix: Text::default(),
                keys: one_key(key(2)),
            }]),
            approvers: one_key(key(3)),
            targeting: None,
            group_rules: Bounded::default(),
            upstreams: Bounded::default(),
            online: one_key(key(4)),
            report_key: [5; 32],
        };
        for (name, description) in [("debian-security", 1), ("chrome", 2), ("debian-security", 3)] {
            pin(&mut root, name, DocHash([description; 32]), key(6)).unwrap();
        }
        validate_root(&root).unwrap();
        let pinned: Vec<(&str, u8)> =
            root.upstreams.iter().map(|rule| (rule.name.as_str(), rule.description.0[0])).collect();
        assert_eq!(pinned, [("chrome", 2), ("debian-security", 3)]);
        assert_eq!(root.publisher_of("apt.chrome").unwrap(), &one_key(key(6)));
        assert_eq!(root.publisher_of("org.example").unwrap(), &one_key(key(2)));
        // Another sync key takes the place of the one before.
        pin(&mut root, "chrome", DocHash([2; 32]), key(7)).unwrap();
        assert_eq!(root.publisher_of("apt.chrome").unwrap(), &one_key(key(7)));
        let many = (0..MAX_UPSTREAMS).map(|at| pin(&mut root, &format!("u{at}"), DocHash([0; 32]), key(7)));
        assert!(many.last().unwrap().unwrap_err().contains("at most 64 upstreams"));
    }
}
