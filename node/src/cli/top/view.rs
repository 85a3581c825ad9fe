//! What `top` shows: a status of the node, as tables.

use std::collections::BTreeMap;
use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, Tabs};
use serde_json::Value;

use super::super::output;
use crate::units::narrow;

/// A table of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tab {
    /// The most important rows of the others.
    Overview,
    /// What is approved here, with states and reasons.
    Deployments,
    /// Files that are fetched or served.
    Payloads,
    /// Who fetches what over the WAN.
    Leases,
    /// Connections.
    Peers,
    /// Machines of the site, connected or not.
    Members,
}

const TABS: [(Tab, &str); 6] = [
    (Tab::Overview, "1 Overview"),
    (Tab::Deployments, "2 Deployments"),
    (Tab::Payloads, "3 Payloads"),
    (Tab::Leases, "4 Leases"),
    (Tab::Peers, "5 Peers"),
    (Tab::Members, "6 Members"),
];

/// Bytes per second of everything that is counted, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rates {
    last: Option<(Instant, BTreeMap<String, u64>)>,
    rates: BTreeMap<String, f64>,
}

impl Rates {
    /// Takes a sample. A rate is smoothed over about two seconds.
    pub(crate) fn take(&mut self, status: &Value, at: Instant) {
        let counts = counters(status);
        if let Some((before, old)) = &self.last {
            let seconds = at.saturating_duration_since(*before).as_secs_f64().max(0.01);
            let weight = (seconds / 2.0).min(1.0);
            let rate = |(name, count): (&String, &u64)| {
                let fresh = old.get(name).map_or(0.0, |then| count.saturating_sub(*then) as f64 / seconds);
                let smooth = self.rates.get(name).map_or(fresh, |rate| rate + (fresh - rate) * weight);
                (name.clone(), if smooth < 1.0 { 0.0 } else { smooth })
            };
            self.rates = counts.iter().map(rate).collect();
        }
        self.last = Some((at, counts));
    }

    fn of(&self, name: &str) -> String {
        match self.rates.get(name) {
            Some(rate) if *rate >= 1.0 => format!("{}/s", narrow(*rate as u64)),
            _ => "-".to_owned(),
        }
    }
}

fn counters(status: &Value) -> BTreeMap<String, u64> {
    let sources = ["origin", "cache", "lan_peer", "local_reuse"];
    let mut counts: BTreeMap<String, u64> =
        sources.iter().map(|source| ((*source).to_owned(), count(&status["bytes"][source]))).collect();
    for peer in list(&status["peers"]) {
        counts.insert(format!("in {}", text(&peer["device"])), count(&peer["given"]));
        counts.insert(format!("out {}", text(&peer["device"])), count(&peer["taken"]));
    }
    for payload in list(&status["downloads"]) {
        counts.insert(format!("payload {}", text(&payload["payload"])), count(&payload["done"]));
    }
    counts
}

/// The state of the view.
#[derive(Debug)]
pub(crate) struct Screen {
    tab: usize,
    offset: usize,
    status: Value,
    rates: Rates,
    lost: Option<String>,
}

/// A table before it is laid out: the widths of its columns, its heading, its rows.
struct Sheet {
    widths: Vec<Constraint>,
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    none: &'static str,
}

impl Screen {
    pub(crate) fn new(tab: Tab) -> Self {
        let tab = TABS.iter().position(|(other, _)| *other == tab).unwrap_or(0);
        Self { tab, offset: 0, status: Value::Null, rates: Rates::default(), lost: None }
    }

    /// Takes a new picture.
    pub(crate) fn show(&mut self, status: Value, rates: Rates) {
        (self.status, self.rates, self.lost) = (status, rates, None);
    }

    /// The node does not answer; the last picture stays.
    pub(crate) fn lost(&mut self, reason: String) {
        self.lost = Some(reason);
    }

    /// Turns to the next (1) or last (-1) table.
    pub(crate) fn turn(&mut self, by: isize) {
        self.tab = (self.tab as isize + by).rem_euclid(TABS.len() as isize) as usize;
        self.offset = 0;
    }

    /// Turns to a table by position.
    pub(crate) fn choose(&mut self, tab: usize) {
        (self.tab, self.offset) = (tab.min(TABS.len() - 1), 0);
    }

    /// Scrolls; what lies beyond the rows is cut off when they are drawn.
    pub(crate) fn scroll(&mut self, by: isize) {
        self.offset = self.offset.saturating_add_signed(by);
    }

