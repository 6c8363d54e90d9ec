//! Bodies of requests, read under limits.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;
use service::Token;
use tokio::time::timeout;

use crate::error::ApiError;

/// How much of a refused body is read and thrown away, and for how long. The answer does not wait for that, but many
/// clients do not look for one before they have sent everything; without this they would see a broken connection
/// instead of the reason.
const DISCARD_BYTES: usize = 256 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// The steps in which a body takes memory that has not said how long it is.
const STEP: usize = 256 << 10;

/// Memory that a body gets before its bytes are there.
const FIRST_BYTES: usize = 64 << 10;

/// How long a body says that it is, if it does.
pub(crate) fn announced_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A body on its way; `None` once it has come to its end.
pub(crate) type Upload = Option<Body>;

/// Reads a whole body of at most `limit` bytes, which `flag` sets if one does.
///
/// # Errors
/// 413 for a longer one, 429 when other bodies hold the memory, 408 when it takes too long, 400 when it breaks off.
pub(crate) async fn read(
    upload: &mut Upload,
    limit: usize,
    flag: Option<&str>,
    time: Duration,
    held: &mut Token,
) -> Result<Bytes, ApiError> {
    let reading = async {
        let mut bytes = Vec::with_capacity(limit.min(FIRST_BYTES));
        while let Some(frame) = next(upload).await {
            let frame = frame.map_err(|error| {
                ApiError::new(StatusCode::BAD_REQUEST, format!("the body could not be read: {error}"))
            })?;
            // Trailers have no meaning here.
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > limit - bytes.len() {
                let flag = flag.map(|flag| format!(" ({flag})")).unwrap_or_default();
                let message =
                    format!("the body has more than the {limit} bytes that this request may have{flag}");
                return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).at_limit());
            }
            // One that has not said how long it is takes room as it comes.
            let length = bytes.len() + data.len();
            held.grow(length.next_multiple_of(STEP).min(limit))?;
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.into())
    };
    timeout(time, reading).await.unwrap_or_else(|_| {
        Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {} seconds (--body-timeout)", time.as_secs_f32()),
        ))
    })
}

async fn next(upload: &mut Upload) -> Option<Result<Frame<Bytes>, axum::Error>> {
    let frame = upload.as_mut()?.frame().await;
    if frame.is_none() {
        *upload = None;
    }
    frame
}

/// Has the rest of a body that nobody wants read and thrown away. The answer does not wait for that: whoever looks for it
/// while sending finds it.
pub(crate) fn discard(head: &Parts, mut upload: Upload) {
    if upload.as_ref().is_none_or(HttpBody::is_end_stream) {
        return;
    }
    // Such a client does wait for the answer, and reading would tell it to send.
    let waits = head.headers.contains_key(header::EXPECT);
    if waits || announced_length(&head.headers).is_some_and(|length| length > DISCARD_BYTES) {
        return;
    }
    let mut left = DISCARD_BYTES;
    let reading = async move {
        while let Some(Ok(frame)) = next(&mut upload).await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Enough is enough: with the body, the connection ends. It also ends when the client does.
    tokio::spawn(timeout(DISCARD_TIME, reading));
}
