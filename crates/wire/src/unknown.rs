//! Keys that have no meaning, and which one was most likely meant.

use crate::{Metadata, PARAMETERS};

/// Keys of one request that are looked at: one that has more is no slip of the keyboard.
const MOST_KEYS: usize = 64;
/// The longest key that is looked at.
const LONGEST_KEY: usize = 40;
/// Slips that are told of.
const MOST_SLIPS: usize = 4;

impl Metadata {
    /// A sentence in ASCII for each key that has no meaning but is nearly one that has: such a parameter is ignored, and
    /// who sent it would look for the reason elsewhere.
    pub fn slips(&self) -> Vec<String> {
        let is_known = |key: &str| PARAMETERS.iter().any(|known| known.name == key);
        let mut slips = Vec::new();
        for key in self.keys().filter(|key| !is_known(key)).take(MOST_KEYS) {
            let Some(known) = meant(key) else { continue };
            let slip = format!("`{}` has no meaning here: did you mean `{known}`?", key.escape_default());
            if slips.len() < MOST_SLIPS && !slips.contains(&slip) {
                slips.push(slip);
            }
        }
        slips
    }
}

/// The known key that is nearest to `key`, if it is near enough.
fn meant(key: &str) -> Option<&'static str> {
    if key.len() > LONGEST_KEY {
        return None;
    }
    let letters = letters(key);
    let near = |name: &'static str| {
        let distance = strsim::osa_distance(&letters, &self::letters(name));
        // Two slips in a short word make another word.
        let most = if name.len() < 6 { 1 } else { 2 };
        (distance <= most && letters.len() > 2).then_some((distance, name))
    };
    PARAMETERS.iter().filter_map(|known| near(known.name)).min().map(|(_, name)| name)
}

/// A key without its case and its signs: `outputType`, `output-type` and `output_type` are one.
fn letters(key: &str) -> String {
    key.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_apart_from_keys_of_others() {
        for (key, known) in [
            ("scaling_facto", "scaling_factor"),
            ("scalingFactor", "scaling_factor"),
            ("Scaling-Factor", "scaling_factor"),
            ("shiftfactor", "shift_factor"),
            ("SHAPE", "shape"),
            ("shpae", "shape"),
            ("shape[x]", "shape"),
            ("dtype[]", "dtype"),
            ("ouput_type", "output_type"),
            ("image-format", "image_format"),
            ("parital_postproces", "partial_postprocess"),
            ("hieght", "height"),
            ("qualtiy", "quality"),
            ("outdtype", "out_dtype"),
            ("seeds", "seed"),
        ] {
            assert_eq!(meant(key), Some(known), "{key}");
        }
        // What clients in the field send, and words of other protocols.
        for key in [
            "output_tensor_type",
            "return_type",
            "processor",
            "api_key",
            "prompt",
            "steps",
            "batch",
            "num_frames",
            "timestamp",
            "_",
            "t",
            "",
            "x",
        ] {
            assert_eq!(meant(key), None, "{key}");
        }
    }

    #[test]
    fn a_slip_is_one_sentence_that_a_header_can_hold() {
        let slips = |query: &str| Metadata::from_query(query).slips();
        assert_eq!(
            slips("shape=1&dtype=uint8&scaling_facto=2&scaling_facto=3"),
            ["`scaling_facto` has no meaning here: did you mean `scaling_factor`?"]
        );
        assert_eq!(
            slips("shap%C3%A9=1&se%0D%0Aed=1"),
            [
                "`shap\\u{e9}` has no meaning here: did you mean `shape`?",
                "`se\\r\\ned` has no meaning here: did you mean `seed`?"
            ]
        );
        assert!(slips("shape=1&dtype=uint8&other=1").is_empty());
        let many: String = ('a'..='z').map(|letter| format!("shape{letter}=1&")).collect();
        assert_eq!(slips(&many).len(), MOST_SLIPS);
        assert!(slips(&format!("{}=1", "shape".repeat(1000))).is_empty());
    }
}
