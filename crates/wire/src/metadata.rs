//! The parameters of a request, wherever they stand: a query string or a JSON object.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde_json::Value;

use crate::{TensorHead, WireError};

/// Keys with their values as text, as they arrived. A repeated key is a list.
///
/// Each value is read only when it is needed, because clients send wrong values where they have no effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Vec<(String, String)>);

impl Metadata {
    /// Reads a query string (without `?`). `shape[]` and `shape[0]`, as JavaScript writes lists, are `shape`.
    pub fn from_query(query: &str) -> Self {
        let mut pairs: Vec<_> = form_urlencoded::parse(query.as_bytes())
            .map(|(key, value)| match list_index(&key) {
                Some(index) => (index, ("shape".to_owned(), value.into_owned())),
                None => (None, (key.into_owned(), value.into_owned())),
            })
            .collect();
        // `shape[1]` may stand before `shape[0]`.
        pairs.sort_by_key(|(index, _)| *index);
        Self(pairs.into_iter().map(|(_, pair)| pair).collect())
    }

    /// Reads the `parameters` of a first-generation JSON body. What is neither a scalar nor a list of scalars has
    /// no meaning in this protocol and is passed over, as unknown keys are.
    pub fn from_json(parameters: &serde_json::Map<String, Value>) -> Self {
        let mut pairs = Vec::new();
        for (key, value) in parameters {
            let values = match value {
                Value::Array(items) => items.as_slice(),
                scalar => std::slice::from_ref(scalar),
            };
            for value in values {
                match value {
                    Value::String(text) => pairs.push((key.clone(), text.clone())),
                    Value::Bool(_) | Value::Number(_) => pairs.push((key.clone(), value.to_string())),
                    Value::Null | Value::Array(_) | Value::Object(_) => {}
                }
            }
        }
        Self(pairs)
    }

    /// What is here, and from `other` the keys of which nothing is here.
    pub(crate) fn or(mut self, other: &Self) -> Self {
        for key in crate::PARAMETERS.iter().map(|parameter| parameter.name) {
            if self.values(key).next().is_none() {
                self.0.extend(other.values(key).map(|value| (key.to_owned(), value.to_owned())));
            }
        }
        self
    }

    /// The keys, in the order in which they came.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }

