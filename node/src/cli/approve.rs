use std::path::PathBuf;

use anyhow::Context;
use serde_json::json;
use upswarm_protocol::catalog::{Action, Approval};
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::ids::GroupId;
use upswarm_protocol::schedule::zone;

use super::hold::{held_line, holding};
use super::preview::{Preview, machines};
use super::schedule::ScheduleArgs;
use super::{CliError, Common};
use crate::clock::wall;
use crate::coordinator::client::Client;
use crate::coordinator::directory::Directory;
use crate::coordinator::inventories::MissingQuery;
use crate::coordinator::keys::{self, KeyUse, Passphrase};
use crate::coordinator::requests::{Catalog, CatalogApproval, CatalogRelease};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm approve --data-dir /var/lib/upswarm-coordinator org.example.editor@2.1 --group office --dry-run
  upswarm approve --data-dir D 5f0c3a9e --group office --available 2026-12-01T22:00:00Z --deadline +7d --grace 2h \\
      --window \"mon-fri 22:00-05:00\" --ring 1% --ring 10%+1d --ring 100%+3d --stop-above 5%
  upswarm approve --data-dir D 5f0c3a9e --group office --action uninstall";

/// Digits of a release id that name it, if no other begins with them.
const MIN_PREFIX: usize = 8;

/// Sign the decision to install or uninstall a release in a group.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The coordinator's data directory; the coordinator must be running.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The release: its id, at least eight first digits of it, or PRODUCT@VERSION.
    release: String,
    /// The group, as named when inviting.
    #[arg(long)]
    group: String,
    /// What is to be done. `uninstall` goes back to an earlier version of the same deb or rpm package if one is approved for
    /// install, else removes it; `none` declines the release and retires an earlier approval.
    #[arg(long, value_enum, default_value = "install")]
    action: ActionArg,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// Show whom it would affect and when; sign nothing.
    #[arg(long)]
    dry_run: bool,
    /// Time zone in which the preview reads windows of machines that have told none, for example Europe/Berlin.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    zone: String,
    /// Sign it even if it reaches nobody yet.
    #[arg(long)]
    allow_empty: bool,
    #[command(flatten)]
    keys: KeyArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ActionArg {
    Install,
    Uninstall,
    None,
}

