//! What signed bytes say, for the person who is to sign them. Every line is read from the bytes; what only the coordinator claims is
//! said to be that.

use upswarm_protocol::catalog::{
    Applicability, Approval, ApprovalRule, AptRecipe, Detect, ExitRule, FetchAhead, GroupDocument, Members, Recipe,
    Release, Severity, WhenAbsent, Window,
};
use upswarm_protocol::ids::{GroupId, ReleaseId};

use super::known::digits;
use super::repository::Repository;
use crate::api::approvals::Preview;
use crate::api::devices::DeviceName;
use crate::api::groups::ListDraft;
use crate::api::rules::{NewRule, Rule, RuleChange, RuleSet};
use crate::text::{one_line, word};
use crate::upstream::proof::Signed;

/// The group of an approval.
pub(super) struct Group<'a> {
    pub(super) name: &'a str,
    /// Whether these keys sign for it for the first time.
    pub(super) first_time: bool,
    /// What approvers have signed about it.
    pub(super) described: Option<&'a GroupDocument>,
}

impl Group<'_> {
    /// The group that has this number, with the name that the coordinator or a signed document has for it, and who is in it.
    fn lines(&self, number: GroupId) -> Vec<String> {
        let name = one_line(self.name);
        let mut lines = vec![match self.first_time && self.described.is_none() {
            true => format!(
                "group       {number} -- the coordinator says that this is {name}; these keys sign for it for the first time"
            ),
            false if self.described.is_some() => format!("group       {name} ({number}), as approvers signed"),
            false => format!("group       {name} ({number}), as before"),
        }];
        lines.extend(members(self.described));
        lines
    }
}

/// An approval and the release that it is about.
pub(super) fn approval(
    approval: &Approval,
    of: &Release,
    named: &Group<'_>,
    (upstream, repository): (Option<&Signed>, Option<Repository>),
    claimed: &Preview,
) -> String {
    let mut lines = vec![format!(
        "approval    {:?}, version {}, good until {}",
        approval.action, approval.version, approval.expires
    )];
    if approval.back {
        lines.push(
            "GOES BACK   machines with later versions of the packages below are taken back to these; what an earlier approval said of \
             the repository no longer counts, and rules signed before approve no later state of it"
                .to_owned(),
        );
    }
    lines.extend(named.lines(approval.group));
    lines.extend(schedule(approval));
    if !approval.note.is_empty() {
        lines.push(format!("remark      {}", one_line(&approval.note)));
    }
    let required = claimed.required;
    lines.push(format!("machines    {required} of {} lack it -- the coordinator's claim", claimed.devices));
    if let Some(signed) = upstream {
        let until = signed.valid_until.map_or_else(
            || "without end".to_owned(),
            |until| format!("{} until {until}", if until <= approval.issued { "which was good only" } else { "good" }),
        );
        lines.push(format!("upstream    signed its state of {}, {until}", signed.date));
        lines.push(match signed.compared {
            true => "            each package below is in its indexes, by version, source and SHA-256".to_owned(),
            false => {
                "            its indexes are too large for a request: machines compare the packages, here nobody has"
                    .to_owned()
            }
        });
    }
    lines.extend(repository.map(|repository| filtered(repository, approval)));
    lines.push(release(of));
    lines.join("\n")
}

/// What machines without an agent get of it.
fn filtered(repository: Repository, approval: &Approval) -> String {
    match repository {
        Repository::Signed => format!(
            "filtered    the same packages as a repository for machines without an agent, signed by your repository key alone, until {}",
            approval.expires
        ),
        Repository::WantsMoreThanOne => {
            "filtered    none for machines without an agent: they would trust one approver's key, and more than one must sign here"
                .to_owned()
        }
    }
}

