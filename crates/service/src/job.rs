//! A job, what its model has to do for it, and what is told of it until its end.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use vae::{Forecast, VaeInfo};
use wire::{Limits, Request, RequestHead, Task};

use crate::admission::{Admission, Mode};
use crate::answer::{Answer, Reply};
use crate::client::Client;
use crate::failure::Failure;
use crate::forecasts::Forecasts;
use crate::ledger::Token;
use crate::scheduler::Options;
use crate::spans::Spans;
use crate::values::NonFinite;
use crate::worker::{Read, Ticket};
use crate::{decode, encode};

/// Something to decode or to encode.
pub struct Job {
    /// Which model does it, by its index.
    pub model: usize,
    /// What is to be done.
    pub request: Request,
    /// What the request said before its body.
    pub head: RequestHead,
    /// Whose it is: clients share the models equally.
    pub client: Client,
    /// When nobody waits for it any longer; `None` for never.
    pub deadline: Option<Instant>,
    /// For a decode that is a preview: the model that the latents are of, by its index.
    pub latents_of: Option<usize>,
    /// The memory of its request.
    pub held: Token,
    /// The spans of its parts.
    pub spans: Spans,
}

/// What a job is, once its values and its model are known.
#[derive(Clone, Copy, Debug)]
pub struct Outline {
    /// What is done.
    pub task: Task,
    /// What the answer is.
    pub media_type: &'static str,
    /// How it is done.
    pub mode: Mode,
    /// Pixels that are decoded or encoded.
    pub pixels: usize,
}

/// What a job took.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// What was done.
    pub outline: Outline,
    /// What it was going to take; `None` for a model that cannot tell.
    pub forecast: Option<Forecast>,
    /// The most bytes that the engine had in use meanwhile, if it can tell.
    pub memory: Option<usize>,
    /// Time in the queue.
    pub queued: Duration,
    /// Time in the model.
    pub worked: Duration,
    /// Time to write the answer.
    pub written: Duration,
}

/// What happens to a job.
#[derive(Debug)]
pub enum Event {
    /// It waits for its turn.
    Queued {
        /// What it is.
        outline: Outline,
        /// How many jobs wait besides it.
        ahead: usize,
        /// When its answer can be expected, as far as that is known.
        eta: Option<Duration>,
    },
    /// Its model works on it.
    Started,
    /// So many of `total` units of the work are done.
    Progress {
        /// Units that are done.
        done: usize,
        /// All units.
        total: usize,
    },
    /// It is done; nothing follows.
    Done(Box<Answer>),
    /// There will be no answer; nothing follows.
    Failed(Failure),
}

/// What happens to a job, in order. Dropping it gives the job up: it leaves the queue, or its work is cancelled.
pub struct Events {
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
    pub(crate) _ticket: Ticket,
}

impl Events {
    /// The next event. After [`Event::Done`] and [`Event::Failed`], and when the thread that works on the job has ended,
    /// it is a failure.
    pub async fn next(&mut self) -> Event {
        self.events.recv().await.unwrap_or_else(|| Event::Failed(Failure::lost()))
    }
}

/// What a request meets: the model that it is for, and what there is room for.
pub(crate) struct Context<'a> {
    pub(crate) info: &'a VaeInfo,
    /// The model that latents are of, if it is another one.
    pub(crate) latents_of: Option<&'a VaeInfo>,
    pub(crate) limits: &'a Limits,
    pub(crate) admission: &'a Admission,
    pub(crate) forecasts: Option<&'a Forecasts>,
    pub(crate) non_finite: NonFinite,
}

/// A request that is ready for its model.
pub(crate) struct Prepared {
    pub(crate) options: Options,
    /// Of what the model works on.
    pub(crate) shape: Vec<usize>,
    /// Reads that from the request.
    pub(crate) read: Read,
    /// Bytes that reading takes, beside the request as it came.
    pub(crate) reading: usize,
    /// Pictures, or frames of videos, that are decoded or encoded.
    pub(crate) frames: usize,
    /// Their pixels.
    pub(crate) pixels: usize,
    pub(crate) mode: Mode,
    /// What it will take; `None` for a model that cannot tell.
    pub(crate) forecast: Option<Forecast>,
    pub(crate) reply: Reply,
    /// What is odd, in sentences for the client and the log.
    pub(crate) warnings: Vec<String>,
}

/// What a model has to do for a request.
///
/// # Errors
/// Whatever the shapes and the values show: a request that does not fit the model, is too large, or cannot be answered.
pub(crate) fn prepare(request: Request, context: &Context<'_>) -> Result<(Task, Prepared), Failure> {
    Ok(match request {
        Request::Decode(request) => (Task::Decode, decode::prepare(request, context)?),
        Request::Encode(request) => (Task::Encode, encode::prepare(request, context)?),
    })
}

/// Bytes of the values of a tensor of this shape, in float32.
pub(crate) fn values_memory(shape: &[usize]) -> usize {
    shape.iter().fold(4, |bytes: usize, &axis| bytes.saturating_mul(axis))
}
