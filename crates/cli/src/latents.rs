//! Reading latents from files.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use client::{DType, Tensor};
use npyz::{DType as NpyType, NpyFile, Order, TypeChar};
use safetensors::{Dtype, SafeTensors};

/// The latents that `LATENTS` names: `PATH`, or `PATH:NAME` for one tensor of a safetensors file.
pub(crate) fn read(latents: &str) -> anyhow::Result<Tensor> {
    let (path, name) = match latents.rsplit_once(':') {
        // A path that exists is a path, whatever is in it.
        Some((path, name)) if path.ends_with(".safetensors") && !Path::new(latents).exists() => {
            (path, Some(name))
        }
        _ => (latents, None),
    };
    let ending = Path::new(path).extension().and_then(|ending| ending.to_str());
    let Some(ending @ ("safetensors" | "npy")) = ending else {
        bail!("latents come from a .safetensors or a .npy file, which {path:?} is not");
    };
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let tensor = if ending == "npy" { from_npy(&bytes) } else { from_safetensors(&bytes, name) };
    tensor.with_context(|| format!("cannot take latents from {path}"))
}

/// The tensor called `name`, or the only one.
pub(crate) fn from_safetensors(bytes: &[u8], name: Option<&str>) -> anyhow::Result<Tensor> {
    let file = SafeTensors::deserialize(bytes).context("it is no safetensors file")?;
    let mut names = file.names();
    names.sort_unstable();
    let name = match (name, names.as_slice()) {
        (Some(name), _) if names.contains(&name) => name,
        (None, [only]) => only,
        (_, []) => bail!("it holds no tensor"),
        (Some(name), _) => bail!("it holds no tensor {name:?}, but {}", list(&names)),
        (None, _) => bail!("it holds {} tensors; choose one as PATH:NAME from {}", names.len(), list(&names)),
    };
    let view = file.tensor(name)?;
    let dtype = match view.dtype() {
        Dtype::F16 => DType::Float16,
        Dtype::BF16 => DType::BFloat16,
        Dtype::F32 => DType::Float32,
        other => bail!("its tensor {name:?} is of type {other}, but must be F16, BF16 or F32"),
    };
    Ok(Tensor::new(dtype, view.shape().to_vec(), view.data().to_vec().into())?)
}

/// Names for a message; of very many only the first.
fn list(names: &[&str]) -> String {
    const SHOWN: usize = 10;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// The array of a .npy file.
fn from_npy(bytes: &[u8]) -> anyhow::Result<Tensor> {
    let array = NpyFile::new(bytes).context("it is no .npy file")?;
    let NpyType::Plain(element) = array.dtype() else { bail!("it holds records, not numbers") };
    let shape: Vec<usize> = array.shape().iter().map(|&axis| axis as usize).collect();
    ensure!(
        array.order() == Order::C || shape.len() < 2,
        "it is in Fortran order; save what numpy.ascontiguousarray makes of it"
    );
    let (dtype, bytes): (_, Vec<u8>) = match (element.type_char(), element.size_field()) {
        (TypeChar::Float, 2) => {
            let values = array.into_vec::<half::f16>()?;
            (DType::Float16, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
        (TypeChar::Float, 4) => {
            let values = array.into_vec::<f32>()?;
            (DType::Float32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
        _ => bail!("it holds values of type {element}, but they must be float16 or float32"),
    };
    Ok(Tensor::new(dtype, shape, bytes.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    fn safetensors(names: &[&str], dtype: Dtype) -> Vec<u8> {
        let data = vec![1; 6 * dtype.bitsize() / 8];
        let view = || TensorView::new(dtype, vec![1, 2, 3], &data).unwrap();
        safetensors::serialize(names.iter().map(|name| (*name, view())), None).unwrap()
    }

    #[test]
    fn one_tensor_needs_no_name() {
        for (dtype, expected) in
            [(Dtype::F16, DType::Float16), (Dtype::BF16, DType::BFloat16), (Dtype::F32, DType::Float32)]
        {
            let tensor = from_safetensors(&safetensors(&["x"], dtype), None).unwrap();
            assert_eq!((tensor.head.dtype, tensor.head.shape), (expected, vec![1, 2, 3]));
            assert_eq!(tensor.bytes, vec![1; 6 * expected.size()]);
        }
    }

    #[test]
    fn several_tensors_are_chosen_from() {
        let file = safetensors(&["b", "a"], Dtype::F16);
        assert!(from_safetensors(&file, Some("a")).is_ok());
        for (name, message) in [
            (None, "it holds 2 tensors; choose one as PATH:NAME from a, b"),
            (Some("c"), "it holds no tensor \"c\", but a, b"),
        ] {
            assert_eq!(from_safetensors(&file, name).unwrap_err().to_string(), message);
        }
        assert_eq!(list(&["x"; 12]), "x, x, x, x, x, x, x, x, x, x and 2 more");
    }

    #[test]
    fn files_without_latents() {
        for (file, message) in [
            (safetensors(&["x"], Dtype::I64), "its tensor \"x\" is of type I64"),
            (safetensors(&[], Dtype::F16), "it holds no tensor"),
            (b"nonsense".to_vec(), "it is no safetensors file"),
        ] {
            let error = from_safetensors(&file, None).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        assert!(from_npy(b"nonsense").unwrap_err().to_string().starts_with("it is no .npy file"));
    }

    /// A .npy file by the format's own description (NEP 1), version 1.0.
    fn npy(descr: &str, fortran_order: &str, data: &[u8]) -> Vec<u8> {
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': {fortran_order}, 'shape': (1, 2, 3), }}\n");
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.bytes());
        file.extend(data);
        file
    }

    #[test]
    fn numpy_arrays() {
        let halves: Vec<u8> = (0..6).flat_map(|i| half::f16::from_f32(i as f32).to_le_bytes()).collect();
        let big: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_be_bytes()).collect();
        let little: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        for (file, dtype, bytes) in [
            (npy("<f2", "False", &halves), DType::Float16, &halves),
            (npy("<f4", "False", &little), DType::Float32, &little),
            (npy(">f4", "False", &big), DType::Float32, &little),
        ] {
            let expected = Tensor::new(dtype, vec![1, 2, 3], bytes.clone().into()).unwrap();
            assert_eq!(from_npy(&file).unwrap(), expected);
        }
        for (file, message) in [
            (npy("<f4", "True", &little), "it is in Fortran order"),
            (npy("<f8", "False", &[0; 48]), "it holds values of type <f8"),
            (npy("<f4", "False", &little[..20]), ""),
        ] {
            let error = from_npy(&file).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
