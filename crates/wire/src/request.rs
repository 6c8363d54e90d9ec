//! A request, in the two steps in which a server learns of it: the head, then the body.

use bytes::Bytes;
use form_urlencoded::Serializer;

use crate::base64::JsonBody;
use crate::{
    Accept, JSON, Limits, Metadata, Params, Scaling, TENSOR_BASE64, TENSOR_BINARY, Tensor, TensorHead,
    WireError,
};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Latents to pictures.
    Decode,
    /// Pictures to latents.
    Encode,
}

/// What the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// A raw tensor.
    Binary,
    /// A tensor as base64 in JSON; its shape is in the query.
    Base64,
    /// JSON with everything in it, as the first generation of clients sends.
    Json,
    /// A picture file.
    Image,
}

/// Everything that a request says before its body.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// What is asked for.
    pub task: Task,
    /// What the body is.
    pub body: BodyFormat,
    /// What tensor the body holds, unless only the body says so or it holds none.
    pub tensor: Option<TensorHead>,
    metadata: Metadata,
    accept: Accept,
}

/// A request to decode.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeRequest {
    /// What to decode.
    pub latents: Tensor,
    /// How, and what to answer with.
    pub params: Params,
}

impl RequestHead {
    /// Reads the query (without `?`) and the headers `Content-Type` and `Accept`.
    ///
    /// # Errors
    /// A content type that has no meaning here, or a tensor without shape or type.
    pub fn read(query: &str, content_type: Option<&str>, accept: Option<&str>) -> Result<Self, WireError> {
        let metadata = Metadata::from_query(query);
        let accept = Accept::read(accept);
        let media_type =
            content_type.map(|text| text.split(';').next().unwrap_or(text).trim().to_ascii_lowercase());
        let (body, tensor) = match media_type.as_deref() {
            Some(TENSOR_BINARY) => (BodyFormat::Binary, Some(required(metadata.tensor()?)?)),
            Some(TENSOR_BASE64) => (BodyFormat::Base64, Some(required(metadata.tensor()?)?)),
            Some(JSON) => (BodyFormat::Json, None),
            None => nameless(&metadata)?,
            Some(name) if is_nameless(name) => nameless(&metadata)?,
            Some(image) if image.starts_with("image/") => (BodyFormat::Image, None),
            Some(other) => {
                return Err(WireError::ContentType(format!(
                    "`Content-Type` is {other:?}, but must be tensor/binary (a raw tensor), tensor/base64, \
                     application/json, application/octet-stream or image/*"
                )));
            }
        };
        let task = match metadata.text("task")? {
            Some("decode") => Task::Decode,
            Some("encode") => Task::Encode,
            Some(other) => {
                return Err(WireError::Parameter(format!(
                    "`task` is {other:?}, but must be decode or encode"
                )));
            }
            None => match &tensor {
                None if body == BodyFormat::Image => Task::Encode,
                // A tensor without a name may be a picture, and only its shape tells.
                Some(tensor)
                    if media_type.as_deref().is_none_or(is_nameless) && is_picture(&tensor.shape) =>
                {
                    Task::Encode
                }
                _ => Task::Decode,
            },
        };
        Ok(Self { task, body, tensor, metadata, accept })
    }

    /// The model that the query names, if it does.
    ///
    /// # Errors
    /// When it names several.
    pub fn model(&self) -> Result<Option<&str>, WireError> {
        self.metadata.text("model")
    }

    /// The parameters, unless only the body has them.
    ///
    /// # Errors
    /// A value that has an effect and cannot be read.
    pub fn params(&self) -> Result<Option<Params>, WireError> {
        let Some(tensor) = &self.tensor else { return Ok(None) };
        Params::read(&self.metadata, &self.accept, tensor.shape.len(), Scaling::None).map(Some)
    }

