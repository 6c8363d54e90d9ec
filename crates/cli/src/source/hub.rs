//! Models on the Hugging Face hub: found in the cache, or downloaded into it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use hub::{DEFAULT_ENDPOINT, DEFAULT_REVISION, Hub, HubError, Repo, Settings};
use indicatif::ProgressBar;
use tracing::info;

use super::{HubPath, Preset};
use crate::progress;

/// The model at `place`, on this machine.
pub(super) fn resolve(place: &HubPath) -> anyhow::Result<vae::Source> {
    let hub = Hub::new(settings());
    let repo = repo(place)?;
    if let Some(source) = cached(&hub, &repo, place) {
        return Ok(source);
    }
    download(&hub, &repo, place).map_err(|error| explained(error, place))?;
    cached(&hub, &repo, place).with_context(|| no_autoencoder(place, &repo))
}

/// Whoever mistypes a folder should not have to think of the hub, and who has no way to it can do without.
fn explained(error: HubError, place: &HubPath) -> anyhow::Error {
    let is_listed = Preset::all().any(|preset| preset.place() == *place);
    let taken = match error {
        HubError::NotFound(_) | HubError::Denied(_) | HubError::Offline { .. } | HubError::Network { .. }
            if !is_listed =>
        {
            format!(
                " ({place} is no file or folder here, so it is taken for a model on the Hugging Face hub)"
            )
        }
        _ => String::new(),
    };
    let advice = match error {
        HubError::Offline { .. } | HubError::Network { .. } => {
            "; a model that was downloaded elsewhere can be named by its folder or file"
        }
        _ => "",
    };
    anyhow!("{error}{taken}{advice}")
}

/// Downloads what is new of the model at `place`; says how much of it there is, and where.
pub(super) fn pull(place: &HubPath) -> anyhow::Result<String> {
    let hub = Hub::new(settings());
    let repo = repo(place)?;
    let before = cached(&hub, &repo, place).is_some();
    let files = match download(&hub, &repo, place) {
        Ok(files) => files,
        Err(error) if before => {
            let folder = hub.snapshot(&repo).unwrap_or_default();
            bail!("{error} (an earlier download is in the cache, at {})", folder.display())
        }
        Err(error) => return Err(explained(error, place)),
    };
    if cached(&hub, &repo, place).is_none() {
        bail!("{}", no_autoencoder(place, &repo));
    }
    let bytes = files.iter().filter_map(|file| Some(std::fs::metadata(file).ok()?.len())).sum();
    let plural = if files.len() == 1 { "" } else { "s" };
    let folder = hub.snapshot(&repo).unwrap_or_default();
    Ok(format!(
        "{place}: {} in {} file{plural}, at {}",
        indicatif::HumanBytes(bytes),
        files.len(),
        folder.display()
    ))
}

fn no_autoencoder(place: &HubPath, repo: &Repo) -> String {
    format!("{place} has no autoencoder as diffusers saves it; name its folder or file: {}:PATH", repo.id())
}

/// Whether the model is in the cache.
pub(crate) fn is_cached(place: &HubPath) -> bool {
    repo(place).is_ok_and(|repo| cached(&Hub::new(settings()), &repo, place).is_some())
}

fn repo(place: &HubPath) -> anyhow::Result<Repo> {
    let revision = place.revision.as_deref().unwrap_or(DEFAULT_REVISION);
    Repo::model(&place.repo, revision)
        .with_context(|| format!("{place} cannot be the name of a model on the hub"))
}

/// The model in the cache, if all of it is there.
fn cached(hub: &Hub, repo: &Repo, place: &HubPath) -> Option<vae::Source> {
    let snapshot = hub.snapshot(repo)?;
    let path = snapshot.join(&place.path);
    if place.is_file() {
        return path.is_file().then_some(vae::Source::File(path));
    }
    let files = files_below(&path);
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    vae::model_files(&files, "").map(|_| vae::Source::Folder(path))
}

/// The files in `folder` and one level below: no autoencoder is deeper.
fn files_below(folder: &Path) -> Vec<String> {
    let list = |folder: &Path, prefix: &str| -> Vec<(String, PathBuf)> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let name = |entry: std::fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
        entries.filter_map(name).map(|(name, path)| (format!("{prefix}{name}"), path)).collect()
    };
    let mut files = Vec::new();
    for (name, path) in list(folder, "") {
        if path.is_dir() {
            let below = list(&path, &format!("{name}/"));
            files.extend(below.into_iter().filter(|(_, path)| path.is_file()).map(|(name, _)| name));
        } else if path.is_file() {
            files.push(name);
        }
    }
    files
}

