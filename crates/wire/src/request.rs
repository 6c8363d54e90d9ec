//! A request, in the two steps in which a server learns of it: the head, then the body.

use bytes::Bytes;
use form_urlencoded::Serializer;

use crate::base64::JsonBody;
use crate::{
    Accept, EncodeParams, EncodeRequest, JSON, Limits, Metadata, OCTET_STREAM, Params, Picture, Scaling,
    TENSOR_BASE64, TENSOR_BINARY, Tensor, TensorHead, WireError,
};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Latents to pictures.
    Decode,
    /// Pictures to latents.
    Encode,
}

impl Task {
    /// Its name in `task`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Encode => "encode",
        }
    }
}

/// What the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// A raw tensor.
    Binary,
    /// A tensor as base64 in JSON.
    Base64,
    /// The same as the first generation of clients sends it: with everything in it, and latents that are not scaled yet.
    Json,
    /// A picture file.
    Image,
}

impl BodyFormat {
    /// Whether parameters may stand in the body.
    fn is_json(self) -> bool {
        matches!(self, Self::Base64 | Self::Json)
    }
}

/// Everything that a request says before its body.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// What is asked for, unless only the body says so.
    pub task: Option<Task>,
    /// What the body is.
    pub body: BodyFormat,
    /// What tensor the body holds, unless only the body says so or it holds none.
    pub tensor: Option<TensorHead>,
    /// Whether only the model and the values can tell what a tensor is that is read as latents: it has four channels, as
    /// some latents and RGBA pictures have, and neither its content type nor the query says which it is.
    pub may_be_rgba: bool,
    metadata: Metadata,
    accept: Accept,
}

/// Parameters that make sense for a decode only.
const OF_DECODES: &[&str] =
    &["output_type", "image_format", "partial_postprocess", "quality", "fps", "height", "width", "preview"];

/// A request to decode.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeRequest {
    /// What to decode.
    pub latents: Tensor,
    /// How, and what to answer with.
    pub params: Params,
}

/// A whole request.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Latents to pictures.
    Decode(DecodeRequest),
    /// Pictures to latents.
    Encode(EncodeRequest),
}

/// What a request says besides its latents or its picture.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskParams {
    /// Of a request to decode.
    Decode(Params),
    /// Of a request to encode.
    Encode(EncodeParams),
}

