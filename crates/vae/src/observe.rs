//! Watching a decode from outside: progress, cancellation, and the activations that golden tests compare.

use std::time::Duration;

use crate::HostTensor;

/// The caller no longer wants the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

/// Called by a model between its layers, on the thread that runs it.
pub trait Observer {
    /// `done` of `total` units of work are finished (units are roughly equal in time). Return `Err(Cancelled)` to
    /// stop the work soon; the model then returns [`VaeError::Cancelled`](crate::VaeError::Cancelled).
    fn progress(&mut self, done: usize, total: usize) -> Result<(), Cancelled> {
        let _ = (done, total);
        Ok(())
    }

    /// Whether [`Observer::activation`] should be called for this stage. Reading an activation costs a copy.
    fn wants(&self, stage: &str) -> bool {
        let _ = stage;
        false
    }

    /// The output of the layer named `stage` as in the checkpoint (`decoder.conv_in`, `decoder.mid_block`,
    /// `decoder.up_blocks.0`, …), `[B, C, H, W]`, of a video `[B, C, F, H, W]`.
    fn activation(&mut self, stage: &str, value: HostTensor) {
        let _ = (stage, value);
    }

    /// Whether [`Observer::layer`] should be called. Explaining a layer costs a little time.
    fn wants_layers(&self) -> bool {
        false
    }

    /// A layer has been run.
    fn layer(&mut self, layer: LayerRun) {
        let _ = layer;
    }
}

/// How a device does a step, in words for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The algorithm's name in a few words.
    pub algorithm: &'static str,
    /// Why this one.
    pub reason: &'static str,
}

/// What one layer did.
#[derive(Clone, Debug)]
pub struct LayerRun {
    /// As in the checkpoint.
    pub name: String,
    /// `[B, C, H, W]` that went in.
    pub input: Vec<usize>,
    /// `[B, C, H, W]` that came out.
    pub output: Vec<usize>,
    /// Multiplications with an addition that the layer's definition has, however many the algorithm makes.
    pub multiply_adds: usize,
    /// How the device did it, and why.
    pub choice: Choice,
    /// How long it took.
    pub time: Duration,
}

/// Watches nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
