//! `config.json` as diffusers writes it, read key by key so that every complaint names its key.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::LoadError;
use crate::checkpoint::foreign_kind;

/// A parsed configuration file.
///
/// A missing key takes the default that the caller passes, which is diffusers' own. So does `null`, except for a
/// boolean: there diffusers takes it as Python does, for false.
pub(crate) struct Config {
    path: PathBuf,
    values: Map<String, Value>,
    /// What it holds that was concluded and not said, for people.
    concluded: Option<String>,
}

impl Config {
    /// Parses `text`, the content of the file at `path`.
    pub(crate) fn parse(path: impl Into<PathBuf>, text: &str) -> Result<Self, LoadError> {
        let path = path.into();
        match serde_json::from_str(text) {
            Ok(values) => Ok(Self { path, values, concluded: None }),
            Err(error) => {
                let message =
                    match foreign_kind(&path, text.as_bytes()).filter(|_| !text.starts_with(['{', '['])) {
                        Some(kind) => format!("it is {kind}; expected the settings of a model, as JSON"),
                        None => format!("not a JSON object of settings: {error}"),
                    };
                Err(LoadError::Config { path, message })
            }
        }
    }

    /// Settings that no file holds; `path` is the file that they were taken from, for messages.
    pub(crate) fn of(path: impl Into<PathBuf>, values: Map<String, Value>) -> Self {
        Self { path: path.into(), values, concluded: None }
    }

    /// The settings that diffusers takes for a class where nothing is said.
    pub(crate) fn of_class(path: impl Into<PathBuf>, class_name: &str) -> Self {
        Self::of(path, Map::from_iter([("_class_name".to_owned(), class_name.into())]))
    }

    /// Notes what was concluded, in one sentence for people.
    pub(crate) fn conclude(&mut self, conclusion: String) {
        self.concluded = Some(conclusion);
    }

    /// What was concluded and not said by any file, if there is something.
    pub(crate) fn concluded(&self) -> Option<&str> {
        self.concluded.as_deref()
    }

    /// Forgets what the file says.
    pub(crate) fn remove(&mut self, key: &str) {
        self.values.remove(key);
    }

    /// Puts a number in the place of what the file says.
    pub(crate) fn set(&mut self, key: &str, value: f32) {
        self.values.insert(key.to_owned(), value.into());
    }

    /// Reads and parses the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, LoadError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| LoadError::Io { path: path.to_path_buf(), source })?;
        Self::parse(path, &text)
    }

    /// `_class_name`: which model this configures.
    pub(crate) fn class_name(&self) -> Result<&str, LoadError> {
        match self.values.get("_class_name") {
            Some(Value::String(name)) => Ok(name),
            found => Err(self.unexpected("_class_name", found, "the name of a diffusers class")),
        }
    }

    /// A whole number from 1 to `max`.
    pub(crate) fn size(&self, key: &str, default: usize, max: usize) -> Result<usize, LoadError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => as_size(value, max)
                .ok_or_else(|| self.unexpected(key, Some(value), &format!("a whole number from 1 to {max}"))),
        }
    }

    /// A list, not empty, of whole numbers from 1 to `max`.
    pub(crate) fn sizes(&self, key: &str, default: &[usize], max: usize) -> Result<Vec<usize>, LoadError> {
        let expected = || format!("a list of whole numbers from 1 to {max}");
        self.list(key, default, |value| as_size(value, max), expected)
    }

    /// A whole number from 1 to `max`, or the first of a list of them.
    pub(crate) fn first_size(&self, key: &str, default: usize, max: usize) -> Result<usize, LoadError> {
        match self.get(key) {
            Some(Value::Array(_)) => Ok(self.sizes(key, &[default], max)?[0]),
            _ => self.size(key, default, max),
        }
    }

    /// A finite number.
    pub(crate) fn number(&self, key: &str, default: f32) -> Result<f32, LoadError> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    /// A finite number, or nothing.
    pub(crate) fn optional_number(&self, key: &str) -> Result<Option<f32>, LoadError> {
        self.get(key)
            .map(|value| as_number(value).ok_or_else(|| self.unexpected(key, Some(value), "a finite number")))
            .transpose()
    }

    /// `count` finite numbers, or nothing.
    pub(crate) fn optional_numbers(&self, key: &str, count: usize) -> Result<Option<Vec<f32>>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let numbers = self.list(key, &[], as_number, || format!("a list of {count} finite numbers"))?;
        if numbers.len() != count {
            let expected = format!("{count} numbers, one for each latent channel");
            return Err(self.unexpected(key, Some(value), &expected));
        }
        Ok(Some(numbers))
    }

    /// A boolean.
    pub(crate) fn boolean(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        match self.values.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            found => Err(self.unexpected(key, found, "true or false")),
        }
    }

    /// `count` booleans.
    pub(crate) fn booleans(&self, key: &str, default: &[bool], count: usize) -> Result<Vec<bool>, LoadError> {
        let expected = || format!("a list of {count} times true or false");
        let found = self.list(key, default, Value::as_bool, expected)?;
        if found.len() == count { Ok(found) } else { Err(self.refuse(key, &expected())) }
    }

    /// Refuses a key that says anything but nothing: `null` or an empty list. `expected` says what is expected, and why.
    pub(crate) fn nothing(&self, key: &str, expected: &str) -> Result<(), LoadError> {
        match self.get(key) {
            None => Ok(()),
            Some(Value::Array(items)) if items.is_empty() => Ok(()),
            found => Err(self.unexpected(key, found, expected)),
        }
    }

    /// A text.
    pub(crate) fn text<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str, LoadError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::String(text)) => Ok(text),
            found => Err(self.unexpected(key, found, "a text")),
        }
    }

    /// A list of texts, not empty.
    pub(crate) fn texts(&self, key: &str, default: &[&str]) -> Result<Vec<String>, LoadError> {
        let default: Vec<String> = default.iter().map(|text| (*text).to_owned()).collect();
        self.list(key, &default, |value| value.as_str().map(str::to_owned), || "a list of texts".to_owned())
    }

    /// The error for a value that cannot be: what `key` says, and what was `expected`.
    pub(crate) fn unexpected(&self, key: &str, found: Option<&Value>, expected: &str) -> LoadError {
        let message = match found {
            None => format!("`{key}` is missing, expected {expected}"),
            Some(value) => format!("`{key}` is {value}, expected {expected}"),
        };
        self.wrong(message)
    }

    /// The error for settings that cannot be.
    pub(crate) fn wrong(&self, message: String) -> LoadError {
        LoadError::Config { path: self.path.clone(), message }
    }

    /// The error for the value of `key` as it stands in the file.
    pub(crate) fn refuse(&self, key: &str, expected: &str) -> LoadError {
        self.unexpected(key, self.values.get(key), expected)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    fn list<T: Clone>(
        &self,
        key: &str,
        default: &[T],
        item: impl Fn(&Value) -> Option<T>,
        expected: impl Fn() -> String,
    ) -> Result<Vec<T>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(default.to_vec()) };
        value
            .as_array()
            .filter(|items| !items.is_empty())
            .and_then(|items| items.iter().map(item).collect())
            .ok_or_else(|| self.unexpected(key, Some(value), &expected()))
    }
}

