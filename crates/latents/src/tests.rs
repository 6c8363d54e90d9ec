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
        // No model computes in float64, and NumPy has no bfloat16 of its own.
        ("float64.npy", Float32, SHAPE),
        ("float64.pt", Float32, SHAPE),
        ("bfloat16.npy", BFloat16, SHAPE),
        ("compressed.pt", Float16, SHAPE),
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
        (
            "integers.npy",
            "it holds values of type \"<i8\", but they must be float16, bfloat16, float32 or float64",
        ),
        ("integers.pt", "torch.LongStorage\", but must be float16"),
        ("records.npy", "it is no .npy file of plain numbers"),
        ("expanded.pt", "save what .contiguous() makes of it"),
        ("nothing.pt", "it holds no tensor"),
        ("legacy.pt", "before 1.6"),
        ("endless.pt", "it holds no tensor"),
        ("doubled.pt", "it holds no tensor"),
        ("none.pt", "cannot read"),
        ("manifest.json", "a .safetensors, .npy, .npz, .pt or .latent file"),
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
            for entry in file.entries().iter().take(3) {
                // Bytes of values may be anything; their number must be right.
                if let Ok(tensor) = file.read(Some(&entry.name)) {
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
    let tensors: Vec<_> = names.iter().map(|name| (*name, dtype, &[1, 2, 3][..])).collect();
    safetensors_with(&tensors, &[])
}

/// A file with tensors of these names, types and shapes, and these metadata. All bytes are 1.
fn safetensors_with(tensors: &[(&str, Dtype, &[usize])], metadata: &[(&str, &str)]) -> Vec<u8> {
    let size = |dtype: Dtype, shape: &[usize]| shape.iter().product::<usize>() * dtype.bitsize() / 8;
    let longest = tensors.iter().map(|(_, dtype, shape)| size(*dtype, shape)).max().unwrap_or(0);
    let data = vec![1; longest];
    let views = tensors.iter().map(|(name, dtype, shape)| {
        (*name, TensorView::new(*dtype, shape.to_vec(), &data[..size(*dtype, shape)]).unwrap())
    });
    let entries = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    ::safetensors::serialize(views, (!metadata.is_empty()).then(|| entries.collect())).unwrap()
}

/// What both ways of reading make of a file.
fn read_safetensors(content: &[u8], name: Option<&str>) -> Result<Tensor, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    fs::write(&path, content).unwrap();
    let in_memory = from_safetensors(content, name).map_err(|error| error.to_string());
    let from_file = LatentsFile::open(&path).and_then(|file| file.read(name));
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

/// What each program writes, and what is to be made of it: see docs/latents.md for where in its source that stands.
#[test]
fn files_of_known_programs_say_how_they_are_scaled() {
    use FileScaling::{By, Scaled, Unknown, Unscaled};
    const F32: Dtype = Dtype::F32;
    let folder = tempfile::tempdir().unwrap();
    let check = |path: &str, content: &[u8], expected: Option<(&str, FileScaling)>, shape: &[usize]| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let file = LatentsFile::open(&path).unwrap();
        let name = file.choose(None).unwrap().to_owned();
        let layout = file.layout(&name);
        assert_eq!(layout.map(|layout| (layout.program, layout.scaling)), expected, "{}", path.display());
        assert_eq!(file.read(None).unwrap().head.shape, shape, "{}", path.display());
    };
    // ComfyUI: `SaveLatent` writes what a VAE takes, and `LoadLatent` divides by 0.18215 where the marker is missing.
    let latents = ("latent_tensor", F32, &[1, 16, 8, 8][..]);
    let (mask, marker) =
        (("noise_mask", F32, &[1, 1, 64, 64][..]), ("latent_format_version_0", F32, &[0][..]));
    let comfy = safetensors_with(&[latents, mask, marker], &[("prompt", "{}")]);
    let unscaled = Some(("ComfyUI", Unscaled));
    check("ComfyUI_00001_.latent", &comfy, unscaled, &[1, 16, 8, 8]);
    check("renamed.safetensors", &comfy, unscaled, &[1, 16, 8, 8]);
    check("old.sft", &safetensors_with(&[latents], &[]), Some(("ComfyUI", By(0.18215))), &[1, 16, 8, 8]);
    // musubi-tuner: `save_latent_cache*` of its dataset/cache_io.py, `scale_shift_latents` of its trainers.
    let video = [
        ("latents_3x8x8_float32", F32, &[16, 3, 8, 8][..]),
        ("latents_image_3x8x8_float32", F32, &[16, 3, 8, 8]),
    ];
    for (architecture, scaling) in [
        ("hunyuan_video", Unscaled),
        ("hunyuan_video_1_5", Unscaled),
        ("z_image", Unscaled),
        ("wan", Scaled),
        ("framepack", Scaled),
        ("flux_kontext", Scaled),
        ("flux_2_dev", Scaled),
        ("qwen_image_edit", Scaled),
        ("next_year", Unknown),
    ] {
        let file = safetensors_with(&video, &[("architecture", architecture)]);
        check("a_hv.safetensors", &file, Some(("musubi-tuner", scaling)), &[1, 16, 3, 8, 8]);
    }
    // ai-toolkit: `encode_images` has scaled them.
    let one = safetensors_with(
        &[("latent", Dtype::BF16, &[16, 8, 8]), ("first_frame_latent", F32, &[16, 8, 8])],
        &[],
    );
    check("_latent_cache/p_abc.safetensors", &one, Some(("ai-toolkit", Scaled)), &[1, 16, 8, 8]);
    check("p_abc.safetensors", &one, None, &[16, 8, 8]);
    let said = safetensors_with(&[("latent", F32, &[16, 8, 8])], &[("latent_space_version", "flux1")]);
    check("p_def.safetensors", &said, Some(("ai-toolkit", Scaled)), &[1, 16, 8, 8]);
    // sd-scripts: which `vae.encode` scales is in its strategy_*.py; the name says which wrote it.
    for (name, latents, channels, scaling) in [
        ("a_0064x0064_flux.npz", "latents_8x8", 16, Scaled),
        ("a_0064x0064_lumina.npz", "latents_8x8", 16, Scaled),
        ("a_0064x0064_sd3.npz", "latents_8x8", 16, Unscaled),
        ("a_0064x0064_sdxl.npz", "latents", 4, Unscaled),
        ("a_0064x0064_sd.npz", "latents", 4, Unscaled),
        ("a.npz", "latents", 4, Unscaled),
        ("a.npz", "latents", 16, Unknown),
    ] {
        let rest = latents.trim_start_matches("latents");
        let kohya = npz(&[
            (latents, "<f4", &[channels, 8, 8]),
            (&format!("original_size{rest}"), "<i8", &[2]),
            (&format!("crop_ltrb{rest}"), "<i8", &[4]),
            (&format!("latents_flipped{rest}"), "<f4", &[channels, 8, 8]),
            (&format!("alpha_mask{rest}"), "<f4", &[64, 64]),
        ]);
        check(name, &kohya, Some(("sd-scripts", scaling)), &[1, channels, 8, 8]);
    }
    check("nobodys.npz", &npz(&[("latents", "<f4", &[1, 4, 8, 8])]), None, &[1, 4, 8, 8]);
    // OneTrainer: `SampleVAEDistribution` gives what the encoder gave; the fixture is written by PyTorch.
    let onetrainer = fs::read(fixtures().join("onetrainer.pt")).unwrap();
    check("0.pt", &onetrainer, Some(("OneTrainer", Unscaled)), &[1, 4, 2, 3]);
}

