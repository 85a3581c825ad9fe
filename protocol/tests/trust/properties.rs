//! Random histories and random damage.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use upswarm_protocol::ids::*;
use upswarm_protocol::trust::*;

use crate::common::*;

/// Roots 1 to 3 under one set of online keys, and nine editions: two of them with twins that contradict.
struct Universe {
    world: World,
    roots: Vec<Vec<u8>>,
    editions: Vec<Edition>,
}

static UNIVERSE: LazyLock<Universe> = LazyLock::new(|| {
    let world = World::new();
    let second = world.next(|_| ());
    let third = second.next(|_| ());
    let product = world.publish(&release("org.example.kept", 1));
    let mut editions: Vec<_> = (1..=7)
        .map(|version| {
            // The approval of one release goes up, and once down again.
            let decision = world.approve(&approval(GROUP, product.release, if version == 6 { 2 } else { version }));
            let mut documents = world.simple(version).documents;
            documents.extend([product.clone(), decision]);
            world.edition(version, documents)
        })
        .collect();
    editions.push(world.edition(3, vec![product.clone()]));
    editions.push(second.edition(8, vec![product]));
    let roots = vec![world.root_doc(), second.root_doc(), third.root_doc()];
    Universe { world, roots, editions }
});

#[derive(Debug, Clone)]
enum Offer {
    Root(usize),
    Head(usize),
    Index(usize),
    Document(usize, usize),
    /// What is wanted, as an honest neighbour would answer.
    Wanted,
    /// Any of the above with one edit.
    Damaged(Box<Offer>, Edit),
    Restart,
}

#[derive(Debug, Clone)]
enum Edit {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Cut(prop::sample::Index),
    Append(Vec<u8>),
}

fn edited(bytes: &[u8], edit: &Edit) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    match edit {
        Edit::Replace(at, byte) => changed[at.index(bytes.len())] = *byte,
        Edit::Insert(at, byte) => changed.insert(at.index(bytes.len()), *byte),
        Edit::Remove(at) => {
            changed.remove(at.index(bytes.len()));
        }
        Edit::Swap(a, b) => changed.swap(a.index(bytes.len()), b.index(bytes.len())),
        Edit::Cut(at) => changed.truncate(at.index(bytes.len())),
        Edit::Append(more) => changed.extend_from_slice(more),
    }
    changed
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
        at().prop_map(Edit::Remove),
        (at(), at()).prop_map(|(a, b)| Edit::Swap(a, b)),
        at().prop_map(Edit::Cut),
        prop::collection::vec(any::<u8>(), 1..200).prop_map(Edit::Append),
    ]
}

fn plain_offer() -> impl Strategy<Value = Offer> {
    prop_oneof![
        (0..3usize).prop_map(Offer::Root),
        (0..9usize).prop_map(Offer::Head),
        (0..9usize).prop_map(Offer::Index),
        (0..9usize, 0..5usize).prop_map(|(edition, at)| Offer::Document(edition, at)),
    ]
}

fn offer() -> impl Strategy<Value = Offer> {
    prop_oneof![
        4 => plain_offer(),
        4 => Just(Offer::Wanted),
        2 => (plain_offer(), edit()).prop_map(|(offer, edit)| Offer::Damaged(Box::new(offer), edit)),
        1 => Just(Offer::Restart),
    ]
}

impl Universe {
    fn bytes(&self, offer: &Offer) -> Vec<u8> {
        match offer {
            Offer::Root(at) => self.roots[*at].clone(),
            Offer::Head(at) => self.editions[*at].head.clone(),
            Offer::Index(at) => self.editions[*at].index.clone(),
            Offer::Document(edition, at) => {
                let edition = &self.editions[*edition];
                let documents = edition.documents.iter().map(|document| &document.bytes);
                let all: Vec<_> = edition.pages.iter().chain(documents).collect();
                all[at % all.len()].clone()
            }
            Offer::Damaged(offer, edit) => edited(&self.bytes(offer), edit),
            Offer::Wanted | Offer::Restart => Vec::new(),
        }
    }

    fn pages(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.editions.iter().flat_map(|edition| &edition.pages)
    }

    fn documents(&self) -> impl Iterator<Item = &Doc> {
        self.editions.iter().flat_map(|edition| &edition.documents)
    }

    fn answer(&self, machine: &mut Machine) {
        let trust = &mut machine.trust;
        match trust.wanted() {
            Wanted::Nothing => {}
            Wanted::Root(version) => {
                if let Some(root) = self.roots.get(version as usize - 1) {
                    trust.offer_root(root, NOW).unwrap();
                }
            }
            Wanted::Index { hash, .. } => {
                let found = self.editions.iter().find(|edition| DocHash::of(&edition.index) == hash).unwrap();
                trust.offer_index(found.index.clone()).unwrap();
            }
            Wanted::Pages(pages) => {
                let page = self.pages().find(|page| DocHash::of(page) == pages[0].hash).unwrap();
                assert!(machine.offer_document(page));
            }
            Wanted::Documents(entries) => {
                let found = self.documents().find(|document| document.entry == entries[0]).unwrap();
                assert!(machine.offer_document(&found.bytes));
            }
        }
    }