    /// Draws one frame.
    pub(crate) fn draw(&mut self, frame: &mut Frame<'_>) {
        let rows = [1, 1, 1, 1].map(Constraint::Length).into_iter().chain([Constraint::Fill(1), Constraint::Length(1)]);
        let areas = Layout::vertical(rows).split(frame.area());
        frame.render_widget(
            Paragraph::new(self.headline()).style(Style::new().add_modifier(Modifier::REVERSED)),
            areas[0],
        );
        frame.render_widget(Paragraph::new(self.sources()), areas[1]);
        frame.render_widget(Paragraph::new(self.warning()), areas[2]);
        let titles = TABS.iter().map(|(_, title)| *title);
        let chosen = Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED);
        frame.render_widget(
            Tabs::new(titles).select(self.tab).highlight_style(chosen).divider(" ").padding("", " "),
            areas[3],
        );
        let (tab, _) = TABS[self.tab];
        if tab == Tab::Overview {
            self.overview(frame, areas[4]);
        } else {
            let sheet = self.sheet(tab);
            let room = usize::from(areas[4].height.saturating_sub(1)).max(1);
            self.offset = self.offset.min(sheet.rows.len().saturating_sub(room));
            lay(frame, areas[4], sheet, self.offset);
        }
        let keys = "q leave   Tab/Left/Right table   Up/Down scroll";
        frame.render_widget(Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)), areas[5]);
    }

    fn headline(&self) -> String {
        let status = &self.status;
        let signed = status["head"][0].as_u64().map_or("no head".to_owned(), |issued| {
            format!("head {} old", age(count(&status["at"]).saturating_sub(issued) / 1000))
        });
        format!(
            " {}  {} here, {} connected  coordinator {}  index {}, {signed}",
            name_of(status),
            status["members"],
            list(&status["peers"]).iter().filter(|peer| peer["kind"] != "coordinator").count(),
            if status["coordinator"] == true { "yes" } else { "no" },
            status["index_version"],
        )
    }

    fn sources(&self) -> Line<'static> {
        let mut spans = Vec::new();
        for (title, source) in [("origin", "origin"), ("cache", "cache"), ("lan", "lan_peer"), ("reuse", "local_reuse")]
        {
            let rate = self.rates.of(source);
            let rate = if rate == "-" { String::new() } else { format!(" {rate}") };
            spans.push(Span::styled(format!(" {title} "), Style::new().add_modifier(Modifier::DIM)));
            spans.push(Span::raw(format!("{}{rate} ", narrow(count(&self.status["bytes"][source])))));
        }
        let wasted = count(&self.status["wasted"]);
        if wasted > 0 {
            spans.push(Span::styled(format!(" in vain {}", narrow(wasted)), Style::new().fg(Color::Yellow)));
        }
        Line::from(spans)
    }

    fn warning(&self) -> Line<'static> {
        let alarms = list(&self.status["alarms"]);
        let text = match (&self.lost, alarms.last()) {
            (Some(lost), _) => format!(" THE NODE DOES NOT ANSWER: {lost}"),
            (None, Some(alarm)) => format!(" {} alarm(s), the last: {}", alarms.len(), text(alarm)),
            (None, None) => return Line::default(),
        };
        Line::styled(text, Style::new().fg(Color::Red))
    }

    /// Each of the three main tables gets what it needs, and they share what is left.
    fn overview(&self, frame: &mut Frame<'_>, area: Rect) {
        let sheets = [Tab::Deployments, Tab::Payloads, Tab::Peers].map(|tab| self.sheet(tab));
        let lengths = shares(usize::from(area.height), &sheets.each_ref().map(|sheet| sheet.rows.len().max(1) + 2));
        let areas = Layout::vertical(lengths.map(|length| Constraint::Length(length as u16))).split(area);
        for (sheet, area) in sheets.into_iter().zip(areas.iter()) {
            let [_, inner] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(*area);
            lay(frame, inner, sheet, 0);
        }
    }

    fn sheet(&self, tab: Tab) -> Sheet {
        match tab {
            Tab::Overview | Tab::Deployments => Sheet {
                widths: columns(&[24, 20, 7, 6]),
                heading: vec!["DEPLOYMENT", "STATE", "FOR", "DONE", "REASON"],
                rows: deployment_rows(&self.status).into_iter().map(Vec::from).collect(),
                none: "nothing is approved for this device",
            },
            Tab::Payloads => self.payloads(),
            Tab::Leases => self.leases(),
            Tab::Peers => self.peers(),
            Tab::Members => self.members(),
        }
    }

    fn payloads(&self) -> Sheet {
        let mut rows: Vec<(bool, Vec<String>)> = Vec::new();
        for payload in list(&self.status["downloads"]) {
            let (done, total) = (count(&payload["done"]), count(&payload["total"]));
            let active = payload["wanted"] == true && done < total;
            rows.push((
                !active,
                vec![
                    text(&payload["name"]).to_owned(),
                    bar(done, total),
                    narrow(total),
                    self.rates.of(&format!("payload {}", text(&payload["payload"]))),
                    payload["sources"].to_string(),
                    format!("{}/{}", payload["own_leases"], payload["other_leases"]),
                    if payload["wanted"] == true { "wanted" } else { "served" }.to_owned(),
                ],
            ));
        }
        rows.sort_by_key(|(rests, _)| *rests);
        Sheet {
            widths: columns(&[26, 16, 6, 7, 4, 5]),
            heading: vec!["PAYLOAD", "DONE", "SIZE", "RATE", "FROM", "LEASE", ""],
            rows: rows.into_iter().map(|(_, row)| row).collect(),
            none: "no payload is wanted or served",
        }
    }

    fn leases(&self) -> Sheet {
        let mut rows = Vec::new();
        for payload in list(&self.status["downloads"]) {
            for lease in list(&payload["leases"]) {
                let extents: Vec<_> = list(&lease["extents"]).iter().map(Value::to_string).collect();
                rows.push(vec![
                    text(&payload["name"]).to_owned(),
                    self.who(text(&lease["device"])),
                    extents.join(", "),
                ]);
            }
        }
        Sheet {
            widths: columns(&[28, 24]),
            heading: vec!["PAYLOAD", "FETCHED OVER THE WAN BY", "EXTENTS"],
            rows,
            none: "nobody fetches over the WAN now",
        }
    }

    fn peers(&self) -> Sheet {
        let rows = list(&self.status["peers"]).iter().map(|peer| {
            let device = text(&peer["device"]);
            let busy = if peer["busy"] == true { "busy" } else { "" };
            vec![
                self.who(device),
                text(&peer["kind"]).to_owned(),
                narrow(count(&peer["given"])),
                self.rates.of(&format!("in {device}")),
                narrow(count(&peer["taken"])),
                self.rates.of(&format!("out {device}")),
                peer["outstanding"].to_string(),
                format!("{} {busy}", peer["holdings"]).trim_end().to_owned(),
            ]
        });
        Sheet {
            widths: columns(&[22, 11, 6, 7, 6, 7, 3]),
            heading: vec!["PEER", "KIND", "GAVE", "IN", "TOOK", "OUT", "REQ", "HAS"],
            rows: rows.collect(),
            none: "no peer is connected",
        }
    }

    fn members(&self) -> Sheet {
        let yes = |value: &Value| if *value == true { "yes" } else { "-" }.to_owned();
        let rows = list(&self.status["site_members"]).iter().map(|member| {
            let wan = member["wan_weight"].as_u64().filter(|weight| *weight > 0);
            vec![
                self.who(text(&member["device"])),
                if member["cache"] == true { "cache" } else { "node" }.to_owned(),
                if member["here"] == true { "here" } else { "away" }.to_owned(),
                yes(&member["connected"]),
                yes(&member["uplink"]),
                wan.map_or("never".to_owned(), |weight| weight.to_string()),
                format!("{}/{}", member["wants"], member["holds"]),
                age(count(&member["heard_s"])),
            ]
        });
        Sheet {
            widths: columns(&[22, 6, 5, 9, 7, 6, 11]),
            heading: vec!["MEMBER", "ROLE", "", "CONNECTED", "UPLINK", "WAN", "WANTS/HOLDS", "HEARD"],
            rows: rows.collect(),
            none: "no other machine of the site is known",
        }
    }

    /// A device by its label, if it is known.
    fn who(&self, device: &str) -> String {
        if device == text(&self.status["device"]) {
            return "this device".to_owned();
        }
        let peer = list(&self.status["peers"]).iter().find(|peer| text(&peer["device"]) == device);
        if peer.is_some_and(|peer| peer["kind"] == "coordinator") {
            return "the coordinator".to_owned();
        }
        let known = list(&self.status["site_members"]).iter().find(|member| text(&member["device"]) == device);
        match known.map(|member| text(&member["label"])).filter(|label| !label.is_empty()) {
            Some(label) => label.to_owned(),
            None => device.chars().take(8).collect(),
        }
    }
}