    /// Whether one of these keys says something.
    pub(crate) fn has_any(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.values(key).next().is_some())
    }

    /// The values of `key` that say something. Python clients write an absent value as `None`.
    fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        // The tests of this crate read keys that they make up; those of the server read what requests have.
        debug_assert!(
            cfg!(test) || crate::PARAMETERS.iter().any(|known| known.name == key),
            "`{key}` is read, but `wire::PARAMETERS` does not describe it"
        );
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.trim())
            .filter(|value| !value.is_empty() && *value != "None")
    }

    /// The one value of `key`.
    ///
    /// # Errors
    /// When there are several.
    pub fn text<'a>(&'a self, key: &'a str) -> Result<Option<&'a str>, WireError> {
        let mut values = self.values(key);
        let first = values.next();
        match values.next() {
            None => Ok(first),
            Some(_) => {
                Err(WireError::Parameter(format!("`{key}` is given more than once, but takes one value")))
            }
        }
    }

    /// The value of a boolean: `True` or `False` in any case, or `1` or `0`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, WireError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err(WireError::Parameter(format!("`{key}` is {text:?}, but must be True or False"))),
        }
    }

    /// The value of a number.
    ///
    /// # Errors
    /// When it cannot be read as `T`, or lies outside of `range`.
    pub fn number<T>(&self, key: &str, range: impl std::ops::RangeBounds<T>) -> Result<Option<T>, WireError>
    where
        T: FromStr + PartialOrd + Display + Debug,
    {
        let Some(text) = self.text(key)? else { return Ok(None) };
        // More digits than any integer has are those of a float like 3.4028235e38, which only `Debug` writes so.
        let shown = |bound: &T| {
            let digits = bound.to_string();
            if digits.len() > 20 { format!("{bound:?}") } else { digits }
        };
        match text.parse() {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => {
                use std::ops::Bound::{Excluded, Included, Unbounded};
                let from = match range.start_bound() {
                    Included(bound) | Excluded(bound) => format!(" from {}", shown(bound)),
                    Unbounded => String::new(),
                };
                let to = match range.end_bound() {
                    Included(bound) | Excluded(bound) => format!(" to {}", shown(bound)),
                    Unbounded => String::new(),
                };
                let kind =
                    if std::any::type_name::<T>().starts_with('f') { "a number" } else { "an integer" };
                Err(WireError::Parameter(format!("`{key}` is {text:?}, but must be {kind}{from}{to}")))
            }
        }
    }

    /// `shape` and `dtype`, which say what the body is; `None` when neither is there.
    ///
    /// # Errors
    /// When one is missing, cannot be read, or makes no tensor.
    pub fn tensor(&self) -> Result<Option<TensorHead>, WireError> {
        let shape = self.shape()?;
        let dtype = self.text("dtype")?;
        match (shape, dtype) {
            (None, None) => Ok(None),
            (Some(shape), Some(dtype)) => Ok(Some(TensorHead::new(dtype.parse()?, shape)?)),
            (Some(_), None) => Err(WireError::Parameter(
                "`dtype` is missing: give float16, bfloat16, float32, float64 or uint8".to_owned(),
            )),
            (None, Some(_)) => Err(WireError::Parameter(
                "`shape` is missing: give it as repeated keys (shape=1&shape=4&...) or as a JSON list"
                    .to_owned(),
            )),
        }
    }

    /// The shape: repeated keys, one number for a tensor of one axis, or a list.
    fn shape(&self) -> Result<Option<Vec<usize>>, WireError> {
        let mut values = self.values("shape").peekable();
        let Some(&first) = values.peek() else { return Ok(None) };
        let wrong = |text: &str| {
            WireError::Parameter(format!(
                "`shape` is {text:?}, but must be positive integers: repeated keys (shape=1&shape=4&...) or a JSON list"
            ))
        };
        if first.parse::<usize>().is_err() {
            let text = self.text("shape")?.unwrap_or(first);
            return list(text).map(Some).ok_or_else(|| wrong(text));
        }
        values.map(|axis| axis.parse().map_err(|_| wrong(axis))).collect::<Result<_, _>>().map(Some)
    }
}

/// Of a key such as `shape[]` or `shape[2]`, the index if it has one; `None` for another key.
fn list_index(key: &str) -> Option<Option<usize>> {
    match key.strip_prefix("shape[")?.strip_suffix(']')? {
        "" => Some(None),
        index => Some(Some(index.parse().ok()?)),
    }
}

