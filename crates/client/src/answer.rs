//! What a server answers with, checked and typed.

use bytes::Bytes;
use imagesize::ImageType;
use reqwest::header::HeaderMap;
use wire::{ImageFormat, Tensor};

use crate::encode::tensor;
use crate::{Error, OutputType};

/// What a decode gave. Which of them follows from [`DecodeOptions::output_type`](crate::DecodeOptions::output_type).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decoded {
    /// A picture file ([`OutputType::Pil`]).
    Image(Image),
    /// A tensor ([`OutputType::Pt`]).
    Tensor(Tensor),
    /// An mp4 file ([`OutputType::Mp4`]).
    Video(Bytes),
}

impl Decoded {
    /// The picture.
    ///
    /// # Errors
    /// [`Error::Options`] when a tensor was asked for.
    pub fn into_image(self) -> Result<Image, Error> {
        match self {
            Self::Image(image) => Ok(image),
            Self::Tensor(_) | Self::Video(_) => {
                Err(Error::Options("`output_type` pt or mp4 gives no picture".to_owned()))
            }
        }
    }

    /// The tensor.
    ///
    /// # Errors
    /// [`Error::Options`] when a picture was asked for.
    pub fn into_tensor(self) -> Result<Tensor, Error> {
        match self {
            Self::Tensor(tensor) => Ok(tensor),
            Self::Image(_) | Self::Video(_) => {
                Err(Error::Options("`output_type` pil or mp4 gives a file, not a tensor".to_owned()))
            }
        }
    }

    /// The bytes: those of the file, or the values of the tensor.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Image(image) => &image.bytes,
            Self::Tensor(tensor) => &tensor.bytes,
            Self::Video(file) => file,
        }
    }
}

/// A picture as a file.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Image {
    /// What the bytes are; a server may choose another format than the one asked for.
    pub format: ImageFormat,
    /// Pixels in a line.
    pub width: usize,
    /// Lines.
    pub height: usize,
    /// The whole file.
    pub bytes: Bytes,
}

impl Image {
    /// Reads format and size from a file's first bytes.
    ///
    /// # Errors
    /// [`Error::Answer`] when it is no JPEG, PNG or WebP file.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, Error> {
        let format = match imagesize::image_type(&bytes) {
            Ok(ImageType::Jpeg) => ImageFormat::Jpeg { quality: None },
            Ok(ImageType::Png) => ImageFormat::Png,
            Ok(ImageType::Webp) => ImageFormat::WebP { quality: None },
            _ => return Err(Error::Answer("it is no JPEG, PNG or WebP file".to_owned())),
        };
        let size = imagesize::blob_size(&bytes)
            .map_err(|error| Error::Answer(format!("its {} file is broken: {error}", format.name())))?;
        Ok(Self { format, width: size.width, height: size.height, bytes })
    }
}

impl std::fmt::Debug for Image {
    /// Without the content: a person's picture has no place in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Image({} {} x {}, {} bytes)",
            self.format.name(),
            self.width,
            self.height,
            self.bytes.len()
        )
    }
}

/// Reads the answer to a request for `output_type`.
pub(crate) fn read(output_type: OutputType, headers: &HeaderMap, body: Bytes) -> Result<Decoded, Error> {
    match output_type {
        OutputType::Pil => Image::from_bytes(body).map(Decoded::Image),
        // The second word of the file is the name of its first box (ISO/IEC 14496-12, 4.3).
        OutputType::Mp4 if body.get(4..8) == Some(b"ftyp") => Ok(Decoded::Video(body)),
        OutputType::Mp4 => Err(Error::Answer("it is no mp4 file".to_owned())),
        OutputType::Pt => tensor(headers, body).map(Decoded::Tensor),
    }
}
