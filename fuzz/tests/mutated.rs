//! The targets on a stable toolchain: everything in their corpora, and what comes of it by some thousand random changes.
//!
//! Without coverage to go by this finds less than `cargo fuzz` in the same time. It is here so that nobody breaks the
//! targets, or again what a fuzzer has found once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngSeed, TestError, TestRunner};

/// A change to an input.
#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    Flip(Index, u8),
    /// A number in the order of its bytes, or in the other.
    Number(Index, u32, usize, bool),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    /// Over what is there comes a piece of another input.
    Splice(Index, Index, Index, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    // Around the ends of what bytes, words and long words can count.
    let edge = (0..32_u32, -1..=1_i32).prop_map(|(bit, by)| (1_u32 << bit).wrapping_add_signed(by));
    prop_oneof![
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        2 => (at(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        2 => (at(), edge, 1..=4_usize, any::<bool>())
            .prop_map(|(at, number, bytes, little)| Edit::Number(at, number, bytes, little)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        1 => (at(), 1..64_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        1 => (at(), 1..32_usize, 1..9_usize).prop_map(|(at, length, times)| Edit::Repeat(at, length, times)),
        2 => (at(), at(), at(), 1..64_usize)
            .prop_map(|(at, other, from, length)| Edit::Splice(at, other, from, length)),
    ]
}

impl Edit {
    fn apply(&self, input: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let size = input.len();
        let piece = |at: &Index, length: usize, of: usize| {
            let start = at.index(of + 1);
            start..(start + length).min(of)
        };
        match self {
            Self::Insert(at, bytes) => drop(input.splice(piece(at, 0, size), bytes.iter().copied())),
            Self::Splice(at, other, from, length) => {
                let other = other.get(inputs);
                let bytes = other[piece(from, *length, other.len())].to_vec();
                input.splice(piece(at, bytes.len(), size), bytes);
            }
            Self::Remove(at, length) => drop(input.drain(piece(at, *length, size))),
            Self::Repeat(at, length, times) => {
                let range = piece(at, *length, size);
                let bytes = input[range.clone()].repeat(*times);
                input.splice(range.end..range.end, bytes);
            }
            Self::Number(at, number, bytes, little) => {
                let range = piece(at, *bytes, size);
                let number = if *little {
                    number.to_le_bytes()
                } else {
                    number.rotate_right(8 * *bytes as u32).to_be_bytes()
                };
                let bytes = number[..range.len()].to_vec();
                input.splice(range, bytes);
            }
            Self::Set(..) | Self::Flip(..) if size == 0 => {}
            Self::Set(at, byte) => input[at.index(size)] = *byte,
            Self::Flip(at, bit) => input[at.index(size)] ^= 1 << bit,
        }
    }
}

/// The content of the files in a folder with one of these endings; every file, if there are none.
fn files(folder: &Path, endings: &[&str]) -> Vec<Vec<u8>> {
    let list = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = list.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        endings.is_empty() || endings.iter().any(|e| path.extension().is_some_and(|x| x == *e))
    });
    paths.sort();
    assert!(!paths.is_empty(), "{} holds nothing to begin with", folder.display());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs a target over its corpus, and over `cases` inputs made from it.
fn drive(name: &str, seeds: Option<(&str, &[&str])>, cases: u32) {
    // Memory is counted for the whole process.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, target) = fuzz::TARGETS.into_iter().find(|(other, _)| *other == name).unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut inputs = files(&here.join("corpus").join(name), &[]);
    if let Some((folder, endings)) = seeds {
        inputs.extend(files(&here.join("../fixtures").join(folder), endings));
    }
    inputs.iter().for_each(|input| target(input));

    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let edits = (any::<Index>(), prop::collection::vec(edit(), 1..6));
    let mutated = |(which, edits): &(Index, Vec<Edit>)| {
        let mut input = which.get(&inputs).clone();
        edits.iter().for_each(|edit| edit.apply(&mut input, &inputs));
        input
    };
    let run = TestRunner::new(config).run(&edits, |edits| {
        target(&mutated(&edits));
        Ok(())
    });
    if let Err(TestError::Fail(reason, edits)) = &run {
        let path = std::env::temp_dir().join(format!("{name}.fuzz"));
        fs::write(&path, mutated(edits)).unwrap();
        panic!("{reason}; the input is in {}", path.display());
    }
    run.unwrap();
}

#[test]
fn answer() {
    drive("answer", None, 20_000);
}

#[test]
fn http() {
    drive("http", None, 2_000);
}

#[test]
fn image() {
    drive("image", Some(("images", &["png", "jpg", "webp"])), 5_000);
}

#[test]
fn json() {
    drive("json", None, 20_000);
}

#[test]
fn latents() {
    drive("latents", Some(("latents", &[])), 4_000);
}

#[test]
fn query() {
    drive("query", None, 20_000);
}

#[test]
fn safetensors() {
    drive("safetensors", None, 400);
}

/// A target that is not driven above is no target.
#[test]
fn all_are_here() {
    let source = include_str!("mutated.rs");
    for (name, _) in fuzz::TARGETS {
        assert!(source.contains(&format!("drive(\"{name}\"")), "{name}");
    }
}
