//! Writing what was decoded or encoded.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use client::{DType, Decoded, ImageFormat, OutputType, Tensor};
use safetensors::tensor::{Dtype, TensorView};

use crate::args::options::{DTypeArg, TensorFormatArg};
use crate::decode::{ImageFormatArg, OptionArgs, OutputTypeArg};
use crate::provenance::Provenance;

/// Name of the tensor in a safetensors file that we write, after diffusers' `DecoderOutput.sample`.
const SAMPLE: &str = "sample";
/// Name of encoded latents in a safetensors file.
const LATENTS: &str = "latents";

/// Names of files that are not yet whole. Hidden, and none that a person would choose.
const PART_PREFIX: &str = ".remote-vae-";
const PART_SUFFIX: &str = ".part";

/// The endings that can be written, for messages.
const ENDINGS: &str =
    ".jpg, .png or .webp for a picture, .mp4 for a video, .safetensors or .npy for a tensor";

/// What the ending of a file's name says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As Pillow takes them for these formats.
    Image(ImageFormatArg),
    Safetensors,
    Npy,
    Mp4,
    /// There is none.
    Missing,
    /// It means nothing here.
    Unknown,
}

impl Ending {
    pub(crate) fn of(path: &Path) -> Self {
        match path.extension().unwrap_or_default().to_ascii_lowercase().to_str() {
            Some("jpg" | "jpeg" | "jpe" | "jfif") => Self::Image(ImageFormatArg::Jpg),
            Some("png") => Self::Image(ImageFormatArg::Png),
            Some("webp") => Self::Image(ImageFormatArg::Webp),
            Some("safetensors" | "sft") => Self::Safetensors,
            Some("npy") => Self::Npy,
            Some("mp4") => Self::Mp4,
            Some("") => Self::Missing,
            _ => Self::Unknown,
        }
    }
}

/// What to ask for so that it fits into `out`: the flags go first, then the ending of the name.
///
/// # Errors
/// Flags that contradict the name, or a folder that is not there: better now than after the work.
pub(crate) fn plan(out: &Path, args: &OptionArgs) -> anyhow::Result<(OutputType, ImageFormat)> {
    check_place(out)?;
    let ending = Ending::of(out);
    let no_ending = matches!(ending, Ending::Missing | Ending::Unknown);
    let by_name = match ending {
        Ending::Safetensors | Ending::Npy => OutputTypeArg::Pt,
        Ending::Mp4 => OutputTypeArg::Mp4,
        Ending::Missing | Ending::Unknown if args.partial_postprocess => OutputTypeArg::Pt,
        Ending::Image(_) | Ending::Missing | Ending::Unknown => OutputTypeArg::Pil,
    };
    let output_type = args.output_type.unwrap_or(by_name);
    if output_type == OutputTypeArg::Pil && no_ending && args.image_format.is_none() && !is_device(out) {
        let (out, folder) = (out.display(), "add a / if it is a folder");
        match ending {
            Ending::Missing => misuse!("{out} has no ending, which says what to write: {ENDINGS}; {folder}"),
            _ => misuse!("the ending of {out} is none that can be written: {ENDINGS}; {folder}"),
        }
    }
    let out = out.display();
    match (output_type, &ending) {
        (OutputTypeArg::Mp4, Ending::Mp4 | Ending::Missing | Ending::Unknown) if args.partial_postprocess => {
            misuse!("--partial-postprocess gives a tensor: name it .safetensors or .npy, not {out}")
        }
        (OutputTypeArg::Mp4, Ending::Image(_) | Ending::Safetensors | Ending::Npy) => {
            misuse!("--output-type mp4 gives a video: name it .mp4, not {out}")
        }
        (OutputTypeArg::Pil, Ending::Mp4) => {
            misuse!("--output-type pil gives a picture: name it .jpg, .png or .webp, not {out}")
        }
        (OutputTypeArg::Pt, Ending::Image(_) | Ending::Mp4 | Ending::Missing | Ending::Unknown) => {
            misuse!(
                "--output-type pt and --partial-postprocess give a tensor: name it .safetensors or .npy, not {out}"
            )
        }
        (OutputTypeArg::Pil, Ending::Safetensors | Ending::Npy) => {
            misuse!("--output-type pil gives a picture: name it .jpg, .png or .webp, not {out}")
        }
        (OutputTypeArg::Pil, Ending::Image(_)) if args.partial_postprocess => {
            misuse!("--partial-postprocess gives a tensor: name it .safetensors or .npy, not {out}")
        }
        _ => {}
    }
    if args.image_format.is_some() && output_type != OutputTypeArg::Pil {
        misuse!("--image-format is of a picture, and {out} is none: drop the flag, or change the name")
    }
    if ending == Ending::Npy && args.out_dtype == Some(DTypeArg::Bfloat16) {
        misuse!("NumPy has no bfloat16: name the file .safetensors, not {out}");
    }
    let image_format = match (args.image_format, ending) {
        (Some(asked), Ending::Image(named)) if asked != named => {
            misuse!("--image-format contradicts the name {out}: change one of them")
        }
        (Some(format), _) | (None, Ending::Image(format)) => format,
        (None, _) => ImageFormatArg::Jpg,
    };
    Ok((output_type.into(), image_format.into()))
}

