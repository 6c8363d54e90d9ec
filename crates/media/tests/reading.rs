//! Picture files are read as Pillow reads them (tools/make_image_fixtures.py).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use media::{Channels, Image, ImageFile, encode_webp, resize_lanczos, resize_nearest};
use serde::Deserialize;

#[derive(Deserialize)]
struct Manifest {
    files: BTreeMap<String, (usize, usize)>,
    /// Ranges of lengths, both ends included.
    cuts: BTreeMap<String, Vec<(usize, usize)>>,
    /// Those of `files` in which something is transparent.
    transparent: Vec<String>,
    refused: Vec<String>,
    resize: Vec<Resize>,
    resize_rgba: Vec<Resize>,
    nearest: Vec<Nearest>,
}

#[derive(Deserialize)]
struct Resize {
    from: String,
    width: usize,
    height: usize,
    file: String,
}

#[derive(Deserialize)]
struct Nearest {
    from: usize,
    to: usize,
    taken: Vec<f32>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn read(file: impl AsRef<Path>) -> Vec<u8> {
    fs::read(fixtures().join(file)).unwrap()
}

fn manifest() -> Manifest {
    serde_json::from_slice(&read("images/manifest.json")).unwrap()
}

#[test]
fn every_kind_of_file_has_pillows_pixels() {
    let manifest = manifest();
    assert!(manifest.files.len() >= 128);
    for (name, (width, height)) in manifest.files {
        let file = read(format!("images/{name}"));
        let image = ImageFile::open(&file).unwrap();
        assert_eq!(image.size(), (width, height), "{name}");
        let image = image.decode(Channels::Rgb).unwrap();
        assert_eq!((image.width, image.height), (width, height), "{name}");
        let expected = read(format!("images/{name}.rgb"));
        assert_eq!(image.pixels.len(), expected.len(), "{name}");
        let worst = image.pixels.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert_eq!(worst, 0, "{name}");
    }
}

#[test]
fn alpha_is_pillows() {
    let manifest = manifest();
    assert!(manifest.transparent.len() >= 27);
    /// Files that say that they have alpha, and are opaque.
    const OPAQUE: [&str; 4] =
        ["animated.webp", "grey-2-transparent.png", "opaque.png", "rgb-16-transparent.png"];
    let mut opaque = Vec::new();
    for (name, (width, height)) in manifest.files {
        let file = read(format!("images/{name}"));
        let file = ImageFile::open(&file).unwrap();
        let image = file.decode(Channels::Rgba).unwrap();
        assert_eq!((image.width, image.height, image.channels), (width, height, Channels::Rgba), "{name}");
        let rgb = read(format!("images/{name}.rgb"));
        let is_transparent = manifest.transparent.contains(&name);
        let alpha =
            if is_transparent { read(format!("images/{name}.alpha")) } else { vec![255; width * height] };
        let (colours, alphas): (Vec<[u8; 3]>, Vec<u8>) =
            image.pixels.as_chunks().0.iter().map(|&[r, g, b, a]| ([r, g, b], a)).unzip();
        assert!(colours.concat() == rgb, "{name} has other colours with alpha");
        assert!(alphas == alpha, "{name} has another alpha");
        // Known without the pixels, as far as the header tells.
        match file.channels() {
            Channels::Rgba if !is_transparent => opaque.push(name),
            Channels::Rgb if is_transparent => panic!("{name} has alpha"),
            _ => {}
        }
    }
    assert_eq!(opaque, OPAQUE);
}

/// A picture of which a part is missing would pass for a whole one. A PNG may lack a part of the checksum that ends its
/// pixels; there our decoder may want one byte more than Pillow's.
#[test]
fn every_file_is_cut_off_where_it_is_for_pillow() {
    let manifest = manifest();
    assert_eq!(manifest.cuts.len(), manifest.files.len());
    for (name, ranges) in manifest.cuts {
        let file = read(format!("images/{name}"));
        let expected = read(format!("images/{name}.rgb"));
        let mut read: Vec<(usize, usize)> = Vec::new();
        for length in 0..=file.len() {
            if ImageFile::open(&file[..length]).and_then(|image| image.decode(Channels::Rgb)).is_ok() {
                match read.last_mut() {
                    Some((_, to)) if *to + 1 == length => *to = length,
                    _ => read.push((length, length)),
                }
            }
        }
        let mut strict = ranges.clone();
        strict[0].0 += 1;
        assert!(
            read == ranges || name.ends_with(".png") && read == strict,
            "{name}: {read:?}, Pillow {ranges:?}"
        );
        let whole = ImageFile::open(&file).unwrap().decode(Channels::Rgb).unwrap();
        assert!(whole.pixels == expected, "{name}");
    }
}

#[test]
fn a_file_that_is_cut_off_is_called_so() {
    for name in [
        "420.jpg",
        "progressive.jpg",
        "arithmetic.jpg",
        "ycck.jpg",
        "rgb.png",
        "interlaced.png",
        "lossy.webp",
    ] {
        let file = read(format!("images/{name}"));
        for part in [40, 70, 90, 97] {
            let error = ImageFile::open(&file[..file.len() * part / 100])
                .and_then(|image| image.decode(Channels::Rgb))
                .expect_err(name)
                .to_string();
            assert!(error.contains("is cut off"), "{name} to {part} %: {error}");
        }
    }
}

#[test]
fn whole_files_that_pillow_refuses_are_refused() {
    let refused = manifest().refused;
    assert_eq!(refused.len(), 4);
    for name in refused {
        let file = read(format!("images/{name}"));
        assert!(ImageFile::open(&file).and_then(|image| image.decode(Channels::Rgb)).is_err(), "{name}");
    }
}

/// A few bytes may ask for any number of passes over the pixels.
#[test]
fn a_jpeg_has_a_bounded_number_of_scans() {
    let file = read("images/progressive.jpg");
    let last = file.windows(2).rposition(|marker| marker == [0xFF, 0xDA]).unwrap();
    let (rest, end) = file.split_at(file.len() - 2);
    let scan = &rest[last..];
    let with = |more: usize| [rest, &scan.repeat(more), end].concat();
    assert!(ImageFile::open(&with(3)).unwrap().decode(Channels::Rgb).is_ok());
    let error = ImageFile::open(&with(600)).unwrap().decode(Channels::Rgb).unwrap_err().to_string();
    assert_eq!(error, "the JPEG file cannot be read, it may be damaged: it has more than 500 scans");
}

/// No memory is taken for what a file cannot hold, where nobody set a limit.
#[test]
fn a_png_that_promises_too_much_is_refused_before_memory_is_taken() {
    for (width, height) in [(0x7FFF_FFFF_u32, 0x7FFF_FFFF_u32), (1 << 20, 1 << 20), (3000, 2000)] {
        let mut file = read("images/rgb.png");
        file[16..20].copy_from_slice(&width.to_be_bytes());
        file[20..24].copy_from_slice(&height.to_be_bytes());
        let check = crc(&file[12..29]).to_be_bytes();
        file[29..33].copy_from_slice(&check);
        let error = ImageFile::open(&file).unwrap().decode(Channels::Rgb).unwrap_err().to_string();
        assert!(
            error.contains("cannot hold") || error.contains("limits") || error.contains("cannot be counted"),
            "{error}"
        );
    }
}

/// The checksum of a PNG chunk (PNG specification, annex D).
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 },
        )
    })
}

