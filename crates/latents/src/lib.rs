//! Files of latents: safetensors, NumPy's .npy and .npz, PyTorch's .pt, ComfyUI's .latent, and the caches of trainers.
//! Whatever is in a file, reading it runs nothing and takes no more memory than the file is long, apart from compressed
//! ones, which are bounded.
#![forbid(unsafe_code)]

mod choose;
mod element;
mod layout;
mod npy;
mod pt;
mod safetensors;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use torchfile::{TorchFile, Zip};
use wire::Tensor;

pub use self::choose::Entry;
pub use self::layout::{FileScaling, Layout};

/// A file that cannot be read as latents: which one, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LatentsError(#[from] anyhow::Error);

/// Endings of the files that latents come from.
const ENDINGS: [&str; 7] = ["safetensors", "sft", "latent", "npy", "npz", "pt", "pth"];

/// Bytes of a file that is read as a whole: far more than latents are.
const MAX_WHOLE: u64 = 4 << 30;

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
    entries: Vec<Entry>,
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
            bail!("tensors come from a .safetensors, .npy, .npz, .pt or .latent file, which {path:?} is not");
        };
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(!file.metadata()?.is_dir(), "cannot read {}: it is a folder", path.display());
        let read = || {
            ensure!(file.metadata()?.len() > 0, "it is empty");
            anyhow::Ok(match ending {
                "npy" => {
                    let entry = npy::entry(String::new(), &file)?;
                    (Format::Npy, vec![entry])
                }
                "npz" => {
                    let zip = Zip::open(file).context("it is no .npz file")?;
                    let entries = arrays(&zip);
                    (Format::Npz(zip), entries)
                }
                "pt" | "pth" => {
                    let file = TorchFile::open(file)?;
                    let entries = pt::entries(&file);
                    (Format::Pt(file), entries)
                }
                _ => {
                    let file = safetensors::File::open(file)?;
                    let entries = file.entries();
                    (Format::Safetensors(file), entries)
                }
            })
        };
        let (format, entries) = read().with_context(|| taking_from(path))?;
        Ok(Self { path: path.to_owned(), format, entries })
    }

    /// What the file says of its tensors, sorted by their names or in its own order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Those that are its latents. Of floats with at least three axes, masks and embeddings left out, these are the
    /// ones with the best name: `latent_tensor`, else `latents` (also with a size behind it), `latents*`,
    /// `latent_image`, `latent`, `samples`, or any.
    pub fn latents(&self) -> Vec<&Entry> {
        choose::latents(&self.entries)
    }

    /// What is known of a tensor by the program that wrote the file, if that can be told.
    pub fn layout(&self, name: &str) -> Option<Layout> {
        match &self.format {
            Format::Safetensors(file) => {
                layout::of_safetensors(&self.path, &self.entries, name, |key| file.says(key))
            }
            Format::Npz(_) => layout::of_npz(&self.path, &self.entries, name),
            Format::Pt(_) => layout::of_pt(name),
            Format::Npy => None,
        }
    }

    /// The name of the tensor that `name` means, which may also be the file's only latents.
    ///
    /// # Errors
    /// No such tensor, or several without a name to choose by.
    pub fn choose(&self, name: Option<&str>) -> Result<&str, LatentsError> {
        Ok(choose::choose(name, &self.entries)
            .with_context(|| taking_from(&self.path))
            .map(|entry| &*entry.name)?)
    }

    /// The tensor called `name`, or the only latents. Float64 becomes float32; where a program is known to leave out the
    /// batch axis, it is put before the others.
    ///
    /// # Errors
    /// As for [`LatentsFile::choose`], and a tensor that is damaged or holds no floats.
    pub fn read(&self, name: Option<&str>) -> Result<Tensor, LatentsError> {
        let name = self.choose(name)?;
        let read = || {
            let tensor = match &self.format {
                Format::Safetensors(file) => file.read(name),
                Format::Npy => npy::read(&whole(&self.path)?),
                Format::Npz(zip) => npy::read(&zip.read(&format!("{name}.npy"))?),
                Format::Pt(file) => pt::read(file, name),
            }?;
            if !self.layout(name).is_some_and(|layout| layout.is_one_item) {
                return anyhow::Ok(tensor);
            }
            let shape = [&[1], tensor.head.shape.as_slice()].concat();
            Ok(Tensor::new(tensor.head.dtype, shape, tensor.bytes)?)
        };
        Ok(read().with_context(|| taking_from(&self.path))?)
    }
}

/// What the arrays of an .npz file say of themselves.
fn arrays(zip: &Zip) -> Vec<Entry> {
    let array = |file: &str| {
        let name = file.strip_suffix(".npy")?.to_owned();
        let first = zip.beginning(file, npy::MAX_HEADER);
        let entry = first.map_err(Into::into).and_then(|first| npy::entry(name.clone(), first.as_slice()));
        // Objects, records and what is damaged are no latents, and no reason to leave the others.
        Some(entry.unwrap_or(Entry { name, shape: Vec::new(), is_float: false }))
    };
    zip.names().filter_map(array).collect()
}

/// The content of a file, which is not read before its size is known to be bearable.
fn whole(path: &Path) -> anyhow::Result<Vec<u8>> {
    let length = std::fs::metadata(path)?.len();
    ensure!(length <= MAX_WHOLE, "it has {} GiB, but may have {} at most", length >> 30, MAX_WHOLE >> 30);
    Ok(std::fs::read(path)?)
}

fn taking_from(path: &Path) -> String {
    format!("cannot take a tensor from {}", path.display())
}

/// A tensor of a safetensors file that is in memory: the one called `name`, or the only latents.
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

#[cfg(test)]
mod tests;
