//! `release`: what is published, and taking one back. Owns what a person reads; declining is `approve`'s, and the coordinator
//! insists that it came first.

use upswarm_protocol::catalog::Action;
use upswarm_protocol::ids::ReleaseId;

use super::admin::AdminArgs;
use super::output::{Table, count, word};
use super::{CliError, Common, approve};
use crate::api::approvals::{ApprovalDraft, Intent};
use crate::api::catalog::{Catalog, CatalogApproval, CatalogRelease};
use crate::api::releases::{WithdrawRequest, Withdrawn};
use crate::coordinator::keys::KeyUse;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm release list
  upswarm release show editor@2.1
  upswarm release withdraw editor@2.1

A release that is withdrawn is declined wherever it was approved and is offered to nobody any more. Where it is installed it stays:
take it back first with upswarm approve RELEASE --group GROUP --action uninstall.";

/// List releases, show one, take one back.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show every release: its id, and where it is approved and declined.
    List {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show a release and each decision about it.
    Show {
        /// PRODUCT@VERSION (the last part of the product's name suffices), its id, or at least eight first digits of it.
        release: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Decline a release wherever it is approved, and take it out of the catalog.
    Withdraw {
        /// PRODUCT@VERSION (the last part of the product's name suffices), its id, or at least eight first digits of it.
        release: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// What `release list` prints as JSON.
#[derive(serde::Serialize)]
struct Listed<'a> {
    releases: Vec<Shown<'a>>,
}

/// A release and what was decided of it.
#[derive(serde::Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    release: &'a CatalogRelease,
    decisions: Vec<Decision<'a>>,
}

#[derive(serde::Serialize)]
struct Decision<'a> {
    group: String,
    #[serde(flatten)]
    approval: &'a CatalogApproval,
}

/// What `release withdraw` prints as JSON.
#[derive(serde::Serialize)]
struct TakenBack<'a> {
    #[serde(flatten)]
    withdrawn: &'a Withdrawn,
    declined_in: Vec<String>,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::List { admin } => list(&admin, common),
        Verb::Show { release, admin } => show(&release, &admin, common),
        Verb::Withdraw { release, admin } => withdraw(&release, &admin, common),
    }
}

fn list(admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let catalog = super::runtime()?.block_on(admin.client()?.catalog())?;
    let mut releases: Vec<&CatalogRelease> = catalog.releases.iter().collect();
    releases.sort_by_key(|release| (&release.product, release.counter, release.release));
    let mut table = Table::new(&["RELEASE", "PRODUCT", "VERSION", "TITLE", "SEVERITY", "APPROVED FOR", "DECLINED IN"]);
    for release in &releases {
        table.row([
            release.release.short(),
            release.product.clone(),
            release.version.clone(),
            release.title.clone(),
            word(&release.severity),
            approved_for(&catalog, &release.release).join(","),
            groups(&catalog, &release.release, false).join(","),
        ]);
    }
    let listed = Listed { releases: releases.iter().map(|release| shown(&catalog, release)).collect() };
    common.list(&listed, &table, || if table.is_empty() { "no releases".to_owned() } else { table.text() })
}

fn show(release: &str, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let catalog = super::runtime()?.block_on(admin.client()?.catalog())?;
    let known = catalog.release_named(release).map_err(CliError::Refused)?;
    let shown = shown(&catalog, known);
    let mut table = Table::new(&["GROUP", "DECISION", "APPROVAL", "EXPIRES", "NOTE"]);
    for decision in &shown.decisions {
        let approval = decision.approval;
        table.row([
            decision.group.clone(),
            match approval.action {
                Action::None => "declined".to_owned(),
                action => word(&action),
            },
            approval.version.to_string(),
            approval.expires.clone(),
            approval.note.clone(),
        ]);
    }
    let text = || {
        let head = format!(
            "{} {} ({})\nid        {}\nkind      {}, {}\nexpires   {}\nremovable {}",
            known.product,
            known.version,
            known.title,
            known.release,
            word(&known.classification),
            word(&known.severity),
            known.expires,
            if known.removable { "yes" } else { "no" },
        );
        if table.is_empty() {
            format!("{head}\nnothing is decided about it")
        } else {
            format!("{head}\n\n{}", table.text())
        }
    };
    common.list(&shown, &table, text)
}

fn withdraw(release: &str, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let (client, runtime) = (admin.client()?, super::runtime()?);
    let catalog = runtime.block_on(client.catalog())?;
    let known = catalog.release_exactly(release).map_err(CliError::Refused)?;
    let approved = groups(&catalog, &known.release, true);
    if !approved.is_empty() {
        let place = admin.key_place(KeyUse::Approver)?;
        for group in &approved {
            let draft = ApprovalDraft {
                release: known.release.to_string(),
                group: group.clone(),
                intent: Intent::Decline { note: "withdrawn".to_owned() },
                zone: "UTC".to_owned(),
                allow_empty: true,
            };
            runtime.block_on(approve::without_asking(&client, &draft, &place))?;
        }
    }
    let withdrawn = runtime.block_on(client.withdraw(&WithdrawRequest { release: known.release.to_string() }))?;
    let declined = if approved.is_empty() {
        String::new()
    } else {
        format!(", declined in {} ({})", count(approved.len(), "group", "groups"), approved.join(", "))
    };
    let text = format!("withdrawn: {} {}{declined}, index {}", known.product, known.version, withdrawn.head_version);
    common.print(&TakenBack { withdrawn: &withdrawn, declined_in: approved }, &text);
    Ok(())
}

/// Names of the groups for which it is approved, those where it is to be removed marked.
fn approved_for(catalog: &Catalog, release: &ReleaseId) -> Vec<String> {
    let of_it = catalog.approvals.iter().filter(|known| known.release == *release);
    let mut names: Vec<String> = of_it
        .filter_map(|known| match known.action {
            Action::Install => Some(group_name(catalog, known)),
            Action::Uninstall => Some(format!("{} (removal)", group_name(catalog, known))),
            Action::None => None,
        })
        .collect();
    names.sort();
    names
}

/// Names of the groups for which it is approved, or declined.
fn groups(catalog: &Catalog, release: &ReleaseId, approved: bool) -> Vec<String> {
    let of_it = catalog.approvals.iter().filter(|known| known.release == *release);
    let mut names: Vec<String> = of_it
        .filter(|known| (known.action != Action::None) == approved)
        .map(|known| group_name(catalog, known))
        .collect();
    names.sort();
    names
}

fn group_name(catalog: &Catalog, approval: &CatalogApproval) -> String {
    let found = catalog.groups.iter().find(|(_, group)| **group == approval.group);
    found.map_or_else(|| approval.group.short(), |(name, _)| name.clone())
}

fn shown<'a>(catalog: &'a Catalog, release: &'a CatalogRelease) -> Shown<'a> {
    let of_it = catalog.approvals.iter().filter(|known| known.release == release.release);
    Shown {
        release,
        decisions: of_it.map(|approval| Decision { group: group_name(catalog, approval), approval }).collect(),
    }
}
