//! Finds system programs by name, where the system keeps them, and nowhere a user could put one.

use std::path::{Path, PathBuf};

/// Where system programs lie.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The absolute path of a system program, if it is installed.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    PATH.split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}
