//! What is worth knowing of a decode or an encode, kept in the file itself: which program, which model, which factors. No paths, no
//! addresses and nothing of the pipeline: files are shown to others.

use client::{DecodeOptions, EncodeOptions, SampleMode, TensorHead};

/// Where the first chunk of a PNG file ends: eight bytes of signature, and IHDR with its length, name, 13 bytes and
/// checksum (PNG specification, 5.2 and 11.2.1).
const AFTER_IHDR: usize = 8 + 4 + 4 + 13 + 4;

/// How a file came to be: names and values.
#[derive(Clone, Debug)]
pub(crate) struct Provenance(Vec<(&'static str, String)>);

impl Provenance {
    /// Of a decode. `model` is its name, without the way to it.
    pub(crate) fn of_decode(model: Option<&str>, options: &DecodeOptions, latents: &TensorHead) -> Self {
        let scaling = (options.do_scaling, options.scaling_factor, options.shift_factor);
        Self::new(model, scaling, ("VAE latents", latents.to_string()))
    }

    /// Of an encode, with the seed of a sample.
    pub(crate) fn of_encode(model: Option<&str>, options: &EncodeOptions, seed: Option<u64>) -> Self {
        let scaling = (options.do_scaling, options.scaling_factor, options.shift_factor);
        let sampled = match (options.sample_mode, seed) {
            (SampleMode::Argmax, _) => "argmax".to_owned(),
            (SampleMode::Sample { .. }, Some(seed)) => format!("sample, seed={seed}"),
            (SampleMode::Sample { .. }, None) => "sample".to_owned(),
            (SampleMode::Moments, _) => "moments".to_owned(),
        };
        Self::new(model, scaling, ("VAE sample_mode", sampled))
    }

    fn new(
        model: Option<&str>,
        scaling: (bool, Option<f32>, Option<f32>),
        more: (&'static str, String),
    ) -> Self {
        let scaling = match scaling {
            (false, ..) => "none".to_owned(),
            (true, None, _) => "the model's own".to_owned(),
            (true, Some(factor), None) => format!("scaling_factor={factor}"),
            (true, Some(factor), Some(shift)) => format!("scaling_factor={factor}, shift_factor={shift}"),
        };
        let mut entries = vec![("Software", concat!("remote-vae ", env!("CARGO_PKG_VERSION")).to_owned())];
        entries.extend(model.map(|model| ("VAE", model.to_owned())));
        entries.extend([("VAE scaling", scaling), more]);
        Self(entries)
    }

    /// For formats that keep names and values.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))
    }

    /// A PNG file with it as text chunks; the picture stays as it is, byte for byte.
    pub(crate) fn write_into_png(&self, png: &[u8]) -> Vec<u8> {
        let Some((head, rest)) = png.split_at_checked(AFTER_IHDR) else { return png.to_vec() };
        let mut file = head.to_vec();
        for (name, value) in &self.0 {
            file.extend(text_chunk(name, value));
        }
        file.extend_from_slice(rest);
        file
    }
}

/// An iTXt chunk, which is UTF-8 (PNG specification, 11.3.3.4): keyword, no compression, no language.
fn text_chunk(keyword: &str, text: &str) -> Vec<u8> {
    let data = [b"iTXt", keyword.as_bytes(), &[0, 0, 0, 0, 0], text.as_bytes()].concat();
    let length = (data.len() - 4) as u32;
    [&length.to_be_bytes()[..], &data, &crc32fast::hash(&data).to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use client::{DType, TensorHead};

    use super::*;

    #[test]
    fn what_is_said_of_a_decode() {
        let latents = TensorHead::new(DType::Float16, vec![1, 4, 8, 8]).unwrap();
        let said = |model, options: DecodeOptions| {
            let entries: Vec<_> =
                Provenance::of_decode(model, &options, &latents).entries().skip(1).collect();
            entries.into_iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("; ")
        };
        let options = DecodeOptions::new;
        assert_eq!(said(None, options()), "VAE scaling: the model's own; VAE latents: float16 [1, 4, 8, 8]");
        assert!(said(Some("sdxl"), options()).starts_with("VAE: sdxl; "));
        assert!(said(None, options().do_scaling(false)).contains("scaling: none"));
        let factors = said(None, options().scaling_factor(0.3611).shift_factor(0.1159));
        assert!(factors.contains("scaling_factor=0.3611, shift_factor=0.1159"), "{factors}");
    }

    #[test]
    fn a_picture_with_text_is_the_same_picture() {
        let pixels: Vec<u8> = (0..3 * 5 * 3).collect();
        let png = media::encode_png(&pixels, 3, 5).unwrap();
        let latents = TensorHead::new(DType::Float16, vec![1, 4, 8, 8]).unwrap();
        let written =
            Provenance::of_decode(Some("größer"), &DecodeOptions::new(), &latents).write_into_png(&png);
        let mut reader = png::Decoder::new(std::io::Cursor::new(&written)).read_info().unwrap();
        let mut read = vec![0; pixels.len()];
        reader.next_frame(&mut read).unwrap();
        assert_eq!(read, pixels);
        let text: Vec<_> = reader
            .info()
            .utf8_text
            .iter()
            .map(|chunk| (chunk.keyword.clone(), chunk.get_text().unwrap()))
            .collect();
        assert!(text.contains(&("VAE".to_owned(), "größer".to_owned())), "{text:?}");
        assert_eq!(text.len(), 4);
        assert_eq!(Provenance(Vec::new()).write_into_png(&png), png);
    }
}