    /// The most bytes that the body may have.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] when even the announced tensor is above the limits.
    pub fn max_body_bytes(&self, limits: &Limits) -> Result<usize, WireError> {
        if let Some(tensor) = &self.tensor {
            limits.check_tensor(tensor)?;
        }
        match (self.body, &self.tensor) {
            (BodyFormat::Binary, Some(tensor)) => Ok(tensor.byte_len()),
            (BodyFormat::Binary | BodyFormat::Image, _) => Ok(limits.max_body_bytes),
            (BodyFormat::Base64 | BodyFormat::Json, _) => Ok(limits.max_base64_body_bytes()),
        }
    }

    /// Checks how long the body says it is, before it is there.
    ///
    /// # Errors
    /// [`WireError::TooLarge`], or [`WireError::Body`] when a raw tensor has another length than its shape asks for.
    pub fn check_body_length(&self, length: usize, limits: &Limits) -> Result<(), WireError> {
        if let (BodyFormat::Binary, Some(tensor)) = (self.body, &self.tensor) {
            return tensor.check_length(length);
        }
        let limit = self.max_body_bytes(limits)?;
        if length <= limit {
            return Ok(());
        }
        Err(WireError::TooLarge(format!(
            "the body has {length} bytes, and this server takes {limit} at most"
        )))
    }

    /// The whole request, once its body is there.
    ///
    /// # Errors
    /// A body that is not what the head says, or parameters that cannot be read.
    pub fn decode_request(&self, body: Bytes) -> Result<DecodeRequest, WireError> {
        let (latents, metadata, otherwise) = match (self.body, &self.tensor) {
            (BodyFormat::Json, _) => {
                let json = JsonBody::read(&body)?;
                let metadata = Metadata::from_json(&json.parameters);
                let head = required(metadata.tensor()?)?;
                // Clients of the first generation send latents as they leave the pipeline.
                (json.tensor(head)?, metadata, Scaling::Model)
            }
            (BodyFormat::Base64, Some(head)) => {
                (JsonBody::read(&body)?.tensor(head.clone())?, self.metadata.clone(), Scaling::None)
            }
            (_, head) => {
                let head = required(head.clone())?;
                (Tensor::from_head(head, body)?, self.metadata.clone(), Scaling::None)
            }
        };
        let mut params = Params::read(&metadata, &self.accept, latents.head.shape.len(), otherwise)?;
        if params.model.is_none() {
            params.model = self.model()?.map(str::to_owned);
        }
        Ok(DecodeRequest { latents, params })
    }
}

impl DecodeRequest {
    /// The query (without `?`) that asks for this.
    pub fn query(&self) -> String {
        let mut query = Serializer::new(String::new());
        query.extend_pairs(self.params.parameters());
        for axis in &self.latents.head.shape {
            query.append_pair("shape", &axis.to_string());
        }
        query.append_pair("dtype", self.latents.head.dtype.name());
        query.finish()
    }

    /// The `Content-Type` header; the body is `latents.bytes`.
    pub fn content_type(&self) -> &'static str {
        TENSOR_BINARY
    }

    /// The `Accept` header.
    pub fn accept(&self) -> &'static str {
        self.params.answer.accept()
    }
}

/// The tensor that a decode cannot do without.
fn required(tensor: Option<TensorHead>) -> Result<TensorHead, WireError> {
    tensor.ok_or_else(|| {
        WireError::Parameter("`shape` and `dtype` are missing: they say what tensor the body is".to_owned())
    })
}

/// Whether a content type says nothing of the body, as if there were none.
fn is_nameless(media_type: &str) -> bool {
    matches!(media_type, "" | "application/octet-stream")
}

/// A body without a content type: a tensor when the query has its shape and type, else a picture file.
fn nameless(metadata: &Metadata) -> Result<(BodyFormat, Option<TensorHead>), WireError> {
    let tensor = metadata.tensor()?;
    let body = if tensor.is_some() { BodyFormat::Binary } else { BodyFormat::Image };
    Ok((body, tensor))
}

