//! Sets up a new coordinator: keys, the first root of trust, the first head.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use ed25519_dalek::SigningKey;
use upswarm_protocol::catalog::{HeldKey, Keys, PublisherRule, Root};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::coordinator::CoordinatorState;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::{DocHash, PublicKey};
use upswarm_protocol::keyring::{Holder, is_holder, is_same_holder};

use super::anchor::Anchor;
use super::directory::Directory;
use super::keys::{self, COORDINATOR, KeyUse, Passphrase};
use super::store::told::Told;
use crate::clock;
use crate::sys::{self, Access};

/// How long the first root counts.
pub(crate) const ROOT_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
const ROOT_KEYS: usize = 3;
const ROOT_THRESHOLD: u8 = 2;

/// What was set up.
#[derive(Debug)]
pub(crate) struct Made {
    /// Hash of the first root.
    pub(crate) root: DocHash,
    /// Where the offline keys are.
    pub(crate) offline_keys: PathBuf,
}

/// Where the offline keys go.
#[derive(Clone, Copy)]
pub(crate) struct Offline<'a> {
    /// Their directory.
    pub(crate) dir: &'a Path,
    /// Under which they are encrypted.
    pub(crate) passphrase: &'a Passphrase,
    /// Who will hold the root keys, in their order; whoever is not named here goes by the key's name until `root holder` names
    /// somebody.
    pub(crate) holders: &'a [String],
}

/// Sets up a coordinator in `data_dir`, which must be empty or not exist. The offline keys go to `offline`, encrypted; with
/// `None` they go beside the online ones, in plain, for demonstrations.
pub(crate) fn init(data_dir: &Path, offline: Option<Offline<'_>>) -> anyhow::Result<Made> {
    refuse_non_empty(data_dir)?;
    if let Some(offline) = offline {
        refuse_non_empty(offline.dir)?;
    }
    let holders = root_holders(offline)?;
    let directory = Directory::new(data_dir);
    directory.create()?;
    private(data_dir)?;
    let _lock = directory.lock()?.context("another process is setting up the same directory")?;

    let offline_keys = offline.map_or_else(|| directory.keys(), |offline| offline.dir.to_owned());
    std::fs::create_dir_all(&offline_keys).with_context(|| format!("creating {}", offline_keys.display()))?;
    private(&offline_keys)?;
    let passphrase = offline.map(|offline| offline.passphrase);
    let make = |dir: &Path, r#use, number, passphrase| -> anyhow::Result<SigningKey> {
        let key = keys::generate()?;
        keys::write(&keys::file(dir, r#use, number), r#use, keys::public(&key), &key.to_bytes(), passphrase)?;
        Ok(key)
    };
    let root_keys: Vec<SigningKey> = (1..=holders.len())
        .map(|number| make(&offline_keys, KeyUse::Root, number, passphrase))
        .collect::<anyhow::Result<_>>()?;
    let publisher = make(&offline_keys, KeyUse::Publisher, 1, passphrase)?;
    let approver = make(&offline_keys, KeyUse::Approver, 1, passphrase)?;
    let online = make(&directory.keys(), KeyUse::Online, 1, None)?;
    make(&directory.keys(), KeyUse::Identity, 1, None)?;
    let report: [u8; 32] = keys::random()?;
    let report_key = crate::encrypt::public(&report);
    let path = keys::file(&directory.keys(), KeyUse::Report, 1);
    keys::write(&path, KeyUse::Report, PublicKey(report_key), &report, None)?;

    let issued = clock::wall();
    let root = Root {
        version: 1,
        issued,
        expires: issued + ROOT_LIFE,
        root: Keys {
            keys: Bounded::new(root_keys.iter().zip(holders).map(held).collect())?,
            threshold: root_threshold(offline),
        },
        publishers: Bounded::new(vec![PublisherRule {
            product_prefix: Text::default(),
            keys: Keys::single(held((&publisher, Text::lossy(KeyUse::Publisher.name())))),
        }])?,
        approvers: Keys::single(held((&approver, Text::lossy(KeyUse::Approver.name())))),
        targeting: None,
        group_rules: Bounded::default(),
        upstreams: Bounded::default(),
        online: Keys::single(held((&online, Text::lossy(COORDINATOR)))),
        report_key,
    };
    let signers: Vec<&SigningKey> = root_keys.iter().collect();
    let bytes = envelope::sign(Kind::Root, Role::Root, &root, &signers).context("signing the root of trust")?;
    Anchor::new(&offline_keys, DocHash::of(&bytes)).write()?;
    directory.write_token(&hex::encode(keys::random::<32>()?))?;
    sys::replace(&directory.root(1), &bytes, Access::Everyone).context("writing the root of trust")?;

    let loaded = directory.load(Vec::new(), Told::default())?;
    let now = clock::Clock::start().now();
    let mut state = CoordinatorState::new(loaded.setup, now)?;
    directory.settle(&mut state, now)?;
    Ok(Made { root: DocHash::of(&bytes), offline_keys })
}

fn held((key, holder): (&SigningKey, Holder)) -> HeldKey {
    HeldKey { key: keys::public(key), holder }
}

/// How many holders of root keys must sign.
fn root_threshold(offline: Option<Offline<'_>>) -> u8 {
    if offline.is_some() { ROOT_THRESHOLD } else { 1 }
}

/// Who holds each root key: checked before anything is written.
fn root_holders(offline: Option<Offline<'_>>) -> anyhow::Result<Vec<Holder>> {
    let Some(offline) = offline else { return Ok(vec![Text::lossy("root-1")]) };
    if offline.holders.len() > ROOT_KEYS {
        bail!("{} holders are named for {ROOT_KEYS} root keys", offline.holders.len());
    }
    let unnamed = (offline.holders.len() + 1..=ROOT_KEYS).map(|number| format!("root-{number}"));
    let mut holders: Vec<Holder> = Vec::new();
    for name in offline.holders.iter().cloned().chain(unnamed) {
        let holder = Holder::new(name.clone()).with_context(|| format!("the holder {name:?}"))?;
        if !is_holder(&holder) {
            bail!(
                "{name:?} is no holder's name: letters of one script, digits and .-_'@ in words with one space between"
            );
        }
        if holders.iter().any(|known| is_same_holder(known, &holder)) {
            bail!(
                "{name:?} is named twice: one person with two root keys is one voice, and {ROOT_THRESHOLD} are needed"
            );
        }
        holders.push(holder);
    }
    Ok(holders)
}

fn refuse_non_empty(dir: &Path) -> anyhow::Result<()> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                bail!("{} is not empty; nothing was changed. Name a new directory", dir.display());
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("reading {}", dir.display())),
    }
}

