//! Which files are meant, and what each of them becomes.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io::BufRead;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::{Item, Verdict};

/// How deep folders are looked into: more is a loop of links.
const MAX_DEPTH: usize = 32;

/// A file that was found, and the folder below the output folder that its result belongs into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    /// Which tensor of it, if the command line says so.
    pub(crate) tensor: Option<String>,
    below: PathBuf,
    /// Why it cannot be read, where that is known already.
    problem: Option<String>,
}

impl Found {
    fn new(path: PathBuf, tensor: Option<String>, below: PathBuf) -> Self {
        Self { path, tensor, below, problem: None }
    }
}

/// What is to be made of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// These.
    Parts(Vec<Part>),
    /// There is nothing in it of the kind that is looked for, and that is no fault.
    Nothing(String),
}

/// What becomes one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// The tensor, where a file has names for them.
    pub(crate) tensor: Option<String>,
    /// Which picture of its batch, where there are several.
    pub(crate) index: Option<usize>,
    /// The ending of the result's name.
    pub(crate) ending: &'static str,
}

/// Whether these arguments can only mean one file.
pub(crate) fn is_one(arguments: &[String]) -> bool {
    match arguments {
        [argument] => {
            argument != "-"
                && !argument.ends_with('/')
                && !Path::new(argument).is_dir()
                && (Path::new(argument).exists() || !is_pattern(argument))
        }
        _ => false,
    }
}

/// Checks that arguments that end in a slash are folders.
///
/// # Errors
/// One is none.
pub(crate) fn check_folders(arguments: &[String]) -> anyhow::Result<()> {
    for argument in arguments.iter().filter(|argument| argument.ends_with('/')) {
        let path = Path::new(argument.trim_end_matches('/'));
        ensure!(!path.is_file(), "{argument} is a file, and not a folder: drop the / at its end");
        ensure!(Path::new(argument).is_dir(), "there is no folder {argument}");
    }
    Ok(())
}

fn is_pattern(argument: &str) -> bool {
    argument.contains(['*', '?', '['])
}

/// The files that the arguments mean: paths, folders (with what is below them), patterns, and `-` for a list of such
/// on stdin, one a line; `what` they hold is for messages. `split` takes `PATH:NAME` apart, `wanted` says which files of a folder count.
///
/// # Errors
/// An argument that means nothing, or none of the files that are named is there: they are probably misspelt.
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
            ensure!(!list.is_empty(), "the list of files on stdin is empty");
        } else {
            list.push(argument.clone());
        }
    }
    check_folders(&list)?;
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
                    found.push(Found::new(path, None, PathBuf::new()));
                }
            }
            ensure!(found.len() > before, "no file fits {argument}");
        } else {
            let (path, tensor) = split(argument);
            found.push(Found::new(path, tensor.map(str::to_owned), PathBuf::new()));
        }
    }
    // One that is missing is a failure among others; where nothing is left, there is nothing to begin.
    if found.iter().all(|found| found.problem.is_none() && !found.path.exists())
        && let Some(first) = found.first()
    {
        let path = first.path.display();
        match found.len() {
            1 => bail!("there is no file {path}"),
            count => bail!("none of these {count} files is there, the first of them {path}"),
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
            // A folder that cannot be read is no reason to leave the others.
            let deeper = below.join(name);
            if let Err(error) = walk(&path, &deeper, wanted, found, depth - 1) {
                found
                    .push(Found { problem: Some(crate::sentence(&error)), ..Found::new(path, None, deeper) });
            }
        } else if wanted(&path) {
            found.push(Found::new(path, None, below.to_owned()));
        }
    }
    Ok(())
}

