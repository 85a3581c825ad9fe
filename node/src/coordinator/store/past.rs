//! What has been: read from the counters of history, never by counting devices. Owns the queries; what their answers mean for an admin is
//! said by `admin::reports`. Reads by connections of its own, and delays no batch.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{AnyPool, Row as _};
use upswarm_protocol::catalog::Action;
use upswarm_protocol::ids::{GroupId, ReleaseId};
use upswarm_protocol::report::BytesBySource;
use upswarm_protocol::time::Wall;

use super::counted::{Class, class};
use super::database::Database;
use super::ledger::{self, DAY_MS, EVERY_DEVICE, KeyKind};

/// A day since 1970 in UTC.
pub(crate) type Day = u64;

/// The readers' end of history.
#[derive(Debug, Clone)]
pub(crate) struct Past {
    database: Database,
}

/// Devices by how they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stands {
    /// Devices of the group, once for each approval.
    pub(crate) expected: u64,
    pub(crate) done: u64,
    pub(crate) pending: u64,
    pub(crate) failed: u64,
}

impl Stands {
    /// Those that have said nothing.
    pub(crate) fn unknown(&self) -> u64 {
        self.expected.saturating_sub(self.done + self.pending + self.failed)
    }
}

/// How a group stood at the end of a day with everything that was approved for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupDay {
    pub(crate) group: GroupId,
    pub(crate) day: Day,
    pub(crate) members: u64,
    pub(crate) approvals: u64,
    pub(crate) stands: Stands,
}

/// How a rollout went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Went {
    pub(crate) group: GroupId,
    pub(crate) release: ReleaseId,
    pub(crate) action: Action,
    /// When it was first approved, and when that ended.
    pub(crate) begun: Wall,
    pub(crate) ended: Option<Wall>,
    pub(crate) stands: Stands,
    /// Milliseconds until 50, 90 and 99 of 100 devices were done.
    pub(crate) reached: [Option<u64>; 3],
}

/// An approval that was in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Approved {
    pub(crate) group: GroupId,
    pub(crate) release: ReleaseId,
    pub(crate) version: u64,
    pub(crate) action: Action,
    pub(crate) seen: Wall,
    pub(crate) ended: Option<Wall>,
    /// Its envelope; empty when it could not be read.
    pub(crate) document: Vec<u8>,
}

/// Shares of devices whose time a report gives.
const SHARES: [u64; 3] = [50, 90, 99];

impl Past {
    pub(crate) fn new(database: Database) -> Self {
        Self { database }
    }

    pub(crate) async fn close(&self) {
        self.database.close().await;
    }

    /// How each group stood on each day from `from` to `to` of which anything is known.
    pub(crate) async fn by_day(&self, from: Day, to: Day) -> anyhow::Result<Vec<GroupDay>> {
        Ok(self.read_days(from, to).await.map_err(|error| self.database.explain(error))?)
    }

    /// Every rollout, the newest first.
    pub(crate) async fn rollouts(&self) -> anyhow::Result<Vec<Went>> {
        Ok(self.read_rollouts().await.map_err(|error| self.database.explain(error))?)
    }

    /// Payload bytes by day of a group, or of all devices.
    pub(crate) async fn bytes(&self, group: Option<GroupId>, from: Day) -> anyhow::Result<Vec<(Day, BytesBySource)>> {
        Ok(self.read_bytes(group, from).await.map_err(|error| self.database.explain(error))?)
    }

    /// Every approval that was in force since then, the newest first.
    pub(crate) async fn approvals(&self, since: Wall) -> anyhow::Result<Vec<Approved>> {
        let (pool, names) = (self.database.pool(), self.names().await);
        let all = match names {
            Ok(names) => approvals(pool, &names).await,
            Err(error) => Err(error),
        };
        let all = all.map_err(|error| self.database.explain(error))?;
        let mut all: Vec<Approved> =
            all.into_iter().map(|(_, one)| one).filter(|one| one.ended.is_none_or(|ended| ended >= since)).collect();
        all.sort_by_key(|one| std::cmp::Reverse((one.seen, one.version)));
        Ok(all)
    }

