//! Every kernel, on every instruction set of this machine, against its naive f64 reference.

mod attention;
mod causal;
mod common;
mod conv;
mod gather;
mod general;
mod geometry;
mod outliers;
mod small;
mod stopping;
mod threads;
mod values;
