//! Files of latents: safetensors, NumPy's .npy and .npz, PyTorch's .pt. Whatever is in a file, reading it runs nothing
//! and takes no more memory than the file is long, apart from compressed ones, which are bounded.
#![forbid(unsafe_code)]

mod npy;
mod pt;
mod safetensors;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use torchfile::{TorchFile, Zip};
use wire::Tensor;

/// A file that cannot be read as latents: which one, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LatentsError(#[from] anyhow::Error);

/// Endings of the files that latents come from.
const ENDINGS: [&str; 5] = ["safetensors", "npy", "npz", "pt", "pth"];

/// Whether a file may hold latents, by its name.
pub fn is_latents_file(path: &Path) -> bool {
    ending(path).is_some()
}

fn ending(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_ascii_lowercase();
    ENDINGS.into_iter().find(|known| *known == ending)
}

/// `PATH`, or `PATH:NAME` for one of the tensors in a file.
pub fn split(latents: &str) -> (PathBuf, Option<&str>) {
    match latents.rsplit_once(':') {
        // A path that exists is a path, whatever is in it.
        Some((path, name)) if is_latents_file(Path::new(path)) && !Path::new(latents).exists() => {
            (path.into(), Some(name))
        }
        _ => (latents.into(), None),
    }
}

/// A file with latents, of which only the table of contents has been read.
#[derive(Debug)]
pub struct LatentsFile {
    path: PathBuf,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Safetensors(safetensors::File),
    Npy,
    Npz(Zip),
    Pt(TorchFile),
}

impl LatentsFile {
    /// Reads the table of contents; the ending of the name says in which format.
    ///
    /// # Errors
    /// Another ending, or a file that is not what its name says.
    pub fn open(path: &Path) -> Result<Self, LatentsError> {
        Ok(Self::look_into(path)?)
    }

    fn look_into(path: &Path) -> anyhow::Result<Self> {
        let Some(ending) = ending(path) else {
            bail!("tensors come from a .safetensors, .npy, .npz or .pt file, which {path:?} is not");
        };
        let open = || std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()));
        let file = open()?;
        ensure!(!file.metadata()?.is_dir(), "cannot read {}: it is a folder", path.display());
        let format = match ending {
            "safetensors" => safetensors::File::open(file).map(Format::Safetensors),
            "npy" => Ok(Format::Npy),
            "npz" => Zip::open(file).context("it is no .npz file").map(Format::Npz),
            _ => TorchFile::open(file).map_err(Into::into).map(Format::Pt),
        };
        let format = format.with_context(|| taking_from(path))?;
        Ok(Self { path: path.to_owned(), format })
    }

    /// The names of the tensors, sorted or in the file's own order. A tensor alone may have none, which is `""`.
    pub fn names(&self) -> Vec<String> {
        match &self.format {
            Format::Safetensors(file) => file.names(),
            Format::Npy => vec![String::new()],
            Format::Npz(zip) => {
                zip.names().filter_map(|name| name.strip_suffix(".npy")).map(str::to_owned).collect()
            }
            Format::Pt(file) => file.tensors().iter().map(|(name, _)| name.clone()).collect(),
        }
    }

    /// The tensor called `name`, or the only one.
    ///
    /// # Errors
    /// No such tensor, several without a name to choose by, or one that is damaged or of another type than float16,
    /// bfloat16 and float32.
    pub fn read(&self, name: Option<&str>) -> Result<Tensor, LatentsError> {
        Ok(self.choose_and_read(name).with_context(|| taking_from(&self.path))?)
    }

    fn choose_and_read(&self, name: Option<&str>) -> anyhow::Result<Tensor> {
        let names = self.names();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let name = choose(name, &names)?;
        match &self.format {
            Format::Safetensors(file) => file.read(name),
            Format::Npy => npy::read(&std::fs::read(&self.path)?),
            Format::Npz(zip) => npy::read(&zip.read(&format!("{name}.npy"))?),
            Format::Pt(file) => pt::read(file, name),
        }
    }
}

fn taking_from(path: &Path) -> String {
    format!("cannot take a tensor from {}", path.display())
}

/// A tensor of a safetensors file that is in memory: the one called `name`, or the only one.
///
/// # Errors
/// As for [`LatentsFile::read`].
pub fn from_safetensors(bytes: &[u8], name: Option<&str>) -> Result<Tensor, LatentsError> {
    Ok(safetensors::from_bytes(bytes, name)?)
}

/// The content of a .npy file, as `numpy.save` writes it.
///
/// # Errors
/// A type that NumPy does not have: bfloat16.
pub fn to_npy(tensor: &Tensor) -> Result<Vec<u8>, LatentsError> {
    Ok(npy::write(tensor)?)
}

/// The latents that `PATH` or `PATH:NAME` names.
///
/// # Errors
/// As for [`LatentsFile::open`] and [`LatentsFile::read`].
pub fn read(latents: &str) -> Result<Tensor, LatentsError> {
    let (path, name) = split(latents);
    LatentsFile::open(&path)?.read(name)
}

/// The name that was asked for, or the only one there is.
fn choose<'a>(name: Option<&'a str>, names: &[&'a str]) -> anyhow::Result<&'a str> {
    match (name, names) {
        (Some(name), _) if names.contains(&name) => Ok(name),
        (None, [only]) => Ok(only),
        (_, []) => bail!("it holds no tensor"),
        (Some(name), _) => bail!("it holds no tensor {name:?}, but {}", list(names)),
        (None, _) => bail!(
            "it holds {} tensors; choose one as PATH:NAME from {}, or let -o name a folder for all of them",
            names.len(),
            list(names)
        ),
    }
}

/// Names for a message; of very many only the first.
fn list(names: &[&str]) -> String {
    const SHOWN: usize = 10;
    // They are shown on terminals, which obey what control characters say.
    let escaped = names.iter().take(SHOWN).map(|name| name.escape_debug().to_string());
    let shown = escaped.collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests;
