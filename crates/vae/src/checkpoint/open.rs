//! Which files a model's weights are in.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Deserialize;

use super::file::{Entry, WeightFile};
use super::{Checkpoint, Tensor, foreign_kind};
use crate::LoadError;
use crate::files::{
    INDEX_ENDING, INDEX_FILES, PICKLE, SHOWN, SINGLE_FILES, is_variant, shard_of, weights_in,
};

/// The part of an index file that matters: which shard holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl Checkpoint {
    /// Opens the weights in `folder`, under diffusers' names: see [`SINGLE_FILES`] and [`INDEX_FILES`], then any other
    /// variant if there is just one, then [`PICKLE`], and then the only file of weights there is.
    pub(crate) fn open(folder: &Path) -> Result<Self, LoadError> {
        let exists = |name: &&str| folder.join(name).is_file();
        if let Some(name) = SINGLE_FILES.iter().chain(&INDEX_FILES).find(|name| exists(name)) {
            return Self::open_file(&folder.join(name));
        }
        match other_variants(folder)?.as_slice() {
            [path] => Self::open_file(path),
            [] if exists(&PICKLE) => Self::open_file(&folder.join(PICKLE)),
            [] => match weights_in(folder)?.as_slice() {
                [path] => Self::open_file(path),
                others => {
                    let names =
                        others.iter().filter_map(|path| path.file_name()).map(|name| format!("{name:?}"));
                    let names = names.take(SHOWN).collect::<Vec<_>>().join(", ");
                    let instead = match others.len() {
                        0 => String::new(),
                        count => format!(", and not {count} files of other names: {names}"),
                    };
                    let expected = SINGLE_FILES.join(" or ");
                    let message = format!("no weights here, expected {expected}{instead}");
                    Err(LoadError::Weights { path: folder.to_path_buf(), message })
                }
            },
            variants => Err(LoadError::Weights {
                path: folder.to_path_buf(),
                message: format!(
                    "{} variants of the weights and none of them {}; keep one, or name one of them so",
                    variants.len(),
                    SINGLE_FILES.join(" or ")
                ),
            }),
        }
    }

    /// Opens one file, whatever its name, or the shards that an index names.
    pub(crate) fn open_file(path: &Path) -> Result<Self, LoadError> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.contains(INDEX_ENDING) && name.ends_with(".json") {
            return Self::open_shards(path);
        }
        let mut checkpoint = Self::empty(path);
        if let Some(count @ 2..) = shard_of(name) {
            let index = index_beside(path).ok().flatten();
            let index = index.unwrap_or_else(|| "NAME.safetensors.index.json, which is not here".to_owned());
            return Err(checkpoint.wrong(format!(
                "it is one of {count} parts of a model; name the folder, or the file that lists the parts: {index}"
            )));
        }
        checkpoint.add(path)?;
        Ok(checkpoint)
    }

    /// Weights that are part of the program.
    pub(crate) fn embedded(path: &Path, weights: &'static [u8]) -> Result<Self, LoadError> {
        let mut checkpoint = Self::empty(path);
        let (file, entries) = WeightFile::embedded(path, weights)?;
        checkpoint.insert(file, entries);
        Ok(checkpoint)
    }

    fn empty(path: &Path) -> Self {
        Self { path: path.to_path_buf(), tensors: HashMap::new(), used: RefCell::new(HashSet::new()) }
    }

    fn open_shards(path: &Path) -> Result<Self, LoadError> {
        let text =
            std::fs::read(path).map_err(|source| LoadError::Io { path: path.to_path_buf(), source })?;
        let mut checkpoint = Self::empty(path);
        let index: Index = serde_json::from_slice(&text).map_err(|error| {
            checkpoint.wrong(match foreign_kind(path, &text).filter(|_| !text.starts_with(b"{")) {
                Some(kind) => format!("not an index of shards: it is {kind}"),
                None => format!("not an index of shards: {error}"),
            })
        })?;
        let mut shards: Vec<_> = index.weight_map.into_values().collect();
        shards.sort_unstable();
        shards.dedup();
        // A downloaded index must not send us out of its folder.
        if let Some(shard) = shards.iter().find(|shard| Path::new(shard).file_name() != Some(shard.as_ref()))
        {
            return Err(
                checkpoint.wrong(format!("the shard {shard:?} is not the name of a file beside the index"))
            );
        }
        for shard in &shards {
            checkpoint.add(&path.with_file_name(shard))?;
        }
        Ok(checkpoint)
    }

    /// Adds the tensors of one file.
    fn add(&mut self, path: &Path) -> Result<(), LoadError> {
        let (file, entries) = WeightFile::open(path)?;
        self.insert(file, entries);
        Ok(())
    }

    fn insert(&mut self, file: WeightFile, entries: Vec<Entry>) {
        let file = Rc::new(file);
        for Entry { name, dtype, shape, place } in entries {
            self.tensors.insert(name, Tensor { dtype, shape, file: Rc::clone(&file), place, values: None });
        }
    }
}

/// `diffusion_pytorch_model.<variant>.safetensors` files, sorted.
fn other_variants(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |source| LoadError::Io { path: folder.to_path_buf(), source };
    let mut found = Vec::new();
    for file in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = file.map_err(unreadable)?.file_name();
        if name.to_str().is_some_and(is_variant) {
            found.push(folder.join(name));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The name of an index file beside the file at `path`, if there is one.
fn index_beside(path: &Path) -> std::io::Result<Option<String>> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut found = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let name = file?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.contains(INDEX_ENDING)) {
            found.push(name.to_owned());
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().next())
}
