//! How the allocator keeps memory, and memory that is free within it given back to the system.

/// One heap for all threads, where the allocator would make one for each: the many small matrices of
/// an adapter then lie together, and what was freed can be given back. To be called before other
/// threads begin; threads keep small pieces at hand all the same, so that few wait for each other.
pub fn share() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // It refuses only what it does not know.
    let _ = glibc::mallopt(glibc::M_ARENA_MAX, 1);
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

    /// `M_ARENA_MAX` of malloc.h.
    pub(super) const M_ARENA_MAX: c_int = -8;

    // SAFETY: malloc_trim(3): any thread may call it at any time; `pad` is a number of bytes to keep,
    // and any will do. mallopt(3): any thread may call it; it ignores parameters that it does not know.
    unsafe extern "C" {
        pub(super) safe fn malloc_trim(pad: usize) -> c_int;
        pub(super) safe fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }
}
