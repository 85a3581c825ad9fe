//! Why: sentences about this node for people, each with the rule or fact it rests on.
//!
//! Nothing is decided here. Each part of the node explains what it owns: `deployments/explain`, `downloads/explain` and
//! `peers/explain` read the same fields as the decisions do, in the same order.

use serde::Serialize;

use super::NodeState;
use crate::catalog::{Naming, naming};
use crate::ids::{DeviceId, ReleaseId};
use crate::time::{Now, Wall};
use crate::trust::{Blocked, Trust, Wanted};
use crate::units::{percent, size, span};

/// Candidates that [`NodeState::find`] names at most.
const MAX_FOUND: usize = 16;
/// Deployments that [`NodeState::explain_all`] explains at most.
const MAX_SECTIONS: usize = 32;

/// Refused documents that are named at most.
const MAX_REFUSALS: usize = 8;

/// One sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sentence {
    /// What is so. Without control characters.
    pub text: String,
    /// The rule, document or observation it rests on. Without control characters.
    pub because: String,
}

impl Sentence {
    pub(super) fn new(text: impl Into<String>, because: impl Into<String>) -> Self {
        let clean = |text: String| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { text: clean(text.into()), because: clean(because.into()) }
    }
}

/// Sentences about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// The thing.
    pub title: String,
    /// At least one.
    pub sentences: Vec<Sentence>,
}

/// What can be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Why a release is or is not installed here.
    Release(ReleaseId),
    /// Why a peer is or is not used.
    Peer(DeviceId),
}

impl NodeState {
    /// What a word may mean: the beginning of a release's or device's id (four digits at least), a product or `product@version`,
    /// where the last part of the product's name suffices, or a device's label. The first 16 candidates, releases first.
    pub fn find(&self, word: &str) -> Vec<Subject> {
        let begins = |id: String| word.len() >= 4 && id.starts_with(&word.to_ascii_lowercase());
        let releases = self.trust.catalog().releases().iter();
        let named: Vec<_> = releases
            .filter_map(|(id, found)| {
                let by_id = begins(id.to_string()).then_some(Naming::Whole);
                by_id.max(naming(word, &found.release.product, &found.release.version)).map(|fit| (fit, *id))
            })
            .collect();
        let best = named.iter().map(|(fit, _)| *fit).max();
        let named = named.into_iter().filter(|(fit, _)| Some(*fit) == best);
        let mut found: Vec<_> = named.map(|(_, id)| Subject::Release(id)).collect();
        // A release whose approval or documents are gone may still have a deployment here.
        let deployed = self.deployments.all().filter(|id| begins(id.to_string())).map(Subject::Release);
        found.extend(deployed);
        let labelled = self.membership.iter().filter(|(_, member)| &*member.certificate.label == word);
        found.extend(labelled.map(|(device, _)| Subject::Peer(*device)));
        found.extend(self.known_devices().filter(|device| begins(device.to_string())).map(Subject::Peer));
        found.sort_unstable();
        found.dedup();
        found.truncate(MAX_FOUND);
        found
    }

    /// Everything at once: the node, each deployment that is not done, each peer that is not used although it could be, and
    /// where the bytes came from. At most 32 deployments and 16 peers.
    pub fn explain_all(&self, now: Now) -> Vec<Section> {
        let section = |title: String, sentences: Vec<Sentence>| Section { title, sentences };
        let mut sections = vec![section("This node".into(), self.explain_node(now))];
        for release in self.deployments.unfinished().take(MAX_SECTIONS) {
            sections.push(section(self.release_name(&release), self.explain(&release, now)));
        }
        for peer in self.unused_peers(now).into_iter().take(MAX_FOUND) {
            sections.push(section(format!("Peer {}", self.device_name(&peer)), self.explain_peer(&peer, now)));
        }
        sections.push(section("Payload bytes".into(), self.explain_bytes()));
        sections
    }

    /// One release or peer.
    pub fn explain_subject(&self, subject: &Subject, now: Now) -> Section {
        match subject {
            Subject::Release(release) => {
                Section { title: self.release_name(release), sentences: self.explain(release, now) }
            }
            Subject::Peer(peer) => {
                let title = format!("Peer {}", self.device_name(peer));
                Section { title, sentences: self.explain_peer(peer, now) }
            }
        }
    }

    /// What people call it.
    pub fn name_of(&self, subject: &Subject) -> String {
        match subject {
            Subject::Release(release) => format!("{} ({})", self.release_name(release), release.short()),
            Subject::Peer(peer) => self.device_name(peer),
        }
    }

