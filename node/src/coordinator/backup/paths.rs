//! Which files of a data directory belong to a backup, and which names they may have in one.

/// How the folder of a moment is called, before its random part.
pub(crate) const PREFIX: &str = "moment-";
/// What belongs to the process that runs, and what a backup holds apart.
const LEFT_OUT: [&str; 13] = [
    // It says whom the coordinator sends a file of its machine to as a password: who starts it names that, and no file from elsewhere.
    "database.json",
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

/// Names and passwords for mirrors: a secret, as the keys are.
pub(crate) const MIRROR_PASSWORDS: &str = "repositories/auth.conf";

/// Whether a file or a folder of a data directory, by its path there, is no part of a moment.
pub(crate) fn is_left_out(path: &str) -> bool {
    // Letters of either case: on some file systems both name one file.
    let is = |name: &&str| name.eq_ignore_ascii_case(path);
    LEFT_OUT.iter().any(is) || is(&MIRROR_PASSWORDS) || path.starts_with(PREFIX)
}

/// A path that the encrypted part of a backup may hold.
pub(super) fn is_secret(path: &str) -> bool {
    path == "admin.token" || path == MIRROR_PASSWORDS || path.strip_prefix("keys/").is_some_and(is_name)
}

/// A path below the data directory that cannot lead out of it, and that no backup leaves to the process that runs.
pub(crate) fn is_path(path: &str) -> bool {
    path.split('/').all(is_name)
        && !is_left_out(path)
        && path.split('/').next().is_some_and(|first| !is_left_out(first))
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
