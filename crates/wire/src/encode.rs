//! A request to encode.

use bytes::Bytes;
use form_urlencoded::Serializer;

use crate::{Accept, DType, Metadata, OCTET_STREAM, Scaling, TENSOR_BINARY, Tensor, Transfer, WireError};

/// What is to be encoded.
#[derive(Clone, PartialEq, Eq)]
pub enum Picture {
    /// A picture file. Which format it has, its first bytes say.
    File(Bytes),
    /// `[B, 3, H, W]` or `[3, H, W]`, for video `[B, 3, F, H, W]`, with alpha 4 for 3: with a negative value in [-1, 1], else in [0, 1]
    /// (uint8: 0 to 255).
    Tensor(Tensor),
}

impl std::fmt::Debug for Picture {
    /// Without the content: a person's picture has no place in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(bytes) => write!(f, "File({} bytes)", bytes.len()),
            Self::Tensor(tensor) => tensor.fmt(f),
        }
    }
}

/// Which latents of their distribution are wanted; diffusers' `sample_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleMode {
    /// A sample. The same seed gives the same one; without a seed, each request gets another.
    Sample {
        /// What the noise is made of.
        seed: Option<u64>,
    },
    /// The most likely ones, its mean.
    Argmax,
    /// The distribution itself, `[B, 2C, h, w]`: its mean, and the logarithm of its variance as the encoder gives it. They
    /// are not scaled. The values of a tensor are then those that the encoder takes, in [-1, 1].
    Moments,
}

impl Default for SampleMode {
    fn default() -> Self {
        Self::Sample { seed: None }
    }
}

impl SampleMode {
    fn read(metadata: &Metadata) -> Result<Self, WireError> {
        match metadata.text("sample_mode")? {
            None | Some("sample") => Ok(Self::Sample { seed: metadata.number("seed", 0..=u64::MAX)? }),
            Some("argmax") => Ok(Self::Argmax),
            Some("moments") => Ok(Self::Moments),
            Some(other) => Err(WireError::Parameter(format!(
                "`sample_mode` is {other:?}, but must be sample, argmax or moments"
            ))),
        }
    }
}

/// What an encode request says besides its picture.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodeParams {
    /// The model, if one is named in the query; else the path says it.
    pub model: Option<String>,
    /// What happens to the latents at the end: `(latents - shift_factor) * scaling_factor`.
    pub scaling: Scaling,
    /// Which latents of their distribution are wanted.
    pub sample_mode: SampleMode,
    /// The type of the latents.
    pub dtype: DType,
    /// How the latents travel.
    pub transfer: Transfer,
    /// Encode in tiles, as diffusers does after `enable_tiling()`.
    pub tiling: bool,
    /// Encode a video a few frames at a time, as diffusers does by default.
    pub framewise: bool,
}

impl Default for EncodeParams {
    fn default() -> Self {
        Self {
            model: None,
            scaling: Scaling::None,
            sample_mode: SampleMode::default(),
            dtype: DType::Float16,
            transfer: Transfer::Binary,
            tiling: false,
            framewise: true,
        }
    }
}

impl EncodeParams {
    /// Reads the parameters of an encode request.
    ///
    /// # Errors
    /// A value that has an effect and cannot be read.
    pub(crate) fn read(metadata: &Metadata, accept: &Accept, otherwise: Scaling) -> Result<Self, WireError> {
        let sample_mode = SampleMode::read(metadata)?;
        let is_moments = sample_mode == SampleMode::Moments;
        let scaling = Scaling::read(metadata, if is_moments { Scaling::None } else { otherwise })?;
        if is_moments && scaling != Scaling::None {
            return Err(WireError::Parameter(
                "`sample_mode` is moments, which are not scaled: leave out `scaling_factor` and `do_scaling`"
                    .to_owned(),
            ));
        }
        let dtype = metadata.text("out_dtype")?.map(str::parse).transpose()?.unwrap_or_default();
        if dtype == DType::UInt8 {
            return Err(WireError::Parameter(
                "`out_dtype` is uint8, but latents are float16, bfloat16 or float32".to_owned(),
            ));
        }
        Ok(Self {
            model: metadata.text("model")?.map(str::to_owned),
            scaling,
            sample_mode,
            dtype,
            transfer: Transfer::read(accept),
            tiling: metadata.flag("tiling")?.unwrap_or(false),
            framewise: metadata.flag("framewise")?.unwrap_or(true),
        })
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = vec![("task", "encode".to_owned())];
        parameters.extend(self.scaling.parameters());
        match self.sample_mode {
            SampleMode::Argmax => parameters.push(("sample_mode", "argmax".to_owned())),
            SampleMode::Moments => parameters.push(("sample_mode", "moments".to_owned())),
            SampleMode::Sample { seed } => parameters.extend(seed.map(|seed| ("seed", seed.to_string()))),
        }
        if self.dtype != DType::default() {
            parameters.push(("out_dtype", self.dtype.to_string()));
        }
        parameters.extend(self.tiling.then(|| ("tiling", "True".to_owned())));
        parameters.extend((!self.framewise).then(|| ("framewise", "False".to_owned())));
        parameters.extend(self.model.clone().map(|model| ("model", model)));
        parameters
    }
}

