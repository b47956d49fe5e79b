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
use pear_examples::text_stream::TextStream;
use pear_examples::tokens::parse_list;
use pear_models::{GenerateOptions, Generator, Message, ModelDirectory, Tokenizer};
use serde::Serialize;

/// A bound against typing errors.
const MAX_NEW_TOKENS: usize = 1 << 20;

/// Continue a prompt
#[derive(Parser, Debug)]
#[command(name = "generate", allow_negative_numbers = true, group(ArgGroup::new("input").required(true).args(["prompt", "prompt_tokens"])))]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,

    /// The text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,

    /// Token ids to continue, instead of a text
    #[arg(long, value_name = "ID,…")]
    prompt_tokens: Option<String>,

    /// Put the prompt into the model's chat template, as a message of the user
    #[arg(long, conflicts_with = "prompt_tokens")]
    chat: bool,

    /// Largest number of new tokens
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,

    /// Temperature of sampling: logits are divided by it; 0 takes the most likely token
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,

    /// Sample only from the K most likely tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Sample only from the most likely tokens that together have this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,

    /// Sample only from tokens at least P times as likely as the most likely one
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,

    /// Divide the logits of tokens that occurred before by this (above 1: fewer repetitions)
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    repetition_penalty: f64,

    /// Seed of sampling
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Continue after an end-of-text token
    #[arg(long)]
    ignore_eos: bool,

    /// Profile of `train` whose coefficients are applied
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,

    /// File to write the new tokens to
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The file of `--out`: the new tokens, and their text if there is a tokenizer.
#[derive(Serialize)]
struct Generated {
    tokens: Vec<u32>,
    text: String,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let inputs = [Some(&arguments.model.model), arguments.profile.as_ref()];
    cli::Outputs::beside(inputs).add("--out", arguments.out.as_deref())?;
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
    let tokenizer = if directory.has_tokenizer() || arguments.prompt.is_some() {
        Some(directory.tokenizer()?)
    } else {
        None
    };
    let prompt = prompt(&arguments, &directory, tokenizer.as_ref())?;

    let model = arguments.model.load_with(&directory, profile.as_ref())?;
    let mut output = Stream::new(tokenizer.as_ref());
    let generator = Generator::new(&model, options)?;
    let mut rows = generator.run_with(&[prompt], &mut NoEdit, |_, token| {
        output.add(token)?;
        anyhow::Ok(ControlFlow::Continue(()))
    })?;
    let tokens = rows.pop().unwrap_or_default();
    cli::print("\n")?;
    let text = match tokenizer {
        Some(tokenizer) => tokenizer.decode(&tokens)?,
        None => String::new(),
    };
    if let Some(out) = &arguments.out {
        write_json(out, &Generated { tokens, text })?;
    }
    Ok(())
}

/// The options, without end-of-text tokens.
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
    if max_new_tokens > MAX_NEW_TOKENS {
        bail!("--max-new-tokens {max_new_tokens}: expected {MAX_NEW_TOKENS} or less");
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
    let narrows = [
        ("--top-k", top_k.is_some()),
        ("--top-p", top_p.is_some()),
        ("--min-p", min_p.is_some()),
    ];
    if let (Some((flag, _)), true) = (narrows.iter().find(|(_, given)| *given), temperature == 0.0)
    {
        bail!("{flag}: means something only with --temperature above 0, which samples");
    }
    if !(repetition_penalty.is_finite() && repetition_penalty > 0.0) {
        bail!("--repetition-penalty {repetition_penalty}: expected more than 0");
    }
    Ok(GenerateOptions {
        max_new_tokens,
        eos_tokens: Vec::new(),
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        seed,
    })
}

/// The tokens of the prompt.
fn prompt(
    arguments: &Arguments,
    directory: &ModelDirectory,
    tokenizer: Option<&Tokenizer>,
) -> Result<Vec<u32>> {
    let config = directory.config();
    if let Some(list) = &arguments.prompt_tokens {
        let tokens = parse_list("--prompt-tokens", list, config.vocab_size)?;
        check_length(&tokens, arguments, directory)?;
        return Ok(tokens);
    }
    let (Some(text), Some(tokenizer)) = (&arguments.prompt, tokenizer) else {
        bail!("expected --prompt or --prompt-tokens");
    };
    let tokens = if arguments.chat {
        let template = directory.chat_template()?;
        tokenizer.encode_rendered(&template.render(&[Message::user(text)], true)?)?
    } else {
        tokenizer.encode(text)?
    };
    if tokens.is_empty() {
        bail!("--prompt: no tokens: expected at least 1 to continue");
    }
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= config.vocab_size) {
        bail!(
            "--prompt: the tokenizer gives token {id}, which is not in the vocabulary of {}",
            config.vocab_size
        );
    }
    check_length(&tokens, arguments, directory)?;
    Ok(tokens)
}

/// Checks that the model has positions for the prompt and the new tokens.
fn check_length(tokens: &[u32], arguments: &Arguments, directory: &ModelDirectory) -> Result<()> {
    // The model does not read the last new token.
    let length = tokens.len() + arguments.max_new_tokens.saturating_sub(1);
    match directory.config().max_positions() {
        Some(max) if length > max => bail!(
            "--max-new-tokens {}: with a prompt of {} tokens more than the {max} positions of the model",
            arguments.max_new_tokens,
            tokens.len()
        ),
        _ => Ok(()),
    }
}

/// Prints the text as it grows, or token ids if there is no tokenizer.
struct Stream<'a> {
    text: Option<TextStream<'a>>,
    /// Number of tokens.
    tokens: usize,
}

impl<'a> Stream<'a> {
    fn new(tokenizer: Option<&'a Tokenizer>) -> Self {
        Self {
            text: tokenizer.map(TextStream::new),
            tokens: 0,
        }
    }

    fn add(&mut self, token: u32) -> Result<()> {
        self.tokens += 1;
        match &mut self.text {
            Some(text) => match text.add(token)?.as_str() {
                "" => Ok(()),
                new => cli::print(new),
            },
            None => {
                let comma = if self.tokens > 1 { "," } else { "" };
                cli::print(&format!("{comma}{token}"))
            }
        }
    }
}
