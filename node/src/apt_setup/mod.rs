//! How plain apt of this machine is brought to see what is approved, and nothing else: sources, certificates and preferences.
//!
//! ```text
//! STATE/apt/UPSTREAM.json                       what the newest verified snapshot of an upstream says
//! STATE/apt/setup.json                          that apt is set up, and where it finds the update point
//! ROOT/etc/apt/sources.list.d/upswarm.sources   one stanza an upstream
//! ROOT/etc/apt/keyrings/upswarm-UPSTREAM-N.asc  its certificates, as the root pins them
//! ROOT/etc/apt/preferences.d/upswarm            the selected versions, and -1 for everything else of the update point
//! ROOT/etc/apt/sources.list, sources.list.d/*   sources of synced upstreams, disabled by a mark of ours that `undo` takes away
//! ```
//! STATE belongs to who installs: what is written here rests on verified approvals alone, never on what a node without rights
//! says. The files are written anew whenever a snapshot is noted, so that apt follows each approval.

mod existing;
mod files;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use upswarm_protocol::time::Wall;

use crate::sys::{self, Access};
use crate::upstream::sources::Entry;

/// Upstreams of one machine.
const MAX_UPSTREAMS: usize = 64;
/// A note of 480 packages and a few certificates is shorter.
const MAX_NOTE: u64 = 1 << 20;

/// What a verified snapshot says that apt must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Snapshot {
    /// The upstream's name; its releases are of the product `apt.<name>`.
    pub(crate) upstream: String,
    /// Which approved snapshot of the upstream this is.
    pub(crate) word: Word,
    /// As below `dists/`.
    pub(crate) suite: String,
    /// Names of the suite by which a source of the machine may mean it: suite and codename of InRelease.
    pub(crate) aliases: Vec<String>,
    /// Origin of InRelease; empty without.
    pub(crate) origin: String,
    pub(crate) components: Vec<String>,
    pub(crate) architectures: Vec<String>,
    /// OpenPGP certificates, ASCII armoured.
    pub(crate) certificates: Vec<String>,
    pub(crate) packages: Vec<Selected>,
}

/// An approval of a snapshot, as far as it decides which of several of an upstream counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Word {
    /// The release's counter, which begins with upstream's date of the snapshot.
    pub(crate) counter: u64,
    /// When an approver said so.
    pub(crate) said: Wall,
    /// Whether machines go back to it.
    pub(crate) back: bool,
}

/// One package at exactly one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Selected {
    pub(crate) name: String,
    pub(crate) arch: String,
    pub(crate) version: String,
}

/// That apt is set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Setup {
    /// Of the update point, for example `http://127.0.0.1:8530`.
    url: String,
}

/// What a set-up has done or found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Outcome {
    /// Upstreams that apt sees through the update point.
    pub(crate) upstreams: Vec<String>,
    /// Packages of the selections.
    pub(crate) packages: usize,
    /// Sources that are disabled (or enabled again), as FILE: WHAT.
    pub(crate) changed: Vec<String>,
    /// Sources beside the update point: what comes from them nobody here has approved.
    pub(crate) bypass: Vec<String>,
}

/// Where notes lie below the state directory of who installs.
fn dir(state: &Path) -> PathBuf {
    state.join("apt")
}

impl Word {
    /// Whether this takes the place of another of the same upstream, or is the same. Forward goes by upstream's date; back, and forward
    /// again, only by a word that an approver said later.
    fn follows(&self, known: &Word) -> bool {
        let same = (self.counter, self.back) == (known.counter, known.back) && self.said >= known.said;
        let later = self.said > known.said;
        match (known.back, self.back) {
            (false, false) => self.counter >= known.counter,
            (_, true) => same || later,
            (true, false) => later && self.counter > known.counter,
        }
    }
}

