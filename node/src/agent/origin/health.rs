//! Which origins have been silent of late. Owns the order in which URLs are tried; never decides that one is not tried at all.
//!
//! A fetch that is dropped while its origin is silent counts too: whoever gives up sooner than the origin's patience would
//! otherwise begin with the same silent one again, for ever.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

/// Origins that are remembered; a catalog names at most 16, payloads may name vendors of their own.
const MAX: usize = 64;
/// A silent origin comes after the others for this long, doubled with each further time up to the longer.
const BEHIND: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// Silence shorter than this says nothing.
const SHORT: Duration = Duration::from_millis(300);

/// Shared by every fetch.
#[derive(Debug, Clone, Default)]
pub(super) struct Health(Arc<Mutex<BTreeMap<String, Trouble>>>);

#[derive(Debug, Clone, Copy)]
struct Trouble {
    times: u32,
    until: Instant,
}

/// A wait for an origin's next bytes.
pub(super) struct Wait<'a> {
    health: &'a Health,
    origin: &'a str,
    since: Instant,
    heard: bool,
}

impl Health {
    /// The URLs, those of origins that were silent of late last; else in the order given.
    pub(super) fn order<'a>(&self, urls: &'a [String]) -> Vec<&'a String> {
        let troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut urls: Vec<&String> = urls.iter().collect();
        urls.sort_by_key(|url| troubles.get(&origin(url)).is_some_and(|trouble| trouble.until > now));
        urls
    }

    /// Begins to wait. What ends without [`Wait::heard`] was silent.
    pub(super) fn wait<'a>(&'a self, origin: &'a str) -> Wait<'a> {
        Wait { health: self, origin, since: Instant::now(), heard: false }
    }

    fn silent(&self, origin: String) {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if troubles.len() >= MAX && !troubles.contains_key(&origin) {
            let oldest = troubles.iter().min_by_key(|(_, trouble)| trouble.until).map(|(name, _)| name.clone());
            oldest.and_then(|name| troubles.remove(&name));
        }
        let trouble = troubles.entry(origin).or_insert(Trouble { times: 0, until: now });
        let behind = BEHIND.0.saturating_mul(1 << trouble.times.min(8)).min(BEHIND.1);
        *trouble = Trouble { times: trouble.times.saturating_add(1), until: now + behind };
    }
}

impl Wait<'_> {
    /// The origin has answered.
    pub(super) fn heard(mut self) {
        self.health.0.lock().unwrap_or_else(PoisonError::into_inner).remove(self.origin);
        self.heard = true;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.heard && self.since.elapsed() >= SHORT {
            self.health.silent(self.origin.to_owned());
        }
    }
}

/// Scheme, host and port of a URL.
pub(super) fn origin(url: &str) -> String {
    Url::parse(url).map_or_else(|_| url.to_owned(), |url| url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_was_silent_comes_last_for_a_while_and_longer_each_time() {
        let health = Health::default();
        let urls: Vec<String> = ["http://a/1", "http://b/1", "http://a/2"].map(str::to_owned).into();
        let order = |health: &Health| health.order(&urls).iter().map(|url| url[7..8].to_owned()).collect::<String>();
        assert_eq!(order(&health), "aba");
        drop(health.wait("http://a"));
        assert_eq!(order(&health), "aba", "no time has passed");
        for behind in [30, 60, 120] {
            let wait = health.wait("http://a");
            tokio::time::advance(Duration::from_secs(1)).await;
            drop(wait);
            assert_eq!(order(&health), "baa");
            tokio::time::advance(Duration::from_secs(behind - 1)).await;
            assert_eq!(order(&health), "baa");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(order(&health), "aba");
        }
        for n in 0..1000 {
            health.silent(format!("http://{n}"));
        }
        assert_eq!(health.0.lock().unwrap().len(), MAX);
        let wait = health.wait("http://999");
        wait.heard();
        assert_eq!(health.0.lock().unwrap().len(), MAX - 1);
    }
}
