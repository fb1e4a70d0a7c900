//! A thread pool for hosts: a few microseconds for each parallel region, no allocation, no work when idle.
//!
//! The caller of [`Pool::run`] works too, so a pool of N has N − 1 threads. Between regions they spin for a moment,
//! because a model's regions follow each other closely, and then sleep.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::vec::Vec;

use crate::workers::{Task, Workers};

/// How often a thread looks for work before it sleeps: some tens of microseconds.
const SPINS: u32 = 10_000;

/// Threads that wait for work. Dropping the pool ends them.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// Counts regions; changed under the lock, read without it while spinning.
    epoch: AtomicU32,
    /// Threads inside the current region; raised under the lock.
    active: AtomicUsize,
}

#[derive(Debug)]
struct State {
    job: Option<Job>,
    stop: bool,
}

/// What the threads of one region share; lives on its caller's stack.
#[derive(Debug, Default)]
struct Region {
    /// The next task nobody has taken.
    next: AtomicUsize,
    /// A task panicked on another thread than the caller's.
    panicked: AtomicBool,
}

/// The region that is being worked on.
#[derive(Clone, Copy, Debug)]
struct Job {
    tasks: *mut Task<'static>,
    count: usize,
    region: *const Region,
}

// SAFETY: the pointers are to data that `run` keeps alive while any thread is active, tasks are `Send`, and `next` hands
// each of them to one thread only.
unsafe impl Send for Job {}

impl Job {
    /// Runs tasks until none is left.
    ///
    /// # Safety
    /// `tasks` and `region` must be alive and used by nobody else than through this job.
    unsafe fn work(self) {
        // SAFETY: alive by the caller's promise.
        let region = unsafe { &*self.region };
        loop {
            let index = region.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count {
                return;
            }
            // SAFETY: `fetch_add` gives each index to one thread, so this is the only reference to the task.
            let task = unsafe { &mut *self.tasks.add(index) };
            task();
        }
    }
}

impl Shared {
    /// A task that panics does not poison anything: the panic goes on in the caller of `run`.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn thread(&self) {
        let mut seen = 0;
        loop {
            let mut spins = 0;
            while self.epoch.load(Ordering::Acquire) == seen && spins < SPINS {
                core::hint::spin_loop();
                spins += 1;
            }
            let mut state = self.lock();
            while self.epoch.load(Ordering::Relaxed) == seen && !state.stop {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stop {
                return;
            }
            seen = self.epoch.load(Ordering::Relaxed);
            let Some(job) = state.job else { continue };
            self.active.fetch_add(1, Ordering::Relaxed);
            drop(state);
            let leave = Leave(self);
            // SAFETY: this thread became active under the lock while the job was there; `run` removes the job and waits
            // until nobody is active before its tasks and the region die.
            let result = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| unsafe { job.work() }));
            if result.is_err() {
                // SAFETY: still active.
                unsafe { &*job.region }.panicked.store(true, Ordering::Relaxed);
            }
            drop(leave);
        }
    }
}

/// Makes a thread inactive again.
struct Leave<'a>(&'a Shared);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Release);
    }
}

/// Ends a region: takes the job away and waits for those still in it, also if the caller's own task panics.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.lock().job = None;
        let mut spins = 0u32;
        while self.0.active.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS {
                core::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

impl Pool {
    /// A pool of `count` workers, the caller included; at least one.
    ///
    /// ```
    /// use thumbformer::kernel::pool::Pool;
    /// use thumbformer::workers::Workers;
    /// assert_eq!(Pool::new(2).count(), 2);
    /// ```
    pub fn new(count: usize) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { job: None, stop: false }),
            wake: Condvar::new(),
            epoch: AtomicU32::new(0),
            active: AtomicUsize::new(0),
        });
        let spawn = |_| {
            let shared = Arc::clone(&shared);
            // A thread that cannot be had leaves its work to the others.
            std::thread::Builder::new().name("thumbformer".into()).spawn(move || shared.thread()).ok()
        };
        let threads = (1..count).filter_map(spawn).collect();
        Self { shared, threads }
    }
}

impl Workers for Pool {
    fn count(&self) -> usize {
        self.threads.len() + 1
    }

    fn run(&self, tasks: &mut [Task<'_>]) {
        let region = Region::default();
        // The lifetime ends before this function does; see `Finish`.
        let job = Job { tasks: tasks.as_mut_ptr().cast(), count: tasks.len(), region: &raw const region };
        {
            let mut state = self.shared.lock();
            if state.job.is_some() {
                // Someone else's region is running: do this one alone.
                drop(state);
                return tasks.iter_mut().for_each(|task| task());
            }
            state.job = Some(job);
            self.shared.epoch.fetch_add(1, Ordering::Release);
        }
        self.shared.wake.notify_all();
        let finish = Finish(&self.shared);
        // SAFETY: `tasks` is borrowed mutably, `region` is local; both outlive `finish`, whose drop waits for all others.
        unsafe { job.work() };
        drop(finish);
        assert!(!region.panicked.load(Ordering::Relaxed), "a worker's task panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for count in [1, 2, 5] {
            let pool = Pool::new(count);
            for tasks in [0, 1, 2, 7, 64] {
                for _ in 0..200 {
                    let mut hits = std::vec![0u32; tasks];
                    let mut calls: Vec<_> = hits.iter_mut().map(|hit| move || *hit += 1).collect();
                    let mut refs: Vec<Task<'_>> = calls.iter_mut().map(|call| call as Task<'_>).collect();
                    pool.run(&mut refs);
                    assert!(hits.iter().all(|&hit| hit == 1));
                }
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            let result = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
                let mut calls: [_; 4] = core::array::from_fn(|i| move || assert!(i != 2));
                let mut refs: Vec<Task<'_>> = calls.iter_mut().map(|call| call as Task<'_>).collect();
                pool.run(&mut refs);
            }));
            assert!(result.is_err());
        }
        let mut hit = false;
        pool.run(&mut [&mut || hit = true]);
        assert!(hit);
    }
}
