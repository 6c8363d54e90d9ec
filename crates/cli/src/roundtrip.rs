//! `remote-vae roundtrip`: what is left of a picture that is encoded and decoded again.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use client::{DType, DecodeOptions, EncodeOptions, ImageFormat, Picture, SampleMode};
use media::{Channels, Image, ImageFile, encode_png, resize_lanczos};
use serde_json::json;

use crate::args::heading;
use crate::args::number::{ANY, whole};
use crate::args::place::PlaceArgs;
use crate::place::Place;
use crate::progress::{self, Work};
use crate::terminal::{self, shown};
use crate::{batch, encode, output, similarity};

/// Pixels between the pictures.
const GAP: usize = 8;
/// The colour of the gaps, opaque white.
const GAP_COLOR: u8 = 255;
/// How many times stronger than it is a difference is shown: what is eight of 255 levels off is hard to see otherwise.
const AMPLIFICATION: u8 = 8;

/// Encode a picture, decode it again, and show what is lost
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Writes one PNG file: the original as the model gets it, what came back, and their difference, eight \
    times as strong as it is. PSNR is in decibels over all channels; SSIM is that of Wang et al. (2004), the mean of \
    the channels.\n\nExample:\n  \
    remote-vae roundtrip photo.jpg -o compared.png --model sdxl"
)]
pub(crate) struct RoundtripArgs {
    /// Picture file: PNG, JPEG or WebP
    image: PathBuf,
    /// PNG file to write
    #[arg(short, long, alias = "output", default_value = "roundtrip.png", display_order = 1)]
    out: PathBuf,
    /// Decode a sample with this seed, instead of the mean of the distribution that the encoder finds
    #[arg(long, value_name = "N", value_parser = whole::<u64>(ANY), help_heading = heading::LATENTS)]
    seed: Option<u64>,
    /// Print JSON instead of lines for people
    #[arg(long, help_heading = heading::OUTPUT)]
    json: bool,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

pub(crate) fn run(args: RoundtripArgs) -> anyhow::Result<()> {
    let ending = args.out.extension().unwrap_or_default().to_ascii_lowercase();
    if ending != "png" {
        misuse!("what is compared is written as PNG: name it .png, not {}", shown(&args.out))
    }
    let picture = encode::read_file(&args.image)?;
    let Picture::File(file) = &picture else { anyhow::bail!("a picture file is read as one") };
    let original = ImageFile::open(file).with_context(|| format!("cannot read {}", args.image.display()))?;
    let (width, height) = original.size();

    let place = Place::open(&args.place, progress::on_retry())?;
    let sample_mode = match args.seed {
        Some(seed) => SampleMode::Sample { seed: Some(seed) },
        None => SampleMode::Argmax,
    };
    let start = Instant::now();
    let options = EncodeOptions::new().sample_mode(sample_mode).dtype(DType::Float32);
    let mut work = Work::begin(format!("encoding by {}", place.name()));
    let encoded_picture = work.follow(&place, |work| place.encode(&picture, &options, work));
    let image = format!("cannot encode {}", args.image.display());
    let (latents, _) = encoded_picture.map_err(|error| batch::named(error, &image))?;
    drop(work);
    let encoded = start.elapsed();
    let start = Instant::now();
    let options = DecodeOptions::new().image_format(ImageFormat::Png);
    let mut work = Work::begin(format!("decoding by {}", place.name()));
    let decoded = work.follow(&place, |work| place.decode(&latents, &options, work))?;
    drop(work);
    let decoded_in = start.elapsed();
    let decoded = decoded.into_image().context("a video model brings no picture back")?;
    let decoded = ImageFile::open(&decoded.bytes)?;
    // With alpha if the model has it.
    let channels = decoded.channels();
    let decoded = decoded.decode(channels)?;

    // As the model got it.
    let original =
        original.decode(channels).with_context(|| format!("cannot read {}", args.image.display()))?;
    let original = resize_lanczos(original, decoded.width, decoded.height);
    let psnr = similarity::psnr(&original.pixels, &decoded.pixels);
    let ssim = similarity::ssim(
        &original.pixels,
        &decoded.pixels,
        [decoded.width, decoded.height, channels.count()],
    );
    let sheet = side_by_side(&original, &decoded);
    let png = encode_png(&sheet.pixels, sheet.width, sheet.height)?;
    output::write_file(&args.out, &png)?;

    let (rows, columns) = (decoded.height, decoded.width);
    if args.json {
        terminal::json(&json!({
            "image": args.image.display().to_string(), "output": args.out.display().to_string(),
            "width": columns, "height": rows, "latents": latents.head.shape,
            // JSON knows no infinity.
            "psnr": psnr.is_finite().then_some(psnr), "ssim": ssim,
            "encode_seconds": encoded.as_secs_f64(), "decode_seconds": decoded_in.as_secs_f64(),
        }));
        return Ok(());
    }
    let cut = if (width, height) == (columns, rows) {
        String::new()
    } else {
        format!(", resized from {width} x {height}")
    };
    let ssim = ssim.map_or("unknown (smaller than its window)".to_owned(), |ssim| format!("{ssim:.4}"));
    say!("{}: {columns} x {rows}{cut}, by {}", shown(&args.image), place.name());
    say!("  latents  {}, {}", latents.head, output::bytes(latents.bytes.len()));
    say!("  encode   {:.2} s", encoded.as_secs_f64());
    say!("  decode   {:.2} s", decoded_in.as_secs_f64());
    say!("  PSNR     {psnr:.2} dB");
    say!("  SSIM     {ssim}");
    say!("{}: original, decoded, difference x {AMPLIFICATION}", shown(&args.out));
    Ok(())
}

/// The original, the decoded picture and their difference, from left to right. Both have one size and the same channels.
fn side_by_side(original: &Image, decoded: &Image) -> Image {
    let channels = original.channels;
    let difference = difference(original, decoded);
    let row_bytes = original.width * channels.count();
    let gap = vec![GAP_COLOR; GAP * channels.count()];
    let mut pixels = Vec::new();
    let rows = original.pixels.chunks_exact(row_bytes).zip(decoded.pixels.chunks_exact(row_bytes));
    for ((one, other), difference) in rows.zip(difference.chunks_exact(row_bytes)) {
        for part in [one, &gap, other, &gap, difference] {
            pixels.extend_from_slice(part);
        }
    }
    Image { width: 3 * original.width + 2 * GAP, height: original.height, channels, pixels }
}

/// How much each byte differs, amplified. A difference of alpha would not be seen as alpha, so it is added to each colour of an
/// opaque picture.
fn difference(original: &Image, decoded: &Image) -> Vec<u8> {
    let differ = |(&a, &b): (&u8, &u8)| a.abs_diff(b).saturating_mul(AMPLIFICATION);
    let mut bytes: Vec<u8> = original.pixels.iter().zip(&decoded.pixels).map(differ).collect();
    if original.channels == Channels::Rgba {
        for [colours @ .., alpha] in bytes.as_chunks_mut::<4>().0 {
            colours.iter_mut().for_each(|colour| *colour = colour.saturating_add(*alpha));
            *alpha = u8::MAX;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_pictures_and_two_gaps() {
        let of = |pixels: Vec<u8>| Image { width: 1, height: 2, channels: Channels::Rgb, pixels };
        let sheet = side_by_side(&of(vec![1, 2, 3, 200, 100, 0]), &of(vec![1, 1, 5, 100, 100, 31]));
        assert_eq!((sheet.width, sheet.height, sheet.pixels.len()), (19, 2, 19 * 2 * 3));
        let (first, second) = sheet.pixels.split_at(19 * 3);
        assert_eq!(
            (&first[..3], &first[27..30], &first[54..]),
            (&[1, 2, 3][..], &[1, 1, 5][..], &[0, 8, 16][..])
        );
        assert_eq!(second[54..], [255, 0, 248]);
        assert!(first[3..27].iter().chain(&second[30..54]).all(|&byte| byte == 255));
    }

    #[test]
    fn a_difference_of_alpha_is_seen() {
        let of = |pixels: Vec<u8>| Image { width: 2, height: 1, channels: Channels::Rgba, pixels };
        let sheet = side_by_side(&of(vec![1, 2, 3, 0, 5, 5, 5, 255]), &of(vec![1, 2, 4, 3, 5, 5, 5, 255]));
        assert_eq!((sheet.width, sheet.channels, sheet.pixels.len()), (22, Channels::Rgba, 22 * 4));
        assert_eq!(sheet.pixels[..8], [1, 2, 3, 0, 5, 5, 5, 255]);
        assert_eq!(sheet.pixels[80..], [24, 24, 32, 255, 0, 0, 0, 255]);
        assert!(sheet.pixels[8..40].iter().all(|&byte| byte == 255));
    }
}
