//! Feeds that are written here in their publishers' forms, each with the verdicts that those would give; and servers as servers are.

use std::fmt::Write as _;
use std::io::Write as _;

use upswarm_protocol::catalog::Severity;
use upswarm_tests::mirror::{Fault, Mirror as Server};

use super::advisories::{Distribution, Judged};
use super::*;
use crate::api::feeds::Verdict;
use crate::web::ProxyConfig;

const PACKAGES: usize = 200;

/// What the tracker says of a package in a release, a version that a machine has, and what the tracker's own page shows for it.
struct Case {
    status: &'static str,
    fixed: &'static str,
    urgency: &'static str,
    installed: &'static str,
    shown: &'static str,
    severity: Severity,
}

const fn case(
    (status, fixed, urgency): (&'static str, &'static str, &'static str),
    installed: &'static str,
    shown: &'static str,
    severity: Severity,
) -> Case {
    Case { status, fixed, urgency, installed, shown, severity }
}

/// By hand, from the tracker's documentation and deb-version(7). `absent`: it says nothing of the release.
const CASES: [Case; 24] = [
    case(("resolved", "1.2-3", "high"), "1.2-2", "vulnerable until 1.2-3", Severity::Important),
    case(("resolved", "1.2-3", "high"), "1.2-3", "fixed in 1.2-3", Severity::Important),
    case(("resolved", "1.2-3", "medium"), "1.2-3+deb12u1", "fixed in 1.2-3", Severity::Moderate),
    case(
        ("resolved", "1.2-3+deb12u2", "medium**"),
        "1.2-3+deb12u1",
        "vulnerable until 1.2-3+deb12u2",
        Severity::Moderate,
    ),
    case(("resolved", "1.2-3+deb12u2", "low"), "1.2-3+deb12u10", "fixed in 1.2-3+deb12u2", Severity::Low),
    // A tilde comes before everything, even the end.
    case(("resolved", "2.0-1", "not yet assigned"), "2.0-1~deb12u1", "vulnerable until 2.0-1", Severity::Unspecified),
    case(("resolved", "2.0-1~deb12u1", "not yet assigned"), "2.0-1", "fixed in 2.0-1~deb12u1", Severity::Unspecified),
    case(("resolved", "2.0~rc1-1", "low*"), "2.0~beta9-1", "vulnerable until 2.0~rc1-1", Severity::Low),
    // An epoch counts before all else.
    case(("resolved", "1:1.0-1", "high"), "9.9-1", "vulnerable until 1:1.0-1", Severity::Important),
    case(("resolved", "9.9-1", "high"), "1:1.0-1", "fixed in 9.9-1", Severity::Important),
    case(("resolved", "1.10-1", "medium"), "1.9-1", "vulnerable until 1.10-1", Severity::Moderate),
    case(("resolved", "1.09-1", "medium"), "1.9-1", "fixed in 1.09-1", Severity::Moderate),
    case(("resolved", "0", "high"), "1.0-1", "not affected", Severity::Important),
    case(("resolved", "0", "unimportant"), "1.0-1", "not affected", Severity::Low),
    case(("open", "", "not yet assigned"), "1.0-1", "vulnerable", Severity::Unspecified),
    case(("open", "", "high"), "1.0-1", "vulnerable", Severity::Important),
    case(("open", "", "unimportant"), "1.0-1", "unimportant", Severity::Low),
    case(("open", "", "end-of-life"), "1.0-1", "end of life", Severity::Unspecified),
    case(("resolved", "1.5-1", "unimportant"), "1.0-1", "unimportant", Severity::Low),
    case(("resolved", "1.5-1", "unimportant"), "1.5-1", "fixed in 1.5-1", Severity::Low),
    case(("undetermined", "", "not yet assigned"), "1.0-1", "undetermined", Severity::Unspecified),
    case(("undetermined", "", "low"), "1.0-1", "undetermined", Severity::Low),
    case(("a word of tomorrow", "", "high"), "1.0-1", "undetermined", Severity::Important),
    case(("absent", "", ""), "1.0-1", "unknown", Severity::Unspecified),
];

fn bookworm() -> Distribution {
    Distribution::of("Debian", "bookworm-security", "12")
}

fn trixie() -> Distribution {
    Distribution::of("Debian", "trixie", "13.2")
}

/// The case of a package in the first and in the second release: every pair of kinds meets in some package.
fn cases(package: usize) -> [&'static Case; 2] {
    [&CASES[package % CASES.len()], &CASES[(7 * package + package / CASES.len()) % CASES.len()]]
}

fn source(package: usize) -> String {
    format!("source-{package}")
}

fn cve(package: usize) -> String {
    format!("CVE-2026-{}", 1000 + package)
}

/// As the tracker writes it, with what nobody here reads.
fn tracker_file() -> String {
    let mut text = "{".to_owned();
    for package in 0..PACKAGES {
        let comma = if package > 0 { "," } else { "" };
        write!(
            text,
            "{comma}\"{}\":{{\"{}\":{{\"description\":\"A \\\"fault\\\" \\u00e9\",\"scope\":\"remote\",\"debianbug\":{package},\"releases\":{{",
            source(package),
            cve(package)
        )
        .unwrap();
        let mut releases = Vec::new();
        for (codename, case) in ["bookworm", "trixie"].into_iter().zip(cases(package)) {
            if case.status == "absent" {
                continue;
            }
            let fixed = match case.fixed {
                "" => String::new(),
                fixed => format!(",\"fixed_version\":\"{fixed}\""),
            };
            releases.push(format!(
                "\"{codename}\":{{\"status\":\"{}\",\"repositories\":{{\"{codename}\":\"1\"}}{fixed},\"urgency\":\"{}\",\
                 \"nodsa\":\"Minor issue\",\"nodsa_reason\":\"\"}}",
                case.status, case.urgency
            ));
        }
        releases.push("\"sid\":{\"status\":\"resolved\",\"fixed_version\":\"0.1\",\"urgency\":\"low\"}".to_owned());
        write!(text, "{}}}}}}}", releases.join(",")).unwrap();
    }
    text + "}"
}

/// As the tracker's page has it.
fn words(judged: Option<&Judged>) -> String {
    match judged.map(|of| &of.verdict) {
        None | Some(Verdict::Unknown) => "unknown".to_owned(),
        Some(Verdict::Fixed { r#in }) => format!("fixed in {in}"),
        Some(Verdict::Vulnerable { fixed: Some(fixed) }) => format!("vulnerable until {fixed}"),
        Some(Verdict::Vulnerable { fixed: None }) => "vulnerable".to_owned(),
        Some(Verdict::NotAffected) => "not affected".to_owned(),
        Some(Verdict::Unimportant) => "unimportant".to_owned(),
        Some(Verdict::EndOfLife) => "end of life".to_owned(),
        Some(Verdict::Undetermined) => "undetermined".to_owned(),
    }
}

/// Written to a file and read back, as a coordinator does.
fn kept(said: Said) -> Advisories {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("advisories");
    let wanted = said.keys().cloned().collect();
    advisories::write(said, &path).unwrap();
    Advisories::read([path.as_path()], &wanted).unwrap()
}

#[test]
fn two_hundred_packages_in_two_releases_have_the_trackers_own_verdicts() {
    let advisories = kept(tracker::read(tracker_file().as_bytes()).unwrap());
    let mut met = BTreeSet::new();
    for package in 0..PACKAGES {
        for (release, case) in [bookworm(), trixie()].iter().zip(cases(package)) {
            let about = advisories.about(&source(package), release, case.installed);
            let judged = about.get(&*cve(package));
            assert_eq!(words(judged), case.shown, "{} {} on {}", source(package), case.installed, release.name());
            assert_eq!(judged.map_or(Severity::Unspecified, |of| of.severity), case.severity, "{}", source(package));
            met.insert((case.status, case.fixed, case.urgency, case.installed));
        }
    }
    assert_eq!(met.len(), CASES.len(), "every case was met");
    // Of what is not in the feed, nothing is said, and nothing of another distribution.
    assert!(advisories.about("source-unknown", &bookworm(), "1").is_empty());
    for (origin, codename, version) in
        [("Ubuntu", "noble", "24.04"), ("Debian Backports", "bookworm-backports", ""), ("", "", "")]
    {
        assert!(advisories.about("source-0", &Distribution::of(origin, codename, version), "1.2-2").is_empty());
    }
}

#[test]
fn an_update_mends_what_is_open_before_and_fixed_after() {
    let said = tracker::read(tracker_file().as_bytes()).unwrap();
    let advisories = Advisories::of(vec![said]);
    let mended = |package: usize, from: &[&str], to: &str| {
        let mended = advisories.mended(&source(package), &bookworm(), from.iter().copied(), to);
        (mended.severity, mended.cves.len())
    };
    assert_eq!(mended(0, &["1.2-2"], "1.2-3"), (Some(Severity::Important), 1));
    assert_eq!(mended(0, &["1.2-3", "1.0-1"], "1.2-4"), (Some(Severity::Important), 1), "on one machine of two");
    assert_eq!(mended(0, &["1.2-1"], "1.2-2"), (None, 0), "the fault is still there");
    assert_eq!(mended(1, &["1.2-3"], "1.2-4"), (None, 0), "it was gone before");
    assert_eq!(mended(5, &["1.9-1"], "2.0-1"), (Some(Severity::Unspecified), 1), "nobody says how bad");
    assert_eq!(mended(15, &["1.0-1"], "2.0-1"), (None, 0), "nobody has mended it");
    assert_eq!(mended(18, &["1.0-1"], "1.5-1"), (None, 0), "it means nothing for security");
    assert_eq!(mended(20, &["1.0-1"], "2.0-1"), (None, 0), "nobody knows");
}

/// A record with one package of Debian 12 and one of Ubuntu.
fn record(id: &str, more: &str, events: &str, specific: &str) -> String {
    format!(
        "{{\"id\":\"{id}\",\"modified\":\"2026-01-01T00:00:00Z\",\"summary\":\"x\"{more},\"affected\":[\
         {{\"package\":{{\"ecosystem\":\"Debian:12\",\"name\":\"libtext\",\"purl\":\"pkg:deb/debian/libtext\"}},\
         \"ranges\":[{{\"type\":\"ECOSYSTEM\",\"events\":[{events}]}}],\"ecosystem_specific\":{{{specific}}}}},\
         {{\"package\":{{\"ecosystem\":\"Ubuntu:24.04:LTS\",\"name\":\"libtext\"}},\"versions\":[\"7-1\"]}},\
         {{\"package\":{{\"ecosystem\":\"PyPI\",\"name\":\"Not A Package\"}},\"versions\":[\"1\"]}}]}}"
    )
}

fn records() -> Vec<String> {
    let from = |events: &str| format!("{{\"introduced\":\"0\"}},{events}");
    vec![
        record(
            "CVE-2026-1",
            ",\"severity\":[{\"type\":\"CVSS_V3\",\"score\":\"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H\"}]",
            &from("{\"fixed\":\"1.2-3\"}"),
            "",
        ),
        record(
            "DSA-1-1",
            ",\"upstream\":[\"CVE-2026-2\",\"CVE-2026-3\"]",
            &from("{\"fixed\":\"2-1\"}"),
            "\"urgency\":\"low\"",
        ),
        record(
            "DEBIAN-CVE-2026-4",
            "",
            "{\"introduced\":\"1-1\"},{\"last_affected\":\"2-1\"}",
            "\"urgency\":\"unimportant\"",
        ),
        record("CVE-2026-5", "", "{\"introduced\":\"0\"}", "\"urgency\":\"end-of-life\""),
        record("CVE-2026-6", ",\"withdrawn\":\"2026-02-01T00:00:00Z\"", &from("{\"fixed\":\"9\"}"), ""),
        record(
            "CVE-2026-7",
            "",
            "{\"introduced\":\"1\"},{\"fixed\":\"2\"},{\"introduced\":\"3\"},{\"fixed\":\"4\"}",
            "",
        ),
    ]
}

/// A zip archive of one stored and otherwise deflated files.
fn archive(files: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, file) in files.iter().enumerate() {
        let mut sum = flate2::Crc::new();
        sum.update(file.as_bytes());
        let (method, packed) = match at {
            0 => (0u16, file.as_bytes().to_vec()),
            _ => {
                let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
                packer.write_all(file.as_bytes()).unwrap();
                (8, packer.finish().unwrap())
            }
        };
        let name = format!("{at}.json");
        bytes.extend(*b"PK\x03\x04\x14\0\0\0");
        bytes.extend(method.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(sum.sum().to_le_bytes());
        bytes.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
        bytes.extend(u32::try_from(file.len()).unwrap().to_le_bytes());
        bytes.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(name.as_bytes());
        bytes.extend(packed);
    }
    bytes.extend(*b"PK\x01\x02");
    bytes
}

#[test]
fn records_of_osv_say_the_same_in_each_of_their_forms() {
    let files = records();
    let (lines, list) = (files.join("\n"), format!("[{}]", files.join(",")));
    let zip = archive(&files);
    let forms: [&[u8]; 3] = [lines.as_bytes(), list.as_bytes(), &zip];
    for form in forms {
        let advisories = kept(osv::read(form).unwrap());
        let of = |cve: &str, version: &str| {
            let about = advisories.about("libtext", &bookworm(), version);
            (words(about.get(cve)), about.get(cve).map(|judged| judged.severity))
        };
        let said = |text: &str, severity| (text.to_owned(), Some(severity));
        assert_eq!(of("CVE-2026-1", "1.2-2"), said("vulnerable until 1.2-3", Severity::Critical));
        assert_eq!(of("CVE-2026-1", "1.2-3"), said("fixed in 1.2-3", Severity::Critical));
        assert_eq!(of("CVE-2026-2", "1"), said("vulnerable until 2-1", Severity::Low));
        assert_eq!(of("CVE-2026-3", "2-1"), said("fixed in 2-1", Severity::Low));
        assert_eq!(of("CVE-2026-4", "2-1"), said("unimportant", Severity::Unspecified));
        assert_eq!(of("CVE-2026-4", "2-2"), said("not affected", Severity::Unspecified));
        assert_eq!(of("CVE-2026-5", "1"), said("end of life", Severity::Unspecified));
        assert_eq!(of("CVE-2026-6", "1"), ("unknown".to_owned(), None));
        for (version, wanted) in [
            ("0.9", "not affected"),
            ("1", "vulnerable until 2"),
            ("2.5", "fixed in 2"),
            ("3.1", "vulnerable until 4"),
            ("4", "fixed in 4"),
        ] {
            assert_eq!(of("CVE-2026-7", version).0, wanted, "{version}");
        }
        let noble = Distribution::of("Ubuntu", "noble", "24.04");
        assert_eq!(words(advisories.about("libtext", &noble, "7-1").get("CVE-2026-1")), "vulnerable");
        assert_eq!(words(advisories.about("libtext", &noble, "7-2").get("CVE-2026-1")), "not affected");
    }
    let mut damaged = zip.clone();
    damaged[200] ^= 1;
    let error = format!("{:#}", osv::read(damaged.as_slice()).unwrap_err());
    assert!(error.contains("damaged") || error.contains("0.json"), "{error}");
    assert!(osv::read(&zip[..zip.len() / 2]).is_err());
}

#[test]
fn the_distributions_tracker_has_the_word_and_severities_add_up() {
    let tracker = "{\"libtext\":{\"CVE-2026-1\":{\"releases\":{\"bookworm\":{\"status\":\"resolved\",\"fixed_version\":\"0\",\
                   \"urgency\":\"not yet assigned\"}}},\"CVE-2026-2\":{\"releases\":{\"bookworm\":{\"status\":\"undetermined\",\
                   \"urgency\":\"low\"}}}}}";
    let feeds = vec![tracker::read(tracker.as_bytes()).unwrap(), osv::read(records().join("\n").as_bytes()).unwrap()];
    let advisories = Advisories::of(feeds);
    let about = advisories.about("libtext", &bookworm(), "1.2-2");
    let first = &about["CVE-2026-1"];
    assert_eq!((words(Some(first)), first.severity), ("not affected".to_owned(), Severity::Critical));
    assert_eq!(words(about.get("CVE-2026-2")), "vulnerable until 2-1", "one that does not know leaves it to the next");
}

#[test]
fn what_is_no_feed_is_refused_with_the_reason() {
    for (text, cause) in [
        ("", "EOF"),
        ("<html>", "expected value"),
        ("{}", "says nothing"),
        ("[]", "invalid type"),
        ("{\"a\":{\"CVE-1\":{\"releases\":{\"b\":{\"status\":\"open\"}}}}", "EOF"),
        ("{\"../a\":{\"CVE-1\":{\"releases\":{\"b\":{\"status\":\"open\"}}}}}", "no source package's name"),
        ("{\"a\":{\"C\\u0000\":{\"releases\":{\"b\":{\"status\":\"open\"}}}}}", "no CVE's name"),
        (
            "{\"a\":{\"CVE-1\":{\"releases\":{\"b\":{\"status\":\"resolved\",\"fixed_version\":\"x y\"}}}}}",
            "no version",
        ),
        ("{\"a\":{\"CVE-1\":{\"releases\":{}}}}", "says nothing"),
    ] {
        let error = format!("{:#}", tracker::read(text.as_bytes()).unwrap_err());
        assert!(error.contains(cause), "{text}: {error}");
    }
    for (text, cause) in
        [("", "empty"), ("[", "EOF"), ("[]", "says nothing"), ("{\"id\":1}", "invalid type"), ("PKxx", "no zip")]
    {
        let error = format!("{:#}", osv::read(text.as_bytes()).unwrap_err());
        assert!(error.contains(cause), "{text}: {error}");
    }
    let many: String = (0..70).map(|at| format!("\"r{at}\":{{\"status\":\"open\"}}")).collect::<Vec<_>>().join(",");
    let error = tracker::read(format!("{{\"a\":{{\"CVE-1\":{{\"releases\":{{{many}}}}}}}}}").as_bytes()).unwrap_err();
    assert!(error.to_string().contains("more than 64 releases"), "{error}");
}

struct Bench {
    dir: tempfile::TempDir,
    server: Server,
    feeds: Feeds,
    fetcher: Fetcher,
}

impl Bench {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let web = crate::web::Web::new(&ProxyConfig { url: "none".into(), ..ProxyConfig::default() }, None).unwrap();
        let fetcher = Fetcher::new(&web).unwrap().with_patience(Duration::from_secs(2));
        Self { server, feeds: Feeds::new(dir.path().join("feeds")), fetcher, dir }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    fn add(&self, kind: FeedKind, url: &str) -> Feed {
        self.feeds.add(NewFeed { name: "feed".into(), kind, url: url.into(), every_s: None }).unwrap()
    }

    async fn refresh(&self, feed: &Feed) -> Result<(), String> {
        feed.refresh(&self.fetcher, Wall(1), &Progress::default()).await.map_err(|error| format!("{error:#}"))
    }

    fn verdict(&self) -> String {
        let advisories = self.feeds.read(&BTreeSet::from([source(0)])).unwrap();
        words(advisories.about(&source(0), &bookworm(), "1.2-2").get(&*cve(0)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_is_asked_with_what_it_said_and_a_bad_one_leaves_the_last_good_one() {
    let bench = Bench::new();
    bench.put("tracker.json", tracker_file().as_bytes());
    let feed = bench.add(FeedKind::DebianTracker, &format!("{}/tracker.json", bench.server.url()));
    assert_eq!(bench.verdict(), "unknown");
    bench.refresh(&feed).await.unwrap();
    assert_eq!(
        (feed.state().sources, feed.state().cves, bench.verdict().as_str()),
        (200, 200, "vulnerable until 1.2-3")
    );
    bench.server.asked();
    bench.refresh(&feed).await.unwrap();
    let asked = bench.server.asked();
    assert_eq!((asked.len(), asked[0].status), (1, 304), "one conditional request");

    // It changes, and each time something is wrong with it.
    let changed = tracker_file().replace("1.2-3", "1.2-4");
    bench.put("tracker.json", changed.as_bytes());
    for (fault, cause) in [
        (Fault::Page, "web page"),
        (Fault::Cut(changed.len() / 2), "broke off"),
        (Fault::Status(503), "in trouble"),
        (Fault::Damaged, "is not taken"),
    ] {
        bench.server.fail("tracker.json", fault.clone(), 1);
        let error = bench.refresh(&feed).await.unwrap_err();
        assert!(error.contains(cause), "{fault:?}: {error}");
        assert!(feed.state().error.unwrap().contains(cause));
        assert_eq!(bench.verdict(), "vulnerable until 1.2-3", "{fault:?}");
    }
    bench.put("tracker.json", b"{\"a\":{}}");
    let error = bench.refresh(&feed).await.unwrap_err();
    assert!(error.contains("says nothing about any package"), "{error}");
    assert_eq!((bench.verdict().as_str(), feed.state().sources), ("vulnerable until 1.2-3", 200));
    bench.put("tracker.json", changed.as_bytes());
    bench.refresh(&feed).await.unwrap();
    assert_eq!((bench.verdict().as_str(), feed.state().error), ("vulnerable until 1.2-4", None));
    let left: Vec<String> = fs::read_dir(bench.dir.path().join("feeds/feed"))
        .unwrap()
        .map(|of| of.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left.len(), 3, "{left:?}");
    bench.feeds.remove("feed").unwrap();
    assert_eq!(bench.verdict(), "unknown");
    assert!(bench.feeds.named("feed").unwrap_err().to_string().contains("sync feed add"));
}

#[tokio::test]
async fn a_feed_may_be_a_file_and_compressed_and_what_is_no_place_is_refused() {
    let bench = Bench::new();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(records().join("\n").as_bytes()).unwrap();
    bench.put("osv.json.gz", &packer.finish().unwrap());
    let feed = bench.add(FeedKind::Osv, &format!("file:{}/osv.json.gz", bench.dir.path().display()));
    bench.refresh(&feed).await.unwrap();
    assert_eq!((feed.state().sources, feed.state().cves), (1, 6));
    let before = fs::metadata(bench.dir.path().join("feeds/feed/advisories")).unwrap().modified().unwrap();
    bench.refresh(&feed).await.unwrap();
    let after = fs::metadata(bench.dir.path().join("feeds/feed/advisories")).unwrap().modified().unwrap();
    assert_eq!(before, after, "a file that has not changed is not read again");
    let other = bench.add(FeedKind::DebianTracker, &feed.settings.url);
    assert!(bench.refresh(&other).await.unwrap_err().contains("the other kind is osv"));

    for (url, cause) in [
        ("http://x/", "names no file"),
        ("ftp://x/y", "http://"),
        ("file:y/z", "absolute path"),
        ("http://me:secret@x/y", "password"),
    ] {
        let new = NewFeed { name: "x".into(), kind: FeedKind::Osv, url: url.into(), every_s: None };
        let error = bench.feeds.add(new).unwrap_err().to_string();
        assert!(error.contains(cause), "{url}: {error}");
    }
    for at in 0..MAX_FEEDS - 1 {
        let new = NewFeed { name: format!("f{at}"), kind: FeedKind::Osv, url: "file:/x/y".into(), every_s: None };
        bench.feeds.add(new).unwrap();
    }
    let more = NewFeed { name: "more".into(), kind: FeedKind::Osv, url: "file:/x/y".into(), every_s: None };
    assert!(bench.feeds.add(more).unwrap_err().to_string().contains("8 feeds are there"));
}

#[tokio::test]
async fn a_feed_without_end_is_given_up_within_its_bounds() {
    let bench = Bench::new();
    bench.put("long", &[b' '; 100_000]);
    let (mirror, file) = place(&format!("{}/long", bench.server.url())).unwrap();
    let to = bench.dir.path().join("to");
    let (nothing, progress) = (Validators::default(), Progress::default());
    let fetch = |bounds| bench.fetcher.whole(&mirror, &file, &nothing, bounds, &to, &progress);
    let error = fetch((99_999, Duration::from_secs(10))).await.unwrap_err().to_string();
    assert!(error.contains("more than the 99999 bytes"), "{error}");
    bench.server.fail("long", Fault::Silent, 1);
    let error = fetch((100_000, Duration::from_millis(200))).await.unwrap_err().to_string();
    assert!(error.contains("not here after"), "{error}");
    assert!(fetch((100_000, Duration::from_secs(10))).await.unwrap().is_some());
}
