//! Manual pages and completions, made of the same description as `--help`. Writes them where it is told; installs nothing.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Command;
use serde_json::json;

use super::{CliError, Common};

/// Print what makes a shell complete upswarm's command line.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  upswarm completions bash > /etc/bash_completion.d/upswarm")]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Write a manual page for every verb.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Directory for the pages, for example /usr/local/share/man/man1; it must exist.
    dir: PathBuf,
}

pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) {
    clap_complete::generate(args.shell, &mut command, "upswarm", &mut std::io::stdout());
}

pub(crate) fn man(args: &ManArgs, command: Command, common: Common) -> Result<(), CliError> {
    // Building gives every verb its whole name: upswarm-node-join(1).
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    write(&args.dir, &command, &mut pages)?;
    common.print(&json!({ "pages": pages }), &format!("{} pages in {}", pages.len(), args.dir.display()));
    Ok(())
}

fn write(dir: &Path, command: &Command, pages: &mut Vec<String>) -> Result<(), CliError> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        write(dir, verb, pages)?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page).context("writing a manual page")?;
    let name = format!("{}.1", command.get_display_name().unwrap_or_else(|| command.get_name()));
    let path = dir.join(&name);
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    pages.push(name);
    Ok(())
}
