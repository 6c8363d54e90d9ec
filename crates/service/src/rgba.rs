//! Tensors of four channels that nothing calls latents or a picture, as diffusers' `remote_encode` sends RGBA.

use media::Channels;
use vae::VaeInfo;
use wire::{DecodeRequest, Request, RequestHead, Survey};

use crate::failure::{Failure, FailureKind};

/// Latents with shorter sides are decoded in no time, whatever they are.
const SIDE: usize = 64;

/// What a tensor is that [`may be RGBA`](RequestHead::may_be_rgba) and is read as latents: its shape and its values tell.
///
/// # Errors
/// A failure that names both readings, for the values of a picture in a shape that latents of this model have too.
pub(crate) fn settle(request: DecodeRequest, head: &RequestHead, info: &VaeInfo) -> Result<Request, Failure> {
    let shape = &request.latents.head.shape;
    if !head.may_be_rgba || !info.can_encode || Channels::new(info.out_channels).is_none() {
        return Ok(Request::Decode(request));
    }
    let &[.., height, width] = shape.as_slice() else { return Ok(Request::Decode(request)) };
    let are_latents = vae::latents::arranged_shape(shape, info, None, None).is_ok();
    if are_latents && height.min(width) < SIDE || !Survey::of(&request.latents).may_be_picture() {
        return Ok(Request::Decode(request));
    }
    if !are_latents {
        return Ok(head.as_picture(request.latents)?);
    }
    let factor = info.spatial_factor;
    Err(Failure::unprocessable(format!(
        "a tensor of shape {shape:?} without `Content-Type` can be read in two ways: latents of {} x {} pixels, but no \
         value lies where only latents have some; or an RGBA picture of {width} x {height} pixels; say which by task=decode \
         or task=encode, or send three channels",
        width.saturating_mul(factor),
        height.saturating_mul(factor),
    )))
}

/// Why latents are too large, with what they would be as a picture: that may be what they are.
pub(crate) fn with_other_reading(mut error: Failure, head: &RequestHead) -> Failure {
    let shape = head.tensor.as_ref().map(|tensor| tensor.shape.as_slice()).unwrap_or_default();
    if let (true, FailureKind::TooLarge, [.., height, width]) = (head.may_be_rgba, error.kind, shape) {
        error.message += &format!("; with task=encode it is an RGBA picture of {width} x {height} pixels");
    }
    error
}
