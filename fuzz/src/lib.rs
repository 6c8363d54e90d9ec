//! Targets for fuzzing: each takes any bytes to one of the places where what strangers wrote is read, and panics when a
//! promise is broken. The promises: nothing panics, nothing takes far more memory than what was sent is long, and whatever
//! is refused is refused with a sentence.
//!
//! `cargo fuzz` runs them under libFuzzer ([`fuzz_targets`](../fuzz_targets)); `tests/mutated.rs` runs them briefly on a
//! stable toolchain. `README.md` says how.
#![forbid(unsafe_code)]

mod answer;
mod http;
mod image;
mod json;
mod latents;
mod query;
mod safetensors;

use peak_alloc::PeakAlloc;

pub use self::answer::answer;
pub use self::http::http;
pub use self::image::image;
pub use self::json::json;
pub use self::latents::latents;
pub use self::query::query;

pub use self::safetensors::safetensors;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// A target: takes any bytes, and panics when a promise is broken.
pub type Target = fn(&[u8]);

/// All targets by their names.
pub const TARGETS: [(&str, Target); 7] = [
    ("answer", answer),
    ("http", http),
    ("image", image),
    ("json", json),
    ("latents", latents),
    ("query", query),
    ("safetensors", safetensors),
];

/// Does `work`, which may take `bytes` of memory at most. What other threads take counts too, so there should be none.
fn within<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let done = work();
    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(taken <= bytes, "this took {taken} bytes of memory, where {bytes} would have been enough");
    done
}

/// What is told to people must be a sentence: not empty, in one line, without control characters.
fn sentence(text: &str) {
    assert!(text.len() >= 15 && text.contains(' '), "no sentence: {text:?}");
    assert!(!text.chars().any(char::is_control), "control characters in {text:?}");
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
