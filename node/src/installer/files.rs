//! The `files` recipe: all files in place, or none; and the way back.
//!
//! 1. What each file will replace is kept in `backup/RELEASE.pending`, and a manifest says what goes where. Both are durable
//!    before anything else happens.
//! 2. Verified copies are staged beside their places: a crash so far leaves stray files, which the manifest names.
//! 3. Each is renamed into its place, and the directories are synced.
//! 4. The backup's rename to `backup/RELEASE` commits. Until then an error, or the next start after a crash, undoes everything.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::Ordering;

use upswarm_protocol::catalog::{FilePlacement, Recipe};
use upswarm_protocol::ids::ReleaseId;
use upswarm_protocol::node::InstallOutcome;

use super::manifest::{Backups, Entry, Manifest, remove_tree, sync_dir};
use super::{Job, Trouble, payload, random_name};
use crate::sys::{self, Folder, Kind, Made, Place, duplicate, locate, locate_or_make, unmake};

/// A placement that a crash had cut short, undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// The release.
    pub(crate) release: ReleaseId,
    /// What was done, or why it could not be; for the admin.
    pub(crate) text: String,
}

/// Undoes placements that a crash has cut short and removes what interrupted jobs left behind. Call it once at the start,
/// before any job.
pub(crate) fn recover(state_dir: &Path) -> Vec<Recovered> {
    // Nothing in it outlives its job.
    let _ = remove_tree(&state_dir.join("private"));
    if !state_dir.join("backup").exists() {
        return Vec::new();
    }
    let pending = Backups::open(state_dir).and_then(|backups| {
        let _ = backups.sweep();
        Ok((backups.all_pending()?, backups))
    });
    let Ok((pending, backups)) = pending else { return Vec::new() };
    let undo = |release| {
        let text = match roll_back(&backups, release) {
            Ok(notes) if notes.is_empty() => "an interrupted placement of files was undone".to_owned(),
            Ok(notes) => format!("an interrupted placement of files was undone; {}", notes.join("; ")),
            Err(trouble) => format!("an interrupted placement of files could not be undone: {}", trouble.reason),
        };
        Recovered { release, text }
    };
    pending.into_iter().map(undo).collect()
}

/// Puts every file in place, or none.
pub(super) fn place(job: &Job<'_>, files: &[FilePlacement]) -> Result<InstallOutcome, Trouble> {
    let root = job.root.unwrap_or(Path::new("/"));
    let mut paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    paths.sort_unstable();
    if let Some(twice) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Trouble::failed(format!("the recipe puts two files at {:?}", twice[0])));
    }
    if let Some(file) = files.iter().find(|file| file.mode > 0o7777) {
        return Err(Trouble::failed(format!("{:o} is no mode for {:?}", file.mode, file.path)));
    }
    let mut made = Vec::new();
    let placed = place_below(job, root, files, &mut made);
    if placed.is_err() {
        unmake(made);
    }
    placed
}

fn place_below(
    job: &Job<'_>,
    root: &Path,
    files: &[FilePlacement],
    made: &mut Vec<Made>,
) -> Result<InstallOutcome, Trouble> {
    let places: Vec<Place> =
        files.iter().map(|file| locate_or_make(root, &file.path, made)).collect::<Result<_, _>>()?;
    let backups = Backups::open(job.state_dir)?;
    let pending = backups.pending(job.id);
    if pending.exists() {
        roll_back(&backups, job.id)?;
    }
    let placed =
        back_up(job, &backups, root, files, &places).and_then(|manifest| put_in_place(job, files, &places, &manifest));
    let committed = placed.and_then(|()| match backups.commit(job.id, &job.release.product) {
        // Committed all the same: what failed was tidying up.
        Err(_) if !pending.exists() => Ok(()),
        other => other,
    });
    match committed {
        Ok(()) => Ok(InstallOutcome::Done { restart: false, code: None }),
        Err(mut trouble) => {
            match roll_back(&backups, job.id) {
                Ok(notes) if notes.is_empty() => trouble.reason.push_str("; every file was left as it was"),
                Ok(notes) => trouble.reason = format!("{}; undone, but {}", trouble.reason, notes.join("; ")),
                Err(undo) => {
                    trouble.reason =
                        format!("{}; undoing failed too, until the next start: {}", trouble.reason, undo.reason);
                }
            }
            Err(trouble)
        }
    }
}