/// A standing rule about a repository.
pub(super) fn repository_rule(rule: &ApprovalRule, named: &Group<'_>) -> String {
    let names = words(rule.sources.iter().map(|source| source.as_str()));
    let sources =
        if rule.sources.is_empty() { "every source package of it".to_owned() } else { format!("only {names}") };
    let mut lines = vec![
        format!("rule        r{}, good until {}", rule.number, rule.expires),
        format!(
            "repository  {}: {sources}; nothing is removed, nothing is installed anew for its own sake",
            one_line(&rule.upstream)
        ),
    ];
    lines.splice(1..1, named.lines(rule.group));
    lines.push(match rule.min_severity {
        Severity::Unspecified => "severity    any".to_owned(),
        least => format!("severity    {least:?} or worse -- as the coordinator's feeds say it: a coordinator in other hands may say so of anything above"),
    });
    lines.push("approves    by itself, as soon as a snapshot is synced and apt has tried it; each approval as follows, from that moment on".to_owned());
    lines.extend(schedule(&rule.approval(ReleaseId::default(), rule.issued)));
    lines.push(format!(
        "            an approval is good for {} s; the moments above are those of one that were made now",
        rule.life_s
    ));
    lines.join("\n")
}

/// What a group is said to be, and for a list who is in it by the coordinator's names, with what there is to say about those.
pub(super) fn group(group: &GroupDocument, list: Option<(&ListDraft, Vec<String>)>, first_time: bool) -> String {
    let first = if first_time { "; these keys sign about it for the first time" } else { "" };
    let mut lines =
        vec![format!("group       {} ({}), version {}{first}", one_line(&group.name), group.group, group.version)];
    lines.extend(members(Some(group)));
    if let Some((list, compared)) = list {
        lines.push(
            "            what is signed is the keys; which name is whose is the coordinator's claim: compare keys with \
             those that the machines themselves have"
                .to_owned(),
        );
        let named = |of: &DeviceName| format!("            {} ({})", one_line(&of.name), digits(&of.device));
        lines.extend(list.devices.iter().map(named));
        lines.extend(compared);
    }
    lines.join("\n")
}

/// Every rule, and which of them is new.
pub(super) fn rules(change: &RuleChange, next: &RuleSet) -> String {
    let mut lines = vec![format!("rules       version {}: what is approved as soon as it is published", next.version)];
    if let RuleChange::Remove(id) = change {
        lines.push(format!("removed     rule {id}"));
    }
    let is_new = |id: u32| matches!(change, RuleChange::Add(_)) && id == next.last;
    let line = |rule: &Rule| {
        let what = if is_new(rule.id) { "new" } else { "as before" };
        format!("{what:<11} rule {}: {}", rule.id, rule_words(&rule.rule))
    };
    lines.extend(next.rules.iter().map(line));
    lines.join("\n")
}

/// A rule as a sentence.
pub(crate) fn rule_words(rule: &NewRule) -> String {
    let NewRule { group, classification, min_severity, product, schedule } = rule;
    let kinds: Vec<String> = classification.iter().map(word).collect();
    let kinds = if kinds.is_empty() { "every release".to_owned() } else { format!("{} releases", kinds.join(" and ")) };
    let of = if product.is_empty() { String::new() } else { format!(" of {}", one_line(product)) };
    let least = min_severity.map_or(String::new(), |least| format!(", {} or worse", word(&least)));
    let when =
        Some(schedule.words()).filter(|words| !words.is_empty()).map_or(String::new(), |when| format!(" ({when})"));
    format!("{kinds}{of}{least}, for group {}{when}", one_line(group))
}

fn members(described: Option<&GroupDocument>) -> Vec<String> {
    match described.map(|known| &known.members) {
        None | Some(Members::Listed) => {
            vec!["members     whichever machines the coordinator puts into it".to_owned()]
        }
        Some(Members::Rule(texts)) => {
            texts.iter().map(|text| format!("members     machines where {}", one_line(text))).collect()
        }
        Some(Members::List(list)) => vec![format!("members     the {} machines of a signed list", list.devices)],
    }
}

