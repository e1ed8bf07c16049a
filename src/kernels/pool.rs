//! The compute threads: they spin briefly for the next job, then sleep.
//!
//! A decode step is some hundred short jobs with nothing but bookkeeping in between, so handing
//! out a job must cost well under a microsecond; a scheduler that wakes a thread through the kernel
//! for each costs more than a small layer. An idle pool uses no processor.
//!
//! The thread that calls [`Pool::run`] works along and returns when every part is done. Which
//! thread runs which part is left open: no result may depend on it. Not here: how work is cut,
//! which is [`super::parallel`]'s.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::UnsafeCell;
use std::mem::transmute;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use core_affinity::CoreId;

/// How long a thread spins for the next job before it sleeps: longer than the gaps within a step,
/// shorter than anything a person would notice on a processor's meter.
const SPIN: Duration = Duration::from_micros(50);
/// Looks at the gate between two looks at the clock.
const LOOKS: u32 = 64;

/// The gate's bits: workers inside, whether it is open, how many threads the job is for, and its
/// number.
const INSIDE: u64 = 0xFFFF;
const OPEN: u64 = 1 << 16;
const THREADS: u32 = 17;
const JOB: u32 = 33;

/// How many threads the job of a gate is for.
fn threads_of(gate: u64) -> usize {
    (gate >> THREADS & INSIDE) as usize
}

/// Threads that run the parts of one job at a time.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Thread>,
    /// Where threads stay, the caller's first; whoever has none goes where the system puts it.
    cores: Vec<CoreId>,
    /// Held by whoever runs a job.
    running: Mutex<()>,
}

type Body<'a> = dyn Fn(usize) + Sync + 'a;
type Panic = Box<dyn Any + Send>;

struct Shared {
    gate: AtomicU64,
    /// For each thread, the parts of the job that it takes first, the caller's being the first.
    shares: Box<[Share]>,
    job: UnsafeCell<Job>,
    /// Workers that are asleep or about to be.
    sleepers: AtomicUsize,
    /// What a worker's part died of.
    panic: Mutex<Option<Panic>>,
}

#[derive(Clone, Copy)]
struct Job(*const Body<'static>);

/// Parts that nobody has taken yet: the first in the high half, the one behind the last in the low.
///
/// Its owner takes them from the front, so that it reads weights in their order, and those who have
/// none left from the back.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Share(AtomicU64);

impl Share {
    fn set(&self, parts: Range<u32>) {
        self.0.store(u64::from(parts.start) << 32 | u64::from(parts.end), Ordering::Relaxed);
    }

    fn take(&self, from_front: bool) -> Option<usize> {
        // Whoever takes parts is inside of the gate, which orders everything else.
        let take = |share: u64| {
            let (start, end) = (share >> 32, share & u64::from(u32::MAX));
            let rest = if from_front { share.wrapping_add(1 << 32) } else { share.wrapping_sub(1) };
            (start < end).then_some(rest)
        };
        let share = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        let part = if from_front { share >> 32 } else { (share & u64::from(u32::MAX)) - 1 };
        usize::try_from(part).ok()
    }
}

// SAFETY: `job` is written only by the thread that holds `Pool::running`, while the gate is closed
// and nobody is inside; workers read it only inside, that is between counting themselves in through
// the open gate (acquire) and out again (release). The body it points to is `Sync`, and lives as
// long as the gate is open or somebody inside: `Pool::run` waits for that.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a particular thread.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("gate", &self.gate).finish_non_exhaustive()
    }
}

/// The pool of this process, started by the first who needs it.
static POOL: OnceLock<Pool> = OnceLock::new();

/// The process's pool: one thread per core unless [`start`] came first.
pub(super) fn global() -> &'static Pool {
    POOL.get_or_init(|| Pool::new(one_per_core(), Vec::new()))
}

fn one_per_core() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Starts the process's pool with `threads`, the caller's own included, or one per core. If `pinned`,
/// each stays on a core of its own, of those that this process may use: the caller's from
/// [`pin_caller`] on, and any beyond them where the system puts it. False where a pool runs already.
pub fn start(threads: Option<NonZeroUsize>, pinned: bool) -> bool {
    let cores = if pinned { core_affinity::get_core_ids() } else { None };
    POOL.set(Pool::new(threads.unwrap_or_else(one_per_core), cores.unwrap_or_default())).is_ok()
}

/// Keeps the calling thread, which is to call kernels, on the first core of a pool of pinned threads.
pub fn pin_caller() {
    if let Some(core) = POOL.get().and_then(|pool| pool.cores.first()) {
        core_affinity::set_for_current(*core);
    }
}

