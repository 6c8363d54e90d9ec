//! Codecs are outside software: what one of them does to a strange file must not end the program.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::MediaError;

/// Runs the decoder of `format`; a panic of it is an error of the file.
pub(crate) fn decoder<T>(
    format: &'static str,
    run: impl FnOnce() -> Result<T, MediaError>,
) -> Result<T, MediaError> {
    guard(run).unwrap_or(Err(MediaError::DecoderPanic { format }))
}

/// Runs the encoder of `format`; a panic of it is an error like its others.
pub(crate) fn encoder<T>(
    format: &'static str,
    run: impl FnOnce() -> Result<T, MediaError>,
) -> Result<T, MediaError> {
    let panic = || MediaError::Encoder { format, message: "it panicked; please report it".to_owned() };
    guard(run).unwrap_or_else(|| Err(panic()))
}

/// `None` after a panic. Nothing that the closure borrows is looked at then, so it need not be unwind safe.
fn guard<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_a_sentence() {
        let stand_in = |values: &[u8], at: usize| Ok(values[at]);
        assert_eq!(decoder("JPEG", || stand_in(&[7, 8], 1)).unwrap(), 8);
        let message = |result: Result<u8, MediaError>| result.unwrap_err().to_string();
        assert_eq!(
            message(decoder("JPEG", || stand_in(&[7, 8], 2))),
            "this file made the JPEG decoder fail: save it anew with another program, and please report it"
        );
        assert_eq!(
            message(encoder("mp4", || stand_in(&[7, 8], 2))),
            "the mp4 encoder failed: it panicked; please report it"
        );
        // The next file is none the worse for it.
        assert_eq!(decoder("JPEG", || stand_in(&[7, 8], 0)).unwrap(), 7);
    }

    #[test]
    fn errors_pass_through() {
        let error = decoder::<()>("PNG", || Err(MediaError::UnknownFormat)).unwrap_err();
        assert!(matches!(error, MediaError::UnknownFormat));
    }
}
