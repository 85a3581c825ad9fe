//! A picture of a site's swarm: who fetched how much over the WAN, and who has it from the LAN. Owns where things lie in it.
//!
//! Machines lie on rings around the LAN, each a link to its page with its words as a title; a line from the WAN is as wide as the
//! machine's share of what the site fetched there.

use std::f64::consts::TAU;
use std::fmt::Write as _;

use upswarm_protocol::catalog::NodeRole;

use crate::api::fleet::{SiteView, SwarmMachine};
use crate::console::show;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const CENTRE: (f64, f64) = (360.0, 232.0);
const SOURCE: (f64, f64) = (360.0, 26.0);
/// Machines of the first ring, and how many more each further one holds.
const FIRST_RING: usize = 28;
const MORE: usize = 8;
/// Machines with their names beside them.
const MAX_NAMES: usize = 28;

/// The picture, as SVG.
pub(super) fn picture(site: &SiteView) -> String {
    let machines = &site.swarm;
    let fetched: u64 = machines.iter().fold(0, |sum, machine| machine.bytes.origin.saturating_add(sum));
    let places = places(machines.len());
    let mut svg = format!(
        "<svg class=\"swarm\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"group\" aria-label=\"The swarm of this site, {} machines\">",
        machines.len()
    );
    let (x, y) = CENTRE;
    let _ = write!(svg, "<ellipse class=\"lan\" cx=\"{x}\" cy=\"{y}\" rx=\"270\" ry=\"122\"/>");
    for (machine, (x, y)) in machines.iter().zip(&places) {
        let share = machine.bytes.origin as f64 / fetched.max(1) as f64;
        if machine.bytes.origin == 0 {
            continue;
        }
        let wide = 0.8 + 7.0 * share.sqrt();
        let (from_x, from_y) = SOURCE;
        let middle = f64::midpoint(from_y + 12.0, *y);
        let _ = write!(
            svg,
            "<path class=\"flow\" d=\"M{from_x:.0} {:.0} C{from_x:.0} {middle:.0} {x:.1} {middle:.0} {x:.1} {y:.1}\" stroke-width=\"{wide:.1}\"/>",
            from_y + 12.0
        );
    }
    let (x, y) = SOURCE;
    let _ = write!(
        svg,
        "<rect class=\"source\" x=\"{:.0}\" y=\"{:.0}\" width=\"180\" height=\"26\" rx=\"4\"/><text x=\"{x}\" y=\"{:.0}\" \
         text-anchor=\"middle\">WAN  {}</text>",
        x - 90.0,
        y - 14.0,
        y + 4.0,
        show::bytes(fetched)
    );
    let names = machines.len() <= MAX_NAMES;
    for (machine, place) in machines.iter().zip(&places) {
        member(&mut svg, machine, *place, names);
    }
    svg + "</svg>"
}

fn places(machines: usize) -> Vec<(f64, f64)> {
    let mut places = Vec::with_capacity(machines);
    let (mut ring, mut left) = (0, machines);
    while left > 0 {
        let here = left.min(FIRST_RING + MORE * ring);
        let inner = 1.0 - 0.17 * (ring as f64).min(5.0);
        for at in 0..here {
            // From the top, so that caches and those that fetch most lie next to the WAN, one left, one right.
            let side = if at % 2 == 0 { 1.0 } else { -1.0 };
            let angle = side * TAU * (at.div_ceil(2)) as f64 / here as f64 - TAU / 4.0;
            places.push((CENTRE.0 + 270.0 * inner * angle.cos(), CENTRE.1 + 122.0 * inner * angle.sin()));
        }
        (ring, left) = (ring + 1, left - here);
    }
    places
}

fn member(svg: &mut String, machine: &SwarmMachine, (x, y): (f64, f64), named: bool) {
    let href = show::href(&["devices", &machine.device.to_string()], &[]);
    let standing = machine.standing;
    let name = escape(&machine.name);
    let what = if machine.role == NodeRole::Cache { "branch cache, " } else { "" };
    let there = if machine.connected {
        "connected"
    } else if machine.silent {
        "silent"
    } else {
        "reports through neighbours"
    };
    let percent = machine.percent.map(|percent| format!(", fetching {percent} %")).unwrap_or_default();
    let title = format!(
        "{name}: {what}{}, {there}, {} over the WAN, {} from the LAN{percent}",
        show::standing_label(standing).to_lowercase(),
        show::bytes(machine.bytes.origin),
        show::bytes(machine.bytes.cache.saturating_add(machine.bytes.lan_peer)),
    );
    let class = format!("m f-{}{}", standing.word(), if machine.silent { " off" } else { "" });
    let shape = if machine.role == NodeRole::Cache {
        format!(
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"18\" height=\"18\" rx=\"2\"/>",
            x - 9.0,
            y - 9.0
        )
    } else {
        format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"7\"/>")
    };
    let _ = write!(svg, "<a href=\"{href}\" aria-label=\"{title}\"><title>{title}</title>{shape}");
    if named {
        let (anchor, dx) = match x - CENTRE.0 {
            dx if dx > 40.0 => ("start", 13.0),
            dx if dx < -40.0 => ("end", -13.0),
            _ => ("middle", 0.0),
        };
        let dy = if dx == 0.0 { if y < CENTRE.1 { 22.0 } else { 20.0 } } else { 4.0 };
        let _ = write!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{name}</text>", x + dx, y + dy);
    }
    *svg += "</a>";
}

/// A name as text of an XML document: templates do not look into this picture.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars().take(64) {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c if crate::text::is_hostile(c) => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_text_whatever_they_hold() {
        let text = escape("</text><script>alert(\"1\")</script>&'\u{202e}");
        assert_eq!(text, "&lt;/text&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;\u{fffd}");
    }

    #[test]
    fn every_machine_lies_within_the_picture_and_no_two_in_one_place() {
        for machines in [0, 1, 2, 28, 29, 100, 240] {
            let places = places(machines);
            assert_eq!(places.len(), machines);
            for (at, (x, y)) in places.iter().enumerate() {
                assert!((20.0..WIDTH - 20.0).contains(x) && (60.0..HEIGHT - 20.0).contains(y), "{machines}: {x} {y}");
                let near = |(ox, oy): &(f64, f64)| (ox - x).abs() + (oy - y).abs() < 0.5;
                assert!(!places.iter().skip(at + 1).any(near), "{machines}: {x} {y}");
            }
        }
    }
}
