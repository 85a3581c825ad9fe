//! The least claim to the processor and the disk. Best effort: work at normal priority is better than none.

use std::process::{Command, Stdio};

use super::lookup::find;

/// Lowers the claim to the processor of this thread, and of the children it starts.
pub(crate) fn lower_priority() {
    let _ = rustix::process::setpriority_process(None, 19);
}

/// Lets the work of the person at the machine come first, of this thread and what it starts.
pub(crate) fn give_way() -> std::io::Result<()> {
    Ok(rustix::process::setpriority_process(None, 10)?)
}

/// Lowers the claim to the disk of this thread, and of the children it starts.
pub(super) fn lower_disk_priority() {
    if let Some(ionice) = find("ionice") {
        let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
        let mut command = Command::new(ionice);
        command.args(["-c", "3", "-p", &thread]).env_clear();
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