/// Checks that a file can be where `out` says.
fn check_place(out: &Path) -> anyhow::Result<()> {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "cannot write {}: there is no folder {}", out.display(), folder.display());
    ensure!(!out.is_dir(), "cannot write {}: it is a folder", out.display());
    Ok(())
}

/// Whether it is a pipe or a device, which takes what comes and has no ending: `/dev/stdout`.
fn is_device(out: &Path) -> bool {
    out.exists() && !out.is_file() && !out.is_dir()
}

/// Checks that latents of this type can be written to `out`: better now than after the work.
pub(crate) fn plan_latents(out: &Path, dtype: DType) -> anyhow::Result<()> {
    check_place(out)?;
    match Ending::of(out) {
        Ending::Npy if dtype == DType::BFloat16 => {
            misuse!("NumPy has no bfloat16: name the file .safetensors, not {}", out.display())
        }
        Ending::Safetensors | Ending::Npy => Ok(()),
        _ => misuse!("latents are a tensor: name the file .safetensors or .npy, not {}", out.display()),
    }
}

/// Checks that `--tensor-format`, if it is given, is what the name of the one file `out` says.
pub(crate) fn check_tensor_format(out: &Path, format: Option<TensorFormatArg>) -> anyhow::Result<()> {
    let Some(format) = format else { return Ok(()) };
    let (name, ending, out) = (format.name(), Ending::of(out), out.display());
    match (ending, format) {
        (Ending::Safetensors, TensorFormatArg::Safetensors) | (Ending::Npy, TensorFormatArg::Npy) => Ok(()),
        (Ending::Safetensors | Ending::Npy, _) => {
            misuse!("--tensor-format {name} contradicts the name {out}: change one of them")
        }
        _ => misuse!("--tensor-format is of a tensor, and {out} is none: drop the flag, or change the name"),
    }
}

/// As [`plan_latents`], for many files in the folder `out`.
pub(crate) fn plan_many_latents(out: &Path, format: TensorFormatArg, dtype: DType) -> anyhow::Result<()> {
    check_folder(out)?;
    plan_latents(Path::new(&format!("x.{}", format.name())), dtype)
}

/// Checks that `out` can be the folder of many files.
pub(crate) fn check_folder(out: &Path) -> anyhow::Result<()> {
    ensure!(
        !out.exists() || out.is_dir(),
        "{} is a file, but several files are to be written: name a folder",
        out.display()
    );
    let is_folder = out.is_dir() || out.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !is_folder && !matches!(Ending::of(out), Ending::Missing | Ending::Unknown) {
        misuse!(
            "{} looks like one file, but several are to be written; add a / if it is a folder",
            out.display()
        )
    }
    Ok(())
}

