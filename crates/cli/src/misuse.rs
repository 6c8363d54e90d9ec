//! Command lines that make no sense whatever is on this machine: they end the program with the exit code of those that clap
//! refuses.

/// Exit code of a command line that makes no sense.
pub(crate) const CODE: u8 = 2;

/// Why a command line makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misuse(pub(crate) String);

/// Returns with a [`Misuse`].
macro_rules! misuse {
    ($($text:tt)*) => { return Err($crate::misuse::Misuse(format!($($text)*)).into()) };
}

/// The names that the client's options have in its messages, and their flags.
const FLAGS: [(&str, &str); 8] = [
    ("`scaling_factor`", "--scaling-factor"),
    ("`shift_factor`", "--shift-factor"),
    ("`height`", "--height"),
    ("`width`", "--width"),
    ("`output_type`", "--output-type"),
    ("`partial_postprocess`", "--partial-postprocess"),
    ("`quality`", "--quality"),
    ("`fps`", "--fps"),
];

/// An error of the client's builder or options, which come from the command line, in the words of the command line.
pub(crate) fn of_client(error: client::Error) -> anyhow::Error {
    match error {
        client::Error::Options(text) => {
            Misuse(FLAGS.iter().fold(text, |text, (option, flag)| text.replace(option, flag))).into()
        }
        client::Error::Endpoint { .. } => Misuse(error.to_string()).into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use client::{DecodeOptions, EncodeOptions, OutputType};

    use super::*;

    /// Whatever the client has against options, it is said in flags.
    #[test]
    fn options_are_called_by_their_flags() {
        let options = DecodeOptions::new;
        for (wrong, flag) in [
            (options().shift_factor(0.1).params().err(), "--shift-factor needs --scaling-factor"),
            (options().scaling_factor(0.0).params().err(), "--scaling-factor must be"),
            (options().height(8).params().err(), "--height and --width are needed together"),
            (options().fps(9).params().err(), "--fps is of a video: it needs --output-type mp4"),
            (options().output_type(OutputType::Pt).quality(9).params().err(), "--quality is of a JPEG"),
            (
                options().partial_postprocess(true).params().err(),
                "--partial-postprocess answers with a tensor",
            ),
            (EncodeOptions::new().shift_factor(0.1).params().err(), "--shift-factor needs"),
        ] {
            let error = of_client(wrong.unwrap());
            assert!(error.downcast_ref::<Misuse>().is_some());
            let text = error.to_string();
            assert!(text.contains(flag) && !text.contains('`'), "{text}");
        }
    }
}
