//! What lies between a front door, such as HTTP, and the models: typed jobs in, a stream of events out.
//!
//! A job goes this way: [`Service::submit`] → `registry` (is its model loaded?) → `decode` or `encode` (do its shapes and
//! values fit the model?) → `admission` (does it fit into memory?) → `scheduler` (whose turn is it?) → `worker` (the
//! thread that runs a model) → `answer` (values to files and tensors). What takes the processor for a while and is not
//! the model's runs on the threads of `stages`.
//!
//! Nothing here knows of HTTP: a [`Failure`] says whose fault it is, and the front makes a status of it.
#![forbid(unsafe_code)]
// What arrives here is untrusted input: nothing in it may end the process.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod admission;
mod answer;
mod budget;
mod client;
mod config;
mod decode;
mod encode;
mod failure;
mod forecasts;
mod job;
mod ledger;
mod local;
pub mod memory;
mod packaging;
mod postprocess;
mod registry;
mod rgba;
mod scheduler;
mod service;
mod spans;
mod stages;
mod tensors;
#[cfg(test)]
mod tests;
mod values;
mod worker;

pub use admission::{Mode, OnLarge};
pub use answer::Answer;
pub use budget::size;
pub use client::Client;
pub use config::Config;
pub use failure::{Failure, FailureKind, Note, Severity, StartError};
pub use job::{Event, Events, Job, Outline, Report};
pub use ledger::{Pool, Token};
pub use local::{Decoded, Encoded, Refused, decode, encode};
pub use registry::{Load, Model, WeightsSize};
pub use service::Service;
pub use spans::{SPANS, Spans};
