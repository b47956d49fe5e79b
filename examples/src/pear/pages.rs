//! The files that people read: the page, the plot and the model card.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use pear_core::files::write_atomic;

use super::card::model_card;
use super::front::front_svg;
use super::html::html;
use super::report::Report;

/// The page.
pub const PAGE: &str = "report.html";
/// The plot of the Pareto front.
pub const FRONT: &str = "front.svg";
/// The model card: where the hub looks for it.
pub const CARD: &str = "README.md";

/// Writes [`PAGE`], [`FRONT`] and [`CARD`] into a folder, each beside the old file first. The same report gives the same bytes.
///
/// # Errors
/// A file that cannot be written.
pub fn write_pages(report: &Report, folder: &Path) -> Result<()> {
    let files = [
        (PAGE, html(report)?),
        (FRONT, front_svg(report)),
        (CARD, model_card(report)),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        write_atomic(&path, |file| file.write_all(text.as_bytes()))
            .with_context(|| format!("{}: cannot write", path.display()))?;
    }
    Ok(())
}
