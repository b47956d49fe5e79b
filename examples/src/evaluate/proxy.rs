//! The proxy task: accuracy and cross-entropy on repeated random tokens.

use std::fmt::Write;

use anyhow::Result;
use pear_core::proxy::ProxyBatch;
use pear_train::{ProxyMetrics, evaluate};
use serde_json::{Value, json};

use super::{Measured, Models, shown_name};

/// Measures the proxy task on batches of different lengths.
///
/// # Errors
/// Sequences that a model cannot read.
pub fn proxy_task(batches: &[ProxyBatch], models: &Models) -> Result<Measured> {
    let header = format!(
        "\n{:>6}{:<10}{:>12}{:>16}\n",
        "n", "", "accuracy", "cross-entropy"
    );
    let mut table = header;
    let mut by_model: Vec<(&str, Vec<ProxyMetrics>)> =
        models.each().map(|(name, _)| (name, Vec::new())).collect();
    for batch in batches {
        for ((name, model), (_, measured)) in models.each().zip(&mut by_model) {
            let metrics = evaluate(model, batch, None)?;
            // The length stands in the first line of each group.
            let n = if name == Models::NAMES[0] {
                batch.n().to_string()
            } else {
                String::new()
            };
            let _ = writeln!(
                table,
                "{n:>6}  {:<10}{:>8.1} %{:>16.4}",
                shown_name(name),
                100.0 * metrics.accuracy,
                metrics.cross_entropy
            );
            measured.push(metrics);
        }
    }
    let json = by_model
        .into_iter()
        .map(|(name, measured)| (name.to_owned(), results(batches, &measured)))
        .collect();
    Ok(Measured { table, json })
}

/// Metrics by length, and their means.
fn results(batches: &[ProxyBatch], measured: &[ProxyMetrics]) -> Value {
    let rows: Vec<Value> = batches
        .iter()
        .zip(measured)
        .map(|(batch, metrics)| {
            json!({
                "n": batch.n(), "samples": batch.len(),
                "accuracy": metrics.accuracy, "cross_entropy": metrics.cross_entropy,
            })
        })
        .collect();
    let mean = |value: fn(&ProxyMetrics) -> f64| {
        measured.iter().map(value).sum::<f64>() / measured.len().max(1) as f64
    };
    json!({
        "by_length": rows,
        "accuracy": mean(|metrics| metrics.accuracy),
        "cross_entropy": mean(|metrics| metrics.cross_entropy),
    })
}
