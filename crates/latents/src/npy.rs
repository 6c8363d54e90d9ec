//! NumPy's .npy files, by the description of the format
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>): a magic word, the length of a header,
//! the header as a Python dictionary, the values.

use std::io::Read;

use anyhow::{Context, bail, ensure};
use torchfile::{Element, contiguous, gather};
use wire::{DType, Tensor};

use super::choose::Entry;
use super::element::tensor;

const MAGIC: &[u8] = b"\x93NUMPY";

/// The values begin at a multiple of this.
const ALIGNMENT: usize = 64;

/// Bytes of a header at most; NumPy itself reads no more than 10,000.
pub(super) const MAX_HEADER: usize = 64 << 10;

/// What stands before the values.
#[derive(Debug)]
struct Head {
    /// NumPy's name of the type, and what it is here.
    descr: String,
    element: Option<Element>,
    is_big_endian: bool,
    is_fortran: bool,
    shape: Vec<usize>,
    /// Where the values begin.
    start: usize,
}

impl Head {
    fn read(file: &[u8]) -> anyhow::Result<Self> {
        let (header, start) = header(file).context("it is no .npy file")?;
        let (descr, rest) =
            field(header, "descr").and_then(quoted).context("it is no .npy file of plain numbers")?;
        ensure!(rest.trim_start().starts_with([',', '}']), "it is no .npy file of plain numbers");
        let fortran =
            field(header, "fortran_order").context("it is no .npy file: `fortran_order` is missing")?;
        let shape =
            field(header, "shape").and_then(shape).context("it is no .npy file: `shape` is missing")?;
        let element = match descr.trim_start_matches(['<', '>', '|', '=']) {
            "f2" => Some(Element::Float16),
            "f4" => Some(Element::Float32),
            "f8" => Some(Element::Float64),
            // NumPy has no bfloat16: that of ml_dtypes is written as two bytes of nothing in particular.
            "V2" => Some(Element::BFloat16),
            _ => None,
        };
        Ok(Self {
            descr: descr.to_owned(),
            element,
            is_big_endian: descr.starts_with('>'),
            is_fortran: fortran.starts_with("True"),
            shape,
            start,
        })
    }
}

/// What the first bytes of a file say; [`MAX_HEADER`] are enough.
pub(super) fn entry(name: String, mut file: impl Read) -> anyhow::Result<Entry> {
    let mut first = Vec::new();
    file.by_ref().take(MAX_HEADER as u64).read_to_end(&mut first)?;
    let Head { element, shape, .. } = Head::read(&first)?;
    Ok(Entry { name, shape, is_float: element.is_some() })
}

/// The array of a file, which must hold floats.
pub(super) fn read(file: &[u8]) -> anyhow::Result<Tensor> {
    let Head { descr, element, is_big_endian, is_fortran, shape, start } = Head::read(file)?;
    let Some(element) = element else {
        bail!("it holds values of type {descr:?}, but they must be float16, bfloat16, float32 or float64")
    };
    let strides = if is_fortran {
        let mut strides = contiguous(&shape.iter().rev().copied().collect::<Vec<_>>())?;
        strides.reverse();
        strides
    } else {
        contiguous(&shape)?
    };
    let values = file.get(start..).unwrap_or_default();
    let mut bytes = gather(values, element.size(), 0, &shape, &strides)?;
    if is_big_endian {
        bytes.chunks_exact_mut(element.size()).for_each(<[u8]>::reverse);
    }
    tensor(element, shape, bytes)?.context("it holds no floats")
}

/// The header, and where the values begin.
fn header(file: &[u8]) -> Option<(&str, usize)> {
    let rest = file.strip_prefix(MAGIC)?;
    let (version, rest) = rest.split_at_checked(2)?;
    let (length, rest) = match version {
        [1, _] => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        [2 | 3, _] => {
            let (length, rest) = rest.split_first_chunk()?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        _ => return None,
    };
    let (header, values) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, file.len() - values.len()))
}

/// What follows `'name':` in the header.
fn field<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(&format!("'{name}'"))?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

/// A string in quotes, and what comes after it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix('\'')?.split_once('\'')
}

/// A tuple of lengths: `(1, 4, 64, 64)`, `(5,)`, `()`.
fn shape(text: &str) -> Option<Vec<usize>> {
    let (inner, _) = text.strip_prefix('(')?.split_once(')')?;
    inner.split(',').map(str::trim).filter(|axis| !axis.is_empty()).map(|axis| axis.parse().ok()).collect()
}

/// A file with the tensor.
///
/// # Errors
/// bfloat16, which NumPy does not know.
pub(super) fn write(tensor: &Tensor) -> anyhow::Result<Vec<u8>> {
    let descr = match tensor.head.dtype {
        DType::Float16 => "<f2",
        DType::Float32 => "<f4",
        DType::Float64 => "<f8",
        DType::UInt8 => "|u1",
        DType::BFloat16 => bail!("NumPy has no bfloat16: name the file .safetensors"),
    };
    let axes: String = tensor.head.shape.iter().map(|axis| format!("{axis}, ")).collect();
    // A tuple of one keeps its comma.
    let axes = if tensor.head.shape.len() == 1 { axes.trim_end() } else { axes.trim_end_matches(", ") };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({axes}), }}");
    let before = MAGIC.len() + 4;
    let padded = (before + header.len() + 1).next_multiple_of(ALIGNMENT) - before;
    header = format!("{header:<width$}\n", width = padded - 1);
    let length = u16::try_from(header.len()).context("the shape is too long for a .npy file")?;
    Ok([MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes(), &tensor.bytes].concat())
}