fn private(dir: &Path) -> anyhow::Result<()> {
    sys::close_to_others(dir).with_context(|| format!("closing {} to other users", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offline_keys_stay_out_of_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (data, offline) = (dir.path().join("d"), dir.path().join("offline"));
        let passphrase = Passphrase::new("a long passphrase").unwrap();
        let holders = ["Anna".to_owned(), "Ben".to_owned(), "Carla".to_owned()];
        let twice = [holders[0].clone(), "anna".to_owned(), "ANNA".to_owned()];
        let of = |holders| Offline { dir: &offline, passphrase: &passphrase, holders };
        let error = init(&dir.path().join("twice"), Some(of(&twice))).unwrap_err().to_string();
        assert!(error.contains("one voice"), "{error}");
        let made = init(&data, Some(of(&holders))).unwrap();
        let directory = Directory::existing(&data).unwrap();
        for (r#use, count) in [(KeyUse::Root, 3), (KeyUse::Publisher, 1), (KeyUse::Approver, 1)] {
            let mut pass = || Ok(passphrase.clone());
            assert_eq!(keys::read_all(&offline, r#use, &mut pass).unwrap().len(), count);
            assert!(keys::read_all(&directory.keys(), r#use, &mut pass).is_err());
        }
        let loaded = directory.load(Vec::new(), Told::default()).unwrap();
        assert_eq!((loaded.setup.root_hash, loaded.setup.root.root.threshold), (made.root, 2));
        assert_eq!(loaded.setup.root.root.keys[2].holder.as_str(), "Carla");
        assert!(init(&data, None).is_err(), "a second time");
    }

    #[test]
    fn versions_grow_over_restarts_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), None).unwrap();
        let directory = Directory::existing(dir.path()).unwrap();
        let clock = clock::Clock::start();
        let mut versions = Vec::new();
        for origin in ["http://a/", "http://b/", "http://b/"] {
            let loaded = directory.load(vec![Text::new(origin).unwrap()], Told::default()).unwrap();
            let mut state = CoordinatorState::new(loaded.setup, clock.now()).unwrap();
            directory.settle(&mut state, clock.now()).unwrap();
            versions.push(state.index_version());
        }
        assert_eq!(versions, [2, 3, 3]);
        std::fs::write(directory.catalog(), b"damaged").unwrap();
        let Err(error) = directory.load(Vec::new(), Told::default()) else { panic!("it is damaged") };
        assert!(error.to_string().contains("catalog is damaged; restore it from a copy"), "{error:#}");
        std::fs::remove_file(directory.root(1)).unwrap();
        assert!(directory.load(Vec::new(), Told::default()).is_err());
    }

    #[test]
    fn a_stop_after_any_write_loses_no_version() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), None).unwrap();
        let directory = Directory::existing(dir.path()).unwrap();
        let clock = clock::Clock::start();
        let mut last = 0;
        for run in 0..6 {
            let origin = Text::new(format!("http://origin-{run}")).unwrap();
            let loaded = directory.load(vec![origin], Told::default()).unwrap();
            let mut state = CoordinatorState::new(loaded.setup, clock.now()).unwrap();
            assert!(state.index_version() > last, "run {run}");
            // As many writes as the run's number, and one that was cut off: then the power goes.
            let mut writes = 0;
            while let Some(output) = state.poll_output() {
                let upswarm_protocol::coordinator::Output::Persist { record, .. } = output else { continue };
                let is_catalog = matches!(record, upswarm_protocol::coordinator::Record::Catalog(_));
                let change = directory.change(record).expect("nothing is told yet");
                if writes < run {
                    directory.apply(std::slice::from_ref(&change)).unwrap();
                    last = if is_catalog { state.index_version() } else { last };
                } else if let crate::coordinator::directory::Change::Put(path, bytes) = change {
                    let name = format!("{}.tmp", path.file_name().unwrap().display());
                    std::fs::write(path.with_file_name(name), &bytes[..bytes.len() / 2]).unwrap();
                    break;
                }
                writes += 1;
            }
        }
        assert!(last >= 4, "the later runs got as far as the catalog");
        let indexes = std::fs::read_dir(dir.path().join("doc")).unwrap().count();
        assert!(indexes <= 3, "{indexes} files: old indexes are removed");
    }
}
