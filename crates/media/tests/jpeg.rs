//! Our JPEG files beside Pillow's files of the same pixels (`tools/make_jpeg_fixtures.py`).

use std::path::{Path, PathBuf};

use media::encode_jpeg;
use zune_core::bytestream::ZCursor;
use zune_jpeg::JpegDecoder;

/// A picture of the corpus: its file name without ending, its pixels and their size.
struct Picture {
    stem: PathBuf,
    rgb: Vec<u8>,
    width: usize,
    height: usize,
}

/// Every `NAME.WIDTHxHEIGHT.rgb` of the corpus.
fn corpus() -> Vec<Picture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/jpeg");
    let mut pictures = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "rgb") {
            let stem = path.with_extension("");
            let size = stem.extension().unwrap().to_str().unwrap().split_once('x').unwrap();
            let (width, height) = (size.0.parse().unwrap(), size.1.parse().unwrap());
            pictures.push(Picture { rgb: std::fs::read(&path).unwrap(), stem, width, height });
        }
    }
    assert!(pictures.len() >= 3, "the corpus in {} is not whole", folder.display());
    pictures
}

/// The pixels of a file and its size.
fn decode(file: &[u8]) -> (Vec<u8>, (usize, usize)) {
    let mut decoder = JpegDecoder::new(ZCursor::new(file));
    let pixels = decoder.decode().unwrap();
    (pixels, decoder.dimensions().unwrap())
}

/// Peak signal-to-noise ratio in decibels; infinite for equal pictures.
fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 * a.len() as f64 / squares).log10()
}

/// The quantization tables of a file, as they stand in it.
fn quantization_tables(file: &[u8]) -> Vec<u8> {
    let (mut at, mut tables) = (2, Vec::new());
    loop {
        let length = usize::from(u16::from_be_bytes([file[at + 2], file[at + 3]]));
        match file[at + 1] {
            0xDB => tables.extend_from_slice(&file[at + 4..at + 2 + length]),
            0xDA => return tables,
            _ => {}
        }
        at += 2 + length;
    }
}

#[test]
fn files_are_as_pillow_writes_them() {
    for Picture { stem, rgb, width, height } in corpus() {
        for quality in [75, 95] {
            let name = format!("{}.q{quality}", stem.file_name().unwrap().display());
            let theirs = std::fs::read(stem.with_added_extension(format!("q{quality}.jpg"))).unwrap();
            let ours = encode_jpeg(&rgb, width, height, quality).unwrap();
            assert_eq!(quantization_tables(&ours), quantization_tables(&theirs), "{name}");

            let ((our_pixels, our_size), (their_pixels, their_size)) = (decode(&ours), decode(&theirs));
            assert_eq!((our_size, their_size), ((width, height), (width, height)), "{name}");
            // Two encoders round some coefficients another way; noise has the most of them.
            let psnr = psnr(&our_pixels, &their_pixels);
            assert!(psnr > 42.0, "{name}: {psnr:.1} dB from Pillow's file");
            let growth = ours.len() as f64 / theirs.len() as f64 - 1.0;
            assert!(growth.abs() < 0.01, "{name}: {} bytes, Pillow {}", ours.len(), theirs.len());
        }
    }
}

#[test]
fn every_small_size_keeps_its_size_and_its_picture() {
    for width in 1..=34 {
        for height in 1..=34 {
            // A gentle slope, which survives JPEG well, so that a shifted or skewed picture shows.
            let rgb: Vec<u8> = (0..height)
                .flat_map(|y| (0..width).map(move |x| (100 + 2 * x + y) as u8))
                .flat_map(|value| [value; 3])
                .collect();
            let (pixels, size) = decode(&encode_jpeg(&rgb, width, height, 90).unwrap());
            assert_eq!(size, (width, height));
            assert!(psnr(&pixels, &rgb) > 45.0, "{width} x {height}: {:.1} dB", psnr(&pixels, &rgb));
        }
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let error =
        |length, width, height| encode_jpeg(&vec![0; length], width, height, 75).unwrap_err().to_string();
    assert_eq!(error(11, 2, 2), "11 bytes of RGB pixels do not make a picture of 2 x 2 (expected 12)");
    assert_eq!(error(0, 0, 2), "JPEG cannot hold a picture of 0 x 2 pixels (each side from 1 to 65500)");
    assert_eq!(
        error(65_501 * 3, 65_501, 1),
        "JPEG cannot hold a picture of 65501 x 1 pixels (each side from 1 to 65500)"
    );
    assert!(encode_jpeg(&vec![9; 65_500 * 3], 65_500, 1, 75).is_ok());
}
