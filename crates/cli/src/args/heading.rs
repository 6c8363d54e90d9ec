//! The groups that flags stand in under `--help`, in the order of how often people want them. Flags without one come
//! first, under clap's own `Options`. A group stands where its first flag is defined.

/// What is made and how it is written.
pub(crate) const OUTPUT: &str = "Output";
/// How latents are scaled and shaped.
pub(crate) const LATENTS: &str = "Latents";
/// Work on thousands of files.
pub(crate) const MANY: &str = "Many files";
/// How a server is reached.
pub(crate) const SERVER: &str = "With --endpoint";
/// Who may use a server.
pub(crate) const ACCESS: &str = "Access";
/// How much may be sent.
pub(crate) const REQUESTS: &str = "Size and number of requests";
/// How much memory work may take.
pub(crate) const MEMORY: &str = "Memory";
/// How long things may take.
pub(crate) const TIME: &str = "Time limits";
/// How the processor is used.
pub(crate) const ENGINE: &str = "Work on this machine";
/// What is logged.
pub(crate) const LOG: &str = "Log";
