//! What an observer is told of a job whose pieces each tell of themselves.

use super::without_frames;
use crate::observe::LayerRun;
use crate::{Cancelled, HostTensor, Observer};

/// Adds up the progress of pieces.
pub(super) struct Progress<'a> {
    observer: &'a mut dyn Observer,
    is_video: bool,
    total: usize,
    /// Of the pieces before, and of all with the one that runs.
    before: usize,
    done: usize,
    /// What the observer was told last.
    told: usize,
}

impl<'a> Progress<'a> {
    /// For work of so much in all. The observer may cancel it before it starts.
    pub(super) fn new(
        observer: &'a mut dyn Observer,
        total: usize,
        is_video: bool,
    ) -> Result<Self, Cancelled> {
        observer.progress(0, total)?;
        Ok(Self { observer, is_video, total, before: 0, done: 0, told: 0 })
    }

    /// The next reports are of another piece.
    pub(super) fn end_piece(&mut self) {
        self.before = self.done;
    }
}

impl Observer for Progress<'_> {
    fn progress(&mut self, done: usize, _: usize) -> Result<(), Cancelled> {
        self.done = self.before.saturating_add(done);
        if self.done <= self.told {
            return Ok(());
        }
        self.told = self.done;
        self.observer.progress(self.done, self.total)
    }

    fn wants(&self, stage: &str) -> bool {
        self.observer.wants(stage)
    }

    fn activation(&mut self, stage: &str, value: HostTensor) {
        self.observer.activation(stage, without_frames(value, self.is_video));
    }

    fn wants_layers(&self) -> bool {
        self.observer.wants_layers()
    }

    fn layer(&mut self, mut layer: LayerRun) {
        if !self.is_video {
            for shape in [&mut layer.input, &mut layer.output] {
                shape.remove(2);
            }
        }
        self.observer.layer(layer);
    }
}
