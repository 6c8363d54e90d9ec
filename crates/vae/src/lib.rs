//! Variational autoencoders of diffusion models: graphs, checkpoints and the devices that run them.
//!
//! A caller loads a model with [`load()`] and gets a `Box<dyn Vae>`. Its family makes a [`Graph`](graph::Graph) of its
//! configuration, a [`Device`](device::Device) prepares the graph and runs it; neither knows of the other. No async and no
//! HTTP here.
#![forbid(unsafe_code)]

mod checkpoint;
mod config;
pub mod device;
mod error;
mod families;
mod files;
mod forecast;
pub mod graph;
pub mod latents;
mod load;
mod model;
mod observe;
mod posterior;
mod single_file;
mod tensor;
mod vae;
mod weight;

pub use error::{DeviceError, LoadError, VaeError};
pub use families::CLASS_NAMES;
pub use files::{companions, is_weights_file, model_files};
pub use forecast::{Cut, Forecast, Forecaster};
pub use load::{Factors, Graphs, LoadMode, LoadOptions, Source, graphs, load, load_with};
pub use observe::{Cancelled, Choice, LayerRun, Observer, Silent};
pub use posterior::{DiagonalGaussianDistribution, SampleMode};
pub use tensor::HostTensor;
pub use vae::{DecodeOptions, EncodeOptions, Vae, VaeInfo};
pub use weight::{DType, Weight};
