//! What a request to decode says besides its latents, and how latents are scaled in both directions.

use crate::{Accept, Answer, Metadata, WireError};

/// How latents become what the model takes; for an encode, the way back.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Scaling {
    /// Unchanged: the caller has scaled them.
    #[default]
    None,
    /// As the configuration of the model says.
    Model,
    /// `latents / scaling_factor + shift_factor`; for an encode, `(latents - shift_factor) * scaling_factor`.
    Factors {
        /// What pipeline latents were multiplied with.
        scaling_factor: f32,
        /// What was subtracted before that, if anything.
        shift_factor: Option<f32>,
    },
}

impl Scaling {
    /// Reads `scaling_factor`, `shift_factor` and `do_scaling`, in this order of precedence. `otherwise` is what
    /// holds when neither the first nor the last is there; a `shift_factor` alone says nothing.
    ///
    /// # Errors
    /// A value that cannot be read, or a factor that no latents can be divided by.
    pub fn read(metadata: &Metadata, otherwise: Self) -> Result<Self, WireError> {
        let finite = f32::MIN..=f32::MAX;
        let scaling_factor = metadata.number("scaling_factor", finite.clone())?;
        let shift_factor = metadata.number("shift_factor", finite)?;
        match (scaling_factor, metadata.flag("do_scaling")?) {
            (Some(0.0), _) => Err(WireError::Parameter(
                "`scaling_factor` is 0, which no latents can be scaled with".to_owned(),
            )),
            (Some(scaling_factor), _) => Ok(Self::Factors { scaling_factor, shift_factor }),
            (None, Some(true)) => Ok(Self::Model),
            (None, Some(false)) => Ok(Self::None),
            (None, None) => Ok(otherwise),
        }
    }

    pub(crate) fn parameters(self) -> Vec<(&'static str, String)> {
        match self {
            // As diffusers does it: nothing is said.
            Self::None => Vec::new(),
            Self::Model => vec![("do_scaling", "True".to_owned())],
            Self::Factors { scaling_factor, shift_factor } => {
                let mut parameters = vec![("scaling_factor", scaling_factor.to_string())];
                parameters.extend(shift_factor.map(|shift| ("shift_factor", shift.to_string())));
                parameters
            }
        }
    }
}

/// What a decode request says besides its latents.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// The model, if one is named in the query; else the path says it.
    pub model: Option<String>,
    /// What happens to the latents first.
    pub scaling: Scaling,
    /// Height of the picture in pixels. Only packed latents need it.
    pub height: Option<usize>,
    /// Width of the picture in pixels. Only packed latents need it.
    pub width: Option<usize>,
    /// What to answer with.
    pub answer: Answer,
    /// Decode in tiles, as diffusers does after `enable_tiling()`.
    pub tiling: bool,
    /// Decode a video a few frames at a time, as diffusers does by default.
    pub framewise: bool,
    /// Answer twice: with what the model's preview makes of the latents, and then with the picture itself.
    pub preview: bool,
    /// Whether the client reads one picture from an answer, so that a picture file of a batch is its first one.
    pub first_picture: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            model: None,
            scaling: Scaling::default(),
            height: None,
            width: None,
            answer: Answer::default(),
            tiling: false,
            framewise: true,
            preview: false,
            first_picture: false,
        }
    }
}

/// Reads `preview`, which has one value.
fn preview(metadata: &Metadata) -> Result<bool, WireError> {
    match metadata.text("preview")? {
        None => Ok(false),
        Some("tiny") => Ok(true),
        Some(text) => Err(WireError::Parameter(format!("`preview` is {text:?}, but must be tiny"))),
    }
}

impl Params {
    /// Latents that need no scaling, decoded by the default model.
    pub fn new(answer: Answer) -> Self {
        Self { answer, ..Self::default() }
    }

