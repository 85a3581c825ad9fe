//! News for open pages: when something has changed at the coordinator, and every so often because ages grow. Owns one question to the
//! coordinator for all pages together; a page then asks for itself anew.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use tokio::sync::watch;

use super::Console;
use super::guard::Visitor;
use crate::coordinator::client::Client;

/// Pages are told at most this often.
const AT_MOST_EVERY: Duration = Duration::from_millis(500);
/// Pages are told at least this often.
const AT_LEAST_EVERY: Duration = Duration::from_secs(15);
/// The coordinator does not answer: it is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What pages wait for.
#[derive(Debug)]
pub(crate) struct Live(watch::Sender<News>);

/// How the coordinator was when it was last asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct News {
    generation: u64,
    away: bool,
}

impl Live {
    pub(crate) fn new() -> Self {
        Self(watch::channel(News::default()).0)
    }

    /// Asks for news as long as a page waits for them.
    pub(crate) async fn follow(&self, client: &Client) {
        let mut after = 0;
        loop {
            if self.0.receiver_count() == 0 {
                tokio::time::sleep(AT_MOST_EVERY).await;
                continue;
            }
            match client.changes(after).await {
                Ok(changes) => {
                    after = changes.generation;
                    self.0.send_if_modified(|news| {
                        let before = std::mem::replace(news, News { generation: after, away: false });
                        before != *news
                    });
                    tokio::time::sleep(AT_MOST_EVERY).await;
                }
                Err(_) => {
                    self.0.send_if_modified(|news| !std::mem::replace(&mut news.away, true));
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }
}

/// Server-sent events: `changed` when a page should look again, `away` when the coordinator does not answer.
pub(crate) async fn events(
    State(console): State<Arc<Console>>,
    _visitor: Visitor,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut news = console.live.0.subscribe();
    news.mark_unchanged();
    let stream = futures::stream::unfold((news, true), |(mut news, first)| async move {
        if first {
            // Whoever connects again has missed what was told meanwhile.
            return Some((Ok(Event::default().event("changed").data("0")), (news, false)));
        }
        let _ = tokio::time::timeout(AT_LEAST_EVERY, news.changed()).await;
        let News { generation, away } = *news.borrow_and_update();
        let event = if away { "away" } else { "changed" };
        Some((Ok(Event::default().event(event).data(generation.to_string())), (news, false)))
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}
