//! The remote-vae command line.
fn main() {}
