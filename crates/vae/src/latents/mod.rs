//! From the latents of a request to the latents that a model decodes: layout first ([`arrange`]), then values
//! ([`Scaling::apply`]). Both restate what diffusers' pipelines do just before `vae.decode`. [`Scaling::undo`] is what
//! they do just after `vae.encode`.

mod layout;
mod scaling;
#[cfg(test)]
mod tests;

pub use layout::{arrange, arranged_shape};
pub use scaling::Scaling;
