//! glibc's allocator, told to give freed memory back.
//!
//! glibc keeps what was freed in up to eight heaps a processor, and keeps more the larger the pieces were. After floods of
//! heads and bodies a server had 114 MiB at rest instead of 2; with these settings 16, with mimalloc 125 or more.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

/// Few heaps, and freed memory of 128 KiB or more goes back at once.
const SETTINGS: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "2"), ("MALLOC_TRIM_THRESHOLD_", "131072"), ("MALLOC_MMAP_THRESHOLD_", "131072")];

/// Starts this program anew with the settings, in the same process: glibc reads them only when a program starts. Whoever
/// has set one of them, or `GLIBC_TUNABLES`, decides alone.
pub(crate) fn settle() {
    if is_settled(|name| std::env::var_os(name)) {
        return;
    }
    let mut arguments = std::env::args_os();
    let (Ok(program), Some(name)) = (std::env::current_exe(), arguments.next()) else { return };
    // It comes back only if it fails, and then the server merely takes more memory.
    let error = std::process::Command::new(program).arg0(name).args(arguments).envs(SETTINGS).exec();
    tracing::debug!(%error, "the allocator keeps its settings");
}

/// Whether somebody has decided already; after [`settle`] it is so.
fn is_settled(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    SETTINGS.map(|(name, _)| name).into_iter().chain(["GLIBC_TUNABLES"]).any(|name| variable(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_starts_anew_once_and_not_where_somebody_has_decided() {
        assert!(!is_settled(|_| None));
        for (name, value) in SETTINGS.into_iter().chain([("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")]) {
            assert!(is_settled(|other| (other == name).then(|| value.into())), "{name}");
        }
    }
}
