//! The C allocator's settings.

/// Makes glibc keep freed blocks instead of returning them to the system; with other C libraries it does
/// nothing. Call it once, at the start of `main`.
///
/// libtorch frees every activation after every step, in blocks of several megabytes. By default glibc returns
/// such blocks to the system at once, and the page faults of allocating them again cost 15–40 % of a training
/// step on the CPU.
pub fn keep_freed_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: mallopt only changes parameters of the allocator; it takes two integers.
        unsafe {
            // Large blocks come from the heap too, not from mmap, whose blocks are unmapped when freed.
            libc::mallopt(libc::M_MMAP_MAX, 0);
            // The heap's top is trimmed only past 2 GiB, the largest value that fits.
            libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        }
    }
}

/// Makes glibc return large blocks to the system when they are freed, also after [`keep_freed_blocks`]. For few maps of gigabytes:
/// blocks that are kept lie between those that are needed, and a map that fits into none of them takes memory of its own.
pub fn return_freed_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const LARGE: libc::c_int = 1 << 20; // Below it, a strip of a map has blocks of 16 MB and less.
        // SAFETY: as above.
        unsafe {
            libc::mallopt(libc::M_MMAP_MAX, 65_536);
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
            libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
        }
    }
}

/// The largest resident size of this process so far in bytes, if the system reports it.
#[must_use]
pub fn peak_resident_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }
    #[cfg(not(target_os = "linux"))]
    None
}
