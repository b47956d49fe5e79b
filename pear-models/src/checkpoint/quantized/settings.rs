//! What a model directory says about how its weights are quantised.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::checkpoint::convert::FloatDtype;
use crate::error::Error;
use crate::regular_file::{self, SETTINGS};

/// Keys of `config.json` that hold the settings.
const KEYS: [&str; 2] = ["quantization_config", "compression_config"];
/// Files of older releases that hold them, and what wrote these.
const FILES: [(&str, &str); 2] = [
    ("quantize_config.json", "gptq"),
    ("quant_config.json", "awq"),
];

/// All files that may hold settings.
pub(super) const SETTINGS_FILES: [&str; 3] = ["config.json", FILES[0].0, FILES[1].0];

/// A format that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Gptq,
    Awq,
    CompressedTensors,
    Fp8,
    BitsAndBytes,
}

/// The settings of a directory, and where they stand.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(super) method: Method,
    /// The file that they were read from.
    path: PathBuf,
    /// What precedes the keys in messages: `quantization_config.`, or nothing in a file of their own.
    within: String,
    map: Map<String, Value>,
    /// The type of what is not quantised, if `config.json` says.
    dtype: Option<String>,
}

impl Settings {
    /// Takes the settings out of the contents of `directory`'s `config.json`, or reads them from a file beside it. `None` for a
    /// directory that has none: its weights are plain numbers.
    ///
    /// # Errors
    /// Settings that are not an object, and formats that cannot be read.
    pub(crate) fn take(directory: &Path, config: &mut Value) -> Result<Option<Self>, Error> {
        let Some((path, within, map, writer)) = find(directory, config)? else {
            return Ok(None);
        };
        let dtype = ["dtype", "torch_dtype"]
            .iter()
            .find_map(|key| config[*key].as_str());
        let mut settings = Self {
            method: Method::Fp8,
            path,
            within,
            map,
            dtype: dtype.map(Into::into),
        };
        settings.method = settings.read_method(writer)?;
        Ok(Some(settings))
    }

    /// The type of weights that are not quantised.
    pub(super) fn plain_dtype(&self) -> FloatDtype {
        let dtype = self.dtype.as_deref().unwrap_or_default();
        match dtype.trim_start_matches("torch.") {
            "float32" => FloatDtype::F32,
            "float16" => FloatDtype::F16,
            "bfloat16" => FloatDtype::BF16,
            _ if matches!(self.method, Method::Gptq | Method::Awq) => FloatDtype::F16,
            _ => FloatDtype::BF16,
        }
    }

    fn read_method(&self, writer: Option<&str>) -> Result<Method, Error> {
        let is_bits_and_bytes = ["load_in_4bit", "load_in_8bit"]
            .iter()
            .any(|key| self.map.get(*key).is_some_and(|flag| *flag == true));
        let named = self.text("quant_method")?.or(writer);
        match named {
            Some("gptq") => Ok(Method::Gptq),
            Some("awq") => Ok(Method::Awq),
            Some("compressed-tensors" | "compressed_tensors") => Ok(Method::CompressedTensors),
            Some("fp8" | "fbgemm_fp8") => Ok(Method::Fp8),
            Some("bitsandbytes") => Ok(Method::BitsAndBytes),
            None if is_bits_and_bytes => Ok(Method::BitsAndBytes),
            Some(other) => Err(self.error(
                "quant_method",
                format!(
                    "is `{other}`: expected gptq, awq, compressed-tensors, fp8, fbgemm_fp8 or bitsandbytes; \
                     use the original checkpoint, or one in one of these formats"
                ),
            )),
            None => Err(self.error_about_all("names no `quant_method`")),
        }
    }

    /// An error about a key.
    pub(super) fn error(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Config {
            path: self.path.clone(),
            key: format!("{}{key}", self.within),
            problem: problem.into(),
        }
    }

    fn error_about_all(&self, problem: impl Into<String>) -> Error {
        Error::Config {
            path: self.path.clone(),
            key: self.within.trim_end_matches('.').into(),
            problem: problem.into(),
        }
    }

    /// Whether the settings are not those of `config.json`: a file of its own may be left over from weights that were quantised once.
    pub(super) fn is_in_old_file(&self) -> bool {
        self.within.is_empty()
    }

    /// The error of a directory none of whose weights is quantised.
    pub(super) fn contradicted(&self, directory: &Path) -> Error {
        self.error_about_all(format!(
            "says that weights are quantised, but no tensor in {} is: remove this key if the weights are plain numbers",
            directory.display()
        ))
    }

    /// A value, `null` counting as absent.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        let expected = || self.error(key, "is not a text");
        self.get(key)
            .map(|value| value.as_str().ok_or_else(expected))
            .transpose()
    }

    /// A whole number under the first of these keys that is there.
    pub(super) fn integer(&self, keys: &[&str]) -> Result<Option<i64>, Error> {
        let Some(key) = keys.iter().find(|key| self.get(key).is_some()) else {
            return Ok(None);
        };
        let value = self.get(key).and_then(Value::as_i64);
        value
            .map(Some)
            .ok_or_else(|| self.error(key, "is not a whole number"))
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::as_bool)
    }

    /// Whether a key holds an object or list that is not empty.
    pub(super) fn fills(&self, key: &str) -> bool {
        match self.get(key) {
            Some(Value::Object(map)) => !map.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            _ => false,
        }
    }

    /// The size of groups of inputs, `None` for a single group of all of them.
    ///
    /// # Errors
    /// A size that is missing, or neither positive nor −1.
    pub(super) fn group_size(&self, keys: &[&str]) -> Result<Option<usize>, Error> {
        match self.integer(keys)? {
            Some(-1) => Ok(None),
            Some(size) if size > 0 => Ok(usize::try_from(size).ok()),
            Some(size) => Err(self.error(
                keys[0],
                format!("is {size}: expected a positive number or -1"),
            )),
            None => Err(self.error(keys[0], "is missing")),
        }
    }
}

/// The settings with the file that holds them, what precedes their keys in messages, and the format that an older file implies.
type Found = (PathBuf, String, Map<String, Value>, Option<&'static str>);

fn find(directory: &Path, config: &mut Value) -> Result<Option<Found>, Error> {
    let path = directory.join("config.json");
    let mut found = None;
    if let Value::Object(contents) = config {
        for key in KEYS {
            match contents.remove(key) {
                None | Some(Value::Null) => {}
                Some(Value::Object(map)) if !map.is_empty() => {
                    found.get_or_insert((path.clone(), format!("{key}."), map, None));
                }
                Some(Value::Object(_)) => {}
                Some(_) => {
                    return Err(Error::Config {
                        path,
                        key: key.into(),
                        problem: "is not an object".into(),
                    });
                }
            }
        }
    }
    if found.is_some() {
        return Ok(found);
    }
    for (name, writer) in FILES {
        let path = directory.join(name);
        let Some(text) = regular_file::read_if_present(&path, SETTINGS)? else {
            continue;
        };
        let map = serde_json::from_slice(&text)
            .map_err(|e| Error::malformed(&path, format!("not a JSON object: {e}")))?;
        return Ok(Some((path, String::new(), map, Some(writer))));
    }
    Ok(None)
}

/// The settings within the contents of such a file.
pub(super) fn settings_in(
    contents: &mut Value,
    is_config: bool,
) -> Option<&mut Map<String, Value>> {
    let contents = contents.as_object_mut()?;
    if !is_config {
        return Some(contents);
    }
    let key = KEYS
        .iter()
        .find(|key| contents.get(**key).is_some_and(Value::is_object))?;
    contents.get_mut(*key)?.as_object_mut()
}
