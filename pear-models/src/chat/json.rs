//! transformers' `tojson`.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{ErrorKind, Value as Jinja};
use serde_json::Value;

/// Bytes that are written: the longest descriptions of tools have a hundredth. A filter of the template library pays for what it makes with
/// the template's instructions; this one cannot.
const MAX_BYTES: usize = 1 << 24;
/// Levels of nesting that are written.
const MAX_DEPTH: usize = 64;
/// Spaces for each level.
const MAX_INDENT: usize = 64;

/// `json.dumps` of Python with `ensure_ascii=False`.
pub(super) fn to_json(value: Jinja, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    if indent.is_some_and(|indent| indent > MAX_INDENT) {
        return Err(minijinja::Error::new(
            ErrorKind::InvalidOperation,
            format!("tojson: an indent of more than {MAX_INDENT}"),
        ));
    }
    let after_item = if indent.is_some() { "," } else { ", " };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let separators = separators.unwrap_or_else(|| vec![after_item.into(), ": ".into()]);
    let [between_items, after_key] = separators.try_into().map_err(|_| {
        minijinja::Error::new(
            ErrorKind::InvalidOperation,
            "tojson: two separators expected",
        )
    })?;
    let json = JsonWriter {
        indent,
        between_items,
        after_key,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: options
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut text = String::new();
    json.write(&value, 0, &mut text)?;
    Ok(text)
}

/// The options of Python's `json.dumps`.
struct JsonWriter {
    /// Spaces for each level; all in one line without.
    indent: Option<usize>,
    between_items: String,
    after_key: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

impl JsonWriter {
    fn write(
        &self,
        value: &Jinja,
        depth: usize,
        text: &mut String,
    ) -> Result<(), minijinja::Error> {
        if depth > MAX_DEPTH {
            return Err(minijinja::Error::new(
                ErrorKind::BadSerialization,
                format!("tojson: more than {MAX_DEPTH} levels"),
            ));
        }
        if text.len() + value.as_str().map_or(0, str::len) > MAX_BYTES {
            return Err(minijinja::Error::new(
                ErrorKind::InvalidOperation,
                format!("tojson: more than {MAX_BYTES} bytes"),
            ));
        }
        let is_map = value.kind() == ValueKind::Map;
        if !is_map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
            let scalar = serde_json::to_string(value).map_err(|e| {
                minijinja::Error::new(ErrorKind::BadSerialization, format!("tojson: {e}"))
            })?;
            self.push(&scalar, text);
            return Ok(());
        }
        let mut items: Box<dyn Iterator<Item = Jinja>> = Box::new(value.try_iter()?);
        if is_map && self.sort_keys {
            let mut keys: Vec<Jinja> = items.collect();
            keys.sort();
            items = Box::new(keys.into_iter());
        }
        text.push(if is_map { '{' } else { '[' });
        let mut is_empty = true;
        // Not collected: a list may be a short one that is repeated a hundred million times.
        for item in items {
            if !std::mem::take(&mut is_empty) {
                *text += &self.between_items;
            }
            self.break_line(depth + 1, text);
            if is_map {
                self.push(&Value::from(item.to_string()).to_string(), text);
                *text += &self.after_key;
                self.write(&value.get_item(&item)?, depth + 1, text)?;
            } else {
                self.write(&item, depth + 1, text)?;
            }
        }
        if !is_empty {
            self.break_line(depth, text);
        }
        text.push(if is_map { '}' } else { ']' });
        Ok(())
    }

    fn break_line(&self, depth: usize, text: &mut String) {
        if let Some(indent) = self.indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    /// A number or quoted text, letters beyond ASCII escaped if that is asked for.
    fn push(&self, scalar: &str, text: &mut String) {
        for letter in scalar.chars() {
            if self.ensure_ascii && !letter.is_ascii() {
                let units = letter.encode_utf16(&mut [0; 2]).to_vec();
                text.extend(units.iter().map(|unit| format!("\\u{unit:04x}")));
            } else {
                text.push(letter);
            }
        }
    }
}
