//! Which files of a data directory belong to a backup, and which names they may have in one.

/// How the folder of a moment is called, before its random part.
pub(crate) const PREFIX: &str = "moment-";
/// What belongs to the process that runs, and what a backup holds apart.
const LEFT_OUT: [&str; 12] = [
    // The copy of the database is one file.
    "fleet.db-wal",
    "fleet.db-shm",
    "lock",
    "admin.token",
    "admin.sock",
    "admin.new",
    "console-link",
    "run.json",
    "keys",
    "payload",
    "upload",
    "restored.json",
];

/// Whether something at the top of a data directory is no part of a moment.
pub(crate) fn is_left_out(name: &str) -> bool {
    LEFT_OUT.contains(&name) || name.starts_with(PREFIX)
}

/// A path below the data directory that cannot lead out of it, and that no backup leaves to the process that runs.
pub(crate) fn is_path(path: &str) -> bool {
    path.split('/').all(is_name) && path.split('/').next().is_some_and(|first| !is_left_out(first))
        || path.strip_prefix("payload/").is_some_and(is_name)
}

/// A name of a file as the coordinator gives them.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && name.len() <= 255
        && !name.chars().any(|c| c == '/' || c == '\\' || c.is_control())
}
