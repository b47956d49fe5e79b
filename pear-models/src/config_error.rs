//! What is wrong with a config that code has made.

use pear_core::Error;

/// An error about a field of a config.
pub(crate) fn invalid(
    field: &'static str,
    value: impl ToString,
    expected: impl Into<String>,
) -> Error {
    Error::Config {
        field,
        value: value.to_string(),
        expected: expected.into(),
    }
}
