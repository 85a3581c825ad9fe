use std::path::PathBuf;

use serde_json::json;

use super::admin::AdminArgs;
use super::{CliError, Common, progress};
use crate::coordinator::directory::Directory;
use crate::coordinator::export;

const EXAMPLE: &str = "\
EXAMPLE:
  upswarm export /srv/www/updates

Serve TARGET with any web server and name its URL with `upswarm coordinator run --origin-url URL`. Export again after each
publication, and at least daily: the exported head is good for 72 hours.";

/// Write a static origin that any web server can serve: payload bytes and documents.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// Directory to write; what it holds already is kept and completed.
    target: PathBuf,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: Args, common: Common) -> Result<(), CliError> {
    let directory =
        Directory::existing(&args.admin.data_dir()?).map_err(|error| CliError::Refused(format!("{error:#}")))?;
    let bar = progress::bytes(common, "copying payloads", export::payload_bytes(&directory)?);
    let exported = export::export(&directory, &args.target, |moved| bar.inc(moved))?;
    bar.finish_and_clear();
    let text = format!(
        "{}: {} payloads ({}), {} documents, index {}",
        args.target.display(),
        exported.payloads,
        crate::units::size_words(exported.bytes),
        exported.documents,
        exported.index_version
    );
    let json = json!({
        "target": args.target, "payloads": exported.payloads, "payload_bytes": exported.bytes,
        "documents": exported.documents, "index_version": exported.index_version,
    });
    common.print(&json, &text);
    Ok(())
}
