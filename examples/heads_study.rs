//! What each way to choose heads and to set their coefficients does to a real model, on facts, passages and text that others made.
//!
//! ```sh
//! cargo run --release --example heads_study -- --model SmolLM2-135M-Instruct.Q4_1.gguf \
//!     --facts comp-mech.jsonl.gz --passages nq-swap.jsonl.gz --text wikitext-2-valid.txt --out study.md
//! ```

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use pear_core::files::write_atomic;
use pear_core::{DecoderModel, HeadCoefficients, HeadId, ProxyTask};
use pear_examples::cli::{self, ModelArgs};
use pear_examples::progress::Progress;
use pear_examples::random::Random;
use pear_locate::{LocateOptions, RankBy, Scores, locate, proxy_batches};
use pear_models::evaluation::conflict::{self, Fact, FactResult};
use pear_models::evaluation::swap::{self, SwapQuestion, SwapResult};
use pear_models::evaluation::{PromptBuilder, TextReference, TextWindows};
use pear_models::{Decoder, ModelDirectory};
use pear_train::{PlainText, Sequences, TrainOptions, Trainer, gradient_scores};

/// Lengths n of the sequences that heads are located on, each with the number of sequences.
const LENGTHS: [(usize, usize); 4] = [(10, 100), (15, 80), (25, 40), (50, 20)];
/// Sequences that the gradient at 1 is the mean of: their length, first index, number, and how many run at once.
const GRADIENT: (usize, usize, usize, usize) = (50, 1 << 42, 40, 8);
/// Tokens of the prompts that are read together.
const BATCH_TOKENS: usize = 4096;
/// Tokens of a piece of text.
const PIECE: usize = 512;
/// Steps of learning, tokens that are repeated, and sequences a step.
const STEPS: usize = 40;
const LENGTH: usize = 50;
const BATCH: usize = 8;
/// The paper's learning rate, and one for few steps.
const PUBLISHED_RATE: f64 = 0.005;
const RATE: f64 = 0.02;
/// Pieces of text in a step, where divergence has a price.
const TEXT_BATCH: usize = 4;
/// Tokens of a piece of text that is learned from.
const LEARNED_PIECE: usize = 128;

/// Measure each way to choose heads and to set their coefficients on facts, passages and text, over several seeds of the random tokens
#[derive(Parser, Debug)]
#[command(name = "heads_study")]
struct Arguments {
    #[command(flatten)]
    model: ModelArgs,

    /// Facts with a statement that contradicts them: `base_prompt`, `prompt`, `target_true`, `target_new`, JSON lines
    #[arg(long, value_name = "FILE")]
    facts: PathBuf,

    /// Questions with a passage whose answer was replaced: the fields of NQ-Swap, JSON lines
    #[arg(long, value_name = "FILE")]
    passages: PathBuf,

    /// A plain text: its first half is what the cost is measured on, its second half what is learned from where divergence has a price
    #[arg(long, value_name = "FILE")]
    text: PathBuf,

    /// Number of passages
    #[arg(long, value_name = "COUNT", default_value_t = 40)]
    num_passages: usize,

    /// Number of pieces of 512 tokens that the divergence is measured on
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    pieces: usize,

    /// Number of seeds
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    seeds: u64,

    /// The first of them; the others follow it
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    first_seed: u32,

    /// File to write the table to, in Markdown
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Which heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Highest(RankBy),
    Gradient,
    Lowest,
    Random,
    All,
}

/// Where their coefficients come from.
#[derive(Clone, Copy, Debug)]
enum Setting {
    Fixed(f32),
    Learned {
        rate: f64,
        /// Price of a nat of divergence from the unmodified model on plain text.
        kl_weight: f64,
        /// Price of a coefficient's distance from 1.
        sparsity: f64,
    },
}

/// A way to choose heads and to set their coefficients.
struct Way {
    name: &'static str,
    choice: Choice,
    count: usize,
    setting: Setting,
}

const fn way(name: &'static str, choice: Choice, count: usize, setting: Setting) -> Way {
    Way {
        name,
        choice,
        count,
        setting,
    }
}

const fn learned(rate: f64, kl_weight: f64, sparsity: f64) -> Setting {
    Setting::Learned {
        rate,
        kl_weight,
        sparsity,
    }
}

const PROXY: Setting = learned(RATE, 0.0, 0.0);

