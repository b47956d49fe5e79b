//! Folds coefficients into a checkpoint.
//!
//! ```sh
//! cargo run --release --example export -- --model DIR --profile profile.json --out FOLDER
//! cargo run --release --example export -- --model FILE.gguf --profile profile.json --out FOLDED.gguf
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use pear_examples::cli::{self, ModelArgs};
use pear_examples::fold_table::fold_table;

/// Write the model again with the coefficients folded into its output projections: every other tensor and every other file as they were. A
/// table says how each projection takes them and how far its numbers are from the exact products
#[derive(Parser, Debug)]
#[command(name = "export", allow_negative_numbers = true)]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,

    /// The coefficients, as `train` wrote them
    #[arg(long, value_name = "FILE")]
    profile: PathBuf,

    /// Folder for the new model directory: a new or an empty one; of a GGUF file, the name of the new file
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,

    /// Print the table and write nothing
    #[arg(long)]
    dry_run: bool,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let Arguments {
        model,
        profile,
        out,
        dry_run,
    } = &arguments;
    if let Some(out) = out {
        check_out(out, &model.model)?;
    }
    let directory = model.open()?;
    let profile = cli::read_profile(profile, &directory)?;
    let Some(out) = out.as_ref().filter(|_| !dry_run) else {
        return cli::print(&fold_table(&directory.fold_plan(&profile)?));
    };
    let plan = directory.export(&profile, out)?;
    cli::print(&format!(
        "{}{} with {} heads re-weighted in {}\n",
        fold_table(&plan),
        directory.shape(),
        profile.coefficients.len(),
        out.display()
    ))
}

/// Whether the folder or file can be made, and is none that would be copied into itself.
fn check_out(out: &Path, model: &Path) -> Result<()> {
    if model.is_file() {
        return cli::check_out("--out", out);
    }
    if out.is_dir() {
        cli::check_out("--out", &out.join("config.json"))?;
    } else if out.exists() {
        bail!(
            "--out {}: is a file, expected a new or empty folder",
            out.display()
        );
    } else {
        cli::check_out("--out", out)?;
    }
    let folder = if out.is_dir() { out } else { cli::parent(out) };
    let absolute = |path: &Path| {
        path.canonicalize()
            .with_context(|| format!("{}: cannot read", path.display()))
    };
    if absolute(folder)?.starts_with(absolute(model)?) {
        bail!(
            "--out {}: lies within the model directory {}",
            out.display(),
            model.display()
        );
    }
    Ok(())
}