    /// A restart changes nothing: with what is stored offered to both, the old and the new process know the same.
    fn restart(&self, machine: &mut Machine) {
        let trust = &mut machine.trust;
        let snapshot = trust.snapshot();
        let mut again = Trust::restore(&snapshot, NOW - DAY).unwrap();
        assert!(again.snapshot() == snapshot, "the snapshot of a restored snapshot");
        let kept = trust.document_hashes();
        machine.stored.retain(|hash, _| kept.contains(hash));
        for trust in [&mut again, trust] {
            trust.recall(|hash| machine.stored.get(hash).cloned(), NOW);
        }
        let trust = &machine.trust;
        assert_eq!(again.catalog(), trust.catalog());
        assert!(again.snapshot() == trust.snapshot(), "the snapshot with all documents");
        assert_eq!((again.head(), again.clock(NOW)), (trust.head(), trust.clock(NOW)));
        assert_eq!((again.refusals(), again.is_current()), (trust.refusals(), trust.is_current()));
        machine.trust = again;
    }

    fn apply(&self, machine: &mut Machine, offer: &Offer) -> bool {
        let bytes = self.bytes(offer);
        let kind = if let Offer::Damaged(offer, _) = offer { offer } else { offer };
        let trust = &mut machine.trust;
        match kind {
            Offer::Root(_) => trust.offer_root(&bytes, NOW).is_ok(),
            Offer::Head(_) => trust.offer_head(&bytes, NOW).is_ok_and(|news| news == HeadNews::New),
            Offer::Index(_) => trust.offer_index(bytes).is_ok(),
            Offer::Document(..) => machine.offer_document(&bytes),
            Offer::Wanted => {
                self.answer(machine);
                true
            }
            Offer::Restart => {
                self.restart(machine);
                true
            }
            Offer::Damaged(..) => unreachable!("damage is not nested"),
        }
    }
}

/// The verifier and the documents that its caller has stored.
struct Machine {
    trust: Trust,
    stored: BTreeMap<DocHash, Vec<u8>>,
}

impl Machine {
    fn new(universe: &Universe) -> Self {
        Self { trust: universe.world.trust(), stored: BTreeMap::new() }
    }

    fn offer_document(&mut self, bytes: &[u8]) -> bool {
        match self.trust.offer_document(bytes.to_vec(), NOW) {
            Ok(hash) => {
                self.stored.insert(hash, bytes.to_vec());
                true
            }
            Err(_) => false,
        }
    }
}

/// What may never go down while the online keys stay.
fn versions(trust: &Trust) -> (u64, (u64, u64), u64) {
    let head = trust.head().map_or((0, 0), |head| (head.index_version, head.issued.0));
    (trust.root().version, head, trust.catalog().index_version())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn versions_only_grow_and_restarts_change_nothing(offers in prop::collection::vec(offer(), 1..80)) {
        let universe = &*UNIVERSE;
        let mut machine = Machine::new(universe);
        let kept = ReleaseId(universe.editions[0].documents[2].release.0);
        let mut highest_approval = 0;
        for offer in &offers {
            let before = versions(&machine.trust);
            universe.apply(&mut machine, offer);
            let trust = &machine.trust;
            let after = versions(trust);
            prop_assert!(after.0 >= before.0 && after.1 >= before.1 && after.2 >= before.2, "{offer:?}: {before:?} {after:?}");
            if let Some(known) = trust.catalog().approvals().get(&(GROUP, kept)) {
                prop_assert!(known.approval.version >= highest_approval, "{offer:?}");
                highest_approval = known.approval.version;
            }
            // Whole editions or nothing: the catalog is one that the coordinator has published.
            let active = trust.catalog().index_hash();
            let edition = universe.editions.iter().find(|edition| Some(DocHash::of(&edition.index)) == active);
            prop_assert_eq!(active.is_some(), edition.is_some());
            if let Some(edition) = edition {
                let named = |hash| edition.documents.iter().any(|document| document.entry.hash == hash);
                prop_assert!(trust.catalog().document_hashes().all(named));
                let refused = trust.refusals().len();
                let there = trust.catalog().document_hashes().count();
                prop_assert!(!trust.is_current() || there + refused == edition.documents.len());
            }
        }
        // Left alone with honest neighbours it arrives at the end.
        let last = &universe.editions[8];
        for _ in 0..40 {
            let _ = machine.trust.offer_head(&last.head, NOW);
            universe.answer(&mut machine);
        }
        prop_assert!(machine.trust.is_current());
        prop_assert_eq!(machine.trust.catalog().index_version(), 8);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damaged_document_is_taken(offer in plain_offer(), edit in edit()) {
        let universe = &*UNIVERSE;
        let bytes = universe.bytes(&offer);
        if edited(&bytes, &edit) == bytes {
            return Ok(());
        }
        // A machine that wants exactly this document.
        let mut machine = Machine::new(universe);
        let trust = &mut machine.trust;
        let edition = match &offer {
            Offer::Root(_) => None,
            Offer::Head(at) | Offer::Index(at) | Offer::Document(at, _) => Some(&universe.editions[*at]),
            _ => None,
        };
        if let Some(edition) = edition && !matches!(offer, Offer::Head(_)) {
            trust.offer_head(&edition.head, NOW).unwrap();
            if matches!(trust.wanted(), Wanted::Root(_)) {
                trust.offer_root(&universe.roots[1], NOW).unwrap();
            }
            if matches!(offer, Offer::Document(..)) {
                edition.offer_index(trust);
            }
        }
        let before = (versions(trust), trust.catalog().clone());
        prop_assert!(!universe.apply(&mut machine, &Offer::Damaged(Box::new(offer), edit)));
        prop_assert_eq!((versions(&machine.trust), machine.trust.catalog().clone()), before);
    }
}
