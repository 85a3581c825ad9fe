//! The counters of history, kept with every batch: whoever reads them never counts devices. Owns what a change of a device adds to
//! them, and how they become durable; never judges a device, and reads nothing for a page.
//!
//! Invariants, which `ledger_tests` holds against a full recount:
//! * the sum of all `state_day` rows of a group, release and state is the number of devices whose [`Counted`] has it;
//! * the count at the end of a day is that number, less what `change` rows of later days have added;
//! * what is counted of a device stands in its `counted` row of the same transaction, so that a start from other facts (an import, a
//!   copy that was restored) finds what has to change, and counts that as a change of now.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::{AnyConnection, Row as _};
use upswarm_protocol::catalog::Action;
use upswarm_protocol::ids::{DeviceId, DocHash, GroupId, ReleaseId};
use upswarm_protocol::report::BytesBySource;
use upswarm_protocol::time::Wall;

use super::counted::{self, Class, Counted, Mark};
use super::known::Known;
use super::rows::{Value, write};

pub(crate) const DAY_MS: u64 = 86_400_000;
const MINUTE_MS: u64 = 60_000;
/// Rows of change that one device gets at their own time on one day; further ones share a row an hour.
const MAX_CHANGES: u32 = 256;
const HOUR_MS: u64 = 3_600_000;

/// What a number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum KeyKind {
    Device = 0,
    Release = 1,
    Group = 2,
}

/// An approval that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InForce {
    pub(crate) group: GroupId,
    pub(crate) release: ReleaseId,
    pub(crate) version: u64,
    pub(crate) action: Action,
    pub(crate) document: DocHash,
}

/// A row of `change`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Changed {
    before: u8,
    after: Option<Mark>,
}

/// The number of an approval's group and release, and its version.
type ApprovalKey = (u32, u32, u64);

/// The counters as far as the next change needs them, and what the next transaction adds.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    numbers: HashMap<(KeyKind, [u8; 32]), u32>,
    last_number: u32,
    counted: HashMap<u32, Counted>,
    /// Approvals that were ever in force and are not forgotten; whether they still are.
    approvals: BTreeMap<ApprovalKey, bool>,
    /// Rows that a device has on its newest day.
    changes_of: HashMap<u32, (u64, u32)>,
    news: News,
}

/// What the next transaction adds.
#[derive(Debug, Default)]
struct News {
    numbers: Vec<(u32, KeyKind, [u8; 32])>,
    counted: BTreeSet<u32>,
    changes: BTreeMap<(u64, u32, u32, u32, u64), Changed>,
    states: BTreeMap<(u32, u32, u64, u8), i64>,
    done: BTreeMap<(u32, u32, u64), i64>,
    members: BTreeMap<(u32, u64), i64>,
    bytes: BTreeMap<(u32, u64), BytesBySource>,
    approved: Vec<(ApprovalKey, Action, Wall, Vec<u8>)>,
    ended: Vec<(ApprovalKey, Wall)>,
}

