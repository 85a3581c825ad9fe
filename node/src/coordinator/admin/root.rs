//! The root of trust: what the next one says, in bytes and in words, and the signed one's way to the core. Owns how a root is drawn
//! up from a wish; never signs, and believes no root: whoever draws one up has walked to today's from one that he knows.

use std::time::Duration;

use upswarm_protocol::catalog::{HeldKey, Keys, PublisherRule, Root};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::coordinator::Command;
use upswarm_protocol::ids::{DocHash, PublicKey};
use upswarm_protocol::keyring::Holder;
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::validate_root;

use super::Decision;
use super::repositories::pin;
use crate::api::actor::Actor;
use crate::api::approvals::{Accepted, SignedDocument};
use crate::api::catalog::MIN_PREFIX;

/// Who signs what, as people name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RoleName {
    /// Signs roots.
    Root,
    /// Signs releases.
    Publisher,
    /// Signs approvals.
    Approver,
    /// Signs what groups are; approvers do, where the root names nobody for it.
    Targeting,
    /// The coordinator's own: signs heads and certificates.
    Online,
}

/// What is to be different in the next root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RootChange {
    /// Nothing: it counts for this long from now.
    Renew(Duration),
    /// These keys take the place of all keys of a role.
    Rotate(RoleName, Prefix, Vec<HeldKey>),
    /// One more key.
    Add(RoleName, Prefix, HeldKey),
    /// One key less, named by its first digits; another may take its place, in the same hand where no other holder is named.
    Revoke(String, Option<PublicKey>, Option<Holder>),
    /// A key, named by its first digits, is in this hand.
    Hold(String, Holder),
    /// These repositories are pinned by their descriptions, and this key publishes their snapshots.
    Pin(Vec<(String, DocHash)>, PublicKey),
    /// The repository of this name may be installed from no more.
    Unpin(String),
    /// So many holders must sign.
    Threshold(RoleName, Prefix, u8),
}

/// The product prefix of a publisher's rule; none where there is one rule only.
pub(crate) type Prefix = Option<String>;

/// Takes a signed root; the core verifies it. `held` are the online keys of this coordinator.
pub(crate) fn submit(
    actor: &Actor,
    document: SignedDocument,
    held: Vec<ed25519_dalek::SigningKey>,
) -> Decision<Accepted> {
    tracing::info!(%actor, bytes = document.0.len(), "a signed root is submitted");
    let command = Command::Root { root: document.0, online: held };
    Decision::new(command, |done| Accepted { index_version: done.index_version })
}

/// The root after `today`, with this change. The error says what to do instead.
pub(crate) fn next(today: &Root, change: &RootChange, now: Wall) -> Result<Root, String> {
    let mut root = today.clone();
    root.version = today.version.saturating_add(1);
    root.issued = now;
    match change {
        RootChange::Renew(life) => {
            root.expires = now + *life;
            if root.expires <= today.expires {
                return Err(format!("today's root counts until {} already; say how long: --for 730d", today.expires));
            }
        }
        RootChange::Rotate(role, prefix, keys) => {
            let new = Keys { keys: Bounded::new(keys.clone()).map_err(|error| error.to_string())?, threshold: 0 };
            with_keys(&mut root, *role, prefix, |of| {
                let (needed, given) = (of.threshold, new.holders());
                if given < usize::from(needed) {
                    return Err(format!(
                        "{needed} holders must sign, and keys of {given} are given: name more with --key and --holder, or lower \
                         the threshold first: upswarm root threshold"
                    ));
                }
                of.keys = new.keys;
                Ok(())
            })?;
        }
        RootChange::Add(role, prefix, held) => add(&mut root, *role, prefix, held.clone())?,
        RootChange::Revoke(key, instead, holder) => within_one(&mut root, key, |of, held| {
            let instead =
                instead.map(|key| HeldKey { key, holder: holder.clone().unwrap_or_else(|| held.holder.clone()) });
            revoke(of, held.key, instead)
        })?,
        RootChange::Hold(key, holder) => within_one(&mut root, key, |of, held| {
            let mut keys = of.keys.clone().into_vec();
            keys.iter_mut().filter(|other| other.key == held.key).for_each(|other| other.holder = holder.clone());
            of.keys = Bounded::truncated(keys);
            Ok(())
        })?,
        RootChange::Pin(upstreams, sync_key) => {
            for (name, description) in upstreams {
                pin(&mut root, name, *description, *sync_key)?;
            }
        }
        RootChange::Unpin(name) => {
            let mut rules = root.upstreams.clone().into_vec();
            rules.retain(|rule| rule.name.as_str() != name);
            if rules.len() == root.upstreams.len() {
                return Err(format!("the root names no repository {name:?}; upswarm root show lists them"));
            }
            root.upstreams = Bounded::truncated(rules);
        }
        RootChange::Threshold(role, prefix, threshold) => {
            with_keys(&mut root, *role, prefix, |of| {
                of.threshold = *threshold;
                Ok(())
            })?;
        }
    }
    if root.expires <= now {
        return Err(format!("today's root expired at {}; renew it first: upswarm root renew", today.expires));
    }
    validate_root(&root).map_err(|error| format!("such a root would be refused everywhere: {error}"))?;
    Ok(root)
}

