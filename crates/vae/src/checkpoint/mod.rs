//! The tensors of a model by name: from which files they come, what they are called there, and which of them were used.

mod convert;
mod file;
mod foreign;
mod open;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;

use self::convert::Scale;
use self::file::{Place, Type, WeightFile};
pub(crate) use self::foreign::kind as foreign_kind;
use crate::graph::Expected;
use crate::weight::WeightBytes;
use crate::{DType, LoadError, LoadMode, Weight};

/// The tensors of a model, by name.
pub(crate) struct Checkpoint {
    /// For messages: the file, or the index of its shards.
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
    /// The names of those that layers have asked for.
    used: RefCell<HashSet<String>>,
}

/// One tensor.
struct Tensor {
    dtype: Type,
    shape: Vec<usize>,
    file: Rc<WeightFile>,
    place: Place,
    /// Its values, once [`Checkpoint::settle`] has found them.
    values: Option<(DType, WeightBytes)>,
}

/// What a layer's weights may be multiplied with, beside `weight`, in files with weights of eight bits: ComfyUI's older and
/// newer names.
const SCALES: [&str; 2] = ["scale_weight", "weight_scale"];

/// What else is in such files, for those who multiply in eight bits.
const OF_SCALES: [&str; 3] = ["scale_input", "input_scale", "comfy_quant"];

/// Says that a file is of that kind.
const SCALED: &str = "scaled_fp8";

impl Checkpoint {
    /// Whether there is a tensor `name`.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Bytes of all tensors together, as they lie in memory or in a mapped file.
    pub(crate) fn bytes(&self) -> usize {
        let values = self.tensors.values().filter_map(|tensor| tensor.values.as_ref());
        values.map(|(_, bytes)| bytes.as_slice().len()).sum()
    }

    /// Bytes of those tensors that have memory of their own, and are no part of a mapped file.
    pub(crate) fn copied_bytes(&self) -> usize {
        let values = self.tensors.values().filter_map(|tensor| tensor.values.as_ref());
        let owned = values.filter(|(_, bytes)| matches!(bytes, WeightBytes::Owned(_)));
        owned.map(|(_, bytes)| bytes.as_slice().len()).sum()
    }

    /// The names of all tensors, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of the tensor `name`, if there is one.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// Gives every tensor the name that `name` makes of its own, and forgets those of which it makes none.
    ///
    /// # Errors
    /// Two tensors come to the same name: it is not known which one is meant.
    pub(crate) fn rename(&mut self, name: impl Fn(&str) -> Option<String>) -> Result<(), LoadError> {
        let mut old_names: HashMap<String, String> = HashMap::with_capacity(self.tensors.len());
        let tensors = std::mem::take(&mut self.tensors);
        for (old, tensor) in tensors {
            let Some(new) = name(&old) else { continue };
            if let Some(other) = old_names.insert(new.clone(), old.clone()) {
                return Err(self.wrong(format!(
                    "the tensors `{}` and `{}` are the same one of the autoencoder; it is not clear which one counts",
                    other.escape_debug(),
                    old.escape_debug()
                )));
            }
            self.tensors.insert(new, tensor);
        }
        Ok(())
    }

    /// Finds the values of all tensors: in mapped files or copies of them, as `mode` says, and converted where no kernel
    /// reads their type.
    ///
    /// # Errors
    /// A file that cannot be read, or a scale that fits no weight.
    pub(crate) fn settle(&mut self, mode: LoadMode) -> Result<(), LoadError> {
        let scales = self.take_scales()?;
        // In the order of the file: disks read so faster.
        let mut names: Vec<_> = self.tensors.keys().cloned().collect();
        names.sort_by_key(|name| match self.tensors.get(name).map(|tensor| &tensor.place) {
            Some(Place::Range(range)) => range.start,
            _ => u64::MAX,
        });
        for name in names {
            let Some(tensor) = self.tensors.get_mut(&name) else { continue };
            if tensor.dtype.size() == 0 {
                continue;
            }
            let map = tensor.file.is_mapped(mode);
            let bytes = tensor.file.bytes(&tensor.place, tensor.dtype.size(), map)?;
            let scale = scales.get(&name);
            tensor.values = match convert::as_it_is(&tensor.dtype) {
                Some(dtype) if scale.is_none() => Some((dtype, bytes)),
                _ => convert::converted(&tensor.dtype, bytes.as_slice(), scale)
                    .map(|(dtype, bytes)| (dtype, WeightBytes::Owned(bytes))),
            };
        }
        Ok(())
    }

