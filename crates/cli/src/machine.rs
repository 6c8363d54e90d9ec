//! What a benchmark has to say of the machine and of this process. Known on Linux; elsewhere little is.

use std::fs;

/// The processor's name, else its architecture.
pub(crate) fn processor() -> String {
    let name = field("/proc/cpuinfo", "model name");
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Bytes of memory that the machine has.
pub(crate) fn memory() -> Option<u64> {
    bytes(&field("/proc/meminfo", "MemTotal")?)
}

/// The most bytes of memory that this process has had at once since [`reset_peak_memory`], else since it started.
/// Pages of mapped weights count while they are in memory.
pub(crate) fn peak_memory() -> Option<u64> {
    bytes(&field("/proc/self/status", "VmHWM")?)
}

/// Lets [`peak_memory`] begin anew. Where the system does not allow it, the peak is that of all work so far.
pub(crate) fn reset_peak_memory() {
    // 5 resets the peak; see proc(5).
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The value of the first line `name: value` of a file.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?.1;
    Some(value.trim().to_owned())
}

/// `12 kB`, as the kernel writes it, which means KiB.
fn bytes(text: &str) -> Option<u64> {
    text.strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_machine_says_what_it_has() {
        assert!(!processor().is_empty());
        let (memory, peak) = (memory().unwrap(), peak_memory().unwrap());
        assert!(peak > 1 << 16 && peak < memory, "{peak} of {memory}");
    }

    #[test]
    fn sizes_are_read_as_the_kernel_writes_them() {
        assert_eq!(bytes("12 kB"), Some(12 << 10));
        assert_eq!(bytes("12"), None);
        assert_eq!(field("/no/such/file", "x"), None);
    }
}