/// Changes the keys of a role. Of publishers `prefix` says which, where there are several.
fn with_keys(
    root: &mut Root,
    role: RoleName,
    prefix: &Prefix,
    change: impl FnOnce(&mut Keys) -> Result<(), String>,
) -> Result<(), String> {
    match (role, prefix) {
        (RoleName::Publisher, _) => {
            let mut rules = root.publishers.clone().into_vec();
            let named = |rule: &PublisherRule| match prefix {
                Some(prefix) => rule.names() == prefix.strip_suffix('.').unwrap_or(prefix),
                None => root.publishers.len() == 1,
            };
            let Some(rule) = rules.iter_mut().find(|rule| named(rule)) else {
                let known: Vec<String> = root.publishers.iter().map(|rule| format!("{:?}", rule.names())).collect();
                return Err(format!(
                    "which publishers? There are rules for {}; name one with --prefix",
                    known.join(", ")
                ));
            };
            change(&mut rule.keys)?;
            root.publishers = Bounded::truncated(rules);
            Ok(())
        }
        (_, Some(_)) => Err("--prefix is for publishers".to_owned()),
        (RoleName::Root, _) => change(&mut root.root),
        (RoleName::Approver, _) => change(&mut root.approvers),
        (RoleName::Targeting, _) => match &mut root.targeting {
            Some(keys) => change(keys),
            None => Err(
                "the root names nobody who says what groups are, so approvers do; name the first with: upswarm root \
                         add-key targeting KEY --holder NAME"
                    .to_owned(),
            ),
        },
        (RoleName::Online, _) => change(&mut root.online),
    }
}

fn add(root: &mut Root, role: RoleName, prefix: &Prefix, held: HeldKey) -> Result<(), String> {
    let full = |error: upswarm_protocol::codec::TooMany| format!("the role is full: {error}");
    if let (RoleName::Publisher, Some(prefix)) = (role, prefix) {
        let names = prefix.strip_suffix('.').unwrap_or(prefix);
        if root.publishers.iter().all(|rule| rule.names() != names) {
            let product_prefix = Text::new(prefix.as_str()).map_err(|error| format!("--prefix: {error}"))?;
            let keys = Keys::single(held);
            let mut rules = root.publishers.clone().into_vec();
            rules.push(PublisherRule { product_prefix, keys });
            root.publishers = Bounded::new(rules).map_err(full)?;
            return Ok(());
        }
    }
    if (role, prefix, &root.targeting) == (RoleName::Targeting, &None, &None) {
        root.targeting = Some(Keys::single(held));
        return Ok(());
    }
    with_keys(root, role, prefix, |of| {
        if of.contains(&held.key) {
            return Err(format!("{} has that role already", held.key));
        }
        let mut keys = of.keys.clone().into_vec();
        keys.push(held);
        of.keys = Bounded::new(keys).map_err(full)?;
        Ok(())
    })
}

