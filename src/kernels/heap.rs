//! Memory that is free within the allocator, given back to the system.

/// Gives it back, where the allocator is one that keeps it. Takes milliseconds, in which other
/// threads may wait for memory: for when much was freed and little is asked for.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // What it returns says whether there was anything.
    let _ = glibc::malloc_trim(0);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)] // A declaration; nothing here is unsafe to call.
mod glibc {
    use std::ffi::c_int;

    // SAFETY: malloc_trim(3): any thread may call it at any time; `pad` is a number of bytes to keep,
    // and any will do.
    unsafe extern "C" {
        pub(super) safe fn malloc_trim(pad: usize) -> c_int;
    }
}
