//! When and in which stages: the flags that `approve` and `rule add` share.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use upswarm_protocol::catalog::{
    Action, ActiveHours, Approval, Deferral, FetchAhead, Ring, RingPlan, Schedule, Window,
};
use upswarm_protocol::codec::{Bounded, Text};
use upswarm_protocol::ids::{GroupId, ReleaseId};
use upswarm_protocol::schedule;
use upswarm_protocol::time::Wall;
use upswarm_protocol::trust::validate_approval;

use crate::error::CliError;
use crate::units;

/// How long an approval is good if nobody says otherwise.
pub(crate) const LIFE: Duration = Duration::from_secs(30 * 86400);
/// Share of failed and silent devices at which a rollout in rings stops if nobody says otherwise: 2 %.
const STOP_ABOVE: u16 = 200;

/// When and in which stages, as people write it. Times that are relative count from the moment of signing.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ScheduleArgs {
    /// Nothing is installed before: now, +2h, or 2026-12-01T22:00:00Z. Bytes come earlier, as --fetch-ahead has it.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    available: Option<String>,
    /// From here on windows, active hours and deferral hold nothing back: +7d, or 2026-12-08T22:00:00Z.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    /// Time that a machine still has after it wakes, if it slept through the deadline.
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    grace: Option<String>,
    /// Maintenance window in the machine's local time, "mon-fri 22:00-05:00" or "daily 02:00-04:00"; may be repeated.
    #[arg(long, value_name = "WINDOW")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    window: Vec<String>,
    /// Hours of work in the machine's local time, to keep clear of: "mon-fri 08:00-18:00".
    #[arg(long, value_name = "HOURS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    active_hours: Option<String>,
    /// Spread the starts over this time.
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter: Option<String>,
    /// What the person at the machine may put off: times and hours in all, "3x8h".
    #[arg(long, value_name = "TIMESxTOTAL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    defer: Option<String>,
    /// How long before its turn (--available, and its ring) a machine may fetch: 1h if not given, 0s for not before, 2d where the
    /// link is thin. What is stopped before has then cost nobody the download.
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    fetch_ahead: Option<String>,
    /// Before its turn a machine fetches in these hours only, in its local time: "daily 22:00-05:00"; may be repeated.
    #[arg(long, value_name = "WINDOW", requires = "fetch_ahead")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fetch_window: Vec<String>,
    /// Now, whatever windows, rings and the person at the machine would say.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    expedite: bool,
    /// A stage of the rollout: share of the group so far, and when it begins: "1%", then "10%+1d", then "100%+3d".
    #[arg(long, value_name = "SHARE[+DELAY]")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ring: Vec<String>,
    /// Hold the approval when more than this share of the devices that have begun fail or fall silent; 0% never. With rings
    /// 2% if not given, otherwise never.
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_above: Option<String>,
    /// How long the approval is good; 30d if not given.
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    life: Option<String>,
    /// A remark, at most 256 bytes.
    #[arg(long, default_value = "")]
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

impl ScheduleArgs {
    /// An approval with this schedule, checked as a device checks it.
    pub(crate) fn approval(
        &self,
        (group, release): (GroupId, ReleaseId),
        version: u64,
        action: Action,
        now: Wall,
    ) -> Result<Approval, CliError> {
        let life = self.life.as_deref().map_or(Ok(LIFE), units::duration).map_err(named("--life"))?;
        let approval = Approval {
            group,
            group_version: 0,
            release,
            version,
            action,
            back: false,
            issued: now,
            expires: now + life,
            schedule: self.schedule(now)?,
            rings: self.rings()?,
            note: Text::new(self.note.as_str()).map_err(named("--note"))?,
            filtered: None,
        };
        check(&approval)?;
        Ok(approval)
    }

    /// Refuses times on the calendar: a rule is applied again and again.
    pub(crate) fn must_be_relative(&self) -> Result<(), CliError> {
        for (option, text) in [("--available", &self.available), ("--deadline", &self.deadline)] {
            if let Some(text) = text.as_ref().filter(|text| *text != "now" && !text.starts_with('+')) {
                let reason = format!("{option} {text:?}: a rule is for every release to come; write for example +7d");
                return Err(CliError::Refused(reason));
            }
        }
        Ok(())
    }

