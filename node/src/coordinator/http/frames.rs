//! Devices that reach this coordinator by HTTP alone: their control frames come in posts, and wait here to be fetched.
//!
//! Owns the sessions of such devices and shows each to the state machine as a connected peer. It never judges a frame, and a
//! device that has a libp2p connection has no session here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use upswarm_protocol::coordinator::Input;
use upswarm_protocol::frame_batch::{Answered, MAX_BYTES, Posted};
use upswarm_protocol::ids::DeviceId;
use zeroize::Zeroizing;

use super::refused::Refused;
use crate::encrypt;

/// Devices that may be connected in this way at a time.
const MAX_SESSIONS: usize = 4096;
/// Ended sessions whose batches are not taken again.
const MAX_ENDED: usize = 16384;
/// Bytes of frames that wait for one device; one that does not fetch them is left.
const MAX_QUEUE: usize = 4 * MAX_BYTES;
/// A device that has posted nothing for this long is gone.
const SILENT: Duration = Duration::from_secs(60);
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// One device's session.
#[derive(Debug)]
struct Session {
    number: u64,
    /// The latest batch, and which of the 64 before it have come: two requests of one device may overtake each other.
    latest: u64,
    seen: u64,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    news: Arc<Notify>,
    /// Counts requests that wait: only the latest does.
    waiting: u64,
    heard: Instant,
}

impl Session {
    fn new(number: u64) -> Self {
        Self {
            number,
            latest: 0,
            seen: 0,
            queue: VecDeque::new(),
            queued: 0,
            news: Arc::default(),
            waiting: 0,
            heard: Instant::now(),
        }
    }

    /// Whether this batch comes for the first time. `number` counts from 1.
    fn takes(&mut self, number: u64) -> bool {
        if number > self.latest {
            let gap = number - self.latest;
            self.seen = if gap >= 64 { 0 } else { self.seen << gap };
            if gap <= 64 && self.latest > 0 {
                self.seen |= 1 << (gap - 1);
            }
            self.latest = number;
            return true;
        }
        let behind = self.latest - number;
        if number == 0 || behind == 0 || behind > 64 || self.seen >> (behind - 1) & 1 == 1 {
            return false;
        }
        self.seen |= 1 << (behind - 1);
        true
    }
}

#[derive(Debug, Default)]
struct Devices {
    sessions: BTreeMap<DeviceId, Session>,
    /// The last session of devices that have none now: an old batch does not begin it again.
    ended: BTreeMap<DeviceId, u64>,
    direct: BTreeSet<DeviceId>,
}

impl Devices {
    fn end(&mut self, device: &DeviceId) -> bool {
        let Some(session) = self.sessions.remove(device) else { return false };
        if self.ended.len() >= MAX_ENDED {
            self.ended.pop_first();
        }
        self.ended.insert(*device, session.number);
        session.news.notify_waiters();
        true
    }
}

/// Every session.
#[derive(Debug)]
pub(crate) struct Frames {
    devices: Mutex<Devices>,
    inputs: mpsc::Sender<Input>,
    report_key: Zeroizing<[u8; 32]>,
}

impl Frames {
    /// Sessions whose frames go to `inputs`; batches are encrypted to the public half of `report_key`.
    pub(crate) fn new(inputs: mpsc::Sender<Input>, report_key: Zeroizing<[u8; 32]>) -> Self {
        Self { devices: Mutex::default(), inputs, report_key }
    }

    /// The bytes of a encrypted batch.
    pub(super) fn open(&self, encrypted: &[u8]) -> anyhow::Result<Vec<u8>> {
        Ok(encrypt::open(&self.report_key, encrypted)?)
    }

