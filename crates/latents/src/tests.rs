use std::fs;

use ::safetensors::tensor::{Dtype, TensorView};
use half::{bf16, f16};
use wire::DType;

use super::*;

/// Files that NumPy and PyTorch have written; see tools/make_latents_fixtures.py.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/latents")
}

/// 0, 1, 2, ... as values of this type.
fn counting(dtype: DType, shape: &[usize]) -> Tensor {
    let values = (0..shape.iter().product::<usize>()).map(|value| value as f32);
    let bytes: Vec<u8> = match dtype {
        DType::Float16 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
        DType::BFloat16 => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
        DType::Float32 => values.flat_map(f32::to_le_bytes).collect(),
        DType::Float64 => values.flat_map(|value| f64::from(value).to_le_bytes()).collect(),
        DType::UInt8 => values.map(|value| value as u8).collect(),
    };
    Tensor::new(dtype, shape.to_vec(), bytes.into()).unwrap()
}

fn read_fixture(latents: &str) -> anyhow::Result<Tensor> {
    Ok(read(fixtures().join(latents).to_str().unwrap())?)
}

#[test]
fn what_numpy_and_pytorch_write_is_read() {
    use DType::{BFloat16, Float16, Float32};
    const SHAPE: &[usize] = &[1, 4, 2, 3];
    for (latents, dtype, shape) in [
        ("half.npy", Float16, SHAPE),
        ("float.npy", Float32, SHAPE),
        ("big-endian.npy", Float32, SHAPE),
        ("fortran.npy", Float16, SHAPE),
        ("one-axis.npy", Float16, &[24]),
        ("several.npz:first", Float16, SHAPE),
        ("several.npz:second", Float32, SHAPE),
        ("compressed.npz", Float16, SHAPE),
        ("tensor.pt", Float16, SHAPE),
        ("bfloat16.pt", BFloat16, SHAPE),
        ("protocol-5.pt", Float32, SHAPE),
        ("list.pt:0", Float16, SHAPE),
        ("list.pt:1", Float16, &[1, 4, 1, 1]),
        ("dict.pt:second", Float16, SHAPE),
        ("dict.pt:first.0", Float16, SHAPE),
        ("parameter.pt", Float32, SHAPE),
    ] {
        let tensor = read_fixture(latents).unwrap_or_else(|error| panic!("{latents}: {error:#}"));
        assert!(tensor == counting(dtype, shape), "{latents}: {tensor:?}");
    }
}

#[test]
fn a_transposed_view_is_read_in_its_own_order() {
    // counting(2, 3, 4, 2)[1].permute(1, 2, 0)
    let expected: Vec<u8> = (0..4)
        .flat_map(|j| (0..2).flat_map(move |k| (0..3).map(move |i| 24 + 8 * i + 2 * j + k)))
        .flat_map(|value| f16::from_f32(value as f32).to_le_bytes())
        .collect();
    let tensor = read_fixture("strided.pt").unwrap();
    assert_eq!(tensor, Tensor::new(DType::Float16, vec![4, 2, 3], expected.into()).unwrap());
}

#[test]
fn what_is_no_latents_is_said() {
    for (latents, words) in [
        ("several.npz", "it holds 2 tensors; choose one as PATH:NAME from first, second"),
        ("several.npz:third", "it holds no tensor \"third\", but first, second"),
        ("list.pt", "choose one as PATH:NAME from 0, 1"),
        ("dict.pt", "choose one as PATH:NAME from second, first.0"),
        ("float64.npy", "it holds values of type \"<f8\", but they must be float16 or float32"),
        ("float64.pt", "torch.DoubleStorage\", but must be float16"),
        ("records.npy", "it is no .npy file of plain numbers"),
        ("expanded.pt", "save what .contiguous() makes of it"),
        ("nothing.pt", "it holds no tensor"),
        ("legacy.pt", "before 1.6"),
        ("endless.pt", "it holds no tensor"),
        ("doubled.pt", "it holds no tensor"),
        ("none.pt", "cannot read"),
        ("manifest.json", "a .safetensors, .npy, .npz or .pt file"),
    ] {
        let error = format!("{:#}", read_fixture(latents).unwrap_err());
        assert!(error.contains(words), "{latents}: {error}");
    }
}

#[test]
fn a_pickle_is_read_and_never_run() {
    let error = format!("{:#}", read_fixture("command.pt").unwrap_err());
    assert!(error.contains("it holds no tensor"), "{error}");
    assert!(!Path::new("/tmp/a-pickle-was-run").exists());
}

