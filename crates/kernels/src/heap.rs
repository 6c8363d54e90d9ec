//! The allocator's heap, told to give freed memory back.
//!
//! glibc keeps what was freed in up to eight heaps a processor, and keeps more the larger the pieces were. After floods of
//! heads and bodies a server had 114 MiB at rest instead of 2, with [`settle_heap`] 16 to 26, and 2 again when
//! [`trim_heap`] had been called.

/// Few heaps, and freed pieces of 128 KiB or more go back at once. For the start of a long-lived program: heaps that are
/// there stay. Does nothing but with glibc.
pub fn settle_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (setting, value) in
        [(libc::M_ARENA_MAX, 2), (libc::M_TRIM_THRESHOLD, 128 << 10), (libc::M_MMAP_THRESHOLD, 128 << 10)]
    {
        // SAFETY: `mallopt` takes any numbers, from any thread, and touches no memory that was handed out. It fails for what it
        // does not know, which only costs memory.
        let _ = unsafe { libc::mallopt(setting, value) };
    }
}

/// Gives all pages back that hold nothing, those between pieces that are in use too. Takes milliseconds. Does nothing but with
/// glibc.
pub fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` may be called at any time from any thread, and touches no memory that was handed out.
    let _ = unsafe { libc::malloc_trim(0) };
}
