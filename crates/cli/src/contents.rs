//! What of a file with latents is decoded, into how many files, and how it is scaled.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use client::{DecodeOptions, OutputType, Tensor};
use glob::Pattern;
use latents::{Entry, FileScaling, LatentsFile, Layout};

use crate::args::options::ScalingArgs;
use crate::batch::Item;
use crate::batch::inputs::{Contents, Found, Part};
use crate::terminal::{plain, shown};

/// The tensors of a file that are decoded: the one that is named, those that fit a pattern, or its latents.
///
/// # Errors
/// A file that cannot be read, or has no such tensor.
fn chosen<'a>(
    file: &'a LatentsFile,
    name: Option<&str>,
    pattern: Option<&Pattern>,
) -> anyhow::Result<Vec<&'a Entry>> {
    if name.is_some() {
        let name = file.choose(name)?;
        return Ok(file.entries().iter().filter(|entry| entry.name == name).collect());
    }
    Ok(match pattern {
        Some(pattern) => {
            file.entries().iter().filter(|entry| entry.is_float && pattern.matches(&entry.name)).collect()
        }
        None => file.latents(),
    })
}

/// Why there is nothing in a file to decode: what it holds instead.
fn instead(file: &LatentsFile, pattern: Option<&Pattern>) -> String {
    const SHOWN: usize = 5;
    let entries = file.entries();
    let shown: Vec<_> = entries.iter().take(SHOWN).map(Entry::to_string).collect();
    let more = if entries.len() > SHOWN { ", ..." } else { "" };
    let what = pattern
        .map_or("no latents".to_owned(), |pattern| format!("no tensor that fits {:?}", pattern.as_str()));
    match shown.as_slice() {
        [] => format!("it holds {what}"),
        shown => format!("it holds {what}, but {}{more}", shown.join(", ")),
    }
}

/// What one file of many becomes: `ending` says how the name of a result ends, by the latents' shape.
///
/// # Errors
/// A file that cannot be read, or has no such tensor.
pub(crate) fn of_file(
    found: &Found,
    pattern: Option<&Pattern>,
    size: Option<(usize, usize)>,
    result: impl Fn(&[usize]) -> (OutputType, &'static str),
) -> anyhow::Result<Contents> {
    let file = LatentsFile::open(&found.path)?;
    let mut parts = Vec::new();
    for entry in chosen(&file, found.tensor.as_deref(), pattern)? {
        let shape = shape(&file, entry);
        let (output_type, ending) = result(&shape);
        let tensor = Some(entry.name.clone());
        match pictures(&shape, output_type, size) {
            1 => parts.push(Part { tensor, index: None, ending }),
            count => parts.extend((0..count).map(|index| Part {
                tensor: tensor.clone(),
                index: Some(index),
                ending,
            })),
        }
    }
    Ok(if parts.is_empty() { Contents::Nothing(instead(&file, pattern)) } else { Contents::Parts(parts) })
}

/// The shape of a tensor as [`LatentsFile::read`] gives it.
fn shape(file: &LatentsFile, entry: &Entry) -> Vec<usize> {
    match file.layout(&entry.name) {
        Some(layout) if layout.is_one_item => [&[1], entry.shape.as_slice()].concat(),
        _ => entry.shape.clone(),
    }
}

/// How many files latents of this shape become: pictures and videos go into one each, a tensor holds a whole batch.
/// `size` is what the command line says of packed latents.
pub(crate) fn pictures(shape: &[usize], output_type: OutputType, size: Option<(usize, usize)>) -> usize {
    match (output_type, shape) {
        // Of a video model that is `[C, f, h, w]`.
        (OutputType::Mp4, [batch, _, _, _, _]) | (OutputType::Pil, [batch, _, _, _, _]) => *batch,
        // One frame without its batch: no model has latents of one channel.
        (OutputType::Pil, [_, 1, _, _]) => 1,
        (OutputType::Pil, [batch, _, _, _]) => *batch,
        (OutputType::Pil, [batch, tokens, _]) if size.is_some_and(|size| is_packed(*tokens, size)) => *batch,
        _ => 1,
    }
}

/// Whether a picture of this height and width has so many tokens, each of 2 x 2 latents of 8 x 8 pixels, as all models
/// have it that pack them.
fn is_packed(tokens: usize, (height, width): (usize, usize)) -> bool {
    (height / 16).checked_mul(width / 16) == Some(tokens)
}

/// Latents from files. Items of one file come one after the other, so the last file is kept, and the last tensor with
/// several pictures: a table of contents of thousands is read once.
#[derive(Default)]
pub(crate) struct Reader {
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    file: Option<(PathBuf, LatentsFile)>,
    batch: Option<(PathBuf, String, Tensor)>,
}

/// What is known of a file besides its values.
pub(crate) struct Read {
    pub(crate) latents: Tensor,
    pub(crate) layout: Option<Layout>,
}

impl Reader {
    /// The latents of an item.
    ///
    /// # Errors
    /// A file that cannot be read, or none or several latents in it, and the item names none.
    pub(crate) fn read(&self, item: &Item, pattern: Option<&Pattern>) -> anyhow::Result<Read> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Last { file, batch: last_batch } = &mut *last;
        let (_, file) = match file.take() {
            Some(kept) if kept.0 == item.path => file.insert(kept),
            _ => file.insert((item.path.clone(), LatentsFile::open(&item.path)?)),
        };
        let file = &*file;
        let name = match (&item.tensor, pattern) {
            (None, Some(pattern)) => match chosen(file, None, Some(pattern))?.as_slice() {
                [only] => &only.name,
                [] => bail!("{}: {}", item.path.display(), instead(file, Some(pattern))),
                several => bail!(
                    "{} tensors in {} fit {:?}: let -o name a folder for all of them",
                    several.len(),
                    item.path.display(),
                    pattern.as_str()
                ),
            },
            (name, _) => file.choose(name.as_deref())?,
        };
        let layout = file.layout(name);
        let Some(index) = item.index else { return Ok(Read { latents: file.read(Some(name))?, layout }) };
        let batch = match &*last_batch {
            Some((path, tensor, batch)) if *path == item.path && tensor == name => batch.clone(),
            _ => file.read(Some(name))?,
        };
        *last_batch = Some((item.path.clone(), name.to_owned(), batch.clone()));
        Ok(Read { latents: one_of(&batch, index)?, layout })
    }
}

