//! Writing what was decoded.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use client::{DType, Decoded, ImageFormat, OutputType, Tensor};
use npyz::{WriteOptions, WriterBuilder};
use safetensors::tensor::{Dtype, TensorView};

use crate::args::{ImageFormatArg, OptionArgs, OutputTypeArg};

/// Name of the tensor in a safetensors file that we write, after diffusers' `DecoderOutput.sample`.
const SAMPLE: &str = "sample";

/// What the ending of a file's name says of it.
enum Ending {
    Image(ImageFormatArg),
    Safetensors,
    Npy,
    Mp4,
    Other,
}

impl Ending {
    fn of(path: &Path) -> Self {
        match path.extension().unwrap_or_default().to_ascii_lowercase().to_str() {
            Some("jpg" | "jpeg") => Self::Image(ImageFormatArg::Jpg),
            Some("png") => Self::Image(ImageFormatArg::Png),
            Some("safetensors") => Self::Safetensors,
            Some("npy") => Self::Npy,
            Some("mp4") => Self::Mp4,
            _ => Self::Other,
        }
    }
}

/// What to ask for so that it fits into `out`: the flags go first, then the ending of the name.
///
/// # Errors
/// Flags that contradict the name, or a folder that is not there: better now than after the work.
pub(crate) fn plan(out: &Path, args: &OptionArgs) -> anyhow::Result<(OutputType, ImageFormat)> {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "cannot write {}: there is no folder {}", out.display(), folder.display());
    ensure!(!out.is_dir(), "cannot write {}: it is a folder", out.display());

    let ending = Ending::of(out);
    let by_name = match ending {
        Ending::Safetensors | Ending::Npy => OutputTypeArg::Pt,
        Ending::Mp4 => OutputTypeArg::Mp4,
        Ending::Other if args.partial_postprocess => OutputTypeArg::Pt,
        Ending::Image(_) | Ending::Other => OutputTypeArg::Pil,
    };
    let output_type = args.output_type.unwrap_or(by_name);
    let out = out.display();
    match (output_type, &ending) {
        (OutputTypeArg::Mp4, Ending::Mp4 | Ending::Other) if args.partial_postprocess => {
            bail!("--partial-postprocess gives a tensor: name it .safetensors or .npy, not {out}")
        }
        (OutputTypeArg::Mp4, Ending::Image(_) | Ending::Safetensors | Ending::Npy) => {
            bail!("--output-type mp4 gives a video: name it .mp4, not {out}")
        }
        (OutputTypeArg::Pil, Ending::Mp4) => {
            bail!("--output-type pil gives a picture: name it .jpg or .png, not {out}")
        }
        (OutputTypeArg::Pt, Ending::Image(_) | Ending::Mp4 | Ending::Other) => {
            bail!(
                "--output-type pt and --partial-postprocess give a tensor: name it .safetensors or .npy, not {out}"
            )
        }
        (OutputTypeArg::Pil, Ending::Safetensors | Ending::Npy) => {
            bail!("--output-type pil gives a picture: name it .jpg or .png, not {out}")
        }
        (OutputTypeArg::Pil, Ending::Image(_)) if args.partial_postprocess => {
            bail!("--partial-postprocess gives a tensor: name it .safetensors or .npy, not {out}")
        }
        _ => {}
    }
    let image_format = match (args.image_format, ending) {
        (Some(asked), Ending::Image(named)) if asked != named => {
            bail!("--image-format contradicts the name {out}: change one of them")
        }
        (Some(format), _) | (None, Ending::Image(format)) => format,
        (None, _) => ImageFormatArg::Jpg,
    };
    Ok((output_type.into(), image_format.into()))
}

/// Writes what was decoded: a picture as it came, a tensor in the format that the name's ending says.
pub(crate) fn write(out: &Path, decoded: &Decoded) -> anyhow::Result<()> {
    let content = match (decoded, Ending::of(out)) {
        (Decoded::Tensor(tensor), Ending::Npy) => npy(tensor)?,
        (Decoded::Tensor(tensor), _) => safetensors(tensor)?,
        (other, _) => other.bytes().to_vec(),
    };
    std::fs::write(out, content).with_context(|| format!("cannot write {}", out.display()))
}

fn safetensors(tensor: &Tensor) -> anyhow::Result<Vec<u8>> {
    let dtype = match tensor.head.dtype {
        DType::Float16 => Dtype::F16,
        DType::BFloat16 => Dtype::BF16,
        DType::Float32 => Dtype::F32,
        DType::UInt8 => Dtype::U8,
    };
    let view = TensorView::new(dtype, tensor.head.shape.clone(), &tensor.bytes)?;
    Ok(safetensors::serialize([(SAMPLE, view)], None)?)
}

