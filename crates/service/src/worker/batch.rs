//! The jobs of a batch: what each of them brings, and what it gets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use media::IsWanted;
use tokio::sync::mpsc::UnboundedSender;
use tracing::Span;
use vae::{HostTensor, VaeError};

use crate::failure::Failure;
use crate::job::{Event, Outline};
use crate::ledger::{Ledger, Pool, Token, WRITING};
use crate::registry::Loaded;
use crate::scheduler::{Options, Started};
use crate::spans::Spans;
use crate::stages::Stage;

/// Called with what came of the work.
pub(crate) type Outcome = Box<dyn FnOnce(Result<Done, Failure>) + Send>;

/// Reads a request to what its model takes.
pub(crate) type Read = Box<dyn FnOnce(&IsWanted<'_>) -> Result<HostTensor, VaeError> + Send>;

/// What a model works on.
pub(crate) enum Input {
    /// As the model takes it.
    Ready(HostTensor),
    /// As it came, for want of memory; it is read when it is its turn.
    Unread(Read),
}

/// A job for a worker.
pub(crate) struct Assignment {
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) options: Options,
    pub(crate) input: Input,
    /// The memory of the input.
    pub(crate) held: Token,
    /// Bytes that the work takes on the engine, and on the host beside it.
    pub(crate) memory: [usize; 2],
    /// When nobody waits for it any longer.
    pub(crate) deadline: Option<Instant>,
    pub(crate) outcome: Outcome,
    pub(crate) spans: Spans,
    pub(crate) events: UnboundedSender<Event>,
    pub(crate) outline: Outline,
}

/// An assignment in the queue.
pub(super) struct Queued {
    pub(super) model: usize,
    pub(super) assignment: Assignment,
    pub(super) abandoned: Arc<AtomicBool>,
    /// Of the request, so that what is logged of the work carries its id.
    pub(super) span: Span,
    /// Lasts as long as it waits.
    pub(super) waits: Span,
}

/// What a job gets.
pub(crate) struct Done {
    pub(crate) output: Output,
    /// The memory of the output, and of what is written from it.
    pub(crate) held: Token,
    /// Time in the queue.
    pub(crate) queued: Duration,
    /// Time in the model.
    pub(crate) worked: Duration,
    /// The most bytes that the engine had in use meanwhile, if it can tell.
    pub(crate) memory: Option<usize>,
}

/// A job's part of what a model gave: of a decode, `[B, 3, H, W]` or `[B, 3, F, H, W]`, nominally in [-1, 1]; of an encode,
/// the moments of the latents' distribution.
pub(crate) struct Output {
    all: Arc<HostTensor>,
    first: usize,
    items: usize,
}

impl Output {
    /// The part, cut out where it is not all.
    pub(crate) fn into_tensor(self) -> HostTensor {
        let Self { all, first, items } = self;
        let batch = all.shape.first().copied().unwrap_or(0);
        if items == batch {
            return Arc::try_unwrap(all).unwrap_or_else(|all| (*all).clone());
        }
        let length = all.data.len().checked_div(batch).unwrap_or(0);
        let data = all.data.iter().skip(first * length).take(items * length).copied().collect();
        let shape = std::iter::once(items).chain(all.shape.iter().skip(1).copied()).collect();
        HostTensor::new(shape, data)
    }
}

/// A job at work.
pub(super) struct Member {
    pub(super) model: usize,
    pub(super) loaded: Arc<Loaded>,
    pub(super) options: Options,
    input: Option<HostTensor>,
    /// How many items the input has.
    items: usize,
    _held: Token,
    pub(super) memory: [usize; 2],
    deadline: Option<Instant>,
    abandoned: Arc<AtomicBool>,
    outcome: Outcome,
    pub(super) spans: Spans,
    pub(super) events: UnboundedSender<Event>,
    pub(super) span: Span,
    waited: Duration,
}

impl Member {
    /// A job whose turn it is. One whose request cannot be read ends with that.
    pub(super) fn begin(started: Started<Queued>, reading: &Stage) -> Option<Self> {
        let Started { job: Queued { model, assignment, abandoned, span, waits }, waited } = started;
        let Assignment { loaded, options, input, held, memory, deadline, outcome, spans, events, .. } =
            assignment;
        drop(waits);
        let _ = events.send(Event::Started);
        let input = match input {
            Input::Ready(input) => Ok(input),
            Input::Unread(read) => {
                let abandoned = Arc::clone(&abandoned);
                reading.run_now(move || Ok(read(&|| !abandoned.load(Ordering::Relaxed))?))
            }
        };
        let input = match input {
            Ok(input) => input,
            Err(failure) => {
                outcome(Err(failure));
                return None;
            }
        };
        let items = input.shape.first().copied().unwrap_or(0);
        Some(Self {
            model,
            loaded,
            options,
            input: Some(input),
            items,
            _held: held,
            memory,
            deadline,
            abandoned,
            outcome,
            spans,
            events,
            span,
            waited,
        })
    }

    /// Whether its deadline has passed.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Whether nobody waits for it any more.
    pub(super) fn has_left(&self, now: Instant) -> bool {
        self.abandoned.load(Ordering::Relaxed) || self.is_late(now)
    }

    /// The inputs of all as one. Where there are several, they are kept.
    pub(super) fn join(members: &mut [Self]) -> HostTensor {
        if let [only] = members {
            return only.input.take().unwrap_or_else(|| HostTensor::new(vec![0], Vec::new()));
        }
        let inputs = || members.iter().filter_map(|member| member.input.as_ref());
        let items = members.iter().map(|member| member.items).sum();
        let rest = inputs().next().into_iter().flat_map(|input| input.shape.iter().skip(1).copied());
        let shape = std::iter::once(items).chain(rest).collect();
        let mut data = Vec::with_capacity(inputs().map(|input| input.data.len()).sum());
        inputs().for_each(|input| data.extend_from_slice(&input.data));
        HostTensor::new(shape, data)
    }

    /// Tells what came of it.
    pub(super) fn end(self, result: Result<Done, Failure>) {
        (self.outcome)(result);
    }
}

/// Work that is done.
pub(super) struct Finished {
    pub(super) output: HostTensor,
    pub(super) worked: Duration,
    pub(super) memory: Option<usize>,
}

impl Finished {
    /// Each job with its part.
    pub(super) fn hand_out(
        self,
        members: Vec<Member>,
        ledger: &Ledger,
    ) -> impl Iterator<Item = (Member, Result<Done, Failure>)> {
        let Self { output, worked, memory } = self;
        let batch = output.shape.first().copied().unwrap_or(0);
        let length = output.data.len().checked_div(batch).unwrap_or(0);
        let all = Arc::new(output);
        let mut first = 0;
        let parts: Vec<_> = members
            .iter()
            .map(|member| {
                let output = Output { all: Arc::clone(&all), first, items: member.items };
                first += member.items;
                output
            })
            .collect();
        // A part that is all of it is not copied if nothing else holds it.
        drop(all);
        members.into_iter().zip(parts).map(move |(member, output)| {
            let mut held = ledger.token(Pool::Answers);
            held.set(output.items.saturating_mul(length).saturating_mul(WRITING));
            let queued = member.waited;
            (member, Ok(Done { output, held, queued, worked, memory }))
        })
    }
}
