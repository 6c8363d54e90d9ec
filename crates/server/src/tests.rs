//! In-process tests of the whole HTTP surface, without a port.
