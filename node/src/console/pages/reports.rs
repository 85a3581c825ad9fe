//! Reports: what was so over time, a table each, with the same as CSV and JSON, and fit to be printed.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::{Frame, Page, render};
use crate::api::report_lines::near;
use crate::api::reports::{Approvals, Compliance, ReportQuery, RolloutTimes, Savings, Vulnerable};
use crate::console::Console;
use crate::console::guard::Visitor;
use crate::console::trouble::Trouble;
use crate::console::{show, trend};

/// Lines on a page; the files hold all.
const MAX_LINES: usize = 400;

/// Which report, about what.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    #[serde(default)]
    show: Report,
    #[serde(default)]
    group: String,
    #[serde(default)]
    release: String,
    #[serde(default)]
    since: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Report {
    #[default]
    Compliance,
    Rollout,
    Vulnerable,
    Savings,
    Approvals,
}

impl Report {
    const ALL: [(Report, &str, &str); 5] = [
        (Report::Compliance, "compliance", "Compliance"),
        (Report::Rollout, "rollout", "Rollouts"),
        (Report::Vulnerable, "vulnerable", "Vulnerable"),
        (Report::Savings, "savings", "Bytes saved"),
        (Report::Approvals, "approvals", "Approvals"),
    ];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(known, ..)| *known == self).map_or("", |(_, word, _)| word)
    }

    fn means(self) -> &'static str {
        match self {
            Report::Compliance => {
                "Each device counts once for each release that was approved for its group on that day. Days are those of UTC; \
                 what a device has not told is not known, and never counts as done."
            }
            Report::Rollout => {
                "The minutes from the approval within which 50, 90 and 99 of 100 devices of the group were done."
            }
            Report::Vulnerable => {
                "Devices that have a CVE now, by what they say is installed and what feeds say of that."
            }
            Report::Savings => {
                "Payload bytes by day and by where they came from; what did not cross the WAN was saved."
            }
            Report::Approvals => "Every approval that was in force, as its document says; signatures are checked anew.",
        }
    }
}

/// A report as lines.
pub(in crate::console) struct Lines {
    pub(in crate::console) head: Vec<&'static str>,
    pub(in crate::console) rows: Vec<Vec<String>>,
    basis: Vec<String>,
    picture: String,
}

#[derive(Template)]
#[template(path = "reports.html")]
struct ReportsPage {
    frame: Frame,
    tabs: Vec<(String, &'static str, bool)>,
    show: &'static str,
    means: &'static str,
    group: String,
    release: String,
    since: String,
    of_releases: bool,
    over_time: bool,
    csv: String,
    json: String,
    lines: Lines,
    more: usize,
}

type Asks = Result<Query<Asked>, QueryRejection>;

pub(crate) async fn page(State(console): State<Arc<Console>>, visitor: Visitor, asked: Asks) -> Page {
    let Query(asked) = asked?;
    let mut lines = lines(&console, &asked).await?;
    let more = lines.rows.len().saturating_sub(MAX_LINES);
    lines.rows.truncate(MAX_LINES);
    let tab = |(report, word, label): (Report, &'static str, &'static str)| {
        (show::href(&["reports"], &[("show", word)]), label, report == asked.show)
    };
    render(&ReportsPage {
        frame: Frame::new(&console, &visitor, "reports", "Reports"),
        tabs: Report::ALL.map(tab).into(),
        show: asked.show.word(),
        means: asked.show.means(),
        of_releases: matches!(asked.show, Report::Rollout | Report::Approvals),
        over_time: asked.show != Report::Vulnerable,
        csv: asked.file("reports.csv"),
        json: asked.file("reports.json"),
        group: asked.group,
        release: asked.release,
        since: asked.since,
        lines,
        more,
    })
}

impl Asked {
    /// The report's name in the API.
    pub(in crate::console) fn name(&self) -> &'static str {
        self.show.word()
    }