/// One item of a batch, with its axis.
fn one_of(batch: &Tensor, index: usize) -> anyhow::Result<Tensor> {
    let [count, rest @ ..] = batch.head.shape.as_slice() else { bail!("a tensor has no axes") };
    ensure!(index < *count, "the batch has {count} items, and {index} is none of them");
    let length = batch.bytes.len() / count;
    let bytes = batch.bytes.slice(index * length..(index + 1) * length);
    Tensor::new(batch.head.dtype, [&[1], rest].concat(), bytes).context("a batch could not be taken apart")
}

/// Tells of each kind of file once how it is taken.
#[derive(Default)]
pub(crate) struct Told(Mutex<HashSet<String>>);

impl Told {
    /// Whether something is told for the first time.
    pub(crate) fn is_new(&self, what: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned())
    }

    /// The options for latents of this layout, and a line about it, if it is new. What the command line says of scaling goes
    /// before what is known of a program.
    pub(crate) fn options(
        &self,
        options: &DecodeOptions,
        args: &ScalingArgs,
        layout: Option<Layout>,
        path: &Path,
    ) -> (DecodeOptions, Option<String>) {
        let options = options.clone();
        let is_said = args.no_scaling || args.scaling_factor.is_some() || args.shift_factor.is_some();
        let Some(layout) = layout.filter(|_| !is_said) else { return (options, None) };
        let Layout { program, scaling, .. } = layout;
        let (options, what) = match scaling {
            FileScaling::Scaled => {
                (options, format!("{program} has scaled these latents: the model's factors undo it"))
            }
            FileScaling::Unscaled => (
                options.do_scaling(false),
                format!(
                    "{program} saves latents as the decoder takes them: they are not scaled (as with --no-scaling)"
                ),
            ),
            FileScaling::By(factor) => (
                options.scaling_factor(factor),
                format!(
                    "an old file of {program}, without its marker: divided by {factor}, as its LoadLatent does"
                ),
            ),
            FileScaling::Unknown => (
                options,
                format!(
                    "a file of {program} that does not say whether its latents are scaled: taken as scaled, \
                     --no-scaling if they are not"
                ),
            ),
        };
        (options, self.is_new(&what).then(|| format!("{}: {}", shown(path), plain(&what))))
    }
}

#[cfg(test)]
mod tests {
    use client::DType;

    use super::*;

    #[test]
    fn a_batch_becomes_as_many_files_as_it_has_pictures() {
        use OutputType::{Mp4, Pil, Pt};
        for (shape, output_type, size, expected) in [
            (&[4, 16, 8, 8][..], Pil, None, 4),
            (&[16, 8, 8], Pil, None, 1),
            (&[4, 16, 1, 8, 8], Pil, None, 4),
            (&[16, 1, 8, 8], Pil, None, 1),
            (&[4, 1024, 64], Pil, Some((512, 512)), 4),
            (&[16, 64, 64], Pil, Some((512, 512)), 1),
            (&[2, 16, 3, 8, 8], Mp4, None, 2),
            (&[16, 3, 8, 8], Mp4, None, 1),
            (&[4, 16, 8, 8], Pt, None, 1),
        ] {
            assert_eq!(pictures(shape, output_type, size), expected, "{shape:?} {output_type:?}");
        }
    }

    #[test]
    fn one_of_a_batch_is_its_part_of_the_bytes() {
        let batch = Tensor::new(DType::UInt8, vec![3, 2, 1], vec![0, 1, 2, 3, 4, 5].into()).unwrap();
        let one = Tensor::new(DType::UInt8, vec![1, 2, 1], vec![2, 3].into()).unwrap();
        assert_eq!(one_of(&batch, 1).unwrap(), one);
        assert!(one_of(&batch, 3).is_err());
    }
}