fn schedule(approval: &Approval) -> Vec<String> {
    let schedule = &approval.schedule;
    let mut lines = Vec::new();
    let mut say = |what: &str, text: String| lines.push(format!("{what:<11} {text}"));
    if schedule.expedite {
        say("begins", "now, whatever windows, rings and the person at the machine would say".to_owned());
    }
    match (schedule.available_from, schedule.deadline) {
        (None, None) => say("when", "from now on, without a deadline".to_owned()),
        (Some(from), None) => say("when", format!("from {from} on, without a deadline")),
        (None, Some(deadline)) => say("when", format!("from now on, by {deadline} at the latest")),
        (Some(from), Some(deadline)) => say("when", format!("from {from} on, by {deadline} at the latest")),
    }
    if schedule.grace_s > 0 {
        say("grace", format!("{} s for a machine that slept through the deadline", schedule.grace_s));
    }
    for window in &schedule.windows {
        say("window", window.to_string());
    }
    if let Some(hours) = schedule.active_hours {
        say("not in", Window { days: hours.days, start: hours.start, end: hours.end }.to_string());
    }
    if schedule.deferral.max_times > 0 {
        let (times, total) = (schedule.deferral.max_times, schedule.deferral.max_total_s);
        say("put off", format!("{times} times, {total} s in all"));
    }
    if schedule.jitter_s > 0 {
        say("spread", format!("over {} s", schedule.jitter_s));
    }
    let ahead = &schedule.fetch_ahead;
    if *ahead != FetchAhead::default() {
        let hours: String = ahead.windows.iter().map(|window| format!(", {window}")).collect();
        say("fetches", format!("at most {} s before its turn{hours}", ahead.within_s));
    }
    for ring in &approval.rings.rings {
        say("ring", format!("{} % after {} s", f64::from(ring.up_to) / 100.0, ring.delay_s));
    }
    if approval.rings.stop_above > 0 {
        say("stops", format!("above {} % failed or silent", f64::from(approval.rings.stop_above) / 100.0));
    }
    lines
}

/// A release: what it is, its files by hash, and everything that would be executed.
pub(super) fn release(release: &Release) -> String {
    // Without `..`: what is added to a release is to be shown too.
    let Release {
        product,
        version,
        counter,
        title,
        classification,
        severity,
        cves,
        issued,
        expires,
        platform,
        payloads,
        applicability,
        detect,
        install,
        uninstall,
        restart,
        depends,
        supersedes,
    } = release;
    // The coordinator's own key signs snapshots: how bad it is not to have it is no publisher's word.
    let claim = if matches!(install, Recipe::Apt(_)) { " -- the coordinator's claim, from its feeds" } else { "" };
    let mut lines = vec![
        format!("product     {} {} (counter {counter})", one_line(product), one_line(version)),
        format!("title       {}", one_line(title)),
        format!("kind        {classification:?}, issued {issued}, good until {expires}"),
        format!("severity    {severity:?}{claim}"),
    ];
    if !cves.is_empty() {
        lines.push(format!("mends       {}{claim}", words(cves.iter().map(|cve| cve.as_str()))));
    }
    if !platform.os.is_empty() || !platform.arch.is_empty() {
        lines.push(format!("platform    {:?} {:?}", platform.os.as_str(), platform.arch.as_str()));
    }
    for payload in payloads {
        lines.push(format!("payload     {}: {} bytes, BLAKE3 {}", one_line(&payload.name), payload.len, payload.id));
        lines.push(format!("            SHA-256 {}", hex::encode(payload.sha256)));
        lines.extend(payload.urls.iter().map(|url| format!("            from {}", one_line(url))));
    }
    lines.extend(applicability.iter().map(|rule| format!("only where  {}", condition(rule))));
    lines.extend(detect.iter().map(|rule| format!("is there if {}", sign(rule))));
    match install {
        Recipe::Apt(apt) => lines.extend(packages(apt)),
        install => lines.push(format!("installs    {}", recipe(install))),
    }
    if let Some(uninstall) = uninstall {
        lines.push(format!("uninstalls  {}", recipe(uninstall)));
    }
    lines.extend(depends.iter().map(|id| format!("needs       {id}")));
    lines.extend(supersedes.iter().map(|id| format!("supersedes  {id}")));
    lines.push(format!("restart     {restart:?}"));
    lines.join("\n")
}

