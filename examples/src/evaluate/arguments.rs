//! The flags of `evaluate`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

use crate::cli::{self, ModelArgs};

/// Measure question answering, context against memory, the proxy task or plain text, without and with the coefficients of a profile
#[derive(Parser, Debug)]
#[command(name = "evaluate", allow_negative_numbers = true)]
pub struct Arguments {
    /// Model and device.
    #[command(flatten)]
    pub model: ModelArgs,

    /// What to measure [default: mdqa with --data]
    #[arg(long, value_enum)]
    pub format: Option<Format>,

    /// mdqa, longbench, conflict, swap, kv: file of questions, JSON lines (.jsonl or .jsonl.gz)
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,

    /// Profile of `train` whose coefficients are compared with none
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,

    /// conflict, swap, kv: what is measured, the probability of the right tokens or the answers that are generated [default:
    /// likelihood,generation]
    #[arg(long, value_enum, value_name = "WAY,…", value_delimiter = ',')]
    by: Option<Vec<By>>,

    /// mdqa: number of documents before each question [default: 10]
    #[arg(long, value_name = "COUNT")]
    documents: Option<usize>,

    /// mdqa: positions of the right document, from 0 [default: 0,4,9]
    #[arg(long, value_name = "PLACE,…", value_delimiter = ',')]
    gold_position: Option<Vec<usize>>,

    /// kv: keep at most COUNT of the pairs, the one that is asked for among them [default: all]
    #[arg(long, value_name = "COUNT")]
    pub pairs: Option<usize>,

    /// kv: number of groups of places of the key that results are given for [default: 5]
    #[arg(long, value_name = "COUNT")]
    place_groups: Option<usize>,

    /// Use only the first COUNT questions of the file (conflict, swap: of those that can be used)
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<usize>,

    /// Largest number of new tokens in an answer [default: 100 for mdqa and kv, 5 for conflict, 24 for swap; as published for each dataset
    /// of longbench]
    #[arg(long, value_name = "COUNT")]
    pub max_new_tokens: Option<usize>,

    /// Largest number of tokens in a prompt; longer prompts are cut in the middle [default: what the model has room for beside the new
    /// tokens]
    #[arg(long, value_name = "TOKENS")]
    pub max_prompt_tokens: Option<usize>,

    /// Largest number of tokens of the questions that the model answers together, padding and answers included [default: 4096]
    #[arg(long, value_name = "TOKENS")]
    batch_tokens: Option<usize>,

    /// File with another prompt template: a text with {search_results} and {question} (mdqa), {context} and {input} (longbench) or {json}
    /// and {key} (kv)
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,

    /// Put each prompt into the model's chat template (swap: always, if the model has one)
    #[arg(long)]
    pub chat: bool,

    /// End each answer after its first line
    #[arg(long)]
    pub stop_at_newline: bool,

    /// File to write every answer to, for scoring them again: JSON lines
    #[arg(long, value_name = "FILE")]
    pub outputs: Option<PathBuf>,

    /// proxy: numbers n of random tokens that are repeated [default: 10,25,50]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    lengths: Option<Vec<usize>>,

    /// proxy: number of sequences for each length; tiny-world: number of questions for each kind, number of documents and position
    /// [default: 100]
    #[arg(long, value_name = "COUNT")]
    samples: Option<usize>,

    /// proxy: begin each sequence with the model's BOS
    #[arg(long)]
    pub bos: bool,

    /// Seed for everything drawn: documents from other questions, proxy sequences, questions of the tiny world
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// A plain text whose perplexity and KL divergence are measured: what the coefficients cost
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,

    /// Number of tokens of the text that are read at once
    #[arg(long, value_name = "TOKENS", default_value_t = 512, requires = "text")]
    pub window: usize,