/// What each file becomes below `folder`: a file for each of its parts. A file that cannot be read is an item, too, which
/// fails when its turn comes.
///
/// Two files of one folder that differ in their endings only keep them: `a.png` and `a.webp` become `a.png.npy` and
/// `a.webp.npy`.
///
/// # Errors
/// Two files that would become the same one all the same.
pub(crate) fn plan(
    found: Vec<Found>,
    folder: &Path,
    contents: impl Fn(&Found) -> anyhow::Result<Contents>,
) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    // What each is called where it keeps its ending.
    let mut longer = Vec::new();
    for found in found {
        let contents = match &found.problem {
            Some(problem) => Err(problem.clone()),
            None => contents(&found).map_err(|error| crate::sentence(&error)),
        };
        let Found { path, tensor, below, .. } = found;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let whole = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let without = |verdict| Item {
            verdict: Some(verdict),
            ..Item::new(path.clone(), tensor.clone(), PathBuf::new())
        };
        match contents {
            Err(problem) => {
                items.push(without(Verdict::Fails(problem)));
                longer.push(PathBuf::new());
            }
            Ok(Contents::Nothing(why)) => {
                items.push(without(Verdict::Nothing(why)));
                longer.push(PathBuf::new());
            }
            Ok(Contents::Parts(parts)) => {
                let several = tensor.is_some() || parts.iter().any(|part| part.tensor != parts[0].tensor);
                for Part { tensor, index, ending } in parts {
                    let mut part = String::new();
                    if let Some(tensor) = tensor.as_ref().filter(|_| several) {
                        part = format!("-{}", in_a_name(tensor));
                    }
                    if let Some(index) = index {
                        part = format!("{part}-{index}");
                    }
                    let out = |name: &str| folder.join(&below).join(format!("{name}{part}.{ending}"));
                    let tensor = tensor.filter(|_| several);
                    items.push(Item { index, ..Item::new(path.clone(), tensor, out(&stem)) });
                    longer.push(out(&whole));
                }
            }
        }
    }
    keep_endings(&mut items, longer);
    tell_apart(&mut items)?;
    Ok(items)
}

/// Gives items that would write the same file their longer names, where these differ.
fn keep_endings(items: &mut [Item], longer: Vec<PathBuf>) {
    let mut names: HashMap<PathBuf, HashSet<PathBuf>> = HashMap::new();
    for (item, longer) in items.iter().zip(&longer).filter(|(item, _)| item.verdict.is_none()) {
        names.entry(item.out.clone()).or_default().insert(longer.clone());
    }
    for (item, longer) in items.iter_mut().zip(longer) {
        if names.get(&item.out).is_some_and(|names| names.len() > 1) {
            item.out = longer;
        }
    }
}