fn condition(rule: &Applicability) -> String {
    match rule {
        Applicability::HasPackage { kind, name } => format!("the {kind:?} package {} is installed", one_line(name)),
        Applicability::Fact { name, value } => format!("{} is {:?}", one_line(name), value.as_str()),
        Applicability::FileExists { path } => format!("{} exists", one_line(path)),
    }
}

fn sign(rule: &Detect) -> String {
    match rule {
        Detect::FileHash { path, blake3 } => format!("{} has the BLAKE3 {}", one_line(path), hex::encode(blake3)),
        Detect::FileContains { path, text } => format!("{} contains {:?}", one_line(path), text.as_str()),
        Detect::FileExists { path } => format!("{} exists", one_line(path)),
        Detect::Command { argv, exit_code, timeout_s } => {
            format!(
                "{} is run and ends with {exit_code} within {timeout_s} s",
                quoted(argv.iter().map(|part| part.as_str()))
            )
        }
        Detect::Package { kind, name, version } => {
            format!("the {kind:?} package {} is at {} or later", one_line(name), one_line(version))
        }
        Detect::Selection => "none of the packages below is there in a version that is to be replaced".to_owned(),
    }
}

/// The packages of a snapshot, by who gets them.
fn packages(apt: &AptRecipe) -> Vec<String> {
    let name = |at: &u16| apt.packages.get(usize::from(*at)).map_or("?", |package| package.name.as_str());
    let line = |package: &upswarm_protocol::catalog::AptPackage| {
        let what = one_line(&format!("{}:{}={}", package.name, package.arch, package.version));
        match &package.when_absent {
            WhenAbsent::Never if apt.back => {
                format!("TAKES BACK  to {what} with apt, where another version is installed")
            }
            WhenAbsent::Never => format!("upgrades    {what} with apt, where an earlier version is installed"),
            WhenAbsent::With(others) => format!("brings      {what} with {}", words(others.iter().map(name))),
            WhenAbsent::Always => format!("installs    {what} with apt, on every machine"),
        }
    };
    apt.packages.iter().map(line).collect()
}

fn quoted<'a>(argv: impl Iterator<Item = &'a str>) -> String {
    // Debug spells out what controls a terminal, but not all that turns the direction of writing.
    argv.map(|part| one_line(&format!("{part:?}"))).collect::<Vec<_>>().join(" ")
}

fn recipe(recipe: &Recipe) -> String {
    match recipe {
        Recipe::Exec { argv, exit_codes, timeout_s } => {
            let means = |rule: &ExitRule| format!(", {} means {:?}", rule.code, rule.meaning);
            let codes: String = exit_codes.iter().map(means).collect();
            format!("runs {} within {timeout_s} s{codes}", quoted(argv.iter().map(|part| part.as_str())))
        }
        Recipe::Files { files } => {
            let place = |file: &upswarm_protocol::catalog::FilePlacement| {
                format!("payload {} as {} (mode {:o})", file.payload, one_line(&file.path), file.mode)
            };
            format!("puts {}", files.iter().map(place).collect::<Vec<_>>().join(", "))
        }
        Recipe::Apt(apt) => words(apt.packages.iter().map(|package| package.name.as_str())),
        Recipe::Deb { .. } => "the payloads with dpkg".to_owned(),
        Recipe::Rpm { .. } => "the payloads with rpm".to_owned(),
        Recipe::RemoveFiles { paths } => format!("takes away {}", words(paths.iter().map(|path| path.as_str()))),
        Recipe::RemoveDeb { packages, .. } | Recipe::RemoveRpm { packages, .. } => {
            format!("removes the packages {}", words(packages.iter().map(|name| name.as_str())))
        }
    }
}

fn words<'a>(all: impl Iterator<Item = &'a str>) -> String {
    all.map(one_line).collect::<Vec<_>>().join(", ")
}

/// An approval in one line, to tell two drafts apart.
pub(super) fn of(approval: &Approval) -> String {
    format!(
        "{:?} until {}, {:?}, {:?}, note {:?}",
        approval.action,
        approval.expires,
        approval.schedule,
        approval.rings,
        approval.note.as_str()
    )
}