/// The size is what limits are compared with, so it must be read, however large it is.
#[test]
fn the_largest_sizes_are_read_from_headers() {
    let mut png = read("images/rgb.png");
    png[16..24].copy_from_slice(&[0x7F, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF]);
    assert_eq!(ImageFile::open(&png).unwrap().size(), (2_147_483_647, 2_147_483_647));
    png[16] = 0x80;
    let error = ImageFile::open(&png).err().unwrap().to_string();
    assert!(error.contains("its size is 2164260863 x 2147483647"), "{error}");

    let mut webp = read("images/xmp.webp");
    webp[24..30].fill(0xFF);
    assert_eq!(ImageFile::open(&webp).unwrap().size(), (16_777_216, 16_777_216));

    let mut jpeg = read("images/420.jpg");
    let frame = jpeg.windows(2).position(|marker| marker == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].fill(0xFF);
    assert_eq!(ImageFile::open(&jpeg).unwrap().size(), (65_535, 65_535));
}

#[test]
fn lanczos_is_pillows_to_the_byte() {
    let manifest = manifest();
    assert_eq!(manifest.resize.len(), 12);
    for Resize { from, width, height, file } in manifest.resize {
        let image = Image { width: 72, height: 53, channels: Channels::Rgb, pixels: read(from) };
        let resized = resize_lanczos(image, width, height);
        assert_eq!((resized.width, resized.height), (width, height));
        assert!(resized.pixels == read(format!("images/{file}")), "{file} has other pixels");
    }
}

