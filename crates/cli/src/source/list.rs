//! Models as `--model` and its variable name them: with names of their own, and several in one text.

use std::path::Path;
use std::str::FromStr;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::{Factors, HubPath, OPTIONS, Preset, Source, mistakes, with_factors};

/// `NAME=SOURCE`, or a `SOURCE` alone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelArg {
    pub(super) name: Option<String>,
    pub(crate) source: Source,
}

impl ModelArg {
    /// The demonstration model.
    pub(crate) fn demo() -> Self {
        Self { name: None, source: Source::demo() }
    }

    /// Its name in URLs: what was said, else the source's own.
    pub(crate) fn name(&self) -> anyhow::Result<String> {
        self.name.clone().map_or_else(|| self.source.short_name(), Ok)
    }
}

impl FromStr for ModelArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match named(text)? {
            Some((name, source)) => Ok(Self { name: Some(name.to_owned()), source: source.parse()? }),
            None => Ok(Self { name: None, source: text.parse()? }),
        }
    }
}

/// `NAME=SOURCE` taken apart, if it is so. A path may have `=` in it too, but then it hardly begins with a bare word.
///
/// # Errors
/// It is meant so, but no model can have the name.
fn named(text: &str) -> Result<Option<(&str, &str)>, String> {
    let Some((name, source)) = text.split_once('=') else { return Ok(None) };
    if name.contains(['/', '\\', ',']) || OPTIONS.contains(&name) || Path::new(text).exists() {
        return Ok(None);
    }
    match mistakes::option(name, source).or_else(|| mistakes::name(name)) {
        Some(mistake) => Err(mistake),
        None => Ok(Some((name, source))),
    }
}

/// What one `--model`, or the whole variable, says: models separated by commas.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelArgs(pub(crate) Vec<ModelArg>);

impl FromStr for ModelArgs {
    type Err = String;

    /// Paths may have commas, and factors follow one: a comma separates only where a `NAME=` follows, or where what stands
    /// before it and what follows are models each by itself.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut models: Vec<String> = Vec::new();
        for part in text.split(',') {
            let Some(last) = models.last_mut() else {
                models.push(part.to_owned());
                continue;
            };
            let whole = format!("{last},{part}");
            let separate =
                !Path::new(&whole).exists() && (named(part)?.is_some() || is_model(last) && is_model(part));
            if separate {
                models.push(part.to_owned());
            } else {
                *last = whole;
            }
        }
        models.iter().map(|model| model.parse()).collect::<Result<_, _>>().map(Self)
    }
}

/// The values of arguments of `serve` that name models, in the order of the command line.
pub(crate) fn in_order<T>(matches: &ArgMatches, values: impl Fn(&str) -> Vec<T>, ids: &[&str]) -> Vec<T> {
    let numbered = |id: &&str| {
        let places: Vec<_> = matches.indices_of(id).into_iter().flatten().collect();
        places.into_iter().zip(values(id)).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = ids.iter().flat_map(numbered).collect();
    all.sort_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, value)| value).collect()
}

impl ModelArgs {
    /// For commands that work with one model: the variable may be meant for `serve`, where the first model is the one that
    /// answers at `/`, so it is the one here too.
    pub(crate) fn settle(&mut self, matches: &ArgMatches) {
        if matches.value_source("model") == Some(ValueSource::EnvVariable) {
            self.0.truncate(1);
        }
    }
}

/// Whether a text is sure to name a model by itself.
fn is_model(text: &str) -> bool {
    let text = named(text).ok().flatten().map_or(text, |(_, source)| source);
    let Ok((text, Factors { .. })) = with_factors(text) else { return false };
    text == "demo"
        || Preset::find(text).is_some()
        || !text.is_empty() && Path::new(text).exists()
        || HubPath::parse(text).is_some()
}