    /// Why a release is not being installed here, or that it is installed. The first sentence decides; those after it would
    /// hold the release back too.
    pub fn explain(&self, release: &ReleaseId, now: Now) -> Vec<Sentence> {
        let catalog = self.trust.catalog();
        let index = format!("the catalog in force, index version {}", catalog.index_version());
        if let Some(sentences) = self.explain_deployment(release, now) {
            return sentences;
        }
        let mut sentences = Vec::new();
        if !catalog.releases().contains_key(release) {
            sentences.push(Sentence::new(
                format!(
                    "This device knows of no release {}: it holds what is approved for its own groups, and what nobody has \
                     decided about.",
                    release.short()
                ),
                index,
            ));
        } else {
            let others = catalog.approvals().keys().filter(|(_, of)| of == release).count();
            let groups: Vec<_> = self.my_groups().iter().map(|group| group.short()).collect();
            let groups = if groups.is_empty() { "none".to_owned() } else { groups.join(", ") };
            sentences.push(Sentence::new(
                format!(
                    "{} is not to be installed here: no approval names a group of this device ({others} name other groups).",
                    self.release_name(release)
                ),
                format!("groups that the coordinator has put this device into: {groups}; {index}"),
            ));
        }
        sentences.extend(self.explain_documents());
        sentences
    }

    /// The node as a whole: how fresh its catalog is, whether it hears the coordinator, whether anything stops all installs.
    pub fn explain_node(&self, now: Now) -> Vec<Sentence> {
        let mut sentences = Vec::new();
        if let Some(trouble) = self.clock_trouble(now.wall) {
            let mut text = trouble.text;
            text[..1].make_ascii_uppercase();
            sentences.push(Sentence::new(format!("{text}."), trouble.because));
        }
        if let Some(blocked) = self.catalog_expired(now.wall) {
            sentences.push(self.explain_blocked(&blocked, now));
        }
        if let Some(head) = self.trust.head() {
            sentences.push(Sentence::new(
                format!(
                    "The catalog in force is index version {}; the coordinator's last word is {} old.",
                    self.trust.catalog().index_version(),
                    span(now.wall.since(head.issued))
                ),
                format!(
                    "head for index version {}, issued {}, expires {}",
                    head.index_version, head.issued, head.expires
                ),
            ));
        }
        sentences.extend(self.explain_documents());
        sentences.push(self.explain_coordinator(now));
        let rule = if self.cx.config.machine.wan_auto {
            format!("wan_weight = \"auto\": {}", self.standing.now)
        } else {
            "wan_weight in node.toml".to_owned()
        };
        if self.wan_weight() == 0 {
            let text = "This device fetches nothing over the WAN; it takes payloads from machines of its site only.";
            sentences.push(Sentence::new(text, rule));
        } else if self.wan_weight() < self.cx.config.wan_weight {
            let text = format!("This device fetches over the WAN with weight {} only.", self.wan_weight());
            sentences.push(Sentence::new(text, rule));
        }
        sentences.extend(self.explain_disk());
        sentences.extend(self.explain_held_bytes());
        if let Some(reason) = self.system_restart() {
            let text = format!("The operating system waits for a restart: {reason}.");
            sentences.push(Sentence::new(text, "what its package manager has left in the file system"));
        }
        sentences
    }

    fn explain_held_bytes(&self) -> Option<Sentence> {
        self.holds_bytes_back().then(|| {
            Sentence::new(
                "Payload bytes neither come to this device from its neighbours nor go to them, but for what is urgent.",
                format!("{}; expedited approvals and passed deadlines are urgent", self.held_by()),
            )
        })
    }

    /// Where the payload bytes of this device came from.
    pub fn explain_bytes(&self) -> Vec<Sentence> {
        let bytes = self.downloads.bytes;
        let total = bytes.total();
        let counters = "counters of this device since it was set up; no byte is counted twice";
        if total == 0 {
            return vec![Sentence::new("No payload byte has come to this device yet.", counters)];
        }
        let share = |part: u64| format!("{} ({} %)", size(part), percent(part, total));
        let mut sentences = vec![Sentence::new(
            format!(
                "Of {} payload bytes, {} came over the WAN from an origin, {} from branch caches, {} from other machines of the \
                 site, and {} were on this disk already, in other payloads.",
                size(total),
                share(bytes.origin),
                share(bytes.cache),
                share(bytes.lan_peer),
                share(bytes.local_reuse)
            ),
            counters,
        )];
        let givers = self.givers();
        if !givers.is_empty() {
            let named: Vec<_> = givers
                .iter()
                .take(8)
                .map(|(device, given)| format!("{} {}", self.device_name(device), size(*given)))
                .collect();
            let more = givers.len().saturating_sub(8);
            let more = if more > 0 { format!(" and {more} others") } else { String::new() };
            sentences.push(Sentence::new(
                format!("By device: {}{more}.", named.join(", ")),
                "chunks that hashed to what the release says, counted per connection, in this run of the node",
            ));
        }
        if self.downloads.wasted > 0 {
            sentences.push(Sentence::new(
                format!("{} came in vain: the chunks were here already.", size(self.downloads.wasted)),
                "chunks that arrived twice, in this run of the node",
            ));
        }
        sentences
    }

