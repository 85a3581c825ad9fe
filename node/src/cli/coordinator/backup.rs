//! `coordinator backup` and `coordinator restore`: a coordinator's directory in one file, and back.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde_json::json;

use crate::cli::admin::AdminArgs;
use crate::cli::{CliError, Common, progress};
use crate::coordinator::backup::format::{self, Header};
use crate::coordinator::backup::moment::{self, Moment};
use crate::coordinator::backup::{self, paths, restore};
use crate::coordinator::client::Client;
use crate::coordinator::directory::Directory;
use crate::coordinator::keys::Passphrase;
use crate::{sys, units};

const BACKUP_EXAMPLE: &str = "\
EXAMPLE:
  upswarm coordinator backup /mnt/backup/upswarm-2026-12-01 --passphrase-file FILE
  upswarm coordinator backup /mnt/backup/upswarm-2026-12-01 --without-keys
  upswarm coordinator backup small --without-keys --without-payloads --data-dir /var/lib/upswarm-coordinator

The coordinator goes on meanwhile. What was acknowledged when it began is in it; what comes later is not. Without the keys the backup
is of no use to a thief, and of none to you either unless you keep DATA-DIR/keys elsewhere; and nothing in it shows whether somebody has
changed it: keep the hash that is printed, apart from the file. With the keys, the passphrase shows it.";

const RESTORE_EXAMPLE: &str = "\
EXAMPLE:
  upswarm coordinator restore /mnt/backup/upswarm-2026-12-01 --data-dir /var/lib/upswarm-coordinator
  upswarm coordinator restore /mnt/backup/small --data-dir /var/lib/upswarm-coordinator --expect HASH

End the old coordinator for good first: two with the same keys contradict each other. Machines find the restored one if it listens where
their token says (a DNS name that leads to it now, or an address that the token named beside the first).";

/// Write a coordinator's directory to one file; it may be running.
#[derive(Debug, clap::Args)]
#[command(after_help = BACKUP_EXAMPLE)]
pub(super) struct BackupArgs {
    /// The file to write; one that is there is not overwritten.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The coordinator's data directory on this machine; without it, the profile's.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// File whose first line is the passphrase that encrypts the private keys; else UPSWARM_PASSPHRASE, else you are asked.
    #[arg(long, value_name = "FILE", conflicts_with = "without_keys")]
    passphrase_file: Option<PathBuf>,
    /// Leave the private keys, the admin token and the passwords for mirrors out.
    #[arg(long)]
    without_keys: bool,
    /// Leave the payloads out: machines that hold them still share them, and new ones cannot have them from the restored coordinator.
    #[arg(long)]
    without_payloads: bool,
}

/// Make a new data directory of a backup.
#[derive(Debug, clap::Args)]
#[command(after_help = RESTORE_EXAMPLE)]
pub(super) struct RestoreArgs {
    /// The backup.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Directory to make; must be empty or not exist.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// File whose first line is the backup's passphrase; else UPSWARM_PASSPHRASE, else you are asked.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The hash that `coordinator backup` printed: a file with another one is not restored.
    #[arg(long, value_name = "HASH")]
    expect: Option<blake3::Hash>,
}

fn refused(error: anyhow::Error) -> CliError {
    CliError::Refused(format!("{error:#}"))
}