/// What results are, and how their names end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) output_type: OutputType,
    pub(crate) image_format: ImageFormat,
    pub(crate) ending: &'static str,
}

/// What the results of many files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Many {
    /// The flags say it.
    One(Kind),
    /// Pictures or videos, as the model makes them.
    ByModel { picture: Kind, video: Kind },
}

impl Many {
    /// What latents of this shape become, with a model of which may be known whether it is one of videos.
    pub(crate) fn kind(&self, is_video: Option<bool>, shape: &[usize]) -> &Kind {
        // `[B, C, f, h, w]` with several frames.
        let has_frames = || matches!(shape, [_, _, frames, _, _] if *frames > 1);
        match self {
            Self::One(kind) => kind,
            Self::ByModel { video, .. } if is_video.unwrap_or_else(has_frames) => video,
            Self::ByModel { picture, .. } => picture,
        }
    }

    /// What a result of this name is.
    pub(crate) fn kind_of(&self, out: &Path) -> Option<&Kind> {
        let ending = out.extension()?;
        match self {
            Self::One(kind) => Some(kind),
            Self::ByModel { picture, video } => {
                [picture, video].into_iter().find(|kind| ending == kind.ending)
            }
        }
    }
}

/// As [`plan`], for many files in the folder `out`: the flags say it all, or leave it to the model.
pub(crate) fn plan_many(
    out: &Path,
    args: &OptionArgs,
    tensors: Option<TensorFormatArg>,
) -> anyhow::Result<Many> {
    check_folder(out)?;
    let kind = |ending: &'static str| {
        let (output_type, image_format) = plan(Path::new(&format!("x.{ending}")), args)?;
        anyhow::Ok(Kind { output_type, image_format, ending })
    };
    Ok(match (args.output_type, args.partial_postprocess, args.image_format) {
        (Some(OutputTypeArg::Pt), ..) | (None, true, _) => {
            Many::One(kind(tensors.unwrap_or_default().name())?)
        }
        _ if tensors.is_some() => misuse!(
            "--tensor-format is of tensors, and pictures or videos are to be written: drop the flag, or add --output-type pt"
        ),
        (Some(OutputTypeArg::Mp4), ..) => Many::One(kind("mp4")?),
        (None, false, None) => Many::ByModel { picture: kind("jpg")?, video: kind("mp4")? },
        (_, _, format) => Many::One(kind(format.unwrap_or(ImageFormatArg::Jpg).name())?),
    })
}

/// Writes what was decoded: a picture as it came, a tensor in the format that the name's ending says; with what is
/// worth knowing of it, where the format has a place for that.
pub(crate) fn write(out: &Path, decoded: &Decoded, provenance: Option<&Provenance>) -> anyhow::Result<()> {
    let content = match (decoded, provenance) {
        (Decoded::Tensor(tensor), ..) => tensor_file(out, tensor, SAMPLE, provenance)?.into(),
        (Decoded::Image(image), Some(provenance)) if image.format == ImageFormat::Png => {
            provenance.write_into_png(&image.bytes).into()
        }
        (other, ..) => other.bytes().clone(),
    };
    write_file(out, &content)
}

/// Writes latents in the format that the name's ending says.
pub(crate) fn write_latents(
    out: &Path,
    latents: &Tensor,
    provenance: Option<&Provenance>,
) -> anyhow::Result<()> {
    write_file(out, &tensor_file(out, latents, LATENTS, provenance)?)
}

/// Writes a file, whole or not at all.
pub(crate) fn write_file(out: &Path, content: &[u8]) -> anyhow::Result<()> {
    write_whole(out, content).with_context(|| format!("cannot write {}", out.display()))
}

