//! Folds coefficients into a checkpoint.
//!
//! ```sh
//! cargo run --release --example export -- --model DIR --profile profile.json --out FOLDER
//! cargo run --release --example export -- --model FILE.gguf --profile profile.json --out FOLDED.gguf --verify tokens.jsonl
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Parser;
use pear_core::Profile;
use pear_examples::cli::{self, ModelArgs};
use pear_examples::fold_table::fold_table;
use pear_examples::tokens::TokenFile;
use pear_models::ModelDirectory;
use pear_models::evaluation::{TextDivergence, divergences};

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

    /// Also run what was written beside the model with the coefficients attached, which is the exact result, and print the KL divergence
    /// between their predictions on these sequences: JSON lines of token ids
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    verify: Option<PathBuf>,
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
        verify,
    } = &arguments;
    if model.dtype.is_some() && verify.is_none() {
        bail!(
            "--dtype: means something only with --verify: what is written keeps the types of the model's files"
        );
    }
    if let Some(out) = out {
        check_out(out, &model.model)?;
    }
    let directory = model.open()?;
    let profile = cli::read_profile(profile, &directory)?;
    let Some(out) = out.as_ref().filter(|_| !dry_run) else {
        return cli::print(&fold_table(&directory.fold_plan(&profile)?));
    };
    let sequences = verify
        .as_ref()
        .map(|path| sequences(path, &directory))
        .transpose()?;
    let plan = directory.export(&profile, out)?;
    cli::print(&format!(
        "{}{} with {} heads re-weighted in {}\n",
        fold_table(&plan),
        directory.shape(),
        profile.coefficients.len(),
        out.display()
    ))?;
    let Some(sequences) = sequences else {
        return Ok(());
    };
    let divergence = verified(model, &directory, &profile, out, &sequences)?;
    cli::print(&format!(
        "KL divergence from the exact result: {:.1e} nats over {} positions, {:.2} % with the same likeliest token\n",
        divergence.kl,
        divergence.positions,
        100.0 * divergence.same_top_token
    ))
}

fn sequences(path: &Path, directory: &ModelDirectory) -> Result<Vec<Vec<u32>>> {
    let config = directory.config();
    let tokens = TokenFile::read(path, config.vocab_size)?;
    tokens.check_lengths(config.max_positions())?;
    Ok(tokens.rows)
}

/// How far the predictions of what was written are from those of the model with the coefficients attached.
fn verified(
    model: &ModelArgs,
    directory: &Arc<ModelDirectory>,
    profile: &Profile,
    out: &Path,
    sequences: &[Vec<u32>],
) -> Result<TextDivergence> {
    let exact = model.load_with(directory, Some(profile))?;
    let folded = model.load(&Arc::new(ModelDirectory::open(first_part(out)?)?))?;
    let mut positions = Vec::new();
    for sequence in sequences {
        positions.extend(divergences(&exact, &folded, sequence)?);
    }
    Ok(TextDivergence::of(&positions))
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

/// What was written, or the first of the parts that are named after it.
fn first_part(out: &Path) -> Result<PathBuf> {
    if out.exists() {
        return Ok(out.into());
    }
    let start = format!(
        "{}-00001-of-",
        out.file_stem().unwrap_or_default().to_string_lossy()
    );
    let folder = cli::parent(out);
    let files = folder
        .read_dir()
        .with_context(|| format!("{}: cannot read", folder.display()))?;
    let found = files
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| name.starts_with(&start))
        });
    found.with_context(|| format!("{}: has gone", out.display()))
}
