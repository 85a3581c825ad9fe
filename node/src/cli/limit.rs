//! `limit`: how much of the WAN the machines of a site may use. One call each.

use super::admin::AdminArgs;
use super::output::Table;
use super::{CliError, Common};
use crate::api::limits::{LimitRequest, MIN_WAN, SiteLimits, too_slow};
use crate::config::Rate;
use crate::units;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm limit set --site berlin --wan 2MB/s --window \"mon-fri 08:00-18:00\"
  upswarm limit set --site berlin --wan 50mbit
  upswarm limit set --site berlin --yield on
  upswarm limit list
  upswarm limit remove --site berlin

Machines that are on hear of it within seconds, the others when they are there again; each keeps it over restarts. Of the rates of a
site the lowest that applies counts, by the machines' local time, and the machines that fetch share it evenly. What node.toml says
counts beside it. With --yield on, fetches take what everything else on the line leaves over, and give it back at once;
unless that is said here or in a machine's node.toml (limits.yield), they do not. Control traffic, reports and documents are not slowed down.";

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
        #[arg(long, value_name = "RATE", required_unless_present = "gives_way", value_parser = wan)]
        wan: Option<Rate>,
        /// Whether its machines give way to everything else on the line.
        #[arg(long = "yield", value_name = "on|off", value_parser = on_or_off)]
        gives_way: Option<bool>,
        /// The rate only at these hours, in the machines' local time: "mon-fri 08:00-18:00".
        #[arg(long, requires = "wan")]
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
        Verb::Set { site, wan, gives_way, window, admin } => {
            change(&LimitRequest { site, window, wan: wan.map(|wan| wan.0), gives_way }, &admin, common)
        }
        Verb::Remove { site, window, admin } => {
            change(&LimitRequest { site, window, wan: None, gives_way: None }, &admin, common)
        }
        Verb::List { admin } => {
            let list = super::runtime()?.block_on(admin.client()?.limits())?;
            let mut table = Table::new(&["SITE", "WHEN", "WAN"]);
            for limits in &list.limits {
                for rate in &limits.rates {
                    let when = rate.window.clone().unwrap_or_else(|| "always".to_owned());
                    table.row([limits.site.clone(), when, units::rate_words(rate.wan)]);
                }
                if let Some(gives_way) = limits.gives_way {
                    table.row([limits.site.clone(), "always".to_owned(), yields(gives_way).to_owned()]);
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
    let mut rates: Vec<String> = limits.rates.iter().map(rate).collect();
    rates.extend(limits.gives_way.map(|gives_way| yields(gives_way).to_owned()));
    let rates = if rates.is_empty() { "no limit".to_owned() } else { rates.join("; ") };
    format!("site {}: {rates}", limits.site)
}

fn yields(gives_way: bool) -> &'static str {
    if gives_way { "gives way to others" } else { "gives way to nobody" }
}

/// A bare number is bytes per second elsewhere; of a line, nobody means that.
fn wan(text: &str) -> Result<Rate, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{text} of what? Write {text}mbit, {text}kbit or {text}MB/s"));
    }
    let rate = units::rate(text)?;
    if rate < MIN_WAN { Err(too_slow(rate)) } else { Ok(Rate(rate)) }
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("write on or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn set(given: &[&str]) -> Result<(Option<u64>, Option<bool>), String> {
        let line = Line::try_parse_from([&["limit", "set", "--site", "main"], given].concat());
        match line.map_err(|error| error.to_string())?.args.verb {
            Verb::Set { wan, gives_way, .. } => Ok((wan.map(|rate| rate.0), gives_way)),
            _ => Err("another verb".to_owned()),
        }
    }

    #[test]
    fn a_rate_has_a_unit_and_is_no_standstill_and_giving_way_is_set_alone() {
        assert!(set(&["--wan", "5"]).unwrap_err().contains("5mbit"));
        assert!(set(&["--wan", "5kbit"]).unwrap_err().contains("64kbit"));
        assert_eq!(set(&["--wan", "64kbit"]), Ok((Some(8000), None)));
        assert_eq!(set(&["--wan", "5mbit"]), Ok((Some(625_000), None)));
        assert_eq!(set(&["--yield", "off"]), Ok((None, Some(false))));
        assert!(set(&[]).is_err());
    }
}