impl Ledger {
    /// Reads what the database holds.
    pub(super) async fn load(connection: &mut AnyConnection) -> Result<Self, sqlx::Error> {
        let mut ledger = Self::default();
        for row in sqlx::query("SELECT no, kind, id FROM key_name").fetch_all(&mut *connection).await? {
            let (no, kind, id): (i64, i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let no = number(no)?;
            let kind =
                [KeyKind::Device, KeyKind::Release, KeyKind::Group].into_iter().find(|known| *known as i64 == kind);
            if let (Some(kind), Some(id)) = (kind, padded(&id)) {
                ledger.numbers.insert((kind, id), no);
            }
            ledger.last_number = ledger.last_number.max(no);
        }
        for row in sqlx::query("SELECT device, content FROM counted").fetch_all(&mut *connection).await? {
            let (no, content): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
            let of_device = Counted::restore(&content)
                .ok_or_else(|| sqlx::Error::Decode("a row of what is counted of a device".into()))?;
            ledger.counted.insert(number(no)?, of_device);
        }
        for row in sqlx::query("SELECT grp, release, version, ended FROM approval").fetch_all(&mut *connection).await? {
            let version = u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or_default();
            let key = (number(row.try_get(0)?)?, number(row.try_get(1)?)?, version);
            ledger.approvals.insert(key, row.try_get::<i64, _>(3)? == 0);
        }
        Ok(ledger)
    }

    /// What is in force now; the rest has ended. `document` gives the envelope of one that is new.
    pub(super) fn approvals(&mut self, now: &[InForce], at: Wall, document: impl Fn(&DocHash) -> Vec<u8>) {
        let mut in_force = BTreeSet::new();
        for one in now {
            let (group, release) = (self.group(&one.group), self.number(KeyKind::Release, one.release.0));
            let key = (group, release, one.version);
            in_force.insert(key);
            if self.approvals.insert(key, true) != Some(true) {
                self.news.approved.push((key, one.action, at, document(&one.document)));
            }
        }
        for (key, still) in &mut self.approvals {
            if *still && !in_force.contains(key) {
                *still = false;
                self.news.ended.push((*key, at));
            }
        }
    }

    /// Counts a device as it is now.
    pub(super) fn device(&mut self, device: &DeviceId, known: &Known, at: Wall) {
        let wanted = self.wanted(known);
        let no = self.number(KeyKind::Device, device.0);
        let before = self.counted.get(&no).cloned().unwrap_or_default();
        if before == wanted {
            return;
        }
        let (day, minute) = (at.0 / DAY_MS, at.0 / MINUTE_MS);
        for group in wanted.groups.iter().filter(|group| !before.groups.contains(group)) {
            *self.news.members.entry((*group, day)).or_default() += 1;
        }
        for group in before.groups.iter().filter(|group| !wanted.groups.contains(group)) {
            *self.news.members.entry((*group, day)).or_default() -= 1;
        }
        let was: BTreeMap<(u32, u32), &Mark> = before.marks.iter().map(|mark| (mark.key(), mark)).collect();
        let is: BTreeMap<(u32, u32), &Mark> = wanted.marks.iter().map(|mark| (mark.key(), mark)).collect();
        let keys: BTreeSet<(u32, u32)> = was.keys().chain(is.keys()).copied().collect();
        for (group, release) in keys {
            let (old, new) = (was.get(&(group, release)).copied(), is.get(&(group, release)).copied());
            if old == new {
                continue;
            }
            let (from, to) = (old.map_or(0, |mark| mark.state), new.map_or(0, |mark| mark.state));
            self.change((no, group, release), from, new.copied(), at);
            if from == to {
                continue;
            }
            for (state, by) in [(from, -1), (to, 1)].into_iter().filter(|(state, _)| *state != 0) {
                *self.news.states.entry((group, release, day, state)).or_default() += by;
            }
            let done = |state: u8| i64::from(counted::class(state.into()) == Some(Class::Done));
            if done(from) != done(to) {
                *self.news.done.entry((group, release, minute)).or_default() += done(to) - done(from);
            }
        }
        self.counted.insert(no, wanted);
        self.news.counted.insert(no);
    }

    /// Payload bytes that a device has got since it last said how many.
    pub(super) fn bytes(&mut self, known: &Known, before: &BytesBySource, now: &BytesBySource, at: Wall) {
        // A node that was set up anew counts from zero.
        let anew = now.total() < before.total();
        let more = |now: u64, before: u64| if anew { now } else { now.saturating_sub(before) };
        let more = BytesBySource {
            origin: more(now.origin, before.origin),
            cache: more(now.cache, before.cache),
            lan_peer: more(now.lan_peer, before.lan_peer),
            local_reuse: more(now.local_reuse, before.local_reuse),
        };
        if more == BytesBySource::default() {
            return;
        }
        let groups: Vec<u32> = known.record.groups.iter().map(|group| self.group(group)).collect();
        for group in std::iter::once(EVERY_DEVICE).chain(groups) {
            self.news.bytes.entry((group, at.0 / DAY_MS)).or_default().add(&more);
        }
    }

    /// Adds what has changed to a transaction. Should that fail, the ledger is to be read anew.
    pub(super) async fn flush(&mut self, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
        let News { numbers, counted, changes, states, done, members, bytes, approved, ended } =
            std::mem::take(&mut self.news);
        let int = |number: u32| Value::Int(number.into());
        let long = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
        let of_key = |(no, kind, id): (u32, KeyKind, [u8; 32])| {
            let id = if kind == KeyKind::Group { id[..16].to_vec() } else { id.to_vec() };
            vec![int(no), Value::Int(kind as i64), Value::Bytes(id)]
        };
        write(connection, "key_name (no, kind, id)", "", numbers.into_iter().map(of_key).collect()).await?;
        let rows = counted.iter().filter_map(|no| Some(vec![int(*no), Value::Bytes(self.counted.get(no)?.to_bytes())]));
        let taken = "ON CONFLICT (device) DO UPDATE SET content = excluded.content";
        write(connection, "counted (device, content)", taken, rows.collect()).await?;
        let rows = changes.into_iter().map(|((day, device, group, release, at), Changed { before, after })| {
            let reason = after.map(|mark| format!("{:?}", mark.sub_state)).unwrap_or_default();
            let code = after.and_then(|mark| mark.code).map(i64::from);
            let state = after.map_or(0, |mark| mark.state);
            let numbers = [long(day), int(device), int(group), int(release), long(at)];
            let states = [Value::Int(before.into()), Value::Int(state.into()), Value::Text(reason), Value::Maybe(code)];
            numbers.into_iter().chain(states).collect()
        });
        let columns = "change (day, device, grp, release, at, before, state, reason, code)";
        let taken = "ON CONFLICT (day, device, grp, release, at) DO UPDATE SET state = excluded.state, \
                     reason = excluded.reason, code = excluded.code";
        write(connection, columns, taken, rows.collect()).await?;
        let rows = states.into_iter().filter(|(_, delta)| *delta != 0);
        let rows = rows.map(|((group, release, day, state), delta)| {
            vec![int(group), int(release), long(day), Value::Int(state.into()), Value::Int(delta)]
        });
        let taken = "ON CONFLICT (grp, release, day, state) DO UPDATE SET delta = state_day.delta + excluded.delta";
        write(connection, "state_day (grp, release, day, state, delta)", taken, rows.collect()).await?;
        let rows = done.into_iter().filter(|(_, delta)| *delta != 0);
        let rows = rows
            .map(|((group, release, minute), delta)| vec![int(group), int(release), long(minute), Value::Int(delta)]);
        let taken = "ON CONFLICT (grp, release, minute) DO UPDATE SET delta = done_minute.delta + excluded.delta";
        write(connection, "done_minute (grp, release, minute, delta)", taken, rows.collect()).await?;
        let rows = members.into_iter().filter(|(_, delta)| *delta != 0);
        let rows = rows.map(|((group, day), delta)| vec![int(group), long(day), Value::Int(delta)]);
        let taken = "ON CONFLICT (grp, day) DO UPDATE SET delta = member_day.delta + excluded.delta";
        write(connection, "member_day (grp, day, delta)", taken, rows.collect()).await?;
        let rows = bytes.into_iter().map(|((group, day), sum)| {
            vec![int(group), long(day), long(sum.origin), long(sum.cache), long(sum.lan_peer), long(sum.local_reuse)]
        });
        let sums = ["origin", "cache", "lan_peer", "local_reuse"].map(saturating);
        let taken = format!("ON CONFLICT (grp, day) DO UPDATE SET {}", sums.join(", "));
        let columns = "bytes_day (grp, day, origin, cache, lan_peer, local_reuse)";
        write(connection, columns, &taken, rows.collect()).await?;
        let rows = approved.into_iter().map(|((group, release, version), action, seen, document)| {
            let action = Value::Int(action_number(action));
            vec![int(group), int(release), long(version), action, long(seen.0), Value::Int(0), Value::Bytes(document)]
        });
        let columns = "approval (grp, release, version, action, seen, ended, document)";
        let taken = "ON CONFLICT (grp, release, version) DO UPDATE SET ended = 0";
        write(connection, columns, taken, rows.collect()).await?;
        for ((group, release, version), at) in ended {
            let text = "UPDATE approval SET ended = $1 WHERE grp = $2 AND release = $3 AND version = $4";
            let of = [long(at.0), int(group), int(release), long(version)];
            of.into_iter().fold(sqlx::query(text), |to, value| value.bind_to(to)).execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// What is to be counted of a device: its groups, and what it last said of approvals for them.
    fn wanted(&mut self, known: &Known) -> Counted {
        if !known.counted {
            return Counted::default();
        }
        let mut groups: Vec<u32> = known.record.groups.iter().map(|group| self.group(group)).collect();
        groups.sort_unstable();
        groups.dedup();
        let deployments = known.said.iter().flat_map(|said| &said.deployments);
        let marks = deployments.filter_map(|deployment| {
            let group = *self.numbers.get(&(KeyKind::Group, of_group(&deployment.group)))?;
            let release = *self.numbers.get(&(KeyKind::Release, deployment.release.0))?;
            // What nobody has approved grows no table, whatever a device says.
            let approved = self.approvals.range((group, release, 0)..=(group, release, u64::MAX)).next().is_some();
            (approved && groups.binary_search(&group).is_ok()).then_some(Mark {
                group,
                release,
                state: counted::number(deployment.state),
                sub_state: deployment.sub_state,
                code: deployment.code,
            })
        });
        let mut marks: Vec<Mark> = marks.collect();
        marks.sort_by_key(Mark::key);
        marks.dedup_by_key(|mark| mark.key());
        Counted { groups: groups.into(), marks: marks.into() }
    }

    fn change(&mut self, (device, group, release): (u32, u32, u32), before: u8, after: Option<Mark>, at: Wall) {
        let day = at.0 / DAY_MS;
        let of_device = self.changes_of.entry(device).or_insert((day, 0));
        if of_device.0 != day {
            *of_device = (day, 0);
        }
        of_device.1 = of_device.1.saturating_add(1);
        let at = if of_device.1 > MAX_CHANGES { at.0 - at.0 % HOUR_MS } else { at.0 };
        let row = self.news.changes.entry((day, device, group, release, at)).or_insert(Changed { before, after });
        row.after = after;
    }

    fn group(&mut self, group: &GroupId) -> u32 {
        self.number(KeyKind::Group, of_group(group))
    }

    fn number(&mut self, kind: KeyKind, id: [u8; 32]) -> u32 {
        if let Some(known) = self.numbers.get(&(kind, id)) {
            return *known;
        }
        self.last_number += 1;
        self.numbers.insert((kind, id), self.last_number);
        self.news.numbers.push((self.last_number, kind, id));
        self.last_number
    }
}

/// The group of which every device is a member once.
pub(super) const EVERY_DEVICE: u32 = 0;

/// What a decision is called in rows.
pub(super) fn action_number(action: Action) -> i64 {
    match action {
        Action::Install => 1,
        Action::Uninstall => 2,
        Action::None => 3,
    }
}

/// Adds to a column of bytes, which devices tell, and ends at the largest number: beyond it PostgreSQL refuses the transaction, again
/// and again, and SQLite makes a fraction of the sum.
fn saturating(column: &str) -> String {
    let (sum, more, most) = (format!("bytes_day.{column}"), format!("excluded.{column}"), i64::MAX);
    format!("{column} = CASE WHEN {sum} > {most} - {more} THEN {most} ELSE {sum} + {more} END")
}

fn number(no: i64) -> Result<u32, sqlx::Error> {
    u32::try_from(no).map_err(|_| sqlx::Error::Decode("a number of a device, release or group".into()))
}

fn of_group(group: &GroupId) -> [u8; 32] {
    padded(&group.0).unwrap_or_default()
}

fn padded(id: &[u8]) -> Option<[u8; 32]> {
    let mut all = [0; 32];
    all.get_mut(..id.len())?.copy_from_slice(id);
    Some(all)
}
