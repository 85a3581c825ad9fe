//! Work that may take as long as it wants.

use tokio::sync::oneshot;

/// Runs `work` on a thread of its own with the least claim to the processor, and by that to the disk: it gives way to the
/// person at the machine, and to the bytes that other machines wait for. Fails when `work` panics, or no thread can be had.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new().name("aside".into()).spawn(move || {
        lower_priority();
        // Whoever asked may have left.
        let _ = done.send(work());
    })?;
    ended.await.map_err(|_| anyhow::anyhow!("it panicked; the log says where"))
}

/// Of this thread, and of the children it starts. Best effort: work at normal priority is better than none.
pub(crate) fn lower_priority() {
    let _ = rustix::process::setpriority_process(None, 19);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_lowers_only_its_own_priority() {
        let before = rustix::process::getpriority_process(None).unwrap();
        let inside = aside(|| rustix::process::getpriority_process(None).unwrap()).await.unwrap();
        assert_eq!(inside, 19);
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before);
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        assert!(aside(|| panic!("as the test wants it")).await.is_err());
    }
}
