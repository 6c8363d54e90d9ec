//! The golden cases, the engines, and what tests of several files need.
#![allow(dead_code, reason = "no test file needs all of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use remote_vae_vae::device::Device as _;
use remote_vae_vae::device::cpu::{Cpu, CpuOptions, Isa, Numerics};
use remote_vae_vae::device::reference::Reference;
use remote_vae_vae::{Cancelled, DType, HostTensor, LoadError, Observer, Source, Vae, load};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;

/// An engine by name, and how to load a model on it.
pub(crate) type Engine = (String, Box<dyn Fn(Source) -> Result<Box<dyn Vae>, LoadError>>);

/// Every engine this machine has: the reference, and the processor with each of its instruction sets. One suite runs
/// them all.
pub(crate) fn engines() -> Vec<Engine> {
    let mut engines: Vec<Engine> =
        vec![("reference".to_owned(), Box::new(|source| load(source, Reference::default())))];
    for isa in Isa::available() {
        for numerics in [Numerics::Fast, Numerics::Strict] {
            let options = CpuOptions { isa: Some(isa), numerics, threads: Some(2), ..CpuOptions::default() };
            let engine = Cpu::new(options).unwrap();
            engines.push((engine.describe(), Box::new(move |source| load(source, engine.clone()))));
        }
    }
    engines
}

/// How far an activation of a golden case may be from diffusers'. The outer promise is 1e-3 in f32, and 1.5e-3 for values
/// rounded to f16. A model a few dozen layers deep stays well below the first number; a wrong padding, eps or index does not.
pub(crate) const TOLERANCE: f32 = 1e-4;

/// The same on this engine. AMX's bf16 tiles hold 16 of f32's 24 bits of each factor: these models, of few channels over which
/// that could average out, are off by 2.3e-4 at most there; in strict arithmetic the engine is held to what all others are.
pub(crate) fn tolerance(engine: &str) -> f32 {
    if engine.contains("AMX") && !engine.contains("strict") { 4e-4 } else { TOLERANCE }
}

/// One folder of `fixtures/vae`.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    /// The layers whose outputs it holds.
    pub(crate) stages: Vec<String>,
    /// The same of the encoder; none when the case has no encoder.
    pub(crate) encoder_stages: Vec<String>,
    /// Latents, outputs of layers and sample by name.
    pub(crate) golden: BTreeMap<String, HostTensor>,
}

impl Case {
    pub(crate) fn source(&self) -> Source {
        Source::Folder(self.folder.clone())
    }

    pub(crate) fn latents(&self) -> HostTensor {
        self.golden["latents"].clone()
    }
}

#[derive(Deserialize)]
struct Manifest {
    cases: BTreeMap<String, ManifestCase>,
}

#[derive(Deserialize)]
struct ManifestCase {
    stages: Vec<String>,
    encoder_stages: Vec<String>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/vae")
}

/// All golden cases: those of the manifest, which must be those on disk, and some.
pub(crate) fn cases() -> Vec<Case> {
    let text = fs::read_to_string(fixtures().join("manifest.json")).unwrap();
    let manifest: Manifest = serde_json::from_str(&text).unwrap();
    assert!(!manifest.cases.is_empty(), "the manifest lists no case");
    let on_disk =
        fs::read_dir(fixtures()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(on_disk, manifest.cases.len(), "the manifest lists every folder");
    manifest
        .cases
        .into_iter()
        .map(|(name, ManifestCase { stages, encoder_stages })| {
            assert!(!stages.is_empty(), "{name} observes no layer");
            let folder = fixtures().join(&name);
            let golden = tensors(&folder.join("golden.safetensors"));
            Case { name, folder, stages, encoder_stages, golden }
        })
        .collect()
}

/// The golden cases with an encoder.
pub(crate) fn encoding_cases() -> Vec<Case> {
    let cases: Vec<_> = cases().into_iter().filter(|case| case.golden.contains_key("pixels")).collect();
    assert!(!cases.is_empty(), "no case encodes");
    cases
}

/// The case `name`.
pub(crate) fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).unwrap()
}

/// The tensors of a safetensors file, to be changed and written again.
pub(crate) type RawTensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// The weights of a case.
pub(crate) fn weights(case: &Case) -> RawTensors {
    let names = ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"];
    let path = names.iter().map(|name| case.folder.join(name)).find(|path| path.exists()).unwrap();
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

/// Writes them as a safetensors file.
pub(crate) fn write(tensors: &RawTensors, path: &Path) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// The same tensors under other names.
pub(crate) fn renamed(tensors: RawTensors, name: impl Fn(&str) -> String) -> RawTensors {
    tensors.into_iter().map(|(old, tensor)| (name(&old), tensor)).collect()
}

fn tensors(path: &Path) -> BTreeMap<String, HostTensor> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| {
            let tensor = HostTensor::from_le_bytes(view.shape().to_vec(), DType::F32, view.data());
            (name.to_owned(), tensor.unwrap())
        })
        .collect()
}

/// The largest `|found - expected|`, each relative to the expected value or, if that is larger, to the root mean square
/// of them all; infinite where just one of two values is no number.
pub(crate) fn error(found: &HostTensor, expected: &HostTensor) -> f32 {
    assert_eq!(found.shape, expected.shape);
    let mean_square = expected.data.iter().map(|x| x * x).sum::<f32>() / expected.data.len() as f32;
    let errors = found.data.iter().zip(&expected.data).map(|(found, expected)| {
        let error = (found - expected).abs() / expected.abs().max(mean_square.sqrt());
        if error.is_nan() { f32::INFINITY } else { error }
    });
    errors.fold(0.0, f32::max)
}

/// Keeps the activations of the stages it is asked for, and every report of progress.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) stages: Vec<String>,
    pub(crate) activations: BTreeMap<String, HostTensor>,
    pub(crate) progress: Vec<(usize, usize)>,
    /// Cancels at this report.
    pub(crate) cancel_at: Option<usize>,
}

impl Observer for Recorder {
    fn progress(&mut self, done: usize, total: usize) -> Result<(), Cancelled> {
        self.progress.push((done, total));
        if self.cancel_at == Some(self.progress.len()) { Err(Cancelled) } else { Ok(()) }
    }

    fn wants(&self, stage: &str) -> bool {
        self.stages.iter().any(|wanted| wanted == stage)
    }

    fn activation(&mut self, stage: &str, value: HostTensor) {
        // A large batch comes in parts.
        match self.activations.get_mut(stage) {
            None => {
                self.activations.insert(stage.to_owned(), value);
            }
            Some(earlier) => {
                earlier.shape[0] += value.shape[0];
                earlier.data.extend(value.data);
            }
        }
    }
}
