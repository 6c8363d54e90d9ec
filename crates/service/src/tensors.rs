//! Between the tensors of the wire and those of the models.

use bytes::Bytes;
use half::bf16;
use vae::{HostTensor, VaeError};
use wire::{DType, Tensor};

/// The values as f32, whatever type they came in.
pub(crate) fn host_tensor(Tensor { head, bytes }: Tensor) -> Result<HostTensor, VaeError> {
    let dtype = match head.dtype {
        DType::Float16 => vae::DType::F16,
        DType::BFloat16 => vae::DType::Bf16,
        DType::Float32 => vae::DType::F32,
        DType::UInt8 => {
            return Ok(HostTensor::new(head.shape, bytes.iter().map(|&byte| f32::from(byte)).collect()));
        }
        DType::Float64 => {
            let values = bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32);
            return Ok(HostTensor::new(head.shape, values.collect()));
        }
    };
    HostTensor::from_le_bytes(head.shape, dtype, &bytes)
}

/// The values as bytes of the wire.
pub(crate) fn floats(values: &[f32], dtype: DType) -> Bytes {
    let bytes: Vec<u8> = match dtype {
        DType::Float16 => media::f16_bytes(values),
        DType::BFloat16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        DType::Float32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::Float64 => values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect(),
        // `wire` lets bytes through with `Values::Round8` only.
        DType::UInt8 => values.iter().map(|&value| media::round8(value)).collect(),
    };
    bytes.into()
}

/// How a request wants latents scaled, in the words of the models.
pub(crate) fn scaling(scaling: wire::Scaling) -> vae::latents::Scaling {
    match scaling {
        wire::Scaling::None => vae::latents::Scaling::Unchanged,
        wire::Scaling::Model => vae::latents::Scaling::Model,
        wire::Scaling::Factors { scaling_factor, shift_factor } => {
            vae::latents::Scaling::Factors { scaling_factor, shift_factor }
        }
    }
}