/// Every fixture, cut off anywhere and with any byte changed, is read or refused: no panic, no endless work, no
/// gigabytes taken because a length says so.
#[test]
fn damaged_files_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let mut files: Vec<_> = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(folder.path().join("whole.safetensors"));
    fs::write(files.last().unwrap(), safetensors_file(&["a", "b"], Dtype::F16)).unwrap();
    files.retain(|file| is_latents_file(file));
    assert!(files.len() > 20, "fixtures are missing");
    let mut refused = 0;
    for file in files {
        let whole = fs::read(&file).unwrap();
        let damaged = folder.path().join("damaged").with_extension(file.extension().unwrap());
        let mut check = |content: &[u8]| {
            fs::write(&damaged, content).unwrap();
            let Ok(file) = LatentsFile::open(&damaged) else {
                refused += 1;
                return;
            };
            for name in file.names().iter().take(3) {
                // Bytes of values may be anything; their number must be right.
                if let Ok(tensor) = file.read(Some(name)) {
                    assert_eq!(tensor.bytes.len(), tensor.head.byte_len());
                }
            }
        };
        for length in (0..whole.len()).step_by(23) {
            check(&whole[..length]);
        }
        for position in (0..whole.len()).step_by(5) {
            for change in [0x01, 0xff] {
                let mut content = whole.clone();
                content[position] ^= change;
                check(&content);
            }
        }
    }
    assert!(refused > 1000, "only {refused} were refused");
}

fn safetensors_file(names: &[&str], dtype: Dtype) -> Vec<u8> {
    let data = vec![1; 6 * dtype.bitsize() / 8];
    let view = || TensorView::new(dtype, vec![1, 2, 3], &data).unwrap();
    ::safetensors::serialize(names.iter().map(|name| (*name, view())), None).unwrap()
}

/// What both ways of reading make of a file.
fn read_safetensors(content: &[u8], name: Option<&str>) -> Result<Tensor, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    fs::write(&path, content).unwrap();
    let in_memory = from_safetensors(content, name).map_err(|error| error.to_string());
    let from_file = LatentsFile::look_into(&path).and_then(|file| file.choose_and_read(name));
    if let (Ok(in_memory), Ok(from_file)) = (&in_memory, &from_file) {
        assert_eq!(in_memory, from_file);
    }
    assert_eq!(in_memory.is_ok(), from_file.is_ok());
    in_memory
}

#[test]
fn one_tensor_needs_no_name() {
    for (dtype, expected) in
        [(Dtype::F16, DType::Float16), (Dtype::BF16, DType::BFloat16), (Dtype::F32, DType::Float32)]
    {
        let tensor = read_safetensors(&safetensors_file(&["x"], dtype), None).unwrap();
        assert_eq!((tensor.head.dtype, tensor.head.shape), (expected, vec![1, 2, 3]));
        assert_eq!(tensor.bytes, vec![1; 6 * expected.size()]);
    }
}

#[test]
fn several_tensors_are_chosen_from() {
    let file = safetensors_file(&["b", "a"], Dtype::F16);
    assert!(read_safetensors(&file, Some("a")).is_ok());
    for (name, message) in [
        (None, "it holds 2 tensors; choose one as PATH:NAME from a, b"),
        (Some("c"), "it holds no tensor \"c\", but a, b"),
    ] {
        let error = read_safetensors(&file, name).unwrap_err();
        assert!(error.starts_with(message), "{error}");
    }
    assert_eq!(list(&["x"; 12]), "x, x, x, x, x, x, x, x, x, x and 2 more");
}

#[test]
fn safetensors_without_latents() {
    for (file, message) in [
        (safetensors_file(&["x"], Dtype::I64), "its tensor \"x\" is of type I64"),
        (safetensors_file(&[], Dtype::F16), "it holds no tensor"),
        (b"nonsense".to_vec(), "it is no safetensors file"),
        (Vec::new(), "it is no safetensors file"),
    ] {
        let error = read_safetensors(&file, None).unwrap_err();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn what_we_write_for_numpy_is_what_numpy_writes() {
    for (name, dtype, shape) in [
        ("half.npy", DType::Float16, &[1, 4, 2, 3][..]),
        ("float.npy", DType::Float32, &[1, 4, 2, 3]),
        ("one-axis.npy", DType::Float16, &[24]),
    ] {
        let written = npy::write(&counting(dtype, shape)).unwrap();
        assert!(written == fs::read(fixtures().join(name)).unwrap(), "{name}");
    }
    assert!(npy::write(&counting(DType::BFloat16, &[1])).is_err());
    let bytes = npy::write(&counting(DType::UInt8, &[2])).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY") && bytes.ends_with(&[b'\n', 0, 1]), "{bytes:?}");
}