/// Takes files away and brings back what they replaced. Stopped half way, it can be run again.
pub(super) fn remove<'a>(job: &Job<'_>, paths: impl Iterator<Item = &'a str>) -> Result<InstallOutcome, Trouble> {
    let root = job.root.unwrap_or(Path::new("/"));
    let backups = Backups::open(job.state_dir)?;
    let backup = backups.committed(job.id);
    let mut manifest = Manifest::read(&backup)?;
    let others = backups.all_committed()?;
    let mut places = Vec::new();
    for path in paths {
        let entry = manifest.as_ref().and_then(|manifest| manifest.entries.iter().find(|entry| entry.path == path));
        let place = match locate(root, path) {
            Ok(place) => place,
            // No directory, no file.
            Err(_) if entry.is_none_or(|entry| entry.before.is_none()) && !root.join(&path[1..]).exists() => continue,
            Err(error) => return Err(error.into()),
        };
        let found = place.hash()?.map(hex::encode);
        // A later release has put its own file there: taking that away would break it.
        let of_another = others.iter().any(|(id, manifest)| {
            let theirs = |entry: &Entry| entry.path == path && found.as_deref() == Some(entry.placed.as_str());
            *id != job.id
                && entry.is_none_or(|entry| found.as_deref() != Some(entry.placed.as_str()))
                && manifest.entries.iter().any(theirs)
        });
        if !of_another {
            match entry {
                Some(entry) => put_back(&place, entry, &open_dir(&backup)?)?,
                // Without a backup (it was used up, or grew too old) what is there may be what came back before.
                None if placed_here(job, path).is_none_or(|placed| found == Some(placed)) => {
                    place.unlink(&place.name)?
                }
                None => {}
            }
        }
        places.push((place, path.to_owned()));
    }
    places.iter().try_for_each(|(place, _)| place.sync())?;
    if let Some(manifest) = &mut manifest {
        manifest.entries.retain(|entry| !places.iter().any(|(_, path)| *path == entry.path));
        if manifest.entries.is_empty() {
            backups.discard(&backup)?;
        } else {
            manifest.write(&backup)?;
        }
    }
    Ok(InstallOutcome::Done { restart: false, code: None })
}

/// The BLAKE3 in hex of what the release's own `files` recipe puts at this path, if it does.
fn placed_here(job: &Job<'_>, path: &str) -> Option<String> {
    let Recipe::Files { files } = &job.release.install else { return None };
    let file = files.iter().find(|file| file.path.as_str() == path)?;
    job.release.payloads.get(usize::from(file.payload)).map(|payload| payload.id.to_string())
}

/// Step 1.
fn back_up(
    job: &Job<'_>,
    backups: &Backups,
    root: &Path,
    files: &[FilePlacement],
    places: &[Place],
) -> Result<Manifest, Trouble> {
    let pending = backups.pending(job.id);
    sys::create_private_dir(&pending).map_err(|error| Trouble::io("cannot create", &pending, error))?;
    let dir = open_dir(&pending)?;
    let sequence = backups.all_committed()?.iter().map(|(_, manifest)| manifest.sequence).max().unwrap_or(0) + 1;
    let mut manifest = Manifest::new(&job.release.product, sequence, root);
    for (number, (file, place)) in files.iter().zip(places).enumerate() {
        let (payload, _) = payload::find(job, usize::from(file.payload))?;
        let name = number.to_string();
        let before = duplicate(&place.dir, &place.name, &dir, OsStr::new(&name))
            .map_err(|error| Trouble::io("cannot keep a backup of", &place.path, error))?;
        manifest.entries.push(Entry {
            path: file.path.as_str().to_owned(),
            staged: format!(".upswarm-{}", random_name()?),
            placed: payload.id.to_string(),
            before: (before != Kind::Absent).then_some(name),
        });
    }
    manifest.write(&pending)?;
    sync_dir(&backups.dir)?;
    Ok(manifest)
}