    /// Why nothing may be installed because of `blocked`.
    pub(super) fn explain_blocked(&self, blocked: &Blocked, now: Now) -> Sentence {
        let age = |at: Wall| span(now.wall.since(at));
        let because = match blocked {
            Blocked::HeadExpired(_) | Blocked::NoHead => match self.trust.head() {
                Some(head) => format!(
                    "head for index version {}, the last that was heard, issued {} ({} ago); {}",
                    head.index_version,
                    head.issued,
                    age(head.issued),
                    self.explain_coordinator(now).text
                ),
                None => format!("no head is stored; {}", self.explain_coordinator(now).text),
            },
            Blocked::Clock(_) => "nothing that is signed can be older than the program that reads it".to_owned(),
            Blocked::IndexExpired(_) => format!("index version {}", self.trust.catalog().index_version()),
            Blocked::RootExpired(_) => format!("root version {}", self.trust.root().version),
            Blocked::Held(_) | Blocked::Withdrawn | Blocked::Overdue(_) => match self.trust.head() {
                Some(head) => {
                    format!("the newest index, version {}, signed by the coordinator's online key", head.index_version)
                }
                None => "the newest index".to_owned(),
            },
            Blocked::NoRelease | Blocked::NotApproved | Blocked::NotBack | Blocked::Declined => {
                format!("the catalog in force, index version {}", self.trust.catalog().index_version())
            }
            Blocked::GroupUnknown | Blocked::OnlyListed => {
                "what approvers have signed about the group, which bounds the coordinator's word about its members"
                    .to_owned()
            }
            Blocked::ReleaseExpired(_) => "the release's own expiry, signed by its publisher".to_owned(),
            Blocked::ApprovalExpired(_) => "the approval's own expiry, signed by its approver".to_owned(),
        };
        let since = match blocked {
            Blocked::HeadExpired(at)
            | Blocked::RootExpired(at)
            | Blocked::IndexExpired(at)
            | Blocked::Overdue(at)
            | Blocked::ReleaseExpired(at)
            | Blocked::ApprovalExpired(at) => format!(" ({} ago)", age(*at)),
            _ => String::new(),
        };
        Sentence::new(format!("Nothing may be installed under this approval: {blocked}{since}."), because)
    }

    /// That a newer catalog is known and not complete, if so; and documents that were refused.
    fn explain_documents(&self) -> Vec<Sentence> {
        let mut sentences = Vec::new();
        let missing = match self.trust.wanted() {
            Wanted::Nothing => None,
            Wanted::Root(version) => Some(format!("root version {version}")),
            Wanted::Index { .. } => Some("its index".to_owned()),
            Wanted::Pages(pages) => Some(format!("{} of its pages", pages.len())),
            Wanted::Documents(entries) => Some(format!("{} of its documents", entries.len())),
        };
        if let (Some(missing), Some(head)) = (missing, self.trust.head()) {
            sentences.push(Sentence::new(
                format!("A newer catalog is out, and {missing} has not arrived yet."),
                format!("head for index version {}, issued {}", head.index_version, head.issued),
            ));
        }
        for refusal in self.trust.refusals().iter().take(MAX_REFUSALS) {
            let kind = format!("{:?}", refusal.kind).to_lowercase();
            sentences.push(Sentence::new(
                format!("A {kind} in the catalog is refused: {}.", refusal.reason),
                format!(
                    "document {}, checked against root version {}",
                    refusal.hash.short(),
                    self.trust.root().version
                ),
            ));
        }
        sentences
    }

    fn catalog_expired(&self, wall: Wall) -> Option<Blocked> {
        let now = self.trust.clock(wall);
        match self.trust.head() {
            _ if self.trust.root().expires <= now => Some(Blocked::RootExpired(self.trust.root().expires)),
            None => Some(Blocked::NoHead),
            Some(head) if head.expires <= now => Some(Blocked::HeadExpired(head.expires)),
            Some(_) => None,
        }
    }

    /// A release as people call it.
    pub fn release_name(&self, release: &ReleaseId) -> String {
        release_name(&self.trust, release)
    }

    /// A device as people call it.
    pub(super) fn device_name(&self, device: &DeviceId) -> String {
        self.cx.device_name(&self.membership, device)
    }

    /// A time in the zone of the schedule: `2026-11-24 22:00 CET`.
    pub fn local(&self, wall: Wall) -> String {
        self.cx.local(wall)
    }
}

/// A release as people call it.
pub(super) fn release_name(trust: &Trust, release: &ReleaseId) -> String {
    match trust.catalog().releases().get(release) {
        Some(found) => format!("{} {}", found.release.product, found.release.version),
        None => format!("release {}", release.short()),
    }
}
