//! Whether this node speaks with its coordinator over libp2p or by HTTP, hidden from the state machine.
//!
//! Owns the HTTP session, begins one when the coordinator's libp2p addresses cannot be reached, and gives way as soon as a libp2p
//! connection stands. It never decides whether the node should have a connection: the state machine dials and disconnects.

use ed25519_dalek::SigningKey;
use tokio::sync::mpsc;
use tracing::info;
use upswarm_protocol::ids::DeviceId;
use upswarm_protocol::node::{Input, Section, Sentence};
use upswarm_protocol::time::Wall;
use upswarm_protocol::wire::BlockWhat;

use super::http_uplink::{Event, HttpUplink, Party};
use crate::web::Web;

/// Events that wait for the driver; the session waits when it is full.
const MAX_EVENTS: usize = 256;

/// The connection to the coordinator, whatever carries it.
#[derive(Debug)]
pub(crate) struct CoordinatorLink {
    web: Web,
    key: SigningKey,
    coordinator: DeviceId,
    /// Multiaddrs of the coordinator.
    addresses: Vec<String>,
    /// Base URLs at which it may answer.
    bases: Vec<String>,
    /// A libp2p connection stands.
    direct: bool,
    session: Option<HttpUplink>,
    /// Where the session is, when it stands.
    base: Option<String>,
    last_session: u64,
    events: mpsc::Receiver<(u64, Event)>,
    tell: mpsc::Sender<(u64, Event)>,
    /// Why the last attempt came to nothing; said once for each reason.
    trouble: String,
}

impl CoordinatorLink {
    /// No connection yet.
    pub(crate) fn new(
        web: Web,
        key: SigningKey,
        coordinator: DeviceId,
        addresses: Vec<String>,
        bases: Vec<String>,
    ) -> Self {
        let (tell, events) = mpsc::channel(MAX_EVENTS);
        let (direct, session, base, last_session) = (false, None, None, 0);
        let trouble = String::new();
        Self { web, key, coordinator, addresses, bases, direct, session, base, last_session, events, tell, trouble }
    }

    /// A libp2p connection to a peer stands, or is gone. Returns what the state machine must hear before that.
    pub(crate) fn direct(&mut self, peer: DeviceId, up: bool) -> Option<Input> {
        if peer != self.coordinator {
            return None;
        }
        self.direct = up;
        if up { self.end().then_some(Input::PeerDown { peer }) } else { None }
    }

    /// An address could not be reached: if it is the coordinator's, HTTP is tried. `report_key` is of the verified root.
    pub(crate) fn dial_failed(&mut self, address: &str, report_key: [u8; 32], wall: Wall) {
        let concerned = self.addresses.iter().any(|known| known == address);
        if !concerned || self.direct || self.session.is_some() || self.bases.is_empty() {
            return;
        }
        self.last_session = wall.0.max(self.last_session + 1);
        let party = Party { key: self.key.clone(), report_key, session: self.last_session };
        let (number, tell) = (self.last_session, self.tell.clone());
        let (events, mut told) = mpsc::channel(MAX_EVENTS);
        self.session = Some(HttpUplink::start(self.web.clone(), self.bases.clone(), party, events));
        tokio::spawn(async move {
            while let Some(event) = told.recv().await {
                if tell.send((number, event)).await.is_err() {
                    break;
                }
            }
        });
    }

    /// The next thing that the state machine must hear of the session.
    pub(crate) async fn next(&mut self) -> Input {
        loop {
            // This end holds a sender too, so the channel never closes.
            let Some((session, event)) = self.events.recv().await else { std::future::pending().await };
            if session != self.last_session || self.session.is_none() {
                continue;
            }
            let peer = self.coordinator;
            match event {
                Event::Up(base) => {
                    info!(base, "the coordinator is reached by HTTP: its libp2p addresses do not answer");
                    (self.base, self.trouble) = (Some(base), String::new());
                    return Input::PeerUp { peer, dialled: None };
                }
                Event::Frame(bytes) => return Input::Frame { peer, bytes },
                Event::Down(reason) => {
                    if reason != self.trouble {
                        info!("the coordinator is not reached by HTTP: {reason}");
                    }
                    self.trouble = reason;
                    if self.end() {
                        return Input::PeerDown { peer };
                    }
                }
            }
        }
    }