    /// Warn if the perplexity of the text rises by more than this share
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, requires = "text")]
    pub text_limit: f64,

    /// File to write the results to
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Documents before a question, or groups of places.
const MOST_DOCUMENTS: usize = 1000;
/// Sequences of a length, or questions of a kind.
const MOST_SAMPLES: usize = 100_000;

/// What is measured, beside a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Multi-document questions, with the right document at chosen positions
    Mdqa,
    /// Questions on long documents
    Longbench,
    /// Facts that the model knows, after a statement that contradicts them
    Conflict,
    /// Questions with a passage whose answer was replaced
    Swap,
    /// The value of a key in a JSON object
    Kv,
    /// The proxy task: random tokens repeated
    Proxy,
    /// Questions for the small models that `pretrain` trains
    TinyWorld,
}

impl Format {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether its questions are those of a file.
    fn needs_data(self) -> bool {
        !matches!(self, Self::Proxy | Self::TinyWorld)
    }
}

/// In which way an answer is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The probability of the right tokens
    Likelihood,
    /// The answer that the model gives
    Generation,
}

impl Arguments {
    /// The format asked for, or the one that the other flags imply; none where only a text is measured.
    ///
    /// # Errors
    /// Nothing to measure.
    pub fn chosen_format(&self) -> Result<Option<Format>> {
        match (self.format, &self.data) {
            (Some(format), _) => Ok(Some(format)),
            (None, Some(_)) => Ok(Some(Format::Mdqa)),
            (None, None) if self.text.is_some() => Ok(None),
            (None, None) => bail!("expected --data, --format or --text: something to measure"),
        }
    }

    /// Checks the flags against each other.
    ///
    /// # Errors
    /// One that does not fit, named.
    pub fn check(&self, format: Option<Format>) -> Result<()> {
        let inputs = [
            Some(&self.model.model),
            self.data.as_ref(),
            self.profile.as_ref(),
            self.template.as_ref(),
            self.text.as_ref(),
        ];
        let mut outputs = cli::Outputs::beside(inputs);
        outputs.add("--out", self.out.as_deref())?;
        outputs.add("--outputs", self.outputs.as_deref())?;
        let needs_data = format.is_some_and(Format::needs_data);
        if needs_data && self.data.is_none() {
            bail!("--format: expected --data beside it, the file of questions");
        }
        if let (Some(Format::Conflict | Format::Swap), true) = (format, self.template.is_some()) {
            bail!("--template: the prompts of conflict and swap are fixed");
        }
        if format == Some(Format::Conflict) && self.chat {
            bail!("--chat: conflict reads plain text to the model, which it continues");
        }
        self.check_use(format)?;
        for (flag, count, most) in [
            ("--documents", self.documents, MOST_DOCUMENTS),
            ("--samples", self.samples, MOST_SAMPLES),
            ("--pairs", self.pairs, usize::MAX),
            ("--place-groups", self.place_groups, MOST_DOCUMENTS),
            ("--batch-tokens", self.batch_tokens, usize::MAX),
            ("--limit", self.limit, usize::MAX),
            ("--max-new-tokens", self.max_new_tokens, usize::MAX),
        ] {
            match count {
                Some(0) => bail!("{flag} 0: expected at least 1"),
                Some(count) if count > most => bail!("{flag} {count}: expected at most {most}"),
                _ => {}
            }
        }
        if format == Some(Format::Mdqa) {
            let (documents, positions) = (self.documents(), self.gold_position());
            for (index, position) in positions.iter().enumerate() {
                if *position >= documents {
                    bail!(
                        "--gold-position {position}: expected less than {documents}, the number of --documents"
                    );
                }
                if positions[..index].contains(position) {
                    bail!("--gold-position {position}: is there twice");
                }
            }
        }
        if self.window < 2 {
            bail!("--window {}: expected at least 2 tokens", self.window);
        }
        cli::check_text_limit(self.text_limit)
    }

