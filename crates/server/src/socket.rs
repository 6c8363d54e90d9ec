//! A TCP connection that can be read by the HTTP server and at the same time be asked whether its client is still there.
//!
//! While a request is worked on, hyper looks at the connection no more once anything has come behind the request. So this
//! looks by itself. A client that has closed its side has either left, or it has only said that it sends no more and still
//! reads its answer: TCP says the same of both. They differ once something is sent to them, as a connection that nobody
//! has open any more is then reset. HTTP/1.1 has something that may be sent before any answer: `100 Continue`, which
//! clients read over (RFC 9110, 15.2).

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tracing::debug;

/// How often a connection is looked at that cannot say by itself when something happens.
const LOOK: Duration = Duration::from_millis(50);

/// What is sent to a client that has closed its side, after this time: most answers are there before.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const PROBE_AFTER: Duration = Duration::from_millis(100);

/// After how long without a word the system asks whether the client's machine is still there, and how often then.
const SILENCE: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_secs(5);

/// A TCP connection. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    /// Whether something is on its way out that the client has not taken yet.
    is_full: Arc<AtomicBool>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let keepalive = TcpKeepalive::new().with_time(SILENCE).with_interval(ASK_EVERY);
        let socket = SockRef::from(&stream);
        // An answer is written in few pieces, and none of them shall wait for the other side.
        if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive)) {
            debug!(%error, "a connection keeps its delay");
        }
        Self { stream: Arc::new(stream), is_full: Arc::default() }
    }

    /// Waits until nobody is at the other end any more. `may_probe`: whether `100 Continue` may be sent to a client that has
    /// closed its side; without it that client counts as gone.
    ///
    /// To be called only while the answer to a request has not begun, and from the task that writes it.
    pub(crate) async fn left(&self, may_probe: bool) {
        if self.closes().await.is_err() || !may_probe {
            return;
        }
        sleep(PROBE_AFTER).await;
        // The end of an earlier answer may still be on its way: that will tell as well.
        if !self.is_full.load(Ordering::Relaxed)
            && !matches!(self.stream.try_write(PROBE), Ok(length) if length == PROBE.len())
        {
            return;
        }
        while !self.is_reset() {
            sleep(LOOK).await;
        }
    }

    /// Waits until the client has closed its side.
    ///
    /// # Errors
    /// The connection is broken.
    async fn closes(&self) -> io::Result<()> {
        // With an unread byte there is nothing to wait for; what comes behind it is told by the state alone.
        while self.stream.peek(&mut [0]).await? > 0 {
            if self.stream.ready(Interest::READABLE).await?.is_read_closed() {
                break;
            }
            sleep(LOOK).await;
        }
        if self.is_reset() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }

    fn is_reset(&self) -> bool {
        !matches!(self.stream.take_error(), Ok(None)) || self.stream.peer_addr().is_err()
    }

    /// Notes whether the other side takes what is written.
    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        self.is_full.store(written.is_pending(), Ordering::Relaxed);
        written
    }

    fn poll_step(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.note(self.poll_step(cx, |stream| stream.try_write(data)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.note(self.poll_step(cx, |stream| stream.try_write_vectored(data)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket keeps nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match SockRef::from(&*self.stream).shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            outcome => outcome,
        })
    }
}
