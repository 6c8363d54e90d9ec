//! What the system says of memory. Known on Linux; elsewhere nothing is.

use std::fs;

/// Bytes of memory that this process has now. Pages of mapped weights count while they are in memory.
pub(crate) fn resident() -> Option<usize> {
    field("/proc/self/status", "VmRSS")
}

/// The value of the first line `name: value kB` of a file, in bytes.
fn field(file: &str, name: &str) -> Option<usize> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?.1;
    // The kernel writes kB and means KiB.
    value.trim().strip_suffix(" kB")?.parse::<usize>().ok()?.checked_mul(1024)
}
