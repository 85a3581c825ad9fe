//! The repository for machines without an agent that goes with an approval of a snapshot: its Release file, computed here from what
//! upstream signed, and what another approver has signed of it before.

use upswarm_protocol::catalog::{Approval, Keys, Recipe, Release};
use upswarm_protocol::codec;
use upswarm_protocol::envelope::Kind;
use upswarm_protocol::time::Wall;

use crate::api::approvals::SigningRequest;
use crate::upstream::compression::Compression;
use crate::upstream::filtered::{self, Indexes};
use crate::upstream::openpgp;

/// Whether such a repository goes with an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repository {
    Signed,
    /// Each of its machines would believe one approver's key alone, and the root wants more than one to agree.
    WantsMoreThanOne,
}

impl Repository {
    /// By the keys that must sign the approval. apt takes a repository that one of several keys has signed; it counts none.
    pub(super) fn of(needs: &[Keys]) -> Self {
        if needs.iter().all(|keys| keys.threshold <= 1) { Self::Signed } else { Self::WantsMoreThanOne }
    }
}

/// The Release file of the repository that follows from an approval, by upstream's metadata that came with it.
pub(super) fn release_file(approval: &Approval, release: &Release, request: &SigningRequest) -> Result<String, String> {
    let Recipe::Apt(recipe) = &release.install else { return Err("it is no snapshot of a repository".to_owned()) };
    let mut indexes = request.metadata.iter().skip(2);
    let indexes = Indexes::of(release, recipe, |index| {
        let bytes = indexes.next().map_or(&[][..], |bytes| bytes.0.as_slice());
        Compression::of(&index.path).open(bytes)
    });
    let indexes = indexes.map_err(|error| format!("the repository for machines without an agent: {error:#}"))?;
    Ok(indexes.release_file(approval, release))
}

/// The body that another approver has signed: what was asked for, with a good signature of the repository that follows from it.
pub(super) fn signed_before(signed: &[u8], asked: &[u8], text: &str, now: Wall) -> Result<Vec<u8>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("what another approver signed: {error}");
    let approval: Approval = codec::decode(signed, Kind::Approval.cap()).map_err(|error| wrong(&error))?;
    let plain = Approval { filtered: None, ..approval.clone() };
    if codec::encode(&plain, Kind::Approval.cap()).map_err(|error| wrong(&error))? != asked {
        return Err("the signatures in the file are around other bytes than the request".to_owned());
    }
    let Some(filtered) = &approval.filtered else { return Ok(signed.to_vec()) };
    let certificate = filtered::certificate(filtered).map_err(|error| wrong(&format!("{error:#}")))?;
    let certificates = openpgp::certificates(certificate.as_bytes()).map_err(|error| wrong(&error))?;
    let file = filtered::in_release(text, filtered).map_err(|error| wrong(&format!("{error:#}")))?;
    openpgp::verify(file.as_bytes(), &certificates, now).map_err(|error| wrong(&error))?;
    Ok(signed.to_vec())
}

#[cfg(test)]
mod tests {
    use upswarm_protocol::catalog::Action;
    use upswarm_protocol::ids::{GroupId, ReleaseId};

    use super::*;
    use crate::upstream::filtered::RepositoryKey;

    #[test]
    fn the_second_approver_signs_only_with_a_good_repository_of_the_same_approval() {
        let now = Wall(1_800_000_000_000);
        let asked = Approval {
            group: GroupId([1; 16]),
            group_version: 0,
            release: ReleaseId([2; 32]),
            version: 1,
            action: Action::Install,
            back: false,
            issued: now,
            expires: Wall(now.0 + 1000),
            schedule: Default::default(),
            rings: Default::default(),
            note: Default::default(),
            filtered: None,
        };
        let key = RepositoryKey::of(&ed25519_dalek::SigningKey::from_bytes(&[1; 32])).unwrap();
        let filtered = Some(key.sign("Origin: upswarm\n", now).unwrap());
        let bytes = |approval: &Approval| codec::encode(approval, Kind::Approval.cap()).unwrap();
        let signed = Approval { filtered, ..asked.clone() };
        let check = |signed: &Approval, text: &str| signed_before(&bytes(signed), &bytes(&asked), text, now);
        assert_eq!(check(&signed, "Origin: upswarm\n"), Ok(bytes(&signed)));
        assert_eq!(check(&asked, "Origin: upswarm\n"), Ok(bytes(&asked)));
        // Of other packages than those that are shown.
        assert!(check(&signed, "Origin: other\n").unwrap_err().contains("what another approver signed"));
        let later = Approval { version: 2, ..signed };
        assert!(check(&later, "Origin: upswarm\n").unwrap_err().contains("other bytes than the request"));
    }
}
