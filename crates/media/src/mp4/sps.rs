//! What the encoder's sequence parameter set does not say: the colours, and that frames come in order.

use rusty_h264_common::nal::{emulation_prevent_into, emulation_unprevent};
use rusty_h264_common::{BitWriter, Profile};

/// The parameter set (H.264, 7.3.2.1.1) with video usability information (annex E) at its end. `None` when it has some
/// already, or is none. `frames` is how many frames a decoder keeps.
pub(super) fn with_colours(sps: &[u8], frames: u32) -> Option<Vec<u8>> {
    let (&head, content) = sps.split_first()?;
    let mut content = emulation_unprevent(content).into_owned();
    // The encoder says that the constraints of Main are kept, which High's larger transform does not (A.2.2).
    if content.first() == Some(&Profile::High.profile_idc()) {
        *content.get_mut(1)? = 0;
    }
    let bit = |index: usize| content.get(index / 8).map(|byte| byte >> (7 - index % 8) & 1 == 1);
    // The last bit that is set ends the set; the one before says whether the information follows.
    let end = (0..content.len() * 8).rev().find(|&index| bit(index) == Some(true))?;
    let flag = end.checked_sub(1).filter(|&index| bit(index) == Some(false))?;
    let mut out = BitWriter::new();
    for index in 0..flag {
        out.write_bit(bit(index)?);
    }
    out.write_bit(true);
    usability(&mut out, frames);
    out.rbsp_trailing_bits();
    let mut unit = vec![head];
    emulation_prevent_into(&out.into_bytes(), &mut unit);
    Some(unit)
}

/// H.264, E.1.1.
fn usability(out: &mut BitWriter, frames: u32) {
    // Square pixels.
    out.write_bit(true);
    out.write_bits(1, 8);
    // Nothing about overscan.
    out.write_bit(false);
    // Of no particular video format (5), in limited range, with colours: primaries, transfer and matrix of BT.709 (1).
    out.write_bit(true);
    out.write_bits(5, 3);
    out.write_bit(false);
    out.write_bit(true);
    for _ in 0..3 {
        out.write_bits(1, 8);
    }
    // Nothing about the place of colour samples, times, buffers and fields.
    for _ in 0..5 {
        out.write_bit(false);
    }
    // Limits of the stream: motion may point outside; no promise of sizes (0, 0); the longest vectors (15, 15).
    out.write_bit(true);
    out.write_bit(true);
    for value in [0, 0, 15, 15] {
        out.write_ue(value);
    }
    // No frame is seen later than one that follows it, so a player need not wait for more before it shows one.
    out.write_ue(0);
    out.write_ue(frames);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_says_something_already_is_left_to_the_caller() {
        assert!(with_colours(&[], 1).is_none());
        assert!(with_colours(&[0x67], 1).is_none());
        assert!(with_colours(&[0x67, 0, 0, 0], 1).is_none());
        // ...1, then the bit that ends it.
        assert!(with_colours(&[0x67, 77, 0, 30, 0b1110_0000], 1).is_none());
        assert!(with_colours(&[0x67, 77, 0, 30, 0b1010_0000], 1).is_some());
    }
}