    /// Reads the parameters of a request with latents of `axes` axes.
    ///
    /// # Errors
    /// A value that has an effect and cannot be read.
    pub(crate) fn read(
        metadata: &Metadata,
        accept: &Accept,
        axes: usize,
        otherwise: Scaling,
    ) -> Result<Self, WireError> {
        // Only tensors of three axes can be packed, and clients send nonsense with others.
        let side = |key| if axes == 3 { metadata.number(key, 1..=usize::from(u16::MAX)) } else { Ok(None) };
        Ok(Self {
            model: metadata.text("model")?.map(str::to_owned),
            scaling: Scaling::read(metadata, otherwise)?,
            height: side("height")?,
            width: side("width")?,
            answer: Answer::read(metadata, accept)?,
            tiling: metadata.flag("tiling")?.unwrap_or(false),
            framewise: metadata.flag("framewise")?.unwrap_or(true),
            preview: preview(metadata)?,
            // SD.Next alone sends this key. It opens the body of an answer as one picture.
            first_picture: metadata.text("input_tensor_type")?.is_some(),
        })
    }

    /// The query parameters that say this.
    pub(crate) fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = self.answer.parameters();
        parameters.extend(self.scaling.parameters());
        parameters.extend(self.height.map(|height| ("height", height.to_string())));
        parameters.extend(self.width.map(|width| ("width", width.to_string())));
        parameters.extend(self.tiling.then(|| ("tiling", "True".to_owned())));
        parameters.extend((!self.framewise).then(|| ("framewise", "False".to_owned())));
        parameters.extend(self.preview.then(|| ("preview", "tiny".to_owned())));
        parameters.extend(self.first_picture.then(|| ("input_tensor_type", "binary".to_owned())));
        parameters.extend(self.model.clone().map(|model| ("model", model)));
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaling(query: &str) -> Result<Scaling, WireError> {
        Scaling::read(&Metadata::from_query(query), Scaling::None)
    }

    #[test]
    fn precedence_of_scaling() {
        let factors = |scaling_factor, shift_factor| Scaling::Factors { scaling_factor, shift_factor };
        for (query, expected) in [
            ("scaling_factor=0.18215", factors(0.18215, None)),
            ("scaling_factor=0.3611&shift_factor=0.1159", factors(0.3611, Some(0.1159))),
            ("scaling_factor=2&do_scaling=False", factors(2.0, None)),
            ("scaling_factor=2&do_scaling=True", factors(2.0, None)),
            ("scaling_factor=1e-3", factors(0.001, None)),
            ("do_scaling=True", Scaling::Model),
            ("do_scaling=true&shift_factor=1", Scaling::Model),
            ("do_scaling=False", Scaling::None),
            ("do_scaling=None", Scaling::None),
            ("do_scaling=False&shift_factor=1", Scaling::None),
            ("shift_factor=1", Scaling::None),
            ("", Scaling::None),
        ] {
            assert_eq!(scaling(query), Ok(expected), "{query}");
        }
        assert_eq!(Scaling::read(&Metadata::default(), Scaling::Model), Ok(Scaling::Model));
    }

    #[test]
    fn factors_that_ruin_a_picture() {
        for query in [
            "scaling_factor=0",
            "scaling_factor=-0.0",
            "scaling_factor=nan",
            "scaling_factor=inf",
            "scaling_factor=1e99",
            "scaling_factor=tensor(0.5)",
            "scaling_factor=1&shift_factor=-inf",
            "do_scaling=maybe",
        ] {
            assert!(matches!(scaling(query), Err(WireError::Parameter(_))), "{query}");
        }
    }

    #[test]
    fn sizes_matter_for_packed_latents_only() {
        let read = |query, axes| {
            Params::read(&Metadata::from_query(query), &Accept::read(None), axes, Scaling::None)
                .map(|params| (params.height, params.width))
        };
        assert_eq!(read("height=512&width=768", 3), Ok((Some(512), Some(768))));
        for nonsense in ["height=-8", "height=512.5", "width=0", "width=70000", "height=8&height=8"] {
            assert!(read(nonsense, 3).is_err(), "{nonsense}");
            assert_eq!(read(nonsense, 4), Ok((None, None)), "{nonsense}");
        }
    }
}
