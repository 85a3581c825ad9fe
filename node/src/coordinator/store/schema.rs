//! The tables of the fleet store, the same on SQLite and PostgreSQL. Owns their versions; never reads or writes a row.
//!
//! ```text
//! told            the newest words of each device by kind: status, inventory (its difference from a base), scan
//! inventory_base  by digest: what many devices have installed
//! key_name        numbers for devices, releases and groups, so that a row of history is small
//! counted         what the counters hold of each device: its groups, and its state of each release there
//! change          each change of a device's state of a release; rows of one device are bounded by day
//! state_day       by group, release, day and state: devices that came, less those that left. The sum up to a day is that day's count
//! done_minute     the same for devices that are done, by minute
//! member_day      by group and day: devices that joined, less those that left
//! bytes_day       payload bytes by group and day; group 0 is every device once
//! approval        every approval that was in force, with its document
//! ```
//! Times are milliseconds since 1970 UTC by the coordinator's clock, days are those of UTC.

/// The steps from an empty database to today's, each one version. A step that was released is never changed.
pub(super) const STEPS: [&[&str]; 1] = [&[
    "CREATE TABLE told (device BYTES NOT NULL, kind BIGINT NOT NULL, content BYTES NOT NULL, PRIMARY KEY (device, kind))",
    "CREATE TABLE inventory_base (digest BYTES NOT NULL PRIMARY KEY, content BYTES NOT NULL)",
    "CREATE TABLE key_name (no BIGINT NOT NULL PRIMARY KEY, kind BIGINT NOT NULL, id BYTES NOT NULL, UNIQUE (kind, id))",
    "CREATE TABLE counted (device BIGINT NOT NULL PRIMARY KEY, content BYTES NOT NULL)",
    "CREATE TABLE change (day BIGINT NOT NULL, device BIGINT NOT NULL, grp BIGINT NOT NULL, release BIGINT NOT NULL, \
     at BIGINT NOT NULL, before BIGINT NOT NULL, state BIGINT NOT NULL, reason TEXT NOT NULL, code BIGINT, \
     PRIMARY KEY (day, device, grp, release, at))",
    "CREATE TABLE state_day (grp BIGINT NOT NULL, release BIGINT NOT NULL, day BIGINT NOT NULL, state BIGINT NOT NULL, \
     delta BIGINT NOT NULL, PRIMARY KEY (grp, release, day, state))",
    "CREATE TABLE done_minute (grp BIGINT NOT NULL, release BIGINT NOT NULL, minute BIGINT NOT NULL, delta BIGINT NOT NULL, \
     PRIMARY KEY (grp, release, minute))",
    "CREATE TABLE member_day (grp BIGINT NOT NULL, day BIGINT NOT NULL, delta BIGINT NOT NULL, PRIMARY KEY (grp, day))",
    "CREATE TABLE bytes_day (grp BIGINT NOT NULL, day BIGINT NOT NULL, origin BIGINT NOT NULL, cache BIGINT NOT NULL, \
     lan_peer BIGINT NOT NULL, local_reuse BIGINT NOT NULL, PRIMARY KEY (grp, day))",
    "CREATE TABLE approval (grp BIGINT NOT NULL, release BIGINT NOT NULL, version BIGINT NOT NULL, action BIGINT NOT NULL, \
     seen BIGINT NOT NULL, ended BIGINT NOT NULL, document BYTES NOT NULL, PRIMARY KEY (grp, release, version))",
]];

/// What this program writes.
pub(super) const VERSION: i64 = STEPS.len() as i64;
