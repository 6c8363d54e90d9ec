//! How much one request may ask for. Every limit is checked before the memory it guards is taken.

use crate::{Task, TensorHead, WireError};

/// How much one request may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's tensor. Base64 bodies may be as much longer as base64 makes them.
    pub max_body_bytes: usize,
    /// Pictures in one request.
    pub max_batch: usize,
    /// Pixels of one picture or frame, decoded or to be encoded.
    pub max_pixels: usize,
    /// Pixels of everything that one request decodes or encodes, batch and frames together.
    pub max_total_pixels: usize,
}

impl Default for Limits {
    /// For models of pictures.
    fn default() -> Self {
        Self {
            max_body_bytes: 64 << 20,
            max_batch: 16,
            max_pixels: 2048 * 2048,
            max_total_pixels: 16 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// The defaults for models of videos. A usual video is 129 frames of 1280 × 720 pixels: 119 million, or 357 MB as bytes
    /// that are to be encoded.
    pub fn for_videos() -> Self {
        Self { max_body_bytes: 384 << 20, max_total_pixels: 128 * 1024 * 1024, ..Self::default() }
    }

    /// Room around the base64 text of a JSON body: keys, parameters, white space.
    const JSON_SLACK: usize = 64 << 10;

    /// Checks the size of a request's tensor.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] with both numbers.
    pub fn check_tensor(&self, tensor: &TensorHead) -> Result<(), WireError> {
        if tensor.byte_len() <= self.max_body_bytes {
            return Ok(());
        }
        Err(WireError::TooLarge(format!(
            "a tensor of {tensor} has {} bytes, and this server takes {} at most (--max-body)",
            tensor.byte_len(),
            self.max_body_bytes
        )))
    }

    /// The longest body that can carry a tensor of the largest size as base64.
    pub fn max_base64_body_bytes(&self) -> usize {
        self.max_body_bytes.div_ceil(3).saturating_mul(4).saturating_add(Self::JSON_SLACK)
    }

    /// Checks what a request decodes to, or encodes: `batch` pictures or videos of `frames` frames, sizes in pixels.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] with both numbers.
    pub fn check_pictures(
        &self,
        task: Task,
        batch: usize,
        frames: usize,
        height: usize,
        width: usize,
    ) -> Result<(), WireError> {
        let too_large = |what: String, limit: usize, flag: &str| {
            Err(WireError::TooLarge(format!("{what}, and this server allows {limit} at most ({flag})")))
        };
        if batch > self.max_batch {
            return too_large(format!("the batch has {batch} items"), self.max_batch, "--max-batch");
        }
        let pixels = height.saturating_mul(width);
        if pixels > self.max_pixels {
            return too_large(
                match task {
                    Task::Decode => {
                        format!("a decoded picture would have {width} x {height} = {pixels} pixels")
                    }
                    Task::Encode => format!("the picture has {width} x {height} = {pixels} pixels"),
                },
                self.max_pixels,
                "--max-pixels",
            );
        }
        let total = pixels.saturating_mul(frames).saturating_mul(batch);
        if total > self.max_total_pixels {
            return too_large(
                format!(
                    "the request {} {total} pixels ({batch} x {frames} pictures of {width} x {height})",
                    match task {
                        Task::Decode => "decodes to",
                        Task::Encode => "encodes",
                    }
                ),
                self.max_total_pixels,
                "--max-total-pixels",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn each_limit_stops_what_is_one_too_large() {
        let limits = Limits { max_body_bytes: 32, max_batch: 2, max_pixels: 64, max_total_pixels: 192 };
        let tensor = |axis| TensorHead::new(DType::Float16, vec![axis]).unwrap();
        assert_eq!(limits.check_tensor(&tensor(16)), Ok(()));
        assert!(matches!(limits.check_tensor(&tensor(17)), Err(WireError::TooLarge(_))));

        for task in [Task::Decode, Task::Encode] {
            assert_eq!(limits.check_pictures(task, 2, 1, 8, 8), Ok(()));
            assert_eq!(limits.check_pictures(task, 1, 3, 8, 8), Ok(()));
            for (batch, frames, height, width) in
                [(3, 1, 1, 1), (1, 1, 8, 9), (1, 1, usize::MAX, 2), (2, 2, 8, 8), (1, usize::MAX, 2, 2)]
            {
                let error = limits.check_pictures(task, batch, frames, height, width);
                assert!(matches!(error, Err(WireError::TooLarge(_))), "{batch} {frames} {height} {width}");
            }
        }
    }

    #[test]
    fn usual_videos_are_within_the_defaults() {
        let limits = Limits::for_videos();
        for (width, height, frames) in
            [(848, 480, 73), (960, 544, 49), (1280, 720, 129), (832, 480, 81), (768, 512, 121)]
        {
            for task in [Task::Decode, Task::Encode] {
                assert_eq!(limits.check_pictures(task, 1, frames, height, width), Ok(()), "{width} {height}");
            }
            let head = |dtype, shape| TensorHead::new(dtype, shape).unwrap();
            let pixels = head(DType::UInt8, vec![1, 3, frames, height, width]);
            let latents = head(DType::Float32, vec![1, 16, (frames - 1) / 4 + 1, height / 8, width / 8]);
            assert_eq!(limits.check_tensor(&pixels), Ok(()), "{width} {height}");
            assert_eq!(limits.check_tensor(&latents), Ok(()), "{width} {height}");
            // They are no pictures.
            let pictures = Limits::default().check_pictures(Task::Decode, 1, frames, height, width);
            let message = pictures.unwrap_err().to_string();
            assert!(message.ends_with("allows 16777216 at most (--max-total-pixels)"), "{message}");
        }
    }

    #[test]
    fn the_largest_tensor_fits_as_base64() {
        let limits = Limits { max_body_bytes: 1000, ..Limits::default() };
        assert!(limits.max_base64_body_bytes() >= 1336 + "{\"inputs\":\"\"}".len());
    }
}
