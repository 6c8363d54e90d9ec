//! Which tensors of a file are its latents. Programs put masks, sizes and embeddings of text beside them.

use std::fmt;

use anyhow::{Context, bail};

/// What a file says of one of its tensors, without its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name; of a tensor alone it may be `""`.
    pub name: String,
    /// The length of each axis.
    pub shape: Vec<usize>,
    /// Whether its values are float16, bfloat16, float32 or float64.
    pub is_float: bool,
}

/// Parts of names of what lies beside latents: masks, embeddings of text and pictures, sound.
const OTHERS: [&str; 6] = ["mask", "embed", "hidden_state", "pooled", "audio", "waveform"];

impl Entry {
    /// Whether it can be latents: floats with at least three axes, and no name of something else.
    pub fn is_candidate(&self) -> bool {
        let name = self.name.to_ascii_lowercase();
        self.is_float
            && self.shape.len() >= 3
            && !self.shape.contains(&0)
            && !OTHERS.iter().any(|other| name.contains(other))
    }

    /// How well the name says that these are the latents; the least is best.
    fn rank(&self) -> usize {
        match self.name.as_str() {
            "latent_tensor" => 0,
            name if is_plain_latents(name) => 1,
            name if name.starts_with("latents") => 2,
            "latent_image" => 3,
            "latent" => 4,
            "samples" => 5,
            _ => 6,
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_float { "floats" } else { "no floats" };
        write!(f, "{} ({kind} {:?})", self.name.escape_debug(), self.shape)
    }
}

/// `latents`, or with its size and type as trainers write it: `latents_64x64`, `latents_9x64x64_bfloat16`. Not
/// `latents_flipped_64x64` or `latents_control_64x64`, which belong to others.
fn is_plain_latents(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("latents") else { return false };
    let Some(rest) = rest.strip_prefix('_') else { return rest.is_empty() };
    let size = rest.split('_').next().unwrap_or_default();
    size.contains('x')
        && size.split('x').all(|axis| !axis.is_empty() && axis.bytes().all(|c| c.is_ascii_digit()))
}

/// The entries that are the file's latents: of those that can be, the ones with the best names.
pub(super) fn latents(entries: &[Entry]) -> Vec<&Entry> {
    let candidates = || entries.iter().filter(|entry| entry.is_candidate());
    let best = candidates().map(Entry::rank).min();
    candidates().filter(|entry| Some(entry.rank()) == best).collect()
}

/// The entry that a name means, or without one, the file's only latents.
pub(super) fn choose<'a>(name: Option<&str>, entries: &'a [Entry]) -> anyhow::Result<&'a Entry> {
    if let Some(name) = name {
        let found = entries.iter().find(|entry| entry.name == name);
        return found.with_context(|| match entries {
            [] => "it holds no tensor".to_owned(),
            _ => {
                format!("it holds no tensor {name:?}, but {}", list(entries.iter().map(|entry| &*entry.name)))
            }
        });
    }
    match (latents(entries).as_slice(), entries) {
        ([only], _) => Ok(*only),
        ([], [only]) => Ok(only),
        (_, []) => bail!("it holds no tensor"),
        ([], _) => bail!(
            "none of its {} tensors looks like latents, which are floats with at least three axes: {}; choose one as \
             PATH:NAME",
            entries.len(),
            list(entries.iter().map(|entry| &*entry.name))
        ),
        (several, _) => bail!(
            "it holds {} tensors; choose one as PATH:NAME from {}, or let -o name a folder for all of them",
            several.len(),
            list(several.iter().map(|entry| &*entry.name))
        ),
    }
}