fn npy(tensor: &Tensor) -> anyhow::Result<Vec<u8>> {
    fn file<T: npyz::AutoSerialize>(
        shape: &[usize],
        values: impl Iterator<Item = T>,
    ) -> std::io::Result<Vec<u8>> {
        let mut file = Vec::new();
        let shape: Vec<u64> = shape.iter().map(|&axis| axis as u64).collect();
        let mut writer = WriteOptions::new().default_dtype().shape(&shape).writer(&mut file).begin_nd()?;
        writer.extend(values)?;
        writer.finish()?;
        Ok(file)
    }
    let (shape, bytes) = (&tensor.head.shape, &tensor.bytes);
    let content = match tensor.head.dtype {
        DType::Float16 => {
            file(shape, bytes.as_chunks::<2>().0.iter().map(|&bytes| half::f16::from_le_bytes(bytes)))
        }
        DType::Float32 => {
            file(shape, bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)))
        }
        DType::UInt8 => file(shape, bytes.iter().copied()),
        DType::BFloat16 => bail!("NumPy has no bfloat16: name the file .safetensors"),
    };
    Ok(content?)
}

/// What was decoded, for people: `512 x 512 PNG, 310 KiB`.
pub(crate) fn describe(decoded: &Decoded) -> String {
    let size = bytes(decoded.bytes().len());
    match decoded {
        Decoded::Image(image) => {
            let format = match image.format {
                ImageFormat::Jpeg { .. } => "JPEG",
                ImageFormat::Png => "PNG",
            };
            format!("{} x {} {format}, {size}", image.width, image.height)
        }
        Decoded::Tensor(tensor) => format!("{}, {size}", tensor.head),
        Decoded::Video(_) => format!("MP4, {size}"),
        _ => size,
    }
}

/// A number of bytes for people.
pub(crate) fn bytes(count: usize) -> String {
    let kib = count as f64 / 1024.0;
    if kib < 1000.0 { format!("{kib:.0} KiB") } else { format!("{:.1} MiB", kib / 1024.0) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn planned(out: &str, flags: &[&str]) -> Result<(OutputType, ImageFormat), String> {
        let arguments =
            ["remote-vae", "decode", "latents.npy", "-o", out].into_iter().chain(flags.iter().copied());
        let Command::Decode(args) = Args::try_parse_from(arguments).unwrap().command else { unreachable!() };
        plan(&args.out, &args.options).map_err(|error| error.to_string())
    }

    #[test]
    fn the_name_says_what_to_ask_for() {
        use OutputType::{Pil, Pt};
        const JPG: ImageFormat = ImageFormat::Jpeg { quality: None };
        for (out, flags, expected) in [
            ("a.jpg", &[][..], (Pil, JPG)),
            ("a.JPEG", &[], (Pil, JPG)),
            ("a.png", &[], (Pil, ImageFormat::Png)),
            ("a.png", &["--image-format=png", "--output-type=pil"], (Pil, ImageFormat::Png)),
            ("a", &[], (Pil, JPG)),
            ("a.out", &["--image-format", "png"], (Pil, ImageFormat::Png)),
            ("a.npy", &[], (Pt, JPG)),
            ("a.safetensors", &["--output-type", "pt"], (Pt, JPG)),
            ("a.npy", &["--partial-postprocess"], (Pt, JPG)),
            ("a.mp4", &[], (OutputType::Mp4, JPG)),
            ("a.mp4", &["--output-type=mp4"], (OutputType::Mp4, JPG)),
        ] {
            assert_eq!(planned(out, flags), Ok(expected), "{out} {flags:?}");
        }
    }

    #[test]
    fn contradictions_are_found_before_the_work() {
        for (out, flags, word) in [
            ("a.png", &["--image-format=jpg"][..], "contradicts"),
            ("a.png", &["--output-type=pt"], ".safetensors or .npy"),
            ("a", &["--output-type=pt"], ".safetensors or .npy"),
            ("a", &["--partial-postprocess"], ".safetensors or .npy"),
            ("a.jpg", &["--partial-postprocess"], ".safetensors or .npy"),
            ("a.npy", &["--output-type=pil"], ".jpg or .png"),
            ("a.mp4", &["--output-type=pil"], ".jpg or .png"),
            ("a.mp4", &["--output-type=pt"], ".safetensors or .npy"),
            ("a.mp4", &["--partial-postprocess"], ".safetensors or .npy"),
            ("a.npy", &["--output-type=mp4"], "name it .mp4"),
            ("no/such/folder/a.png", &[], "there is no folder no/such/folder"),
            ("/", &[], "it is a folder"),
        ] {
            let error = planned(out, flags).unwrap_err();
            assert!(error.contains(word), "{out} {flags:?}: {error}");
        }
    }

    #[test]
    fn tensors_come_back_from_their_files() {
        let folder = tempfile::tempdir().unwrap();
        for dtype in [DType::Float16, DType::Float32] {
            let bytes: Vec<u8> = (0..6 * dtype.size()).map(|i| i as u8).collect();
            let tensor = Tensor::new(dtype, vec![1, 2, 3], bytes.into()).unwrap();
            for name in ["a.npy", "a.safetensors"] {
                let path = folder.path().join(name);
                write(&path, &Decoded::Tensor(tensor.clone())).unwrap();
                assert_eq!(crate::latents::read(path.to_str().unwrap()).unwrap(), tensor, "{name}");
            }
        }
        let bytes = Tensor::new(DType::UInt8, vec![2], vec![3, 4].into()).unwrap();
        let npy = npy(&bytes).unwrap();
        assert!(npy.starts_with(b"\x93NUMPY") && npy.ends_with(&[b'\n', 3, 4]), "{npy:?}");
    }
}
