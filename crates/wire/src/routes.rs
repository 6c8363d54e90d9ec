//! The names of the routes. Every one works with and without a trailing slash.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// 200 while the process lives.
pub const HEALTH: &str = "/health";
/// 200 once every model is loaded and work is accepted, else 503.
pub const READY: &str = "/ready";
/// What is served, as JSON.
pub const MODELS: &str = "/models";
/// Figures for Prometheus.
pub const METRICS: &str = "/metrics";
/// The API as an OpenAPI document.
pub const OPENAPI: &str = "/openapi.json";
/// The same for people.
pub const DOCS: &str = "/docs";
/// Decode with the default model, as does `/`.
pub const PREDICT: &str = "/predict";

/// First segments of paths that mean something else than a model; `page` has the files of the web page.
pub const RESERVED: [&str; 8] =
    ["predict", "health", "ready", "models", "metrics", "openapi.json", "docs", "page"];

/// Whether a model can be served under this name: it must stand in a path as one segment of its own.
pub fn is_model_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty()
        && name.chars().all(plain)
        && !name.chars().all(|c| c == '.')
        && !RESERVED.contains(&name)
}

/// Which model a path of `POST` names, see [`target`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `/` and `/predict`: the first model served, unless the query says otherwise.
    Default,
    /// `/{model}` and `/{model}/predict`. Any name, served or not.
    Model(Cow<'a, str>),
}

impl Target<'_> {
    /// The same, free of the path it was read from.
    pub fn into_owned(self) -> Target<'static> {
        match self {
            Self::Default => Target::Default,
            Self::Model(name) => Target::Model(Cow::Owned(name.into_owned())),
        }
    }
}

/// The path without empty segments: `//flux` and `/flux//` are `/flux` and `/flux/`. An address that ends in a slash, put
/// before a path that begins with one, makes them.
pub fn without_empty_segments(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut short = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !short.ends_with('/') {
            short.push(letter);
        }
    }
    Cow::Owned(short)
}

/// Which model `path` names; `None` when it is no path of this protocol.
pub fn target(path: &str) -> Option<Target<'_>> {
    let path = path.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    let path = match path {
        "predict" => "",
        _ => path.strip_suffix("/predict").unwrap_or(path),
    };
    match path {
        "" => Some(Target::Default),
        _ if path.contains('/') => None,
        // Names need no escapes, but a client may write them with some.
        _ => Some(Target::Model(percent_decode_str(path).decode_utf8_lossy())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_and_without_slash() {
        for path in ["/", "/predict", "/predict/"] {
            assert_eq!(target(path), Some(Target::Default), "{path}");
        }
        for path in ["/flux", "/flux/", "/flux/predict", "/flux/predict/", "/%66lu%78"] {
            assert_eq!(target(path), Some(Target::Model("flux".into())), "{path}");
        }
        for path in ["", "flux", "/a/b", "/a/b/predict", "/flux//"] {
            assert_eq!(target(path), None, "{path}");
        }
    }

    #[test]
    fn empty_segments_are_left_out() {
        for (path, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("//flux", "/flux"),
            ("/flux//", "/flux/"),
            ("///flux///predict//", "/flux/predict/"),
            ("/flux/predict", "/flux/predict"),
            ("", ""),
        ] {
            assert_eq!(without_empty_segments(path), expected, "{path}");
        }
    }

    #[test]
    fn names_of_models() {
        for name in ["sd-v1", "flux.1_schnell", "a"] {
            assert!(is_model_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a b", "ü", "predict", "models", "docs", "a?b", "a%20"] {
            assert!(!is_model_name(name), "{name}");
        }
    }
}