/// Whether a tensor that says nothing else of itself is a picture or video: `[B, 3, H, W]`, `[3, H, W]`,
/// `[B, 3, F, H, W]`.
fn is_picture(shape: &[usize]) -> bool {
    matches!(shape, [_, 3, _, _] | [3, _, _] | [_, 3, _, _, _])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answer, DType, ImageFormat, Packaging, Transfer, Values, VideoFormat};

    fn head(query: &str, content_type: Option<&str>) -> Result<RequestHead, WireError> {
        RequestHead::read(query, content_type, None)
    }

    #[test]
    fn decode_or_encode() {
        use BodyFormat::{Base64, Binary, Image, Json};
        use Task::{Decode, Encode};
        let latents = "dtype=float16&shape=[1,4,8,8]";
        let picture = "dtype=float16&shape=[1,3,8,8]";
        let octets = Some("application/octet-stream");
        for (query, content_type, expected) in [
            (latents, Some("tensor/binary"), (Decode, Binary)),
            (picture, Some("Tensor/Binary; charset=binary"), (Decode, Binary)),
            (latents, Some("tensor/base64"), (Decode, Base64)),
            ("", Some("application/json; charset=utf-8"), (Decode, Json)),
            ("", None, (Encode, Image)),
            ("", octets, (Encode, Image)),
            ("", Some("image/png"), (Encode, Image)),
            (latents, Some("image/png"), (Encode, Image)),
            (latents, None, (Decode, Binary)),
            (latents, octets, (Decode, Binary)),
            (picture, None, (Encode, Binary)),
            (picture, octets, (Encode, Binary)),
            ("dtype=uint8&shape=[3,8,8]", None, (Encode, Binary)),
            ("dtype=uint8&shape=[2,3,5,8,8]", octets, (Encode, Binary)),
            ("dtype=float16&shape=[1,3,8,8]&task=decode", None, (Decode, Binary)),
            ("dtype=float16&shape=[1,4,8,8]&task=encode", Some("tensor/binary"), (Encode, Binary)),
        ] {
            let head = head(query, content_type).unwrap();
            assert_eq!((head.task, head.body), expected, "{query} {content_type:?}");
        }
    }

    #[test]
    fn heads_that_cannot_be_read() {
        for (query, content_type, status) in [
            ("", Some("tensor/binary"), 400),
            ("shape=1", Some("tensor/binary"), 400),
            ("shape=1", None, 400),
            ("dtype=float16", Some("tensor/base64"), 400),
            ("shape=1&dtype=float16", Some("text/plain"), 415),
            ("shape=1&dtype=float16", Some("application/x-www-form-urlencoded"), 415),
            ("shape=1&dtype=float16&task=paint", Some("tensor/binary"), 400),
        ] {
            let error = head(query, content_type).unwrap_err();
            assert_eq!(error.status(), status, "{query} {content_type:?}: {error}");
        }
    }

    #[test]
    fn what_is_printed_reads_the_same() {
        let answers = [
            Answer::default(),
            Answer::Image(ImageFormat::Png),
            Answer::Images(ImageFormat::Jpeg { quality: Some(30) }, Packaging::Zip),
            Answer::Tensor { values: Values::Raw, dtype: DType::BFloat16, transfer: Transfer::Binary },
            Answer::Tensor { values: Values::Round8, dtype: DType::UInt8, transfer: Transfer::Base64 },
            Answer::Tensor { values: Values::Unit, dtype: DType::Float16, transfer: Transfer::Json },
            Answer::Video(VideoFormat { fps: Some(8), quality: None }),
        ];
        let scalings = [
            Scaling::None,
            Scaling::Model,
            Scaling::Factors { scaling_factor: 0.18215, shift_factor: None },
            // The smallest and the least even numbers must come through unharmed.
            Scaling::Factors { scaling_factor: f32::MIN_POSITIVE, shift_factor: Some(-1.0 / 3.0) },
        ];
        let shapes =
            [(vec![1, 4, 2, 3], None, None), (vec![1, 6, 16], Some(32), Some(48)), (vec![5], None, None)];
        for dtype in DType::ALL {
            for answer in answers {
                for scaling in scalings {
                    for (shape, height, width) in shapes.clone() {
                        let bytes = vec![7; shape.iter().product::<usize>() * dtype.size()];
                        let latents = Tensor::new(dtype, shape, bytes.into()).unwrap();
                        let model = (dtype == DType::UInt8).then(|| "a model & more=1".to_owned());
                        let (tiling, framewise) = (dtype == DType::Float16, dtype != DType::Float32);
                        let params = Params { model, scaling, height, width, answer, tiling, framewise };
                        let request = DecodeRequest { latents, params };
                        let head = RequestHead::read(
                            &request.query(),
                            Some(request.content_type()),
                            Some(request.accept()),
                        )
                        .unwrap();
                        assert_eq!(head.decode_request(request.latents.bytes.clone()), Ok(request));
                    }
                }
            }
        }
    }

    /// A request as `diffusers.utils.remote_utils.remote_decode` (0.42.1) with `requests` puts it on the wire.
    #[test]
    fn the_query_of_diffusers() {
        let query = "image_format=jpg&output_type=pil&partial_postprocess=False&shape=1&shape=4096&shape=64\
                     &dtype=bfloat16&scaling_factor=0.3611&shift_factor=0.1159&height=1024&width=1024";
        let head = RequestHead::read(query, Some("tensor/binary"), Some("image/jpeg")).unwrap();
        let request = head.decode_request(vec![0; 4096 * 64 * 2].into()).unwrap();
        assert_eq!(request.latents.head, TensorHead::new(DType::BFloat16, vec![1, 4096, 64]).unwrap());
        assert_eq!(
            request.params,
            Params {
                model: None,
                scaling: Scaling::Factors { scaling_factor: 0.3611, shift_factor: Some(0.1159) },
                height: Some(1024),
                width: Some(1024),
                answer: Answer::Image(ImageFormat::Jpeg { quality: None }),
                ..Params::default()
            }
        );
    }

    #[test]
    fn base64_and_the_first_generation() {
        let base64 = head("shape=[1,2]&dtype=uint8", Some("tensor/base64")).unwrap();
        let json = head("model=b", Some("application/json")).unwrap();
        let body =
            r#"{"inputs": "AQI=", "parameters": {"shape": [1, 2], "dtype": "uint8", "output_type": "pt"}}"#;
        let expected = Tensor::new(DType::UInt8, vec![1, 2], vec![1, 2].into()).unwrap();

        let request = base64.decode_request(body.into()).unwrap();
        assert_eq!((request.latents, request.params.scaling), (expected.clone(), Scaling::None));
        assert_eq!(request.params.answer, Answer::default());

        let request = json.decode_request(body.into()).unwrap();
        assert_eq!((request.latents, request.params.scaling), (expected, Scaling::Model));
        assert!(matches!(request.params.answer, Answer::Tensor { values: Values::Raw, .. }));
        assert_eq!(request.params.model.as_deref(), Some("b"));
    }

    #[test]
    fn bodies_that_are_not_what_the_head_says() {
        let query = "shape=[1,2]&dtype=uint8";
        for (content_type, body) in [
            ("tensor/binary", "x"),
            ("tensor/binary", "xyz"),
            ("tensor/base64", "AQI="),
            ("tensor/base64", r#"{"inputs": "AQ=="}"#),
            ("tensor/base64", r#"{"inputs": "?"}"#),
            ("tensor/base64", r#"{"input": "AQI="}"#),
            ("application/json", r#"{"inputs": "AQI="}"#),
            ("application/json", r#"{"inputs": "AQI=", "parameters": {"shape": [1, 3], "dtype": "uint8"}}"#),
            ("application/json", r#"{"inputs": "AQI=", "parameters": {"shape": "no", "dtype": "uint8"}}"#),
            ("application/json", r#"{"inputs": "AQI=", "parameters": []}"#),
            ("application/json", "[1, 2"),
        ] {
            let error = head(query, Some(content_type)).unwrap().decode_request(body.into()).unwrap_err();
            assert_eq!(error.status(), 400, "{content_type} {body}: {error}");
        }
    }

    #[test]
    fn the_limit_of_a_body_is_known_before_it_comes() {
        let limits = Limits { max_body_bytes: 100, ..Limits::default() };
        let read = |content_type, shape| {
            head(&format!("dtype=uint8&shape={shape}"), Some(content_type)).unwrap().max_body_bytes(&limits)
        };
        assert_eq!(read("tensor/binary", 99), Ok(99));
        assert_eq!(read("tensor/base64", 99), Ok(limits.max_base64_body_bytes()));
        assert_eq!(read("application/json", 1), Ok(limits.max_base64_body_bytes()));
        for content_type in ["tensor/binary", "tensor/base64"] {
            assert_eq!(read(content_type, 101).unwrap_err().status(), 413);
        }

        let check = |content_type, length| {
            let head = head("dtype=uint8&shape=99", Some(content_type)).unwrap();
            head.check_body_length(length, &limits).map_err(|error| error.status())
        };
        assert_eq!(check("tensor/binary", 99), Ok(()));
        assert_eq!(check("tensor/binary", 98), Err(400));
        assert_eq!(check("tensor/binary", 100), Err(400));
        assert_eq!(check("tensor/base64", 150), Ok(()));
        assert_eq!(check("application/json", limits.max_base64_body_bytes() + 1), Err(413));
    }

    /// Whatever is sent, the outcome is a request or an error that blames the sender: no panic, and no fault of ours.
    #[test]
    fn damaged_requests_are_refused_or_read() {
        let query = "image_format=jpg&output_type=pil&partial_postprocess=False&shape=1&shape=4&shape=[1,2]&dtype=float16\
                     &scaling_factor=0.18215&shift_factor=0.1&do_scaling=True&height=8&width=8&quality=75&out_dtype=float32\
                     &task=decode&model=a%20b";
        let body =
            r#"{"inputs": "AQI=", "parameters": {"shape": [1, 2], "dtype": "uint8", "x": [null, {}, 1e9]}}"#;
        let accept = "image/png;q=0.5, tensor/binary, */*;q=0.1";
        let content_types = ["tensor/binary", "tensor/base64", "application/json", "image/png", ""];
        // xorshift64: the same damage on every run.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut damaged = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..random(6) {
                let at = random(bytes.len().max(1));
                match random(4) {
                    0 if at < bytes.len() => bytes[at] = random(256) as u8,
                    1 if at < bytes.len() => drop(bytes.remove(at)),
                    2 => bytes.insert(at, b"&=%[],.-+0e;\"{}"[random(15)]),
                    _ => bytes.truncate(at),
                }
            }
            (String::from_utf8_lossy(&bytes).into_owned(), random(5))
        };
        let (mut read, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let ((query, which), (accept, _), (body, _)) = (damaged(query), damaged(accept), damaged(body));
            let outcome =
                RequestHead::read(&query, Some(content_types[which]), Some(&accept)).and_then(|head| {
                    head.params()?;
                    head.max_body_bytes(&Limits::default())?;
                    head.decode_request(body.into_bytes().into())
                });
            match outcome {
                Ok(_) => read += 1,
                Err(error) => {
                    assert!(matches!(error.status(), 400 | 413 | 415), "{query}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(
            read > 500 && refused > 500,
            "{read} read, {refused} refused: the damage tests one side only"
        );
    }
}