/// What is transparent has no share in the colours beside it.
#[test]
fn lanczos_with_alpha_is_pillows_to_the_byte() {
    let manifest = manifest();
    assert_eq!(manifest.resize_rgba.len(), 12);
    for Resize { from, width, height, file } in manifest.resize_rgba {
        let image = Image { width: 45, height: 37, channels: Channels::Rgba, pixels: read(from) };
        assert!(resize_lanczos(image.clone(), 45, 37) == image, "what keeps its size keeps its bytes");
        let resized = resize_lanczos(image, width, height);
        assert_eq!((resized.width, resized.height, resized.channels), (width, height, Channels::Rgba));
        assert!(resized.pixels == read(format!("images/{file}")), "{file} has other pixels");
    }
}

#[test]
fn the_nearest_value_is_pytorchs() {
    let manifest = manifest();
    assert!(!manifest.nearest.is_empty());
    for Nearest { from, to, taken } in manifest.nearest {
        let values: Vec<f32> = (0..from).map(|value| value as f32).collect();
        // The same along both axes, and for every plane.
        let planes = [values.clone(), values].concat();
        assert_eq!(resize_nearest(&planes, (1, from), (1, to)), [taken.clone(), taken.clone()].concat());
        assert_eq!(resize_nearest(&planes, (from, 1), (to, 1)), [taken.clone(), taken].concat());
    }
}

#[test]
fn the_size_is_known_without_the_pixels() {
    for name in ["rgb.png", "420.jpg", "lossy.webp"] {
        let file = read(format!("images/{name}"));
        // Without its end it has no whole pixels, but its whole header.
        assert_eq!(ImageFile::open(&file[..file.len() * 9 / 10]).unwrap().size(), (45, 37), "{name}");
    }
}

#[test]
fn files_that_are_none_are_errors() {
    for bytes in
        [&b""[..], b"\x89PNG", b"GIF89a..............", b"RIFF....WEBP", b"\xFF\xD8\xFF\xE0", b"%PDF-1.7"]
    {
        assert!(ImageFile::open(bytes).is_err(), "{bytes:?}");
    }
    let message = ImageFile::open(b"GIF89a").err().unwrap().to_string();
    assert!(message.contains("PNG, JPEG or WebP"), "{message}");
}

