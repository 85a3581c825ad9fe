//! Users of this machine, and what belongs to them.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context as _;

/// Whether this process may do everything.
pub(crate) fn is_administrator() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user number of a name in passwd(5), or the number itself.
pub(crate) fn user_id(user: &str) -> anyhow::Result<u32> {
    if let Ok(number) = user.parse() {
        return Ok(number);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let number = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then(|| fields.nth(1)?.parse().ok())?
    });
    number.with_context(|| format!("there is no user {user:?}; create it, or give a user number"))
}

/// Makes a user the owner of a file, a folder or a link itself.
pub(crate) fn give(path: &Path, owner: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(owner), None)
}