const WAYS: [Way; 12] = {
    use Choice::{All, Gradient, Highest, Lowest, Random};
    use RankBy::{Score, Z};
    use Setting::Fixed;
    [
        way("10 highest by score, × 0.5", Highest(Score), 10, Fixed(0.5)),
        way(
            "10 highest by score, learned at the paper's rate",
            Highest(Score),
            10,
            learned(PUBLISHED_RATE, 0.0, 0.0),
        ),
        way("10 highest by z, × 0.5", Highest(Z), 10, Fixed(0.5)),
        way("10 highest by z, learned", Highest(Z), 10, PROXY),
        way("10 highest by gradient, learned", Gradient, 10, PROXY),
        way("10 random, × 0.5", Random, 10, Fixed(0.5)),
        way("10 random, learned", Random, 10, PROXY),
        way("5 lowest by score, × 0.5", Lowest, 5, Fixed(0.5)),
        way("5 lowest by score, × 1.3", Lowest, 5, Fixed(1.3)),
        way("all, learned", All, usize::MAX, PROXY),
        way(
            "all, learned, 40 × KL",
            All,
            usize::MAX,
            learned(RATE, 40.0, 0.0),
        ),
        way(
            "all, learned, 40 × KL, 0.01 for each unit from 1",
            All,
            usize::MAX,
            learned(RATE, 40.0, 0.01),
        ),
    ]
};

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    if arguments.seeds == 0 || arguments.pieces == 0 || arguments.num_passages == 0 {
        bail!("--seeds, --pieces and --num-passages: expected at least 1");
    }
    let inputs = [
        &arguments.model.model,
        &arguments.facts,
        &arguments.passages,
        &arguments.text,
    ];
    cli::Outputs::beside(inputs.map(Some)).add("--out", arguments.out.as_deref())?;
    let directory = arguments.model.open()?;
    let model = arguments.model.load(&directory)?;
    let exam = Exam::read(&arguments, &directory, &model)?;
    let table = study(&arguments, &directory, &model, &exam)?;
    cli::print(&table)
}

/// The table, in Markdown. After each seed it is written to `--out`.
fn study(
    arguments: &Arguments,
    directory: &ModelDirectory,
    model: &Decoder,
    exam: &Exam,
) -> Result<String> {
    let reference = TextReference::new(model, &exam.measured);
    let before = exam.sit(model, &reference)?;
    let mut marks: Vec<Vec<Marks>> = WAYS.iter().map(|_| Vec::new()).collect();
    let mut bar = Progress::new("study", arguments.seeds * WAYS.len() as u64);
    for (done, seed) in (0..arguments.seeds).zip(u64::from(arguments.first_seed)..) {
        let task = ProxyTask::new(model.vocab_size(), &directory.special_tokens()?, seed)?;
        let ranks = Ranks::new(model, &task, seed)?;
        for (index, (way, marks)) in WAYS.iter().zip(&mut marks).enumerate() {
            bar.set(done * WAYS.len() as u64 + index as u64, way.name);
            let heads = ranks.heads(way.choice, way.count);
            let coefficients = coefficients(model, &task, exam, &heads, way.setting)?;
            let reweighted = model.clone().with_coefficients(&coefficients)?;
            let of_seed = exam.sit(&reweighted, &reference)?;
            marks.push(of_seed);
        }
        if let Some(out) = &arguments.out {
            let table = table(&before, &marks);
            write_atomic(out, |file| file.write_all(table.as_bytes()))?;
        }
    }
    Ok(table(&before, &marks))
}

fn table(before: &Marks, marks: &[Vec<Marks>]) -> String {
    let mut table = String::from(HEADER);
    table += &line("unmodified", before.cells());
    for (way, marks) in WAYS.iter().zip(marks) {
        table += &line(way.name, Marks::changes(marks, before));
    }
    table
}

/// The heads of a model in several orders.
struct Ranks {
    scores: Scores,
    by_gradient: Vec<HeadId>,
    shuffled: Vec<HeadId>,
}

impl Ranks {
    fn new(model: &Decoder, task: &ProxyTask, seed: u64) -> Result<Self> {
        let batches = proxy_batches(task, &LENGTHS)?;
        let scores = locate(model, &batches, &LocateOptions::default())?.scores;
        let heads: Vec<HeadId> = model.shape().heads().collect();
        let (n, first, count, at_once) = GRADIENT;
        let batch = task.batch(n, first..first + count)?;
        let mut gradients = gradient_scores(model, &heads, &batch, at_once)?;
        gradients.sort_by(|a, b| b.gradient.total_cmp(&a.gradient));
        let count = heads.len();
        Ok(Self {
            scores,
            by_gradient: gradients.into_iter().map(|score| score.head).collect(),
            shuffled: Random::new(seed, 77).sample(heads, count),
        })
    }

    fn heads(&self, choice: Choice, count: usize) -> Vec<HeadId> {
        let first = |heads: &[HeadId]| heads[..count.min(heads.len())].to_vec();
        match choice {
            Choice::Highest(rank_by) => {
                let mut scores = self.scores.clone();
                scores.settings.rank_by = rank_by;
                scores.top(count)
            }
            Choice::Lowest => {
                let lowest = self.scores.heads().iter().rev();
                lowest.map(|scored| scored.head).take(count).collect()
            }
            Choice::Gradient => first(&self.by_gradient),
            Choice::Random | Choice::All => first(&self.shuffled),
        }
    }
}

