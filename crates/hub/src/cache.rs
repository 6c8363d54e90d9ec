//! The cache, laid out as Python's `huggingface_hub` does:
//!
//! ```text
//! models--owner--name/refs/main                      the commit that the branch was at when it was last asked for
//! models--owner--name/snapshots/<commit>/vae/x.json  a link to
//! models--owner--name/blobs/<etag>                   the content, which commits share
//! .locks/models--owner--name/<etag>.lock             held by whoever downloads that content
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use crate::{HubError, Repo, repo};

#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

/// The paths of one content.
pub(crate) struct Blob {
    /// Where it is when it is whole.
    pub(crate) path: PathBuf,
    /// Where it is while it is downloaded.
    pub(crate) incomplete: PathBuf,
    pub(crate) lock: PathBuf,
}

impl Cache {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn repo(&self, repo: &Repo) -> PathBuf {
        self.folder.join(repo.folder_name())
    }

    /// The folder of `repo` at its revision, if it is there.
    pub(crate) fn snapshot(&self, repo: &Repo) -> Option<PathBuf> {
        let folder = self.repo(repo);
        let commit = match fs::read_to_string(folder.join("refs").join(repo.revision())) {
            Ok(commit) => commit.trim().to_owned(),
            // A commit is its own revision.
            Err(_) => repo.revision().to_owned(),
        };
        let snapshot = folder.join("snapshots").join(&commit);
        (repo::is_safe_name(&commit) && snapshot.is_dir()).then_some(snapshot)
    }

    /// The paths of the content `etag`.
    pub(crate) fn blob(&self, repo: &Repo, etag: &str) -> Blob {
        let blobs = self.repo(repo).join("blobs");
        Blob {
            path: blobs.join(etag),
            incomplete: blobs.join(format!("{etag}.incomplete")),
            lock: self.folder.join(".locks").join(repo.folder_name()).join(format!("{etag}.lock")),
        }
    }

    /// Lets `file` of the snapshot at `commit` be the content of `blob`; gives its path.
    pub(crate) fn link(
        &self,
        repo: &Repo,
        commit: &str,
        file: &str,
        blob: &Path,
    ) -> Result<PathBuf, HubError> {
        let path = self.repo(repo).join("snapshots").join(commit).join(file);
        if let (Ok(found), Ok(expected)) = (path.canonicalize(), blob.canonicalize())
            && found == expected
        {
            return Ok(path);
        }
        make_parent(&path)?;
        // Under another name first, so that the path never leads nowhere. The process makes it our own.
        let fresh = path.with_added_extension(format!("{}.link", std::process::id()));
        let _ = fs::remove_file(&fresh);
        // Up from the file to snapshots/<commit>, and two more.
        let up = "../".repeat(file.split('/').count() + 1);
        let name = blob.file_name().unwrap_or_default();
        symlink(&Path::new(&up).join("blobs").join(name), blob, &fresh).map_err(HubError::io(&fresh))?;
        fs::rename(&fresh, &path).map_err(HubError::io(&path))?;
        Ok(path)
    }

    /// Notes that the revision of `repo` is at `commit`.
    pub(crate) fn remember(&self, repo: &Repo, commit: &str) -> Result<(), HubError> {
        if repo.revision() == commit {
            return Ok(());
        }
        let path = self.repo(repo).join("refs").join(repo.revision());
        if fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        make_parent(&path)?;
        fs::write(&path, commit).map_err(HubError::io(&path))
    }
}

/// Makes the folder for a file.
pub(crate) fn make_parent(path: &Path) -> Result<(), HubError> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(HubError::io(parent)),
        None => Ok(()),
    }
}

#[cfg(unix)]
fn symlink(relative: &Path, _blob: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, link)
}

/// Elsewhere links need rights that programs rarely have; a second name of the same file does not.
#[cfg(not(unix))]
fn symlink(_relative: &Path, blob: &Path, link: &Path) -> std::io::Result<()> {
    fs::hard_link(blob, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_found_by_branch_and_by_commit() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_path_buf());
        let main = Repo::model("a/b", "main").unwrap();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let pinned = Repo::model("a/b", commit).unwrap();
        assert_eq!(cache.snapshot(&main), None);

        let blob = cache.blob(&main, "etag").path;
        make_parent(&blob).unwrap();
        fs::write(&blob, "content").unwrap();
        let path = cache.link(&main, commit, "vae/config.json", &blob).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "content");
        assert_eq!(cache.snapshot(&main), None, "the branch is not known yet");
        cache.remember(&main, commit).unwrap();
        cache.remember(&pinned, commit).unwrap();
        let snapshot = folder.path().join("models--a--b/snapshots").join(commit);
        assert_eq!(cache.snapshot(&main), Some(snapshot.clone()));
        assert_eq!(cache.snapshot(&pinned), Some(snapshot));
        assert!(!folder.path().join("models--a--b/refs").join(commit).exists());

        // A link that leads elsewhere is set right, and one that is right stays.
        let other = blob.with_file_name("other");
        fs::write(&other, "other").unwrap();
        for (blob, content) in [(&other, "other"), (&other, "other"), (&blob, "content")] {
            cache.link(&main, commit, "vae/config.json", blob).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

        fs::write(folder.path().join("models--a--b/refs/main"), "../../../etc").unwrap();
        assert_eq!(cache.snapshot(&main), None);
    }
}