/// Refuses an approval that an approver has taken back since, one way or the other: whoever leaves that out of the catalog gains
/// nothing.
pub(crate) fn must_follow(state: &Path, upstream: &str, word: &Word) -> Result<(), String> {
    let path = dir(state).join(format!("{upstream}.json"));
    let known = match read_note(&path) {
        Ok(known) => known.word,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("cannot read what was approved before: {}: {error}", path.display())),
    };
    if !(known.back || word.back) || word.follows(&known) {
        return Ok(());
    }
    let way = if known.back { "takes machines back" } else { "takes machines forward" };
    Err(format!(
        "an approver said this at {}, and a word of {} about {upstream} that {way} is known here; approve it anew if it is to be",
        word.said, known.said
    ))
}

/// At which priority apt takes a selected version: above 1000 it goes back to it.
pub(crate) fn priority(back: bool) -> u16 {
    if back { 1001 } else { 990 }
}

/// Writes down what a verified snapshot says. When apt is set up, its files follow. An older snapshot changes nothing.
pub(crate) fn note(state: &Path, root: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let mut snapshot = snapshot.clone();
    let dir = dir(state);
    sys::make_private_dir(&dir)?;
    let path = dir.join(format!("{}.json", snapshot.upstream));
    if let Ok(known) = read_note(&path) {
        if !snapshot.word.follows(&known.word) {
            // It may be that its files could not be written the last time.
            return follow(state, root);
        }
        // Going back needs a word later than every one that was acted on.
        snapshot.word.said = snapshot.word.said.max(known.word.said);
        if known == snapshot {
            return follow(state, root);
        }
    }
    if !path.exists() && notes(state)?.len() >= MAX_UPSTREAMS {
        return Err(io::Error::other(format!("more than {MAX_UPSTREAMS} upstreams are noted in {}", dir.display())));
    }
    sys::replace(&path, &serde_json::to_vec(&snapshot)?, Access::Owner)?;
    follow(state, root)
}

/// When apt is set up, its files say what is noted.
fn follow(state: &Path, root: &Path) -> io::Result<()> {
    let Some(setup) = read_setup(state)? else { return Ok(()) };
    files::write(root, &setup.url, &notes(state)?)
}

/// What apt asks the update point for first, an upstream each.
pub(crate) fn paths(state: &Path) -> anyhow::Result<Vec<String>> {
    let snapshots = notes(state).with_context(|| format!("cannot read the notes in {}", dir(state).display()))?;
    let path = |snapshot: &Snapshot| format!("/apt/{}/dists/{}/InRelease", snapshot.upstream, snapshot.suite);
    Ok(snapshots.iter().map(path).collect())
}

/// Brings apt below `root` to see the update point at `url`. Refuses when no snapshot is noted: the machine would be left without
/// a source. Can be repeated.
pub(crate) fn set_up(state: &Path, root: &Path, url: &str) -> anyhow::Result<Outcome> {
    let snapshots = notes(state).with_context(|| format!("cannot read the notes in {}", dir(state).display()))?;
    if snapshots.is_empty() {
        bail!(
            "no snapshot of a repository has been approved for this machine yet, and apt would be left without any source; \
             approve one (upswarm approve apt:NAME@latest --group ...), and repeat this when the machine has heard of it"
        );
    }
    sys::make_private_dir(&dir(state)).context("cannot prepare the notes")?;
    let setup = serde_json::to_vec(&Setup { url: url.to_owned() })?;
    let path = dir(state).join("setup.json");
    // The new source before the old ones go: whatever stops this, apt has one.
    let written = files::write(root, url, &snapshots).context("cannot write apt's new source");
    // What an earlier time has set up is all that apt has: it stays.
    let is_first = !path.exists();
    written.inspect_err(|_| {
        if is_first {
            drop(files::remove(root));
        }
    })?;
    sys::replace(&path, &setup, Access::Owner).with_context(|| format!("cannot write {}", path.display()))?;
    let mut outcome = Outcome {
        packages: snapshots.iter().map(|snapshot| snapshot.packages.len()).sum(),
        upstreams: snapshots.iter().map(|snapshot| snapshot.upstream.clone()).collect(),
        ..Outcome::default()
    };
    for file in existing::files(root)? {
        let is_synced = |source: &Entry| existing::is_synced(root, source, &snapshots);
        let change = existing::disable(&file.text, file.is_deb822(), is_synced);
        outcome.changed.extend(change.disabled.iter().map(|what| format!("{}: {what}", file.name)));
        outcome.bypass.extend(change.left.iter().map(|what| format!("{}: {what}", file.name)));
        file.put(&change.text)?;
    }
    Ok(outcome)
}

