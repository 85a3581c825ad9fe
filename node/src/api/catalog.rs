//! What is published, and how a person names it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{
    Action, Classification, Naming, Recipe, Release, RingPlan, Schedule, Severity, naming,
};
use upswarm_protocol::codec;
use upswarm_protocol::envelope::Kind;
use upswarm_protocol::ids::{DocHash, GroupId, ReleaseId};

/// Digits of an id that name it, if no other begins with them.
pub(crate) const MIN_PREFIX: usize = 8;

/// `GET /admin/v1/catalog`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Catalog {
    /// Version of the index.
    pub(crate) index_version: u64,
    /// Groups by name.
    pub(crate) groups: BTreeMap<String, GroupId>,
    /// What approvers have signed about groups.
    #[serde(default)]
    pub(crate) described: BTreeMap<GroupId, CatalogGroup>,
    /// Conditions of dynamic groups by name.
    pub(crate) conditions: BTreeMap<String, Vec<String>>,
    /// Releases, in order of their ids.
    pub(crate) releases: Vec<CatalogRelease>,
    /// Approvals, in order of group and release.
    pub(crate) approvals: Vec<CatalogApproval>,
}

/// What approvers have signed about a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogGroup {
    pub(crate) version: u64,
    /// Who belongs to it.
    pub(crate) members: MembersAre,
    /// Hash of its envelope.
    pub(crate) document: DocHash,
}

/// Who belongs to a group, by its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MembersAre {
    /// Whomever the coordinator puts into it.
    Coordinator,
    /// Machines that fulfil a rule.
    Rule,
    /// The machines of a list.
    List,
}

/// A published release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogRelease {
    pub(crate) release: ReleaseId,
    pub(crate) product: String,
    pub(crate) version: String,
    pub(crate) counter: u64,
    pub(crate) title: String,
    pub(crate) classification: Classification,
    pub(crate) severity: Severity,
    /// When no new install rests on it any more, RFC 3339.
    pub(crate) expires: String,
    /// Hash of its envelope.
    pub(crate) document: DocHash,
    /// What [`content_of`] says of it.
    pub(crate) content: DocHash,
    /// Whether it says how it is removed.
    pub(crate) removable: bool,
}

/// A hash of what a release is, apart from when it was published: two that agree in it are the same release.
pub(crate) fn content_of(release: &Release) -> DocHash {
    let mut release = release.clone();
    release.counter = 0;
    if let Recipe::Apt(_) = release.install {
        // What feeds say of the same packages changes from day to day; how bad it is in all, rules go by.
        release.cves = Default::default();
    }
    (release.issued, release.expires) = (Default::default(), Default::default());
    // A release that was published fits into its document, and so does what is left of it.
    DocHash::of(&codec::encode(&release, Kind::Release.cap()).unwrap_or_default())
}

/// A current approval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CatalogApproval {
    pub(crate) release: ReleaseId,
    pub(crate) group: GroupId,
    pub(crate) version: u64,
    pub(crate) action: Action,
    /// Whether machines with later versions go back to the release.
    pub(crate) back: bool,
    /// When no new install rests on it any more, RFC 3339.
    pub(crate) expires: String,
    /// When.
    pub(crate) schedule: Schedule,
    /// In which stages.
    pub(crate) rings: RingPlan,
    /// The admin's remark.
    pub(crate) note: String,
    /// Hash of its envelope.
    pub(crate) document: DocHash,
}

impl Catalog {
    /// A release by its id.
    pub(crate) fn release(&self, id: &ReleaseId) -> Option<&CatalogRelease> {
        let at = self.releases.binary_search_by(|known| known.release.cmp(id)).ok()?;
        self.releases.get(at)
    }

    /// The approval in force of a release in a group.
    pub(crate) fn approval(&self, group: &GroupId, release: &ReleaseId) -> Option<&CatalogApproval> {
        let at = self.approvals.binary_search_by(|known| (&known.group, &known.release).cmp(&(group, release))).ok()?;
        self.approvals.get(at)
    }

    /// The number of a group; says which there are, otherwise.
    pub(crate) fn group_named(&self, name: &str) -> Result<GroupId, String> {
        group_named(&self.groups, name)
    }

    /// The one release that a text names with its version, for what is to be signed or taken back.
    pub(crate) fn release_exactly(&self, text: &str) -> Result<&CatalogRelease, String> {
        let found = self.release_named(text)?;
        if names_exactly(text, &found.release, &found.product, &found.version) {
            return Ok(found);
        }
        let known: Vec<String> = self.releases.iter().map(CatalogRelease::named).collect();
        Err(format!("no release is named {text:?}; name it with its version; there are: {}", known.join(", ")))
    }

