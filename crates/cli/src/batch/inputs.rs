//! Which files are meant, and what each of them becomes.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::Item;

/// How deep folders are looked into: more is a loop of links.
const MAX_DEPTH: usize = 32;

/// A file that was found, and the folder below the output folder that its result belongs into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    /// Which tensor of it, if the command line says so.
    pub(crate) tensor: Option<String>,
    below: PathBuf,
}

/// Whether these arguments can only mean one file.
pub(crate) fn is_one(arguments: &[String]) -> bool {
    match arguments {
        [argument] => {
            argument != "-"
                && !Path::new(argument).is_dir()
                && (Path::new(argument).exists() || !is_pattern(argument))
        }
        _ => false,
    }
}

fn is_pattern(argument: &str) -> bool {
    argument.contains(['*', '?', '['])
}

/// The files that the arguments mean: paths, folders (with what is below them), patterns, and `-` for a list of such
/// on stdin, one a line; `what` they hold is for messages. `split` takes `PATH:NAME` apart, `wanted` says which files of a folder count.
///
/// # Errors
/// An argument that means nothing: it is probably misspelt.
pub(crate) fn find(
    arguments: &[String],
    what: &str,
    split: impl Fn(&str) -> (PathBuf, Option<&str>),
    wanted: impl Fn(&Path) -> bool,
) -> anyhow::Result<Vec<Found>> {
    let mut list = Vec::new();
    for argument in arguments {
        if argument == "-" {
            for line in std::io::stdin().lock().lines() {
                let line = line.context("cannot read the list of files on stdin")?;
                if !line.trim().is_empty() {
                    list.push(line);
                }
            }
        } else {
            list.push(argument.clone());
        }
    }
    let mut found = Vec::new();
    for argument in &list {
        let path = Path::new(argument);
        let before = found.len();
        if path.is_dir() {
            walk(path, Path::new(""), &wanted, &mut found, MAX_DEPTH)?;
            ensure!(found.len() > before, "there are no {what} in the folder {argument}");
        } else if !path.exists() && is_pattern(argument) {
            // As in a shell, and in the folders here, hidden files are not meant.
            let options =
                glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
            let matches =
                glob::glob_with(argument, options).with_context(|| format!("{argument:?} is no pattern"))?;
            for path in matches {
                let path = path.context("cannot read a folder")?;
                if path.is_file() {
                    found.push(Found { path, tensor: None, below: PathBuf::new() });
                }
            }
            ensure!(found.len() > before, "no file fits {argument}");
        } else {
            let (path, tensor) = split(argument);
            found.push(Found { path, tensor: tensor.map(str::to_owned), below: PathBuf::new() });
        }
    }
    Ok(found)
}

/// The files below a folder, sorted by name.
fn walk(
    folder: &Path,
    below: &Path,
    wanted: &impl Fn(&Path) -> bool,
    found: &mut Vec<Found>,
    depth: usize,
) -> anyhow::Result<()> {
    let context = || format!("cannot read the folder {}", folder.display());
    ensure!(depth > 0, "the folder {} is too deep: do its links go round in a circle?", folder.display());
    let entries = std::fs::read_dir(folder).with_context(context)?;
    let mut paths: Vec<_> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .with_context(context)?;
    paths.sort_unstable();
    for path in paths {
        let Some(name) = path.file_name() else { continue };
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() {
            walk(&path, &below.join(name), wanted, found, depth - 1)?;
        } else if wanted(&path) {
            found.push(Found { path, tensor: None, below: below.to_owned() });
        }
    }
    Ok(())
}