/// An .npz file as `numpy.savez` writes it, with arrays of zeros.
fn npz(arrays: &[(&str, &str, &[usize])]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut archive = rawzip::ZipArchiveWriter::new(&mut file);
    for (name, descr, shape) in arrays {
        let size: usize = descr[2..].parse().unwrap();
        let axes: String = shape.iter().map(|axis| format!("{axis}, ")).collect();
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({axes}), }}\n");
        let values = vec![0; shape.iter().product::<usize>() * size];
        let array =
            [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &values]
                .concat();
        store(&mut archive, &format!("{name}.npy"), &array);
    }
    archive.finish().unwrap();
    file
}

/// Writes a file into an archive, not compressed.
fn store(archive: &mut rawzip::ZipArchiveWriter<&mut Vec<u8>>, name: &str, content: &[u8]) {
    let (mut entry, config) = archive.new_file(name).start().unwrap();
    let mut writer = config.wrap(&mut entry);
    std::io::Write::write_all(&mut writer, content).unwrap();
    let (_, descriptor) = writer.finish().unwrap();
    entry.finish(descriptor).unwrap();
}

/// What bombs are made of: little on the disk that would be much in memory.
#[test]
fn what_would_take_much_memory_is_refused_before_it_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, content: &[u8], words: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let read = || anyhow::Ok(LatentsFile::open(&path)?.read(None)?);
        let error = format!("{:#}", read().unwrap_err());
        assert!(error.contains(words), "{name}: {error}");
    };
    // 300 MiB of zeros, of which deflate makes 300 KiB.
    let zeros = deflated_zeros(300 << 20);
    assert!(zeros.len() < 1 << 20);
    for ending in ["npz", "pt"] {
        let file = archive_of_deflated("latents.npy", &zeros, 300 << 20);
        refused(&format!("bomb.{ending}"), &file, "unpacks to 300 MiB");
    }
    // One that says less than it holds is read no further than it says.
    let file = archive_of_deflated("latents.npy", &zeros, 1000);
    refused("liar.npz", &file, "is damaged");
    // The same around a whole file.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for _ in 0..300 {
        std::io::Write::write_all(&mut gzip, &vec![0; 1 << 20]).unwrap();
    }
    refused("bomb.pt", &gzip.finish().unwrap(), "it unpacks to more than 256 MiB");
    // Headers that are longer than any program writes, and than the file.
    let long = [&(40u64 << 20).to_le_bytes()[..], &vec![b' '; 40 << 20]].concat();
    refused("header.safetensors", &long, "its header has 40 MiB, but may have 32 at most");
    refused("header.safetensors", &[0xff; 16], "it is no safetensors file");
    refused("short.safetensors", &[1; 3], "it is no safetensors file: it has only 3 bytes");
    for name in ["a.safetensors", "a.npy", "a.npz", "a.pt"] {
        refused(name, b"", "it is empty");
    }
    refused("header.npy", b"\x93NUMPY\x02\0\xff\xff\xff\x7f{'descr': '<f4'", "it is no .npy file");
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999, 99999, 99999), }\n";
    let axes = [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
    refused("axes.npy", &axes, "it is cut off");
}

