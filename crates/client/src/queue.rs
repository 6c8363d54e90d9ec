//! The queue that keeps a pipeline busy: while one latent is decoded, the next is made.

use std::time::{Duration, Instant};

use crate::pipeline::{self, Entrance, Exit};
use crate::{Counters, DecodeOptions, Decoded, Error, QueueOptions, RemoteVae, Tensor};

/// Where latents go in; its other end is [`Decodes`]. A clone is another way in to the same queue.
///
/// ```no_run
/// # use client::{DecodeOptions, DecodeQueue, Error, QueueOptions, RemoteVae, Tensor};
/// # async fn make(prompt: &str) -> Tensor { unimplemented!() }
/// # async fn show() -> Result<(), Error> {
/// let vae = RemoteVae::new("http://127.0.0.1:8080/")?;
/// let (queue, mut decodes) = DecodeQueue::new(vae, QueueOptions::new().in_flight(2));
/// tokio::spawn(async move {
///     for prompt in ["a", "b", "c"] {
///         queue.submit(prompt, make(prompt).await, DecodeOptions::new()).await?;
///     }
///     Ok::<_, Error>(()) // `queue` is dropped: no more will come
/// });
/// while let Some(finished) = decodes.next().await {
///     println!("{}: {:?}", finished.tag, finished.result);
/// }
/// # Ok(())
/// # }
/// ```
///
/// Dropping every `DecodeQueue` says that no more will come: what was submitted is still decoded, and then
/// [`Decodes::next`] gives `None`. Dropping [`Decodes`] cancels everything.
///
/// Who submits and takes results in one task must take a result whenever [`DecodeQueue::try_submit`] finds the house
/// full: with [`DecodeQueue::submit`] they would wait for themselves.
pub struct DecodeQueue<T> {
    entrance: Entrance<Job<T>>,
}

/// Where results come out; made by [`DecodeQueue::new`].
pub struct Decodes<T> {
    exit: Exit<Finished<T>>,
}

/// What came of one submission.
#[derive(Debug)]
#[non_exhaustive]
pub struct Finished<T> {
    /// What was submitted beside the latents: a name, a number, a prompt.
    pub tag: T,
    /// The decode, or why there is none. One failure says nothing of the others.
    pub result: Result<Decoded, Error>,
    /// How long it took from its begin to its end, with all its tries, without the time in the queue.
    pub time: Duration,
}

struct Job<T> {
    tag: T,
    latents: Tensor,
    options: DecodeOptions,
}

impl<T: Send + 'static> DecodeQueue<T> {
    /// Starts a queue in front of a remote VAE. It runs on the current Tokio runtime.
    ///
    /// # Panics
    /// Outside of a Tokio runtime, as [`tokio::spawn`] does. [`blocking::DecodeQueue`](crate::blocking::DecodeQueue)
    /// needs none.
    pub fn new(vae: RemoteVae, options: QueueOptions) -> (Self, Decodes<T>) {
        let (entrance, exit) = pipeline::start(options, move |job: Job<T>| {
            let vae = vae.clone();
            async move {
                let start = Instant::now();
                let result = vae.decode(&job.latents, &job.options).await;
                let good = result.is_ok();
                (Finished { tag: job.tag, result, time: start.elapsed() }, good)
            }
        });
        (Self { entrance }, Decodes { exit })
    }

    /// Hands over latents, as soon as there is a place for them, and comes back. The result bears the tag.
    ///
    /// # Errors
    /// [`Error::Closed`] when [`Decodes`] was dropped.
    pub async fn submit(&self, tag: T, latents: Tensor, options: DecodeOptions) -> Result<(), Error> {
        self.entrance.submit(Job { tag, latents, options }).await
    }

    /// Hands over latents if there is a place for them now.
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
        let Err(Job { tag, latents, options }) = self.entrance.try_submit(Job { tag, latents, options })
        else {
            return Ok(());
        };
        Err((tag, latents, options))
    }
}

impl<T> DecodeQueue<T> {
    /// How far the queue is.
    pub fn counters(&self) -> Counters {
        self.entrance.counters()
    }
}

impl<T> Clone for DecodeQueue<T> {
    fn clone(&self) -> Self {
        Self { entrance: self.entrance.clone() }
    }
}

impl<T> Decodes<T> {
    /// The next result, in the [`Order`](crate::Order) that was asked for. `None` when every [`DecodeQueue`] was
    /// dropped and all results are out.
    pub async fn next(&mut self) -> Option<Finished<T>> {
        self.exit.next().await
    }

    /// How far the queue is.
    pub fn counters(&self) -> Counters {
        self.exit.counters()
    }
}

impl<T> std::fmt::Debug for DecodeQueue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DecodeQueue").field(&self.counters()).finish()
    }
}

impl<T> std::fmt::Debug for Decodes<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Decodes").field(&self.counters()).finish()
    }
}