/// Takes everything away again, and enables the sources that were disabled. Needs nothing but what lies below `root`.
pub(crate) fn undo(state: &Path, root: &Path) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    // The old sources before the new one goes.
    for file in existing::files(root)? {
        let change = existing::enable(&file.text);
        outcome.changed.extend(change.disabled.iter().map(|what| format!("{}: {what}", file.name)));
        file.put(&change.text)?;
    }
    files::remove(root).context("cannot remove apt's source")?;
    let path = dir(state).join("setup.json");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        _ => {}
    }
    Ok(outcome)
}

/// Every snapshot that is noted, by upstream.
fn notes(state: &Path) -> io::Result<Vec<Snapshot>> {
    let entries = match fs::read_dir(dir(state)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = BTreeMap::new();
    for entry in entries.take(2 * MAX_UPSTREAMS) {
        let path = entry?.path();
        let is_note = path.extension().is_some_and(|end| end == "json") && path.file_stem() != Some("setup".as_ref());
        if is_note {
            let note = read_note(&path)?;
            found.insert(note.upstream.clone(), note);
        }
    }
    Ok(found.into_values().collect())
}

fn read_note(path: &Path) -> io::Result<Snapshot> {
    Ok(serde_json::from_slice(&read(path)?)?)
}

fn read_setup(state: &Path) -> io::Result<Option<Setup>> {
    match read(&dir(state).join("setup.json")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        bytes => Ok(Some(serde_json::from_slice(&bytes?)?)),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_NOTE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(counter: u64, version: &str) -> Snapshot {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Snapshot {
            upstream: "debian".into(),
            word: Word { counter, said: Wall(counter), back: false },
            suite: "bookworm".into(),
            aliases: words(&["stable", "bookworm"]),
            origin: "Debian".into(),
            components: words(&["main"]),
            architectures: words(&["amd64"]),
            certificates: words(&[
                "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n",
            ]),
            packages: vec![Selected { name: "openssl".into(), arch: "amd64".into(), version: version.into() }],
        }
    }

    struct Machine {
        dir: tempfile::TempDir,
    }

    impl Machine {
        fn new(sources: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let machine = Self { dir };
            fs::create_dir_all(machine.root().join("etc/apt/sources.list.d")).unwrap();
            fs::create_dir_all(machine.state()).unwrap();
            let lists = machine.root().join("var/lib/apt/lists");
            fs::create_dir_all(&lists).unwrap();
            for name in ["deb.debian.org_debian_dists_bookworm", "x_debian_dists_stable"] {
                fs::write(lists.join(format!("{name}_InRelease")), "Origin: Debian\n").unwrap();
            }
            for (name, text) in sources {
                fs::write(machine.root().join("etc/apt").join(name), text).unwrap();
            }
            machine
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("root")
        }

        fn state(&self) -> PathBuf {
            self.dir.path().join("state")
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.root().join("etc/apt").join(path)).unwrap_or_default()
        }

        /// Every file below etc/apt with what is in it.
        fn all(&self) -> BTreeMap<PathBuf, String> {
            fn walk(dir: &Path, found: &mut BTreeMap<PathBuf, String>) {
                for entry in fs::read_dir(dir).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() {
                        walk(&path, found);
                    } else {
                        found.insert(path.clone(), fs::read_to_string(&path).unwrap());
                    }
                }
            }
            let mut found = BTreeMap::new();
            walk(&self.root().join("etc/apt"), &mut found);
            found
        }
    }

    const URL: &str = "http://127.0.0.1:8530";
    const LIST: &str = "# mirrors\ndeb http://deb.debian.org/debian bookworm main\n\
                        deb [arch=amd64 signed-by=/k.gpg] https://download.docker.com/linux/debian bookworm stable\n\
                        # deb-src http://deb.debian.org/debian bookworm main\n  deb-src  http://x/debian stable main # n\n";
    const DEB822: &str = "# Debian\nTypes: deb deb-src\nURIs: http://deb.debian.org/debian\n http://mirror/debian\nSuites: bookworm\n\
                          Components: main\nEnabled: yes\nSigned-By: /k.gpg\n\n\nTypes: deb\nURIs: http://other.example\n\
                          Suites: bookworm\nComponents: rest\n";

    #[test]
    fn sources_of_synced_upstreams_are_disabled_and_come_back_as_they_were() {
        let machine = Machine::new(&[
            ("sources.list", LIST),
            ("sources.list.d/debian.sources", DEB822),
            ("sources.list.d/old.list.save", LIST),
        ]);
        let before = machine.all();
        note(&machine.state(), &machine.root(), &snapshot(1, "3.0.1-1")).unwrap();
        assert_eq!(machine.all(), before, "a note alone changes nothing of apt");
        let outcome = set_up(&machine.state(), &machine.root(), URL).unwrap();
        assert_eq!(outcome.upstreams, ["debian"]);
        assert_eq!(outcome.changed.len(), 3, "{outcome:?}");
        assert_eq!(outcome.bypass.len(), 2, "{outcome:?}");
        assert!(outcome.bypass.iter().any(|line| line.contains("download.docker.com")), "{outcome:?}");
        let list = machine.read("sources.list");
        assert!(list.contains("\n#upswarm# deb http://deb.debian.org/debian bookworm main\n"), "{list}");
        assert!(list.contains("\ndeb [arch=amd64"), "{list}");
        let stanza = machine.read("sources.list.d/debian.sources");
        assert!(stanza.contains("\n#upswarm# Enabled: yes\nEnabled: no\n"), "{stanza}");
        assert_eq!(machine.read("sources.list.d/old.list.save"), LIST, "what apt does not read is left alone");
        let after = machine.all();
        assert_eq!(set_up(&machine.state(), &machine.root(), URL).unwrap().changed, Vec::<String>::new());
        assert_eq!(machine.all(), after, "to repeat it changes nothing");
        undo(&machine.state(), &machine.root()).unwrap();
        assert_eq!(machine.all(), before);
        undo(&machine.state(), &machine.root()).unwrap();
        assert_eq!(machine.all(), before);
    }

    #[test]
    fn without_a_snapshot_the_machine_keeps_its_sources() {
        let machine = Machine::new(&[("sources.list", LIST)]);
        let before = machine.all();
        let error = set_up(&machine.state(), &machine.root(), URL).unwrap_err();
        assert!(format!("{error:#}").contains("without any source"), "{error:#}");
        assert_eq!(machine.all(), before);
    }

    #[test]
    fn each_later_snapshot_moves_the_pins_and_an_older_one_does_not() {
        let machine = Machine::new(&[]);
        let (state, root) = (machine.state(), machine.root());
        note(&state, &root, &snapshot(2, "2.0")).unwrap();
        set_up(&state, &root, URL).unwrap();
        let pins = || machine.read("preferences.d/upswarm");
        assert!(pins().contains("Package: openssl:amd64\nPin: version 2.0\nPin-Priority: 990\n"), "{}", pins());
        assert!(pins().contains("Package: *\nPin: origin \"127.0.0.1\"\nPin-Priority: -1\n"), "{}", pins());
        note(&state, &root, &snapshot(1, "1.0")).unwrap();
        assert!(pins().contains("Pin: version 2.0"));
        note(&state, &root, &snapshot(3, "3.0")).unwrap();
        assert!(pins().contains("Pin: version 3.0") && !pins().contains("2.0"), "{}", pins());
        let source = machine.read("sources.list.d/upswarm.sources");
        let certificate = root.join("etc/apt/keyrings/upswarm-debian-0.asc");
        assert!(source.contains("URIs: http://127.0.0.1:8530/apt/debian\nSuites: bookworm\n"), "{source}");
        assert!(source.contains("Signed-By: /etc/apt/keyrings/upswarm-debian-0.asc\n"), "{source}");
        assert!(certificate.is_file());
        undo(&state, &root).unwrap();
        note(&state, &root, &snapshot(4, "4.0")).unwrap();
        assert_eq!(machine.all(), BTreeMap::new(), "after undo a note changes nothing of apt");
    }

    #[test]
    fn back_and_forward_again_go_by_what_was_said_last() {
        let machine = Machine::new(&[]);
        let (state, root) = (machine.state(), machine.root());
        let of = |counter: u64, said: u64, back: bool, version: &str| {
            let word = Word { counter, said: Wall(said), back };
            (word, Snapshot { word, ..snapshot(counter, version) })
        };
        note(&state, &root, &of(2, 10, false, "2.0").1).unwrap();
        set_up(&state, &root, URL).unwrap();
        let pin = |version: &str, priority: u16| {
            let pins = machine.read("preferences.d/upswarm");
            assert!(pins.contains(&format!("Pin: version {version}\nPin-Priority: {priority}\n")), "{pins}");
        };
        let steps = [
            (1, 9, true, "1.0", false, "2.0", 990),
            (1, 11, true, "1.0", true, "1.0", 1001),
            // The approval from before does not count any more, whoever names it.
            (2, 10, false, "2.0", false, "1.0", 1001),
            (2, 12, false, "2.0", true, "2.0", 990),
            (1, 11, true, "1.0", false, "2.0", 990),
            (3, 5, false, "3.0", true, "3.0", 990),
            // What was acted on meanwhile counts by its latest word.
            (1, 12, true, "1.0", false, "3.0", 990),
        ];
        for (counter, said, back, version, follows, pinned, priority) in steps {
            let (word, snapshot) = of(counter, said, back, version);
            assert_eq!(must_follow(&state, "debian", &word).is_ok(), follows, "{word:?}");
            note(&state, &root, &snapshot).unwrap();
            pin(pinned, priority);
        }
    }

    #[test]
    fn a_source_with_more_than_the_upstreams_bring_stays() {
        let source = |rest: &str| format!("deb http://deb.debian.org/debian {rest}\n");
        for (rest, disabled) in [("bookworm main", 1), ("bookworm main contrib", 0), ("bookworm-updates main", 0)] {
            let machine = Machine::new(&[("sources.list", &source(rest))]);
            note(&machine.state(), &machine.root(), &snapshot(1, "1.0")).unwrap();
            let outcome = set_up(&machine.state(), &machine.root(), URL).unwrap();
            assert_eq!((outcome.changed.len(), outcome.bypass.len()), (disabled, 1 - disabled), "{rest}: {outcome:?}");
        }
        // One that apt has never read may be anybody's.
        let machine = Machine::new(&[("sources.list", "deb http://vendor.example/debian bookworm main\n")]);
        note(&machine.state(), &machine.root(), &snapshot(1, "1.0")).unwrap();
        assert_eq!(set_up(&machine.state(), &machine.root(), URL).unwrap().changed.len(), 0);
    }

    #[test]
    fn a_source_of_another_origin_is_not_the_upstream_although_its_suite_has_the_same_name() {
        let machine = Machine::new(&[("sources.list", "deb http://deb.vendor.example/x bookworm main\n")]);
        let lists = machine.root().join("var/lib/apt/lists");
        fs::create_dir_all(&lists).unwrap();
        let release = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nOrigin: Vendor\nSuite: bookworm\n";
        fs::write(lists.join("deb.vendor.example_x_dists_bookworm_InRelease"), release).unwrap();
        note(&machine.state(), &machine.root(), &snapshot(1, "1.0")).unwrap();
        let outcome = set_up(&machine.state(), &machine.root(), URL).unwrap();
        assert_eq!((outcome.changed.len(), outcome.bypass.len()), (0, 1), "{outcome:?}");
    }
}