impl Pool {
    /// A pool in which `threads` work, the caller of [`Pool::run`] being one of them, worker `i` on
    /// `cores[i]` if there is one. A thread that the system refuses is done without.
    pub(super) fn new(threads: NonZeroUsize, cores: Vec<CoreId>) -> Self {
        let nothing: &'static Body<'static> = &|_| {};
        let count = (threads.get() - 1).min(INSIDE as usize - 1);
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            shares: (0..=count).map(|_| Share::default()).collect(),
            job: UnsafeCell::new(Job(nothing)),
            sleepers: AtomicUsize::new(0),
            panic: Mutex::new(None),
        });
        let start = |index| {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().name(format!("compute-{index}"));
            let core = cores.get(index).copied();
            let work = move || {
                core.map(core_affinity::set_for_current);
                shared.work(index)
            };
            builder.spawn(work).ok()
        };
        let workers = (1..=count).map_while(start).map(|handle| handle.thread().clone());
        let workers = workers.collect();
        Self { shared, workers, cores, running: Mutex::new(()) }
    }

    /// How many threads work, the caller included.
    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `body(0)` to `body(parts - 1)`, each once, in no particular order. Where the pool is
    /// busy with another job, the calling thread does it all: so a part may itself call this.
    ///
    /// # Panics
    /// Where a part does, after all others have ended.
    pub(super) fn run(&self, parts: usize, body: &Body<'_>) {
        let running = match self.running.try_lock() {
            Ok(running) => running,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..parts).for_each(body),
        };
        let Some(count) =
            u32::try_from(parts).ok().filter(|_| !self.workers.is_empty() && parts > 1)
        else {
            drop(running);
            return (0..parts).for_each(body);
        };
        // SAFETY: only the lifetime changes; the gate is closed again and everybody out before this
        // function returns or unwinds.
        let body_ptr = unsafe { transmute::<&Body<'_>, &Body<'static>>(body) };
        self.open(Job(body_ptr), count);
        let threads = parts.min(self.shared.shares.len());
        let own = catch_unwind(AssertUnwindSafe(|| self.shared.take_parts(body, 0, threads)));
        self.close();
        let theirs = self.shared.panic.lock().unwrap_or_else(|e| e.into_inner()).take();
        drop(running);
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    fn open(&self, job: Job, parts: u32) {
        let shared = &*self.shared;
        // Nobody comes for nothing: all who come meet at the gate. A thread that the system refused
        // has a share too, which others take.
        let threads = (shared.shares.len() as u64).min(u64::from(parts));
        let start = |thread: usize| (u64::from(parts) * thread as u64 / threads) as u32;
        for (thread, share) in shared.shares.iter().take(threads as usize).enumerate() {
            share.set(start(thread)..start(thread + 1));
        }
        // SAFETY: the gate is closed and nobody inside, for `close` waited; `running` is held.
        unsafe { *shared.job.get() = job };
        let number = (shared.gate.load(Ordering::Relaxed) >> JOB).wrapping_add(1);
        // Sequentially consistent, as is the reading of `sleepers` behind it and both in `wait`:
        // either the sleeper sees the gate or it is seen here.
        shared.gate.store(number << JOB | threads << THREADS | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            self.workers.iter().for_each(Thread::unpark);
        }
    }

    /// Lets nobody in any more, and waits until all are out.
    fn close(&self) {
        let gate = &self.shared.gate;
        let mut inside = gate.fetch_and(!OPEN, Ordering::Acquire) & INSIDE;
        let mut looks = 0_u32;
        while inside > 0 {
            looks += 1;
            if looks.is_multiple_of(16 * LOOKS) {
                // A worker without a processor may be waiting for this one.
                thread::yield_now();
            }
            std::hint::spin_loop();
            inside = gate.load(Ordering::Acquire) & INSIDE;
        }
    }
}

impl Shared {
    /// Runs the parts of `thread`'s share, then what is left of the others', `threads` in all.
    fn take_parts(&self, body: &Body<'_>, thread: usize, threads: usize) {
        let (before, from_own) = self.shares[..threads].split_at(thread);
        for (index, share) in from_own.iter().chain(before).enumerate() {
            while let Some(part) = share.take(index == 0) {
                body(part);
            }
        }
    }

