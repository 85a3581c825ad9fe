//! A coordinator that drafts something else than what was asked for gets no signature, and no key is unlocked for it.

mod targeting;

use ed25519_dalek::SigningKey;
use upswarm_protocol::catalog::{Detect, HeldKey, Keys, PublisherRule, Recipe, Ring, RingPlan, Schedule, Severity};
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::ids::{DeviceId, DocHash, ReleaseId};
use upswarm_protocol::keyring::Holder;
use upswarm_protocol::trust::verify_rule;

use super::known::{KNOWN_GROUPS, KNOWN_MACHINES};
use super::*;
use crate::api::approvals::Preview;
use crate::api::devices::DeviceName;
use crate::api::groups::{GroupDraft, NewGroup};
use crate::api::roots::AskedApproval;
use crate::api::rules::NewRepositoryRule;
use crate::api::schedule::ScheduleArgs;
use crate::coordinator::admin::root::{RoleName, RootChange, next};
use crate::coordinator::keys;

const NOW: Wall = Wall(1_800_000_000_000);
const GROUP: GroupId = GroupId([7; 16]);
const DAY: Duration = Duration::from_secs(86_400);

struct Bench {
    dir: tempfile::TempDir,
    root_keys: Vec<SigningKey>,
    publisher: SigningKey,
    approver: SigningKey,
    root: Root,
    roots: Vec<Vec<u8>>,
    release: Vec<u8>,
    id: ReleaseId,
}

fn key_set(keys: &[&SigningKey], threshold: u8) -> Keys {
    let held = |key: &&SigningKey| HeldKey { key: keys::public(key), holder: holder_of(key) };
    Keys { keys: Bounded::new(keys.iter().map(held).collect()).unwrap(), threshold }
}

fn holder_of(key: &SigningKey) -> Holder {
    Text::lossy(&format!("holder of {}", keys::public(key).short()))
}

/// Keys in a directory of their own, as a signer has them: no data directory, no coordinator.
fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let key = |r#use, number| {
        let key = keys::generate().unwrap();
        let path = keys::file(dir.path(), r#use, number);
        keys::write(&path, r#use, keys::public(&key), &key.to_bytes(), None).unwrap();
        key
    };
    let root_keys = vec![key(KeyUse::Root, 1), key(KeyUse::Root, 2), keys::generate().unwrap()];
    let (publisher, approver) = (key(KeyUse::Publisher, 1), key(KeyUse::Approver, 1));
    let rule = PublisherRule { product_prefix: Text::lossy("org.example"), keys: key_set(&[&publisher], 1) };
    let root = Root {
        version: 1,
        issued: NOW - DAY,
        expires: NOW + 300 * DAY,
        root: key_set(&root_keys.iter().collect::<Vec<_>>(), 2),
        publishers: Bounded::new(vec![rule]).unwrap(),
        approvers: key_set(&[&approver], 1),
        targeting: None,
        group_rules: Bounded::default(),
        upstreams: Bounded::default(),
        online: key_set(&[&keys::generate().unwrap()], 1),
        report_key: [9; 32],
    };
    let first = envelope::sign(Kind::Root, Role::Root, &root, &[&root_keys[0], &root_keys[1]]).unwrap();
    Anchor::new(dir.path(), DocHash::of(&first)).write().unwrap();
    let (release, id) = published(&release("org.example.editor", "2.1"), &publisher);
    Bench { dir, root_keys, publisher, approver, root, roots: vec![first], release, id }
}

fn published(release: &Release, publisher: &SigningKey) -> (Vec<u8>, ReleaseId) {
    let body = codec::encode(release, Kind::Release.cap()).unwrap();
    let bytes = envelope::sign_body(Kind::Release, Role::Publisher, &body, &[publisher]).unwrap();
    (bytes, ReleaseId::of(&body))
}

fn release(product: &str, version: &str) -> Release {
    Release {
        product: Text::lossy(product),
        version: Text::lossy(version),
        counter: 1,
        title: Text::lossy("Editor"),
        classification: upswarm_protocol::catalog::Classification::Update,
        severity: upswarm_protocol::catalog::Severity::Unspecified,
        cves: Bounded::default(),
        issued: NOW,
        expires: NOW + LIFE,
        platform: upswarm_protocol::catalog::Platform::default(),
        payloads: Bounded::default(),
        applicability: Bounded::default(),
        detect: Bounded::new(vec![Detect::FileExists { path: Text::lossy("/usr/bin/editor") }]).unwrap(),
        install: Recipe::Exec {
            argv: Bounded::new(vec![Text::lossy("/usr/bin/setup"), Text::lossy("--quiet")]).unwrap(),
            exit_codes: Bounded::default(),
            timeout_s: 60,
        },
        uninstall: None,
        restart: upswarm_protocol::catalog::RestartPolicy::Never,
        depends: Bounded::default(),
        supersedes: Bounded::default(),
    }
}

