//! Rollouts: ring by ring, and how near each is to the share at which it stops by itself.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use upswarm_protocol::catalog::Action;

use super::{Frame, Page, render};
use crate::api::status::{RolloutView, StatusQuery};
use crate::console::Console;
use crate::console::guard::Visitor;
use crate::console::show;

/// A rollout as pages show it.
pub(crate) struct RolloutCard {
    pub(super) title: String,
    pub(super) href: String,
    pub(super) group: String,
    pub(super) group_href: String,
    pub(super) release: String,
    pub(super) verb: &'static str,
    pub(super) held: bool,
    pub(super) done: bool,
    pub(super) bar: String,
    pub(super) devices: u32,
    pub(super) installed: u32,
    pub(super) failed: u32,
    pub(super) silent: u32,
    pub(super) begun: u32,
    /// Failed and silent, of those that have begun, and the share at which it stops.
    pub(super) bad: String,
    pub(super) limit: String,
    pub(super) accepted: u32,
    pub(super) left_out: u32,
    pub(super) failed_href: String,
    pub(super) rings: Vec<Ring>,
}

/// A ring as pages show it.
pub(crate) struct Ring {
    pub(super) number: usize,
    pub(super) up_to: String,
    pub(super) begins: String,
    pub(super) has_begun: bool,
    pub(super) bar: String,
    pub(super) devices: u32,
    pub(super) installed: u32,
    pub(super) failed: u32,
    pub(super) silent: u32,
}

impl RolloutCard {
    pub(crate) fn of(rollout: &RolloutView) -> Self {
        let release = rollout.release.to_string();
        let total = rollout.total();
        let name = format!(
            "{} {}",
            rollout.product.clone().unwrap_or_else(|| rollout.release.short()),
            rollout.version.clone().unwrap_or_default()
        );
        Self {
            title: name.trim().to_owned(),
            href: show::href(&["updates", &release], &[]),
            group: rollout.group.clone(),
            group_href: show::devices(&[("group", &rollout.group)]),
            verb: match rollout.action {
                Action::Install => "Install",
                Action::Uninstall => "Remove",
                Action::None => "Declined",
            },
            held: rollout.held,
            done: !rollout.is_under_way(),
            bar: show::ring_bar(&total),
            devices: total.devices,
            installed: total.installed,
            failed: total.failed,
            silent: total.silent,
            begun: total.begun,
            bad: show::share(rollout.bad_percent()),
            limit: if rollout.stop_above_percent > 0.0 {
                format!("stops above {}", show::share(rollout.stop_above_percent))
            } else {
                "never stops by itself".to_owned()
            },
            accepted: rollout.accepted_bad,
            left_out: rollout.left_out,
            failed_href: show::devices(&[("release", &release), ("state", "failed")]),
            release,
            rings: rollout
                .rings
                .iter()
                .map(|ring| Ring {
                    number: ring.ring,
                    up_to: show::share(ring.up_to_percent),
                    begins: ring.begins.clone(),
                    has_begun: ring.has_begun,
                    bar: show::ring_bar(ring),
                    devices: ring.devices,
                    installed: ring.installed,
                    failed: ring.failed,
                    silent: ring.silent,
                })
                .collect(),
        }
    }
}

#[derive(Template)]
#[template(path = "rollouts.html")]
struct RolloutsPage {
    frame: Frame,
    everything_held: bool,
    holds: Vec<(String, String, String)>,
    under_way: Vec<RolloutCard>,
    done: Vec<RolloutCard>,
}

pub(crate) async fn page(State(console): State<Arc<Console>>, visitor: Visitor) -> Page {
    let status = console.client.status(&StatusQuery::default()).await?;
    let catalog = console.client.catalog().await?;
    let cards = status.rollouts.iter().filter(|rollout| rollout.action != Action::None).map(RolloutCard::of);
    let (under_way, done) = cards.partition(|card| !card.done);
    let holds = status.holds.iter().map(|hold| {
        let release = hold.release.map(|release| release.to_string()).unwrap_or_default();
        (show::hold(hold, &catalog), hold.group.clone().unwrap_or_default(), release)
    });
    render(&RolloutsPage {
        frame: Frame::new(&console, &visitor, "rollouts", "Rollouts"),
        everything_held: status.holds.iter().any(|hold| hold.group.is_none() && hold.release.is_none()),
        holds: holds.collect(),
        under_way,
        done,
    })
}
