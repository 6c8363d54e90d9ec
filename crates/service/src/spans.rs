//! The parts of a job as spans of a trace: `queue`, `work` and `answer`, within the span of the whole request.
//!
//! They are not the span that log lines carry, so that a trace has nothing but what is set here: no query, no content.

use tracing::{Span, info_span};

/// Target of the spans: what collects traces takes these alone, and log lines leave them out.
pub const SPANS: &str = "remote_vae_spans";

/// The span of a whole request, which the front opens. It is over when the last of its clones is gone.
#[derive(Clone, Debug)]
pub struct Spans(Span);

impl Spans {
    /// The parts of a job within `request`; [`Span::none`] where nobody collects traces.
    pub fn within(request: Span) -> Self {
        Self(request)
    }

    /// The span of the whole request.
    pub fn request(&self) -> &Span {
        &self.0
    }

    /// The time in the queue, until the span is dropped.
    pub(crate) fn queue(&self) -> Span {
        self.part(|request| info_span!(target: SPANS, parent: request, "queue"))
    }

    /// The time in the model.
    pub(crate) fn work(&self) -> Span {
        self.part(|request| info_span!(target: SPANS, parent: request, "work"))
    }

    /// The time to write the file or the tensor that is sent.
    pub(crate) fn answer(&self) -> Span {
        self.part(|request| info_span!(target: SPANS, parent: request, "answer"))
    }

    fn part(&self, open: impl FnOnce(&Span) -> Span) -> Span {
        if self.0.is_none() { Span::none() } else { open(&self.0) }
    }
}
