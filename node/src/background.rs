//! Work that may take as long as it wants, on threads of its own at the least priority. It never runs more than a few at a
//! time, and never holds up the event loop.

use tokio::sync::{Semaphore, oneshot};

use crate::sys;

/// Works at a time: an install, and what is detected beside it. After a scan every approved release may have to be detected.
const AT_ONCE: usize = 4;
static ROOM: Semaphore = Semaphore::const_new(AT_ONCE);

/// Runs `work` on a thread of its own with the least claim to the processor, and by that to the disk: it gives way to the
/// person at the machine, and to the bytes that other machines wait for. At most [`AT_ONCE`] works run; the others wait for
/// their turn. Fails when `work` panics, or no thread can be had.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    let room = ROOM.acquire().await?;
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new().name("background".into()).spawn(move || {
        // Until the work is over, whether or not somebody still waits for it.
        let _room = room;
        sys::lower_priority();
        // Whoever asked may have left.
        let _ = done.send(work());
    })?;
    ended.await.map_err(|_| anyhow::anyhow!("it panicked; the log says where"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn it_lowers_only_its_own_priority() {
        let before = rustix::process::getpriority_process(None).unwrap();
        let inside = run(|| rustix::process::getpriority_process(None).unwrap()).await.unwrap();
        assert_eq!(inside, 19);
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_takes_nobodys_room() {
        for _ in 0..=AT_ONCE {
            assert!(run(|| panic!("as the test wants it")).await.is_err());
        }
        run(|| {}).await.unwrap();
    }

    #[tokio::test]
    async fn of_many_works_only_so_many_run() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let works = (0..5 * AT_ONCE).map(|_| {
            let (running, most) = (running.clone(), most.clone());
            run(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
            })
        });
        for ended in futures::future::join_all(works).await {
            ended.unwrap();
        }
        assert!((1..=AT_ONCE).contains(&most.load(Ordering::SeqCst)));
    }
}
