//! Files that may change while the server runs.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files that are looked at now and then. Secrets that an orchestrator mounts are changed without a signal.
pub(crate) struct Watched {
    files: Vec<PathBuf>,
    seen: Vec<Option<(SystemTime, u64)>>,
}

impl Watched {
    pub(crate) fn new<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> Self {
        let files: Vec<_> = files.into_iter().map(|file| file.as_ref().to_path_buf()).collect();
        let seen = look(&files);
        Self { files, seen }
    }

    /// Whether one of them is another than at the last look.
    pub(crate) fn have_changed(&mut self) -> bool {
        let before = std::mem::replace(&mut self.seen, look(&self.files));
        before != self.seen
    }
}

/// When each file was changed, and its length; `None` for one that is not there.
fn look(files: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let look = |file: &PathBuf| {
        let meta = file.metadata().ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    files.iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut watched = Watched::new([&path]);
        assert!(!watched.have_changed());
        std::fs::write(&path, "one").unwrap();
        assert!(watched.have_changed());
        assert!(!watched.have_changed());
        std::fs::write(&path, "three").unwrap();
        assert!(watched.have_changed());
        std::fs::remove_file(&path).unwrap();
        assert!(watched.have_changed());
        assert!(!Watched::new(None::<&Path>).have_changed());
    }
}
