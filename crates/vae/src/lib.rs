//! Variational autoencoders of diffusion models: graphs, checkpoints and the engines that run them.
//!
//! A caller loads a model with [`load()`] and gets a `Box<dyn Vae>`; everything below that trait is generic over
//! an [`Engine`](engine::Engine), so each graph is written once. No async and no HTTP here.
#![forbid(unsafe_code)]

mod checkpoint;
mod config;
pub mod engine;
mod error;
mod families;
mod files;
mod forecast;
pub mod latents;
mod layers;
mod load;
mod observe;
mod posterior;
mod single_file;
mod tensor;
mod vae;
mod weight;

pub use error::{EngineError, LoadError, VaeError};
pub use families::CLASS_NAMES;
pub use files::{companions, is_weights_file, model_files};
pub use forecast::{Forecast, Forecaster};
pub use load::{Factors, LoadMode, LoadOptions, Source, load, load_with};
pub use observe::{Cancelled, LayerRun, Observer, Silent};
pub use posterior::{DiagonalGaussianDistribution, SampleMode};
pub use tensor::HostTensor;
pub use vae::{DecodeOptions, EncodeOptions, Vae, VaeInfo};
pub use weight::{DType, Weight};
