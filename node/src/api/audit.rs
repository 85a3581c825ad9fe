//! What was signed, by whom and when, as the documents themselves say it.

use serde::{Deserialize, Serialize};
use upswarm_protocol::ids::{DocHash, PublicKey, ReleaseId};

/// `GET /admin/v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Audit {
    /// The newest first.
    pub(crate) documents: Vec<AuditDocument>,
}

/// Which kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AuditKind {
    Root,
    Release,
    Approval,
}

impl AuditKind {
    /// Its name in text formats.
    pub(crate) fn word(self) -> &'static str {
        match self {
            AuditKind::Root => "root",
            AuditKind::Release => "release",
            AuditKind::Approval => "approval",
        }
    }
}

/// A signed document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuditDocument {
    pub(crate) kind: AuditKind,
    /// BLAKE3 of its envelope.
    pub(crate) hash: DocHash,
    /// When its signer says it was made, and when it expires, RFC 3339.
    pub(crate) issued: String,
    pub(crate) expires: String,
    /// What it says, in words.
    pub(crate) what: String,
    /// The signer's remark.
    pub(crate) note: String,
    pub(crate) release: Option<ReleaseId>,
    /// Keys whose signatures hold, by the newest root.
    pub(crate) signers: Vec<Signer>,
    /// Keys that claim to have signed and that the newest root does not name for this.
    pub(crate) others: Vec<PublicKey>,
}

/// A key that signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Signer {
    pub(crate) key: PublicKey,
    /// What the root lets it sign.
    pub(crate) role: String,
}

/// What a decision is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Topic {
    /// The log itself: it begins, or was found damaged.
    Log,
    /// A release was published or withdrawn.
    Release,
    /// A release was approved, declined or expedited in a group.
    Approval,
    /// Something was paused or let go on, by a person or by a rollout's own threshold.
    Hold,
    /// Machines were to try again.
    Retry,
    /// A group was made or described, or a machine was put into one.
    Group,
    /// Rules of both kinds.
    Rule,
    /// The WAN of a site.
    Limit,
    /// The root of trust.
    Root,
    /// Tokens with which machines join.
    Token,
    /// A machine was retired, shut out or let in again.
    Device,
    /// Alarms were acknowledged.
    Alarm,
    /// Repositories and feeds.
    Sync,
    /// Somebody entered the console.
    Login,
    /// A backup was taken.
    Backup,
}

impl Topic {
    /// Its name in text formats.
    pub(crate) fn word(self) -> String {
        crate::text::word(&self)
    }
}

/// A decision in words, before it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deed {
    pub(crate) topic: Topic,
    pub(crate) what: String,
    /// Who signed, where something was signed.
    pub(crate) holders: Vec<KeyHolder>,
    /// Hash of the signed document's envelope.
    pub(crate) document: Option<DocHash>,
}

impl Deed {
    /// A decision that is no signed document.
    pub(crate) fn new(topic: Topic, what: String) -> Self {
        Self { topic, what, holders: Vec::new(), document: None }
    }
}

/// Whose key has signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyHolder {
    pub(crate) holder: String,
    pub(crate) key: PublicKey,
}

/// An entry of the log of decisions, as its bytes say it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// RFC 3339, by the coordinator's clock.
    pub(crate) when: String,
    pub(crate) topic: Topic,
    /// Who asked, as that side says; a rule, or the coordinator itself.
    pub(crate) actor: String,
    /// The door and the address, or the user of this machine.
    pub(crate) from: String,
    pub(crate) what: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) holders: Vec<KeyHolder>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) document: Option<DocHash>,
}

/// `GET /admin/v1/audit/log`: which entries. Everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EntryQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<Topic>,
    /// Part of the actor, of a holder's name or of the beginning of a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) who: Option<String>,
    /// Part of what is said, or the beginning of the document's hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// RFC 3339 in UTC to the second, both included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    /// Only entries with a lower number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<u64>,
    /// Entries at most, 1 to [`MAX_ENTRIES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<usize>,
}

/// Entries in one answer, and those that come unasked.
pub(crate) const MAX_ENTRIES: usize = 1000;
pub(crate) const SOME_ENTRIES: usize = 100;

impl EntryQuery {
    /// Whether an entry is asked for.
    pub(crate) fn wants(&self, number: u64, entry: &Entry) -> bool {
        let part = |of: &str, text: &Option<String>| {
            text.as_ref().is_none_or(|text| of.to_lowercase().contains(&text.trim().to_lowercase()))
        };
        let who = part(&entry.actor, &self.who)
            || entry.holders.iter().any(|known| {
                let begins = |text: &String| known.key.to_string().starts_with(&text.trim().to_lowercase());
                part(&known.holder, &self.who) || self.who.as_ref().is_some_and(begins)
            });
        let text = part(&entry.what, &self.text)
            || entry.document.is_some_and(|document| {
                self.text.as_ref().is_some_and(|text| document.to_string().starts_with(&text.trim().to_lowercase()))
            });
        who && text
            && self.topic.is_none_or(|topic| topic == entry.topic)
            && self.since.as_ref().is_none_or(|since| *since <= entry.when)
            && self.until.as_ref().is_none_or(|until| entry.when <= *until)
            && self.before.is_none_or(|before| number < before)
    }
}

/// An entry and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NumberedEntry {
    pub(crate) number: u64,
    #[serde(flatten)]
    pub(crate) entry: Entry,
}

/// What the log says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogPage {
    /// The newest first.
    pub(crate) entries: Vec<NumberedEntry>,
    /// There are older ones: ask again with `before`.
    pub(crate) more: bool,
    /// Entries in the whole log.
    pub(crate) total: u64,
    /// What is wrong with the log, if it is not what was written.
    pub(crate) broken: Option<String>,
    /// Logs that a start found damaged and put aside, by the names of their files: entries that are not in this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) aside: Vec<String>,
}
