//! The queues that keep a pipeline busy: while one latent is decoded, or one picture encoded, the next is made.

mod options;
mod pipeline;

use std::time::{Duration, Instant};

pub use self::options::{Counters, Order, QueueOptions};
use self::pipeline::{Entrance, Exit};
use crate::{DecodeOptions, Decoded, EncodeOptions, Encoded, Error, Picture, RemoteVae, Tensor};

/// Where latents go in and are decoded; pictures and videos come out of [`Decodes`].
pub type DecodeQueue<T> = Queue<Decode, T>;
/// Where decodes come out; made by [`DecodeQueue::new`](Queue::new).
pub type Decodes<T> = Results<T, Decoded>;
/// Where pictures go in and are encoded; latents come out of [`Encodes`].
pub type EncodeQueue<T> = Queue<Encode, T>;
/// Where encodes come out; made by [`EncodeQueue::new`](Queue::new).
pub type Encodes<T> = Results<T, Encoded>;

/// What a queue does: [`Decode`] or [`Encode`].
pub trait Work: sealed::Sealed + Send + 'static {
    /// What is submitted.
    type Input: Send + Sync + 'static;
    /// How it is to be done.
    type Options: Send + Sync + 'static;
    /// What comes of it.
    type Output: Send + 'static;

    #[doc(hidden)]
    fn run(
        vae: &RemoteVae,
        input: &Self::Input,
        options: &Self::Options,
    ) -> impl Future<Output = Result<Self::Output, Error>> + Send;
}

mod sealed {
    /// There are two kinds of work, and no others elsewhere.
    #[expect(unnameable_types, reason = "that is what it is for")]
    pub trait Sealed {}
}

/// The work of a [`DecodeQueue`].
#[derive(Debug)]
pub enum Decode {}

/// The work of an [`EncodeQueue`].
#[derive(Debug)]
pub enum Encode {}

impl sealed::Sealed for Decode {}
impl sealed::Sealed for Encode {}

impl Work for Decode {
    type Input = Tensor;
    type Options = DecodeOptions;
    type Output = Decoded;

    async fn run(vae: &RemoteVae, latents: &Tensor, options: &DecodeOptions) -> Result<Decoded, Error> {
        vae.decode(latents, options).await
    }
}

impl Work for Encode {
    type Input = Picture;
    type Options = EncodeOptions;
    type Output = Encoded;

    async fn run(vae: &RemoteVae, picture: &Picture, options: &EncodeOptions) -> Result<Encoded, Error> {
        vae.encode(picture, options).await
    }
}

/// A [`DecodeQueue`] or an [`EncodeQueue`]. A clone is another way in to the same queue.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doctest/demo.rs"));
/// use client::{DecodeOptions, DecodeQueue, Error, QueueOptions, RemoteVae};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let endpoint = demo_server();
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let vae = RemoteVae::new(&endpoint)?; // such as http://127.0.0.1:8080/
/// let (queue, mut decodes) = DecodeQueue::new(vae, QueueOptions::new().in_flight(2));
/// tokio::spawn(async move {
///     for prompt in ["a", "b", "c"] {
///         queue.submit(prompt, generate(prompt).await, DecodeOptions::new()).await?;
///     }
///     Ok::<_, Error>(()) // `queue` is dropped: no more will come
/// });
/// while let Some(finished) = decodes.next().await {
///     println!("{}: {:?}", finished.tag, finished.result?); // a: Image(jpeg 32 x 24, 863 bytes)
/// }
/// # assert_eq!(decodes.counters().succeeded, 3);
/// # Ok(()) })
/// # }
/// ```
///
/// Dropping every queue says that no more will come: what was submitted is still done, and then
/// [`Results::next`] gives `None`. Dropping [`Results`] cancels everything.
///
/// Who submits and takes results in one task must take a result whenever [`Queue::try_submit`] finds the house
/// full: with [`Queue::submit`] they would wait for themselves.
pub struct Queue<W: Work, T> {
    entrance: Entrance<Job<W, T>>,
}

/// Where results come out; made by [`Queue::new`].
pub struct Results<T, R> {
    exit: Exit<Finished<T, R>>,
}

/// What came of one submission.
#[derive(Debug)]
#[non_exhaustive]
pub struct Finished<T, R = Decoded> {
    /// What was submitted beside the latents or the picture: a name, a number, a prompt.
    pub tag: T,
    /// The decode or encode, or why there is none. One failure says nothing of the others.
    pub result: Result<R, Error>,
    /// How long it took from its begin to its end, with all its tries, without the time in the queue.
    pub time: Duration,
}

struct Job<W: Work, T> {
    tag: T,
    input: W::Input,
    options: W::Options,
}

impl<W: Work, T: Send + 'static> Queue<W, T> {
    /// Starts a queue in front of a remote VAE. It runs on the current Tokio runtime.
    ///
    /// # Panics
    /// Outside of a Tokio runtime, as [`tokio::spawn`] does. [`blocking::Queue`](crate::blocking::Queue) needs none.
    pub fn new(vae: RemoteVae, options: QueueOptions) -> (Self, Results<T, W::Output>) {
        let (entrance, exit) = pipeline::start(options, move |job: Job<W, T>| {
            let vae = vae.clone();
            async move {
                let start = Instant::now();
                let result = W::run(&vae, &job.input, &job.options).await;
                let good = result.is_ok();
                (Finished { tag: job.tag, result, time: start.elapsed() }, good)
            }
        });
        (Self { entrance }, Results { exit })
    }

    /// Hands over latents or a picture, as soon as there is a place for it, and comes back. The result bears the tag.
    ///
    /// # Errors
    /// [`Error::Closed`] when [`Results`] was dropped.
    pub async fn submit(&self, tag: T, input: W::Input, options: W::Options) -> Result<(), Error> {
        self.entrance.submit(Job { tag, input, options }).await
    }

    /// Hands over latents or a picture if there is a place for it now.
    ///
    /// # Errors
    /// What was to be handed over, when the house is full or [`Results`] was dropped.
    pub fn try_submit(
        &self,
        tag: T,
        input: W::Input,
        options: W::Options,
    ) -> Result<(), (T, W::Input, W::Options)> {
        let refused = self.entrance.try_submit(Job { tag, input, options });
        refused.map_err(|Job { tag, input, options }| (tag, input, options))
    }
}

impl<W: Work, T> Queue<W, T> {
    /// How far the queue is.
    pub fn counters(&self) -> Counters {
        self.entrance.counters()
    }
}

impl<W: Work, T> Clone for Queue<W, T> {
    fn clone(&self) -> Self {
        Self { entrance: self.entrance.clone() }
    }
}

impl<T, R> Results<T, R> {
    /// The next result, in the [`Order`] that was asked for. `None` when every [`Queue`] was dropped and all results
    /// are out.
    pub async fn next(&mut self) -> Option<Finished<T, R>> {
        self.exit.next().await
    }

    /// How far the queue is.
    pub fn counters(&self) -> Counters {
        self.exit.counters()
    }
}

impl<W: Work, T> std::fmt::Debug for Queue<W, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Queue").field(&self.counters()).finish()
    }
}

impl<T, R> std::fmt::Debug for Results<T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Results").field(&self.counters()).finish()
    }
}