    /// In a few words, for tables; empty when nothing is set.
    pub(crate) fn words(&self) -> String {
        let mut words = Vec::new();
        let mut say = |option: &str, value: &Option<String>| {
            words.extend(value.as_ref().map(|value| format!("{option} {value}")));
        };
        say("available", &self.available);
        say("deadline", &self.deadline);
        say("grace", &self.grace);
        say("active hours", &self.active_hours);
        say("jitter", &self.jitter);
        say("defer", &self.defer);
        say("fetch ahead", &self.fetch_ahead);
        say("stop above", &self.stop_above);
        say("life", &self.life);
        words.extend(self.window.iter().map(|window| format!("window {window}")));
        words.extend(self.fetch_window.iter().map(|window| format!("fetch window {window}")));
        words.extend(self.ring.iter().map(|ring| format!("ring {ring}")));
        words.extend(self.expedite.then(|| "expedite".to_owned()));
        words.join("; ")
    }

    fn schedule(&self, now: Wall) -> Result<Schedule, CliError> {
        let instant = |option: &'static str, text: &Option<String>| {
            text.as_deref().map(|text| units::instant(text, now)).transpose().map_err(named(option))
        };
        if self.deadline.as_deref().is_some_and(|text| text.starts_with('-')) {
            return Err(CliError::Refused("--deadline: a deadline lies ahead; write +7d or a date".to_owned()));
        }
        if self.available.as_deref().is_some_and(|text| text.starts_with('-')) {
            return Err(CliError::Refused(
                "--available: what is past holds nothing back; write now, +2h or a date".to_owned(),
            ));
        }
        if self.grace.is_some() && self.deadline.is_none() {
            return Err(CliError::Refused("--grace begins at the deadline; give a --deadline too".to_owned()));
        }
        let holds_back = [
            (!self.window.is_empty(), "--window"),
            (self.active_hours.is_some(), "--active-hours"),
            (self.jitter.is_some(), "--jitter"),
            (self.defer.is_some(), "--defer"),
            (!self.ring.is_empty(), "--ring"),
        ];
        if let Some((_, option)) = holds_back.iter().find(|(given, _)| self.expedite && *given) {
            return Err(CliError::Refused(format!("--expedite passes over {option}; leave one of them out")));
        }
        let windows: Result<Vec<Window>, String> = self.window.iter().map(|text| units::window(text)).collect();
        let fetch_windows: Result<Vec<Window>, String> =
            self.fetch_window.iter().map(|text| units::window(text)).collect();
        let fetch_windows = fetch_windows.map_err(named("--fetch-window"))?;
        let active_hours =
            self.active_hours.as_deref().map(units::window).transpose().map_err(named("--active-hours"))?;
        Ok(Schedule {
            available_from: instant("--available", &self.available)?,
            deadline: instant("--deadline", &self.deadline)?,
            grace_s: seconds("--grace", self.grace.as_deref())?,
            windows: Bounded::new(windows.map_err(named("--window"))?).map_err(named("--window"))?,
            active_hours: active_hours.map(|hours| ActiveHours {
                days: hours.days,
                start: hours.start,
                end: hours.end,
            }),
            deferral: self.defer.as_deref().map(deferral).transpose().map_err(named("--defer"))?.unwrap_or_default(),
            jitter_s: seconds("--jitter", self.jitter.as_deref())?,
            expedite: self.expedite,
            fetch_ahead: FetchAhead {
                within_s: match self.fetch_ahead.as_deref() {
                    Some(text) => seconds("--fetch-ahead", Some(text))?,
                    None => FetchAhead::WITHIN_S,
                },
                windows: Bounded::new(fetch_windows).map_err(named("--fetch-window"))?,
            },
        })
    }

    fn rings(&self) -> Result<RingPlan, CliError> {
        let rings: Result<Vec<Ring>, String> = self.ring.iter().map(|text| ring(text)).collect();
        let rings = Bounded::new(rings.map_err(named("--ring"))?).map_err(named("--ring"))?;
        let default = if rings.is_empty() { 0 } else { STOP_ABOVE };
        let stop_above = self.stop_above.as_deref().map(share).transpose().map_err(named("--stop-above"))?;
        Ok(RingPlan { rings, stop_above: stop_above.unwrap_or(default) })
    }
}

/// Refuses an approval that contradicts itself.
pub(crate) fn check(approval: &Approval) -> Result<(), CliError> {
    schedule::check(approval).map_err(|error| CliError::Refused(error.to_string()))?;
    validate_approval(approval).map_err(|error| CliError::Refused(error.to_string()))
}

/// Hundredths of a percent as people write them: `0.5 %`.
pub(crate) fn percent(share: u16) -> String {
    format!("{} %", f64::from(share) / 100.0)
}

/// `1%` or `10%+1d`.
fn ring(text: &str) -> Result<Ring, String> {
    let (reach, delay) = text.split_once('+').map_or((text, None), |(reach, delay)| (reach, Some(delay)));
    let delay = delay.map_or(Ok(Duration::ZERO), |delay| units::duration(delay.trim()))?;
    let delay_s = u32::try_from(delay.as_secs()).map_err(|_| format!("{text:?}: the delay is too long"))?;
    match share(reach)? {
        0 => Err(format!("{text:?}: a ring of nobody")),
        up_to => Ok(Ring { up_to, delay_s }),
    }
}