fn draft(intent: Intent) -> ApprovalDraft {
    ApprovalDraft {
        release: "editor@2.1".to_owned(),
        group: "office".to_owned(),
        intent,
        zone: "UTC".to_owned(),
        allow_empty: false,
    }
}

fn install() -> Intent {
    Intent::Decide { action: Action::Install, schedule: Box::new(ScheduleArgs::default()), back: false }
}

fn preview(id: ReleaseId) -> Preview {
    Preview {
        release: id,
        product: String::new(),
        version: String::new(),
        group: String::new(),
        group_id: GROUP,
        action: Action::Install,
        replaces: 0,
        devices: 0,
        required: 0,
        already: 0,
        not_applicable: 0,
        zones: 0,
        zone: String::new(),
        stop_above_percent: 0.0,
        rings: Vec::new(),
        left_out: Vec::new(),
        held_by: Vec::new(),
        questions: Vec::new(),
    }
}

impl Bench {
    fn approval(&self) -> Approval {
        ScheduleArgs::default().approval((GROUP, self.id), 1, Action::Install, NOW).unwrap()
    }

    fn request(&self, approval: &Approval) -> SigningRequest {
        SigningRequest {
            body: HexBytes(codec::encode(approval, Kind::Approval.cap()).unwrap()),
            release: HexBytes(self.release.clone()),
            replaces: None,
            group: None,
            metadata: Vec::new(),
            preview: preview(self.id),
        }
    }