/// A list of integers as a program prints it: `[1, 4]` (JSON), `1,4` (JavaScript), `(1, 4)` or `torch.Size([1, 4])`
/// (Python).
fn list(text: &str) -> Option<Vec<usize>> {
    let within = |text: &'_ str, [open, close]: [char; 2]| -> Option<String> {
        Some(text.strip_prefix(open)?.strip_suffix(close)?.trim().to_owned())
    };
    let text = text.strip_prefix("torch.Size").unwrap_or(text);
    let text = within(text, ['(', ')']).unwrap_or_else(|| text.to_owned());
    let text = within(&text, ['[', ']']).unwrap_or(text);
    // Python ends a list of one so.
    let text = text.strip_suffix(',').unwrap_or(&text);
    text.split(',').map(|axis| axis.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    fn shape_of(query: &str) -> Result<Vec<usize>, WireError> {
        Metadata::from_query(query).tensor().map(|tensor| tensor.unwrap().shape)
    }

    #[test]
    fn shapes_in_every_spelling() {
        for (query, expected) in [
            ("shape=1&shape=4&dtype=uint8&shape=64&shape=65", vec![1, 4, 64, 65]),
            ("shape=%5B1%2C4%2C+64%2C65%5D&dtype=uint8", vec![1, 4, 64, 65]),
            ("shape=[1,4,64,65]&dtype=uint8", vec![1, 4, 64, 65]),
            ("shape=7&dtype=uint8", vec![7]),
            // axios, qs.
            ("shape[]=1&shape[]=4&dtype=uint8", vec![1, 4]),
            ("shape%5B%5D=1&shape%5B%5D=4&dtype=uint8", vec![1, 4]),
            ("dtype=uint8&shape[0]=1&shape[1]=4&shape[2]=64", vec![1, 4, 64]),
            ("shape[1]=4&shape[10]=9&shape[0]=1&shape[2]=64&dtype=uint8", vec![1, 4, 64, 9]),
            // `new URLSearchParams({shape: [1, 4]})`, and what Python prints of a shape.
            ("shape=1,4,64,65&dtype=uint8", vec![1, 4, 64, 65]),
            ("shape=(1,+4)&dtype=uint8", vec![1, 4]),
            ("shape=(7,)&dtype=uint8", vec![7]),
            ("shape=torch.Size([1,+4])&dtype=uint8", vec![1, 4]),
        ] {
            assert_eq!(shape_of(query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn shapes_that_are_none() {
        for query in [
            "shape=1&shape=-4&dtype=uint8",
            "shape=1.5&dtype=uint8",
            "shape=(1,4&dtype=uint8",
            "shape=[1,4&dtype=uint8",
            "shape=1,,4&dtype=uint8",
            "shape=1,4&shape=1,4&dtype=uint8",
            "shape=([(1)])&dtype=uint8",
            "shape[x]=1&dtype=uint8",
            "shape[=1&dtype=uint8",
            "dtype[]=uint8&shape=1",
            "shape=[[1]]&dtype=uint8",
            "shape=[]&dtype=uint8",
            "shape=[1]&shape=[2]&dtype=uint8",
            "shape=0&dtype=uint8",
            "shape=99999999999999999999&dtype=uint8",
            "shape=1&dtype=int8",
            "shape=1&dtype=uint8&dtype=uint8",
            "shape=1",
            "dtype=uint8",
        ] {
            assert!(matches!(shape_of(query), Err(WireError::Parameter(_))), "{query}");
        }
    }

    #[test]
    fn json_parameters_read_like_a_query() {
        let json = serde_json::json!({
            "shape": [1, 4, 8, 8], "dtype": "float32", "do_scaling": true, "height": null, "scaling_factor": 0.5,
            "more": {"unknown": 1}
        });
        let metadata = Metadata::from_json(json.as_object().unwrap());
        let tensor = metadata.tensor().unwrap().unwrap();
        assert_eq!((tensor.shape, tensor.dtype), (vec![1, 4, 8, 8], DType::Float32));
        assert_eq!(metadata.flag("do_scaling"), Ok(Some(true)));
        assert_eq!(metadata.number::<u32>("height", ..), Ok(None));
        assert_eq!(metadata.number("scaling_factor", ..), Ok(Some(0.5_f32)));
    }

    #[test]
    fn scalars() {
        let metadata =
            Metadata::from_query("yes=tRuE&no=False&twice=1&twice=2&absent=None&n=300&empty=&odd=+maybe");
        assert_eq!(metadata.flag("yes"), Ok(Some(true)));
        assert_eq!(metadata.flag("no"), Ok(Some(false)));
        assert_eq!(metadata.flag("absent"), Ok(None));
        assert_eq!(metadata.flag("empty"), Ok(None));
        assert_eq!(metadata.flag("nowhere"), Ok(None));
        assert_eq!(
            metadata.flag("odd").unwrap_err().to_string(),
            "`odd` is \"maybe\", but must be True or False"
        );
        assert!(metadata.text("twice").is_err());
        assert_eq!(metadata.number("n", 1..=300_u16), Ok(Some(300)));
        assert_eq!(
            metadata.number("n", 1..=100_u8).unwrap_err().to_string(),
            "`n` is \"300\", but must be an integer from 1 to 100"
        );
        assert_eq!(
            metadata.number::<f32>("odd", ..).unwrap_err().to_string(),
            "`odd` is \"maybe\", but must be a number"
        );
    }
}