/// Where the offline keys are.
#[derive(Debug, clap::Args)]
pub(super) struct KeyArgs {
    /// Directory of the offline keys; without it, DATA-DIR/keys (demo keys) or DATA-DIR-offline-keys.
    #[arg(long, value_name = "DIR")]
    keys_dir: Option<PathBuf>,
    /// File whose first line is the passphrase of the keys; else UPSWARM_PASSPHRASE, else you are asked.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl KeyArgs {
    /// Every signing key of a use.
    pub(super) fn signers(
        &self,
        data_dir: &std::path::Path,
        r#use: KeyUse,
    ) -> Result<Vec<ed25519_dalek::SigningKey>, CliError> {
        let online = Directory::new(data_dir).keys();
        let dir = match &self.keys_dir {
            Some(dir) => dir.clone(),
            None if keys::file(&online, r#use, 1).exists() => online,
            None => super::coordinator::offline_keys(data_dir),
        };
        let mut known: Option<Passphrase> = None;
        let mut passphrase = || match &known {
            Some(passphrase) => Ok(passphrase.clone()),
            None => Ok(known.insert(Passphrase::obtain(self.passphrase_file.as_deref(), false)?).clone()),
        };
        keys::read_all(&dir, r#use, &mut passphrase).map_err(|error| CliError::Refused(format!("{error:#}")))
    }
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let client = Client::of(&args.data_dir)?;
    let now = wall();
    let zone_of = zone(&args.zone).ok_or_else(|| {
        CliError::Refused(format!("--zone: {:?} is no time zone; write for example UTC or Europe/Berlin", args.zone))
    })?;
    let runtime = super::runtime()?;
    let (catalog, status) = (runtime.block_on(client.catalog())?, runtime.block_on(client.status())?);
    let release = find_release(&catalog, &args.release)?;
    let group = find_group(&catalog, &args.group)?;
    let before = current(&catalog, group, release);
    let action = match args.action {
        ActionArg::Install => Action::Install,
        ActionArg::Uninstall => Action::Uninstall,
        ActionArg::None => Action::None,
    };
    let version = before.map_or(0, |known| known.version) + 1;
    let approval = args.schedule.approval((group, release.release), version, action, now)?;
    let query = MissingQuery { device: None, release: Some(release.release) };
    let missing = runtime.block_on(client.missing(&query))?;
    let machines = machines(&status, &missing, &args.group, &release.release);
    let preview = Preview::new(&approval, machines, &args.zone, &zone_of, now);
    if !args.allow_empty {
        preview.must_reach_somebody(&args.group)?;
    }
    let held_by = holding(&status, &args.group, &release.release);
    let held = held_line(&held_by);
    let mut json = json!({
        "release": release.release, "group": args.group, "action": approval.action, "version": approval.version,
        "preview": preview.json(), "dry_run": args.dry_run, "held_by": held_by,
    });
    let what = format!("{} {} in group {}", release.product, release.version, args.group);
    if args.dry_run {
        let replaces =
            before.map_or(String::new(), |known| format!("\nreplaces version {}: its rings begin anew", known.version));
        let text = format!("would be approved ({:?}): {what}\n{}{replaces}{held}", approval.action, preview.text());
        common.print(&json, &text);
        return Ok(());
    }
    let signers = args.keys.signers(&args.data_dir, KeyUse::Approver)?;
    let index_version = runtime.block_on(submit(&client, &approval, &signers))?;
    json["head_version"] = index_version.into();
    let text =
        format!("approved: {what} (approval version {version}, index {index_version})\n{}{held}", preview.short());
    common.print(&json, &text);
    Ok(())
}

/// Signs an approval and publishes it; returns the version of the index that names it.
pub(super) async fn submit(
    client: &Client,
    approval: &Approval,
    signers: &[ed25519_dalek::SigningKey],
) -> Result<u64, CliError> {
    let signers: Vec<_> = signers.iter().collect();
    let bytes = envelope::sign(Kind::Approval, Role::Approver, approval, &signers).context("signing the approval")?;
    client.submit("approval", bytes).await
}

/// The number of a group.
pub(super) fn find_group(catalog: &Catalog, name: &str) -> Result<GroupId, CliError> {
    catalog.groups.get(name).copied().ok_or_else(|| {
        let known: Vec<&str> = catalog.groups.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none yet: invite machines first".to_owned() } else { known.join(", ") };
        CliError::Refused(format!("there is no group {name:?}; there are: {known}"))
    })
}

/// The approval in force of a release in a group.
pub(super) fn current<'a>(
    catalog: &'a Catalog,
    group: GroupId,
    release: &CatalogRelease,
) -> Option<&'a CatalogApproval> {
    catalog.approvals.iter().find(|known| known.group == group && known.release == release.release)
}

/// The one release that a text names.
pub(super) fn find_release<'a>(catalog: &'a Catalog, text: &str) -> Result<&'a CatalogRelease, CliError> {
    let prefix = text.len() >= MIN_PREFIX && text.bytes().all(|c| c.is_ascii_hexdigit());
    let digits = text.to_ascii_lowercase();
    let named = |release: &&CatalogRelease| {
        prefix && release.release.to_string().starts_with(&digits)
            || text == format!("{}@{}", release.product, release.version)
    };
    // Of several releases with one product and version, the last published is meant.
    let mut found: Vec<&CatalogRelease> = catalog.releases.iter().filter(named).collect();
    found.sort_by_key(|release| release.counter);
    match found.as_slice() {
        [.., last] if found.iter().all(|other| other.product == last.product && other.version == last.version) => {
            Ok(*last)
        }
        [] => {
            let known: Vec<String> = catalog
                .releases
                .iter()
                .map(|release| format!("{} {}@{}", release.release.short(), release.product, release.version))
                .collect();
            let known = if known.is_empty() { "none yet: publish one first".to_owned() } else { known.join(", ") };
            Err(CliError::Refused(format!("no release is named {text:?}; there are: {known}")))
        }
        _ => Err(CliError::Refused(format!("several releases begin with {text:?}; give more digits"))),
    }
}
