//! Safetensors files, mapped and never copied, and the names of the tensors in them.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernels::Bytes;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::files::{INDEX_FILES, SINGLE_FILES, is_variant};
use crate::{DType, LoadError, Weight};

/// The tensors of a model, by name.
pub(crate) struct Checkpoint {
    /// For messages: the file, or the index of its shards.
    path: PathBuf,
    tensors: HashMap<String, Entry>,
}

/// One tensor as its file's header describes it.
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    file: Arc<Bytes>,
    range: Range<usize>,
}

/// The part of an index file that matters: which shard holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl Checkpoint {
    /// Maps the weights in `folder`, under diffusers' names: see [`SINGLE_FILES`] and [`INDEX_FILES`], and then any
    /// other variant if there is just one.
    pub(crate) fn open(folder: &Path) -> Result<Self, LoadError> {
        let exists = |name: &&str| folder.join(name).is_file();
        if let Some(name) = SINGLE_FILES.iter().find(|name| exists(name)) {
            return Self::open_files(folder.join(name), &[folder.join(name)]);
        }
        if let Some(name) = INDEX_FILES.iter().find(|name| exists(name)) {
            return Self::open_shards(folder, folder.join(name));
        }
        match other_variants(folder)?.as_slice() {
            [path] => Self::open_files(path.clone(), std::slice::from_ref(path)),
            [] if folder.join("diffusion_pytorch_model.bin").is_file() => Err(LoadError::Weights {
                path: folder.join("diffusion_pytorch_model.bin"),
                message: "weights in pickle format are not read; save them as safetensors with diffusers' \
                          `save_pretrained`"
                    .into(),
            }),
            [] => Err(LoadError::Weights {
                path: folder.to_path_buf(),
                message: format!("no weights here, expected {}", SINGLE_FILES.join(" or ")),
            }),
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

    /// Maps one file, whatever its name.
    pub(crate) fn open_file(path: &Path) -> Result<Self, LoadError> {
        let pickled =
            |ending: &std::ffi::OsStr| ["bin", "ckpt", "pt", "pth"].iter().any(|other| ending == *other);
        if path.extension().is_some_and(pickled) {
            let message =
                "weights in pickle format are not read; take the .safetensors file of the same model, or \
                           save them as safetensors with diffusers"
                    .into();
            return Err(LoadError::Weights { path: path.to_path_buf(), message });
        }
        Self::open_files(path.to_path_buf(), &[path.to_path_buf()])
    }

    /// Weights that are part of the program.
    pub(crate) fn embedded(path: &Path, weights: &'static [u8]) -> Result<Self, LoadError> {
        let mut checkpoint = Self { path: path.to_path_buf(), tensors: HashMap::new() };
        checkpoint.add(path, Bytes::Static(weights))?;
        Ok(checkpoint)
    }

    fn open_shards(folder: &Path, index_path: PathBuf) -> Result<Self, LoadError> {
        let text = std::fs::read_to_string(&index_path)
            .map_err(|source| LoadError::Io { path: index_path.clone(), source })?;
        let wrong = |message: String| LoadError::Weights { path: index_path.clone(), message };
        let index: Index =
            serde_json::from_str(&text).map_err(|error| wrong(format!("not an index of shards: {error}")))?;
        let mut shards: Vec<_> = index.weight_map.into_values().collect();
        shards.sort_unstable();
        shards.dedup();
        // A downloaded index must not send us out of its folder.
        if let Some(shard) = shards.iter().find(|shard| Path::new(shard).file_name() != Some(shard.as_ref()))
        {
            return Err(wrong(format!("the shard {shard:?} is not the name of a file beside the index")));
        }
        let shards: Vec<_> = shards.iter().map(|shard| folder.join(shard)).collect();
        Self::open_files(index_path, &shards)
    }

    fn open_files(path: PathBuf, files: &[PathBuf]) -> Result<Self, LoadError> {
        let mut checkpoint = Self { path, tensors: HashMap::new() };
        for path in files {
            let file = File::open(path).and_then(|file| Bytes::map(&file));
            let bytes = file.map_err(|source| LoadError::Io { path: path.clone(), source })?;
            checkpoint.add(path, bytes)?;
        }
        Ok(checkpoint)
    }

    /// Adds the tensors of one file; the parser checks that each lies within it and has the size its shape says.
    fn add(&mut self, path: &Path, bytes: Bytes) -> Result<(), LoadError> {
        let (header, metadata) = SafeTensors::read_metadata(bytes.as_slice()).map_err(|error| {
            let message = format!("not a complete safetensors file: {error}");
            LoadError::Weights { path: path.to_path_buf(), message }
        })?;
        // The data follows the header, which follows its own length in eight bytes.
        let data = 8 + header;
        let file = Arc::new(bytes);
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let entry = Entry {
                dtype: info.dtype,
                shape: info.shape.clone(),
                file: Arc::clone(&file),
                range: data + start..data + end,
            };
            self.tensors.insert(name, entry);
        }
        Ok(())
    }

    /// Whether there is a tensor `name`.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Bytes of all tensors together.
    pub(crate) fn bytes(&self) -> usize {
        self.tensors.values().map(|entry| entry.range.len()).sum()
    }

    /// The names of all tensors, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of the tensor `name`, if there is one.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Gives every tensor the name that `name` makes of its own, and forgets those of which it makes none.
    pub(crate) fn rename(&mut self, name: impl Fn(&str) -> Option<String>) {
        let tensors = std::mem::take(&mut self.tensors);
        self.tensors = tensors.into_iter().filter_map(|(old, entry)| Some((name(&old)?, entry))).collect();
    }

    /// The error for weights in which something is wrong.
    pub(crate) fn wrong(&self, message: String) -> LoadError {
        LoadError::Weights { path: self.path.clone(), message }
    }

    /// The tensor `name`, which must have this `shape`.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Weight, LoadError> {
        let weight = self.find(name, shape)?;
        if weight.shape != shape {
            return Err(self.wrong(format!(
                "tensor `{name}` has shape {:?}, expected {shape:?} from the configuration",
                weight.shape
            )));
        }
        Ok(weight)
    }

    /// The weight `name` of a linear layer, `[out, in]`. Old checkpoints have it as a 1×1 convolution's,
    /// `[out, in, 1, 1]`.
    pub(crate) fn linear(&self, name: &str, shape: [usize; 2]) -> Result<Weight, LoadError> {
        let weight = self.find(name, &shape)?;
        match weight.shape.strip_prefix(&shape) {
            Some(rest) if rest.iter().all(|&axis| axis == 1) => Ok(weight.reshaped(shape.to_vec())),
            _ => Err(self.wrong(format!(
                "tensor `{name}` has shape {:?}, expected {shape:?} (or the same as a 1x1 convolution) from the \
                 configuration",
                weight.shape
            ))),
        }
    }

    fn find(&self, name: &str, expected: &[usize]) -> Result<Weight, LoadError> {
        let Some(entry) = self.tensors.get(name) else {
            let hint = match self.near(name) {
                Some(near) => {
                    format!("the nearest name among its {} tensors is `{near}`", self.tensors.len())
                }
                None => format!("none of its {} tensors has a name like it", self.tensors.len()),
            };
            return Err(self.wrong(format!("tensor `{name}` of shape {expected:?} is missing; {hint}")));
        };
        let dtype = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            other => {
                return Err(
                    self.wrong(format!("tensor `{name}` has type {other:?}, expected F32, F16 or BF16"))
                );
            }
        };
        Ok(Weight::new(name, dtype, entry.shape.clone(), Arc::clone(&entry.file), entry.range.clone()))
    }

    /// A name that the writer of the file may have meant: the same under a prefix, or one a few letters away.
    fn near(&self, name: &str) -> Option<&str> {
        let names = || self.tensors.keys().map(String::as_str);
        let prefixed =
            names().filter(|near| near.strip_suffix(name).is_some_and(|prefix| prefix.ends_with('.'))).min();
        prefixed.or_else(|| {
            names()
                .map(|near| (strsim::levenshtein(name, near), near))
                .filter(|(distance, _)| *distance <= name.len() / 4)
                .min()
                .map(|(_, near)| near)
        })
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