    pub(in crate::console) fn query(&self) -> ReportQuery {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let of_releases = matches!(self.show, Report::Rollout | Report::Approvals);
        ReportQuery {
            group: given(&self.group),
            release: given(&self.release).filter(|_| of_releases),
            since: given(&self.since).filter(|_| self.show != Report::Vulnerable),
        }
    }

    fn file(&self, name: &str) -> String {
        let all =
            [("show", self.show.word()), ("group", &self.group), ("release", &self.release), ("since", &self.since)];
        let given: Vec<(&str, &str)> = all.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        show::href(&[name], &given)
    }
}

pub(in crate::console) async fn lines(console: &Console, asked: &Asked) -> Result<Lines, Trouble> {
    let (name, query) = (asked.show.word(), asked.query());
    Ok(match asked.show {
        Report::Compliance => compliance(console.client.report(name, &query).await?),
        Report::Rollout => rollouts(console.client.report(name, &query).await?),
        Report::Vulnerable => vulnerable(console.client.report(name, &query).await?),
        Report::Savings => savings(console.client.report(name, &query).await?),
        Report::Approvals => approvals(console.client.report(name, &query).await?),
    })
}

fn compliance(report: Compliance) -> Lines {
    let (picture, _) = trend::of(&report.together());
    // The newest day first.
    let rows = report.days.iter().rev().map(|line| line.cells());
    Lines {
        head: vec![
            "Day",
            "Group",
            "Devices",
            "Approvals",
            "Expected",
            "Done",
            "Pending",
            "Failed",
            "Not known",
            "Done, %",
        ],
        rows: rows.collect(),
        basis: report.basis.words(),
        picture,
    }
}

fn rollouts(report: RolloutTimes) -> Lines {
    let rows = report.rollouts.iter().map(|line| line.cells());
    Lines {
        head: vec![
            "Release",
            "Group",
            "Decision",
            "Begun",
            "Ended",
            "Expected",
            "Done",
            "Pending",
            "Failed",
            "Not known",
            "Done, %",
            "To 50 %",
            "To 90 %",
            "To 99 %",
        ],
        rows: rows.collect(),
        basis: report.basis.words(),
        picture: String::new(),
    }
}

fn vulnerable(report: Vulnerable) -> Lines {
    let rows = report.cves.iter().map(|line| {
        vec![
            line.cve.clone(),
            format!("{:?}", line.severity),
            line.devices.to_string(),
            line.mendable.to_string(),
            line.undetermined.to_string(),
            line.sources.join(", "),
        ]
    });
    let mut about = report.basis.words();
    about.push(report.lacking());
    about.extend(report.warnings.iter().cloned());
    Lines {
        head: vec!["CVE", "Severity", "Devices", "An update is known", "Not known whether", "Source packages"],
        rows: rows.collect(),
        basis: about,
        picture: String::new(),
    }
}

fn savings(report: Savings) -> Lines {
    let rows = report.days.iter().rev().map(|line| {
        let (bytes, total) = (&line.bytes, line.bytes.total());
        let near = near(bytes);
        let all = [bytes.origin, bytes.cache, bytes.lan_peer, bytes.local_reuse, near].map(show::bytes);
        std::iter::once(line.day.clone()).chain(all).chain([show::percent(near, total)]).collect()
    });
    let total = report.total.total();
    let near = near(&report.total);
    let mut about = vec![format!(
        "{} of {} ({}) did not cross the WAN",
        show::bytes(near),
        show::bytes(total),
        show::percent(near, total)
    )];
    about.extend(report.basis.words());
    Lines {
        head: vec![
            "Day",
            "Over the WAN",
            "From a branch cache",
            "From neighbours",
            "Already on the disk",
            "Saved",
            "Saved, %",
        ],
        rows: rows.collect(),
        basis: about,
        picture: show::sources(&report.total).1,
    }
}

fn approvals(report: Approvals) -> Lines {
    let rows = report.approvals.iter().map(|line| line.cells());
    Lines {
        head: vec!["Taken", "Ended", "Release", "Group", "Decision", "Version", "Signed by", "Note"],
        rows: rows.collect(),
        basis: vec![format!("as of {}", report.at)],
        picture: String::new(),
    }
}
