//! Reading `config.json`, and remembering which of its keys were read.
//!
//! Families read every key that transformers' code for their `model_type` reads. What is left cannot change the numbers there: it is
//! collected for [`IgnoredKeys`], except for what [`INERT`] lists. What [`REFUSED`] lists is known to change them elsewhere, and is an error.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use pear_core::kernels::Activation;
use serde_json::{Map, Value};

use super::ignored::{IgnoredKeys, escape, shorten};
use super::inert::INERT;
use super::refused::{REFUSED, is_empty};
use crate::error::Error;

/// Far beyond any model: a config with larger sizes is broken, and nothing is allocated for it.
const MAX_LAYERS: usize = 4096;
const MAX_WIDTH: usize = 1 << 24;

/// One JSON object and which of its keys have been read.
pub(crate) struct ConfigReader {
    path: PathBuf,
    map: Map<String, Value>,
    /// What precedes the keys in messages: `rope_scaling.` for the keys of that object.
    within: String,
    used: RefCell<BTreeSet<String>>,
    /// What [`finish`](Self::finish) found unread, here and in the objects within this one.
    ignored: Rc<RefCell<Vec<(String, String)>>>,
}

pub(super) type Result<T> = std::result::Result<T, Error>;

impl ConfigReader {
    pub(crate) fn new(path: &Path, contents: Value) -> Result<Self> {
        let Value::Object(map) = contents else {
            return Err(Error::malformed(path, "expected a JSON object"));
        };
        Ok(Self {
            path: path.into(),
            map,
            within: String::new(),
            used: RefCell::default(),
            ignored: Rc::default(),
        })
    }

    /// The object under `key`, with those of the keys `shared` that stand only beside it.
    pub(crate) fn inner(&self, key: &str, shared: &[&str]) -> Result<Self> {
        let Some(mut inner) = self.object(key)? else {
            return Err(self.error(key, "is missing"));
        };
        for &key in shared {
            if let Some(value) = self.get(key)
                && !inner.has(key)
            {
                inner.map.insert(key.into(), value.clone());
            }
        }
        Ok(inner)
    }

    /// The same config with these numbers under the keys that it does not have.
    pub(crate) fn with_defaults(mut self, defaults: &[(&str, usize)]) -> Self {
        for &(key, number) in defaults {
            self.map.entry(key).or_insert_with(|| Value::from(number));
        }
        self
    }