/// Changes the one key that begins with `text`, in each role that has it.
fn within_one(
    root: &mut Root,
    text: &str,
    change: impl Fn(&mut Keys, HeldKey) -> Result<(), String>,
) -> Result<(), String> {
    let text = text.to_ascii_lowercase();
    if text.len() < MIN_PREFIX {
        return Err(format!("write at least {MIN_PREFIX} digits of the key; upswarm root show lists them"));
    }
    let mut found = false;
    let mut within = |of: &mut Keys| -> Result<(), String> {
        let matching: Vec<&HeldKey> = of.keys.iter().filter(|held| held.key.to_string().starts_with(&text)).collect();
        match matching[..] {
            [] => Ok(()),
            [held] => {
                found = true;
                let held = held.clone();
                change(of, held)
            }
            _ => Err(format!("{text:?} names several keys; write more of it")),
        }
    };
    within(&mut root.root)?;
    within(&mut root.approvers)?;
    within(&mut root.online)?;
    if let Some(targeting) = &mut root.targeting {
        within(targeting)?;
    }
    let mut rules = root.publishers.clone().into_vec();
    for rule in &mut rules {
        within(&mut rule.keys)?;
    }
    root.publishers = Bounded::truncated(rules);
    if found {
        Ok(())
    } else {
        Err(format!("the root names no key that begins with {text}; upswarm root show lists them"))
    }
}

fn revoke(of: &mut Keys, key: PublicKey, instead: Option<HeldKey>) -> Result<(), String> {
    let mut keys: Vec<HeldKey> = of.keys.iter().filter(|other| other.key != key).cloned().collect();
    keys.extend(instead.filter(|instead| keys.iter().all(|held| held.key != instead.key)));
    if keys.is_empty() {
        return Err(format!(
            "{} is the only key of its role, and a role without keys would end everything: name the one that takes its place with \
             --replace-with KEY, or add one first: upswarm root add-key",
            key.short()
        ));
    }
    let left = Keys { keys: Bounded::truncated(keys), threshold: of.threshold };
    if left.holders() < usize::from(of.threshold) {
        return Err(format!(
            "{} holders must sign for its role, and keys of {} would be left: name the one that takes its place with \
             --replace-with KEY, or lower the threshold first: upswarm root threshold",
            of.threshold,
            left.holders()
        ));
    }
    *of = left;
    Ok(())
}

/// What differs between two roots, a line each: what a person reads before signing. `today` is believed, `next` is not.
pub(crate) fn differences(today: &Root, next: &Root) -> Vec<String> {
    let mut lines = vec![format!("root of trust, version {} after {}", next.version, today.version)];
    match next.expires == today.expires {
        true => lines.push(format!("it counts until {}, as before", next.expires)),
        false => lines.push(format!("it counts until {}; today's until {}", next.expires, today.expires)),
    }
    let unchanged = lines.len();
    roles(&mut lines, "root keys", &today.root, &next.root);
    roles(&mut lines, "approvers", &today.approvers, &next.approvers);
    roles(&mut lines, "online keys", &today.online, &next.online);
    let none = Keys { keys: Bounded::default(), threshold: 0 };
    let targeting = |root: &Root| root.targeting.clone().unwrap_or_else(|| none.clone());
    roles(&mut lines, "targeting", &targeting(today), &targeting(next));
    match (&today.targeting, &next.targeting) {
        (None, Some(_)) => lines.push(
            "approvers say what groups are no longer: sign each group anew with a targeting key (upswarm group sign)"
                .into(),
        ),
        (Some(_), None) => lines.push("approvers say what groups are again: sign each group anew".into()),
        _ => {}
    }
    let rule = |root: &Root, names: &str| {
        root.publishers.iter().find(|rule| rule.names() == names).map(|rule| rule.keys.clone())
    };
    let mut names: Vec<&str> =
        today.publishers.iter().chain(next.publishers.iter()).map(PublisherRule::names).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let what = if name.is_empty() { "publishers".to_owned() } else { format!("publishers of {name}") };
        let (before, after) = (rule(today, name), rule(next, name));
        roles(&mut lines, &what, before.as_ref().unwrap_or(&none), after.as_ref().unwrap_or(&none));
    }
    if next.group_rules != today.group_rules {
        let rules = next.group_rules.iter().map(|rule| format!("{} needs {}", rule.group, rule.threshold));
        lines.push(format!("groups that need more approvers: {}", rules.collect::<Vec<_>>().join(", ")));
    }
    let pinned = |root: &Root, name: &Text<64>| {
        root.upstreams.iter().find(|rule| rule.name == *name).map(|rule| rule.description)
    };
    for rule in next.upstreams.iter().filter(|rule| pinned(today, &rule.name) != Some(rule.description)) {
        let what = if pinned(today, &rule.name).is_some() { "repository, described anew" } else { "repository" };
        lines.push(format!("{what}: + {} ({})", rule.name, rule.description));
    }
    let gone = today.upstreams.iter().filter(|rule| pinned(next, &rule.name).is_none());
    lines.extend(gone.map(|rule| format!("repository: - {}", rule.name)));
    if next.report_key != today.report_key {
        lines.push(format!("another key to which reports are encrypted: {}", hex::encode(next.report_key)));
    }
    // Whatever this function does not know must not be signed as if nothing changed.
    let same = Root { version: today.version, issued: today.issued, expires: today.expires, ..next.clone() } == *today;
    match (lines.len() == unchanged, same) {
        (true, true) => lines.push("keys and thresholds stay as they are".to_owned()),
        (true, false) => {
            lines.push("keys stay, in another order or with another rule that this version cannot show".to_owned())
        }
        (false, _) => {}
    }
    lines
}