fn deflated_zeros(count: usize) -> Vec<u8> {
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    for _ in 0..count >> 20 {
        std::io::Write::write_all(&mut deflate, &vec![0; 1 << 20]).unwrap();
    }
    deflate.finish().unwrap()
}

/// An archive with one file of deflated content, by the description of the format (APPNOTE.TXT of PKWARE): its header,
/// its content, the list of files and the end of that. It says that the content unpacks to `size` bytes.
fn archive_of_deflated(name: &str, content: &[u8], size: u32) -> Vec<u8> {
    let word = |number: u32| number.to_le_bytes();
    let sizes = [word(0), word(content.len() as u32), word(size)].concat();
    let name_length = (name.len() as u16).to_le_bytes();
    let version_to_time = [20, 0, 0, 0, 8, 0, 0, 0, 0, 0];
    let local =
        [&b"PK\x03\x04"[..], &version_to_time, &sizes, &name_length, &[0; 2], name.as_bytes()].concat();
    let central =
        [&b"PK\x01\x02\x14\0"[..], &version_to_time, &sizes, &name_length, &[0; 16], name.as_bytes()]
            .concat();
    let start = word((local.len() + content.len()) as u32);
    let end = [&b"PK\x05\x06\0\0\0\0\x01\0\x01\0"[..], &word(central.len() as u32), &start, &[0; 2]].concat();
    [local.as_slice(), content, &central, &end].concat()
}
