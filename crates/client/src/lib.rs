//! The HTTP client of remote-vae.
