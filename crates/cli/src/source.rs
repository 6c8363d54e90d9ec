//! Models as they are named on the command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};
use vae::engine::cpu::CpuEngine;
use vae::{LoadError, Vae};

use crate::demo;

/// `SOURCE`: where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The embedded demonstration model.
    Demo,
    /// A folder as diffusers saves it.
    Folder(PathBuf),
}

impl Source {
    /// The model, run by `engine`.
    pub(crate) fn load(self, engine: CpuEngine) -> Result<Box<dyn Vae>, LoadError> {
        let source = match self {
            Self::Demo => demo::model(),
            Self::Folder(folder) => vae::Source::Folder(folder),
        };
        vae::load(source, engine)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Demo => f.write_str("demo"),
            Self::Folder(folder) => folder.display().fmt(f),
        }
    }
}

/// `NAME=SOURCE`, or a `SOURCE` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelArg {
    name: Option<String>,
    pub(crate) source: Source,
}

impl ModelArg {
    /// The demonstration model.
    pub(crate) fn demo() -> Self {
        Self { name: None, source: Source::Demo }
    }

    /// Its name in URLs: what was said, else `demo`, else the folder's own name.
    pub(crate) fn name(&self) -> anyhow::Result<String> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let folder = match &self.source {
            Source::Demo => return Ok("demo".to_owned()),
            Source::Folder(folder) => folder,
        };
        // `.` and `..` have a name too, once they are looked up.
        let path = folder.canonicalize().with_context(|| format!("cannot read {}", folder.display()))?;
        match path.file_name().and_then(|name| name.to_str()) {
            Some(name) if wire::routes::is_model_name(name) => Ok(name.to_owned()),
            _ => bail!("{} needs a name for its URL: write NAME={}", folder.display(), folder.display()),
        }
    }
}

impl FromStr for ModelArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, source) = match named(text) {
            Some((name, source)) => (Some(name.to_owned()), source),
            None => (None, text),
        };
        let source = match source {
            "" => return Err("it names no source: a folder, or `demo`".to_owned()),
            "demo" => Source::Demo,
            folder => Source::Folder(folder.into()),
        };
        Ok(Self { name, source })
    }
}

/// `NAME=SOURCE` taken apart, if it is so. A path may have `=` in it too, but then it hardly begins with a bare word.
fn named(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').filter(|(name, _)| wire::routes::is_model_name(name))
}

/// What one `--model`, or the whole variable, says: models separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelArgs(pub(crate) Vec<ModelArg>);

impl FromStr for ModelArgs {
    type Err = String;

    /// A comma separates only where a `NAME=` follows, since paths may have commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut models: Vec<String> = Vec::new();
        for part in text.split(',') {
            match models.last_mut() {
                Some(last) if named(part).is_none() => {
                    last.push(',');
                    last.push_str(part);
                }
                _ => models.push(part.to_owned()),
            }
        }
        models.iter().map(|model| model.parse()).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &str) -> Source {
        Source::Folder(path.into())
    }

    #[test]
    fn models_of_a_line_and_of_a_variable() {
        for (text, expected) in [
            ("demo", vec![(None, Source::Demo)]),
            ("demo=demo", vec![(Some("demo"), Source::Demo)]),
            ("sdxl=./a", vec![(Some("sdxl"), folder("./a"))]),
            ("./a=b", vec![(None, folder("./a=b"))]),
            ("sd=/x,y/z,sdxl=/w", vec![(Some("sd"), folder("/x,y/z")), (Some("sdxl"), folder("/w"))]),
        ] {
            let models: ModelArgs = text.parse().unwrap();
            let models: Vec<_> =
                models.0.iter().map(|model| (model.name.as_deref(), model.source.clone())).collect();
            assert_eq!(models, expected, "{text}");
        }
        for text in ["", "sd="] {
            assert!(text.parse::<ModelArgs>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_model_without_a_name_has_one() {
        let name = |text: &str| text.parse::<ModelArg>().unwrap().name();
        assert_eq!(name("demo").unwrap(), "demo");
        assert_eq!(name("other=demo").unwrap(), "other");
        let here = tempfile::tempdir().unwrap();
        for (folder, expected) in [("sdxl-vae", Some("sdxl-vae")), ("with space", None), ("models", None)] {
            let path = here.path().join(folder);
            std::fs::create_dir(&path).unwrap();
            assert_eq!(name(path.to_str().unwrap()).ok().as_deref(), expected, "{folder}");
        }
        assert!(name("/no/such/folder").unwrap_err().to_string().contains("/no/such/folder"));
    }
}
