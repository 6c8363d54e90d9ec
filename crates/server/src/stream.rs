//! A connection that does not wait for ever, and whose errors are JSON down to the last.
//!
//! Two things that hyper leaves to the stream beneath it: a client that stops to read its answer would keep it in
//! memory for as long as it likes; and a request that is not HTTP never reaches a handler, so hyper refuses it by
//! itself, with an empty body where every client of this protocol reads JSON.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use wire::ErrorBody;

use crate::idle::{Expired, Idle};

/// What carries bytes to a client and back: TCP, plain or under TLS.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection to a client.
pub(crate) struct Stream {
    transport: Box<dyn Transport>,
    /// How long the client may take for [`PART`] of its answer, or for what is left of it.
    timeout: Duration,
    /// Runs since the client first kept this waiting.
    slow: Option<Slow>,
    refusal: Option<Refusal>,
    idle: Idle,
}

/// Bytes that a client has to take within the time for it, so that nobody holds an answer for as long as they like by
/// reading it byte by byte.
const PART: usize = 1 << 20;

/// A client that keeps its answer waiting.
struct Slow {
    timer: Pin<Box<Sleep>>,
    /// Which request of the connection its answer is to.
    request: usize,
    /// Bytes that it has taken since.
    taken: usize,
}

/// A refusal that is written in the place of hyper's.
struct Refusal {
    bytes: Vec<u8>,
    written: usize,
}

impl Stream {
    pub(crate) fn new(transport: Box<dyn Transport>, timeout: Duration, idle: Idle) -> Self {
        Self { transport, timeout, slow: None, refusal: None, idle }
    }

    /// Does one step of writing, unless the client has taken too little for too long.
    fn step(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut dyn Transport>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let request = self.idle.begun();
        let of_this = |slow: &Slow| slow.request == request;
        if let Poll::Ready(outcome) = write(Pin::new(self.transport.as_mut()), cx) {
            self.idle.taken();
            if let (Some(slow), Ok(length)) = (&mut self.slow, &outcome) {
                slow.taken += length;
            }
            if self.slow.as_ref().is_some_and(|slow| slow.taken >= PART || !of_this(slow)) {
                self.slow = None;
            }
            return Poll::Ready(outcome);
        }
        let timeout = self.timeout;
        let slow = match self.slow.take().filter(of_this) {
            Some(slow) => slow,
            None => Slow { timer: Box::pin(sleep(timeout)), request, taken: 0 },
        };
        ready!(self.slow.insert(slow).timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.refusal.is_none() {
            this.refusal = json_refusal(data).map(|bytes| Refusal { bytes, written: 0 });
        }
        let Some(mut refusal) = this.refusal.take() else {
            return this.step(cx, |stream, cx| stream.poll_write(cx, data));
        };
        while let Some(rest) = refusal.bytes.get(refusal.written..).filter(|rest| !rest.is_empty()) {
            match this.step(cx, |stream, cx| stream.poll_write(cx, rest)) {
                Poll::Ready(Ok(count)) if count > 0 => refusal.written += count,
                Poll::Ready(Ok(_)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    this.refusal = Some(refusal);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A refusal has no body, so it comes in one piece.
        if let [only] = data {
            return self.poll_write(cx, only);
        }
        self.get_mut().step(cx, |stream, cx| stream.poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().transport.as_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().transport.as_mut()).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let outcome = Pin::new(this.transport.as_mut()).poll_read(cx, buffer);
        if outcome.is_pending() {
            return match ready!(this.idle.poll(cx)) {
                // The connection ends as if the client had closed it.
                Expired::Idle => Poll::Ready(Ok(())),
                Expired::Head => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            };
        }
        if buffer.filled().len() > before {
            this.idle.received();
        }
        outcome
    }
}

/// What to write in the place of `data`, if that is an answer of hyper's own: an error without a body, which this
/// server's handlers never give.
fn json_refusal(data: &[u8]) -> Option<Vec<u8>> {
    const NO_BODY: &str = "\r\ncontent-length: 0\r\n";
    let status = data.strip_prefix(b"HTTP/1.1 ").or_else(|| data.strip_prefix(b"HTTP/1.0 "))?.get(..3)?;
    if !status.starts_with(b"4") {
        return None;
    }
    let head = str::from_utf8(data).ok()?;
    // A whole head, and nothing behind it.
    if head.find("\r\n\r\n")? + 4 != head.len() {
        return None;
    }
    let (before, after) = head.split_once(NO_BODY)?;
    let sentence = match status {
        b"414" => "the URL is too long",
        b"431" => "the headers of the request are too large",
        _ => "the request cannot be read: it is not HTTP/1.1",
    };
    let json = ErrorBody { error: sentence.to_owned() }.to_json();
    let length = json.len();
    Some(
        format!("{before}\r\ncontent-type: {}\r\ncontent-length: {length}\r\n{after}{json}", wire::JSON)
            .into_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_without_a_body_are_rewritten() {
        let refusal =
            b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: now\r\n\r\n";
        let written = String::from_utf8(json_refusal(refusal).unwrap()).unwrap();
        let (head, body) = written.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            head,
            format!(
                "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\ndate: now",
                body.len()
            )
        );
        assert_eq!(ErrorBody::read(body.as_bytes()).error, "the request cannot be read: it is not HTTP/1.1");

        for other in [
            &b""[..],
            b"HTTP/1.1 4",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 7\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n",
            b"HTTP/1.1 400 \xff\r\ncontent-length: 0\r\n\r\n",
        ] {
            assert_eq!(json_refusal(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
