//! The queue for threads.

use std::time::Duration;

use tokio::runtime::{self, Handle, Runtime};

use crate::{Counters, DecodeOptions, Error, Finished, QueueOptions, Tensor};

/// [`crate::DecodeQueue`] for threads: where latents go in. Its other end is [`Decodes`], an iterator.
///
/// Dropping every `DecodeQueue` says that no more will come: what was submitted is still decoded, and then the
/// iterator ends. Dropping [`Decodes`] cancels everything.
///
/// ```no_run
/// # use client::{DecodeOptions, Error, QueueOptions, RemoteVae, Tensor, blocking::DecodeQueue};
/// # fn make(prompt: &str) -> Tensor { unimplemented!() }
/// # fn show() -> Result<(), Error> {
/// let vae = RemoteVae::new("http://127.0.0.1:8080/")?;
/// let (queue, decodes) = DecodeQueue::new(vae, QueueOptions::new().in_flight(2))?;
/// std::thread::spawn(move || {
///     for prompt in ["a", "b", "c"] {
///         queue.submit(prompt, make(prompt), DecodeOptions::new())?;
///     }
///     Ok::<_, Error>(()) // `queue` is dropped: no more will come
/// });
/// for finished in decodes {
///     println!("{}: {:?}", finished.tag, finished.result);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DecodeQueue<T> {
    queue: crate::DecodeQueue<T>,
    runtime: Handle,
}

/// Where results come out; made by [`DecodeQueue::new`].
#[derive(Debug)]
pub struct Decodes<T> {
    decodes: crate::Decodes<T>,
    /// Always there until the drop.
    runtime: Option<Runtime>,
}

impl<T: Send + 'static> DecodeQueue<T> {
    /// Starts a queue in front of a remote VAE, with a thread of its own.
    ///
    /// # Errors
    /// [`Error::BlockingInAsync`] when called from async code, [`Error::Endpoint`] when the system has no means left
    /// for a thread.
    pub fn new(vae: crate::RemoteVae, options: QueueOptions) -> Result<(Self, Decodes<T>), Error> {
        if Handle::try_current().is_ok() {
            return Err(Error::BlockingInAsync);
        }
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("decode-queue")
            .enable_all()
            .build()
            .map_err(|error| Error::Endpoint { endpoint: vae.endpoint(), reason: error.to_string() })?;
        let entered = runtime.enter();
        let (queue, decodes) = crate::DecodeQueue::new(vae, options);
        drop(entered);
        let handle = runtime.handle().clone();
        Ok((Self { queue, runtime: handle }, Decodes { decodes, runtime: Some(runtime) }))
    }

    /// As [`crate::DecodeQueue::submit`]: waits while the house is full.
    ///
    /// # Errors
    /// [`Error::Closed`] when [`Decodes`] was dropped, [`Error::BlockingInAsync`] when called from async code.
    pub fn submit(&self, tag: T, latents: Tensor, options: DecodeOptions) -> Result<(), Error> {
        if Handle::try_current().is_ok() {
            return Err(Error::BlockingInAsync);
        }
        self.runtime.block_on(self.queue.submit(tag, latents, options))
    }

    /// As [`crate::DecodeQueue::try_submit`].
    ///
    /// # Errors
    /// What was to be handed over, when the house is full or [`Decodes`] was dropped.
    #[expect(
        clippy::result_large_err,
        reason = "what is refused goes back to its owner, as std's channels do it"
    )]
    pub fn try_submit(
        &self,
        tag: T,
        latents: Tensor,
        options: DecodeOptions,
    ) -> Result<(), (T, Tensor, DecodeOptions)> {
        self.queue.try_submit(tag, latents, options)
    }
}

impl<T> DecodeQueue<T> {
    /// How far the queue is.
    pub fn counters(&self) -> Counters {
        self.queue.counters()
    }
}

impl<T> Clone for DecodeQueue<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), runtime: self.runtime.clone() }
    }
}

impl<T> Decodes<T> {
    /// The next result if it comes within this time, `None` if it does not or if there is none any more: see
    /// [`Decodes::counters`].
    ///
    /// # Panics
    /// When called from async code, which it would bring to a stop.
    pub fn next_within(&mut self, time: Duration) -> Option<Finished<T>> {
        let runtime = self.runtime.as_ref()?;
        let next = async { tokio::time::timeout(time, self.decodes.next()).await };
        runtime.block_on(next).ok().flatten()
    }

    /// How far the queue is.
    pub fn counters(&self) -> Counters {
        self.decodes.counters()
    }
}

impl<T> Iterator for Decodes<T> {
    type Item = Finished<T>;

    /// Waits for the next result.
    ///
    /// # Panics
    /// When called from async code, which it would bring to a stop.
    fn next(&mut self) -> Option<Finished<T>> {
        self.runtime.as_ref()?.block_on(self.decodes.next())
    }
}

impl<T> Drop for Decodes<T> {
    fn drop(&mut self) {
        // A plain drop of a runtime waits for it, which panics inside async code.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
