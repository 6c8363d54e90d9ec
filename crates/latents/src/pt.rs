//! Files that `torch.save` writes (since PyTorch 1.6): a zip archive with a pickle, which says what is there, and the
//! storages that it refers to. Nothing in them is ever run, see [`super::pickle`].

use std::fs;
use std::io::{Read, Seek};

use anyhow::{Context, bail, ensure};
use wire::{DType, Tensor};

use super::pickle::{Id, Pickle, Value};
use super::strided::gather;
use super::zip::Zip;

/// How deep lists and dictionaries may lie in each other.
const MAX_DEPTH: usize = 16;

/// Tensors that a file may hold at most, each as often as it is referred to.
const MAX_TENSORS: usize = 1_000_000;

/// A file whose pickle has been read.
#[derive(Debug)]
pub(super) struct File {
    zip: Zip,
    /// The folder in the archive that everything lies in, with its `/`.
    folder: String,
    tensors: Vec<(String, Stored)>,
}

/// Where a tensor's values are.
#[derive(Clone, Debug)]
struct Stored {
    /// The name of its storage's class.
    class: String,
    /// The file of its storage.
    key: String,
    /// In elements.
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl File {
    pub(super) fn open(mut file: fs::File) -> anyhow::Result<Self> {
        let mut magic = [0; 2];
        let read = file.read(&mut magic)?;
        file.rewind()?;
        ensure!(
            &magic[..read] != b"\x80\x02",
            "it is of the form that PyTorch wrote before 1.6; load it and save it again with a newer one"
        );
        let zip = Zip::open(file).context("it is no file that torch.save writes")?;
        let folder = zip.names().find_map(|name| {
            // One folder deep, whose name is that of the file.
            let folder = name.strip_suffix("data.pkl")?;
            (folder.matches('/').count() == 1 && folder.ends_with('/')).then(|| folder.to_owned())
        });
        let folder = folder.context("it is no file that torch.save writes: it has no data.pkl")?;
        if zip.names().any(|name| name.strip_prefix(&folder) == Some("byteorder")) {
            let order = zip.read(&format!("{folder}byteorder"))?;
            ensure!(order == b"little", "it was saved on a big-endian machine; save it again on another one");
        }
        let pickle = Pickle::read(&zip.read(&format!("{folder}data.pkl"))?)?;
        let mut tensors = Vec::new();
        let mut visited = 0;
        collect(&pickle, pickle.root, "", MAX_DEPTH, &mut visited, &mut tensors)?;
        ensure!(!tensors.is_empty(), "it holds no tensor");
        Ok(Self { zip, folder, tensors })
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.tensors.iter().map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn read(&self, name: &str) -> anyhow::Result<Tensor> {
        let found = self.tensors.iter().find(|(known, _)| known == name);
        let Some((_, Stored { class, key, offset, shape, strides })) = found else {
            bail!("it holds no tensor {name:?}")
        };
        let dtype = match class.as_str() {
            "torch.HalfStorage" => DType::Float16,
            "torch.BFloat16Storage" => DType::BFloat16,
            "torch.FloatStorage" => DType::Float32,
            other => bail!("its tensor {name:?} is in a {other:?}, but must be float16, bfloat16 or float32"),
        };
        let data = self.zip.read(&format!("{}data/{key}", self.folder))?;
        let bytes = gather(&data, dtype.size(), *offset, shape, strides)?;
        Ok(Tensor::new(dtype, shape.clone(), bytes.into())?)
    }
}

/// Finds the tensors in a value: those of lists are numbered, those of dictionaries bear their keys, and what lies
/// deeper has both, with a dot between.
fn collect(
    pickle: &Pickle,
    id: Id,
    name: &str,
    depth: usize,
    visited: &mut usize,
    found: &mut Vec<(String, Stored)>,
) -> anyhow::Result<()> {
    *visited += 1;
    ensure!(*visited <= MAX_TENSORS, "it holds more than {MAX_TENSORS} values");
    let Some(depth) = depth.checked_sub(1) else { return Ok(()) };
    let inner = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match pickle.value(id) {
        Value::List(items) | Value::Tuple(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(pickle, *item, &inner(&index.to_string()), depth, visited, found)?;
            }
        }
        Value::Dict(items) => {
            for (key, item) in items {
                let key = match pickle.value(*key) {
                    Value::Text(key) => key.clone(),
                    Value::Int(key) => key.to_string(),
                    _ => continue,
                };
                collect(pickle, *item, &inner(&key), depth, visited, found)?;
            }
        }
        Value::Call(function, arguments) => {
            let (Value::Global(function), Value::Tuple(arguments)) =
                (pickle.value(*function), pickle.value(*arguments))
            else {
                return Ok(());
            };
            match function.as_str() {
                "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => {
                    let stored =
                        stored(pickle, arguments).context("it describes a tensor in an unknown way")?;
                    found.push((name.to_owned(), stored));
                }
                "torch._utils._rebuild_parameter" => {
                    if let Some(data) = arguments.first() {
                        collect(pickle, *data, name, depth, visited, found)?;
                    }
                }
                // Whatever it is: it is not called.
                _ => {}
            }
        }
        _ => {}
    }
    Ok(())
}

/// The arguments of `_rebuild_tensor_v2`: storage, offset, shape, strides, and others that do not matter here.
fn stored(pickle: &Pickle, arguments: &[Id]) -> Option<Stored> {
    let [storage, offset, shape, strides, ..] = arguments else { return None };
    let Value::Persistent(storage) = pickle.value(*storage) else { return None };
    // ("storage", class, key, device, number of elements)
    let Value::Tuple(storage) = pickle.value(*storage) else { return None };
    let [_, class, key, ..] = storage.as_slice() else { return None };
    let (Value::Global(class), Value::Text(key)) = (pickle.value(*class), pickle.value(*key)) else {
        return None;
    };
    let number = |id: &Id| match pickle.value(*id) {
        Value::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    };
    let numbers = |id: &Id| match pickle.value(*id) {
        Value::Tuple(items) => items.iter().map(number).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    Some(Stored {
        class: class.clone(),
        key: key.clone(),
        offset: number(offset)?,
        shape: numbers(shape)?,
        strides: numbers(strides)?,
    })
}