/// Whatever is sent, the outcome is pixels of the size that was announced, or an error: no panic.
#[test]
fn damaged_files_are_refused_or_read() {
    // xorshift64: the same damage on every run.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut decoded, mut refused) = (0, 0);
    for name in manifest().files.keys() {
        let sound = read(format!("images/{name}"));
        for _ in 0..150 {
            let mut file = sound.clone();
            for _ in 0..=random(4) {
                let at = random(file.len().max(1));
                match random(4) {
                    0 | 1 if at < file.len() => file[at] = random(256) as u8,
                    2 if at < file.len() => drop(file.remove(at)),
                    _ => file.truncate(at.max(12)),
                }
            }
            let Ok(image) = ImageFile::open(&file) else {
                refused += 1;
                continue;
            };
            let (width, height) = image.size();
            // What the limits of a server are for.
            if width * height > 1 << 20 {
                refused += 1;
                continue;
            }
            let channels = if random(2) == 0 { Channels::Rgb } else { Channels::Rgba };
            match image.decode(channels) {
                Ok(image) => {
                    assert_eq!(
                        (image.width, image.height, image.pixels.len()),
                        (width, height, width * height * channels.count())
                    );
                    decoded += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(
        decoded > 500 && refused > 500,
        "{decoded} decoded, {refused} refused: the damage tests one side only"
    );
}

#[test]
fn webp_files_are_as_large_and_as_good_as_pillows() {
    let rgb = read("images/rgb.png.rgb");
    let psnr = |file: &[u8]| {
        let pixels = ImageFile::open(file).unwrap().decode(Channels::Rgb).unwrap().pixels;
        let errors = pixels.iter().zip(&rgb).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
        10.0 * (255.0 * 255.0 * rgb.len() as f64 / errors.sum::<f64>()).log10()
    };
    for (quality, pillow) in [(80, "lossy.webp"), (10, "lossy-10.webp")] {
        let pillow = read(format!("images/{pillow}"));
        let own = encode_webp(&rgb, 45, 37, quality).unwrap();
        let (larger, better) = (own.len() as f64 / pillow.len() as f64, psnr(&own) - psnr(&pillow));
        assert!(
            larger < 1.01 && better > -0.1,
            "quality {quality}: {larger:.3} of the size, {better:.2} dB better"
        );
    }
    for (length, width, height) in [(0, 0, 0), (2, 1, 1), (16_384 * 3, 16_384, 1)] {
        assert!(encode_webp(&vec![0; length], width, height, 80).is_err(), "{length} {width} {height}");
    }
}

/// Pillow writes `alpha.webp` of the pixels of `rgba.png`.
#[test]
fn webp_files_with_alpha_are_pillows_too() {
    let decode = |file: &[u8]| ImageFile::open(file).unwrap().decode(Channels::Rgba).unwrap().pixels;
    let rgba = decode(&read("images/rgba.png"));
    let pillow = read("images/alpha.webp");
    let own = encode_webp(&rgba, 45, 37, 80).unwrap();
    let alpha = |pixels: &[u8]| pixels.iter().skip(3).step_by(4).copied().collect::<Vec<_>>();
    assert!(alpha(&decode(&own)) == alpha(&rgba), "alpha is kept without loss");
    let error = |file: &[u8]| -> f64 {
        let squares = decode(file).into_iter().zip(&rgba);
        squares.map(|(a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
    };
    let (larger, worse) = (own.len() as f64 / pillow.len() as f64, error(&own) / error(&pillow));
    assert!(larger < 1.01 && worse < 1.01, "{larger:.3} of the size, {worse:.3} of the error");
    // Without transparency there is no alpha in the file, as in Pillow's.
    let opaque: Vec<u8> = rgba.as_chunks().0.iter().flat_map(|&[r, g, b, _]| [r, g, b, 255]).collect();
    let file = encode_webp(&opaque, 45, 37, 80).unwrap();
    assert_eq!(ImageFile::open(&file).unwrap().channels(), Channels::Rgb);
}

/// A large picture takes seconds, which nobody shall spend on a request whose client has left.
#[test]
fn a_picture_that_is_not_wanted_any_longer_is_not_read_to_its_end() {
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let rgb: Vec<u8> = (0..256 * 256 * 3).map(|_| noise()).collect();
    let files = [
        ("PNG", media::encode_png(&rgb, 256, 256).unwrap()),
        ("JPEG", media::encode_jpeg(&rgb, 256, 256, 100).unwrap()),
        ("WebP", encode_webp(&rgb, 256, 256, 100).unwrap()),
    ];
    for (name, file) in files {
        let image = ImageFile::open(&file).unwrap();
        let looks = Cell::new(0);
        let until = |most: usize| {
            looks.set(0);
            image.decode_while(Channels::Rgb, &|| {
                looks.set(looks.get() + 1);
                looks.get() <= most
            })
        };
        let whole = until(usize::MAX).unwrap();
        if name == "PNG" {
            assert!(whole.pixels == rgb);
        }
        let all = looks.get();
        assert!(all > 4, "{name}: it was looked {all} times");
        assert!(matches!(until(3), Err(media::MediaError::Cancelled)), "{name}");
        assert!(looks.get() < all, "{name}: {} of {all}", looks.get());
    }
}