/// Names for a message; of very many only the first.
pub(super) fn list<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 10;
    let count = names.len();
    // They are shown on terminals, which obey what control characters say.
    let shown: Vec<_> = names.take(SHOWN).map(|name| name.escape_debug().to_string()).collect();
    let shown = shown.join(", ");
    if count > SHOWN { format!("{shown} and {} more", count - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, shape: &[usize], is_float: bool) -> Entry {
        Entry { name: name.to_owned(), shape: shape.to_vec(), is_float }
    }

    fn chosen(entries: &[(&str, &[usize], bool)]) -> Vec<String> {
        let entries: Vec<_> = entries.iter().map(|(name, shape, float)| entry(name, shape, *float)).collect();
        latents(&entries).into_iter().map(|entry| entry.name.clone()).collect()
    }

    /// The names are those that the programs write: see the table in docs/latents.md.
    #[test]
    fn the_latents_of_a_file_are_found_among_what_lies_beside_them() {
        const L: &[usize] = &[1, 16, 8, 8];
        for (entries, expected) in [
            // ComfyUI, with a mask of as many axes.
            (
                &[
                    ("latent_tensor", L, true),
                    ("noise_mask", &[1, 1, 64, 64], true),
                    ("batch_index", &[2], false),
                    ("latent_format_version_0", &[0], true),
                ][..],
                &["latent_tensor"][..],
            ),
            // kohya: one picture, and the same at two sizes.
            (
                &[
                    ("latents_8x8", &[16, 8, 8], true),
                    ("latents_flipped_8x8", &[16, 8, 8], true),
                    ("alpha_mask_8x8", &[64, 64], true),
                    ("crop_ltrb_8x8", &[4], false),
                ],
                &["latents_8x8"],
            ),
            (
                &[("latents_8x8", &[16, 8, 8], true), ("latents_4x4", &[16, 4, 4], true)],
                &["latents_8x8", "latents_4x4"],
            ),
            // kohya's and musubi-tuner's encoders of text.
            (
                &[("t5_out", &[512, 4096], true), ("l_pooled", &[768], true), ("txt_ids", &[512, 3], true)],
                &[],
            ),
            (&[("varlen_krea2_vl_embed_float16", &[9, 4, 8], true), ("llm_mask", &[4], false)], &[]),
            // musubi-tuner.
            (
                &[
                    ("latents_3x8x8_float32", &[16, 3, 8, 8], true),
                    ("latents_control_3x8x8_float32", &[16, 3, 8, 8], true),
                    ("clip_float16", &[257, 1280], true),
                ],
                &["latents_3x8x8_float32"],
            ),
            // OneTrainer.
            (
                &[
                    ("latent_image", &[4, 8, 8], true),
                    ("latent_mask", &[1, 8, 8], true),
                    ("latent_conditioning_image", &[4, 8, 8], true),
                ],
                &["latent_image"],
            ),
            // ai-toolkit: the picture itself may lie beside its latents.
            (
                &[
                    ("latent", &[16, 8, 8], true),
                    ("first_frame_latent", &[16, 8, 8], true),
                    ("tensor", &[3, 64, 64], false),
                ],
                &["latent"],
            ),
            (&[("latent", &[3, 64, 64], false)], &[]),
            // What ComfyUI hands from node to node.
            (&[("samples", L, true), ("noise_mask", L, true)], &["samples"]),
            // Nobody's names: all that can be latents.
            (&[("x", L, true), ("y", &[1, 1024, 64], true), ("z", &[4, 4], true)], &["x", "y"]),
            (&[("latents_flipped_8x8", L, true)], &["latents_flipped_8x8"]),
        ] {
            assert_eq!(chosen(entries), expected, "{entries:?}");
        }
    }

    #[test]
    fn names_and_shapes_say_what_may_be_chosen() {
        let entries =
            [entry("a", &[1, 4, 8, 8], true), entry("b", &[1, 4, 8, 8], true), entry("ids", &[4], false)];
        let error = choose(None, &entries).unwrap_err().to_string();
        assert!(error.starts_with("it holds 2 tensors; choose one as PATH:NAME from a, b,"), "{error}");
        assert_eq!(choose(Some("ids"), &entries).unwrap().name, "ids", "who names a tensor means it");
        assert_eq!(choose(None, &entries[2..]).unwrap().name, "ids", "one alone needs no name");
        let error =
            choose(None, &[entries[2].clone(), entry("mask", &[1, 4, 4], true)]).unwrap_err().to_string();
        assert!(
            error.starts_with("none of its 2 tensors looks like latents") && error.contains("ids, mask"),
            "{error}"
        );
        assert_eq!(list(["x"; 12].into_iter()), "x, x, x, x, x, x, x, x, x, x and 2 more");
    }
}