/// The rows of one table from `offset` on; the last row says how many do not fit.
fn lay(frame: &mut Frame<'_>, area: Rect, sheet: Sheet, offset: usize) {
    let room = usize::from(area.height.saturating_sub(1));
    let (all, dim) = (sheet.rows.len(), Style::new().add_modifier(Modifier::DIM));
    let beyond = all.saturating_sub(offset + room);
    let shown = if beyond > 0 { room.saturating_sub(1) } else { room };
    let mut rows: Vec<Row<'_>> = sheet.rows.into_iter().skip(offset).take(shown).map(row).collect();
    if all == 0 {
        rows.push(Row::new([Cell::from(sheet.none)]).style(dim));
    }
    let widths = if all == 0 { vec![Constraint::Fill(1)] } else { sheet.widths };
    let heading = if all == 0 { Row::new([sheet.heading[0]]) } else { Row::new(sheet.heading) };
    let heading = heading.style(Style::new().add_modifier(Modifier::BOLD));
    frame.render_widget(Table::new(rows, widths).header(heading).column_spacing(1), area);
    if beyond > 0 && area.height > 1 {
        let last = Rect { y: area.bottom() - 1, height: 1, ..area };
        frame.render_widget(Paragraph::new(format!("... {} more", beyond + 1)).style(dim), last);
    }
}

