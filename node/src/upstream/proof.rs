//! Whether a release says of a repository what its own people have signed: from the description, which the root pins, down to each
//! package, by the bytes that came with it. For whoever signs an approval, who trusts the coordinator with none of that.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use upswarm_protocol::catalog::{AptRecipe, Release as Published};
use upswarm_protocol::ids::PayloadId;
use upswarm_protocol::time::Wall;

use super::compression::Compression;
use super::release::{Listed, Release};
use super::{UpstreamDescription, openpgp, packages};

/// More metadata than this does not travel with a request; that of a whole distribution has 10 MB an architecture.
pub(crate) const MAX_METADATA: u64 = 24 << 20;

/// What upstream's signature says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) date: Wall,
    pub(crate) valid_until: Option<Wall>,
    /// Whether every package was found in upstream's indexes. They do not travel with a request where they are too large.
    pub(crate) compared: bool,
}

/// How much of the metadata belongs to a request, in the order of [`AptRecipe::metadata`]: all of it, or what was signed itself.
pub(crate) fn travels(release: &Published, recipe: &AptRecipe) -> usize {
    let all: Vec<usize> = recipe.metadata().collect();
    let bytes =
        all.iter().filter_map(|at| release.payloads.get(*at)).fold(0, |sum: u64, of| sum.saturating_add(of.len));
    if bytes <= MAX_METADATA { all.len() } else { 2.min(all.len()) }
}

