use super::{CliError, Common};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args, _common: Common) -> Result<(), CliError> {
    Err(CliError::Failed(anyhow::anyhow!("being written")))
}
