//! The HTTP server of remote-vae.