    /// Takes a frame for the coordinator; gives it back when libp2p has to carry it.
    pub(crate) fn send(&self, peer: DeviceId, frame: Vec<u8>) -> Option<Vec<u8>> {
        match &self.session {
            Some(session) if peer == self.coordinator && self.base.is_some() => {
                session.send(frame);
                None
            }
            _ => Some(frame),
        }
    }

    /// The state machine leaves a peer. Returns whether it was connected by HTTP.
    pub(crate) fn leave(&mut self, peer: DeviceId) -> bool {
        peer == self.coordinator && self.end()
    }

    /// Where a document that the state machine wants from a peer is to be had instead.
    pub(crate) fn document_url(&self, peer: DeviceId, what: BlockWhat) -> Option<String> {
        let base = self.base.as_ref().filter(|_| peer == self.coordinator)?.trim_end_matches('/');
        match what {
            BlockWhat::Doc(hash) => Some(format!("{base}/doc/{hash}")),
            BlockWhat::Root(version) => Some(format!("{base}/root/{version}")),
            BlockWhat::Chunks { .. } => None,
        }
    }

    /// How the web is reached from here, where there is something to say of it.
    pub(crate) fn explain(&self) -> Option<Section> {
        let mut sentences = Vec::new();
        let mut say = |text: String, because: &str| sentences.push(Sentence { text, because: because.to_owned() });
        let via = |base: &str| {
            self.web.proxy_of(base).map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"))
        };
        match &self.base {
            Some(base) => say(
                format!("The coordinator is reached by HTTP at {base}{}.", via(base)),
                "its libp2p addresses cannot be reached from here",
            ),
            None if !self.trouble.is_empty() => say(
                format!("The coordinator is not reached by HTTP either: {}.", self.trouble),
                "tried after its libp2p addresses could not be reached",
            ),
            None => {}
        }
        for base in &self.bases {
            if let Some(proxy) = self.web.proxy_of(base) {
                say(format!("{base} is asked through the proxy {proxy}."), "[proxy] in node.toml, or the environment");
            }
        }
        (!sentences.is_empty()).then(|| Section { title: "The way to the web".to_owned(), sentences })
    }

    /// Channels the session; returns whether it stood.
    fn end(&mut self) -> bool {
        self.session = None;
        self.base.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> CoordinatorLink {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = SigningKey::from_bytes(&[3; 32]);
        let (coordinator, addresses) = (DeviceId([9; 32]), vec!["/ip4/192.0.2.1/tcp/4701".to_owned()]);
        CoordinatorLink::new(Web::default(), key, coordinator, addresses, vec!["http://127.0.0.1:1/".into()])
    }

    #[tokio::test]
    async fn http_is_tried_when_the_coordinator_cannot_be_reached_and_only_then() {
        let mut link = link();
        link.dial_failed("/ip4/192.0.2.77/tcp/4410", [0; 32], Wall(5));
        assert!(link.session.is_none(), "a neighbour that cannot be reached is no reason");
        assert!(link.direct(DeviceId([9; 32]), true).is_none());
        link.dial_failed("/ip4/192.0.2.1/tcp/4701", [0; 32], Wall(5));
        assert!(link.session.is_none(), "nor is one of several addresses while a connection stands");
        link.direct(DeviceId([9; 32]), false);
        link.dial_failed("/ip4/192.0.2.1/tcp/4701", [0; 32], Wall(5));
        assert!(link.session.is_some());
    }

    #[test]
    fn documents_of_the_coordinator_have_urls_while_the_session_stands() {
        let mut link = link();
        let coordinator = DeviceId([9; 32]);
        assert_eq!(link.document_url(coordinator, BlockWhat::Root(3)), None);
        link.base = Some("http://c.test:4702/".into());
        assert_eq!(link.document_url(coordinator, BlockWhat::Root(3)).unwrap(), "http://c.test:4702/root/3");
        assert_eq!(link.document_url(DeviceId([1; 32]), BlockWhat::Root(3)), None);
        assert!(link.leave(coordinator) && !link.leave(coordinator));
    }
}
