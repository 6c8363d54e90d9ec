//! PNG files are lossless.

use media::encode_png;

fn decode(file: &[u8]) -> (png::ColorType, Vec<u8>, (u32, u32)) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!(info.bit_depth, png::BitDepth::Eight);
    (info.color_type, pixels, (info.width, info.height))
}

#[test]
fn what_goes_in_comes_out() {
    let sizes = [(1, 1), (3, 5), (136, 248), (1000, 2)];
    let kinds = [(3, png::ColorType::Rgb), (4, png::ColorType::Rgba)];
    for ((width, height), (channels, color_type)) in
        sizes.into_iter().flat_map(|size| kinds.map(|kind| (size, kind)))
    {
        let mut state = 1u32;
        let pixels: Vec<u8> = (0..width * height * channels)
            .map(|i| {
                // Half slopes, half noise (a linear congruential generator).
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if i % 2 == 0 { (i / 7) as u8 } else { (state >> 24) as u8 }
            })
            .collect();
        let file = encode_png(&pixels, width, height).unwrap();
        assert_eq!(decode(&file), (color_type, pixels, (width as u32, height as u32)));
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    for (length, width, height) in [(0, 0, 0), (0, 1, 0), (2, 1, 1), (5, 1, 1)] {
        assert!(encode_png(&vec![0; length], width, height).is_err(), "{length} {width} {height}");
    }
}
