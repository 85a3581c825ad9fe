//! A snapshot of a repository on its way to an approval: what is selected of it, and what apt would do with that. Owns what a
//! person reads; the coordinator tries it out.

use std::time::Duration;

use upswarm_protocol::catalog::{APT_PREFIX, Recipe, Release, Severity, WhenAbsent};
use upswarm_protocol::codec;
use upswarm_protocol::envelope::{Envelope, Kind, Role};
use upswarm_protocol::ids::ReleaseId;

use super::admin::AdminArgs;
use super::output::{Table, count, one_line};
use super::{CliError, Common, progress, severity};
use crate::api::proposals::{Proposal, ProposalRequest, ProposalStatus};
use crate::coordinator::client::Client;

/// How the name of a snapshot begins.
pub(super) const PREFIX: &str = "apt:";
/// How often it is asked how far a proposal is.
const LOOK: Duration = Duration::from_millis(200);

/// CVEs that are named of a source package.
const SHOWN_CVES: usize = 3;

/// What of a snapshot is meant.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Of a snapshot (apt:NAME@latest)")]
pub(super) struct Selection {
    /// Source packages; without it, all of which some machine of the group has an earlier version. `severity>=high` is of those, or
    /// of the named ones, what mends something at least so bad, as feeds know it now.
    #[arg(long, value_delimiter = ',', value_name = "SOURCE")]
    select: Vec<String>,
    /// Source packages that stay as they are.
    #[arg(long, value_delimiter = ',', value_name = "SOURCE")]
    except: Vec<String>,
    /// Packages that every machine of the group gets.
    #[arg(long, value_delimiter = ',', value_name = "PACKAGE")]
    install: Vec<String>,
    /// Machines that have later versions go back to those of the snapshot: to an earlier one, or with @before to the one before what
    /// is approved in the group. Rules signed before approve nothing of it until somebody approves a later one.
    #[arg(long)]
    back: bool,
    /// Go on although apt would remove packages somewhere. Machines remove nothing: there it fails, and says so.
    #[arg(long)]
    allow_removals: bool,
}

impl Selection {
    /// What a release must be that is made of this for `NAME@SNAPSHOT`.
    pub(super) fn of(&self, named: &str) -> Selected {
        let name = named.split('@').next().unwrap_or(named);
        let (except, install) = (self.except.clone(), self.install.clone());
        Selected { product: format!("{APT_PREFIX}.{name}"), except, install, back: self.back }
    }

    /// Whether machines are to go back.
    pub(super) fn back(&self) -> bool {
        self.back
    }

    /// The named source packages, and how bad what they mend must be at least.
    fn wanted(&self) -> Result<(Vec<String>, Option<Severity>), CliError> {
        let (mut select, mut least) = (Vec::new(), None);
        for word in &self.select {
            match severity::at_least(word) {
                None => select.push(word.clone()),
                Some(Ok(severity)) => least = least.max(Some(severity)),
                Some(Err(why)) => return Err(CliError::Refused(format!("--select {word}: {why}"))),
            }
        }
        Ok((select, least))
    }

    /// Refuses what means nothing for any other release.
    pub(super) fn must_be_empty(&self) -> Result<(), CliError> {
        if self.select.is_empty() && self.except.is_empty() && self.install.is_empty() && !self.allow_removals {
            return Ok(());
        }
        Err(CliError::Refused(
            "--select, --except, --install and --allow-removals are for snapshots of repositories: apt:NAME@latest"
                .to_owned(),
        ))
    }
}

/// What was asked for. The coordinator makes the release of it, and is not trusted with that.
pub(super) struct Selected {
    product: String,
    except: Vec<String>,
    install: Vec<String>,
    back: bool,
}

impl Selected {
    /// Refuses a release, by its own bytes, that is of another repository, has a source package that was to stay, or installs where it
    /// was not asked to.
    pub(super) fn is(&self, release: &[u8]) -> Result<(), CliError> {
        let refused =
            |what: String| Err(CliError::Refused(format!("nothing was signed: the coordinator's release {what}")));
        let envelope = Envelope::parse(release, Kind::Release, Role::Publisher);
        let said = envelope.map_err(|error| error.to_string()).and_then(|envelope| {
            codec::decode::<Release>(envelope.unverified_body(), Kind::Release.cap()).map_err(|error| error.to_string())
        });
        let release = match said {
            Ok(release) => release,
            Err(error) => return refused(format!("cannot be read: {error}")),
        };
        let Recipe::Apt(apt) = &release.install else { return refused("is no snapshot of a repository".to_owned()) };
        if *release.product != *self.product {
            return refused(format!("is of {}, and {} was asked for", release.product, self.product));
        }
        if apt.back != self.back {
            let says = if apt.back { "takes machines back" } else { "takes no machine back" };
            return refused(format!("{says}, which was not asked for"));
        }
        for package in &apt.packages {
            if self.except.iter().any(|source| **source == *package.source) {
                return refused(format!("has {}, whose source {} was to stay", package.name, package.source));
            }
            if package.when_absent == WhenAbsent::Always && !self.install.iter().any(|name| **name == *package.name) {
                return refused(format!("installs {} everywhere, which was not asked for", package.name));
            }
        }
        Ok(())
    }
}