    /// Refuses flags that mean nothing to the format.
    fn check_use(&self, format: Option<Format>) -> Result<()> {
        use Format::{Conflict, Kv, Longbench, Mdqa, Proxy, Swap, TinyWorld};
        const QUESTIONS: &[Format] = &[Mdqa, Longbench, Conflict, Swap, Kv];
        let uses: [(&str, bool, &[Format]); 17] = [
            ("--data", self.data.is_some(), QUESTIONS),
            ("--by", self.by.is_some(), &[Conflict, Swap, Kv]),
            ("--documents", self.documents.is_some(), &[Mdqa]),
            ("--gold-position", self.gold_position.is_some(), &[Mdqa]),
            ("--pairs", self.pairs.is_some(), &[Kv]),
            ("--place-groups", self.place_groups.is_some(), &[Kv]),
            ("--limit", self.limit.is_some(), QUESTIONS),
            ("--max-new-tokens", self.max_new_tokens.is_some(), QUESTIONS),
            (
                "--max-prompt-tokens",
                self.max_prompt_tokens.is_some(),
                QUESTIONS,
            ),
            ("--batch-tokens", self.batch_tokens.is_some(), QUESTIONS),
            (
                "--template",
                self.template.is_some(),
                &[Mdqa, Longbench, Kv],
            ),
            ("--chat", self.chat, &[Mdqa, Longbench, Swap, Kv]),
            ("--stop-at-newline", self.stop_at_newline, QUESTIONS),
            ("--outputs", self.outputs.is_some(), QUESTIONS),
            ("--lengths", self.lengths.is_some(), &[Proxy]),
            ("--samples", self.samples.is_some(), &[Proxy, TinyWorld]),
            ("--bos", self.bos, &[Proxy]),
        ];
        for (flag, is_given, formats) in uses {
            if is_given && !format.is_some_and(|format| formats.contains(&format)) {
                let names: Vec<String> = formats.iter().map(|format| format.name()).collect();
                bail!(
                    "{flag}: means something only with --format {}",
                    names.join(", ")
                );
            }
        }
        Ok(())
    }

    /// `--by`.
    pub fn by(&self) -> Vec<By> {
        let all = || vec![By::Likelihood, By::Generation];
        self.by.clone().unwrap_or_else(all)
    }

    /// `--documents`.
    pub fn documents(&self) -> usize {
        self.documents.unwrap_or(10)
    }

    /// `--gold-position`.
    pub fn gold_position(&self) -> Vec<usize> {
        self.gold_position.clone().unwrap_or_else(|| vec![0, 4, 9])
    }

    /// `--place-groups`.
    pub fn place_groups(&self) -> usize {
        self.place_groups.unwrap_or(5)
    }

    /// `--batch-tokens`.
    pub fn batch_tokens(&self) -> usize {
        self.batch_tokens.unwrap_or(4096)
    }

    /// `--lengths`.
    pub fn lengths(&self) -> Vec<usize> {
        self.lengths.clone().unwrap_or_else(|| vec![10, 25, 50])
    }

    /// `--samples`.
    pub fn samples(&self) -> usize {
        self.samples.unwrap_or(100)
    }

    /// The flags as they stand in files of results.
    pub fn settings(&self, format: Option<Format>) -> Value {
        let by: Vec<_> = self
            .by()
            .iter()
            .map(|by| format!("{by:?}").to_lowercase())
            .collect();
        json!({
            "format": format.map(Format::name), "by": by, "documents": self.documents(), "gold_position": self.gold_position(),
            "pairs": self.pairs, "place_groups": self.place_groups(), "limit": self.limit, "max_new_tokens": self.max_new_tokens,
            "max_prompt_tokens": self.max_prompt_tokens, "batch_tokens": self.batch_tokens(), "template": self.template, "chat": self.chat,
            "stop_at_newline": self.stop_at_newline, "lengths": self.lengths(), "samples": self.samples(), "bos": self.bos, "seed": self.seed,
            "window": self.window,
        })
    }
}
