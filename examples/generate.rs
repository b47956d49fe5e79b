//! Continues a text, with or without coefficients.
//!
//! ```sh
//! cargo run --release --example generate -- --model DIR --profile profile.json --prompt "The capital of France is"
//! ```

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{ArgGroup, Parser};
use pear_core::NoEdit;
use pear_core::files::write_json;
use pear_examples::cli::{self, ModelArgs};
use pear_examples::tokens::parse_list;
use pear_models::{ChatTemplate, GenerateOptions, Generator, Message, ModelDirectory, Tokenizer};
use serde::Serialize;

/// No text is meant to be longer.
const MOST_NEW_TOKENS: usize = 1 << 20;

/// Continue a prompt
#[derive(Parser, Debug)]
#[command(name = "generate", allow_negative_numbers = true, group(ArgGroup::new("input").required(true).args(["prompt", "prompt_tokens"])))]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,

    /// The text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,

    /// The token ids to continue, instead of a text
    #[arg(long, value_name = "ID,…")]
    prompt_tokens: Option<String>,

    /// Put the prompt into the model's chat template, as what a user says
    #[arg(long, conflicts_with = "prompt_tokens")]
    chat: bool,

    /// New tokens at most
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,

    /// 0: always the likeliest token; otherwise logits are divided by this before one is drawn
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,

    /// Draw only from the K likeliest tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Draw only from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,

    /// Draw only from tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,

    /// Divide the logits of tokens that were there before by this (above 1: fewer repetitions)
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    repetition_penalty: f64,

    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Go on after a token that ends the text
    #[arg(long)]
    ignore_eos: bool,

    /// Coefficients to apply, as `train` wrote them
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,

    /// Where the new tokens go
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What `--out` holds: the new tokens only, and their text where there is a tokenizer.
#[derive(Serialize)]
struct Generated {
    tokens: Vec<u32>,
    text: String,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    if let Some(out) = &arguments.out {
        cli::check_out("--out", out)?;
    }
    let mut options = options(&arguments)?;
    let directory = arguments.model.open()?;
    if !arguments.ignore_eos {
        options.eos_tokens = directory.eos_tokens()?;
    }
    let profile = arguments
        .profile
        .as_ref()
        .map(|path| cli::read_profile(path, &directory))
        .transpose()?;
    let has_tokenizer =
        arguments.prompt.is_some() || directory.path().join("tokenizer.json").exists();
    let tokenizer = has_tokenizer
        .then(|| Tokenizer::open(directory.path()))
        .transpose()?;
    let prompt = prompt(&arguments, &directory, tokenizer.as_ref())?;

    let model = arguments.model.load_with(&directory, profile.as_ref())?;
    let mut shown = Stream::new(tokenizer.as_ref());
    let generator = Generator::new(&model, options)?;
    let mut rows = generator.run_with(&[prompt], &mut NoEdit, |_, token| {
        shown.show(token)?;
        anyhow::Ok(ControlFlow::Continue(()))
    })?;
    let tokens = rows.pop().unwrap_or_default();
    cli::print("\n")?;
    let text = tokenizer.map_or(Ok(String::new()), |tokenizer| tokenizer.decode(&tokens))?;
    match &arguments.out {
        Some(out) => Ok(write_json(out, &Generated { tokens, text })?),
        None => Ok(()),
    }
}

fn options(arguments: &Arguments) -> Result<GenerateOptions> {
    let Arguments {
        max_new_tokens,
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        seed,
        ..
    } = *arguments;
    if max_new_tokens > MOST_NEW_TOKENS {
        bail!("--max-new-tokens {max_new_tokens}: expected {MOST_NEW_TOKENS} or less");
    }
    if !(temperature.is_finite() && temperature >= 0.0) {
        bail!("--temperature {temperature}: expected 0 or more");
    }
    if top_k == Some(0) {
        bail!("--top-k 0: expected 1 or more");
    }
    for (flag, share) in [("--top-p", top_p), ("--min-p", min_p)] {
        if let Some(p) = share.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            bail!("{flag} {p}: expected more than 0, at most 1");
        }
    }
    if !(repetition_penalty.is_finite() && repetition_penalty > 0.0) {
        bail!("--repetition-penalty {repetition_penalty}: expected more than 0");
    }
    let options = GenerateOptions {
        max_new_tokens,
        temperature,
        top_k,
        top_p,
        min_p,
        ..GenerateOptions::default()
    };
    Ok(GenerateOptions {
        repetition_penalty,
        seed,
        ..options
    })
}

fn prompt(
    arguments: &Arguments,
    directory: &ModelDirectory,
    tokenizer: Option<&Tokenizer>,
) -> Result<Vec<u32>> {
    let config = directory.config();
    let (flag, tokens) = match (&arguments.prompt_tokens, &arguments.prompt, tokenizer) {
        (Some(list), _, _) => (
            "--prompt-tokens",
            parse_list("--prompt-tokens", list, config.vocab_size)?,
        ),
        (None, Some(text), Some(tokenizer)) if arguments.chat => {
            let said =
                ChatTemplate::open(directory.path())?.render(&[Message::user(text)], true)?;
            ("--prompt", tokenizer.encode_rendered(&said)?)
        }
        (None, Some(text), Some(tokenizer)) => ("--prompt", tokenizer.encode(text)?),
        _ => bail!("expected --prompt or --prompt-tokens"),
    };
    if tokens.is_empty() {
        bail!("{flag}: no tokens: expected at least 1 to continue");
    }
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= config.vocab_size) {
        bail!(
            "{flag}: the tokenizer gives token {id}, which is not in the vocabulary of {}",
            config.vocab_size
        );
    }
    // The last new token is never read.
    let length = tokens.len() + arguments.max_new_tokens.saturating_sub(1);
    if let Some(max) = config.max_positions().filter(|&max| length > max) {
        let (prompt, new) = (tokens.len(), arguments.max_new_tokens);
        bail!(
            "--max-new-tokens {new}: with a prompt of {prompt} tokens more than the {max} positions of the model"
        );
    }
    Ok(tokens)
}

/// Prints the text as it grows, or the ids where there is no tokenizer.
struct Stream<'a> {
    tokenizer: Option<&'a Tokenizer>,
    tokens: Vec<u32>,
    /// Tokens before this one are printed; the ones from `context` on are decoded with those that follow.
    printed: usize,
    context: usize,
}

impl<'a> Stream<'a> {
    fn new(tokenizer: Option<&'a Tokenizer>) -> Self {
        Self {
            tokenizer,
            tokens: Vec::new(),
            printed: 0,
            context: 0,
        }
    }

    fn show(&mut self, token: u32) -> Result<()> {
        self.tokens.push(token);
        let Some(tokenizer) = self.tokenizer else {
            let comma = if self.tokens.len() > 1 { "," } else { "" };
            return cli::print(&format!("{comma}{token}"));
        };
        let before = tokenizer.decode(&self.tokens[self.context..self.printed])?;
        let text = tokenizer.decode(&self.tokens[self.context..])?;
        // A character may be made of several tokens: half of one is not shown.
        match text.strip_prefix(&before) {
            Some(new) if !new.is_empty() && !new.ends_with('\u{fffd}') => {
                cli::print(new)?;
                (self.context, self.printed) = (self.printed, self.tokens.len());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
