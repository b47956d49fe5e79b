//! Computes the log-probabilities of given tokens.
//!
//! ```sh
//! cargo run --release --example score -- --model DIR --text article.txt --profile profile.json --out log_probs.json
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Parser};
use pear_core::files::write_json;
use pear_examples::cli::{self, ModelArgs};
use pear_examples::progress::Progress;
use pear_examples::tokens::TokenFile;
use pear_models::evaluation::read_text_tokens;
use pear_models::{ModelDirectory, log_probs, perplexity};
use serde::Serialize;

/// Compute the natural-log probability of each token given those before it
#[derive(Parser, Debug)]
#[command(name = "score", allow_negative_numbers = true, group(ArgGroup::new("input").required(true).args(["tokens", "text"])))]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,

    /// File of token ids: JSON lines, each an array
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,

    /// File with a text, read as one sequence by the model's tokenizer
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Profile of `train` whose coefficients are applied
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,

    /// File to write the log-probabilities to
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The file of `--out`: `log_probs[r][i]` is that of token `i + 1` in row `r`.
#[derive(Serialize)]
struct Scored {
    log_probs: Vec<Vec<f64>>,
    perplexity: f64,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let inputs = [
        Some(&arguments.model.model),
        arguments.profile.as_ref(),
        arguments.tokens.as_ref(),
        arguments.text.as_ref(),
    ];
    cli::Outputs::beside(inputs).add("--out", arguments.out.as_deref())?;
    let directory = arguments.model.open()?;
    let profile = arguments
        .profile
        .as_ref()
        .map(|path| cli::read_profile(path, &directory))
        .transpose()?;
    let rows = rows(&arguments, &directory)?;

    let model = arguments.model.load_with(&directory, profile.as_ref())?;
    let mut bar = Progress::new("scoring", rows.iter().map(|row| row.len() as u64).sum());
    let (mut scored, mut done) = (Vec::with_capacity(rows.len()), 0);
    for (index, row) in rows.iter().enumerate() {
        scored.push(log_probs(&model, row).with_context(|| format!("row {index}"))?);
        done += row.len() as u64;
        bar.set(done, format!("row {}", index + 1));
    }
    drop(bar);
    let scored = Scored {
        perplexity: perplexity(&scored),
        log_probs: scored,
    };
    if let Some(out) = &arguments.out {
        write_json(out, &scored)?;
    }
    let count: usize = scored.log_probs.iter().map(Vec::len).sum();
    cli::print(&format!(
        "perplexity {:.4} over {count} tokens in {} rows\n",
        scored.perplexity,
        rows.len()
    ))
}

/// The sequences to score.
fn rows(arguments: &Arguments, directory: &ModelDirectory) -> Result<Vec<Vec<u32>>> {
    let config = directory.config();
    let positions = config.max_positions();
    if let Some(path) = &arguments.tokens {
        let tokens = TokenFile::read(path, config.vocab_size)?;
        tokens.check_lengths(positions)?;
        if let Some(row) = tokens.rows.iter().position(|row| row.len() < 2) {
            let problem = format!(
                "{} tokens: expected at least 2, for one to be predicted",
                tokens.rows[row].len()
            );
            return Err(tokens.problem(row, &problem));
        }
        return Ok(tokens.rows);
    }
    let Some(path) = &arguments.text else {
        bail!("expected --tokens or --text")
    };
    let tokens = read_text_tokens(path, directory)?;
    if tokens.len() < 2 {
        bail!(
            "{}: {} tokens: expected at least 2, for one to be predicted",
            path.display(),
            tokens.len()
        );
    }
    if let Some(max) = positions.filter(|&max| tokens.len() > max) {
        bail!(
            "{}: {} tokens, but the model has only {max} positions",
            path.display(),
            tokens.len()
        );
    }
    Ok(vec![tokens])
}
