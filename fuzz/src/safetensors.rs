//! Checkpoints.

use std::fs::{self, File};
use std::io::Write;

use vae::device::cpu::{Cpu, CpuOptions};
use vae::{LoadError, Source, Vae};

use crate::{MIB, sentence, within};

/// Bytes of tensors that a header may speak of: the file gets as many zeros.
const MAX_DATA: u64 = 16 << 20;

/// `config.json`, a zero byte, and the header of a safetensors file; the values are all zero. It is loaded as a folder, and
/// as a single file that must tell by its tensors alone what it is.
pub fn safetensors(input: &[u8]) {
    let (config, header) = match input.iter().position(|&byte| byte == 0) {
        Some(zero) => (&input[..zero], &input[zero + 1..]),
        None => (&b""[..], input),
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("diffusion_pytorch_model.safetensors");
    write(&path, header).expect("a temporary file");
    fs::write(folder.path().join("config.json"), config).expect("a temporary file");
    // Prepared weights are some times larger than those in the file.
    let memory = 16 * MAX_DATA as usize + 128 * input.len() + 32 * MIB;
    check(within(memory, || load(Source::Folder(folder.path().to_owned()))));
    fs::remove_file(folder.path().join("config.json")).expect("it was there");
    check(within(memory, || load(Source::File(path))));
}

/// The file: the length of the header, the header, and the zeros that it speaks of.
fn write(path: &std::path::Path, header: &[u8]) -> std::io::Result<()> {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(header).ok();
    let ends = parsed.iter().filter_map(|header| header.as_object()).flatten();
    let end = ends.filter_map(|(_, tensor)| tensor.get("data_offsets")?.get(1)?.as_u64()).max();
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header)?;
    file.set_len(8 + header.len() as u64 + end.unwrap_or(0).min(MAX_DATA))
}

fn load(source: Source) -> Result<Box<dyn Vae>, LoadError> {
    vae::load(source, Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).expect("an engine"))
}

fn check(loaded: Result<Box<dyn Vae>, LoadError>) {
    match loaded {
        Err(error) => sentence(&error.to_string()),
        Ok(vae) => assert!(vae.info().latent_channels > 0),
    }
}