    /// The one release that a text names; says which there are, otherwise.
    pub(crate) fn release_named(&self, text: &str) -> Result<&CatalogRelease, String> {
        // Of several releases with one product and version, the last published is meant.
        let fit = |known: &CatalogRelease| names(text, &known.release, &known.product, &known.version);
        let best = self.releases.iter().filter_map(fit).max();
        let mut found: Vec<&CatalogRelease> =
            self.releases.iter().filter(|known| best.is_some() && fit(known) == best).collect();
        found.sort_by_key(|release| release.counter);
        match found.as_slice() {
            [.., last] if found.iter().all(|other| other.product == last.product && other.version == last.version) => {
                Ok(*last)
            }
            [] => {
                let known: Vec<String> = self.releases.iter().map(CatalogRelease::named).collect();
                let known = if known.is_empty() { "none yet: publish one first".to_owned() } else { known.join(", ") };
                Err(format!("no release is named {text:?}; there are: {known}"))
            }
            several => {
                let known: Vec<String> = several.iter().map(|release| release.named()).collect();
                Err(format!("{text:?} names several releases: {}; write more of the name or the id", known.join(", ")))
            }
        }
    }
}

impl CatalogRelease {
    /// With the digits that name it.
    fn named(&self) -> String {
        format!("{} {}@{}", self.release.short(), self.product, self.version)
    }
}

/// How well a text names a release: by digits of its id, or as [`naming`] has it.
pub(crate) fn names(text: &str, id: &ReleaseId, product: &str, version: &str) -> Option<Naming> {
    let prefix = text.len() >= MIN_PREFIX && text.bytes().all(|c| c.is_ascii_hexdigit());
    let by_id = prefix && id.to_string().starts_with(&text.to_ascii_lowercase());
    by_id.then_some(Naming::Whole).max(naming(text, product, version))
}

/// The same where nothing may be left to whoever knows which versions there are.
pub(crate) fn names_exactly(text: &str, id: &ReleaseId, product: &str, version: &str) -> bool {
    names(text, id, product, version).is_some() && (text.contains('@') || names(text, id, "", "").is_some())
}

/// The number of a group; says which there are, otherwise.
pub(crate) fn group_named(groups: &BTreeMap<String, GroupId>, name: &str) -> Result<GroupId, String> {
    groups.get(name).copied().ok_or_else(|| {
        let known: Vec<&str> = groups.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none yet: invite machines first".to_owned() } else { known.join(", ") };
        format!("there is no group {name:?}; there are: {known}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(id: u8, product: &str, version: &str, counter: u64) -> CatalogRelease {
        CatalogRelease {
            release: ReleaseId([id; 32]),
            product: product.to_owned(),
            version: version.to_owned(),
            counter,
            title: String::new(),
            classification: Classification::Update,
            severity: Severity::Unspecified,
            expires: String::new(),
            document: DocHash([id; 32]),
            content: DocHash([id; 32]),
            removable: true,
        }
    }

    #[test]
    fn a_release_is_found_by_what_people_write_and_never_guessed() {
        let catalog = Catalog {
            releases: vec![
                release(0x11, "org.example.editor", "2.1", 1),
                release(0x22, "org.example.editor", "2.1", 2),
                release(0x33, "com.other.viewer", "1", 1),
                release(0x44, "org.example.viewer", "1", 1),
                release(0x55, "viewer", "2", 1),
                release(0x66, "org.example.viewer", "2", 1),
            ],
            ..Catalog::default()
        };
        let found = |text: &str| catalog.release_named(text).map(|release| release.release.0[0]);
        assert_eq!(found("org.example.editor@2.1"), Ok(0x22), "the later of two");
        assert_eq!(found("editor@2.1"), Ok(0x22), "the last part suffices");
        assert_eq!(found("11111111"), Ok(0x11));
        assert_eq!(found("editor"), Ok(0x22), "there is one version of it");
        assert_eq!(found("viewer"), Ok(0x55), "a whole name comes before the end of another");
        let exactly = |text: &str| catalog.release_exactly(text).map(|release| release.release.0[0]);
        assert_eq!((exactly("editor@2.1"), exactly("11111111")), (Ok(0x22), Ok(0x11)));
        assert!(exactly("editor").unwrap_err().contains("with its version"));
        assert_eq!(found("com.other.viewer@1"), Ok(0x33));
        assert_eq!(found("viewer@2"), Ok(0x55), "a whole name comes before the end of another");
        for (text, cause) in [
            ("viewer@1", "several releases"),
            ("org.example.viewer", "several releases"),
            ("example.editor@2.1", "no release"),
            ("editor@2", "no release"),
            ("1111", "no release"),
        ] {
            let error = found(text).unwrap_err();
            assert!(error.contains(cause), "{text}: {error}");
        }
    }
}