    async fn names(&self) -> Result<Names, sqlx::Error> {
        let mut names = Names::default();
        let text = "SELECT no, kind, id FROM key_name WHERE kind <> $1";
        for row in sqlx::query(text).bind(KeyKind::Device as i64).fetch_all(self.database.pool()).await? {
            let (no, kind, id): (i64, i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            if kind == KeyKind::Group as i64 {
                names.groups.extend(id.try_into().ok().map(|id| (no, GroupId(id))));
            } else {
                names.releases.extend(id.try_into().ok().map(|id| (no, ReleaseId(id))));
            }
        }
        Ok(names)
    }

    async fn read_days(&self, from: Day, to: Day) -> Result<Vec<GroupDay>, sqlx::Error> {
        let pool = self.database.pool();
        let names = self.names().await?;
        let approvals = approvals(pool, &names).await?;
        // What was before the first day is added to it.
        let text = "SELECT grp, d, CAST(SUM(delta) AS BIGINT) FROM \
                    (SELECT grp, CASE WHEN day < $1 THEN $1 ELSE day END AS d, delta FROM member_day) AS x GROUP BY grp, d";
        let mut joined: BTreeMap<(i64, Day), i64> = BTreeMap::new();
        for row in sqlx::query(text).bind(int(from)).fetch_all(pool).await? {
            joined.insert((row.try_get(0)?, day(row.try_get(1)?)), row.try_get(2)?);
        }
        let text = "SELECT grp, release, d, state, CAST(SUM(delta) AS BIGINT) FROM (SELECT grp, release, \
                    CASE WHEN day < $1 THEN $1 ELSE day END AS d, state, delta FROM state_day) AS x \
                    GROUP BY grp, release, d, state";
        let mut moved: BTreeMap<Day, Vec<(i64, i64, Class, i64)>> = BTreeMap::new();
        for row in sqlx::query(text).bind(int(from)).fetch_all(pool).await? {
            if let Some(class) = class(row.try_get(3)?) {
                let change = (row.try_get(0)?, row.try_get(1)?, class, row.try_get(4)?);
                moved.entry(day(row.try_get(2)?)).or_default().push(change);
            }
        }
        let text = "SELECT COALESCE(MIN(day), $1) FROM member_day";
        let first: i64 = sqlx::query(text).bind(int(to)).fetch_one(pool).await?.try_get(0)?;
        let groups: BTreeSet<i64> = joined.keys().map(|(group, _)| *group).collect();
        let mut members: BTreeMap<i64, i64> = BTreeMap::new();
        let mut stands: BTreeMap<(i64, i64), BTreeMap<Class, i64>> = BTreeMap::new();
        let mut days = Vec::new();
        for day in from.max(day(first))..=to {
            for (group, release, class, delta) in moved.remove(&day).unwrap_or_default() {
                *stands.entry((group, release)).or_default().entry(class).or_default() += delta;
            }
            for no in &groups {
                let Some(group) = names.groups.get(no) else { continue };
                let of_group = members.entry(*no).or_default();
                *of_group += joined.get(&(*no, day)).copied().unwrap_or_default();
                let count = u64::try_from(*of_group).unwrap_or_default();
                let releases: BTreeSet<i64> = approvals
                    .iter()
                    .filter(|((of, _), one)| of == no && one.action != Action::None && is_in_force(one, day))
                    .map(|((_, release), _)| *release)
                    .collect();
                let mut sum = Stands::default();
                for release in &releases {
                    add(&mut sum, count, stands.get(&(*no, *release)));
                }
                days.push(GroupDay {
                    group: *group,
                    day,
                    members: count,
                    approvals: releases.len() as u64,
                    stands: sum,
                });
            }
        }
        Ok(days)
    }

    async fn read_rollouts(&self) -> Result<Vec<Went>, sqlx::Error> {
        let pool = self.database.pool();
        let names = self.names().await?;
        let mut members: BTreeMap<i64, u64> = BTreeMap::new();
        let text = "SELECT grp, CAST(SUM(delta) AS BIGINT) FROM member_day GROUP BY grp";
        for row in sqlx::query(text).fetch_all(pool).await? {
            members.insert(row.try_get(0)?, day(row.try_get(1)?));
        }
        let mut stands: BTreeMap<(i64, i64), BTreeMap<Class, i64>> = BTreeMap::new();
        let text = "SELECT grp, release, state, CAST(SUM(delta) AS BIGINT) FROM state_day GROUP BY grp, release, state";
        for row in sqlx::query(text).fetch_all(pool).await? {
            if let Some(class) = class(row.try_get(2)?) {
                let of = stands.entry((row.try_get(0)?, row.try_get(1)?)).or_default().entry(class).or_default();
                *of += row.try_get::<i64, _>(3)?;
            }
        }
        let mut done: BTreeMap<(i64, i64), Vec<(u64, i64)>> = BTreeMap::new();
        let text = "SELECT grp, release, minute, delta FROM done_minute ORDER BY minute";
        for row in sqlx::query(text).fetch_all(pool).await? {
            let step = (day(row.try_get(2)?), row.try_get(3)?);
            done.entry((row.try_get(0)?, row.try_get(1)?)).or_default().push(step);
        }
        // Versions of one approval are one rollout; what counts is the newest.
        let mut rollouts: BTreeMap<(i64, i64), Went> = BTreeMap::new();
        for (key, one) in approvals(pool, &names).await? {
            if one.action == Action::None {
                // Whoever declines ends what was approved before.
                if let Some(known) = rollouts.get_mut(&key) {
                    known.ended = known.ended.or(Some(one.seen));
                }
                continue;
            }
            let known = rollouts.entry(key).or_insert_with(|| Went {
                group: one.group,
                release: one.release,
                action: one.action,
                begun: one.seen,
                ended: one.ended,
                stands: Stands::default(),
                reached: [None; 3],
            });
            if known.action != one.action {
                // Another decision is another rollout.
                (known.action, known.begun) = (one.action, one.seen);
            }
            known.ended = one.ended;
        }
        for (key, went) in &mut rollouts {
            let expected = members.get(&key.0).copied().unwrap_or_default();
            add(&mut went.stands, expected, stands.get(key));
            let steps = done.get(key).map(Vec::as_slice).unwrap_or_default();
            went.reached = SHARES.map(|share| reached(steps, (expected * share).div_ceil(100), went.begun));
        }
        let mut all: Vec<Went> = rollouts.into_values().collect();
        all.sort_by_key(|went| std::cmp::Reverse(went.begun));
        Ok(all)
    }

    async fn read_bytes(&self, group: Option<GroupId>, from: Day) -> Result<Vec<(Day, BytesBySource)>, sqlx::Error> {
        let no = match group {
            None => i64::from(EVERY_DEVICE),
            Some(group) => match self.names().await?.groups.into_iter().find(|(_, known)| *known == group) {
                Some((no, _)) => no,
                None => return Ok(Vec::new()),
            },
        };
        // An earlier program added without a bound, and SQLite may hold a fraction: the cast makes it the largest number.
        let text = "SELECT day, CAST(origin AS BIGINT), CAST(cache AS BIGINT), CAST(lan_peer AS BIGINT), \
                    CAST(local_reuse AS BIGINT) FROM bytes_day WHERE grp = $1 AND day >= $2 ORDER BY day";
        let rows = sqlx::query(text).bind(no).bind(int(from)).fetch_all(self.database.pool()).await?;
        let read = |row: &sqlx::any::AnyRow| -> Result<(Day, BytesBySource), sqlx::Error> {
            let bytes = BytesBySource {
                origin: day(row.try_get(1)?),
                cache: day(row.try_get(2)?),
                lan_peer: day(row.try_get(3)?),
                local_reuse: day(row.try_get(4)?),
            };
            Ok((day(row.try_get(0)?), bytes))
        };
        rows.iter().map(read).collect()
    }
}

/// What numbers stand for.
#[derive(Debug, Default)]
struct Names {
    groups: BTreeMap<i64, GroupId>,
    releases: BTreeMap<i64, ReleaseId>,
}

/// Every approval by the numbers of its group and release, in order of their versions.
async fn approvals(pool: &AnyPool, names: &Names) -> Result<Vec<((i64, i64), Approved)>, sqlx::Error> {
    let text = "SELECT grp, release, version, action, seen, ended, document FROM approval ORDER BY version";
    let mut all = Vec::new();
    for row in sqlx::query(text).fetch_all(pool).await? {
        let key: (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let (Some(group), Some(release)) = (names.groups.get(&key.0), names.releases.get(&key.1)) else { continue };
        let ended: i64 = row.try_get(5)?;
        let action: i64 = row.try_get(3)?;
        let actions = [Action::Install, Action::Uninstall, Action::None];
        let Some(action) = actions.into_iter().find(|known| ledger::action_number(*known) == action) else { continue };
        let approved = Approved {
            group: *group,
            release: *release,
            version: day(row.try_get(2)?),
            action,
            seen: Wall(day(row.try_get(4)?)),
            ended: (ended > 0).then(|| Wall(day(ended))),
            document: row.try_get(6)?,
        };
        all.push((key, approved));
    }
    Ok(all)
}

/// Whether an approval was in force at the end of a day.
fn is_in_force(one: &Approved, day: Day) -> bool {
    one.seen.0 / DAY_MS <= day && one.ended.is_none_or(|ended| ended.0 / DAY_MS > day)
}

fn add(sum: &mut Stands, members: u64, of: Option<&BTreeMap<Class, i64>>) {
    let count = |class: Class| of.and_then(|of| of.get(&class)).map_or(0, |count| day(*count));
    sum.expected += members;
    sum.done += count(Class::Done);
    sum.pending += count(Class::Pending);
    sum.failed += count(Class::Failed);
}

/// Milliseconds from `begun` until so many devices were done; `steps` are minutes in order, with how many more were done then.
fn reached(steps: &[(u64, i64)], wanted: u64, begun: Wall) -> Option<u64> {
    let wanted = i64::try_from(wanted).ok().filter(|wanted| *wanted > 0)?;
    let mut sum = 0;
    let at = steps.iter().find(|(_, delta)| {
        sum += delta;
        sum >= wanted
    })?;
    // The end of the minute: it was not earlier.
    Some(((at.0 + 1) * 60_000).saturating_sub(begun.0))
}

fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A count or time as it is kept; none is below zero.
fn day(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
