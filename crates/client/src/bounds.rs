//! How large an answer can be that fits what was requested, so that no server can fill this machine's memory.

use imagesize::blob_size;
use wire::{Answer, Picture, TensorHead, Values};

/// Bytes that any answer may have: heads of files, and latents of a few values.
const FREE: usize = 1 << 20;

/// Decoded values of one latent value at most. Of the autoencoders in diffusers LTX-Video's and Allegro's have 192:
/// 3 channels in blocks of 8 x 32 x 32 by 128 of latents, and of 4 x 8 x 8 by 4.
const VALUES: usize = 256;

/// Bytes of the latents of a picture whose size cannot be read.
const UNKNOWN: usize = 64 << 20;

/// Bytes of what these latents can decode to.
pub(crate) fn of_decode(latents: &TensorHead, answer: Answer) -> usize {
    let bytes = match answer {
        // Servers may answer with another type than they were asked for: float32 is the largest.
        Answer::Tensor { values: Values::Raw | Values::Unit, .. } => 4,
        // A PNG of 16 bits that does not compress at all.
        Answer::Image(_) | Answer::Images(..) => 2,
        Answer::Tensor { values: Values::Round8, .. } | Answer::Video(_) => 1,
    };
    let values = latents.byte_len() / latents.dtype.size();
    values.saturating_mul(VALUES * bytes).saturating_add(FREE)
}

/// Bytes of the latents of this picture: no autoencoder makes more values of a picture than it has, and float32 is the
/// largest type.
pub(crate) fn of_encode(picture: &Picture) -> usize {
    let values = match picture {
        Picture::Tensor(tensor) => tensor.head.byte_len() / tensor.head.dtype.size(),
        Picture::File(file) => match blob_size(file) {
            Ok(size) => size.width.saturating_mul(size.height).saturating_mul(3),
            Err(_) => return UNKNOWN,
        },
    };
    values.saturating_mul(4).saturating_add(FREE)
}
