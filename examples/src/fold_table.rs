//! What folding changes as text for people.

use std::fmt::Write;

use pear_models::{FoldPlan, FoldedTensor};

/// A row for each tensor that changes: its layer, heads, types, route, error and sizes.
pub fn fold_table(plan: &FoldPlan) -> String {
    let names: Vec<String> = plan.tensors.iter().map(|t| t.name.clone()).collect();
    let heads: Vec<String> = plan.tensors.iter().map(heads).collect();
    let types: Vec<String> = plan.tensors.iter().map(types).collect();
    let (name_width, head_width, type_width) = (
        width(&names, "tensor"),
        width(&heads, "heads"),
        width(&types, "type"),
    );
    let mut text = format!(
        "layer  {:<name_width$}  {:<head_width$}  {:<type_width$}  {:<11}  {:>7}  {:>12}  {:>12}\n",
        "tensor", "heads", "type", "route", "error", "bytes", "folded"
    );
    for (index, tensor) in plan.tensors.iter().enumerate() {
        let _ = writeln!(
            text,
            "{:>5}  {:<name_width$}  {:<head_width$}  {:<type_width$}  {:<11}  {:>7.1e}  {:>12}  {:>12}",
            tensor.layer,
            names[index],
            heads[index],
            types[index],
            tensor.route,
            tensor.relative_error,
            tensor.num_bytes,
            tensor.folded_num_bytes
        );
    }
    text
}

fn heads(tensor: &FoldedTensor) -> String {
    let heads = tensor.heads.iter().map(|head| head.head.to_string());
    heads.collect::<Vec<_>>().join(",")
}

fn types(tensor: &FoldedTensor) -> String {
    if tensor.dtype == tensor.folded_dtype {
        tensor.dtype.clone()
    } else {
        format!("{} → {}", tensor.dtype, tensor.folded_dtype)
    }
}

fn width(cells: &[String], heading: &str) -> usize {
    let widths = cells.iter().map(|cell| cell.chars().count());
    widths.max().unwrap_or_default().max(heading.len())
}
