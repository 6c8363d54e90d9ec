//! The container: one video track, its index before its data (ISO/IEC 14496-12 and -15).

/// One encoded frame.
pub(super) struct Sample {
    /// Units, each behind its length in four bytes.
    pub(super) data: Vec<u8>,
    /// Whether a player may begin here.
    pub(super) is_key: bool,
}

/// Ticks of time in a frame; a second has that many times the frame rate.
const TICKS: u32 = 512;

/// No rotation and no scaling, as 16.16 and 2.30 fixed-point numbers.
const MATRIX: [u32; 9] = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000];

/// The file. `parameters` are the sequence's and the pictures' parameter sets.
pub(super) fn write(samples: &[Sample], parameters: [&[u8]; 2], size: [usize; 2], fps: u32) -> Vec<u8> {
    // "isom" with the features that follow; "avc1" for the codec.
    let ftyp = boxed(b"ftyp", &[b"isom", &be(512), b"isomiso2avc1mp41"]);
    // The index says where the data is, behind the index, whose length does not depend on that.
    let length = ftyp.len() + moov(samples, parameters, size, fps, 0).len();
    let data: Vec<&[u8]> = samples.iter().map(|sample| sample.data.as_slice()).collect();
    let mdat = boxed(b"mdat", &data);
    let moov = moov(samples, parameters, size, fps, (length + 8) as u32);
    [ftyp, moov, mdat].concat()
}

/// The index, for data that begins at `offset` in the file.
fn moov(samples: &[Sample], parameters: [&[u8]; 2], size: [usize; 2], fps: u32, offset: u32) -> Vec<u8> {
    let timescale = fps * TICKS;
    let duration = samples.len() as u32 * TICKS;
    let matrix = MATRIX.map(u32::to_be_bytes).concat();
    let mvhd = full(
        b"mvhd",
        0,
        // Times of creation, scale, length, normal speed and volume, reserved, matrix, reserved, next track.
        &[&[0; 8], &be(timescale), &be(duration), &be(0x10000), &[1, 0], &[0; 10], &matrix, &[0; 24], &be(2)],
    );
    let sides = size.map(|side| (side as u32) << 16).map(u32::to_be_bytes).concat();
    let tkhd = full(
        b"tkhd",
        // Enabled, in the movie.
        3,
        &[&[0; 8], &be(1), &[0; 4], &be(duration), &[0; 16], &matrix, &sides],
    );
    // The language is "und", three letters of five bits.
    let mdhd = full(b"mdhd", 0, &[&[0; 8], &be(timescale), &be(duration), &[0x55, 0xC4, 0, 0]]);
    let hdlr = full(b"hdlr", 0, &[&[0; 4], b"vide", &[0; 12], b"video\0"]);
    let vmhd = full(b"vmhd", 1, &[&[0; 8]]);
    // The data is in this very file.
    let dref = full(b"dref", 0, &[&be(1), &full(b"url ", 1, &[])]);
    let minf = boxed(b"minf", &[&vmhd, &boxed(b"dinf", &[&dref]), &stbl(samples, parameters, size, offset)]);
    let mdia = boxed(b"mdia", &[&mdhd, &hdlr, &minf]);
    boxed(b"moov", &[&mvhd, &boxed(b"trak", &[&tkhd, &mdia])])
}

/// The table of samples: what, when, how long, where.
fn stbl(samples: &[Sample], [sps, pps]: [&[u8]; 2], size: [usize; 2], offset: u32) -> Vec<u8> {
    let set = |set: &[u8]| [&(set.len() as u16).to_be_bytes(), set].concat();
    // Version, profile, compatibility and level from the parameter set; lengths of four bytes; one set of each.
    let head = [1, sps[1], sps[2], sps[3], 0xFF, 0xE1];
    // High profile adds 4:2:0 with eight bits.
    let more: &[u8] = if sps[1] == 100 { &[0xFD, 0xF8, 0xF8, 0] } else { &[] };
    let avc_c = boxed(b"avcC", &[&head, &set(sps), &[1], &set(pps), more]);
    // BT.709 primaries, transfer and matrix, limited range.
    let colr = boxed(b"colr", &[b"nclx", &[0, 1, 0, 1, 0, 1, 0]]);
    let sides = size.map(|side| (side as u16).to_be_bytes()).concat();
    let avc1 = boxed(
        b"avc1",
        // Reserved, which data, reserved, sides, 72 dots an inch, reserved, one frame, no name, 24 bits, no palette.
        &[
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0; 16],
            &sides,
            &be(72 << 16),
            &be(72 << 16),
            &[0; 4],
            &[0, 1],
            &[0; 32],
            &[0, 24, 0xFF, 0xFF],
            &avc_c,
            &colr,
        ],
    );
    let count = samples.len() as u32;
    let keys: Vec<u8> =
        (1u32..).zip(samples).filter(|(_, s)| s.is_key).flat_map(|(number, _)| be(number)).collect();
    let sizes: Vec<u8> = samples.iter().flat_map(|sample| be(sample.data.len() as u32)).collect();
    boxed(
        b"stbl",
        &[
            &full(b"stsd", 0, &[&be(1), &avc1]),
            &full(b"stts", 0, &[&be(1), &be(count), &be(TICKS)]),
            &full(b"stss", 0, &[&be(keys.len() as u32 / 4), &keys]),
            // All samples in one chunk.
            &full(b"stsc", 0, &[&be(1), &be(1), &be(count), &be(1)]),
            &full(b"stsz", 0, &[&be(0), &be(count), &sizes]),
            &full(b"stco", 0, &[&be(1), &be(offset)]),
        ],
    )
}

fn be(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

/// A box: length, name, content.
fn boxed(name: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let length = 8 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(length);
    out.extend_from_slice(&be(length as u32));
    out.extend_from_slice(name);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// A box of version 0 with flags.
fn full(name: &[u8; 4], flags: u32, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    boxed(name, &[&be(flags), &content])
}
