//! How the allocator keeps memory, and memory that is free within it given back to the system.

/// Free bytes at the heap's end that are kept rather than given back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: std::ffi::c_int = 256 << 20;
/// From so many bytes on, memory comes from the system and goes back to it: glibc's upper limit.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING: std::ffi::c_int = 32 << 20;

/// Sets the allocator up; to be called before other threads begin.
///
/// One heap for all threads, where the allocator would make one for each: the many small matrices of
/// an adapter then lie together, and what was freed can be given back. Threads keep small pieces at
/// hand all the same, so that few wait for each other. And the heap keeps what a step frees, for
/// the next asks for the same: a step's logits alone are thousands of pages, each of which the
/// system would clear anew.
pub fn set_up() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [
        (glibc::M_ARENA_MAX, 1),
        (glibc::M_TRIM_THRESHOLD, KEPT),
        (glibc::M_MMAP_THRESHOLD, OWN_MAPPING),
    ] {
        // It refuses only what it does not know.
        let _ = glibc::mallopt(parameter, value);
    }
}

/// Gives it back, where the allocator is one that keeps it. Takes milliseconds, in which other
/// threads may wait for memory: for when much was freed and little is asked for.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // What it returns says whether there was anything.
    let _ = glibc::malloc_trim(0);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)] // Declarations; nothing here is unsafe to call.
mod glibc {
    use std::ffi::c_int;

    /// Of malloc.h.
    pub(super) const M_ARENA_MAX: c_int = -8;
    pub(super) const M_MMAP_THRESHOLD: c_int = -3;
    pub(super) const M_TRIM_THRESHOLD: c_int = -1;

    // SAFETY: malloc_trim(3): any thread may call it at any time; `pad` is a number of bytes to keep,
    // and any will do. mallopt(3): any thread may call it; it ignores parameters that it does not know.
    unsafe extern "C" {
        pub(super) safe fn malloc_trim(pad: usize) -> c_int;
        pub(super) safe fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }
}