/// Looks for items that would write the same file. Of two tensors in one file the second fails; two files are a mistake of
/// the command line.
fn tell_apart(items: &mut [Item]) -> anyhow::Result<()> {
    let mut seen: HashMap<PathBuf, usize> = HashMap::new();
    for at in 0..items.len() {
        let item = &items[at];
        if item.verdict.is_some() {
            continue;
        }
        let other = match seen.entry(item.out.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(at);
                continue;
            }
            Entry::Occupied(other) => &items[*other.get()],
        };
        if other == item {
            bail!("{} is named twice", item.input());
        }
        let (one, out) = (other.input(), item.out.display());
        if other.path != item.path {
            bail!("{one} and {} would both become {out}; write them into two folders", item.input());
        }
        let problem = format!("{one} becomes {out} already; decode this one by itself, as PATH:NAME");
        items[at].verdict = Some(Verdict::Fails(problem));
    }
    Ok(())
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
                plan(found, Path::new("out"), |found| {
                    let part =
                        |name: &str| Part { tensor: Some(name.to_owned()), ending: "png", ..Part::default() };
                    let named = |names: &[&str]| names.iter().map(|name| part(name)).collect::<Vec<_>>();
                    Ok(Contents::Parts(
                        match (&found.tensor, found.path.file_name().unwrap().to_str().unwrap()) {
                            (Some(tensor), _) => named(&[tensor]),
                            (None, "two.npz") => named(&["a", "b/c"]),
                            (None, "four.npy") => {
                                (0..4).map(|index| Part { index: Some(index), ..part("x") }).collect()
                            }
                            (None, "clash.npz") => named(&["b/c", "b_c"]),
                            (None, "text.npz") => {
                                return Ok(Contents::Nothing("it holds no latents".to_owned()));
                            }
                            (None, "broken.pt") => bail!("it is broken"),
                            _ => named(&["x"]),
                        },
                    ))
                })
            })
            .map_err(|error| error.to_string())?;
        let below = |text: String| text.replace(&format!("{}/", folder.display()), "");
        let told = |item: Item| match &item.verdict {
            Some(Verdict::Fails(why) | Verdict::Nothing(why)) => below(why.clone()),
            None => item.out.display().to_string(),
        };
        Ok(items.into_iter().map(|item| (below(item.input()), told(item))).collect())
    }

    fn a_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("deep/er")).unwrap();
        std::fs::create_dir(folder.path().join("none")).unwrap();
        for name in [
            "b.npy",
            "deep/b.npy",
            "a.safetensors",
            "notes.txt",
            ".hidden.npy",
            "deep/two.npz",
            "deep/er/a.pt",
            "[x].npy",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        folder
    }

    #[test]
    fn files_folders_and_patterns() {
        let folder = a_folder();
        assert_eq!(planned(&[""], folder.path()).unwrap().len(), 7);
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
                    ("deep/b.npy", "out/b.png"),
                    ("deep/er/a.pt", "out/er/a.png"),
                    ("deep/two.npz:a", "out/two-a.png"),
                    ("deep/two.npz:b/c", "out/two-b_c.png"),
                ],
            ),
            (&["deep/**/*.pt"], &[("deep/er/a.pt", "out/a.png")]),
            // What would become one file keeps its ending.
            (
                &["a.safetensors", "b.npy", "deep/er/a.pt"],
                &[
                    ("a.safetensors", "out/a.safetensors.png"),
                    ("b.npy", "out/b.png"),
                    ("deep/er/a.pt", "out/a.pt.png"),
                ],
            ),
            (
                &["four.npy"],
                &[
                    ("four.npy", "out/four-0.png"),
                    ("four.npy", "out/four-1.png"),
                    ("four.npy", "out/four-2.png"),
                    ("four.npy", "out/four-3.png"),
                ],
            ),
            // What is wrong with one file is no reason to leave the others.
            (
                &["clash.npz", "text.npz", "broken.pt", "b.npy"],
                &[
                    ("clash.npz:b/c", "out/clash-b_c.png"),
                    (
                        "clash.npz:b_c",
                        "clash.npz:b/c becomes out/clash-b_c.png already; decode this one by itself, as PATH:NAME",
                    ),
                    ("text.npz", "it holds no latents"),
                    ("broken.pt", "it is broken"),
                    ("b.npy", "out/b.png"),
                ],
            ),
        ] {
            for made_up in ["four.npy", "clash.npz", "text.npz", "broken.pt"] {
                if arguments.contains(&made_up) {
                    std::fs::write(folder.path().join(made_up), "").unwrap();
                }
            }
            assert_eq!(planned(arguments, folder.path()), Ok(strings(expected)), "{arguments:?}");
        }
    }

    #[test]
    fn arguments_that_cannot_be_meant() {
        let folder = a_folder();
        for (arguments, words) in [
            (&["none"][..], "there are no latents in the folder"),
            (&["*.pth"], "no file fits"),
            (&["b.npy", "b.npy"], "is named twice"),
            (&["b.npy", "deep/b.npy"], "would both become out/b.png; write them into two folders"),
            (&["missing.npy"], "there is no file "),
            (&["missing.npy", "away.npy:x"], "none of these 2 files is there"),
            (&["nothing/"], "there is no folder "),
            (&["b.npy", "a.safetensors/"], "is a file, and not a folder"),
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
        assert!(!one("b.npy/") && !one("missing/"));
        assert!(!one("*.npy") && !one("deep") && !is_one(&["-".to_owned()]) && !is_one(&[]));
    }
}