    /// The life of worker `thread`.
    fn work(&self, thread: usize) -> ! {
        let mut last_job = 0;
        loop {
            let seen = self.wait(last_job, thread);
            last_job = seen >> JOB;
            if !self.enter(seen) {
                continue;
            }
            // SAFETY: counted in: see `Shared`.
            let Job(body) = unsafe { *self.job.get() };
            // SAFETY: `Pool::run` keeps the body alive while anybody is inside.
            let body = unsafe { &*body };
            let take = || self.take_parts(body, thread, threads_of(seen));
            if let Err(panic) = catch_unwind(AssertUnwindSafe(take)) {
                self.panic.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(panic);
            }
            self.gate.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a gate that is open to `thread` for another job than `last_job`.
    fn wait(&self, last_job: u64, thread: usize) -> u64 {
        let wanted =
            |gate: u64| gate & OPEN != 0 && gate >> JOB != last_job && thread < threads_of(gate);
        let mut others = last_job;
        loop {
            let mut start = Instant::now();
            while start.elapsed() < SPIN {
                for _ in 0..LOOKS {
                    let gate = self.gate.load(Ordering::Relaxed);
                    if wanted(gate) {
                        return gate;
                    }
                    if gate >> JOB != others {
                        // Where others work, there will soon be more.
                        (start, others) = (Instant::now(), gate >> JOB);
                    }
                    std::hint::spin_loop();
                }
            }
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            if !wanted(self.gate.load(Ordering::SeqCst)) {
                thread::park();
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Counts the caller in, unless the job seen is over.
    fn enter(&self, mut seen: u64) -> bool {
        let job = seen >> JOB;
        while seen & OPEN != 0 && seen >> JOB == job {
            let inside = seen + 1;
            match self.gate.compare_exchange_weak(
                seen,
                inside,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn pool(threads: usize) -> Pool {
        Pool::new(NonZeroUsize::new(threads).expect("some"), Vec::new())
    }

    #[test]
    fn every_part_runs_once_in_every_job() {
        for threads in [1, 2, 3, 8] {
            let pool = pool(threads);
            assert_eq!(pool.threads(), threads);
            for parts in (0..40).cycle().take(4000) {
                let runs: Vec<AtomicU32> = (0..parts).map(|_| AtomicU32::new(0)).collect();
                pool.run(parts, &|part| {
                    runs[part].fetch_add(1, Ordering::Relaxed);
                });
                assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn pinned_workers_stay_where_they_are_put() {
        let cores = core_affinity::get_core_ids().expect("it can be asked");
        let Some(&last) = cores.last() else { return };
        // All but the caller on one core; the second has none and may go anywhere.
        let pool = Pool::new(NonZeroUsize::new(3).expect("some"), vec![cores[0], last]);
        let found = Mutex::new(Vec::new());
        let meeting = std::sync::Barrier::new(3);
        pool.run(3, &|_| {
            let name = thread::current().name().unwrap_or_default().to_owned();
            found.lock().expect("no panic").push((name, core_affinity::get_core_ids()));
            meeting.wait();
        });
        let found = found.into_inner().expect("no panic");
        let of =
            |name| found.iter().find(|it| it.0 == name).expect("each took a part").1.as_deref();
        assert_eq!(of("compute-1"), Some(&[last][..]));
        assert_eq!(of("compute-2"), Some(&cores[..]));
    }

    #[test]
    fn sleepers_wake_for_a_job_that_needs_them() {
        let pool = pool(3);
        for _ in 0..50 {
            while pool.shared.sleepers.load(Ordering::SeqCst) < 2 {
                thread::yield_now();
            }
            // Each part waits until all three are being run at once.
            let meeting = std::sync::Barrier::new(3);
            pool.run(3, &|_| {
                meeting.wait();
            });
        }
    }

    #[test]
    fn a_part_may_run_a_job_of_its_own_and_callers_may_meet() {
        let pool = pool(2);
        let count = AtomicU32::new(0);
        let job = || {
            pool.run(8, &|_| {
                pool.run(8, &|_| {
                    count.fetch_add(1, Ordering::Relaxed);
                });
            });
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| job()));
            }
        });
        assert_eq!(count.into_inner(), 4 * 100 * 64);
    }

    #[test]
    fn a_panic_reaches_the_caller_once_all_parts_have_ended() {
        let pool = pool(3);
        for bad in [0, 7, 15] {
            let count = AtomicU32::new(0);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(16, &|part| {
                    assert!(part != bad, "part {bad}");
                    count.fetch_add(1, Ordering::Relaxed);
                });
            }));
            let panic = outcome.expect_err("a part panicked");
            let message = panic.downcast_ref::<String>().expect("a message");
            assert_eq!(message, &format!("part {bad}"));
            // The panicking thread takes no further part; the others do.
            assert!(count.into_inner() <= 15);
        }
        let count = AtomicU32::new(0);
        pool.run(16, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 16);
    }
}
