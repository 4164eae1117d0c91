//! Numbered jobs on worker threads. Results arrive in order, and few are computed ahead.

use std::ops::Range;
use std::panic;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// The number of finished results kept ready by all workers together. Each worker keeps at least one ready and works
/// on another.
const N_READY: usize = 8;

/// The results of jobs, in order, computed ahead by threads.
///
/// Worker w of n takes the jobs w, w + n, w + 2n, …, so that the workers need no coordination. Dropping the pipeline
/// ends the threads after their current jobs.
#[derive(Debug)]
pub(crate) struct Pipeline<T> {
    workers: Vec<Worker<T>>,
    jobs: Range<usize>,
    next_worker: usize,
}

#[derive(Debug)]
struct Worker<T> {
    /// `None` after the receiver was dropped.
    results: Option<Receiver<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Pipeline<T> {
    /// Starts at most `n_workers` threads on `jobs`. `worker` creates for each thread a function from a job to its
    /// result, which may own buffers.
    pub(crate) fn start<W>(
        jobs: Range<usize>,
        n_workers: usize,
        mut worker: impl FnMut() -> W,
    ) -> Pipeline<T>
    where
        W: FnMut(usize) -> T + Send + 'static,
    {
        let n_workers = n_workers.clamp(1, jobs.len().max(1));
        let workers = (0..n_workers)
            .map(|first| {
                let (sender, results) = sync_channel((N_READY / n_workers).max(1));
                let (mine, mut work) = (jobs.clone().skip(first).step_by(n_workers), worker());
                let thread = thread::spawn(move || send_all(mine, &mut work, &sender));
                Worker {
                    results: Some(results),
                    thread: Some(thread),
                }
            })
            .collect();
        Pipeline {
            workers,
            jobs,
            next_worker: 0,
        }
    }
}

fn send_all<T>(
    jobs: impl Iterator<Item = usize>,
    work: &mut impl FnMut(usize) -> T,
    sender: &SyncSender<T>,
) {
    for job in jobs {
        if sender.send(work(job)).is_err() {
            return; // The receiver was dropped.
        }
    }
}

impl<T> Iterator for Pipeline<T> {
    type Item = T;

    /// # Panics
    /// If a worker panicked, with the same payload.
    fn next(&mut self) -> Option<T> {
        self.jobs.next()?;
        let n_workers = self.workers.len();
        let worker = &mut self.workers[self.next_worker];
        self.next_worker = (self.next_worker + 1) % n_workers;
        if let Some(Ok(result)) = worker.results.as_ref().map(Receiver::recv) {
            return Some(result);
        }
        // A worker that ends before its last job has panicked.
        if let Some(Err(payload)) = worker.thread.take().map(JoinHandle::join) {
            panic::resume_unwind(payload);
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.jobs.size_hint()
    }
}

impl<T> Drop for Pipeline<T> {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.results = None;
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // A panic here concerns a result that was never requested.
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        for n_workers in [1, 2, 3, 7, 100] {
            let squares = Pipeline::start(5..42, n_workers, || |job| job * job);
            let wanted: Vec<usize> = (5..42).map(|job| job * job).collect();
            assert_eq!(squares.collect::<Vec<_>>(), wanted, "{n_workers} workers");
        }
        assert_eq!(Pipeline::start(3..3, 4, || |job| job).count(), 0);
    }

    #[test]
    fn workers_run_ahead_by_a_bounded_number_and_end_with_the_pipeline() {
        let done = Arc::new(AtomicUsize::new(0));
        let mut pipeline = Pipeline::start(0..1000, 2, || {
            let done = Arc::clone(&done);
            move |job| {
                done.fetch_add(1, Ordering::SeqCst);
                job
            }
        });
        assert_eq!(pipeline.next(), Some(0));
        drop(pipeline); // Joins the threads: `done` no longer changes.
        // The one taken, those ready, and one in progress per worker.
        assert!(done.load(Ordering::SeqCst) <= 1 + N_READY + 2);
    }

    #[test]
    #[should_panic(expected = "job 3")]
    fn a_panic_in_a_worker_is_heard() {
        let pipeline = Pipeline::start(0..10, 2, || |job| assert!(job != 3, "job {job}"));
        for () in pipeline {}
    }
}
