//! Tensors to picture files and back.