/// `5%`, `0.5%`, in hundredths of a percent.
fn share(text: &str) -> Result<u16, String> {
    let refuse = || format!("{text:?} is no share; write for example 5% or 0.5%, at most 100%");
    let number = text.trim().strip_suffix('%').ok_or_else(refuse)?.trim();
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.len() <= 3 && text.bytes().all(|c| c.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 2 {
        return Err(refuse());
    }
    let hundredths = format!("{whole}{part:0<2}").parse::<u16>().map_err(|_| refuse())?;
    if hundredths > 10_000 { Err(refuse()) } else { Ok(hundredths) }
}

/// `3x8h`: three times, eight hours in all.
fn deferral(text: &str) -> Result<Deferral, String> {
    let refuse = || format!("{text:?} is no deferral; write for example 3x8h: three times, eight hours in all");
    let (times, total) = text.split_once('x').ok_or_else(refuse)?;
    let max_times: u8 = times.trim().parse().map_err(|_| refuse())?;
    let total = units::duration(total.trim()).map_err(|_| refuse())?;
    let max_total_s = u32::try_from(total.as_secs()).map_err(|_| refuse())?;
    if (max_times == 0) != (max_total_s == 0) {
        return Err(refuse());
    }
    Ok(Deferral { max_times, max_total_s })
}

fn seconds(option: &'static str, text: Option<&str>) -> Result<u32, CliError> {
    let Some(text) = text else { return Ok(0) };
    let duration = units::duration(text).map_err(named(option))?;
    u32::try_from(duration.as_secs()).map_err(|_| named(option)(format!("{text:?} is too long")))
}

fn named<E: std::fmt::Display>(option: &'static str) -> impl Fn(E) -> CliError {
    move |error| CliError::Refused(format!("{option}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use upswarm_protocol::catalog::Weekdays;

    fn args(flags: &[&str]) -> ScheduleArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            schedule: ScheduleArgs,
        }
        <Line as clap::Parser>::parse_from(std::iter::once(&"x").chain(flags)).schedule
    }

    fn build(flags: &[&str]) -> Result<Approval, String> {
        let now = Wall(1_800_000_000_000);
        args(flags)
            .approval((GroupId([1; 16]), ReleaseId([2; 32])), 1, Action::Install, now)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_flag_reaches_the_approval() {
        let approval = build(&[
            "--available",
            "+1h",
            "--deadline",
            "+7d",
            "--grace",
            "2h",
            "--window",
            "mon-fri 22:00-05:00",
            "--window",
            "sat,sun 00:00-24:00",
            "--active-hours",
            "mon-fri 8:00-18:00",
            "--jitter",
            "30m",
            "--defer",
            "3x8h",
            "--ring",
            "1%",
            "--ring",
            "10%+1d",
            "--ring",
            "100%+3d",
            "--stop-above",
            "2.5%",
            "--fetch-ahead",
            "2d",
            "--fetch-window",
            "daily 22:00-05:00",
            "--note",
            "patch day",
            "--life",
            "60d",
        ])
        .unwrap();
        let schedule = &approval.schedule;
        assert_eq!(schedule.available_from, Some(approval.issued + Duration::from_secs(3600)));
        assert_eq!(schedule.deadline, Some(approval.issued + Duration::from_secs(7 * 86400)));
        let night = Window { days: Weekdays(0b1_1111), start: 1320, end: 300 };
        assert_eq!(schedule.windows.to_vec(), [night, Window { days: Weekdays(0b110_0000), start: 0, end: 1440 }]);
        let work = ActiveHours { days: Weekdays(0b1_1111), start: 480, end: 1080 };
        assert_eq!((schedule.active_hours, schedule.grace_s, schedule.jitter_s), (Some(work), 7200, 1800));
        let nights = Window { days: Weekdays::ALL, start: 1320, end: 300 };
        assert_eq!((schedule.fetch_ahead.within_s, schedule.fetch_ahead.windows.to_vec()), (2 * 86_400, vec![nights]));
        assert_eq!(build(&["--fetch-ahead", "0s"]).unwrap().schedule.fetch_ahead.within_s, 0);
        assert_eq!(schedule.deferral, Deferral { max_times: 3, max_total_s: 8 * 3600 });
        let ring = |up_to, delay_s| Ring { up_to, delay_s };
        assert_eq!(approval.rings.rings.to_vec(), [ring(100, 0), ring(1000, 86400), ring(10_000, 3 * 86400)]);
        assert_eq!((approval.rings.stop_above, approval.note.as_str()), (250, "patch day"));
        assert_eq!(approval.expires, approval.issued + Duration::from_secs(60 * 86400));
        assert!(build(&["--expedite", "--deadline", "+1d", "--grace", "1h"]).unwrap().schedule.expedite);
        assert_eq!(build(&["--ring", "0.5%", "--ring", "100%"]).unwrap().rings.stop_above, STOP_ABOVE);
        assert_eq!(build(&["--ring", "100%", "--stop-above", "0%"]).unwrap().rings.stop_above, 0);
        assert_eq!(build(&[]).unwrap().rings, RingPlan::default());
        assert_eq!(build(&[]).unwrap().schedule.fetch_ahead, FetchAhead::default());
    }

    #[test]
    fn windows_and_days_as_people_write_them() {
        for (text, days, start, end) in [
            ("daily 2:00-4:30", 0x7f, 120, 270),
            ("MON 00:00-00:00", 1, 0, 0),
            ("fri-mon 23:59-00:01", 0b111_0001, 1439, 1),
            ("mon-wed,fri 10:00-11:00", 0b1_0111, 600, 660),
            ("sun-sun 10:00-24:00", 0b100_0000, 600, 1440),
        ] {
            assert_eq!(units::window(text), Ok(Window { days: Weekdays(days), start, end }), "{text}");
        }
        for bad in [
            "",
            "mon",
            "22:00-05:00",
            "mon-fri 22-05",
            "mon-fri 22:00",
            "mon-fri 25:00-05:00",
            "mon-fri 22:60-05:00",
            "mon-fri 24:01-05:00",
            "mon-fri 24:00-05:00",
            "xyz 22:00-05:00",
            "mon- 22:00-05:00",
            ", 1:00-2:00",
            "mon-fri 22:00 - 05:00",
            "mon 2:0-3:00",
            "mon +2:00-3:00",
            "mon-fri 22:00-05:00 x",
        ] {
            assert!(units::window(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn contradictions_are_refused_and_named() {
        for (flags, cause) in [
            (&["--deadline", "+1h", "--available", "+2h"][..], "deadline"),
            (&["--deadline", "1999-01-01T00:00:00Z"], "deadline"),
            (&["--deadline", "-7d"], "a deadline lies ahead; write +7d or a date"),
            (&["--available", "-2h"], "write now, +2h or a date"),
            (&["--available", "+31d"], "expires"),
            (&["--available", "tomorrow"], "--available"),
            (&["--grace", "2h"], "--deadline"),
            (&["--window", "mon-fri 09:00-17:00", "--active-hours", "daily 08:00-18:00"], "active hours"),
            (&["--active-hours", "daily 00:00-24:00"], "active hours"),
            (&["--ring", "10%", "--ring", "5%+1d"], "ring 2"),
            (&["--ring", "10%+2d", "--ring", "50%+1d"], "ring 2"),
            (&["--ring", "0%"], "nobody"),
            (&["--ring", "101%"], "--ring"),
            (&["--ring", "10"], "--ring"),
            (&["--ring", "10%+soon"], "--ring"),
            (&["--ring", "10.123%"], "--ring"),
            (&["--ring", ".5%"], "--ring"),
            (&["--stop-above", "many"], "--stop-above"),
            (&["--expedite", "--ring", "10%"], "--ring"),
            (&["--expedite", "--window", "daily 1:00-2:00"], "--window"),
            (&["--defer", "3"], "--defer"),
            (&["--defer", "0x8h"], "--defer"),
            (&["--defer", "300x8h"], "--defer"),
            (&["--jitter", "136y"], "--jitter"),
            (&["--jitter", "99999d"], "--jitter"),
            (&["--life", "0s"], "expires"),
        ] {
            let error = build(flags).expect_err(&format!("{flags:?}"));
            assert!(error.contains(cause), "{flags:?}: {error}");
        }
        let long = "x".repeat(257);
        assert!(build(&["--note", &long]).unwrap_err().contains("--note"));
        let many: Vec<&str> = std::iter::repeat_n(["--window", "daily 1:00-2:00"], 17).flatten().collect();
        assert!(build(&many).unwrap_err().contains("--window"));
    }

    #[test]
    fn a_rule_keeps_what_was_written() {
        let written = args(&["--deadline", "+7d", "--ring", "10%", "--ring", "100%+1d"]);
        let stored = serde_json::to_string(&written).unwrap();
        assert_eq!(serde_json::from_str::<ScheduleArgs>(&stored).unwrap(), written);
        assert_eq!(written.words(), "deadline +7d; ring 10%; ring 100%+1d");
        assert!(written.must_be_relative().is_ok());
        assert!(args(&["--deadline", "2026-12-08T22:00:00Z"]).must_be_relative().is_err());
    }
}
