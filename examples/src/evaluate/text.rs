//! Perplexity and KL divergence of a plain text: what coefficients cost where there is nothing to retrieve.

use anyhow::Result;
use pear_models::evaluation::TextWindows;
use serde_json::{Value, json};

use super::Models;
use crate::cli;

/// Measures the perplexity of a text and how far the predictions of both models are apart, prints it, and warns if the perplexity rises by
/// more than the share `limit`.
///
/// # Errors
/// A text that a model cannot read.
pub fn text_cost(text: &TextWindows, limit: f64, models: &Models) -> Result<Value> {
    let tokens = text.num_predicted();
    let before = text.perplexity(&models.baseline)?;
    let Some(pear) = &models.pear else {
        cli::print(&format!(
            "\ntext      perplexity {before:.4} over {tokens} tokens\n"
        ))?;
        return Ok(json!({"before": before, "tokens": tokens}));
    };
    let after = text.perplexity(pear)?;
    let increase = after / before - 1.0;
    let percent = 100.0 * increase;
    cli::print(&format!(
        "\ntext      perplexity {before:.4} before, {after:.4} with PEAR ({percent:+.2} %), over {tokens} tokens\n"
    ))?;
    let divergence = text.divergence(&models.baseline, pear)?;
    cli::print(&format!(
        "          KL divergence {:.5} nats a token, same top token {:.2} %, over {} positions\n",
        divergence.kl,
        100.0 * divergence.same_top_token,
        divergence.positions
    ))?;
    let is_within = increase <= limit;
    if !is_within {
        cli::warn(&format!(
            "the perplexity of the text rises by {percent:.2} %: more than the {} % of --text-limit",
            100.0 * limit
        ));
    }
    Ok(json!({
        "before": before, "after": after, "increase": increase, "within_limit": is_within, "tokens": tokens,
        "kl": divergence.kl, "same_top_token": divergence.same_top_token, "positions": divergence.positions,
    }))
}
