//! Answers in two parts: what a tiny autoencoder makes of the latents, and then the picture itself.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use service::{Answer, Job, Note, Severity};
use tokio::sync::mpsc;
use tracing::error;

use crate::app::App;
use crate::deadline::Deadline;
use crate::error::ApiError;
use crate::handler::outcome;
use crate::metrics::RequestMetrics;
use crate::respond;

/// What parts are told apart by. It is no part of any picture file's beginning, and each part says its length.
const BOUNDARY: &str = "remote-vae-preview";

/// Decodes latents twice. The answer begins with the first picture; it has an error in the place of the second one if that
/// comes to nothing.
///
/// # Errors
/// No preview for this model, and whatever is wrong with the request, before any part is written.
pub(crate) async fn respond(
    app: &App,
    job: Job,
    deadline: Deadline,
    request_metrics: RequestMetrics,
) -> Result<Response, ApiError> {
    let model = job.model;
    let tiny = app.preview(model)?;
    let preview = Job {
        model: tiny,
        request: job.request.clone(),
        head: job.head.clone(),
        client: job.client,
        deadline: job.deadline,
        latents_of: Some(model),
        // The bytes are those of the other job, which has accounted for them.
        held: app.service().request_memory(),
        spans: job.spans.clone(),
    };
    // First in the line, as it is done first.
    let mut first = app.service().submit(preview).await?;
    let mut second = app.service().submit(job).await?;
    let (sender, coming) = mpsc::channel(1);
    let (app, in_flight) = (app.clone(), app.accept()?);
    tokio::spawn(async move {
        let _in_flight = in_flight;
        // A client that leaves gives both jobs up.
        let closed = sender.clone();
        let send = async {
            let of_preview = RequestMetrics::default();
            let mut preview = pin!(outcome(&app, tiny, &mut first, deadline, &of_preview));
            let mut exact = pin!(outcome(&app, model, &mut second, deadline, &request_metrics));
            // The exact picture may come first, and is all that is needed then.
            let early = tokio::select! {
                biased;
                preview = &mut preview => Err(preview),
                answer = &mut exact => Ok(answer),
            };
            let (preview, answer) = match early {
                Ok(answer @ Ok(_)) => (None, Some(answer)),
                Ok(answer @ Err(_)) => (Some(preview.await), Some(answer)),
                Err(preview) => (Some(preview), None),
            };
            if let Some(Ok(preview)) = preview {
                send(&sender, part(preview)).await;
            }
            let answer = match answer {
                Some(answer) => answer,
                None => exact.await,
            };
            send(&sender, answer.map_or_else(failed, part)).await;
            send(&sender, vec![Bytes::from(format!("--{BOUNDARY}--\r\n"))]).await;
        };
        tokio::select! {
            () = send => {}
            () = closed.closed() => {}
        }
    });
    let content_type = format!("multipart/x-mixed-replace; boundary={BOUNDARY}");
    Ok(([(header::CONTENT_TYPE, content_type)], Body::new(Parts { coming, rest: Bytes::new() }))
        .into_response())
}

async fn send(sender: &mpsc::Sender<Bytes>, part: Vec<Bytes>) {
    for bytes in part {
        // Who has left is noticed elsewhere.
        let _ = sender.send(bytes).await;
    }
}

/// An answer with its headers as a part.
fn part(answer: Answer) -> Vec<Bytes> {
    let body = answer.body.clone();
    match respond::respond(answer) {
        Ok(response) => whole(response.headers(), body),
        Err(error) => failed(error),
    }
}

/// What went wrong, as a part.
fn failed(error: ApiError) -> Vec<Bytes> {
    // The line of the request is written by then.
    if let Some(Note { severity: Severity::Error, reason }) = &error.note {
        error!(reason, "failed after the preview");
    }
    let body = Bytes::from(wire::ErrorBody { error: error.message.clone() }.to_json());
    let status = error.status.as_u16();
    let mut headers = error.into_response().into_parts().0.headers;
    headers.insert("status", status.into());
    whole(&headers, body)
}

fn whole(headers: &HeaderMap, body: Bytes) -> Vec<Bytes> {
    let mut head = format!("--{BOUNDARY}\r\n");
    for (name, value) in headers.iter().filter(|(name, _)| *name != header::CONTENT_LENGTH) {
        head += &format!("{name}: {}\r\n", value.to_str().unwrap_or_default());
    }
    head += &format!("content-length: {}\r\n\r\n", body.len());
    vec![Bytes::from(head), body, Bytes::from_static(b"\r\n")]
}

/// The body, as its parts come.
struct Parts {
    coming: mpsc::Receiver<Bytes>,
    /// What of the newest is not handed on yet.
    rest: Bytes,
}

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while self.rest.is_empty() {
            match ready!(self.coming.poll_recv(context)) {
                Some(bytes) => self.rest = bytes,
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(respond::PART);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }
}
