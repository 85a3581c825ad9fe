//! How a verb of the command line can end badly. Every part that a verb calls may say so; nothing here prints.

/// How a verb can end without having done what it was asked for. Each has its exit code, so that scripts can tell them apart
/// (2 is a wrong call, as clap has it).
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The request is understood and not allowed, or its input is not acceptable: exit code 3.
    #[error("{0}")]
    Refused(String),
    /// Something that should have worked did not: exit code 1.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}
