use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use upswarm_protocol::catalog::{Action, Approval, RingPlan, Schedule};
use upswarm_protocol::codec::Text;
use upswarm_protocol::envelope::{self, Kind, Role};
use upswarm_protocol::time::Wall;

use super::{CliError, Common, units};
use crate::coordinator::client::Client;
use crate::coordinator::directory::{Directory, wall};
use crate::coordinator::keys::{self, KeyUse, Passphrase};
use crate::coordinator::requests::{Catalog, CatalogRelease};

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm approve --data-dir /var/lib/upswarm-coordinator org.example.editor@2.1 --group office
  upswarm approve --data-dir D 5f0c3a9e --group office --available 2026-12-01T22:00:00Z --deadline +7d
  upswarm approve --data-dir D 5f0c3a9e --group office --action uninstall";

const LIFE: Duration = Duration::from_secs(30 * 86400);
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
    /// What is to be done; `none` declines the release and retires an earlier approval.
    #[arg(long, value_enum, default_value = "install")]
    action: ActionArg,
    /// Nothing is installed before: now, +2h, or 2026-12-01T22:00:00Z. Bytes may be fetched earlier.
    #[arg(long, value_name = "TIME")]
    available: Option<String>,
    /// From here on nothing holds it back any more: +7d, or 2026-12-08T22:00:00Z.
    #[arg(long, value_name = "TIME")]
    deadline: Option<String>,
    /// A remark, at most 256 bytes.
    #[arg(long, default_value = "")]
    note: String,
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
    let available_from = time("--available", args.available.as_deref(), now)?;
    let deadline = time("--deadline", args.deadline.as_deref(), now)?;
    if available_from.zip(deadline).is_some_and(|(available, deadline)| deadline < available) {
        return Err(CliError::Refused("--deadline lies before --available".to_owned()));
    }
    let note = Text::new(args.note.as_str()).map_err(|error| CliError::Refused(format!("--note: {error}")))?;
    let runtime = super::runtime()?;
    let catalog = runtime.block_on(client.catalog())?;
    let release = find_release(&catalog, &args.release)?.clone();
    let group = *catalog.groups.get(&args.group).ok_or_else(|| {
        let known: Vec<&str> = catalog.groups.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none yet: invite machines first".to_owned() } else { known.join(", ") };
        CliError::Refused(format!("there is no group {:?}; there are: {known}", args.group))
    })?;
    let before = catalog.approvals.iter().find(|known| known.group == group && known.release == release.release);
    let signers = args.keys.signers(&args.data_dir, KeyUse::Approver)?;
    let approval = Approval {
        group,
        release: release.release,
        version: before.map_or(0, |known| known.version) + 1,
        action: match args.action {
            ActionArg::Install => Action::Install,
            ActionArg::Uninstall => Action::Uninstall,
            ActionArg::None => Action::None,
        },
        issued: now,
        expires: now + LIFE,
        schedule: Schedule { available_from, deadline, ..Schedule::default() },
        rings: RingPlan::default(),
        note,
    };
    let signers: Vec<_> = signers.iter().collect();
    let bytes = envelope::sign(Kind::Approval, Role::Approver, &approval, &signers).context("signing the approval")?;
    let index_version = runtime.block_on(client.submit("approval", bytes))?;
    let text = format!(
        "approved: {} {} in group {} (approval version {}, index {index_version})",
        release.product, release.version, args.group, approval.version
    );
    let json = json!({
        "release": release.release, "group": args.group, "action": approval.action, "version": approval.version,
        "head_version": index_version,
    });
    common.print(&json, &text);
    Ok(())
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

fn time(option: &str, text: Option<&str>, now: Wall) -> Result<Option<Wall>, CliError> {
    text.map(|text| units::instant(text, now))
        .transpose()
        .map_err(|error| CliError::Refused(format!("{option}: {error}")))
}
