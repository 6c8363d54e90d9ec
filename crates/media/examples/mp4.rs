//! Raw RGB frames from standard input to an mp4 file on standard output: `mp4 WIDTH HEIGHT [QUALITY]`.
//! `tools/compare_mp4.py` compares it with x264.

use std::io::{Read, Write};

use media::{Mp4Options, encode_mp4};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let &[width, height, ref quality @ ..] = numbers.as_slice() else {
        return Err("usage: mp4 WIDTH HEIGHT [QUALITY]".into());
    };
    let mut frames = Vec::new();
    std::io::stdin().read_to_end(&mut frames)?;
    let frames: Vec<&[u8]> = frames.chunks(width * height * 3).collect();
    let quality = quality.first().map(|&quality| u8::try_from(quality)).transpose()?;
    let file = encode_mp4(&frames, width, height, &Mp4Options { fps: None, quality }, &|| true)?;
    std::io::stdout().write_all(&file)?;
    Ok(())
}
