//! `upswarm defer`: the person at the machine puts an install, a removal or a restart off.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::{CliError, Common};
use crate::local_api::{Client, Request};
use crate::units;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm defer --data-dir /var/lib/upswarm org.example.editor@2.1 --for 4h

How often and for how long in all is the approval's to say; after its deadline nothing is put off. What is refused ends
with exit code 3 and the reason.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The data directory of the node that runs on this machine.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// PRODUCT or PRODUCT@VERSION (the last part of the product's name suffices), or the first digits of a release's id.
    #[arg(value_name = "RELEASE")]
    release: String,
    /// For how long from now on: 30m, 4h, 1d. The approval may allow less.
    #[arg(long = "for", value_name = "DURATION", value_parser = units::duration)]
    time: Duration,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let seconds = u32::try_from(args.time.as_secs()).unwrap_or(u32::MAX);
    let request = Request::Defer { release: args.release, seconds };
    let granted = Client::connect(&args.data_dir)?.ask(&request)?;
    common.print(&granted, &text(&granted));
    Ok(())
}

fn text(granted: &Value) -> String {
    let left = match granted["times_left"].as_u64() {
        Some(0) | None => "this was the last time".to_owned(),
        Some(times) => {
            let minutes = granted["seconds_left"].as_u64().unwrap_or(0).div_ceil(60);
            let times = if times == 1 { "once".to_owned() } else { format!("{times} times") };
            format!("{times} more, for {minutes} minutes in all")
        }
    };
    let word = |key: &str| granted[key].as_str().unwrap_or_default().to_owned();
    format!("{} is put off until {}; {left}", word("name"), word("until_local"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said() {
        let mut granted = serde_json::json!({
            "name": "org.example.editor 2.1", "until_local": "2027-01-15 10:00 CET", "times_left": 2, "seconds_left": 5400,
        });
        let expected =
            "org.example.editor 2.1 is put off until 2027-01-15 10:00 CET; 2 times more, for 90 minutes in all";
        assert_eq!(text(&granted), expected);
        granted["times_left"] = 0.into();
        assert!(text(&granted).ends_with("CET; this was the last time"));
    }
}
