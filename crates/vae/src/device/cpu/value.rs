//! Values between the steps of a plan.

use kernels::{Clip, Context, Features};

use crate::device::shape_of;
use crate::graph::Shape;
use crate::{DeviceError, HostTensor};

/// A value as kernels keep it.
pub(super) enum Value {
    /// A batch of pictures, each with statistics of its own.
    Pictures(Features),
    /// One clip, whose frames have statistics in common.
    Clip(Clip),
}

/// The same of pictures and of clips.
macro_rules! each {
    ($value:expr, $x:ident => $result:expr) => {
        match $value {
            Value::Pictures($x) => Value::Pictures($result),
            Value::Clip($x) => Value::Clip($result),
        }
    };
}
pub(super) use each;

impl Value {
    /// Takes a tensor `[N, C, F, H, W]` from the host: a clip if `is_video`, else pictures of one frame each.
    pub(super) fn upload(
        context: &Context,
        is_video: bool,
        tensor: &HostTensor,
    ) -> Result<Self, DeviceError> {
        let shape = shape_of(tensor)?;
        match (is_video, shape.0) {
            (false, [batch, channels, 1, height, width]) => {
                let features =
                    Features::from_nchw(&context.arena, [batch, channels, height, width], &tensor.data)?;
                Ok(Self::Pictures(features.stored(context)?))
            }
            (true, [1, channels, frames, height, width]) => {
                let shape = [channels, frames, height, width];
                Ok(Self::Clip(Clip::from_cfhw(context, shape, &tensor.data)?))
            }
            _ => Err(DeviceError::Unsupported(format!(
                "a tensor of {shape}; expected pictures of one frame, or one clip"
            ))),
        }
    }

    /// Copies it to the host as `[N, C, F, H, W]`.
    pub(super) fn download(&self) -> HostTensor {
        let data = match self {
            Self::Pictures(features) => features.to_nchw(),
            Self::Clip(clip) => clip.to_cfhw(),
        };
        HostTensor::new(self.shape().0.to_vec(), data)
    }

    pub(super) fn shape(&self) -> Shape {
        match self {
            Self::Pictures(features) => {
                let [batch, channels, height, width] = features.shape();
                Shape([batch, channels, 1, height, width])
            }
            Self::Clip(clip) => {
                let [channels, frames, height, width] = clip.shape();
                Shape([1, channels, frames, height, width])
            }
        }
    }
}