pub(super) fn backup(args: BackupArgs, common: Common) -> Result<(), CliError> {
    if fs::exists(&args.file).unwrap_or(true) {
        return Err(CliError::Refused(format!(
            "{} is there already and is not overwritten; name another file",
            args.file.display()
        )));
    }
    must_have_folder(&args.file)?;
    let data_dir = AdminArgs::of_directory(args.data_dir).data_dir()?;
    let directory = Directory::existing(&data_dir).map_err(refused)?;
    let passphrase = match args.without_keys {
        true => None,
        false => {
            let file = args.passphrase_file.as_deref();
            Some(Passphrase::obtain_of("the keys in the backup", file, true).map_err(refused)?)
        }
    };
    // Nobody may start a coordinator that is not running while its files are read.
    let lock = directory.lock()?;
    let moment = match &lock {
        Some(_) => {
            moment::clear(&data_dir)?;
            crate::cli::runtime()?.block_on(Moment::hold(&directory))?
        }
        None => crate::cli::runtime()?.block_on(Client::of(&data_dir)?.moment())?,
    };
    let (with_payloads, header) = (!args.without_payloads, moment.header.clone());
    let written = to_file(&args.file, &directory, &moment, passphrase.as_ref(), with_payloads, common);
    let let_go = moment.let_go();
    let (backup::Written { held, hash }, size) = written?;
    if let Err(error) = let_go {
        eprintln!("WARNING: a folder {}* is left in {}: {error}", paths::PREFIX, data_dir.display());
    }
    let keys = match args.without_keys {
        true => {
            format!(
                "The private keys, the admin token and the passwords for mirrors are NOT in it: keep the directory keys elsewhere, a \
                 restored coordinator needs them.\nNothing in it shows whether somebody has changed it. Keep this hash elsewhere, for \
                 restore --expect: {hash}"
            )
        }
        false => "The private keys, the admin token and the passwords for mirrors are in it, encrypted: without the passphrase they \
                  are lost."
            .to_owned(),
    };
    let payloads = match args.without_payloads {
        true => "The payloads are NOT in it.".to_owned(),
        false => format!("{} payloads are in it.", held.payloads),
    };
    let text = format!(
        "{}: {}, {} files, index version {}, {} entries of the log of decisions, as of {}\n{keys}\n{payloads}",
        args.file.display(),
        units::size_words(size),
        held.files,
        header.index_version,
        header.decisions,
        header.made,
    ) + &elsewhere(&header);
    let json = json!({
        "file": args.file, "bytes": size, "files": held.files, "payloads": held.payloads, "made": header.made,
        "index_version": header.index_version, "decisions": header.decisions, "keys": !args.without_keys,
        "hash": hash.to_string(),
    });
    common.print(&json, &text);
    Ok(())
}

fn must_have_folder(file: &Path) -> Result<(), CliError> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        let folder = folder.display();
        return Err(CliError::Refused(format!("there is no directory {folder}; make it, or name another file")));
    }
    Ok(())
}

/// Says what a backup cannot hold.
fn elsewhere(header: &Header) -> String {
    header.database.as_ref().map_or_else(String::new, |place| {
        format!(
            "\nThe state and history of the machines are in {place} and NOT in the backup: copy them with pg_dump. Without them machines \
             tell their state anew within twenty minutes, and the history is lost."
        )
    })
}

/// Writes beside the file first: what has its name is whole.
fn to_file(
    file: &Path,
    directory: &Directory,
    moment: &Moment,
    passphrase: Option<&Passphrase>,
    with_payloads: bool,
    common: Common,
) -> Result<(backup::Written, u64), CliError> {
    let mut name = file.file_name().ok_or_else(|| CliError::Refused("name a file".to_owned()))?.to_owned();
    name.push(".partial");
    let beside = file.with_file_name(name);
    sys::remove(&beside).with_context(|| format!("removing {}, which an earlier backup left", beside.display()))?;
    let bar = progress::bytes(common, "backing up", backup::bytes(moment, with_payloads).unwrap_or_default());
    let write = || -> anyhow::Result<(backup::Written, u64)> {
        let to = sys::create_private(&beside).with_context(|| format!("making {}", beside.display()))?;
        let mut buffered = BufWriter::with_capacity(1 << 20, to);
        let made = backup::write(directory, moment, &mut buffered, passphrase, with_payloads, |bytes| bar.inc(bytes))?;
        buffered.flush().with_context(|| format!("writing {}", beside.display()))?;
        let to = buffered.into_inner().map_err(|error| anyhow!("writing {}: {error}", beside.display()))?;
        to.sync_all().with_context(|| format!("writing {}", beside.display()))?;
        let size = to.metadata()?.len();
        // A link, unlike a new name, takes nobody's place.
        fs::hard_link(&beside, file).with_context(|| format!("giving {} its name", file.display()))?;
        sys::remove(&beside)?;
        Ok((made, size))
    };
    let written = write();
    bar.finish_and_clear();
    Ok(written.inspect_err(|_| drop(fs::remove_file(&beside)))?)
}

