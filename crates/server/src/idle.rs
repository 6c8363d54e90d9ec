//! How long a client may say nothing: between its requests, and in the middle of a request's head.
//!
//! hyper has one time for both. Load balancers keep connections for a minute and send the next request over one of
//! them at any moment, so a server must keep them for longer than that; but a head that trickles must not last so long.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// The requests of one connection that are not over: neither their bodies are read, nor their answers written.
#[derive(Clone, Default)]
pub(crate) struct Exchanges(Arc<Counts>);

#[derive(Default)]
struct Counts {
    begun: AtomicUsize,
    open: AtomicUsize,
    /// Of the connection, which waits until none is open.
    waker: Mutex<Option<Waker>>,
}

/// A request, or its answer, that is not over.
pub(crate) struct Open(Arc<Counts>);

impl Exchanges {
    /// A request has come.
    pub(crate) fn begin(&self) -> Open {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.open.fetch_add(1, Ordering::SeqCst);
        Open(Arc::clone(&self.0))
    }

    fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed)
    }

    fn are_over(&self) -> bool {
        self.0.open.load(Ordering::SeqCst) == 0
    }

    /// Has the connection looked at again when they are over.
    fn wake(&self, cx: &Context<'_>) {
        *self.0.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
    }
}

impl Clone for Open {
    fn clone(&self) -> Self {
        self.0.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            let waker = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

/// A body; its exchange is not over as long as it is there.
pub(crate) struct During<B> {
    body: B,
    _open: Open,
}

impl<B> During<B> {
    pub(crate) fn new(body: B, open: Open) -> Self {
        Self { body, _open: open }
    }
}

impl<B: Body + Unpin> Body for During<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    /// The first byte of a request.
    Request,
    /// The rest of its head.
    Head,
}

/// Why a connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expired {
    /// It was idle for too long.
    Idle,
    /// A head did not come to its end.
    Head,
}

/// Watches over what a client sends.
pub(crate) struct Idle {
    exchanges: Exchanges,
    keep_alive: Duration,
    header_timeout: Duration,
    awaits: Awaits,
    /// Requests that have begun, as far as this has seen.
    begun: usize,
    /// The last of them was not over when this last looked.
    busy: bool,
    /// Until when the client may say nothing.
    until: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    /// Of a new connection, whose first head shall come at once.
    pub(crate) fn new(exchanges: Exchanges, keep_alive: Duration, header_timeout: Duration) -> Self {
        let until = Instant::now() + header_timeout;
        let (awaits, begun, busy, timer) = (Awaits::Head, 0, false, None);
        Self { exchanges, keep_alive, header_timeout, awaits, begun, busy, until, timer }
    }

    /// How many requests have begun.
    pub(crate) fn begun(&self) -> usize {
        self.exchanges.begun()
    }

    /// The client has sent something.
    pub(crate) fn received(&mut self) {
        self.catch_up();
        if !self.busy && self.awaits == Awaits::Request {
            self.awaits = Awaits::Head;
            self.until = Instant::now() + self.header_timeout;
            self.timer = None;
        }
    }

    /// The client has taken something: while it reads an answer, it is not idle.
    pub(crate) fn taken(&mut self) {
        self.catch_up();
        if !self.busy && self.awaits == Awaits::Request {
            self.until = Instant::now() + self.keep_alive;
        }
    }

    /// The client says nothing now; ready when it has done so for too long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Expired> {
        self.catch_up();
        if self.busy {
            self.exchanges.wake(cx);
            // They may have ended just now.
            self.catch_up();
            if self.busy {
                return Poll::Pending;
            }
        }
        loop {
            let until = self.until;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
            if Instant::now() >= self.until {
                return Poll::Ready(match self.awaits {
                    Awaits::Request => Expired::Idle,
                    Awaits::Head => Expired::Head,
                });
            }
        }
    }

    /// After each request the connection waits for another one.
    fn catch_up(&mut self) {
        let (begun, over) = (self.exchanges.begun(), self.exchanges.are_over());
        if begun != self.begun || !over {
            self.begun = begun;
            self.busy = true;
        }
        if self.busy && over {
            self.busy = false;
            self.awaits = Awaits::Request;
            self.until = Instant::now() + self.keep_alive;
            self.timer = None;
        }
    }
}
