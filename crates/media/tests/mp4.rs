//! What the mp4 files are, read back by the decoder that comes with the encoder. `tests/e2e/test_mp4.py` reads them with
//! FFmpeg's.

use std::cell::Cell;

use media::{MediaError, Mp4Options, encode_mp4};
use rusty_h264_decoder::Decoder;

/// A smooth gradient that moves.
fn frames(count: usize, width: usize, height: usize) -> Vec<Vec<u8>> {
    let wave = |x: usize, step: f32| ((x as f32 / step).sin() * 100.0 + 128.0) as u8;
    let pixel = |t: usize, i: usize| {
        let (x, y) = (i % width + 3 * t, i / width + t);
        [wave(x, 23.0), wave(y, 17.0), wave(x + y, 31.0)]
    };
    (0..count).map(|t| (0..width * height).flat_map(|i| pixel(t, i)).collect()).collect()
}

/// The boxes at the top of the file, by name.
fn boxes(file: &[u8]) -> Vec<(String, &[u8])> {
    let mut rest = file;
    let mut found = Vec::new();
    while let Some((head, _)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*head) as usize;
        found.push((String::from_utf8(rest[4..8].to_vec()).unwrap(), &rest[8..length]));
        rest = &rest[length..];
    }
    found
}

/// Decodes the frames in `mdat` with the parameter sets of `avcC`; returns size and luma of each.
fn decoded(file: &[u8]) -> Vec<((usize, usize), Vec<u8>)> {
    let boxes = boxes(file);
    let names: Vec<_> = boxes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ftyp", "moov", "mdat"], "the index comes before the data");
    let at = file.windows(4).position(|name| name == b"avcC").unwrap() + 4;
    let length = |at: usize| usize::from(u16::from_be_bytes([file[at], file[at + 1]]));
    let sps = &file[at + 8..][..length(at + 6)];
    let pps = &file[at + 11 + sps.len()..][..length(at + 9 + sps.len())];
    let annex_b = |unit: &[u8]| [&[0, 0, 0, 1], unit].concat();
    let mut stream = [annex_b(sps), annex_b(pps)].concat();
    let mut data = boxes[2].1;
    while let Some((head, rest)) = data.split_first_chunk::<4>() {
        let (unit, rest) = rest.split_at(u32::from_be_bytes(*head) as usize);
        data = rest;
        stream.extend(annex_b(unit));
    }
    let pictures = Decoder::new().decode_stream(&stream).unwrap();
    pictures.into_iter().map(|picture| ((picture.width, picture.height), picture.y)).collect()
}

#[test]
fn every_frame_comes_back_and_better_quality_is_nearer() {
    let (width, height) = (96, 64);
    let frames = frames(9, width, height);
    let error = |quality| {
        let file =
            encode_mp4(&frames, width, height, &Mp4Options { fps: Some(24), quality }, &|| true).unwrap();
        let decoded = decoded(&file);
        assert_eq!(decoded.len(), 9);
        let mut squares = 0.0;
        for ((size, luma), rgb) in decoded.iter().zip(&frames) {
            assert_eq!(*size, (width, height));
            for (&luma, rgb) in luma.iter().zip(rgb.as_chunks::<3>().0) {
                let [r, g, b] = rgb.map(f64::from);
                let expected = 16.0 + (0.2126 * r + 0.7152 * g + 0.0722 * b) * 219.0 / 255.0;
                squares += (f64::from(luma) - expected).powi(2);
            }
        }
        squares / (9 * width * height) as f64
    };
    let (best, usual, worst) = (error(Some(100)), error(None), error(Some(1)));
    assert!(best < usual && usual < worst, "{best} {usual} {worst}");
    // 40 dB of a range of 255.
    assert!(usual < 6.5, "{usual}");
}

#[test]
fn sizes_that_the_format_has_not_are_filled_up() {
    for ((width, height), expected) in
        [((1, 1), (2, 2)), ((8, 24), (8, 24)), ((33, 17), (34, 18)), ((35, 64), (36, 64))]
    {
        let file =
            encode_mp4(&frames(2, width, height), width, height, &Mp4Options::default(), &|| true).unwrap();
        let sizes: Vec<_> = decoded(&file).into_iter().map(|(size, _)| size).collect();
        assert_eq!(sizes, [expected; 2], "{width} x {height}");
    }
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let options = Mp4Options::default();
    assert!(encode_mp4::<Vec<u8>>(&[], 16, 16, &options, &|| true).is_err());
    for (width, height, bytes) in
        [(16, 16, 767), (0, 16, 0), (3841, 2, 3841 * 6), (2162, 2162, 2162 * 2162 * 3)]
    {
        let error = encode_mp4(&[vec![0; bytes]], width, height, &options, &|| true).unwrap_err().to_string();
        assert!(error.contains(&width.to_string()), "{error}");
    }
}

/// A long video takes minutes, which nobody shall spend on an answer that nobody reads.
#[test]
fn a_video_that_is_not_wanted_any_longer_is_not_encoded_to_its_end() {
    let looks = Cell::new(0);
    let is_wanted = || {
        looks.set(looks.get() + 1);
        looks.get() <= 3
    };
    let result = encode_mp4(&frames(9, 96, 64), 96, 64, &Mp4Options::default(), &is_wanted);
    assert!(matches!(result, Err(MediaError::Cancelled)), "{result:?}");
    assert_eq!(looks.get(), 4, "one look before each frame");
}
