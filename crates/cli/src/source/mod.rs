//! Models as they are named on the command line.

mod cache_folder;
#[cfg(feature = "hub")]
mod hub;
mod list;
mod mistakes;
mod preset;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use vae::device::cpu::Cpu;
use vae::latents::Pipeline;
use vae::{Factors, LoadMode, LoadOptions, Vae};

pub(crate) use self::list::{ModelArg, ModelArgs, in_order};
pub(crate) use self::mistakes::nearest;
pub(crate) use self::preset::Preset;
use crate::demo;

/// `SOURCE`: where a model comes from, and what its user says of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Source {
    place: Place,
    factors: Factors,
}

#[derive(Clone, Debug, PartialEq)]
enum Place {
    /// The embedded demonstration model.
    Demo,
    /// A checkpoint on the hub by a short name.
    Preset(&'static Preset),
    /// A checkpoint on the hub.
    Hub(HubPath),
    /// A folder or file on this machine.
    Path(PathBuf),
}

/// `OWNER/NAME[:PATH][@REVISION]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HubPath {
    repo: String,
    /// A folder in the repository, or a `.safetensors` file; empty for the repository itself.
    path: String,
    revision: Option<String>,
}

/// A model that is on this machine.
pub(crate) struct Fetched {
    source: vae::Source,
    options: LoadOptions,
}

impl Fetched {
    /// The model, run by `engine`. Weights are kept as `mode` says, else mapped where nobody changes them.
    pub(crate) fn load(self, engine: Cpu, mode: Option<LoadMode>) -> anyhow::Result<Box<dyn Vae>> {
        let options = LoadOptions { mode: mode.unwrap_or(self.options.mode), ..self.options };
        Ok(vae::load_with(self.source, &options, engine)?)
    }
}

impl Fetched {
    /// What it computes.
    pub(crate) fn graphs(self) -> anyhow::Result<vae::Graphs> {
        Ok(vae::graphs(self.source, &self.options)?)
    }
}

impl Source {
    /// The embedded demonstration model.
    pub(crate) fn demo() -> Self {
        Self { place: Place::Demo, factors: Factors::default() }
    }