    fn lock(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a frame for a device; `false` if it has no session here.
    pub(crate) fn send(&self, device: &DeviceId, frame: &[u8]) -> bool {
        let mut devices = self.lock();
        let Some(session) = devices.sessions.get_mut(device) else { return false };
        // One that does not fetch falls silent, and begins anew.
        if session.queued + frame.len() <= MAX_QUEUE {
            session.queued += frame.len();
            session.queue.push_back(frame.to_vec());
            session.news.notify_waiters();
        }
        true
    }

    /// Channels a device's session; `false` if it has none.
    pub(crate) fn leave(&self, device: &DeviceId) -> bool {
        self.lock().end(device)
    }

    /// A libp2p connection to a device stands, or is gone. Returns whether a session ended for it.
    pub(crate) fn direct(&self, device: DeviceId, up: bool) -> bool {
        let mut devices = self.lock();
        if up {
            devices.direct.insert(device);
            return devices.end(&device);
        }
        devices.direct.remove(&device);
        false
    }

    /// Takes a batch in. Returns what to wait for.
    pub(super) async fn accept(&self, device: DeviceId, posted: Posted) -> Result<Arc<Notify>, Refused> {
        let gone = || Refused(StatusCode::SERVICE_UNAVAILABLE, "the coordinator is ending".to_owned());
        // Room first: nothing may wait while the sessions are locked.
        let mut room = self.inputs.reserve_many(posted.frames.len() + 2).await.map_err(|_| gone())?;
        let mut devices = self.lock();
        if devices.direct.contains(&device) {
            let why = "this device is connected by libp2p; speak there".to_owned();
            return Err(Refused(StatusCode::CONFLICT, why));
        }
        let known = devices.sessions.get(&device).map(|session| session.number);
        let last = known.or_else(|| devices.ended.get(&device).copied());
        if last.is_some_and(|last| last > posted.session || (last == posted.session && known.is_none())) {
            return Err(Refused(StatusCode::GONE, "this session has ended; begin another one".to_owned()));
        }
        let mut tell = |input| room.next().map(|room| room.send(input));
        if known != Some(posted.session) {
            if devices.end(&device) {
                tell(Input::PeerDown { peer: device });
            } else if devices.sessions.len() >= MAX_SESSIONS {
                return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, "too many devices are connected".to_owned()));
            }
            devices.ended.remove(&device);
            devices.sessions.insert(device, Session::new(posted.session));
            tell(Input::PeerUp { peer: device });
        }
        let Some(session) = devices.sessions.get_mut(&device) else { return Err(gone()) };
        if !session.takes(posted.number) {
            return Err(Refused(StatusCode::CONFLICT, "this batch has come already".to_owned()));
        }
        session.heard = Instant::now();
        session.waiting += u64::from(posted.wait > 0);
        session.news.notify_waiters();
        let news = session.news.clone();
        for frame in posted.frames.into_vec() {
            tell(Input::Frame { peer: device, bytes: frame.into_vec() });
        }
        Ok(news)
    }

    /// What waits for a device, at the latest after `wait`; `None` when its session has ended.
    pub(super) async fn answer(
        &self,
        device: DeviceId,
        session: u64,
        wait: Duration,
        news: Arc<Notify>,
    ) -> Option<Answered> {
        let until = Instant::now() + wait;
        let mut mine = None;
        loop {
            let heard = news.notified();
            tokio::pin!(heard);
            heard.as_mut().enable();
            {
                let mut devices = self.lock();
                let session = devices.sessions.get_mut(&device).filter(|known| known.number == session)?;
                let mine = *mine.get_or_insert(session.waiting);
                if !session.queue.is_empty() || Instant::now() >= until || session.waiting != mine {
                    let answered = Answered::take(&mut session.queue);
                    session.queued = session.queue.iter().map(Vec::len).sum();
                    session.heard = Instant::now();
                    return Some(answered);
                }
            }
            // Late or not, it is looked at again.
            let _ = timeout_at(until, heard).await;
        }
    }

    /// Leaves devices that have fallen silent, until `stop`.
    pub(crate) async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let silent: Vec<DeviceId> = {
                let devices = self.lock();
                let silent = devices.sessions.iter().filter(|(_, session)| session.heard.elapsed() > SILENT);
                silent.map(|(device, _)| *device).collect()
            };
            for peer in silent {
                let Ok(room) = self.inputs.reserve().await else { return };
                let mut devices = self.lock();
                let still = devices.sessions.get(&peer).is_some_and(|session| session.heard.elapsed() > SILENT);
                if still && devices.end(&peer) {
                    room.send(Input::PeerDown { peer });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use upswarm_protocol::codec::Bounded;

    use super::*;

    fn posted(session: u64, number: u64, wait: u16, frames: &[&[u8]]) -> Posted {
        let frames = frames.iter().map(|frame| Bounded::new(frame.to_vec()).unwrap()).collect();
        Posted { session, number, wait, frames: Bounded::new(frames).unwrap() }
    }

    fn bench() -> (Arc<Frames>, mpsc::Receiver<Input>, DeviceId) {
        let (inputs, heard) = mpsc::channel(4096);
        (Arc::new(Frames::new(inputs, Zeroizing::new([1; 32]))), heard, DeviceId([7; 32]))
    }

    fn names(heard: &mut mpsc::Receiver<Input>) -> Vec<String> {
        let mut names = Vec::new();
        while let Ok(input) = heard.try_recv() {
            names.push(match input {
                Input::PeerUp { .. } => "up".into(),
                Input::PeerDown { .. } => "down".into(),
                Input::Frame { bytes, .. } => format!("frame {bytes:?}"),
                other => format!("{other:?}"),
            });
        }
        names
    }

    #[tokio::test]
    async fn a_session_is_a_connection_and_its_frames_keep_their_order() {
        let (frames, mut heard, device) = bench();
        assert!(!frames.send(&device, b"nobody"));
        let news = frames.accept(device, posted(5, 1, 0, &[b"a", b"b"])).await.unwrap();
        assert_eq!(names(&mut heard), ["up", "frame [97]", "frame [98]"]);
        assert!(frames.send(&device, b"one") && frames.send(&device, b"two"));
        let answered = frames.answer(device, 5, Duration::ZERO, news).await.unwrap();
        assert_eq!(answered.frames.iter().map(|f| f.to_vec()).collect::<Vec<_>>(), [b"one".to_vec(), b"two".to_vec()]);
        // A new session ends the old one; an old one does not come back.
        frames.accept(device, posted(6, 1, 0, &[])).await.unwrap();
        assert_eq!(names(&mut heard), ["down", "up"]);
        assert_eq!(frames.accept(device, posted(5, 2, 0, &[])).await.unwrap_err().0, StatusCode::GONE);
        assert!(frames.leave(&device) && !frames.leave(&device));
        assert_eq!(frames.accept(device, posted(6, 2, 0, &[])).await.unwrap_err().0, StatusCode::GONE);
        assert!(names(&mut heard).is_empty());
    }

    #[tokio::test]
    async fn a_batch_is_taken_once_even_when_requests_overtake_each_other() {
        let (frames, _heard, device) = bench();
        for number in [2, 1, 5, 3, 4, 70, 8] {
            frames.accept(device, posted(1, number, 0, &[])).await.unwrap();
        }
        for number in [0, 1, 2, 3, 4, 5, 8, 70] {
            let again = frames.accept(device, posted(1, number, 0, &[])).await;
            assert_eq!(again.unwrap_err().0, StatusCode::CONFLICT, "batch {number}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_news_and_only_the_latest_one_does() {
        let (frames, _heard, device) = bench();
        let wait = Duration::from_secs(20);
        let news = frames.accept(device, posted(1, 1, 20, &[])).await.unwrap();
        let first = tokio::spawn({
            let (frames, news) = (frames.clone(), news.clone());
            async move { frames.answer(device, 1, wait, news).await }
        });
        tokio::task::yield_now().await;
        frames.accept(device, posted(1, 2, 20, &[])).await.unwrap();
        assert_eq!(first.await.unwrap(), Some(Answered::default()), "the older request is let go");
        let begun = Instant::now();
        let second = tokio::spawn({
            let (frames, news) = (frames.clone(), news.clone());
            async move { frames.answer(device, 1, wait, news).await }
        });
        tokio::task::yield_now().await;
        frames.send(&device, b"news");
        assert_eq!(second.await.unwrap().unwrap().frames.len(), 1);
        assert_eq!(begun.elapsed(), Duration::ZERO, "news is not kept waiting");
        let news = frames.accept(device, posted(1, 3, 20, &[])).await.unwrap();
        assert_eq!(frames.answer(device, 1, wait, news).await, Some(Answered::default()));
        assert_eq!(begun.elapsed(), wait);
    }

    #[tokio::test]
    async fn a_device_with_a_connection_has_no_session() {
        let (frames, mut heard, device) = bench();
        frames.accept(device, posted(1, 1, 0, &[])).await.unwrap();
        assert!(frames.direct(device, true), "the session gives way");
        assert_eq!(frames.accept(device, posted(2, 1, 0, &[])).await.unwrap_err().0, StatusCode::CONFLICT);
        assert!(!frames.direct(device, false));
        frames.accept(device, posted(2, 1, 0, &[])).await.unwrap();
        assert_eq!(names(&mut heard), ["up", "up"], "whoever brings the connection tells of the end");
    }

    #[tokio::test]
    async fn what_waits_for_a_device_is_bounded() {
        let (frames, _heard, device) = bench();
        frames.accept(device, posted(1, 1, 0, &[])).await.unwrap();
        (0..1000).for_each(|_| assert!(frames.send(&device, &[0; 60_000])));
        assert!(frames.lock().sessions[&device].queued <= MAX_QUEUE);
    }
}