/// Has it tried, and unless it is only looked at, published. Returns the release that stands for it.
pub(super) fn propose(
    named: &str,
    group: &str,
    args: &Selection,
    dry_run: bool,
    admin: &AdminArgs,
    common: Common,
) -> Result<Option<ReleaseId>, CliError> {
    let (upstream, snapshot) = named.split_once('@').ok_or_else(|| {
        CliError::Refused(format!(
            "{PREFIX}{named} names no snapshot; write {PREFIX}{named}@latest, or a version that sync show lists"
        ))
    })?;
    let (select, min_severity) = args.wanted()?;
    let request = ProposalRequest {
        upstream: upstream.to_owned(),
        snapshot: snapshot.to_owned(),
        group: group.to_owned(),
        select,
        min_severity,
        except: args.except.clone(),
        install: args.install.clone(),
        back: args.back,
        allow_removals: args.allow_removals,
        dry_run,
    };
    let proposal = super::runtime()?.block_on(wait(&admin.client()?, &request, common))?;
    if proposal.release.is_none() {
        common.print(&proposal, &text(&proposal));
        return Ok(None);
    }
    // What is decided is printed last; this is for the person who waits.
    eprintln!("{}", super::output::clean(&text(&proposal)));
    Ok(proposal.release)
}

async fn wait(client: &Client, request: &ProposalRequest, common: Common) -> Result<Proposal, CliError> {
    let mut status: ProposalStatus = client.propose(request).await?;
    let bar = progress::bytes(common, "", 0);
    while let Some(stage) = &status.running {
        bar.set_message(one_line(&stage.what));
        bar.set_length(stage.total);
        bar.set_position(stage.done);
        tokio::time::sleep(LOOK).await;
        status = client.proposal(status.id).await?;
    }
    bar.finish_and_clear();
    match (status.done, status.error) {
        (Some(done), _) => Ok(done),
        (None, error) => Err(CliError::Refused(error.unwrap_or_else(|| "nothing came of it".to_owned()))),
    }
}

fn text(proposal: &Proposal) -> String {
    let mut table = Table::new(&["SOURCE", "PACKAGE", "FROM", "TO", "ARCH", "UPGRADES", "BACK", "NEW"]);
    for one in &proposal.packages {
        let [upgrades, back, new] = [one.upgrades, one.back, one.new].map(|machines| machines.to_string());
        let [source, name, version, arch] = [&one.source, &one.name, &one.version, &one.arch].map(String::clone);
        table.row([source, name, one.from.join(", "), version, arch, upgrades, back, new]);
    }
    let way = if proposal.back { ": machines go BACK" } else { "" };
    let mut lines = vec![format!("{} {}{way}", proposal.product, proposal.version)];
    if table.is_empty() {
        lines.push("nothing is to be done".to_owned());
    } else {
        lines.push(table.text());
    }
    lines.push(format!(
        "{}, {}; tried with apt for {} of {}",
        count(proposal.packages.len(), "package", "packages"),
        crate::units::size_words(proposal.bytes),
        proposal.machines.saturating_sub(proposal.left_out),
        count(proposal.machines, "machine", "machines")
    ));
    for one in &proposal.mends {
        let (shown, more) = (one.cves.iter().take(SHOWN_CVES), one.cves.len().saturating_sub(SHOWN_CVES));
        let shown = shown.map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        lines.push(format!("mends {}: {shown}{more} ({})", one.source, severity::shown(Some(one.severity))));
    }
    let phased = proposal.packages.iter().filter_map(|one| Some(format!("{} ({} %)", one.name, one.phased?)));
    let phased: Vec<String> = phased.collect();
    if !phased.is_empty() {
        lines.push(format!(
            "upstream is still rolling out {}; here rings decide who gets it, and without rings everybody does",
            phased.join(", ")
        ));
    }
    if !proposal.added.is_empty() {
        lines.push(format!("added, because selected packages are tied to them: {}", proposal.added.join(", ")));
    }
    if !proposal.stays.is_empty() {
        lines.push(format!("stays, because the snapshot has no such package: {}", proposal.stays.join(", ")));
    }
    if proposal.back {
        lines.push(
            "no package's own scripts were run: one of them may refuse to go back, and the machine then says so and keeps it".to_owned(),
        );
    }
    for state in &proposal.states {
        let machines = count(state.machines, "machine", "machines");
        if !state.removes.is_empty() {
            lines.push(format!("REMOVES on {machines}: {}", state.removes.join(", ")));
        }
        if let Some(why) = &state.refused {
            lines.push(format!("apt does nothing on {machines}: {why}"));
        }
        if state.partial > 0 {
            lines.push(format!(
                "a guess on {machines}: of {} installed packages no index here says what they depend on; each machine tries again \
                 before it acts",
                state.partial
            ));
        }
    }
    lines.join("\n")
}
