//! Long work that an admin has asked for, and what came of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::progress::Progress;
use crate::api::proposals::{Proposal, ProposalStatus};

/// Of so many the end is remembered.
const MAX_JOBS: usize = 32;
/// At work at a time.
const MAX_RUNNING: usize = 4;

/// Every job, by number.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<(u64, BTreeMap<u64, Job>)>);

#[derive(Debug)]
struct Job {
    progress: Progress,
    /// Nothing while it is at work.
    end: Option<Result<Proposal, String>>,
}

/// A job at work. One that goes away without an end has failed.
pub(crate) struct Work {
    jobs: Arc<Jobs>,
    pub(crate) id: u64,
    pub(crate) progress: Progress,
}

impl Jobs {
    /// Begins a job; `None` when too many are at work.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Work> {
        let mut jobs = self.lock();
        if jobs.1.values().filter(|job| job.end.is_none()).count() >= MAX_RUNNING {
            return None;
        }
        while jobs.1.len() >= MAX_JOBS {
            let oldest = jobs.1.iter().find(|(_, job)| job.end.is_some()).map(|(id, _)| *id)?;
            jobs.1.remove(&oldest);
        }
        jobs.0 += 1;
        let (id, progress) = (jobs.0, Progress::default());
        jobs.1.insert(id, Job { progress: progress.clone(), end: None });
        Some(Work { jobs: self.clone(), id, progress })
    }

    /// How far a job is.
    pub(crate) fn status(&self, id: u64) -> Option<ProposalStatus> {
        let jobs = self.lock();
        let job = jobs.1.get(&id)?;
        let (done, error) = match &job.end {
            None => (None, None),
            Some(Ok(done)) => (Some(done.clone()), None),
            Some(Err(error)) => (None, Some(error.clone())),
        };
        Some(ProposalStatus { id, running: job.end.is_none().then(|| job.progress.stage()), done, error })
    }

    fn end(&self, id: u64, end: Result<Proposal, String>) {
        if let Some(job) = self.lock().1.get_mut(&id) {
            job.end.get_or_insert(end);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (u64, BTreeMap<u64, Job>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    /// Says what came of it.
    pub(crate) fn end(self, end: Result<Proposal, String>) {
        self.jobs.end(self.id, end);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.jobs.end(self.id, Err("it broke off; the coordinator's log says why".to_owned()));
    }
}
