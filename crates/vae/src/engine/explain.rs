//! What an engine says of its own work.

use super::{Activation, Engine};

/// A step that an engine is asked about, before it runs: [`Engine::explain`].
pub enum Step<'a, E: Engine> {
    /// [`Engine::run_conv2d`].
    Conv2d(&'a E::Conv2d),
    /// [`Engine::run_norm_act_conv2d`].
    NormActConv2d(&'a E::GroupNorm, Activation, &'a E::Conv2d),
    /// [`Engine::run_upsample2x_conv2d`].
    Upsample2xConv2d(&'a E::Conv2d),
    /// [`Engine::run_attention`].
    Attention(&'a E::Attention),
}

/// How an engine does a step, in words for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The algorithm's name in a few words.
    pub algorithm: &'static str,
    /// Why this one.
    pub reason: &'static str,
}