/// Downloads what the model needs and is not in the cache; gives the files.
fn download(hub: &Hub, repo: &Repo, place: &HubPath) -> Result<Vec<PathBuf>, HubError> {
    let listing = hub.list(repo)?;
    let files: Vec<&str> = listing.files.iter().map(String::as_str).collect();
    let wanted = if place.is_file() {
        let file = *files.iter().find(|file| **file == place.path).ok_or_else(|| {
            HubError::NotFound(format!("{} has no file {} at {}", repo.id(), place.path, listing.commit))
        })?;
        // A configuration beside it comes along, and the shards that an index names.
        vae::companions(&files, file).into_iter().chain([file]).collect()
    } else {
        // What is missing is said by who looks for it in the cache.
        vae::model_files(&files, &place.path).unwrap_or_default()
    };
    let mut paths = Vec::with_capacity(wanted.len());
    for file in wanted {
        let title = format!("{}: {file}", repo.id());
        let bar = bar(&title);
        let path = hub.fetch(repo, &listing.commit, file, &mut |done, size| {
            if bar.length() != Some(size) {
                info!("{title}: downloading {}", indicatif::HumanBytes(size));
                bar.set_length(size);
            }
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let path = path?;
        info!("{title}: at {}", path.display());
        paths.push(path);
    }
    Ok(paths)
}

/// Shown only where stderr is a terminal.
fn bar(title: &str) -> ProgressBar {
    let bar =
        progress::add(ProgressBar::no_length().with_message(crate::terminal::plain(title).into_owned()));
    progress::set_style(&bar, "{msg} {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left");
    bar
}

/// What Python's `huggingface_hub` would take from this environment.
fn settings() -> Settings {
    from_variables(|name| env::var_os(name).filter(|value| !value.is_empty()), env::home_dir())
}

fn from_variables(variable: impl Fn(&str) -> Option<OsString>, user: Option<PathBuf>) -> Settings {
    let text = |name: &str| variable(name)?.into_string().ok();
    let path = |name: &str| variable(name).map(|path| expanded(path, &variable, user.as_deref()));
    let is_true = |name: &str| {
        text(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()))
    };
    let cache = || path("XDG_CACHE_HOME").or_else(|| user.as_ref().map(|user| user.join(".cache")));
    let home = path("HF_HOME")
        .or_else(|| cache().map(|cache| cache.join("huggingface")))
        .unwrap_or_else(|| PathBuf::from(".cache/huggingface"));
    let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
    let token = text("HF_TOKEN")
        .or_else(|| text("HUGGING_FACE_HUB_TOKEN"))
        .or_else(|| std::fs::read_to_string(token_file).ok())
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty());
    Settings {
        endpoint: text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
        cache: path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| home.join("hub")),
        token,
        offline: is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
    }
}

/// A path as Python's `expanduser` and then `expandvars` make it: `~` is the user's folder, `$NAME` and `${NAME}` are
/// variables, and what is not set stays as it is.
fn expanded(path: OsString, variable: impl Fn(&str) -> Option<OsString>, user: Option<&Path>) -> PathBuf {
    let path = PathBuf::from(path);
    let path = match (path.strip_prefix("~"), user) {
        (Ok(rest), Some(user)) => user.join(rest),
        _ => path,
    };
    let Some(text) = path.to_str().filter(|text| text.contains('$')) else { return path };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        done.push_str(before);
        let bare = after.split_once(|c| !is_name(c)).map_or(after, |(name, _)| name);
        let braced = after.strip_prefix('{').and_then(|after| after.split_once('}')).map(|(name, _)| name);
        let (name, length) = braced.map_or((bare, bare.len()), |name| (name, name.len() + 2));
        let value = variable(name).filter(|_| !name.is_empty()).and_then(|value| value.into_string().ok());
        match value {
            Some(value) => {
                done.push_str(&value);
                rest = after.get(length..).unwrap_or_default();
            }
            None => {
                done.push('$');
                rest = after;
            }
        }
    }
    done.push_str(rest);
    done.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        };
        from_variables(variable, Some(PathBuf::from("/home/me")))
    }

    #[test]
    fn the_environment_means_what_it_means_to_python() {
        let plain = settings(&[]);
        assert_eq!(plain.cache, Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!((plain.endpoint.as_str(), plain.token, plain.offline), (DEFAULT_ENDPOINT, None, false));
        for (variables, cache) in [
            (&[("XDG_CACHE_HOME", "/x")][..], "/x/huggingface/hub"),
            (&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")], "/home/me/hf/hub"),
            (&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")], "/c"),
            (&[("HUGGINGFACE_HUB_CACHE", "~/c"), ("HF_HOME", "/h")], "/home/me/c"),
            // As huggingface_hub 2.4 has them, by `os.path.expandvars(os.path.expanduser(...))`.
            (&[("HF_HOME", "$SCRATCH/hf"), ("SCRATCH", "/scratch/me")], "/scratch/me/hf/hub"),
            (&[("HF_HOME", "${SCRATCH}_2/$USER_NAME/hf"), ("SCRATCH", "/s")], "/s_2/$USER_NAME/hf/hub"),
            (&[("HF_HUB_CACHE", "~/$A$B"), ("A", "x"), ("B", "$A")], "/home/me/x$A"),
            (&[("XDG_CACHE_HOME", "$A/cache"), ("A", "/a")], "/a/cache/huggingface/hub"),
            (&[("HF_HOME", "/a/$/${/${}/~")], "/a/$/${/${}/~/hub"),
        ] {
            assert_eq!(settings(variables).cache, Path::new(cache));
        }
        for (value, offline) in [("1", true), ("yes", true), ("True", true), ("0", false), ("no", false)] {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
        assert_eq!(settings(&[("HF_TOKEN", " hf_x\n")]).token.as_deref(), Some("hf_x"));

        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).token.as_deref(), Some("hf_file"));
        assert_eq!(settings(&[("HF_HOME", home), ("HF_TOKEN", "hf_x")]).token.as_deref(), Some("hf_x"));
    }
}
