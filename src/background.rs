//! Background threads: those that read, render, tokenise, compile or load for one request, while the
//! engine's and the async ones serve all. The operating system gives a background thread a processor
//! that nobody else wants, and otherwise a tenth of one, so that long texts of one tenant do not slow
//! the tokens of the others. Nothing is scheduled here: whose work is next is [`crate::tenant::turns`]'.
//!
//! On Linux only, where each thread has a priority of its own (sched(7)).

/// By how much a background thread is nicer than the process: a tenth of the weight (sched(7)).
#[cfg(target_os = "linux")]
const NICER: i32 = 10;
/// The nicest that a thread can be.
#[cfg(target_os = "linux")]
const NICEST: i32 = 19;

/// Makes the calling thread a background thread, and with it those that it starts. It stays one.
#[cfg(target_os = "linux")]
pub fn enter() {
    use rustix::process::{getpid, getpriority_process, setpriority_process};

    // The main thread's, which is never one: a thread may come here more than once.
    let Ok(process) = getpriority_process(Some(getpid())) else { return };
    if let Err(error) = setpriority_process(None, (process + NICER).min(NICEST)) {
        tracing::debug!(%error, "a background thread keeps its priority");
    }
}

/// Nothing: a priority would be the whole process's.
#[cfg(not(target_os = "linux"))]
pub fn enter() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::thread;

    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn a_background_thread_is_nicer_than_others_once_and_for_all() {
        let nice = || getpriority_process(None).unwrap();
        let before = nice();
        let of_thread = move || {
            enter();
            enter();
            [nice(), thread::spawn(nice).join().unwrap()]
        };
        let expected = (before + NICER).min(NICEST);
        assert_eq!(thread::spawn(of_thread).join().unwrap(), [expected; 2]);
        assert_eq!(nice(), before, "only the thread that enters");
    }
}