fn roles(lines: &mut Vec<String>, what: &str, today: &Keys, next: &Keys) {
    let named = |held: &HeldKey| format!("{} ({})", held.key, held.holder);
    let new = next.keys.iter().filter(|held| !today.contains(&held.key));
    lines.extend(new.map(|held| format!("{what}: + {}", named(held))));
    let gone = today.keys.iter().filter(|held| !next.contains(&held.key));
    lines.extend(gone.map(|held| format!("{what}: - {}", named(held))));
    for held in &next.keys {
        if let Some(before) = today.holder_of(&held.key).filter(|before| *before != held.holder.as_str()) {
            lines.push(format!("{what}: {} is held by {}, before by {before}", held.key, held.holder));
        }
    }
    let count = |of: &Keys| format!("{} of {}", of.threshold, of.holders());
    if count(today) != count(next) {
        lines.push(format!("{what}: {} holders must sign, before it was {}", count(next), count(today)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Wall = Wall(1_800_000_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn key(seed: u8) -> PublicKey {
        crate::coordinator::keys::public(&ed25519_dalek::SigningKey::from_bytes(&[seed; 32]))
    }

    fn held(seed: u8) -> HeldKey {
        HeldKey { key: key(seed), holder: holder(&format!("person {seed}")) }
    }

    fn holder(name: &str) -> Holder {
        Text::lossy(name)
    }

    fn keys(seeds: &[u8], threshold: u8) -> Keys {
        Keys { keys: Bounded::new(seeds.iter().map(|seed| held(*seed)).collect()).unwrap(), threshold }
    }

    fn first_digits(seed: u8) -> String {
        key(seed).to_string()[..8].to_owned()
    }

    fn root() -> Root {
        let rule = |prefix: &str, seed| PublisherRule { product_prefix: Text::lossy(prefix), keys: keys(&[seed], 1) };
        Root {
            version: 4,
            issued: NOW - 10 * DAY,
            expires: NOW + 20 * DAY,
            root: keys(&[1, 2, 3], 2),
            publishers: Bounded::new(vec![rule("", 10), rule("org.example", 11)]).unwrap(),
            approvers: keys(&[20], 1),
            targeting: None,
            group_rules: Bounded::default(),
            upstreams: Bounded::default(),
            online: keys(&[30], 1),
            report_key: [9; 32],
        }
    }

    #[test]
    fn each_change_makes_the_next_root_and_says_so() {
        use RoleName::{Approver, Online, Publisher};
        let cases: [(RootChange, &str); 11] = [
            (RootChange::Add(RoleName::Targeting, None, held(25)), "targeting: + "),
            (RootChange::Pin(vec![("debian".into(), DocHash([7; 32]))], key(40)), "repository: + debian (0707"),
            (RootChange::Renew(730 * DAY), "it counts until"),
            (RootChange::Rotate(Online, None, vec![held(31)]), "online keys: - "),
            (RootChange::Add(Approver, None, held(21)), "approvers: 1 of 2 holders must sign, before it was 1 of 1"),
            (RootChange::Add(Publisher, Some("com.vendor".into()), held(12)), "publishers of com.vendor: + "),
            (RootChange::Add(Publisher, Some("org.example.".into()), held(12)), "publishers of org.example: + "),
            (RootChange::Revoke(first_digits(20), Some(key(22)), None), "(person 20)"),
            (RootChange::Revoke(first_digits(20), Some(key(22)), Some(holder("Ben"))), "(Ben)"),
            (RootChange::Hold(first_digits(20), holder("Anna")), "is held by Anna, before by person 20"),
            (
                RootChange::Threshold(RoleName::Root, None, 3),
                "root keys: 3 of 3 holders must sign, before it was 2 of 3",
            ),
        ];
        for (change, said) in cases {
            let next = next(&root(), &change, NOW).unwrap();
            assert_eq!((next.version, next.issued), (5, NOW));
            let words = differences(&root(), &next).join("\n");
            assert!(words.contains(said), "{change:?}:\n{words}");
            let renewed = matches!(change, RootChange::Renew(_));
            assert_eq!(words.contains("keys and thresholds stay as they are"), renewed, "{words}");
        }
    }

    #[test]
    fn what_would_end_the_deployment_is_refused_with_what_to_do() {
        use RoleName::{Approver, Online, Publisher};
        let cases: [(RootChange, &str); 14] = [
            (RootChange::Add(RoleName::Targeting, None, held(20)), "keys of its own"),
            (RootChange::Add(RoleName::Targeting, Some("org".into()), held(25)), "for publishers"),
            (RootChange::Threshold(RoleName::Targeting, None, 2), "add-key targeting"),
            (RootChange::Hold(first_digits(20), holder("Anna ")), "holder's name"),
            (RootChange::Unpin("debian".into()), "root show"),
            (RootChange::Renew(10 * DAY), "--for"),
            (RootChange::Revoke(key(20).to_string(), None, None), "--replace-with"),
            (RootChange::Revoke("abcd".into(), None, None), "at least 8 digits"),
            (RootChange::Revoke("00000000".into(), None, None), "root show"),
            (RootChange::Add(Approver, None, held(20)), "has that role already"),
            (RootChange::Add(Approver, None, held(30)), "keys of its own"),
            (RootChange::Add(Publisher, None, held(12)), "--prefix"),
            (RootChange::Rotate(Online, Some("org".into()), vec![held(31)]), "for publishers"),
            (RootChange::Threshold(Approver, None, 2), "threshold"),
        ];
        for (change, cause) in cases {
            let reason = next(&root(), &change, NOW).unwrap_err();
            assert!(reason.contains(cause), "{change:?}: {reason}");
        }
        let over = Root { expires: NOW - DAY, ..root() };
        assert!(next(&over, &RootChange::Add(Approver, None, held(21)), NOW).unwrap_err().contains("root renew"));
        next(&over, &RootChange::Renew(365 * DAY), NOW).unwrap();
        let mut three = root();
        three.approvers = keys(&[20, 21], 2);
        let reason = next(&three, &RootChange::Revoke(key(21).to_string(), None, None), NOW).unwrap_err();
        assert!(reason.contains("2 holders must sign"), "{reason}");
        // Another key in the same hand is no second voice.
        let same = RootChange::Revoke(key(21).to_string(), Some(key(22)), Some(held(20).holder));
        let reason = next(&three, &same, NOW).unwrap_err();
        assert!(reason.contains("keys of 1 would be left"), "{reason}");
    }
}