/// A request to encode.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodeRequest {
    /// What to encode.
    pub picture: Picture,
    /// How, and what to answer with.
    pub params: EncodeParams,
}

impl EncodeRequest {
    /// The query (without `?`) that asks for this.
    pub fn query(&self) -> String {
        let mut query = Serializer::new(String::new());
        query.extend_pairs(self.params.parameters());
        if let Picture::Tensor(tensor) = &self.picture {
            for axis in &tensor.head.shape {
                query.append_pair("shape", &axis.to_string());
            }
            query.append_pair("dtype", tensor.head.dtype.name());
        }
        query.finish()
    }

    /// The body.
    pub fn body(&self) -> Bytes {
        match &self.picture {
            Picture::File(bytes) => bytes.clone(),
            Picture::Tensor(tensor) => tensor.bytes.clone(),
        }
    }

    /// The `Content-Type` header.
    pub fn content_type(&self) -> &'static str {
        match &self.picture {
            Picture::File(_) => OCTET_STREAM,
            Picture::Tensor(_) => TENSOR_BINARY,
        }
    }

    /// The `Accept` header.
    pub fn accept(&self) -> &'static str {
        self.params.transfer.media_type()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Request, RequestHead};

    fn params(query: &str) -> Result<EncodeParams, WireError> {
        EncodeParams::read(&Metadata::from_query(query), &Accept::read(None), Scaling::None)
    }

    #[test]
    fn parameters_are_read() {
        let sample = |seed| SampleMode::Sample { seed };
        for (query, expected) in [
            ("", sample(None)),
            ("seed=7", sample(Some(7))),
            ("seed=18446744073709551615&sample_mode=sample", sample(Some(u64::MAX))),
            ("sample_mode=argmax&seed=7", SampleMode::Argmax),
            ("sample_mode=moments&do_scaling=False", SampleMode::Moments),
            // Whatever belongs to the other task has no effect.
            ("output_type=pt&image_format=tiff&height=-1&fps=0", sample(None)),
        ] {
            let params = params(query).unwrap();
            assert_eq!(params, EncodeParams { sample_mode: expected, ..EncodeParams::default() }, "{query}");
        }
        for query in [
            "seed=-1",
            "seed=1.5",
            "seed=1&seed=2",
            "sample_mode=mode",
            "sample_mode=moments&scaling_factor=0.5",
            "sample_mode=moments&do_scaling=True",
            "out_dtype=uint8",
            "scaling_factor=0",
        ] {
            assert!(matches!(params(query), Err(WireError::Parameter(_))), "{query}");
        }
    }

    #[test]
    fn what_is_printed_reads_the_same() {
        let tensor = Tensor::new(DType::UInt8, vec![3, 2, 2], vec![7; 12].into()).unwrap();
        let scaling = Scaling::Factors { scaling_factor: 0.3611, shift_factor: Some(0.1159) };
        for picture in [Picture::File(b"a file".as_slice().into()), Picture::Tensor(tensor)] {
            for (scaling, sample_mode) in [
                (Scaling::None, SampleMode::default()),
                (Scaling::Model, SampleMode::Argmax),
                (Scaling::None, SampleMode::Moments),
                (scaling, SampleMode::Sample { seed: Some(u64::MAX) }),
            ] {
                for (transfer, dtype) in [
                    (Transfer::Binary, DType::Float16),
                    (Transfer::Base64, DType::BFloat16),
                    (Transfer::Json, DType::Float32),
                ] {
                    let model = (dtype == DType::Float32).then(|| "a & b".to_owned());
                    let (tiling, framewise) = (dtype == DType::Float16, dtype != DType::Float32);
                    let params =
                        EncodeParams { model, scaling, sample_mode, dtype, transfer, tiling, framewise };
                    let request = EncodeRequest { picture: picture.clone(), params };
                    let head = RequestHead::read(
                        &request.query(),
                        Some(request.content_type()),
                        Some(request.accept()),
                    );
                    assert_eq!(head.unwrap().request(request.body()), Ok(Request::Encode(request)));
                }
            }
        }
    }
}