impl TaskParams {
    /// The media type of the answer.
    pub fn media_type(&self) -> &'static str {
        match self {
            Self::Decode(params) => params.answer.media_type(),
            Self::Encode(params) => params.transfer.media_type(),
        }
    }
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
            // The body may say what the query does not, or says wrong.
            Some(TENSOR_BASE64) => (BodyFormat::Base64, metadata.tensor().unwrap_or_default()),
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
        if body.is_json() {
            return Ok(Self { task: None, body, tensor, may_be_rgba: false, metadata, accept });
        }
        let told = told_task(&metadata)?;
        // A tensor without a name may be a picture, and only its shape tells.
        let nameless =
            tensor.as_ref().filter(|_| told.is_none() && media_type.as_deref().is_none_or(is_nameless));
        let may_be_rgba =
            nameless.is_some_and(|tensor| is_rgba(&tensor.shape)) && !metadata.has_any(OF_DECODES);
        let task = told.unwrap_or(match body {
            BodyFormat::Image => Task::Encode,
            _ if nameless.is_some_and(|tensor| is_picture(&tensor.shape)) => Task::Encode,
            _ => Task::Decode,
        });
        Ok(Self { task: Some(task), body, tensor, may_be_rgba, metadata, accept })
    }

    /// The model that the query names, if it does and no body can name another.
    ///
    /// # Errors
    /// When it names several.
    pub fn model(&self) -> Result<Option<&str>, WireError> {
        if self.body.is_json() { Ok(None) } else { self.metadata.text("model") }
    }

    /// The parameters, unless only the body has them.
    ///
    /// # Errors
    /// A value that has an effect and cannot be read.
    pub fn params(&self) -> Result<Option<TaskParams>, WireError> {
        Ok(match (self.body, self.task, &self.tensor) {
            (BodyFormat::Json | BodyFormat::Base64, ..) => None,
            (_, Some(Task::Encode), _) => {
                Some(TaskParams::Encode(EncodeParams::read(&self.metadata, &self.accept, Scaling::None)?))
            }
            (_, _, Some(tensor)) => Some(TaskParams::Decode(Params::read(
                &self.metadata,
                &self.accept,
                tensor.shape.len(),
                Scaling::None,
            )?)),
            (_, _, None) => None,
        })
    }

    /// Whether the query says how long the body is.
    pub fn has_length(&self) -> bool {
        self.body == BodyFormat::Binary && self.tensor.is_some()
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
        let tensor = match self.body {
            BodyFormat::Base64 | BodyFormat::Json => format!(" {}, in base64", limits.max_body_bytes),
            BodyFormat::Binary | BodyFormat::Image => String::new(),
        };
        Err(WireError::TooLarge(format!(
            "the body has {length} bytes, and this server takes {limit} at most (--max-body{tensor})"
        )))
    }

    /// The whole request, once its body is there.
    ///
    /// # Errors
    /// A body that is not what the head says, or parameters that cannot be read.
    pub fn request(&self, body: Bytes) -> Result<Request, WireError> {
        self.request_with_slips(body).map(|(request, _)| request)
    }

    /// The whole request, and a sentence for each key of a JSON body that is nearly one with a meaning.
    ///
    /// # Errors
    /// As for [`RequestHead::request`].
    pub fn request_with_slips(&self, body: Bytes) -> Result<(Request, Vec<String>), WireError> {
        // Clients of the first generation send latents as they leave the pipeline.
        match self.body {
            BodyFormat::Json => self.in_json(&JsonBody::read(&body)?, Scaling::Model),
            BodyFormat::Base64 => self.in_json(&JsonBody::read(&body)?, Scaling::None),
            BodyFormat::Binary | BodyFormat::Image => {
                let task = self.task.unwrap_or(Task::Decode);
                let request = Self::whole(
                    task,
                    self.tensor.clone(),
                    body,
                    &self.metadata,
                    &self.accept,
                    Scaling::None,
                )?;
                Ok((request, Vec::new()))
            }
        }
    }

    /// The same request with its latents read as pixels, see [`RequestHead::may_be_rgba`].
    ///
    /// # Errors
    /// Parameters that cannot be read.
    pub fn as_picture(&self, pixels: Tensor) -> Result<Request, WireError> {
        let params = EncodeParams::read(&self.metadata, &self.accept, Scaling::None)?;
        Ok(Request::Encode(EncodeRequest { picture: Picture::Tensor(pixels), params }))
    }

    /// What stands in a JSON body goes before the query, and the query says what is not there.
    fn in_json(&self, json: &JsonBody, otherwise: Scaling) -> Result<(Request, Vec<String>), WireError> {
        let parameters = json.metadata()?;
        let slips = parameters.slips();
        let metadata = parameters.or(&self.metadata);
        let head = metadata.tensor()?;
        let task = told_task(&metadata)?.unwrap_or(match &head {
            _ if self.body == BodyFormat::Base64 => Task::Decode,
            Some(tensor) if !is_picture(&tensor.shape) => Task::Decode,
            _ => Task::Encode,
        });
        let request = Self::whole(task, head, json.bytes()?, &metadata, &self.accept, otherwise)?;
        Ok((request, slips))
    }

    fn whole(
        task: Task,
        head: Option<TensorHead>,
        bytes: Bytes,
        metadata: &Metadata,
        accept: &Accept,
        otherwise: Scaling,
    ) -> Result<Request, WireError> {
        match task {
            Task::Decode => {
                let latents = Tensor::from_head(required(head)?, bytes)?;
                let params = Params::read(metadata, accept, latents.head.shape.len(), otherwise)?;
                Ok(Request::Decode(DecodeRequest { latents, params }))
            }
            Task::Encode => {
                let picture = match head {
                    Some(head) => Picture::Tensor(Tensor::from_head(head, bytes)?),
                    None => Picture::File(bytes),
                };
                let params = EncodeParams::read(metadata, accept, otherwise)?;
                Ok(Request::Encode(EncodeRequest { picture, params }))
            }
        }
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

/// What `task` says.
fn told_task(metadata: &Metadata) -> Result<Option<Task>, WireError> {
    match metadata.text("task")? {
        None => Ok(None),
        Some("decode") => Ok(Some(Task::Decode)),
        Some("encode") => Ok(Some(Task::Encode)),
        Some(other) => {
            Err(WireError::Parameter(format!("`task` is {other:?}, but must be decode or encode")))
        }
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
    matches!(media_type, "" | OCTET_STREAM)
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

/// Whether a tensor may be an RGBA picture or video: as [`is_picture`], with a fourth channel.
fn is_rgba(shape: &[usize]) -> bool {
    matches!(shape, [_, 4, _, _] | [4, _, _] | [_, 4, _, _, _])
}

#[cfg(test)]
mod tests;