    fn place(&self, r#use: KeyUse) -> KeyPlace {
        KeyPlace::given(self.dir.path().to_owned(), r#use, None, None)
    }

    fn file(&self, asked: Asked) -> RequestFile {
        RequestFile::new(self.roots.iter().cloned().map(HexBytes).collect(), asked)
    }

    fn check(&self, file: RequestFile) -> Result<Checked, String> {
        let place = self.place(file.key_use());
        check(file, &place, Carried::InAFile, NOW).map_err(|error| error.to_string())
    }

    fn check_approval(&self, request: &SigningRequest, intent: Intent) -> Result<Checked, String> {
        let asked = AskedApproval { draft: draft(intent), request: request.clone() };
        self.check(self.file(Asked::Approval(Box::new(asked))))
    }

    fn sign(&self, request: &SigningRequest, intent: Intent) -> Result<SignedDocument, String> {
        let checked = self.check_approval(request, intent)?;
        let signed = checked.sign(&self.place(KeyUse::Approver)).map_err(|error| error.to_string())?;
        signed.complete().map_err(|error| error.to_string())
    }

    /// The next root, signed by these root keys.
    fn grow(&mut self, change: &RootChange, by: &[&SigningKey]) {
        let next = next(&self.root, change, NOW).unwrap();
        self.roots.push(envelope::sign(Kind::Root, Role::Root, &next, by).unwrap());
        self.root = next;
    }
}

#[test]
fn what_was_asked_for_is_shown_and_signed_byte_for_byte() {
    let bench = bench();
    let request = bench.request(&bench.approval());
    let words = bench.check_approval(&request, install()).unwrap().words;
    for said in ["Install, version 1", "org.example.editor 2.1", "\"/usr/bin/setup\" \"--quiet\"", "first time"] {
        assert!(words.contains(said), "{said} is missing in:\n{words}");
    }
    let SignedDocument(bytes) = bench.sign(&request, install()).unwrap();
    let envelope = Envelope::parse(&bytes, Kind::Approval, Role::Approver).unwrap();
    assert_eq!(envelope.verify_one(&[keys::public(&bench.approver)]).unwrap().body(), request.body.0);
    assert!(bench.check_approval(&request, install()).unwrap().words.contains("as before"), "the group is known now");
}

type Tamper = fn(&mut Approval);

/// apt believes each key of a source alone: where a root wants two approvers, one key must not be enough for any byte.
#[test]
fn a_repository_for_machines_without_an_agent_is_signed_only_where_one_approver_is_enough() {
    let bench = bench();
    let (mut root, approval) = (bench.root.clone(), bench.approval());
    let (_, of) = verify_release(&root, &bench.release).unwrap();
    let said = |root: &Root, group: GroupId| {
        let repository = Repository::of(&[approvers_of(root, &group)]);
        let named = words::Group { name: "office", first_time: false, described: None };
        (repository, words::approval(&approval, &of, &named, (None, Some(repository)), &preview(bench.id)))
    };
    let (repository, text) = said(&root, GROUP);
    assert_eq!(repository, Repository::Signed);
    assert!(text.contains("signed by your repository key alone"), "{text}");
    let rule = upswarm_protocol::catalog::GroupRule { group: GROUP, threshold: 2 };
    root.group_rules = Bounded::new(vec![rule]).unwrap();
    let (repository, text) = said(&root, GROUP);
    assert_eq!(repository, Repository::WantsMoreThanOne);
    assert!(text.contains("none for machines without an agent") && text.contains("more than one must sign"), "{text}");
    assert_eq!(said(&root, GroupId([8; 16])).0, Repository::Signed);
    root.approvers.threshold = 2;
    assert_eq!(said(&root, GroupId([8; 16])).0, Repository::WantsMoreThanOne);
}

#[test]
fn a_draft_that_says_something_else_is_refused_before_any_key_is_unlocked() {
    let bench = bench();
    // No key can be unlocked: what is refused is refused by what can be read without.
    let path = keys::file(bench.dir.path(), KeyUse::Approver, 1);
    let locked = std::fs::read_to_string(&path).unwrap();
    let secret = hex::encode(bench.approver.to_bytes());
    std::fs::write(&path, locked.replace(&secret, &"0".repeat(64))).unwrap();
    let ring = RingPlan { rings: Bounded::new(vec![Ring { up_to: 100, delay_s: 0 }]).unwrap(), stop_above: 0 };
    let changes: [(&str, Tamper); 9] = [
        ("action", |a| a.action = Action::Uninstall),
        ("declined", |a| a.action = Action::None),
        ("expedited", |a| a.schedule.expedite = true),
        ("brought forward", |a| a.schedule.deadline = Some(NOW + Duration::from_secs(1))),
        ("life", |a| a.expires = a.expires + DAY),
        ("note", |a| a.note = Text::lossy("x")),
        ("version", |a| a.version = u64::MAX),
        ("release", |a| a.release = ReleaseId([9; 32])),
        ("date", |a| {
            a.issued = NOW + Duration::from_secs(3600);
            a.expires = a.issued + LIFE;
        }),
    ];
    for (what, change) in changes {
        let mut approval = bench.approval();
        change(&mut approval);
        let error = bench.check_approval(&bench.request(&approval), install()).err().unwrap();
        assert!(error.contains("nothing was signed"), "{what}: {error}");
    }
    let mut approval = bench.approval();
    approval.rings = ring;
    assert!(bench.check_approval(&bench.request(&approval), install()).is_err(), "rings");
    let mut request = bench.request(&bench.approval());
    request.body.0.push(0);
    assert!(bench.check_approval(&request, install()).is_err(), "trailing bytes");
    // Another release under the name that was asked for, by the publisher or by a stranger.
    let other = published(&release("org.example.backdoor", "2.1"), &bench.publisher);
    let forged = published(&release("org.example.editor", "2.1"), &keys::generate().unwrap());
    for ((bytes, id), cause) in [(other, "org.example.backdoor@2.1"), (forged, "0 valid signatures")] {
        let mut approval = bench.approval();
        approval.release = id;
        let mut request = bench.request(&approval);
        request.release = HexBytes(bytes);
        let error = bench.check_approval(&request, install()).err().unwrap();
        assert!(error.contains(cause), "{error}");
    }
    // What is as it should be gets as far as the key, which is no key.
    let error = bench.sign(&bench.request(&bench.approval()), install()).unwrap_err();
    assert!(error.contains("damaged"), "{error}");
}

#[test]
fn a_group_keeps_the_number_that_was_first_signed_for() {
    let bench = bench();
    bench.sign(&bench.request(&bench.approval()), install()).unwrap();
    let mut approval = bench.approval();
    approval.group = GroupId([8; 16]);
    let error = bench.sign(&bench.request(&approval), install()).unwrap_err();
    assert!(error.contains("known-groups.json"), "{error}");
    std::fs::remove_file(bench.dir.path().join(KNOWN_GROUPS)).unwrap();
    bench.sign(&bench.request(&approval), install()).unwrap();
}

#[test]
fn expediting_rests_on_an_approval_that_these_keys_have_signed() {
    let bench = bench();
    let mut before = bench.approval();
    before.schedule = Schedule { jitter_s: 60, deadline: Some(NOW - Duration::from_secs(5)), ..Schedule::default() };
    let mut after = before.clone();
    (after.version, after.schedule.expedite, after.schedule.deadline) = (2, true, None);
    let signed_by =
        |key: &SigningKey| HexBytes(envelope::sign(Kind::Approval, Role::Approver, &before, &[key]).unwrap());
    let mut request = bench.request(&after);
    request.replaces = Some(signed_by(&bench.approver));
    bench.sign(&request, Intent::Expedite).unwrap();
    // The same from a stranger, and with the action turned.
    request.replaces = Some(signed_by(&keys::generate().unwrap()));
    assert!(bench.sign(&request, Intent::Expedite).unwrap_err().contains("other keys"));
    after.action = Action::Uninstall;
    let mut request = bench.request(&after);
    request.replaces = Some(signed_by(&bench.approver));
    assert!(bench.sign(&request, Intent::Expedite).is_err());
    let mut declined = bench.approval();
    (declined.action, declined.version, declined.note) = (Action::None, 2, Text::lossy("breaks"));
    let mut request = bench.request(&declined);
    request.replaces = Some(signed_by(&bench.approver));
    bench.sign(&request, Intent::Decline { note: "breaks".to_owned() }).unwrap();
    assert!(bench.sign(&request, Intent::Decline { note: String::new() }).is_err());
    // Version 2 is signed: a coordinator that hides it cannot have version 1 signed again.
    let error = bench.sign(&bench.request(&bench.approval()), install()).unwrap_err();
    assert!(error.contains("these keys have signed version 2"), "{error}");
}

#[test]
fn no_draft_makes_itself_final() {
    let bench = bench();
    let forger = keys::generate().unwrap();
    // An approval that claims to replace one of a version that nobody signed.
    let after = |last: u64, by: &SigningKey| {
        let before = Approval { version: last, ..bench.approval() };
        let next = Approval { version: last.saturating_add(1), ..bench.approval() };
        let mut request = bench.request(&next);
        request.replaces = Some(HexBytes(envelope::sign(Kind::Approval, Role::Approver, &before, &[by]).unwrap()));
        request
    };
    for last in [MAX_LEAP, 1 << 32, MAX_VERSION - 1, u64::MAX - 1, u64::MAX] {
        let reason = bench.check_approval(&after(last, &forger), install()).err().unwrap();
        assert!(reason.contains("its version is"), "{last}: {reason}");
    }
    // What was signed before, however high, has a next one, up to an end that none reaches.
    bench.sign(&after(1 << 32, &bench.approver), install()).unwrap();
    bench.check_approval(&after(MAX_VERSION - 1, &bench.approver), install()).unwrap();
    let reason = bench.check_approval(&after(MAX_VERSION, &bench.approver), install()).err().unwrap();
    assert!(reason.contains("skips versions"), "{reason}");
    // Whose signer is trusted no more is replaced all the same, counted from what these keys have signed.
    bench.sign(&after((1 << 32) + 1, &forger), install()).unwrap();
    let reason = bench.check_approval(&after(1 << 33, &forger), install()).err().unwrap();
    assert!(reason.contains("the newest that is proven here is 4294967298"), "{reason}");

    let group = |version: u64, before: Option<Vec<u8>>| {
        let document =
            GroupDocument { group: GROUP, version, name: Text::lossy("office"), issued: NOW, members: Members::Listed };
        let body = HexBytes(codec::encode(&document, Kind::Group.cap()).unwrap());
        let members = Some(Belong::Coordinator);
        let wanted = NewGroup { group: "office".to_owned(), members, ..NewGroup::default() };
        let draft = GroupDraft { body, list: None, before: before.map(HexBytes) };
        bench.check(bench.file(Asked::Group(Box::new(AskedGroup { wanted, draft }))))
    };
    let high = described(&bench, 1 << 32, "office", Members::Listed);
    assert!(group(1 << 32, None).err().unwrap().contains("skips versions"));
    group((1 << 32) + 1, Some(high)).unwrap().sign(&bench.place(KeyUse::Approver)).unwrap();
    group((1 << 32) + 2, None).unwrap();

    let rules = |last: u64, by: &SigningKey| {
        let rule = crate::api::rules::NewRule {
            group: "office".to_owned(),
            classification: Vec::new(),
            min_severity: None,
            product: String::new(),
            schedule: ScheduleArgs::default(),
        };
        let first = RuleSet::default().changed(&RuleChange::Add(Box::new(rule)), NOW).unwrap();
        let before = RuleSet { version: last, ..first };
        let next = before.changed(&RuleChange::Keep, NOW).unwrap();
        let signed = envelope::sign_body(Kind::Rules, Role::Approver, &before.to_body(), &[by]).unwrap();
        let (before, body) = (Some(HexBytes(signed)), HexBytes(next.to_body()));
        bench.check(bench.file(Asked::Rules(Box::new(AskedRules { change: RuleChange::Keep, before, body }))))
    };
    for last in [1 << 32, u64::MAX - 1, u64::MAX] {
        assert!(rules(last, &forger).err().unwrap().contains("skips versions"), "{last}");
    }
    rules(7, &forger).unwrap();
    rules(1 << 32, &bench.approver).unwrap();
}

#[test]
fn the_roots_are_walked_from_the_one_that_the_keys_know() {
    let mut bench = bench();
    let request = bench.request(&bench.approval());
    let asked = || {
        let asked = AskedApproval { draft: draft(install()), request: request.clone() };
        Asked::Approval(Box::new(asked))
    };
    let old = bench.file(asked());
    let by: Vec<SigningKey> = bench.root_keys.clone();
    bench.grow(&RootChange::Renew(700 * DAY), &[&by[0], &by[2]]);
    bench.sign(&request, install()).unwrap();
    let error = bench.check(old).err().unwrap();
    assert!(error.contains("is not among"), "the second root has been seen: {error}");
    // A coordinator's own root, signed by nobody, or a deployment of its own.
    bench.grow(&RootChange::Renew(800 * DAY), &[&by[0]]);
    let error = bench.check(bench.file(asked())).err().unwrap();
    assert!(error.contains("1 valid signatures by distinct holders of trusted keys, 2 are needed"), "{error}");
    let stranger = self::bench();
    let mut file = bench.file(asked());
    file.roots = stranger.roots.iter().cloned().map(HexBytes).collect();
    assert!(bench.check(file).err().unwrap().contains("is not among"));
    // Without an anchor nothing is believed, unless the holder names the root.
    std::fs::remove_file(bench.dir.path().join("anchor.json")).unwrap();
    bench.roots.truncate(2);
    let mut place = bench.place(KeyUse::Approver);
    let error = check(bench.file(asked()), &place, Carried::InAFile, NOW).err().unwrap().to_string();
    assert!(error.contains("--anchor"), "{error}");
    place.anchor = Some(DocHash::of(&bench.roots[1]));
    check(bench.file(asked()), &place, Carried::InAFile, NOW).unwrap();
}

#[test]
fn a_root_is_shown_by_what_changes_and_signed_by_one_place_after_the_other() {
    let bench = bench();
    let newcomer = keys::generate().unwrap();
    let held = HeldKey { key: keys::public(&newcomer), holder: holder_of(&newcomer) };
    let next_root = next(&bench.root, &RootChange::Add(RoleName::Approver, None, held.clone()), NOW).unwrap();
    let body = codec::encode(&next_root, Kind::Root.cap()).unwrap();
    // Here is the first of the root keys, elsewhere the second.
    let elsewhere = tempfile::tempdir().unwrap();
    for name in ["anchor.json", "root-2.key"] {
        std::fs::rename(bench.dir.path().join(name), elsewhere.path().join(name)).unwrap();
    }
    std::fs::copy(elsewhere.path().join("anchor.json"), bench.dir.path().join("anchor.json")).unwrap();
    let checked = bench.check(bench.file(Asked::Root(HexBytes(body.clone())))).unwrap();
    assert!(checked.words.contains(&format!("approvers: + {} ({})", held.key, held.holder)), "{}", checked.words);
    let signed = checked.sign(&bench.place(KeyUse::Root)).unwrap();
    assert_eq!(signed.lacks, 1);
    assert!(signed.complete().err().unwrap().to_string().contains("1 more must sign"));
    let mut place = bench.place(KeyUse::Root);
    place.dir = elsewhere.path().to_owned();
    let file: RequestFile = serde_json::from_slice(&serde_json::to_vec(&signed.file).unwrap()).unwrap();
    let both = check(file, &place, Carried::InAFile, NOW).unwrap().sign(&place).unwrap();
    let SignedDocument(bytes) = both.complete().unwrap();
    let envelope = Envelope::parse(&bytes, Kind::Root, Role::Root).unwrap();
    assert_eq!(envelope.verify(&next_root.root).unwrap().body(), body);

    // Signatures around other bytes are not added to.
    let mut swapped = signed.file.clone();
    let other = next(&bench.root, &RootChange::Renew(700 * DAY), NOW).unwrap();
    swapped.asked = Asked::Root(HexBytes(codec::encode(&other, Kind::Root.cap()).unwrap()));
    let error = check(swapped, &place, Carried::InAFile, NOW).err().unwrap().to_string();
    assert!(error.contains("around other bytes"), "{error}");
    // A root that skips one, or that no machine would take.
    for (bad, cause) in [
        (Root { version: 3, ..other.clone() }, "today's root is version 1"),
        (Root { online: other.approvers.clone(), ..other.clone() }, "keys of its own"),
        (Root { issued: NOW - 40 * DAY, ..other }, "it is dated"),
    ] {
        let bytes = codec::encode(&bad, Kind::Root.cap()).unwrap();
        let error = bench.check(bench.file(Asked::Root(HexBytes(bytes)))).err().unwrap();
        assert!(error.contains(cause), "{error}");
    }
}

#[test]
fn what_a_release_says_does_not_turn_the_words_around_it() {
    let bench = bench();
    let hostile = "a\u{202e}b\u{2066}c\u{200b}d";
    let mut release = release("org.example.editor", "1");
    release.title = Text::lossy(hostile);
    release.detect = Bounded::new(vec![Detect::FileContains {
        path: Text::lossy(&format!("/etc/{hostile}")),
        text: Text::lossy(hostile),
    }])
    .unwrap();
    release.install = Recipe::Exec {
        argv: Bounded::new(vec![Text::lossy("/bin/sh"), Text::lossy(hostile)]).unwrap(),
        exit_codes: Bounded::default(),
        timeout_s: 60,
    };
    let words = words::release(&release);
    assert!(words.contains("title       a\\u{202e}b\\u{2066}c\\u{200b}d\n"), "{words}");
    assert!(!words.chars().any(|c| crate::text::is_hostile(c) && c != '\n'), "{words}");
    let mut approval = bench.approval();
    approval.note = Text::lossy(hostile);
    let declined = Intent::Decline { note: hostile.to_owned() };
    (approval.action, approval.rings, approval.schedule) = (Action::None, Default::default(), Default::default());
    let words = bench.check_approval(&bench.request(&approval), declined).unwrap().words;
    assert!(words.contains("remark      a\\u{202e}b") && !words.contains('\u{202e}'), "{words}");
}

#[test]
fn a_release_is_signed_by_the_publisher_of_its_product_alone() {
    let bench = bench();
    let file = |product: &str| {
        let body = codec::encode(&release(product, "1"), Kind::Release.cap()).unwrap();
        bench.file(Asked::Release(HexBytes(body)))
    };
    let signed = bench.check(file("org.example.editor")).unwrap().sign(&bench.place(KeyUse::Publisher)).unwrap();
    verify_release(&bench.root, &signed.complete().unwrap().0).unwrap();
    assert!(bench.check(file("com.other.editor")).err().unwrap().contains("no publisher"));
    std::fs::remove_file(keys::file(bench.dir.path(), KeyUse::Publisher, 1)).unwrap();
    let stranger = keys::generate().unwrap();
    let path = keys::file(bench.dir.path(), KeyUse::Publisher, 2);
    keys::write(&path, KeyUse::Publisher, keys::public(&stranger), &stranger.to_bytes(), None).unwrap();
    assert!(bench.check(file("org.example.editor")).err().unwrap().contains("may sign this"));
}

fn described(bench: &Bench, version: u64, name: &str, members: Members) -> Vec<u8> {
    let group = GroupDocument { group: GROUP, version, name: Text::lossy(name), issued: NOW - DAY, members };
    envelope::sign(Kind::Group, Role::Approver, &group, &[&bench.approver]).unwrap()
}

#[test]
fn the_group_that_a_person_reads_is_the_one_that_approvers_described() {
    let bench = bench();
    let rule = Members::Rule(Bounded::new(vec![Text::lossy("os.id=debian")]).unwrap());
    let of = |group: Vec<u8>, group_version: u64| {
        let approval = Approval { group_version, ..bench.approval() };
        SigningRequest { group: Some(HexBytes(group)), ..bench.request(&approval) }
    };
    let good = of(described(&bench, 2, "office", rule.clone()), 2);
    let words = bench.check_approval(&good, install()).unwrap().words;
    assert!(words.contains("machines where os.id=debian") && words.contains("as approvers signed"), "{words}");
    // Without a document it is the coordinator's word, and is said to be that.
    let without = bench.request(&bench.approval());
    let words = bench.check_approval(&without, install()).unwrap().words;
    assert!(words.contains("whichever machines the coordinator puts into it"), "{words}");
    bench.sign(&good, install()).unwrap();
    // Keys that have seen one are not shown the group without it, or with an older one.
    for hidden in [without, of(described(&bench, 1, "office", Members::Listed), 1)] {
        let reason = bench.sign(&hidden, install()).unwrap_err();
        assert!(reason.contains("these keys know version 2"), "{reason}");
    }

    let stranger = keys::generate().unwrap();
    let document =
        GroupDocument { group: GROUP, version: 2, name: Text::lossy("office"), issued: NOW, members: rule.clone() };
    let forged = envelope::sign(Kind::Group, Role::Approver, &document, &[&stranger]).unwrap();
    let other = GroupDocument { group: GroupId([8; 16]), ..document };
    let other = envelope::sign(Kind::Group, Role::Approver, &other, &[&bench.approver]).unwrap();
    for (group, version, cause) in [
        (forged, 2, "the group's document"),
        (other, 2, "it is for the group"),
        (described(&bench, 2, "servers", rule.clone()), 2, "it is for the group \"servers\""),
        (described(&bench, 2, "office", rule.clone()), 1, "asked for"),
        (described(&bench, 2, "office", rule), 0, "asked for"),
    ] {
        let reason = bench.sign(&of(group, version), install()).unwrap_err();
        assert!(reason.contains(cause), "{cause}: {reason}");
    }
}

#[test]
fn a_rule_about_a_repository_is_signed_as_it_was_asked_for() {
    let mut bench = bench();
    let by: Vec<SigningKey> = bench.root_keys.clone();
    let asked = NewRepositoryRule {
        upstream: "debian".to_owned(),
        group: "office".to_owned(),
        sources: vec!["openssl".to_owned(), "curl".to_owned()],
        min_severity: Some(Severity::Important),
        schedule: ScheduleArgs::default(),
        counts_s: 90 * 86_400,
    };
    let drafted = |rule: &ApprovalRule, group: Option<Vec<u8>>| {
        let body = HexBytes(codec::encode(rule, Kind::RepositoryRule.cap()).unwrap());
        Asked::RepositoryRule(Box::new(RuleDraft { asked: asked.clone(), body, group: group.map(HexBytes) }))
    };
    let plain = asked.rule(3, (GROUP, 0), NOW).unwrap();
    let unpinned = bench.check(bench.file(drafted(&plain, None))).err().unwrap();
    assert!(unpinned.contains("the root names no repository debian"), "{unpinned}");
    let pin = RootChange::Pin(vec![("debian".to_owned(), DocHash([4; 32]))], keys::public(&keys::generate().unwrap()));
    bench.grow(&pin, &[&by[0], &by[1]]);
    let words = bench.check(bench.file(drafted(&plain, None))).unwrap().words;
    for said in ["r3", "only curl, openssl", "Important or worse", "first time", "whichever machines the coordinator"] {
        assert!(words.contains(said), "{said} is missing in:\n{words}");
    }

    let members = Members::Rule(Bounded::new(vec![Text::lossy("os.id=debian")]).unwrap());
    let of = |version| described(&bench, version, "office", members.clone());
    let rule = ApprovalRule { group_version: 2, ..plain.clone() };
    let checked = bench.check(bench.file(drafted(&rule, Some(of(2))))).unwrap();
    assert!(checked.words.contains("machines where os.id=debian"), "{}", checked.words);
    let signed = checked.sign(&bench.place(KeyUse::Approver)).unwrap().complete().unwrap();
    assert_eq!(verify_rule(&bench.root, &signed.0).unwrap(), rule);
    // These keys have seen version 2: no earlier one is signed for, and none is left out.
    for hidden in [drafted(&plain, None), drafted(&ApprovalRule { group_version: 1, ..plain.clone() }, Some(of(1)))] {
        let reason = bench.check(bench.file(hidden)).err().unwrap();
        assert!(reason.contains("these keys know version 2"), "{reason}");
    }
    // Anything else than was asked for.
    type Turn<'a> = &'a dyn Fn(&mut ApprovalRule);
    let turns: [Turn<'_>; 7] = [
        &|rule| rule.group_version = 1,
        &|rule| rule.sources = Bounded::default(),
        &|rule| rule.min_severity = Severity::Low,
        &|rule| rule.upstream = Text::lossy("other"),
        &|rule| rule.life_s += 1,
        &|rule| rule.expires = rule.expires + DAY,
        &|rule| rule.schedule.expedite = true,
    ];
    for turn in turns {
        let mut other = rule.clone();
        turn(&mut other);
        let reason = bench.check(bench.file(drafted(&other, Some(of(2))))).err().unwrap();
        assert!(reason.contains("asked for"), "{reason}");
    }
    let elsewhere = ApprovalRule { group: GroupId([8; 16]), ..rule };
    let reason = bench.check(bench.file(drafted(&elsewhere, Some(of(2))))).err().unwrap();
    assert!(reason.contains("it is for the group"), "{reason}");
}

#[test]
fn a_group_is_signed_as_it_was_asked_for() {
    let bench = bench();
    let named = |name: &str, seed: u8| DeviceName { device: DeviceId([seed; 32]), name: name.to_owned() };
    let list = ListDraft { secret: HexBytes(vec![3; 32]), devices: vec![named("pc-1", 1), named("pc-2", 2)] };
    let root = list.list().unwrap().tree().root();
    let rule = |text: &str| Members::Rule(Bounded::new(vec![Text::lossy(text)]).unwrap());
    let asked = |conditions: &[&str], members: Option<Belong>, said: Members, list: Option<ListDraft>| {
        let document =
            GroupDocument { group: GROUP, version: 1, name: Text::lossy("office"), issued: NOW, members: said };
        let conditions = conditions.iter().map(|text| (*text).to_owned()).collect();
        let wanted = NewGroup { group: "office".to_owned(), conditions, members, dry_run: false };
        let body = HexBytes(codec::encode(&document, Kind::Group.cap()).unwrap());
        bench.file(Asked::Group(Box::new(AskedGroup { wanted, draft: GroupDraft { body, list, before: None } })))
    };
    let signed = |file: RequestFile| {
        let checked = bench.check(file)?;
        let words = checked.words.clone();
        let signed = checked.sign(&bench.place(KeyUse::Approver)).unwrap();
        verify_group(&bench.root, &signed.complete().unwrap().0).unwrap();
        Ok::<_, String>(words)
    };
    let words = signed(asked(&[], Some(Belong::List), Members::List(root), Some(list.clone()))).unwrap();
    assert!(
        words.contains("2 machines of a signed list") && words.contains("pc-2 (020202020202020202020202)"),
        "{words}"
    );
    assert!(words.contains("coordinator's claim") && words.contains("no list of this group before"), "{words}");
    // The next list: pc-2 is another machine, the first one has another name, and pc-9 is new.
    let devices = vec![named("test-1", 1), named("pc-2", 7), named("pc-9", 9)];
    let next = ListDraft { devices, ..list.clone() };
    let of_next = Members::List(next.list().unwrap().tree().root());
    let words = signed(asked(&[], Some(Belong::List), of_next.clone(), Some(next.clone()))).unwrap();
    for said in [
        "pc-2 was the name of the key 020202020202020202020202 when you signed for it, and is that of 070707070707070707070707",
        "test-1 (010101010101010101010101) was called pc-1",
        "joins       pc-9 (0909",
        "leaves      pc-2 (0202",
    ] {
        assert!(words.contains(said), "{said} is missing in:\n{words}");
    }
    let words = signed(asked(&[], Some(Belong::List), of_next, Some(next))).unwrap();
    assert!(words.contains("the same machines") && !words.contains("WARNING"), "{words}");
    assert!(bench.dir.path().join(KNOWN_MACHINES).exists());
    signed(asked(&["os.id=debian"], None, rule("os.id=debian"), None)).unwrap();
    signed(asked(&[], Some(Belong::Coordinator), Members::Listed, None)).unwrap();
    // Another rule, a machine more than is shown, no rule at all, another name.
    let longer = ListDraft { devices: vec![named("pc-1", 1), named("pc-2", 2), named("pc-3", 3)], ..list.clone() };
    for (file, cause) in [
        (asked(&["os.id=debian"], None, rule("os.id=fedora"), None), "others than was said"),
        (asked(&["os.id=debian"], None, Members::Listed, None), "others than was said"),
        (
            asked(&[], Some(Belong::List), Members::List(longer.list().unwrap().tree().root()), Some(list.clone())),
            "others",
        ),
        (asked(&[], Some(Belong::List), Members::Listed, None), "its list is missing"),
        (asked(&[], None, Members::Listed, None), "nobody said"),
    ] {
        let reason = signed(file).unwrap_err();
        assert!(reason.contains(cause), "{cause}: {reason}");
    }
    let mut file = asked(&["os.id=debian"], None, rule("os.id=debian"), None);
    if let Asked::Group(asked) = &mut file.asked {
        asked.wanted.group = "servers".to_owned();
    }
    assert!(signed(file).unwrap_err().contains("\"servers\" was asked for"));
}
