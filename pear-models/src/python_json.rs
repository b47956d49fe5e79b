//! JSON as Python writes it.

use serde::de::DeserializeOwned;

/// The numbers that Python's `json` writes and that JSON does not have.
const NOT_IN_JSON: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// Reads JSON in which `NaN`, `Infinity` and `-Infinity` may stand where a value can. They become strings of these letters: what reads a number
/// there refuses them by name, and what reads nothing there does not mind.
pub(crate) fn from_slice<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    let lacking = |text: &str| text.contains("NaN") || text.contains("Infinity");
    if !std::str::from_utf8(text).is_ok_and(lacking) {
        return serde_json::from_slice(text);
    }
    let mut quoted = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut within_string = false;
    while let Some(&byte) = rest.first() {
        let stands_here = |number: &&&[u8]| {
            let after = rest.strip_prefix(**number);
            after.is_some_and(|after| !after.trim_ascii_start().starts_with(b":"))
        };
        let number = NOT_IN_JSON
            .iter()
            .filter(|_| !within_string)
            .find(stands_here);
        let length = match (byte, number) {
            (_, Some(number)) => number.len(),
            (b'\\', _) if within_string => 2.min(rest.len()),
            _ => 1,
        };
        if byte == b'"' {
            within_string = !within_string;
        }
        let (token, after) = rest.split_at(length);
        if number.is_some() {
            quoted.push(b'"');
            quoted.extend_from_slice(token);
            quoted.push(b'"');
        } else {
            quoted.extend_from_slice(token);
        }
        rest = after;
    }
    serde_json::from_slice(&quoted)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn numbers_that_json_lacks_become_strings_and_nothing_else_changes() {
        let text =
            br#"{"a": NaN, "b": [Infinity,-Infinity, -1], "NaN": "x \" NaN \\", "c": {"d":NaN}}"#;
        let expected = json!({
            "a": "NaN", "b": ["Infinity", "-Infinity", -1], "NaN": "x \" NaN \\", "c": {"d": "NaN"},
        });
        assert_eq!(from_slice::<Value>(text).unwrap(), expected);
        for broken in [
            "NaNNaN",
            "1NaN",
            "{NaN: 1}",
            "{NaN : 1}",
            "--Infinity",
            "\"NaN",
            "\"\\",
            "nan",
            "NaN 1",
        ] {
            assert!(from_slice::<Value>(broken.as_bytes()).is_err(), "{broken}");
        }
    }
}