/// Checks a release by its metadata, in the order of [`AptRecipe::metadata`]. That the root pins the description was checked with the
/// release itself. The error says what is not so.
pub(crate) fn check(release: &Published, recipe: &AptRecipe, metadata: &[&[u8]], now: Wall) -> Result<Signed, String> {
    // 1. The bytes are those that the release names.
    let travelling = travels(release, recipe);
    if metadata.len() != travelling {
        return Err(format!("{} files of upstream's metadata came with it, {travelling} belong to it", metadata.len()));
    }
    for (at, bytes) in recipe.metadata().zip(metadata) {
        let payload = release.payloads.get(at).ok_or("it names a file that it does not have")?;
        if payload.id != PayloadId::of(bytes) {
            return Err(format!("{} is another file than the release names", payload.name));
        }
    }
    let (Some(description), Some(in_release)) = (metadata.first(), metadata.get(1)) else {
        return Err("it has neither description nor InRelease".to_owned());
    };
    // 2. A certificate of the description has signed InRelease, which is of that suite and counts still.
    let description = UpstreamDescription::parse(description).map_err(|error| error.to_string())?;
    let certificates = description.certificates().map_err(|error| error.to_string())?;
    let text = openpgp::verify(in_release, &certificates, now).map_err(|error| format!("InRelease: {error}"))?;
    let said = Release::parse(&text).map_err(|error| format!("InRelease: {error}"))?;
    if !said.is_of(&description.suite) {
        return Err(format!("InRelease is of the suite {:?}, not of {}", said.suite, description.suite));
    }
    // Who goes back knows that it is old: the words say how old.
    if let Some(until) = said.valid_until.filter(|until| *until <= now && !recipe.back) {
        return Err(format!(
            "upstream's InRelease was good until {until} only; sync again, and select from what is newest"
        ));
    }
    let signed = Signed { date: said.date, valid_until: said.valid_until, compared: travelling > 2 };
    // 3. The indexes are those that InRelease names.
    for index in &recipe.indexes {
        let payload =
            release.payloads.get(usize::from(index.payload)).ok_or("it names an index that it does not have")?;
        if said.file(&index.path) != Some(Listed { len: payload.len, sha256: payload.sha256 }) {
            return Err(format!("{} is another index than upstream signed", index.path));
        }
    }
    // 4. Each package is in an index as the release has it, and this upstream may supply it.
    if let Some(other) = recipe.packages.iter().find(|package| !description.may_supply(&package.name)) {
        return Err(format!("{} may not come from {}", other.name, description.name));
    }
    if !signed.compared {
        return Ok(signed);
    }
    let mut wanted: BTreeMap<[String; 4], Listed> = BTreeMap::new();
    for package in &recipe.packages {
        let payload = release.payloads.get(usize::from(package.payload)).ok_or("it names a package without a file")?;
        wanted.insert(
            [
                package.name.to_string(),
                package.version.to_string(),
                package.arch.to_string(),
                package.source.to_string(),
            ],
            Listed { len: payload.len, sha256: payload.sha256 },
        );
    }
    for (index, bytes) in recipe.indexes.iter().zip(metadata.iter().skip(2)) {
        let listed = said.file(&index.path).ok_or("InRelease does not name an index")?;
        if listed.sha256 != <[u8; 32]>::from(Sha256::digest(bytes)) {
            return Err(format!("{} has other bytes than upstream signed", index.path));
        }
        let read = Compression::of(&index.path).open(*bytes).map_err(|error| format!("{}: {error}", index.path))?;
        let found = packages::read(read, |package| {
            let listed = Listed { len: package.len, sha256: package.sha256 };
            let key = [package.name, package.version, package.arch, package.source];
            if wanted.get(&key) == Some(&listed) {
                wanted.remove(&key);
            }
        });
        found.map_err(|error| format!("{}: {error}", index.path))?;
    }
    match wanted.keys().next() {
        Some([name, version, arch, source]) => {
            Err(format!("upstream has no package {name} {version} for {arch}, built from {source}, with these bytes"))
        }
        None => Ok(signed),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use upswarm_protocol::catalog::{
        AptIndex, AptPackage, Classification, Payload, Platform, Recipe, RestartPolicy, Severity, WhenAbsent,
    };
    use upswarm_protocol::codec::{Bounded, Text};
    use upswarm_protocol::ids::DocHash;
    use upswarm_tests::openpgp::{DAY, MADE, Signer};
    use upswarm_tests::repository::{Deb, Repository, rfc2822};

    use super::*;

    const INDEX: &str = "main/binary-amd64/Packages.xz";

    struct Bench {
        _dir: tempfile::TempDir,
        repository: Repository,
        debs: Vec<Vec<u8>>,
    }

    fn payload(name: &str, bytes: &[u8]) -> Payload {
        Payload {
            name: Text::lossy(name),
            id: PayloadId::of(bytes),
            len: bytes.len() as u64,
            chunk_list: DocHash([0; 32]),
            chunk_list_len: 0,
            sha256: Sha256::digest(bytes).into(),
            urls: Bounded::default(),
            patches: Bounded::default(),
        }
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut repository = Repository::new(dir.path());
            repository.fields = format!("Origin: Test\nValid-Until: {}\n", rfc2822(MADE + 20 * DAY));
            let add = |repository: &mut Repository, deb: &Deb<'_>| fs::read(repository.add(deb)).unwrap();
            let debs = vec![
                add(&mut repository, &Deb { source: "suite (5)", ..Deb::new("editor", "1:2.0-1") }),
                add(&mut repository, &Deb { arch: "amd64", ..Deb::new("codec", "1.0") }),
            ];
            repository.publish(MADE + 10 * DAY);
            Self { _dir: dir, repository, debs }
        }

        fn metadata(&self, patterns: &[&str]) -> Vec<Vec<u8>> {
            let description = UpstreamDescription {
                name: "test".into(),
                suite: "stable".into(),
                components: vec!["main".into()],
                architectures: vec!["amd64".into()],
                packages: patterns.iter().map(|text| text.to_string()).collect(),
                certificates: vec![self.repository.signer.certificate()],
            };
            let read = |path: &str| fs::read(self.repository.dists().join(Path::new(path))).unwrap();
            vec![description.to_bytes().unwrap(), read("InRelease"), read(INDEX)]
        }

        fn release(&self, metadata: &[Vec<u8>]) -> Published {
            let names = ["upstream.json", "InRelease", "Packages.xz", "editor.deb", "codec.deb"];
            let payloads =
                names.iter().zip(metadata.iter().chain(&self.debs)).map(|(name, bytes)| payload(name, bytes));
            let package = |payload, name, version, arch, source| AptPackage {
                payload,
                name: Text::lossy(name),
                version: Text::lossy(version),
                arch: Text::lossy(arch),
                source: Text::lossy(source),
                when_absent: WhenAbsent::Never,
            };
            let recipe = AptRecipe {
                upstream: 0,
                in_release: 1,
                indexes: Bounded::truncated(vec![AptIndex { payload: 2, path: Text::lossy(INDEX) }]),
                packages: Bounded::truncated(vec![
                    package(3, "editor", "1:2.0-1", "all", "suite"),
                    package(4, "codec", "1.0", "amd64", "codec"),
                ]),
                back: false,
                timeout_s: 60,
            };
            Published {
                product: Text::lossy("apt.test"),
                version: Text::lossy("1"),
                counter: 1,
                title: Text::lossy("x"),
                classification: Classification::Update,
                severity: Severity::Unspecified,
                cves: Bounded::default(),
                issued: Wall(1),
                expires: Wall(2),
                platform: Platform::default(),
                payloads: Bounded::truncated(payloads.collect()),
                applicability: Bounded::default(),
                detect: Bounded::default(),
                install: Recipe::Apt(recipe),
                uninstall: None,
                restart: RestartPolicy::Never,
                depends: Bounded::default(),
                supersedes: Bounded::default(),
            }
        }
    }

    fn now() -> Wall {
        Wall(1000 * u64::from(MADE + 15 * DAY))
    }

    fn checked(release: &Published, metadata: &[Vec<u8>], now: Wall) -> Result<Signed, String> {
        let Recipe::Apt(recipe) = &release.install else { panic!("an apt recipe") };
        check(release, recipe, &metadata.iter().map(Vec::as_slice).collect::<Vec<_>>(), now)
    }

    #[test]
    fn a_selection_is_what_upstream_signed_or_it_is_refused() {
        let bench = Bench::new();
        let metadata = bench.metadata(&["*"]);
        let good = bench.release(&metadata);
        let signed = checked(&good, &metadata, now()).unwrap();
        assert_eq!((signed.date, signed.compared), (Wall(1000 * u64::from(MADE + 10 * DAY)), true));
        let late = checked(&good, &metadata, Wall(1000 * u64::from(MADE + 20 * DAY))).unwrap_err();
        assert!(late.contains("was good until") && late.contains("sync again"), "{late}");

        type Change = fn(&mut AptRecipe, &mut Vec<Payload>);
        let changes: [(Change, &str); 7] = [
            (|recipe, _| edit(recipe, |package| package.version = Text::lossy("1:2.0-2")), "no package editor 1:2.0-2"),
            (|recipe, _| edit(recipe, |package| package.source = Text::lossy("other")), "built from other"),
            (|recipe, _| edit(recipe, |package| package.arch = Text::lossy("amd64")), "for amd64"),
            (|recipe, _| edit(recipe, |package| package.payload = 4), "with these bytes"),
            (|recipe, _| edit(recipe, |package| package.payload = 9), "without a file"),
            (|_, payloads| payloads[3].sha256[0] ^= 1, "with these bytes"),
            (|_, payloads| payloads[2].sha256[0] ^= 1, "another index than upstream signed"),
        ];
        for (change, cause) in changes {
            let mut release = good.clone();
            let Recipe::Apt(mut recipe) = release.install.clone() else { panic!("an apt recipe") };
            let mut payloads = release.payloads.clone().into_vec();
            change(&mut recipe, &mut payloads);
            release.payloads = Bounded::truncated(payloads);
            release.install = Recipe::Apt(recipe);
            let error = checked(&release, &metadata, now()).unwrap_err();
            assert!(error.contains(cause), "{cause}: {error}");
        }
    }

    fn edit(recipe: &mut AptRecipe, change: impl Fn(&mut AptPackage)) {
        let mut packages = recipe.packages.clone().into_vec();
        change(&mut packages[0]);
        recipe.packages = Bounded::truncated(packages);
    }

    #[test]
    fn metadata_that_is_not_upstreams_is_refused() {
        let mut bench = Bench::new();
        let metadata = bench.metadata(&["*"]);
        let good = bench.release(&metadata);
        for at in 0..3 {
            let mut other = metadata.clone();
            other[at].push(b'\n');
            let error = checked(&good, &other, now()).unwrap_err();
            assert!(error.contains("another file than the release names"), "{at}: {error}");
        }
        let error = checked(&good, &metadata[..2], now()).unwrap_err();
        assert!(error.contains("2 files of upstream's metadata came"), "{error}");
        let narrow = bench.metadata(&["cod*"]);
        let error = checked(&bench.release(&narrow), &narrow, now()).unwrap_err();
        assert!(error.contains("editor may not come from test"), "{error}");
        // Somebody else's signature, with everything else in order.
        let certificate = bench.repository.signer.certificate();
        bench.repository.signer = Signer::new(2);
        bench.repository.publish(MADE + 10 * DAY);
        let forged = bench.metadata(&["*"]);
        let own = String::from_utf8(metadata[0].clone()).unwrap();
        assert!(own.contains(&certificate.lines().nth(2).unwrap().to_owned()));
        let mixed = vec![metadata[0].clone(), forged[1].clone(), forged[2].clone()];
        let error = checked(&bench.release(&mixed), &mixed, now()).unwrap_err();
        assert!(error.starts_with("InRelease: "), "{error}");
    }
}