    /// An error about `key`.
    pub(crate) fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Config {
            path: self.path.clone(),
            key: format!("{}{key}", self.within),
            problem: problem.into(),
        }
    }

    /// The value, `null` counting as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.used.borrow_mut().insert(key.into());
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there and not `null`; does not count as reading it.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// Whether the key is there, `null` or not; does not count as reading it.
    pub(crate) fn mentions(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Whether there is no key at all.
    pub(super) fn holds_nothing(&self) -> bool {
        self.map.is_empty()
    }

    /// Whether the key is there with this number; does not count as reading it.
    pub(super) fn holds(&self, key: &str, number: f64) -> bool {
        self.map.get(key).and_then(Value::as_f64) == Some(number)
    }

    /// The first of several spellings that is there, or the first of all; all of them count as read.
    pub(super) fn first<'a>(&self, keys: &[&'a str]) -> &'a str {
        for key in keys {
            self.used.borrow_mut().insert((*key).into());
        }
        keys.iter().find(|key| self.has(key)).unwrap_or(&keys[0])
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.get(key)
            .map(|value| {
                read(value).ok_or_else(|| {
                    self.error(key, format!("is {}: expected {expected}", shorten(value)))
                })
            })
            .transpose()
    }

    /// A size from 1 up, if it is there.
    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let expected = format!("a whole number from 1 to {MAX_WIDTH}");
        self.typed(key, &expected, |v| {
            v.as_u64()
                .map(|v| v as usize)
                .filter(|v| (1..=MAX_WIDTH).contains(v))
        })
    }

    /// A size under the first of these keys that is there.
    pub(crate) fn size(&self, keys: &[&str]) -> Result<usize> {
        let key = self.first(keys);
        self.optional_size(key)?
            .ok_or_else(|| self.error(key, "is missing"))
    }

    /// A number of layers under the first of these keys that is there.
    pub(crate) fn layers(&self, keys: &[&str]) -> Result<usize> {
        let layers = self.size(keys)?;
        if layers > MAX_LAYERS {
            let problem = format!("is {layers}: expected at most {MAX_LAYERS} layers");
            return Err(self.error(self.first(keys), problem));
        }
        Ok(layers)
    }

    /// True or false.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self
            .typed(key, "true or false", Value::as_bool)?
            .unwrap_or(default))
    }

    /// A number, if it is there.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// A list of numbers, which must be there.
    pub(super) fn numbers(&self, key: &str) -> Result<Vec<f64>> {
        let numbers = |value: &Value| value.as_array()?.iter().map(Value::as_f64).collect();
        self.typed(key, "a list of numbers", numbers)?
            .ok_or_else(|| self.error(key, "is missing"))
    }

    /// A number above 0, or the default.
    pub(crate) fn positive(&self, key: &str, default: f64) -> Result<f64> {
        match self.number(key)? {
            Some(value) if value > 0.0 => Ok(value),
            Some(value) => Err(self.error(key, format!("is {value}: expected a positive number"))),
            None => Ok(default),
        }
    }

    /// A string, if it is there.
    pub(crate) fn text(&self, key: &str) -> Result<Option<String>> {
        self.typed(key, "a text", |v| v.as_str().map(Into::into))
    }

    /// Refuses every value of `key` but this one.
    pub(crate) fn only(&self, key: &str, supported: Value) -> Result<()> {
        match self.get(key) {
            Some(value) if *value != supported => Err(self.error(
                key,
                format!("is {}: only {supported} is supported", shorten(value)),
            )),
            _ => Ok(()),
        }
    }

    /// Keys that change nothing in this family.
    pub(crate) fn ignore(&self, keys: &[&str]) {
        let keys = keys.iter().map(|key| (*key).to_owned());
        self.used.borrow_mut().extend(keys);
    }

    /// A token id, or several of them.
    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.typed(key, "a token id or a list of them", |value| match value {
            // -1 stands for "none" in some checkpoints.
            Value::Number(n) if n.as_i64() == Some(-1) => Some(Vec::new()),
            Value::Array(ids) => ids.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    /// The nonlinearity under `key`.
    pub(crate) fn activation(&self, key: &str, default: Activation) -> Result<Activation> {
        let Some(name) = self.text(key)? else {
            return Ok(default);
        };
        match name.as_str() {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" | "gelu_python" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_python_tanh"
            | "gelu_accurate" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            "relu2" => Ok(Activation::ReluSquared),
            _ => Err(self.error(
                key,
                format!(
                    "is `{name}`: expected silu, gelu, gelu_new, gelu_pytorch_tanh, relu or relu2"
                ),
            )),
        }
    }

    /// An object within this one, which keeps track of its own keys.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>> {
        let map = self.typed(key, "an object", |v| v.as_object().cloned())?;
        let within = format!("{}{key}.", self.within);
        Ok(map.map(|map| Self {
            path: self.path.clone(),
            map,
            within,
            used: RefCell::default(),
            ignored: Rc::clone(&self.ignored),
        }))
    }

    /// Notes the keys that were not read.
    ///
    /// # Errors
    /// One of them that is known to change what the model computes.
    pub(crate) fn finish(&self) -> Result<()> {
        let used = self.used.borrow();
        let unread = self.map.iter().filter(|(key, value)| {
            !used.contains(*key) && !INERT.contains(&key.as_str()) && !is_empty(value)
        });
        for (key, value) in unread {
            let full_key = format!("{}{key}", self.within);
            // A text model within a larger one is refused for the same keys.
            let known = full_key.strip_prefix("text_config.").unwrap_or(&full_key);
            match REFUSED.iter().find(|refused| refused.key == known) {
                None => {
                    let entry = (escape(&full_key), shorten(value));
                    self.ignored.borrow_mut().push(entry);
                }
                Some(refused) if refused.allows(value) => (),
                Some(refused) => {
                    let problem = format!("is {}: {}", shorten(value), refused.advice);
                    return Err(self.error(key, problem));
                }
            }
        }
        Ok(())
    }

    /// What was found unread until now.
    pub(super) fn ignored(&self) -> IgnoredKeys {
        IgnoredKeys::new(&self.path, self.ignored.borrow().clone())
    }
}