fn coefficients(
    model: &Decoder,
    task: &ProxyTask,
    exam: &Exam,
    heads: &[HeadId],
    setting: Setting,
) -> Result<HeadCoefficients> {
    let (learning_rate, kl_weight, sparsity) = match setting {
        Setting::Fixed(value) => {
            let fixed: Vec<(HeadId, f32)> = heads.iter().map(|&head| (head, value)).collect();
            return Ok(HeadCoefficients::new(
                &fixed,
                &model.shape(),
                &model.device(),
            )?);
        }
        Setting::Learned {
            rate,
            kl_weight,
            sparsity,
        } => (rate, kl_weight, sparsity),
    };
    let options = TrainOptions {
        steps: STEPS,
        batch_size: BATCH,
        length: LENGTH,
        learning_rate,
        kl_weight,
        sparsity,
        text_batch_size: TEXT_BATCH,
        ..TrainOptions::default()
    };
    let mut trainer = Trainer::new(model, heads, options)?;
    if kl_weight > 0.0 {
        trainer = trainer.with_text(PlainText::new(exam.learned.clone(), 0)?)?;
    }
    trainer.run(&Sequences::Drawn(task.clone()))?;
    Ok(trainer.coefficients().clone())
}

/// What models are measured on.
struct Exam {
    /// Those that the unmodified model knows.
    facts: Vec<Fact>,
    passages: Vec<SwapQuestion>,
    /// Pieces that the divergence is measured on, and those that are learned from.
    measured: Vec<Vec<u32>>,
    learned: Vec<Vec<u32>>,
}

impl Exam {
    fn read(arguments: &Arguments, directory: &ModelDirectory, model: &Decoder) -> Result<Self> {
        let plain = PromptBuilder::new(directory)?;
        let facts = conflict::read(&arguments.facts, &plain, None)?;
        let facts = conflict::known(model, facts, BATCH_TOKENS, || anyhow::Ok(()))?;
        let chat = match directory.find_chat_template()? {
            Some(template) => plain.with_chat_template(template),
            None => plain,
        };
        let passages = swap::read(&arguments.passages, &chat, Some(arguments.num_passages))?;
        let text = TextWindows::read(&arguments.text, directory, PIECE)?;
        let (measured, learned) = text.windows().split_at(text.windows().len() / 2);
        let measured: Vec<_> = measured.iter().take(arguments.pieces).cloned().collect();
        let learned = learned.iter().flat_map(|piece| piece.chunks(LEARNED_PIECE));
        let learned: Vec<_> = learned
            .filter(|piece| piece.len() == LEARNED_PIECE)
            .map(<[u32]>::to_vec)
            .collect();
        if facts.is_empty() || passages.is_empty() || measured.is_empty() || learned.is_empty() {
            bail!(
                "nothing to measure: no fact that the model knows, no passage, or too short a text"
            );
        }
        Ok(Self {
            facts,
            passages,
            measured,
            learned,
        })
    }

    fn sit(&self, model: &Decoder, reference: &TextReference<'_, Decoder>) -> Result<Marks> {
        let facts = conflict::evaluate(model, &self.facts, BATCH_TOKENS, || anyhow::Ok(()))?;
        let passages = swap::evaluate(model, &self.passages, BATCH_TOKENS, || anyhow::Ok(()))?;
        let divergence = reference.divergence(model)?;
        let of_facts = |value: fn(&FactResult) -> bool| {
            100.0 * mean(facts.iter().map(|fact| f64::from(value(fact))))
        };
        let of_passages = |value: fn(&SwapResult) -> f64| mean(passages.iter().map(value));
        Ok(Marks([
            divergence.kl,
            100.0 * divergence.same_top_token,
            of_facts(|fact| fact.context_over_memory),
            of_facts(|fact| fact.closed_book_first),
            of_passages(|passage| passage.substituted),
            of_passages(|passage| passage.agreeing),
        ]))
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

const HEADER: &str = "| heads and coefficients | KL on the text | same top token, % | context beats memory, % | known without a context, % | swapped passage's answer, nats | agreeing passage's answer, nats |\n\
                      | --- | --- | --- | --- | --- | --- | --- |\n";
const DIGITS: [usize; 6] = [4, 1, 1, 1, 2, 2];

/// The columns of the table after the first.
#[derive(Clone, Copy, Debug)]
struct Marks([f64; 6]);

impl Marks {
    fn cells(&self) -> [String; 6] {
        std::array::from_fn(|column| format!("{:.*}", DIGITS[column], self.0[column]))
    }

    /// The mean over seeds, from the third column on of the change, with the lowest and the highest.
    fn changes(of_seeds: &[Self], before: &Self) -> [String; 6] {
        std::array::from_fn(|column| {
            let digits = DIGITS[column];
            let values = of_seeds.iter().map(|marks| marks.0[column]);
            if column < 2 {
                return format!("{:.digits$}", mean(values));
            }
            let changes: Vec<f64> = values.map(|value| value - before.0[column]).collect();
            let low = changes.iter().copied().fold(f64::INFINITY, f64::min);
            let high = changes.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mean = mean(changes.iter().copied());
            format!("{mean:+.digits$} ({low:+.digits$} … {high:+.digits$})")
        })
    }
}

fn line(name: &str, cells: [String; 6]) -> String {
    format!("| {name} | {} |\n", cells.join(" | "))
}
