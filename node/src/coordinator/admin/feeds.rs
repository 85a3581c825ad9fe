//! Feeds of advisories: adding, looking at, and forgetting them. Owns what an admin may say of one; what a feed says is
//! `repositories::feeds`'.

use std::sync::Arc;

use upswarm_protocol::coordinator::Refusal;

use crate::api::actor::Actor;
use crate::api::feeds::{FeedList, FeedRequest, FeedRow, NewFeed};
use crate::clock;
use crate::coordinator::repositories::{Repositories, feed_key};

/// Adds a feed, or gives one another place, and begins to read it.
pub(crate) fn add(actor: &Actor, repositories: &Arc<Repositories>, request: NewFeed) -> Result<FeedList, Refusal> {
    let (name, url) = (request.name.clone(), request.url.clone());
    must_be_idle(repositories, &name)?;
    repositories.feeds().add(request).map_err(refused)?;
    tracing::info!(%actor, feed = name, url, "a feed is added");
    run(actor, repositories, &FeedRequest { name: Some(name) })
}

/// Begins to look whether one feed, or each, says something new. Returns at once.
pub(crate) fn run(actor: &Actor, repositories: &Arc<Repositories>, request: &FeedRequest) -> Result<FeedList, Refusal> {
    let names = match &request.name {
        Some(name) => vec![name.clone()],
        None => repositories.feeds().all().into_iter().map(|feed| feed.name).collect(),
    };
    if names.is_empty() {
        return Err(Refusal::Request("there is no feed yet; add one with: upswarm sync feed add".to_owned()));
    }
    for name in &names {
        repositories.begin_feed(name).map_err(refused)?;
    }
    tracing::info!(%actor, feeds = names.join(" "), "feeds are asked");
    let mut list = list(repositories);
    list.feeds.retain(|row| names.contains(&row.name));
    Ok(list)
}

/// Forgets a feed and what it said.
pub(crate) fn remove(actor: &Actor, repositories: &Repositories, request: &FeedRequest) -> Result<FeedList, Refusal> {
    let name = request.name.as_deref().ok_or_else(|| Refusal::Request("name the feed".to_owned()))?;
    must_be_idle(repositories, name)?;
    repositories.feeds().remove(name).map_err(refused)?;
    tracing::info!(%actor, feed = name, "a feed is forgotten");
    Ok(list(repositories))
}

/// Every feed and how it stands.
pub(crate) fn list(repositories: &Repositories) -> FeedList {
    let now = clock::wall();
    let row = |feed: crate::coordinator::repositories::feeds::Feed| {
        // First: whoever sees that nothing runs any more is to see what the last look brought.
        let running = repositories.progress(&feed_key(&feed.name)).map(|progress| progress.stage());
        let state = feed.state();
        let age = |then: Option<upswarm_protocol::time::Wall>| then.map(|then| now.since(then).as_secs());
        FeedRow {
            running,
            kind: feed.settings.kind,
            url: feed.settings.url,
            every_s: feed.settings.every_s,
            sources: state.sources,
            cves: state.cves,
            last_try_s: age(state.last_try),
            last_success_s: age(state.last_success),
            error: state.error,
            name: feed.name,
        }
    };
    FeedList { feeds: repositories.feeds().all().into_iter().map(row).collect() }
}

fn must_be_idle(repositories: &Repositories, name: &str) -> Result<(), Refusal> {
    match repositories.progress(&feed_key(name)) {
        Some(_) => Err(Refusal::Request(format!("{name} is being read; try again when that has ended"))),
        None => Ok(()),
    }
}

fn refused(error: anyhow::Error) -> Refusal {
    Refusal::Request(format!("{error:#}"))
}
