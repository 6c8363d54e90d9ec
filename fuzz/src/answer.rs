//! Answers, which a client gets from a server that it may not know well.

use wire::{ErrorBody, TensorHead};

use crate::{KIB, sentence, within};

/// Lines: the headers `shape` and `dtype`; the rest is a body.
pub fn answer(input: &[u8]) {
    let mut lines = input.splitn(3, |&byte| byte == b'\n');
    let mut header = || lines.next().and_then(|line| str::from_utf8(line).ok());
    let (shape, dtype) = (header(), header());
    let body = lines.next().unwrap_or_default();
    within(128 * input.len() + 64 * KIB, || {
        match TensorHead::from_headers(shape, dtype) {
            Err(error) => sentence(&error.to_string()),
            Ok(head) => {
                let printed = (head.shape_header(), head.dtype.to_string());
                assert_eq!(TensorHead::from_headers(Some(&printed.0), Some(&printed.1)), Ok(head));
            }
        }
        match wire::read_base64_answer(body) {
            Err(error) => sentence(&error.to_string()),
            Ok(tensor) => {
                let printed = wire::write_base64_answer(&tensor);
                assert_eq!(wire::read_base64_answer(printed.as_bytes()), Ok(tensor));
            }
        }
        ErrorBody::read(body);
    });
}