/// A tensor in the format that the name's ending says.
fn tensor_file(
    out: &Path,
    tensor: &Tensor,
    name: &str,
    provenance: Option<&Provenance>,
) -> anyhow::Result<Vec<u8>> {
    match Ending::of(out) {
        Ending::Npy => Ok(latents::to_npy(tensor)?),
        _ => safetensors(tensor, name, provenance),
    }
}

/// Writes a file that nobody ever sees half written, whatever happens in the middle: beside its place first.
fn write_whole(out: &Path, content: &[u8]) -> std::io::Result<()> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    if is_device(out) {
        // It cannot be replaced.
        return fs::write(out, content);
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let part = out.with_file_name(format!("{PART_PREFIX}{}-{number}{PART_SUFFIX}", std::process::id()));
    let written = (|| {
        let mut file = fs::File::create_new(&part)?;
        file.write_all(content)?;
        // Before the name: after a power cut there may be no file, but not an empty one.
        file.sync_data()?;
        fs::rename(&part, out)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

/// Removes what runs that were killed have left beside these files. Younger ones may be another run's.
pub(crate) fn sweep<'a>(outs: impl Iterator<Item = &'a Path>) {
    let folders: HashSet<_> = outs.filter_map(Path::parent).collect();
    for entry in folders.into_iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let age = entry.metadata().and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
        let old = age.is_some_and(|age| age > Duration::from_secs(60));
        if old && name.starts_with(PART_PREFIX) && name.ends_with(PART_SUFFIX) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn safetensors(tensor: &Tensor, name: &str, provenance: Option<&Provenance>) -> anyhow::Result<Vec<u8>> {
    let dtype = match tensor.head.dtype {
        DType::Float16 => Dtype::F16,
        DType::BFloat16 => Dtype::BF16,
        DType::Float32 => Dtype::F32,
        DType::Float64 => Dtype::F64,
        DType::UInt8 => Dtype::U8,
    };
    let view = TensorView::new(dtype, tensor.head.shape.clone(), &tensor.bytes)?;
    let metadata = provenance.map(|provenance| provenance.entries().collect());
    Ok(safetensors::serialize([(name, view)], metadata)?)
}

/// What was decoded, for people: `512 x 512 PNG, 310 KiB`.
pub(crate) fn describe(decoded: &Decoded) -> String {
    let size = bytes(decoded.bytes().len());
    match decoded {
        Decoded::Image(image) => {
            let format = match image.format {
                ImageFormat::Jpeg { .. } => "JPEG",
                ImageFormat::Png => "PNG",
                ImageFormat::WebP { .. } => "WebP",
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
            ("a.JPG", &[], (Pil, JPG)),
            ("a.jpe", &[], (Pil, JPG)),
            ("a.jfif", &[], (Pil, JPG)),
            ("a.WebP", &[], (Pil, ImageFormat::WebP { quality: None })),
            ("a", &["--image-format", "jpg"], (Pil, JPG)),
            ("a.out", &["--image-format", "png"], (Pil, ImageFormat::Png)),
            ("a.out", &["--output-type", "mp4"], (OutputType::Mp4, JPG)),
            ("/dev/null", &[], (Pil, JPG)),
            ("a.sft", &[], (Pt, JPG)),
            ("a.sft", &["--out-dtype=bfloat16"], (Pt, JPG)),
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
            ("a.npy", &["--output-type=pil"], ".jpg, .png or .webp"),
            ("a.mp4", &["--output-type=pil"], ".jpg, .png or .webp"),
            ("a.mp4", &["--output-type=pt"], ".safetensors or .npy"),
            ("a.mp4", &["--partial-postprocess"], ".safetensors or .npy"),
            ("a.npy", &["--output-type=mp4"], "name it .mp4"),
            ("a.gif", &[], ".jpg, .png or .webp for a picture"),
            ("a.tiff", &[], "the ending of a.tiff is none that can be written"),
            ("a.bmp", &["--output-type=pil"], ".mp4 for a video"),
            ("a.pt", &[], ".safetensors or .npy for a tensor"),
            ("a.jpg.part", &[], "none that can be written"),
            ("a", &[], "a has no ending"),
            ("a.", &[], "a. has no ending"),
            ("a.npy", &["--image-format=png"], "--image-format is of a picture"),
            ("a.mp4", &["--image-format=png"], "--image-format is of a picture"),
            ("a.npy", &["--out-dtype=bfloat16"], "NumPy has no bfloat16"),
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
                write(&path, &Decoded::Tensor(tensor.clone()), None).unwrap();
                assert_eq!(latents::read(path.to_str().unwrap()).unwrap(), tensor, "{name}");
            }
        }
    }

    #[test]
    fn files_are_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a.png");
        write_whole(&out, b"first").unwrap();
        write_whole(&out, b"second").unwrap();
        assert_eq!(fs::read(&out).unwrap(), b"second");
        assert!(write_whole(&folder.path().join("none/a.png"), b"x").is_err());
        write_whole(Path::new("/dev/null"), b"x").unwrap();

        // Of what other runs have left, only the old goes.
        let (old, young) =
            (folder.path().join(".remote-vae-1-0.part"), folder.path().join(".remote-vae-1-1.part"));
        for path in [&old, &young] {
            fs::write(path, "half").unwrap();
        }
        let hour = Duration::from_secs(3600);
        fs::File::options()
            .write(true)
            .open(&old)
            .unwrap()
            .set_modified(std::time::SystemTime::now() - hour)
            .unwrap();
        sweep([out.as_path()].into_iter());
        let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        left.sort();
        assert_eq!(left, [young, out]);
    }

    #[test]
    fn the_format_of_a_tensor_is_what_the_name_says() {
        let check = |out: &str, format| {
            check_tensor_format(Path::new(out), format).map_err(|error| error.to_string())
        };
        let (npy, safetensors) = (Some(TensorFormatArg::Npy), Some(TensorFormatArg::Safetensors));
        for (out, format) in [("a.png", None), ("a.npy", npy), ("a.safetensors", safetensors)] {
            assert_eq!(check(out, format), Ok(()), "{out}");
        }
        for (out, format, words) in [
            ("a.npy", safetensors, "--tensor-format safetensors contradicts the name a.npy"),
            ("a.safetensors", npy, "contradicts the name a.safetensors"),
            ("a.png", npy, "a.png is none"),
        ] {
            let error = check(out, format).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn many_files_go_into_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let planned = |out: &Path, flags: &[&str]| {
            let arguments = ["remote-vae", "decode", "a.npy", "b.npy", "-o", "x"]
                .into_iter()
                .chain(flags.iter().copied());
            let Command::Decode(args) = Args::try_parse_from(arguments).unwrap().command else {
                unreachable!()
            };
            plan_many(out, &args.options, args.file.tensor_format)
                .map(|many| {
                    let kind = |shape: &[usize]| many.kind(None, shape).ending;
                    [kind(&[1, 16, 8, 8]), kind(&[1, 16, 3, 8, 8])]
                })
                .map_err(|error| error.to_string())
        };
        for (flags, endings) in [
            (&[][..], ["jpg", "mp4"]),
            (&["--image-format=png"], ["png"; 2]),
            (&["--output-type=mp4"], ["mp4"; 2]),
            (&["--output-type=pt"], ["safetensors"; 2]),
            (&["--output-type=pt", "--tensor-format=npy"], ["npy"; 2]),
            (&["--partial-postprocess"], ["safetensors"; 2]),
        ] {
            assert_eq!(planned(folder.path(), flags), Ok(endings));
            assert_eq!(planned(Path::new("new-folder"), flags), Ok(endings));
        }
        let error = planned(folder.path(), &["--tensor-format=npy"]).unwrap_err();
        assert!(error.contains("--output-type pt"), "{error}");
        for (out, words) in [(file.as_path(), "is a file"), (Path::new("all.png"), "looks like one file")] {
            let error = planned(out, &[]).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
