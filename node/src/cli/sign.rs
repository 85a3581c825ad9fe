//! `sign` and `submit`: a request is signed where the keys are, without network or data directory, and handed in where the
//! coordinator is.

use std::fs::File;
use std::io::{IsTerminal, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;

use super::admin::{AdminArgs, KeyArgs};
use super::{CliError, Common, output};
use crate::api::approvals::{HexBytes, SignedDocument};
use crate::api::groups::SignedGroup;
use crate::api::roots::{Asked, RequestFile};
use crate::clock::wall;
use crate::coordinator::client::Client;
use crate::signing::{Carried, Checked, Document, check};
use crate::sys::{self, Access};
use crate::upstream::proof::MAX_METADATA;

/// Hex takes two bytes for one: the largest documents, previews of large groups, hundreds of roots, and upstream's metadata fit.
const MAX_FILE: u64 = (16 << 20) + 2 * MAX_METADATA;

const SIGN_EXAMPLE: &str = "\
EXAMPLE:
  upswarm approve editor@2.1 --group office --export editor.request     # where the coordinator is reached
  upswarm sign editor.request --keys-dir /media/stick/keys              # where the keys are; needs no network
  upswarm submit editor.request.signed                                  # where the coordinator is reached

What is shown is read from the bytes that are signed, and their roots are walked from the one that the keys know themselves.
Where several must sign, each signs the file that the one before has written.";

const SUBMIT_EXAMPLE: &str = "\
EXAMPLE:
  upswarm submit editor.request.signed";

/// Sign a request that was exported, away from the coordinator.
#[derive(Debug, clap::Args)]
#[command(after_help = SIGN_EXAMPLE)]
pub(crate) struct SignArgs {
    /// The request, or what another signer has made of it.
    file: PathBuf,
    /// Where the signed request goes; without it, FILE.signed.
    #[arg(short, long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
    /// Sign without asking.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Hand in what was signed elsewhere.
#[derive(Debug, clap::Args)]
#[command(after_help = SUBMIT_EXAMPLE)]
pub(crate) struct SubmitArgs {
    /// What `upswarm sign` has written.
    file: PathBuf,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn sign(args: SignArgs, common: Common) -> Result<(), CliError> {
    let file = read(&args.file)?;
    let place = args.keys.place(file.key_use())?;
    let checked = check(file, &place, Carried::InAFile, wall())?;
    agree(&checked, args.yes)?;
    let words = checked.words.clone();
    let signed = checked.sign(&place)?;
    let out = args.out.unwrap_or_else(|| {
        let mut name = args.file.clone().into_os_string();
        name.push(".signed");
        name.into()
    });
    write(&out, &signed.file)?;
    let next = match signed.lacks {
        0 => format!("hand it in: upswarm submit {}", out.display()),
        lacks => format!("{lacks} more must sign it: upswarm sign {} where their keys are", out.display()),
    };
    let json = json!({ "signed": out, "kind": name(&signed.document), "lacks": signed.lacks, "says": words });
    common.print(&json, &format!("signed: {}; {next}", out.display()));
    Ok(())
}

pub(crate) fn submit(args: SubmitArgs, common: Common) -> Result<(), CliError> {
    let file = read(&args.file)?;
    let Some(signed) = file.signed.clone() else {
        return Err(CliError::Refused(format!(
            "{} is not signed yet: upswarm sign {}",
            args.file.display(),
            args.file.display()
        )));
    };
    let client = args.admin.client()?;
    let accepted = super::runtime()?.block_on(hand_in(&client, &file.asked, SignedDocument(signed.0)))?;
    common.print(&accepted, &format!("in force with index {}", accepted.index_version));
    Ok(())
}

/// Gives the coordinator a signed document.
pub(super) async fn hand_in(
    client: &Client,
    asked: &Asked,
    document: SignedDocument,
) -> Result<crate::api::approvals::Accepted, CliError> {
    match asked {
        Asked::Root(_) => client.root(document).await,
        Asked::Release(_) => client.publish(document).await,
        Asked::Approval(_) => client.approve(document).await,
        Asked::Rules(_) => client.put_rules(document).await,
        Asked::RepositoryRule(_) => client.add_rule(document).await,
        Asked::Group(asked) => {
            let signed = SignedGroup { document: HexBytes(document.0), list: asked.draft.list.clone() };
            client.describe_group(&signed).await
        }
    }
}

/// Shows what the bytes say, and asks.
pub(super) fn agree(checked: &Checked, yes: bool) -> Result<(), CliError> {
    eprintln!("{}", checked.words.lines().map(output::clean).collect::<Vec<_>>().join("\n"));
    if yes {
        return Ok(());
    }
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(CliError::Refused(
            "nothing was signed: there is no terminal to ask at; if that is what you want, say --yes".to_owned(),
        ));
    }
    eprint!("Sign it? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| CliError::Failed(error.into()))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CliError::Refused("nothing was signed".to_owned())),
    }
}

/// Writes a request, signed or not, for its owner alone: its preview names machines.
pub(super) fn write(path: &Path, file: &RequestFile) -> Result<(), CliError> {
    let bytes = serde_json::to_vec_pretty(file).context("writing the request")?;
    sys::replace(path, &bytes, Access::Owner)
        .map_err(|error| CliError::Refused(format!("cannot write {}: {error}", path.display())))
}

/// Tells that a request was written instead of being signed.
pub(super) fn exported(path: &Path, what: &str, common: Common) {
    let path = path.display();
    common.print(
        &json!({ "exported": path.to_string(), "request": what }),
        &format!("{what}: nothing is signed yet. Where the keys are: upswarm sign {path}; then here: upswarm submit {path}.signed"),
    );
}

fn read(path: &Path) -> Result<RequestFile, CliError> {
    let refuse = |reason: &dyn std::fmt::Display| CliError::Refused(format!("{}: {reason}", path.display()));
    let file = File::open(path).map_err(|error| refuse(&error))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| refuse(&error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(refuse(&"longer than any request"));
    }
    serde_json::from_slice(&bytes).map_err(|error| refuse(&format!("no request that upswarm has written: {error}")))
}

fn name(document: &Document) -> &'static str {
    match document {
        Document::Approval(..) => "approval",
        Document::Release => "release",
        Document::Root => "root",
        Document::Group(..) => "group",
        Document::Rules(..) => "rules",
        Document::RepositoryRule(..) => "repository-rule",
    }
}