/// Steps 2 and 3.
fn put_in_place(job: &Job<'_>, files: &[FilePlacement], places: &[Place], manifest: &Manifest) -> Result<(), Trouble> {
    for ((file, place), entry) in files.iter().zip(places).zip(&manifest.entries) {
        let (payload, source) = payload::find(job, usize::from(file.payload))?;
        let mut staged = place.create(&entry.staged)?;
        payload::copy_verified(payload, source, &mut staged)?;
        sys::set_mode(&staged, file.mode)
            .and_then(|()| staged.sync_all())
            .map_err(|error| Trouble::io("cannot finish the file for", &place.path, error))?;
    }
    if job.cancel.load(Ordering::Relaxed) {
        return Err(Trouble::retry("the node is about to end"));
    }
    for (place, entry) in places.iter().zip(&manifest.entries) {
        place.take(&entry.staged)?;
    }
    Ok(places.iter().try_for_each(Place::sync)?)
}

/// Undoes a pending placement; what something else has changed meanwhile is left alone and named. Stopped half way, it can
/// be run again.
fn roll_back(backups: &Backups, release: ReleaseId) -> Result<Vec<String>, Trouble> {
    let pending = backups.pending(release);
    let mut notes = Vec::new();
    // Without a manifest nothing but the backup itself was made.
    if let Some(manifest) = Manifest::read(&pending)? {
        let dir = open_dir(&pending)?;
        for entry in manifest.entries.iter().rev() {
            let place = locate(&manifest.root, &entry.path)?;
            place.unlink(OsStr::new(&entry.staged))?;
            place.unlink(OsStr::new(&returning(entry)))?;
            let found = place.hash()?.map(hex::encode);
            let is_ours = found.as_deref() == Some(entry.placed.as_str());
            let is_missing = !place.exists()?;
            if is_ours || (is_missing && entry.before.is_some()) {
                put_back(&place, entry, &dir)?;
            } else if !is_missing && !is_as_before(&place, entry, &dir)? {
                notes.push(format!("{} was changed by something else and left so", place.path.display()));
            }
            place.sync()?;
        }
    }
    backups.discard(&pending)?;
    Ok(notes)
}

/// Whether the place holds what the backup holds.
fn is_as_before(place: &Place, entry: &Entry, backup: &Folder) -> Result<bool, Trouble> {
    match &entry.before {
        Some(before) => Ok(place.is_like(backup, OsStr::new(before))?),
        None => Ok(false),
    }
}

/// Makes a place hold again what it held before; the backup stays.
fn put_back(place: &Place, entry: &Entry, backup: &Folder) -> Result<(), Trouble> {
    let Some(before) = &entry.before else { return Ok(place.unlink(&place.name)?) };
    let returning = returning(entry);
    place.unlink(OsStr::new(&returning))?;
    let kind = duplicate(backup, OsStr::new(before), &place.dir, OsStr::new(&returning))
        .map_err(|error| Trouble::io("cannot bring back", &place.path, error))?;
    if kind == Kind::Absent {
        return Err(Trouble::failed(format!("the backup of {} is gone", place.path.display())));
    }
    place.take(&returning)?;
    // Two names of one file: the rename did nothing, and this one is left over.
    Ok(place.unlink(OsStr::new(&returning))?)
}

/// The name under which a replaced file comes back, before it is put in place.
fn returning(entry: &Entry) -> String {
    format!("{}.back", entry.staged)
}

fn open_dir(path: &Path) -> Result<Folder, Trouble> {
    sys::open_folder(path).map_err(|error| Trouble::io("cannot open", path, error))
}

#[cfg(test)]
mod tests;
