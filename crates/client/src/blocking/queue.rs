//! The queues for threads.

use std::time::Duration;

use tokio::runtime::{self, Handle, Runtime};

use crate::{Counters, Decode, Decoded, Encode, Encoded, Error, Finished, QueueOptions, Work};

/// Where latents go in and are decoded; pictures and videos come out of [`Decodes`].
pub type DecodeQueue<T> = Queue<Decode, T>;
/// Where decodes come out; made by [`DecodeQueue::new`](Queue::new).
pub type Decodes<T> = Results<T, Decoded>;
/// Where pictures go in and are encoded; latents come out of [`Encodes`].
pub type EncodeQueue<T> = Queue<Encode, T>;
/// Where encodes come out; made by [`EncodeQueue::new`](Queue::new).
pub type Encodes<T> = Results<T, Encoded>;

/// [`crate::Queue`] for threads: a [`DecodeQueue`] or an [`EncodeQueue`]. Its other end is [`Results`], an iterator.
///
/// Dropping every queue says that no more will come: what was submitted is still done, and then the iterator ends.
/// Dropping [`Results`] cancels everything.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doctest/demo.rs"));
/// use client::blocking::EncodeQueue;
/// use client::{EncodeOptions, Error, Picture, QueueOptions, RemoteVae};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let endpoint = demo_server();
/// let vae = RemoteVae::new(&endpoint)?; // such as http://127.0.0.1:8080/
/// let (queue, encodes) = EncodeQueue::new(vae, QueueOptions::new().in_flight(2))?;
/// std::thread::spawn(move || {
///     for path in photographs() {
///         let picture = Picture::File(std::fs::read(&path)?.into());
///         queue.submit(path, picture, EncodeOptions::new())?;
///     }
///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(()) // `queue` is dropped: no more will come
/// });
/// # let mut count = 0;
/// for finished in encodes {
///     println!("{}: {}", finished.tag.display(), finished.result?.latents.head); // photo.jpg: float16 [1, 16, 6, 9]
/// #   count += 1;
/// }
/// # assert_eq!(count, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Queue<W: Work, T> {
    queue: crate::Queue<W, T>,
    runtime: Handle,
}

/// Where results come out; made by [`Queue::new`].
#[derive(Debug)]
pub struct Results<T, R> {
    results: crate::Results<T, R>,
    /// Always there until the drop.
    runtime: Option<Runtime>,
}

impl<W: Work, T: Send + 'static> Queue<W, T> {
    /// Starts a queue in front of a remote VAE, with a thread of its own.
    ///
    /// # Errors
    /// [`Error::BlockingInAsync`] when called from async code, [`Error::Endpoint`] when the system has no means left
    /// for a thread.
    pub fn new(vae: crate::RemoteVae, options: QueueOptions) -> Result<(Self, Results<T, W::Output>), Error> {
        if Handle::try_current().is_ok() {
            return Err(Error::BlockingInAsync);
        }
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("remote-vae-queue")
            .enable_all()
            .build()
            .map_err(|error| Error::Endpoint { endpoint: vae.endpoint(), reason: error.to_string() })?;
        let entered = runtime.enter();
        let (queue, results) = crate::Queue::new(vae, options);
        drop(entered);
        let handle = runtime.handle().clone();
        Ok((Self { queue, runtime: handle }, Results { results, runtime: Some(runtime) }))
    }

    /// As [`crate::Queue::submit`]: waits while the house is full.
    ///
    /// # Errors
    /// [`Error::Closed`] when [`Results`] was dropped, [`Error::BlockingInAsync`] when called from async code.
    pub fn submit(&self, tag: T, input: W::Input, options: W::Options) -> Result<(), Error> {
        if Handle::try_current().is_ok() {
            return Err(Error::BlockingInAsync);
        }
        self.runtime.block_on(self.queue.submit(tag, input, options))
    }

    /// As [`crate::Queue::try_submit`].
    ///
    /// # Errors
    /// What was to be handed over, when the house is full or [`Results`] was dropped.
    pub fn try_submit(
        &self,
        tag: T,
        input: W::Input,
        options: W::Options,
    ) -> Result<(), (T, W::Input, W::Options)> {
        self.queue.try_submit(tag, input, options)
    }
}

impl<W: Work, T> Queue<W, T> {
    /// How far the queue is.
    pub fn counters(&self) -> Counters {
        self.queue.counters()
    }
}

impl<W: Work, T> Clone for Queue<W, T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), runtime: self.runtime.clone() }
    }
}

impl<T, R> Results<T, R> {
    /// The next result if it comes within this time, `None` if it does not or if there is none any more: see
    /// [`Results::counters`].
    ///
    /// # Panics
    /// When called from async code, which it would bring to a stop.
    pub fn next_within(&mut self, time: Duration) -> Option<Finished<T, R>> {
        let runtime = self.runtime.as_ref()?;
        let next = async { tokio::time::timeout(time, self.results.next()).await };
        runtime.block_on(next).ok().flatten()
    }

    /// How far the queue is.
    pub fn counters(&self) -> Counters {
        self.results.counters()
    }
}

impl<T, R> Iterator for Results<T, R> {
    type Item = Finished<T, R>;

    /// Waits for the next result.
    ///
    /// # Panics
    /// When called from async code, which it would bring to a stop.
    fn next(&mut self) -> Option<Finished<T, R>> {
        self.runtime.as_ref()?.block_on(self.results.next())
    }
}

impl<T, R> Drop for Results<T, R> {
    fn drop(&mut self) {
        // A plain drop of a runtime waits for it, which panics inside async code.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
