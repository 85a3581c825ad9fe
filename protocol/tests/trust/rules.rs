//! Approvals that the online keys make by an approver's rule: exactly those, and nothing that anybody else has decided.

use ed25519_dalek::SigningKey;
use upswarm_protocol::catalog::*;
use upswarm_protocol::codec::Bounded;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::*;

use crate::common::*;

pub(crate) fn rule() -> ApprovalRule {
    ApprovalRule {
        number: 3,
        group: GROUP,
        group_version: 0,
        upstream: text("debian"),
        sources: list(vec![text("openssl"), text("curl")]),
        min_severity: Severity::Important,
        schedule: Schedule { jitter_s: 600, ..Schedule::default() },
        available_after_s: None,
        deadline_after_s: Some(86_400),
        rings: RingPlan {
            rings: list(vec![Ring { up_to: 1000, delay_s: 0 }, Ring { up_to: 10_000, delay_s: 3600 }]),
            stop_above: 200,
        },
        life_s: 30 * 86_400,
        issued: NOW - 2 * DAY,
        expires: NOW + 60 * DAY,
    }
}

fn signed(rule: &ApprovalRule, by: &[&SigningKey]) -> Vec<u8> {
    envelope::sign(Kind::RepositoryRule, Role::Approver, rule, by).unwrap()
}

/// What the online key makes of a rule's envelope and an approval.
fn ruled(approval: &Approval, rule: Vec<u8>, by: &SigningKey) -> Doc {
    let body = RuledApproval { approval: approval.clone(), rule: Bounded::new(rule).unwrap() };
    let bytes = envelope::sign(Kind::Approval, Role::Online, &body, &[by]).unwrap();
    Doc::new(Kind::Approval, approval.version, bytes, approval.release)
}

/// A snapshot that the rule covers: of yesterday.
fn covered() -> Release {
    let mut release = snapshot((NOW - DAY).0 + 1, &[("openssl", WhenAbsent::Never)]);
    release.severity = Severity::Important;
    release
}

struct Case {
    world: World,
    rule: ApprovalRule,
    release: Release,
    at: Wall,
    by: Vec<SigningKey>,
    online: SigningKey,
}

impl Case {
    fn new() -> Self {
        let world = World::new();
        let (by, online) = (vec![world.approvers[0].clone()], world.online[0].clone());
        Self { world, rule: rule(), release: covered(), at: NOW - HOUR, by, online }
    }

    fn documents(&self, change: impl FnOnce(&mut Approval)) -> [Doc; 2] {
        let release = self.world.publish(&self.release);
        let mut approval = self.rule.approval(release.release, self.at);
        change(&mut approval);
        let rule = signed(&self.rule, &self.by.iter().collect::<Vec<_>>());
        let approval = ruled(&approval, rule, &self.online);
        [release, approval]
    }

    fn verified(&self, change: impl FnOnce(&mut Approval)) -> Result<Approval, String> {
        let [release, approval] = self.documents(change);
        let pair = verify_pair(&self.world.root, &release.bytes, &approval.bytes, NOW);
        pair.map(|(_, _, approval)| approval).map_err(|error| error.to_string())
    }
}

#[test]
fn the_one_approval_that_a_rule_makes_is_believed_everywhere() {
    let case = Case::new();
    let approval = case.verified(|_| ()).unwrap();
    assert_eq!((approval.version, approval.action, approval.note.as_str()), (0, Action::Install, "by rule r3"));
    assert_eq!(approval.schedule.deadline, Some(case.at + DAY));
    assert_eq!((approval.rings, approval.expires), (case.rule.rings.clone(), case.at + 30 * DAY));

    let [release, approval] = case.documents(|_| ());
    let edition = case.world.edition(1, vec![release.clone(), approval.clone()]);
    let mut trust = case.world.trust();
    edition.offer_to(&mut trust);
    assert_eq!(trust.may_install(&release.release, &GROUP, NOW), Ok(()));
    let admitted =
        trust.admit(&release.bytes, &approval.bytes, &[], edition.pages.iter().map(Vec::as_slice), NOW).unwrap();
    assert_eq!(admitted.approval.version, 0);
    assert_eq!(verify_rule(&case.world.root, &signed(&case.rule, &[&case.world.approvers[0]])).unwrap(), case.rule);
}

