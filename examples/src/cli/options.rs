//! Checks of options that several commands have.

use anyhow::{Result, anyhow, bail};

/// The error about a flag for a library's error about the option of that name, such as `max_new_tokens`.
pub fn option_error(option: &str, value: &str, expected: &str) -> anyhow::Error {
    anyhow!(
        "--{} {value}: expected {expected}",
        option.replace('_', "-")
    )
}

/// Checks `--text-limit`.
///
/// # Errors
/// A negative share, or one that is not finite.
pub fn check_text_limit(limit: f64) -> Result<()> {
    if !(limit.is_finite() && limit >= 0.0) {
        bail!("--text-limit {limit}: expected a share of at least 0, as in 0.05");
    }
    Ok(())
}