fn as_size(value: &Value, max: usize) -> Option<usize> {
    let size = usize::try_from(value.as_u64()?).ok()?;
    (1..=max).contains(&size).then_some(size)
}

fn as_number(value: &Value) -> Option<f32> {
    Some(value.as_f64()? as f32).filter(|number| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse("folder/config.json", text).unwrap()
    }

    #[test]
    fn missing_and_null_keys_take_the_default() {
        for text in ["{}", r#"{"n": null, "l": null, "x": null, "t": null}"#] {
            let config = config(text);
            assert_eq!(config.size("n", 7, 9).unwrap(), 7);
            assert_eq!(config.sizes("l", &[64], 9).unwrap(), [64]);
            assert_eq!(config.first_size("n", 7, 9).unwrap(), 7);
            assert_eq!(config.number("x", 0.5).unwrap(), 0.5);
            assert_eq!(config.optional_number("x").unwrap(), None);
            assert_eq!(config.optional_numbers("l", 3).unwrap(), None);
            assert_eq!(config.text("t", "silu").unwrap(), "silu");
            assert_eq!(config.texts("l", &["a"]).unwrap(), ["a"]);
        }
        assert!(config("{}").boolean("b", true).unwrap());
        assert!(!config(r#"{"b": null}"#).boolean("b", true).unwrap());
    }

    #[test]
    fn a_complaint_names_file_key_found_and_expected() {
        let config =
            config(r#"{"n": 12, "l": [1, "x"], "m": [1, 2], "x": "0.5", "b": 1, "t": [], "huge": 1e300}"#);
        let expect = |result: Result<(), LoadError>, parts: &[&str]| {
            let message = result.unwrap_err().to_string();
            for part in parts.iter().chain(&["folder/config.json: "]) {
                assert!(message.contains(part), "{message:?} does not say {part:?}");
            }
        };
        expect(config.size("n", 7, 9).map(drop), &["`n` is 12", "from 1 to 9"]);
        expect(config.sizes("l", &[64], 9).map(drop), &[r#"`l` is [1,"x"]"#, "from 1 to 9"]);
        expect(config.first_size("l", 7, 9).map(drop), &[r#"`l` is [1,"x"]"#, "from 1 to 9"]);
        assert_eq!(config.first_size("m", 7, 9).unwrap(), 1);
        expect(config.number("x", 0.5).map(drop), &[r#"`x` is "0.5""#, "finite number"]);
        expect(config.number("huge", 0.5).map(drop), &["`huge` is 1e+300", "finite number"]);
        expect(config.optional_numbers("m", 3).map(drop), &["`m` is [1,2]", "3 numbers"]);
        expect(config.boolean("b", true).map(drop), &["`b` is 1", "true or false"]);
        expect(config.text("t", "silu").map(drop), &["`t` is []", "a text"]);
        expect(config.texts("t", &["a"]).map(drop), &["`t` is []", "a list of texts"]);
        expect(config.class_name().map(drop), &["`_class_name` is missing", "diffusers class"]);
        for text in ["", "[]", "{", "null"] {
            expect(Config::parse("folder/config.json", text).map(drop), &["not a JSON object"]);
        }
    }
}