pub(super) fn restore(args: RestoreArgs, common: Common) -> Result<(), CliError> {
    let size = fs::metadata(&args.file)
        .map_err(|error| CliError::Refused(format!("the backup {}: {error}", args.file.display())))?;
    // Whoever takes the keys out of a file must not get it past somebody who expects them there.
    let header = fs::File::open(&args.file).map_err(anyhow::Error::from).and_then(|mut file| format::header(&mut file));
    if args.passphrase_file.is_some() && !header.map_err(refused)?.keys {
        return Err(CliError::Refused(
            "a passphrase is given, and the backup holds no keys: if it was made with them, it was changed; if not, leave the \
             passphrase out and give --expect HASH"
                .to_owned(),
        ));
    }
    let bar = progress::bytes(common, "restoring", size.len());
    let mut passphrase = || Passphrase::obtain_of("the keys in the backup", args.passphrase_file.as_deref(), false);
    let restored = restore::restore(&args.file, &args.data_dir, args.expect, &mut passphrase, |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let restored = restored.map_err(refused)?;
    let header = &restored.header;
    let dir = args.data_dir.display();
    let mut text = format!(
        "{dir} is the coordinator of {}: index version {}, root {}, {} entries of the log of decisions.\nWhat it published or decided \
         after that is not in it: publish, approve and pause again what is gone. An alarm says so until somebody acknowledges it.",
        header.made, header.index_version, header.root_version, header.decisions
    );
    if !header.payloads {
        text.push_str(
            "\nPayloads are not in the backup: put them into the directory payload, or publish the releases again.",
        );
    }
    text.push_str(&elsewhere(header));
    if header.database.is_some() {
        text.push_str("\nWhich database that is was not restored: give --database to the first coordinator run.");
    }
    if !restored.shown {
        text.push_str(
            "\nWARNING: nothing shows whether the file was changed since the backup was made: it holds no keys, and no --expect HASH \
             was given.",
        );
    }
    match restored.lacks.is_empty() {
        true => text
            .push_str(&format!("\nEnd the old coordinator for good, then: upswarm coordinator run --data-dir {dir}")),
        false => text.push_str(&format!(
            "\nThe backup holds no private keys. Put {} into {dir}/keys before you run it.",
            restored.lacks.join(", ")
        )),
    }
    let json = json!({
        "data_dir": args.data_dir, "made": header.made, "index_version": header.index_version, "root": header.root,
        "decisions": header.decisions, "lacks": restored.lacks, "payloads": header.payloads, "shown_unchanged": restored.shown,
    });
    common.print(&json, &text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        must_have_folder(&dir.path().join("backup")).unwrap();
        must_have_folder(Path::new("backup")).unwrap();
        let reason = must_have_folder(&dir.path().join("nowhere/backup")).unwrap_err().to_string();
        assert!(reason.contains("there is no directory") && reason.contains("nowhere;"), "{reason}");
    }

    #[test]
    fn a_passphrase_for_a_backup_without_keys_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("d");
        crate::coordinator::setup::init(&data, None).unwrap();
        let directory = Directory::existing(&data).unwrap();
        let moment = tokio::runtime::Runtime::new().unwrap().block_on(Moment::hold(&directory)).unwrap();
        let file = dir.path().join("backup");
        backup::write(&directory, &moment, fs::File::create(&file).unwrap(), None, false, |_| {}).unwrap();
        let args = RestoreArgs {
            file,
            data_dir: dir.path().join("new"),
            passphrase_file: Some(dir.path().join("word")),
            expect: None,
        };
        let reason = restore(args, Common::default()).unwrap_err().to_string();
        assert!(reason.contains("holds no keys") && !dir.path().join("new").exists(), "{reason}");
    }
}