    /// Whether there is something at its path, if it is one: what is wrong there is better known before a server starts.
    ///
    /// # Errors
    /// Nothing is there; what may have been meant.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match &self.place {
            Place::Path(path) if !path.exists() => bail!("{}", mistakes::nothing_at(path)),
            _ => Ok(()),
        }
    }

    /// The model, run by `engine`; downloaded first if it is on the hub and not in its cache. `mode` is as for
    /// [`Fetched::load`].
    pub(crate) fn load(self, engine: Cpu, mode: Option<LoadMode>) -> anyhow::Result<Box<dyn Vae>> {
        self.fetch()?.load(engine, mode)
    }

    /// Downloads it, if it is on the hub and not in its cache.
    pub(crate) fn fetch(self) -> anyhow::Result<Fetched> {
        self.check()?;
        let mut factors = self.factors;
        let (source, of_hub) = match self.place {
            Place::Demo => (demo::model(), false),
            Place::Preset(preset) => {
                let known = preset.known();
                // Another scaling factor is of another model, whose shift is not this one.
                if factors.scaling_factor.is_none() {
                    factors.scaling_factor = known.scaling_factor;
                    factors.shift_factor = factors.shift_factor.or(known.shift_factor);
                }
                (resolve(&preset.place())?, true)
            }
            Place::Hub(place) => (resolve(&place)?, true),
            Place::Path(path) => {
                let of_hub = cache_folder::is_inside(&path);
                match cache_folder::snapshot(&path)? {
                    Some(snapshot) => (vae::Source::Folder(snapshot), true),
                    None if path.is_file() => (vae::Source::File(path), of_hub),
                    None => (vae::Source::Folder(path), of_hub),
                }
            }
        };
        // What the hub's cache has is never written to again, and a repository is of one model.
        let usual = if of_hub { LoadMode::Map } else { LoadMode::Auto };
        Ok(Fetched { source, options: LoadOptions { factors, mode: usual, one_model: of_hub } })
    }

    /// Downloads the model into the hub's cache, or what is new of it; says what came of it, in one line.
    ///
    /// # Errors
    /// It is none of the hub, or cannot be downloaded.
    pub(crate) fn pull(&self) -> anyhow::Result<String> {
        match &self.place {
            Place::Demo => Ok("demo is part of this program: there is nothing to download".to_owned()),
            Place::Preset(preset) => pull(&preset.place()),
            Place::Hub(place) => pull(place),
            Place::Path(path) if path.exists() => {
                bail!("{} is on this machine already: it is a file or folder here", path.display())
            }
            Place::Path(path) => bail!("{}", mistakes::nothing_at(path)),
        }
    }

    /// Where it comes from, as far as it is known beyond this machine.
    pub(crate) fn origin(&self) -> Option<String> {
        match &self.place {
            Place::Demo => Some("demo".to_owned()),
            Place::Preset(preset) => Some(preset.place().to_string()),
            Place::Hub(place) => Some(place.to_string()),
            Place::Path(_) => None,
        }
    }

    /// The licence of its weights, where it is known.
    pub(crate) fn license(&self) -> Option<String> {
        match &self.place {
            Place::Demo => Some(demo::LICENSE.to_owned()),
            Place::Preset(preset) => Some(preset.license.to_owned()),
            Place::Hub(_) | Place::Path(_) => None,
        }
    }

    /// Whether it is the embedded model.
    pub(crate) fn is_demo(&self) -> bool {
        matches!(self.place, Place::Demo)
    }

    /// Latents to try the model with, where there are any.
    pub(crate) fn example(&self) -> Option<&'static [u8]> {
        self.is_demo().then_some(demo::LATENTS)
    }

    /// Bytes of the files that its weights are in, before it is loaded; `None` where that is not known.
    pub(crate) fn weights_size(&self) -> Option<usize> {
        let there = match &self.place {
            Place::Demo | Place::Path(_) => true,
            Place::Preset(preset) => is_cached(&preset.place()),
            Place::Hub(place) => is_cached(place),
        };
        let fetched = if there { self.clone().fetch().ok()? } else { return None };
        let size = |path: &Path| usize::try_from(path.metadata().ok()?.len()).ok();
        match fetched.source {
            vae::Source::Embedded { weights, .. } => Some(weights.len()),
            // It may be a full checkpoint, of which the model is a small part.
            vae::Source::File(_) => None,
            vae::Source::Folder(folder) => {
                let of_pipeline = folder.join("vae");
                let folder = if of_pipeline.join("config.json").is_file() { of_pipeline } else { folder };
                let files = || folder.read_dir().into_iter().flatten().flatten().map(|file| file.path());
                // One variant of several is loaded: the one that has no variant in its name, or any.
                let plain = folder.join("diffusion_pytorch_model.safetensors");
                let all = || files().filter(|file| vae::is_weights_file(file)).filter_map(|file| size(&file));
                size(&plain).or_else(|| Some(all().fold(0, usize::saturating_add)))
            }
        }
    }

    /// The last part of its name: `demo`, a preset's, a repository's, a folder's, a file's without its ending.
    fn short_name(&self) -> anyhow::Result<String> {
        let path = match &self.place {
            Place::Demo => return Ok("demo".to_owned()),
            Place::Preset(preset) => return Ok(preset.name.to_owned()),
            Place::Hub(HubPath { repo, .. }) => Path::new(repo).to_path_buf(),
            // A link is called by its own name, not by that of what it leads to.
            Place::Path(path) => match path.file_name() {
                Some(_) => path.clone(),
                // `.` and `..` have a name too, once they are looked up.
                None => path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?,
            },
        };
        self.check()?;
        let name = match cache_folder::repo_name(&path) {
            Some(name) => Some(name),
            None if path.is_file() => path.file_stem().and_then(|name| name.to_str()),
            None => path.file_name().and_then(|name| name.to_str()),
        };
        match name {
            Some(name) if wire::routes::is_model_name(name) => Ok(name.to_owned()),
            name => {
                let why = name.and_then(mistakes::name).map(|why| format!(": {why}")).unwrap_or_default();
                bail!("{self} needs a name for its URL, write NAME={self}{why}")
            }
        }
    }
}