    /// Takes out the scales, by the names of the weights that they are of.
    fn take_scales(&mut self) -> Result<HashMap<String, Scale>, LoadError> {
        let scale_of = |name: &str| {
            let (layer, last) = name.rsplit_once('.')?;
            SCALES.contains(&last).then(|| format!("{layer}.weight"))
        };
        let names: Vec<_> = self.names().filter(|name| scale_of(name).is_some()).map(str::to_owned).collect();
        let mut scales = HashMap::new();
        for name in names {
            let Some((weight, tensor)) = scale_of(&name).zip(self.tensors.remove(&name)) else { continue };
            let shape = self.shape(&weight).unwrap_or_default().to_vec();
            let count = tensor.shape.iter().fold(1usize, |count, &axis| count.saturating_mul(axis));
            let is_of_rows = count > 1 && shape.first() == Some(&count);
            if count != 1 && !is_of_rows || shape.contains(&0) {
                return Err(self.wrong(format!(
                    "the scale `{}` has shape {:?}, expected one value, or one for each row of a weight of shape {shape:?}",
                    name.escape_debug(),
                    tensor.shape
                )));
            }
            let bytes = tensor.file.bytes(&tensor.place, tensor.dtype.size(), false)?;
            let values = convert::converted(&tensor.dtype, bytes.as_slice(), None)
                .map(|(dtype, bytes)| convert::floats(dtype, &bytes));
            let Some(values) = values else {
                return Err(self.wrong_type(&name, &tensor.dtype));
            };
            let scale = match values[..] {
                [scale] => Scale::All(scale),
                _ => Scale::Rows(values),
            };
            scales.insert(weight, scale);
        }
        let last =
            |name: &str| name.rsplit_once('.').map_or(SCALED == name, |(_, last)| OF_SCALES.contains(&last));
        self.tensors.retain(|name, _| !last(name));
        Ok(scales)
    }

    /// The error for weights in which something is wrong.
    pub(crate) fn wrong(&self, message: String) -> LoadError {
        LoadError::Weights { path: self.path.clone(), message }
    }

    fn wrong_type(&self, name: &str, dtype: &Type) -> LoadError {
        let dtype = match dtype {
            Type::Other(dtype) => dtype.escape_debug().to_string(),
            dtype => format!("{dtype:?}"),
        };
        self.wrong(format!(
            "tensor `{}` has type {dtype}, expected F32, F16, BF16, F64, F8_E4M3 or F8_E5M2",
            name.escape_debug()
        ))
    }

    /// The tensor that a graph expects.
    ///
    /// # Errors
    /// There is none, or it has another shape or type.
    pub(crate) fn tensor(&self, expected: &Expected) -> Result<Weight, LoadError> {
        let Expected { name, shape, may_have_more_axes } = expected;
        let weight = self.find(name, shape)?;
        match weight.shape.strip_prefix(shape.as_slice()) {
            Some([]) => Ok(weight),
            Some(rest) if *may_have_more_axes && rest.iter().all(|&axis| axis == 1) => {
                Ok(weight.reshaped(shape.clone()))
            }
            _ => {
                let or = if *may_have_more_axes { " (or the same as a 1x1 convolution)" } else { "" };
                Err(self.wrong(format!(
                    "tensor `{name}` has shape {:?}, expected {shape:?}{or} from the configuration",
                    weight.shape
                )))
            }
        }
    }

    fn find(&self, name: &str, expected: &[usize]) -> Result<Weight, LoadError> {
        let Some(tensor) = self.tensors.get(name) else {
            let hint = match self.near(name) {
                Some(near) => {
                    format!(
                        "the nearest name among its {} tensors is `{}`",
                        self.tensors.len(),
                        near.escape_debug()
                    )
                }
                None => format!("none of its {} tensors has a name like it", self.tensors.len()),
            };
            return Err(self.wrong(format!("tensor `{name}` of shape {expected:?} is missing; {hint}")));
        };
        self.used.borrow_mut().insert(name.to_owned());
        match &tensor.values {
            Some((dtype, bytes)) => Ok(Weight::new(name, *dtype, tensor.shape.clone(), bytes.clone())),
            None => Err(self.wrong_type(name, &tensor.dtype)),
        }
    }

    /// Passes over the tensor `name`, of which no layer has any use.
    pub(crate) fn pass_over(&self, name: &str) {
        self.used.borrow_mut().insert(name.to_owned());
    }

    /// The tensors that no layer has asked for, sorted.
    pub(crate) fn unused(&self) -> BTreeSet<&str> {
        let used = self.used.borrow();
        self.names().filter(|name| !used.contains(*name)).collect()
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
