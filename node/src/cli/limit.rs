//! `limit`: how much of the WAN the machines of a site may use. One call each.

use super::admin::AdminArgs;
use super::output::Table;
use super::{CliError, Common};
use crate::api::limits::{LimitRequest, SiteLimits};
use crate::config::Rate;
use crate::units;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm limit set --site berlin --wan 2MB/s --window \"mon-fri 08:00-18:00\"
  upswarm limit set --site berlin --wan 50mbit
  upswarm limit list
  upswarm limit remove --site berlin

Machines that are on hear of it within seconds, the others when they are there again; each keeps it over restarts. Of the rates of a
site the lowest that applies counts, by the machines' local time, and the machines that fetch share it evenly. What node.toml says
counts beside it. Control traffic, reports and documents are not slowed down.";

/// Set how much of the WAN a site may use for payloads.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Set a rate, in place of the one of the same window.
    Set {
        /// The site.
        #[arg(long)]
        site: String,
        /// Payload bytes per second of all its machines together: 2MB/s, 50mbit.
        #[arg(long, value_name = "RATE")]
        wan: Rate,
        /// Only at these hours, in the machines' local time: "mon-fri 08:00-18:00".
        #[arg(long)]
        window: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show the rates of every site.
    List {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take back the rate of a window, or every rate of a site.
    Remove {
        /// The site.
        #[arg(long)]
        site: String,
        /// Only the rate of these hours, as `limit list` shows them.
        #[arg(long)]
        window: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::Set { site, wan, window, admin } => {
            change(&LimitRequest { site, window, wan: Some(wan.0) }, &admin, common)
        }
        Verb::Remove { site, window, admin } => change(&LimitRequest { site, window, wan: None }, &admin, common),
        Verb::List { admin } => {
            let list = super::runtime()?.block_on(admin.client()?.limits())?;
            let mut table = Table::new(&["SITE", "WHEN", "WAN"]);
            for limits in &list.limits {
                for rate in &limits.rates {
                    let when = rate.window.clone().unwrap_or_else(|| "always".to_owned());
                    table.row([limits.site.clone(), when, units::rate_words(rate.wan)]);
                }
            }
            common.list(&list, &table, || if table.is_empty() { "no limits".to_owned() } else { table.text() })
        }
    }
}

fn change(request: &LimitRequest, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let limits = super::runtime()?.block_on(admin.client()?.limit(request))?;
    common.print(&limits, &words(&limits));
    Ok(())
}

fn words(limits: &SiteLimits) -> String {
    let rate = |rate: &crate::api::limits::RateView| {
        format!("{} {}", units::rate_words(rate.wan), rate.window.as_deref().unwrap_or("always"))
    };
    let rates: Vec<String> = limits.rates.iter().map(rate).collect();
    let rates = if rates.is_empty() { "no limit".to_owned() } else { rates.join("; ") };
    format!("site {}: {rates}", limits.site)
}