#[test]
fn online_keys_make_nothing_but_what_the_rule_says() {
    type Change<'a> = &'a dyn Fn(&mut Case);
    let cases: [(&str, Change<'_>); 17] = [
        ("valid signatures", &|case| case.by = vec![case.online.clone()]),
        ("valid signatures", &|case| case.by = vec![case.world.publisher.clone()]),
        ("valid signatures", &|case| case.online = key(77)),
        ("valid signatures", &|case| case.online = case.world.approvers[0].clone()),
        ("valid signatures", &|case| case.rule.group = CAREFUL),
        ("is about the repository security", &|case| case.rule.upstream = text("security")),
        ("which the rule does not name", &|case| case.rule.sources = list(vec![text("curl")])),
        ("its severity is Moderate", &|case| case.release.severity = Severity::Moderate),
        ("its severity is Unspecified", &|case| case.release.severity = Severity::Unspecified),
        ("on every machine", &|case| {
            let severity = case.release.severity;
            case.release = snapshot((NOW - DAY).0, &[("openssl", WhenAbsent::Always)]);
            case.release.severity = severity;
        }),
        ("no snapshot", &|case| case.release = release("org.example.editor", 1)),
        // Rings count from no earlier than upstream's date.
        ("after the approval", &|case| case.at = NOW - DAY - 2 * HOUR),
        ("its rule did not count then", &|case| case.at = case.rule.issued - HOUR),
        ("its rule did not count then", &|case| case.rule.expires = case.at),
        ("expired", &|case| case.rule.life_s = 60),
        ("rule is about one repository", &|case| case.rule.upstream = text("")),
        ("count from each approval", &|case| case.rule.schedule.deadline = Some(NOW)),
    ];
    for (expected, change) in cases {
        let mut case = Case::new();
        change(&mut case);
        let why = case.verified(|_| ()).expect_err(expected);
        assert!(why.contains(expected), "{why:?} and not {expected:?}");
    }
    type Turn<'a> = &'a dyn Fn(&mut Approval);
    let turns: [Turn<'_>; 9] = [
        &|approval| approval.version = 1,
        &|approval| approval.action = Action::Uninstall,
        &|approval| approval.expires = approval.expires + HOUR,
        &|approval| approval.schedule.expedite = true,
        &|approval| approval.schedule.deadline = Some(NOW),
        &|approval| approval.rings = RingPlan::default(),
        &|approval| approval.group = CAREFUL,
        &|approval| approval.group_version = 1,
        &|approval| approval.note = text("a remark"),
    ];
    for turn in turns {
        let why = Case::new().verified(turn).unwrap_err();
        assert!(why.contains("something else than its rule"), "{why}");
    }
}

/// As many holders of the approvers' keys as the group wants; two keys in one hand are one.
#[test]
fn thresholds_of_a_rule_count_holders() {
    let mut case = Case::new();
    case.rule.group = CAREFUL;
    case.by = case.world.approvers[..2].to_vec();
    case.verified(|_| ()).unwrap();
    let in_one_hand = case.by.iter().map(|key| held(key, "Alice")).collect();
    case.world.root.approvers = Keys { keys: list(in_one_hand), threshold: 1 };
    case.world.root.group_rules = list(vec![]);
    case.rule.group = GROUP;
    case.verified(|_| ()).unwrap();
    case.world.root.approvers.threshold = 2;
    let (third, bob) = (key(91), held(&key(91), "Bob"));
    case.world.root.approvers.keys = list([case.world.root.approvers.keys.to_vec(), vec![bob]].concat());
    let why = case.verified(|_| ()).unwrap_err();
    assert!(why.contains("1 valid signatures by distinct holders"), "{why}");
    case.by.push(third);
    case.verified(|_| ()).unwrap();
}

#[test]
fn a_rules_approval_counts_with_the_group_that_its_approver_saw_or_a_later_one() {
    let described = |case: &Case, version| {
        let members = Members::Rule(list(vec![text("os.id=debian")]));
        describe(&group(GROUP, version, members), &[&case.world.approvers[0]])
    };
    for (known, allowed) in [
        (None, Err(Blocked::GroupUnknown)),
        (Some(1), Err(Blocked::GroupUnknown)),
        (Some(2), Ok(())),
        (Some(5), Ok(())),
    ] {
        let mut case = Case::new();
        case.rule.group_version = 2;
        let [release, approval] = case.documents(|_| ());
        let groups: Vec<Doc> = known.into_iter().map(|version| described(&case, version)).collect();
        let documents = [vec![release.clone(), approval.clone()], groups.clone()].concat();
        let edition = case.world.edition(1, documents);
        let mut trust = case.world.trust();
        edition.offer_to(&mut trust);
        assert_eq!(trust.may_install(&release.release, &GROUP, NOW), allowed, "{known:?}");
        let groups: Vec<&[u8]> = groups.iter().map(|group| group.bytes.as_slice()).collect();
        let pages = edition.pages.iter().map(Vec::as_slice);
        match trust.admit(&release.bytes, &approval.bytes, &groups, pages, NOW) {
            Ok(admitted) => assert_eq!((admitted.approval.group_version, allowed), (2, Ok(()))),
            Err(NotAdmitted::Blocked(blocked)) => assert_eq!(allowed, Err(blocked)),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_catalog_leaves_out_what_a_rule_does_not_cover() {
    let mut case = Case::new();
    case.release.severity = Severity::Low;
    let [release, approval] = case.documents(|_| ());
    let edition = case.world.edition(1, vec![release.clone(), approval.clone()]);
    let mut trust = case.world.trust();
    edition.offer_to(&mut trust);
    assert_eq!(trust.may_install(&release.release, &GROUP, NOW), Err(Blocked::NotApproved));
    let refused = trust.admit(&release.bytes, &approval.bytes, &[], edition.pages.iter().map(Vec::as_slice), NOW);
    assert!(matches!(refused, Err(NotAdmitted::Document(_))), "{refused:?}");
}

#[test]
fn every_word_of_an_approver_counts_before_a_rules_and_stays() {
    let case = Case::new();
    let [release, by_rule] = case.documents(|_| ());
    let mut declined = approval(GROUP, release.release, 1);
    declined.action = Action::None;
    let declined = case.world.approve(&declined);
    let mut trust = case.world.trust();
    case.world.edition(1, vec![release.clone(), declined]).offer_to(&mut trust);
    assert_eq!(trust.may_install(&release.release, &GROUP, NOW), Err(Blocked::Declined));
    // The online keys name the rule's approval instead: the decline was seen.
    let again = case.world.edition(2, vec![release.clone(), by_rule.clone()]);
    trust.offer_head(&again.head, NOW).unwrap();
    again.offer_index(&mut trust);
    again.offer_documents(&mut trust);
    assert_eq!(trust.may_install(&release.release, &GROUP, NOW), Err(Blocked::NotApproved));
    let admitted = trust.admit(&release.bytes, &by_rule.bytes, &[], again.pages.iter().map(Vec::as_slice), NOW);
    assert!(matches!(admitted, Err(NotAdmitted::Blocked(Blocked::Withdrawn))), "{admitted:?}");
}

#[test]
fn what_a_removed_key_had_a_part_in_goes_with_it() {
    let case = Case::new();
    let [release, approval] = case.documents(|_| ());
    let edition = case.world.edition(1, vec![release.clone(), approval.clone()]);
    let without_approver = case.world.next(|next| {
        next.root.approvers = keys(&next.approvers[1..], 1);
        next.root.group_rules = list(vec![]);
    });
    for next in [case.world.with_online(31), without_approver] {
        let mut trust = case.world.trust();
        edition.offer_to(&mut trust);
        trust.offer_root(&next.root_doc(), NOW).unwrap();
        let documents = vec![release.clone(), approval.clone()];
        let after = next.edition(2, documents);
        trust.offer_head(&after.head, NOW).unwrap();
        after.offer_index(&mut trust);
        after.offer_documents(&mut trust);
        assert_eq!(trust.may_install(&release.release, &GROUP, NOW), Err(Blocked::NotApproved));
    }
}
