//! From the latents of a request to the latents that a model decodes: layout first ([`arrange`]), then values
//! ([`Scaling::apply`], after [`settle`] has said which). Both restate what diffusers' pipelines do just before `vae.decode`. [`Scaling::undo`] is what
//! they do just after `vae.encode`.

mod format;
mod layout;
mod scaling;
#[cfg(test)]
mod tests;

pub use format::{LatentFormat, Normalization, Pipeline, Tokens};
pub use layout::{arrange, arranged_shape, of_pipeline, settle};
pub use scaling::Scaling;