#[cfg(feature = "hub")]
fn resolve(place: &HubPath) -> anyhow::Result<vae::Source> {
    hub::resolve(place)
}

/// Whether a model of the hub is in the cache.
#[cfg(feature = "hub")]
pub(crate) use self::hub::is_cached;

/// Whether a model of the hub is in the cache.
#[cfg(not(feature = "hub"))]
pub(crate) fn is_cached(_place: &HubPath) -> bool {
    false
}

#[cfg(feature = "hub")]
fn pull(place: &HubPath) -> anyhow::Result<String> {
    hub::pull(place)
}

#[cfg(not(feature = "hub"))]
fn pull(place: &HubPath) -> anyhow::Result<String> {
    bail!("{place} cannot be downloaded: this program was built without the feature `hub`")
}

#[cfg(not(feature = "hub"))]
fn resolve(place: &HubPath) -> anyhow::Result<vae::Source> {
    bail!(
        "{place} is no file or folder here, and this program was built without the feature `hub` to download it"
    )
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Demo => f.write_str("demo"),
            Place::Preset(preset) => write!(f, "{} ({})", preset.name, preset.place()),
            Place::Hub(place) => place.fmt(f),
            Place::Path(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for Source {
    type Err = String;

    /// A preset goes first, then what is on this machine, then the hub.
    fn from_str(text: &str) -> Result<Self, String> {
        let (text, factors) = with_factors(text)?;
        let place = match text {
            "" => {
                return Err(
                    "it names no model: a folder, a file, an id of the hub, a preset, or `demo`".to_owned()
                );
            }
            "demo" => Place::Demo,
            text => match (Preset::find(text), HubPath::parse(text)) {
                (Some(preset), _) => Place::Preset(preset),
                (None, Some(place)) if !Path::new(text).exists() => Place::Hub(place),
                _ => Place::Path(text.into()),
            },
        };
        Ok(Self { place, factors })
    }
}

/// What may follow a source, after a comma.
const OPTIONS: [&str; 3] = ["scaling_factor", "shift_factor", PIPELINE];

/// The pipeline that the latents are of.
const PIPELINE: &str = "pipeline";

/// A source and the factors that follow it.
fn with_factors(text: &str) -> Result<(&str, Factors), String> {
    let (mut source, mut factors) = (text, Factors::default());
    while let Some((before, last)) = source.rsplit_once(',')
        && let Some((key, value)) = last.split_once('=')
        && OPTIONS.contains(&key)
    {
        if key == PIPELINE {
            if factors.pipeline.replace(pipeline(value)?).is_some() {
                return Err(format!("{key} is there twice"));
            }
            source = before;
            continue;
        }
        let number = value.parse().ok().filter(|number: &f32| number.is_finite());
        let number = number.ok_or_else(|| format!("{key} is {value:?}, expected a number"))?;
        let factor = if key == OPTIONS[0] { &mut factors.scaling_factor } else { &mut factors.shift_factor };
        if factor.replace(number).is_some() {
            return Err(format!("{key} is there twice"));
        }
        source = before;
    }
    if let Some((_, last)) = source.rsplit_once(',')
        && let Some((key, value)) = last.split_once('=')
        && let Some(mistake) = mistakes::option(key, value).filter(|_| !Path::new(source).exists())
    {
        return Err(mistake);
    }
    Ok((source, factors))
}

/// The pipeline of this name, with `-` or `_`.
fn pipeline(name: &str) -> Result<Pipeline, String> {
    let found = Pipeline::ALL.into_iter().find(|pipeline| pipeline.name() == name.replace('-', "_"));
    let names = Pipeline::ALL.map(Pipeline::name).join(", ");
    found.ok_or_else(|| format!("{PIPELINE} is {name:?}, expected one of {names}"))
}

impl HubPath {
    /// `OWNER/NAME[:PATH][@REVISION]`, if `text` is so. Whether there is such a model is not asked.
    fn parse(text: &str) -> Option<Self> {
        let (text, revision) = match text.split_once('@') {
            Some((text, revision)) => (text, Some(revision)),
            None => (text, None),
        };
        let (repo, path) = text.split_once(':').unwrap_or((text, ""));
        let is_name = |name: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !name.is_empty() && !name.starts_with(['.', '-']) && name.chars().all(plain)
        };
        let path = path.trim_end_matches('/');
        let is_path = path.is_empty() || path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        let good = repo.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name))
            && is_path
            && revision != Some("");
        // A file that is not there is not likely to be a repository.
        let good = good && !(path.is_empty() && vae::is_weights_file(Path::new(repo)));
        good.then(|| Self {
            repo: repo.to_owned(),
            path: path.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }

    /// Whether it names a file rather than a folder.
    #[cfg(feature = "hub")]
    fn is_file(&self) -> bool {
        vae::is_weights_file(Path::new(&self.path))
    }
}

impl fmt::Display for HubPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repo, path, revision } = self;
        f.write_str(repo)?;
        if !path.is_empty() {
            write!(f, ":{path}")?;
        }
        match revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(place: Place) -> Source {
        Source { place, factors: Factors::default() }
    }

    fn path(path: &str) -> Source {
        source(Place::Path(path.into()))
    }

    fn scaled(source: Source, scaling_factor: f32, shift_factor: Option<f32>) -> Source {
        Source {
            factors: Factors { scaling_factor: Some(scaling_factor), shift_factor, pipeline: None },
            ..source
        }
    }

    #[test]
    fn models_of_a_line_and_of_a_variable() {
        for (text, expected) in [
            ("demo", vec![(None, Source::demo())]),
            ("demo=demo", vec![(Some("demo"), Source::demo())]),
            ("sdxl=./a", vec![(Some("sdxl"), path("./a"))]),
            ("./a=b", vec![(None, path("./a=b"))]),
            ("sd=/x,y/z,sdxl=/w", vec![(Some("sd"), path("/x,y/z")), (Some("sdxl"), path("/w"))]),
            ("./a,scaling_factor=0.5", vec![(None, scaled(path("./a"), 0.5, None))]),
            ("demo,demo", vec![(None, Source::demo()), (None, Source::demo())]),
            ("x=demo,demo", vec![(Some("x"), Source::demo()), (None, Source::demo())]),
            (
                "demo,scaling_factor=2,src",
                vec![(None, scaled(Source::demo(), 2.0, None)), (None, path("src"))],
            ),
            ("./no,src", vec![(None, path("./no,src"))]),
            (
                "x=demo,pipeline=ernie-image",
                vec![(
                    Some("x"),
                    Source {
                        factors: Factors { pipeline: Some(Pipeline::ErnieImage), ..Factors::default() },
                        ..Source::demo()
                    },
                )],
            ),
            (
                "a=/x,y,shift_factor=-1,scaling_factor=0.5,b=demo",
                vec![(Some("a"), scaled(path("/x,y"), 0.5, Some(-1.0))), (Some("b"), Source::demo())],
            ),
        ] {
            let models: ModelArgs = text.parse().unwrap();
            let models: Vec<_> =
                models.0.iter().map(|model| (model.name.as_deref(), model.source.clone())).collect();
            assert_eq!(models, expected, "{text}");
        }
        for text in [
            "",
            "sd=",
            "scaling_factor=1",
            "demo,scaling_factor=",
            "demo,scaling_factor=nan",
            "demo,shift_factor=x",
            "demo,shift_factor=1,shift_factor=2",
            "demo,scaling_factr=0.5",
            "demo,scale=0.5",
            "demo,pipeline=flux",
            "demo,pipeline=flux2,pipeline=flux2",
            "health=demo",
            "my model=demo",
        ] {
            let error = text.parse::<ModelArgs>().map(|models| models.0[0].source.place == Place::Demo);
            assert_ne!(error, Ok(true), "{text:?}");
        }
    }

    #[test]
    fn presets_go_before_paths_and_paths_before_the_hub() {
        let parse = |text: &str| text.parse::<Source>().unwrap().place;
        for name in ["sd-v1", "sdxl", "flux"] {
            assert!(matches!(parse(name), Place::Preset(preset) if preset.name == name), "{name}");
        }
        for (text, repo, path, revision) in [
            ("a/b", "a/b", "", None),
            ("a/b:vae", "a/b", "vae", None),
            ("a/b:vae/", "a/b", "vae", None),
            ("a/b@v1.0", "a/b", "", Some("v1.0")),
            ("a/b-1.x:deep/er.safetensors@refs/pr/1", "a/b-1.x", "deep/er.safetensors", Some("refs/pr/1")),
        ] {
            let revision = revision.map(str::to_owned);
            let place = HubPath { repo: repo.to_owned(), path: path.to_owned(), revision };
            assert_eq!(parse(text), Place::Hub(place.clone()), "{text}");
            assert_eq!(HubPath::parse(&place.to_string()), Some(place));
        }
        for text in ["./sdxl", "a", "a/b/c", "/a/b", "../b", "a/", "a/b@", "a/b:../c", "~/a", "a b/c", "-a/b"]
        {
            assert_eq!(parse(text), Place::Path(text.into()), "{text}");
        }
        // What there is goes before what there may be. Tests run in the folder of their crate.
        assert_eq!(parse("src/source"), Place::Path("src/source".into()));
    }

    #[test]
    fn a_model_without_a_name_has_one() {
        let name = |text: &str| text.parse::<ModelArg>().unwrap().name();
        for (text, expected) in [
            ("demo", "demo"),
            ("other=demo", "other"),
            ("sdxl", "sdxl"),
            ("black-forest-labs/FLUX.1-schnell:vae@main", "FLUX.1-schnell"),
        ] {
            assert_eq!(name(text).unwrap(), expected);
        }
        let here = tempfile::tempdir().unwrap();
        for (folder, expected) in [("sdxl-vae", Some("sdxl-vae")), ("with space", None), ("models", None)] {
            let path = here.path().join(folder);
            std::fs::create_dir(&path).unwrap();
            assert_eq!(name(path.to_str().unwrap()).ok().as_deref(), expected, "{folder}");
        }
        let file = here.path().join("ae.v2.safetensors");
        std::fs::write(&file, "").unwrap();
        assert_eq!(name(file.to_str().unwrap()).unwrap(), "ae.v2");
        assert!(
            name("/no/such/folder").unwrap_err().to_string().contains("there is no file or folder /no/such")
        );
        assert!(name("sdlx").unwrap_err().to_string().contains("did you mean `sdxl`?"));
        let reserved = name(here.path().join("models").to_str().unwrap()).unwrap_err().to_string();
        assert!(reserved.contains("NAME=") && reserved.contains("a path of the server itself"), "{reserved}");
    }

    /// As in the hub's cache, whose files are links to contents that are named by their checksums.
    #[test]
    #[cfg(unix)]
    fn a_link_is_called_by_its_own_name() {
        let here = tempfile::tempdir().unwrap();
        let repo = here.path().join("models--somebody--some-vae");
        let snapshot = repo.join("snapshots").join("4ac0".repeat(10));
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(repo.join("blobs")).unwrap();
        std::fs::write(repo.join("blobs/4ac04ac0"), "").unwrap();
        let link = snapshot.join("my-vae.safetensors");
        std::os::unix::fs::symlink("../../blobs/4ac04ac0", &link).unwrap();
        std::os::unix::fs::symlink(&snapshot, here.path().join("current")).unwrap();
        let current = here.path().join("current");
        for (path, expected) in
            [(&link, "my-vae"), (&current, "current"), (&repo, "some-vae"), (&snapshot, "some-vae")]
        {
            let model: ModelArg = path.to_str().unwrap().parse().unwrap();
            assert_eq!(model.name().unwrap(), expected);
        }
    }
}
