//! The remote VAE wire protocol as types.