fn row(cells: Vec<String>) -> Row<'static> {
    let bad = ["Failed", "Stalled"].iter().any(|word| cells.get(1).is_some_and(|state| state.starts_with(word)));
    let style = if bad { Style::new().fg(Color::Red) } else { Style::new() };
    Row::new(cells).style(style)
}

/// Fixed widths, and a last column that takes the rest.
fn columns(widths: &[u16]) -> Vec<Constraint> {
    widths.iter().copied().map(Constraint::Length).chain([Constraint::Fill(1)]).collect()
}

/// Shares lines among tables: none gets more than it needs, and what is short is shared evenly.
fn shares<const N: usize>(lines: usize, needs: &[usize; N]) -> [usize; N] {
    let (mut given, mut left) = ([0; N], lines);
    while left > 0 {
        let Some(at) = (0..N).filter(|at| given[*at] < needs[*at]).min_by_key(|at| given[*at]) else { break };
        given[at] += 1;
        left -= 1;
    }
    given
}

/// Release, state, age, progress and reason of each deployment; what is not done yet comes first.
pub(crate) fn deployment_rows(status: &Value) -> Vec<[String; 5]> {
    let mut rows: Vec<(bool, [String; 5])> = Vec::new();
    for deployment in list(&status["deployments"]) {
        let release = text(&deployment["release"]);
        let named = list(&status["releases"]).iter().find(|named| text(&named["release"]) == release);
        let name = named.map_or_else(
            || release.chars().take(8).collect(),
            |named| format!("{} {}", text(&named["product"]), text(&named["version"])),
        );
        let mut state = text(&deployment["state"]).to_owned();
        if deployment["sub_state"] != "None" {
            state = format!("{state} {}", text(&deployment["sub_state"]));
        }
        if let Some(code) = deployment["code"].as_i64().filter(|code| *code != 0) {
            state = format!("{state} {code}");
        }
        let done = ["Installed", "Uninstalled", "NotApplicable", "Superseded", "Canceled"].contains(&state.as_str());
        let since = count(&status["at"]).saturating_sub(count(&deployment["since"])) / 1000;
        let progress = percent(count(&deployment["done"]), count(&deployment["total"]));
        rows.push((done, [name, state, age(since), progress, text(&deployment["reason"]).to_owned()]));
    }
    rows.sort_by_key(|(done, _)| *done);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// A node's label, or the beginning of its id.
pub(crate) fn name_of(status: &Value) -> String {
    match text(&status["label"]) {
        "" => text(&status["device"]).chars().take(8).collect(),
        label => label.to_owned(),
    }
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// Whole percent, rounded down, or `-` of nothing.
pub(crate) fn percent(done: u64, total: u64) -> String {
    (u128::from(done) * 100).checked_div(u128::from(total)).map_or("-".to_owned(), |percent| format!("{percent} %"))
}

fn bar(done: u64, total: u64) -> String {
    let full = (u128::from(done) * 10).checked_div(u128::from(total)).unwrap_or(0).min(10) as usize;
    format!("{}{} {}", "#".repeat(full), ".".repeat(10 - full), percent(done, total))
}

fn age(seconds: u64) -> String {
    output::age(Some(seconds), "")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn status(given: u64) -> Value {
        let peers: Vec<_> = (0..30)
            .map(|at| {
                let device = format!("{at:08x}").repeat(8);
                json!({ "device": device, "kind": "member", "given": given, "taken": 5, "outstanding": 2, "busy": at == 1,
                        "holdings": 3 })
            })
            .collect();
        json!({
            "at": 1_000_000, "device": "ab".repeat(32), "label": "pc-1", "members": 31, "coordinator": false,
            "index_version": 7, "head": [940_000, 2_000_000], "peers": peers, "wasted": 2048, "alarms": ["smoke"],
            "bytes": { "origin": given, "cache": 0, "lan_peer": 10_485_760, "local_reuse": 1 },
            "releases": [{ "release": "cd".repeat(32), "product": "org.example.tool", "version": "2", "title": "T" }],
            "deployments": [
                { "release": "cd".repeat(32), "state": "Failed", "sub_state": "None", "code": 3, "reason": "disk on fire",
                  "since": 400_000, "done": 1, "total": 2 },
                { "release": "ef".repeat(32), "state": "Installed", "sub_state": "None", "code": 0, "reason": "",
                  "since": 1_000_000, "done": 0, "total": 0 },
            ],
            "downloads": [{ "payload": "12".repeat(32), "name": "tool.deb", "wanted": true, "done": 50, "total": 100,
                "sources": 3, "own_leases": 1, "other_leases": 2,
                "leases": [{ "device": "ab".repeat(32), "extents": [1, 4] }] }],
            "site_members": [{ "device": "00000003".repeat(8), "label": "pc-3", "cache": true, "here": true,
                "connected": true, "uplink": true, "wan_weight": 0, "wants": 1, "holds": 2, "heard_s": 4 }],
        })
    }

    fn drawn(screen: &mut Screen, columns: u16, rows: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    fn contains(frame: &str, parts: &[&str]) {
        for part in parts {
            assert!(frame.contains(part), "{part:?} is missing in\n{frame}");
        }
    }

    #[test]
    fn every_table_fits_eighty_columns() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        rates.take(&status(0), start);
        rates.take(&status(4 << 20), start + Duration::from_secs(2));
        let mut screen = Screen::new(Tab::Overview);
        screen.show(status(4 << 20), rates);
        let frame = drawn(&mut screen, 80, 24);
        contains(
            &frame,
            &["pc-1  31 here, 30 connected", "coordinator no", "index 7, head 60 s old", "origin 4.0M 2.0M/s"],
        );
        contains(&frame, &["lan 10M", "in vain 2.0K", "1 alarm(s), the last: smoke", "org.example.tool 2", "Failed 3"]);
        contains(&frame, &["disk on fire", "#####..... 50 %", "1/2", "wanted", "pc-3", "2.0M/s", "more", "q leave"]);
        screen.turn(1);
        contains(&drawn(&mut screen, 80, 24), &["Installed", "efefefef", "10 min"]);
        screen.choose(3);
        contains(&drawn(&mut screen, 80, 24), &["this device", "1, 4"]);
        screen.turn(-4);
        contains(&drawn(&mut screen, 80, 24), &["cache  here  yes       yes     never  1/2"]);
    }

    #[test]
    fn scrolling_ends_at_the_last_row() {
        let mut screen = Screen::new(Tab::Peers);
        screen.show(status(0), Rates::default());
        contains(&drawn(&mut screen, 80, 24), &["00000000", "... 13 more", "2   3 busy"]);
        screen.scroll(isize::MAX);
        let last = drawn(&mut screen, 80, 24);
        contains(&last, &["0000001d"]);
        assert!(!last.contains("more") && !last.contains("00000000 "), "{last}");
        screen.scroll(isize::MIN);
        contains(&drawn(&mut screen, 80, 24), &["00000000"]);
        screen.lost("gone".into());
        contains(&drawn(&mut screen, 80, 24), &["THE NODE DOES NOT ANSWER: gone", "00000000"]);
    }

    #[test]
    fn no_size_and_no_status_breaks_it() {
        for status in [Value::Null, json!({}), status(1)] {
            for (columns, rows) in [(1, 1), (3, 2), (20, 5), (80, 7), (300, 100)] {
                for tab in 0..TABS.len() {
                    let mut screen = Screen::new(Tab::Overview);
                    screen.show(status.clone(), Rates::default());
                    screen.choose(tab);
                    screen.scroll(1000);
                    assert!(!drawn(&mut screen, columns, rows).is_empty());
                }
            }
        }
    }
}
