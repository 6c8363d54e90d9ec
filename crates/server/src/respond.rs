//! Answers of the service as HTTP answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use service::{Answer, Report};

use crate::error::ApiError;

/// Header with the shape of a tensor answer.
const SHAPE: HeaderName = HeaderName::from_static("shape");
/// Header with the type of a tensor answer.
const DTYPE: HeaderName = HeaderName::from_static("dtype");
/// Header with how long each part took, in milliseconds (W3C Server Timing).
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Header with the seed of sampled latents.
const SEED: HeaderName = HeaderName::from_static("seed");
/// Header that says how it was decoded or encoded: the name of a [`service::Mode`].
const MODE: HeaderName = HeaderName::from_static("x-decode-mode");
/// Header with what is odd about a request that was answered all the same, one sentence each time.
const WARNING: HeaderName = HeaderName::from_static("x-warning");

/// The answer with its headers.
///
/// # Errors
/// 500 for one that no header can describe.
pub(crate) fn respond(answer: Answer) -> Result<Response, ApiError> {
    let Answer { content_type, body, tensor, seed, warnings, report } = answer;
    let mut response = Body::new(Parts(body)).into_response();
    insert(&mut response, header::CONTENT_TYPE, &content_type)?;
    if let Some(tensor) = tensor {
        insert(&mut response, SHAPE, &tensor.shape_header())?;
        insert(&mut response, DTYPE, tensor.dtype.name())?;
    }
    if let Some(seed) = seed {
        response.headers_mut().insert(SEED, HeaderValue::from(seed));
    }
    let Report { outline, queued, worked, written, .. } = report;
    // Times are for people, so tenths of a millisecond are plenty.
    let timing = [("queue", queued), ("work", worked), ("encode", written)]
        .map(|(name, time)| format!("{name};dur={:.1}", time.as_secs_f64() * 1000.0))
        .join(", ");
    insert(&mut response, SERVER_TIMING, &timing)?;
    response.headers_mut().insert(MODE, HeaderValue::from_static(outline.mode.name()));
    warn(&mut response, &warnings);
    Ok(response)
}

/// Bytes of an answer that are handed on at a time. What is handed on may be copied, under TLS for example, and then counts
/// no more as memory of the answer.
pub(crate) const PART: usize = 256 << 10;

/// The body of an answer, in parts.
struct Parts(Bytes);

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.0.len().min(PART);
        Poll::Ready(Some(Ok(Frame::data(self.0.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

/// Adds a header for each sentence, which are in ASCII.
pub(crate) fn warn(response: &mut Response, warnings: &[String]) {
    for text in warnings.iter().filter_map(|warning| HeaderValue::from_str(warning).ok()) {
        response.headers_mut().append(WARNING, text);
    }
}

fn insert(response: &mut Response, name: HeaderName, value: &str) -> Result<(), ApiError> {
    let value = HeaderValue::from_str(value)
        .map_err(|error| ApiError::internal(format!("the answer could not be written: {error}")))?;
    response.headers_mut().insert(name, value);
    Ok(())
}