/// What each file becomes below `folder`: one file with this ending, or one for each of its tensors. A file whose
/// tensors cannot be listed becomes one item, which will fail when its turn comes.
///
/// # Errors
/// Two items that would write the same file.
pub(crate) fn plan(
    found: Vec<Found>,
    folder: &Path,
    ending: &str,
    tensors: impl Fn(&Path) -> Option<Vec<String>>,
) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    for Found { path, tensor, below } in found {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let folder = folder.join(below);
        let item = |tensor: Option<String>| {
            let name = match &tensor {
                Some(tensor) => format!("{stem}-{}.{ending}", in_a_name(tensor)),
                None => format!("{stem}.{ending}"),
            };
            Item { path: path.clone(), tensor, out: folder.join(name) }
        };
        match (tensor, tensors(&path)) {
            (Some(tensor), _) => items.push(item(Some(tensor))),
            (None, Some(names)) if names.len() > 1 => {
                items.extend(names.into_iter().map(|name| item(Some(name))))
            }
            (None, _) => items.push(item(None)),
        }
    }
    let mut seen = HashMap::new();
    for item in &items {
        if let Some(other) = seen.insert(&item.out, item) {
            if *other == *item {
                bail!("{} is named twice", item.input());
            }
            bail!(
                "{} and {} would both become {}; write them into two folders",
                other.input(),
                item.input(),
                item.out.display()
            );
        }
    }
    Ok(items)
}

/// The name of a tensor as part of the name of a file.
fn in_a_name(tensor: &str) -> String {
    tensor.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(arguments: &[&str], folder: &Path) -> Result<Vec<(String, String)>, String> {
        let arguments: Vec<_> =
            arguments.iter().map(|argument| folder.join(argument).to_str().unwrap().to_owned()).collect();
        let items = find(&arguments, "latents", latents::split, latents::is_latents_file)
            .and_then(|found| {
                plan(found, Path::new("out"), "png", |path| {
                    path.ends_with("two.npz").then(|| vec!["a".to_owned(), "b/c".to_owned()])
                })
            })
            .map_err(|error| error.to_string())?;
        let below = |text: String| text.replace(&format!("{}/", folder.display()), "");
        Ok(items.into_iter().map(|item| (below(item.input()), item.out.display().to_string())).collect())
    }

    fn a_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("deep/er")).unwrap();
        std::fs::create_dir(folder.path().join("none")).unwrap();
        for name in
            ["b.npy", "a.safetensors", "notes.txt", ".hidden.npy", "deep/two.npz", "deep/er/a.pt", "[x].npy"]
        {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        folder
    }

    #[test]
    fn files_folders_and_patterns() {
        let folder = a_folder();
        let strings = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(input, out)| ((*input).to_owned(), (*out).to_owned())).collect::<Vec<_>>()
        };
        for (arguments, expected) in [
            (&["b.npy"][..], &[("b.npy", "out/b.png")][..]),
            (&["b.npy", "missing.npy"], &[("b.npy", "out/b.png"), ("missing.npy", "out/missing.png")]),
            (&["a.safetensors:x"], &[("a.safetensors:x", "out/a-x.png")]),
            (&["*.npy"], &[("[x].npy", "out/[x].png"), ("b.npy", "out/b.png")]),
            (&["[x].npy"], &[("[x].npy", "out/[x].png")]),
            (
                &["deep"],
                &[
                    ("deep/er/a.pt", "out/er/a.png"),
                    ("deep/two.npz:a", "out/two-a.png"),
                    ("deep/two.npz:b/c", "out/two-b_c.png"),
                ],
            ),
            (&["deep/**/*.pt"], &[("deep/er/a.pt", "out/a.png")]),
        ] {
            assert_eq!(planned(arguments, folder.path()), Ok(strings(expected)), "{arguments:?}");
        }
        assert_eq!(planned(&[""], folder.path()).unwrap().len(), 6);
    }

    #[test]
    fn arguments_that_cannot_be_meant() {
        let folder = a_folder();
        for (arguments, words) in [
            (&["none"][..], "there are no latents in the folder"),
            (&["*.pth"], "no file fits"),
            (&["b.npy", "b.npy"], "is named twice"),
            (&["a.safetensors", "deep/er/a.pt"], "would both become out/a.png"),
        ] {
            let error = planned(arguments, folder.path()).unwrap_err();
            assert!(error.contains(words), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn one_file_is_told_from_many() {
        let folder = a_folder();
        let one = |argument: &str| is_one(&[folder.path().join(argument).to_str().unwrap().to_owned()]);
        assert!(one("b.npy") && one("missing.npy") && one("[x].npy"));
        assert!(!one("*.npy") && !one("deep") && !is_one(&["-".to_owned()]) && !is_one(&[]));
    }
}
