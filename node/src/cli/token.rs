//! `token`: the join tokens that are about, and taking one back.

use super::admin::AdminArgs;
use super::output::Table;
use super::{CliError, Common};
use crate::api::invites::DisinviteRequest;
use crate::coordinator::token::JoinToken;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm token list
  upswarm token revoke 5f0c3a9e

Machines that came with a token stay when it is taken back. The coordinator keeps no token, only the hash of its secret.";

/// List the join tokens that are about, and take one back.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show every token: where its machines belong, until when it is good, and how often it was used.
    List {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Let nobody in any more with a token.
    Revoke {
        /// At least eight first digits of what `token list` shows, or the token itself.
        token: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    match args.verb {
        Verb::List { admin } => list(&admin, common),
        Verb::Revoke { token, admin } => revoke(token, &admin, common),
    }
}

fn list(admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    let tokens = super::runtime()?.block_on(admin.client()?.invites())?;
    let mut table = Table::new(&["TOKEN", "GROUP", "SITE", "GOOD UNTIL", "USED"]);
    for token in &tokens.tokens {
        let over = if token.over { "over" } else { token.expires.as_str() };
        let short: String = token.token.chars().take(16).collect();
        let used = format!("{} of {}", token.spent, token.uses);
        table.row([short, token.group.clone(), token.site.clone(), over.to_owned(), used]);
    }
    common.list(&tokens, &table, || if table.is_empty() { "no tokens".to_owned() } else { table.text() })
}

fn revoke(token: String, admin: &AdminArgs, common: Common) -> Result<(), CliError> {
    // The whole token names itself; its secret stays here.
    let token = JoinToken::parse(&token).map_or(token, |token| blake3::hash(&token.secret).to_hex().to_string());
    let revoked = super::runtime()?.block_on(admin.client()?.disinvite(&DisinviteRequest { token }))?;
    let text = format!(
        "taken back: a token for group {} at site {}, used {} of {} times",
        revoked.group, revoked.site, revoked.spent, revoked.uses
    );
    common.print(&revoked, &text);
    Ok(())
}
