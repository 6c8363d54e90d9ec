//! Folders of the hub's cache that somebody names by their path: `models--OWNER--NAME`, and what is in its snapshots.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use anyhow::bail;

/// How the folder of a repository begins.
const MODELS: &str = "models--";

/// The branch that is meant where none is named.
const MAIN: &str = "main";

/// The newest snapshot of the repository whose folder `path` is; `None` where it is no such folder.
///
/// # Errors
/// There is none, or several and none of them the main branch's.
pub(super) fn snapshot(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    let snapshots = path.join("snapshots");
    if !snapshots.is_dir() || !(path.join("blobs").is_dir() || path.join("refs").is_dir()) {
        return Ok(None);
    }
    if let Ok(commit) = std::fs::read_to_string(path.join("refs").join(MAIN)) {
        let commit = commit.trim();
        let plain = !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let snapshot = snapshots.join(commit);
        if plain && snapshot.is_dir() {
            return Ok(Some(snapshot));
        }
    }
    let mut found: Vec<_> = std::fs::read_dir(&snapshots)?
        .filter_map(|entry| Some(entry.ok()?.path()).filter(|path| path.is_dir()))
        .collect();
    found.sort_unstable();
    match found.as_slice() {
        [one] => Ok(Some(one.clone())),
        [] => bail!("{} is a folder of the hub's cache in which no download was finished", path.display()),
        several => bail!(
            "{} is a folder of the hub's cache with {} versions of the model; name one of them: {}",
            path.display(),
            several.len(),
            several.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
        ),
    }
}

/// The name of the repository that `path` is the folder of, or a snapshot of: `NAME` of `models--OWNER--NAME`.
pub(super) fn repo_name(path: &Path) -> Option<&str> {
    let last = path.file_name()?;
    let repo = match path.parent().and_then(Path::file_name) {
        Some(folder) if folder == "snapshots" => path.parent()?.parent()?.file_name()?,
        _ => last,
    };
    let id = repo.to_str()?.strip_prefix(MODELS)?;
    id.rsplit_once("--").map(|(_, name)| name)
}

/// Whether the content of `path` is a blob of the hub's cache, which is never written to once it is there, or a folder of
/// such.
pub(super) fn is_inside(path: &Path) -> bool {
    let is_repo = |name: &OsStr| {
        name.to_str().is_some_and(|name| name.starts_with(MODELS) && name.len() > MODELS.len())
    };
    let parts = |path: &Path| {
        let names: Vec<_> = path
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name.to_owned()),
                _ => None,
            })
            .collect();
        names.windows(2).any(|pair| is_repo(&pair[0]) && (pair[1] == "snapshots" || pair[1] == "blobs"))
    };
    // Where the path leads, and as it is named: what is in a snapshot may have been copied there.
    path.canonicalize().is_ok_and(|path| parts(&path)) || parts(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_of_the_cache_is_its_main_branch() {
        let cache = tempfile::tempdir().unwrap();
        let repo = cache.path().join("models--a--some-vae");
        assert_eq!(snapshot(cache.path()).unwrap(), None);
        fs::create_dir_all(repo.join("blobs")).unwrap();
        fs::create_dir_all(repo.join("snapshots")).unwrap();
        assert!(snapshot(&repo).unwrap_err().to_string().contains("no download was finished"));
        for commit in ["0123", "4567"] {
            fs::create_dir_all(repo.join("snapshots").join(commit)).unwrap();
            let found = snapshot(&repo);
            match commit {
                "0123" => assert_eq!(found.unwrap(), Some(repo.join("snapshots/0123"))),
                _ => assert!(found.unwrap_err().to_string().contains("2 versions")),
            }
        }
        fs::create_dir_all(repo.join("refs")).unwrap();
        fs::write(repo.join("refs/main"), "4567\n").unwrap();
        assert_eq!(snapshot(&repo).unwrap(), Some(repo.join("snapshots/4567")));
        fs::write(repo.join("refs/main"), "../../..").unwrap();
        assert!(snapshot(&repo).is_err(), "a reference does not lead out of the cache");

        assert_eq!(repo_name(&repo), Some("some-vae"));
        assert_eq!(repo_name(&repo.join("snapshots/0123")), Some("some-vae"));
        assert_eq!(repo_name(&repo.join("snapshots")), None);
        for path in ["", "/", "models--", "a/snapshots/b", "vae"] {
            assert_eq!(repo_name(Path::new(path)), None, "{path}");
        }
        assert!(is_inside(&repo.join("snapshots/0123")) && is_inside(&repo.join("blobs/x")));
        assert!(!is_inside(cache.path()) && !is_inside(Path::new("models--/blobs")));
    }
}
