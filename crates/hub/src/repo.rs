//! Names on the hub, and which of them may become names of files.

/// The revision of whoever asks for none.
pub const DEFAULT_REVISION: &str = "main";

/// A repository at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    id: String,
    revision: String,
}

impl Repo {
    /// The model repository `id`, `stabilityai/sd-vae-ft-mse`, at a branch, tag or commit. `None` when one of them cannot
    /// be such a name.
    pub fn model(id: &str, revision: &str) -> Option<Self> {
        let (owner, name) = id.split_once('/')?;
        let good = is_safe_name(owner) && is_safe_name(name) && is_safe_path(revision);
        good.then(|| Self { id: id.to_owned(), revision: revision.to_owned() })
    }

    /// `owner/name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The branch, tag or commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The name of its folder in the cache.
    pub(crate) fn folder_name(&self) -> String {
        format!("models--{}", self.id.replace('/', "--"))
    }
}

/// Whether a name that came from outside may be that of a file: a few plain characters, and not hidden.
pub(crate) fn is_safe_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 255 && !name.starts_with(['.', '-']) && name.chars().all(plain)
}

/// Whether a path that came from outside stays in its folder.
pub(crate) fn is_safe_path(path: &str) -> bool {
    let part = |part: &str| {
        !matches!(part, "" | "." | "..") && !part.contains(['\\', ':']) && !part.chars().any(char::is_control)
    };
    path.len() <= 1024 && path.split('/').all(part)
}

/// `text` as a part of a URL: everything but plain characters as `%XX`.
pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// [`encoded`], but for the slashes between the parts of a path.
pub(crate) fn encoded_path(path: &str) -> String {
    path.split('/').map(encoded).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_have_an_owner_and_a_name() {
        let repo = Repo::model("black-forest-labs/FLUX.1-schnell", "refs/pr/1").unwrap();
        assert_eq!(repo.folder_name(), "models--black-forest-labs--FLUX.1-schnell");
        assert_eq!((repo.id(), repo.revision()), ("black-forest-labs/FLUX.1-schnell", "refs/pr/1"));
        for id in
            ["", "gpt2", "a/b/c", "../b", "a/..", "/b", "a/", "a b/c", "a/.b", "a/b\n", "C:/b", "a\\b/c"]
        {
            assert_eq!(Repo::model(id, "main"), None, "{id:?}");
        }
        for revision in ["", "/", "a//b", "../x", "a/../../b", "/etc"] {
            assert_eq!(Repo::model("a/b", revision), None, "{revision:?}");
        }
    }

    #[test]
    fn paths_stay_where_they_belong() {
        for path in ["config.json", "vae/config.json", "a b/ü.safetensors", ".gitattributes"] {
            assert!(is_safe_path(path), "{path}");
        }
        for path in ["", "/x", "x/", "..", "a/../b", "a/./b", "a\\b", "C:x", "a\0b"] {
            assert!(!is_safe_path(path), "{path:?}");
        }
        assert_eq!(encoded("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(encoded_path("a b/ü.json"), "a%20b/%C3%BC.json");
    }
}
