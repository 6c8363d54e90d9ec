//! What is in a file that `torch.save` has written (since PyTorch 1.6): a zip archive with a pickle, which describes the
//! tensors, and the storages that it refers to. Nothing in them is ever run, see [`crate::pickle`].

use std::fs;
use std::io::{Read, Seek};
use std::ops::Range;

use anyhow::{Context, ensure};

use crate::Error;
use crate::pickle::{Id, Pickle, Value};
use crate::strided::{contiguous, gather};
use crate::zip::Zip;

/// How deep lists and dictionaries may lie in each other.
const MAX_DEPTH: usize = 16;

/// Tensors that a file may hold at most, each as often as it is referred to.
const MAX_TENSORS: usize = 1_000_000;

/// Bytes of a pickle at most: the values of tensors lie beside it.
const MAX_PICKLE: u64 = 64 << 20;

/// A file whose pickle has been read.
#[derive(Debug)]
pub struct TorchFile {
    zip: Zip,
    /// The folder in the archive that everything lies in, with its `/`.
    folder: String,
    tensors: Vec<(String, Stored)>,
}

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names are PyTorch's")]
pub enum Element {
    Float64,
    Float32,
    Float16,
    BFloat16,
    Float8E4M3,
    Float8E5M2,
}

impl Element {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::Float64 => 8,
            Self::Float32 => 4,
            Self::Float16 | Self::BFloat16 => 2,
            Self::Float8E4M3 | Self::Float8E5M2 => 1,
        }
    }
}

/// A tensor as the pickle describes it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The name of its storage's class or of its type, such as `torch.HalfStorage`.
    pub class: String,
    /// Axis lengths.
    pub shape: Vec<usize>,
    /// The file of its storage.
    key: String,
    /// In elements.
    offset: usize,
    strides: Vec<usize>,
}

impl Stored {
    /// The type of its elements, if it is one of those that weights have.
    pub fn element(&self) -> Option<Element> {
        Some(match self.class.as_str() {
            "torch.DoubleStorage" => Element::Float64,
            "torch.FloatStorage" => Element::Float32,
            "torch.HalfStorage" => Element::Float16,
            "torch.BFloat16Storage" => Element::BFloat16,
            "torch.float8_e4m3fn" => Element::Float8E4M3,
            "torch.float8_e5m2" => Element::Float8E5M2,
            _ => return None,
        })
    }
}

impl TorchFile {
    /// Reads the table of contents and the pickle.
    ///
    /// # Errors
    /// It is no such file, or damaged.
    pub fn open(file: fs::File) -> Result<Self, Error> {
        Ok(Self::look_into(file)?)
    }

    fn look_into(mut file: fs::File) -> anyhow::Result<Self> {
        let mut magic = [0; 2];
        let read = file.read(&mut magic)?;
        file.rewind()?;
        ensure!(
            &magic[..read] != b"\x80\x02",
            "it is of the form that PyTorch wrote before 1.6; load it and save it again with a newer one"
        );
        // SimpleTuner compresses whole files.
        let zip = match &magic[..read] {
            b"\x1f\x8b" => Zip::open_gzip(file),
            _ => Zip::open(file).map_err(Into::into),
        };
        let zip = zip.context("it is no file that torch.save writes")?;
        let folder = zip.names().find_map(|name| {
            // One folder deep, whose name is that of the file.
            let folder = name.strip_suffix("data.pkl")?;
            (folder.matches('/').count() == 1 && folder.ends_with('/')).then(|| folder.to_owned())
        });
        let folder = folder.context("it is no file that torch.save writes: it has no data.pkl")?;
        if zip.names().any(|name| name.strip_prefix(&folder) == Some("byteorder")) {
            let order = zip.read_up_to(&format!("{folder}byteorder"), 64)?;
            ensure!(order == b"little", "it was saved on a big-endian machine; save it again on another one");
        }
        let pickle = Pickle::read(&zip.read_up_to(&format!("{folder}data.pkl"), MAX_PICKLE)?)?;
        let mut tensors = Vec::new();
        let mut visited = 0;
        collect(&pickle, pickle.root, "", MAX_DEPTH, &mut visited, &mut tensors)?;
        Ok(Self { zip, folder, tensors })
    }

    /// The tensors by their names: those of lists are numbered, those of dictionaries bear their keys, and what lies deeper
    /// has both, with a dot between. A tensor alone is called `""`.
    pub fn tensors(&self) -> &[(String, Stored)] {
        &self.tensors
    }

    /// Where in the file the values of a tensor lie, in C order and unchanged; `None` when only [`TorchFile::read`] can
    /// bring them into that order.
    ///
    /// # Errors
    /// A tensor that reaches beyond its storage, or one without a storage.
    pub fn place(&self, tensor: &Stored, element_size: usize) -> Result<Option<Range<u64>>, Error> {
        Ok(self.look_for(tensor, element_size)?)
    }

    fn look_for(&self, tensor: &Stored, element_size: usize) -> anyhow::Result<Option<Range<u64>>> {
        let Stored { key, offset, shape, strides, .. } = tensor;
        let in_order = shape.len() == strides.len() && *strides == contiguous(shape)?;
        let storage = self.zip.stored(&format!("{}data/{key}", self.folder))?;
        let (true, Some(storage)) = (in_order, storage) else { return Ok(None) };
        let bytes = shape.iter().try_fold(element_size, |bytes, &axis| bytes.checked_mul(axis));
        let place = bytes.zip(offset.checked_mul(element_size)).and_then(|(bytes, offset)| {
            let start = storage.start.checked_add(offset as u64)?;
            Some(start..start.checked_add(bytes as u64)?)
        });
        let place = place.filter(|place| place.end <= storage.end);
        let place =
            place.with_context(|| format!("a tensor of shape {shape:?} reaches beyond its storage"))?;
        Ok(Some(place))
    }

    /// The values of a tensor, in C order.
    ///
    /// # Errors
    /// As for [`TorchFile::place`]; a storage that is damaged, or a tensor that repeats elements.
    pub fn read(&self, tensor: &Stored, element_size: usize) -> Result<Vec<u8>, Error> {
        let Stored { key, offset, shape, strides, .. } = tensor;
        let data = self.zip.read(&format!("{}data/{key}", self.folder))?;
        gather(&data, element_size, *offset, shape, strides)
    }
}

/// Finds the tensors in a value.
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
                "torch._utils._rebuild_tensor_v2"
                | "torch._utils._rebuild_tensor"
                | "torch._utils._rebuild_tensor_v3" => {
                    let typed = function.ends_with("_v3");
                    let stored = stored(pickle, arguments, typed)
                        .context("it describes a tensor in an unknown way")?;
                    found.push((name.to_owned(), stored));
                }
                "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
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

/// The arguments of `_rebuild_tensor_v2`: storage, offset, shape, strides, and others that do not matter here. Those of
/// `_rebuild_tensor_v3` name the type of the elements too, for which there is no class of storages.
fn stored(pickle: &Pickle, arguments: &[Id], typed: bool) -> Option<Stored> {
    let [storage, offset, shape, strides, rest @ ..] = arguments else { return None };
    let Value::Persistent(storage) = pickle.value(*storage) else { return None };
    // ("storage", class, key, device, number of elements)
    let Value::Tuple(storage) = pickle.value(*storage) else { return None };
    let [_, class, key, ..] = storage.as_slice() else { return None };
    let class = if typed { rest.get(2)? } else { class };
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
