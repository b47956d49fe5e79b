//! The study behind RESULTS.md: what PEAR does to models of the tiny world, with all its controls.
//!
//! ```sh
//! cargo run --release --example study -- --model seed-0 --model seed-1 --model seed-2 --out study.md
//! ```

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use burn::prelude::Device;
use burn::tensor::DType;
use clap::Parser;
use pear_core::files::write_atomic;
use pear_core::{DecoderModel, HeadCoefficients, HeadId, ProxyTask};
use pear_examples::cli;
use pear_examples::draw::{Curve, curves_over, heat_map};
use pear_locate::Scores;
use pear_locate::{Ablation, Mode};

use pear_examples::evaluate::p_value_text;
use pear_examples::progress::Progress;
use pear_examples::random::Random;
use pear_examples::tiny_world::{Exam, Kind, Marks, Place, World, share};
use pear_locate::{LocateOptions, locate, proxy_batches};
use pear_models::evaluation::PairedDifference;
use pear_models::{Decoder, ModelDirectory};
use pear_train::{ProxyMetrics, Sequences, TrainOptions, Trainer, evaluate};

/// Lengths n of the sequences that heads are located on, and how many there are of each.
const LENGTHS: [(usize, usize); 5] = [(10, 100), (20, 100), (30, 100), (40, 100), (50, 100)];
/// Numbers of heads that are tried.
const COUNTS: [usize; 5] = [1, 2, 3, 5, 8];
/// The number that controls have.
const K: usize = 3;
/// What a fixed coefficient is, where none is learned.
const FIXED: f32 = 0.7;

/// Measure what PEAR does to models of the tiny world: numbers of heads, random and lowest heads, ways to score, fixed coefficients
#[derive(Parser, Debug)]
#[command(name = "study")]
struct Arguments {
    /// A model of the tiny world, as `pretrain` writes it; may be given again
    #[arg(long, value_name = "DIR", required = true)]
    model: Vec<PathBuf>,

    /// Questions of each kind, number of documents and place; 9 times as many of each kind
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    questions: usize,

    /// Draws of random heads
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    draws: usize,

    /// Seed of questions and draws
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// A folder for pictures: the scores of each model's heads, and what the number of heads does
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,

    /// Where the tables go, in Markdown
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    if arguments.questions == 0 || arguments.draws == 0 {
        bail!("--questions and --draws: expected at least 1");
    }
    if let Some(out) = &arguments.out {
        cli::check_out("--out", out)?;
    }
    if let Some(folder) = &arguments.pictures {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("--pictures {}: cannot make the folder", folder.display()))?;
    }
    let world = World::new(0);
    let exam = Exam::new(&world, arguments.questions, arguments.seed);
    let (mut text, mut over) = (String::new(), [const { Vec::new() }; 3]);
    for path in &arguments.model {
        let directory = ModelDirectory::open(path)?;
        let model = directory.load(&Device::flex(), DType::F32)?;
        if model.vocab_size() != world.words().len() {
            bail!(
                "{}: {} words, but the tiny world has {}",
                path.display(),
                model.vocab_size(),
                world.words().len()
            );
        }
        let study = Study {
            model,
            exam: &exam,
            task: ProxyTask::new(world.words().len(), &directory.special_tokens()?, 0)?,
        };
        let name = path.file_name().map_or_else(
            || path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        );
        let part = study.tables(&name, &arguments, &mut over)?;
        cli::print(&part)?;
        text += &part;
    }
    if let Some(folder) = &arguments.pictures {
        let [conflicting, unseen, perplexity] = over;
        let panels = [
            ("conflicting, %", conflicting),
            ("unseen, %", unseen),
            ("perplexity of plain text", perplexity),
        ];
        curves_over(
            &folder.join("number-of-heads.svg"),
            "number of heads, highest scores first",
            &panels,
        )?;
    }
    match &arguments.out {
        Some(out) => Ok(write_atomic(out, |file| {
            std::io::Write::write_all(file, text.as_bytes())
        })?),
        None => Ok(()),
    }
}

struct Study<'a> {
    model: Decoder,
    exam: &'a Exam,
    task: ProxyTask,
}

/// What some heads with their coefficients lead to.
struct Outcome {
    coefficients: Vec<(HeadId, f32)>,
    marks: Marks,
    proxy: ProxyMetrics,
}

impl Study<'_> {
    /// `over`: curves of what the number of heads does, for all models.
    fn tables(
        &self,
        name: &str,
        arguments: &Arguments,
        over: &mut [Vec<Curve>; 3],
    ) -> Result<String> {
        let mut bar = Progress::new(
            "study",
            (1 + COUNTS.len() + 2 + 2 * arguments.draws + 1 + 5) as u64,
        );
        let mut done = 0;
        let mut step = |what: &str| {
            done += 1;
            bar.set(done, format!("{name}: {what}"));
        };
        let before = self.outcome(&[])?;
        step("before");
        let scores = self.scores(LocateOptions::default())?;
        let mut text = format!("### {name}\n\n{HEADER}");
        text += &row("before", &before, &before);
        let mut learned = Vec::new();
        for count in COUNTS {
            learned.push(self.trained(&scores.top(count))?);
            text += &row(
                &format!("top {count}"),
                &learned[learned.len() - 1],
                &before,
            );
            step("numbers of heads");
        }
        for (column, curves) in [3, 5, 7].into_iter().zip(over) {
            let mut values = vec![f64::NAN; COUNTS[COUNTS.len() - 1] + 1];
            let all = [0]
                .into_iter()
                .chain(COUNTS)
                .zip([&before].into_iter().chain(&learned));
            all.for_each(|(count, outcome)| values[count] = columns(outcome)[column]);
            curves.push(Curve::new(name, values));
        }
        if let Some(folder) = &arguments.pictures {
            heat_map(
                &folder.join(format!("{name}.svg")),
                &format!("{name}: how much better without each head"),
                &scores.grid(),
                &scores.top(K),
            )?;
        }
        let lowest: Vec<HeadId> = scores
            .heads()
            .iter()
            .rev()
            .map(|scored| scored.head)
            .collect();
        for count in [2, 3] {
            text += &row(
                &format!("lowest {count}"),
                &self.trained(&lowest[..count])?,
                &before,
            );
            step("lowest heads");
        }
        let mut random = Random::new(arguments.seed, 1);
        let heads: Vec<HeadId> = self.model.shape().heads().collect();
        let draws: Vec<Vec<HeadId>> = (0..arguments.draws)
            .map(|_| random.sample(heads.iter().copied(), K))
            .collect();
        let mut outcomes = Vec::new();
        for draw in &draws {
            outcomes.push(self.trained(draw)?);
            step("random heads");
        }
        text += &mean_row(
            &format!("{} draws of {K} random heads", draws.len()),
            &outcomes,
            &before,
        );
        let fixed = |heads: &[HeadId]| {
            self.outcome(&heads.iter().map(|&head| (head, FIXED)).collect::<Vec<_>>())
        };
        text += &row(
            &format!("top {K}, all × {FIXED}, nothing learned"),
            &fixed(&scores.top(K))?,
            &before,
        );
        step("fixed");
        let mut still = Vec::new();
        for draw in &draws {
            still.push(fixed(draw)?);
            step("random heads, fixed");
        }
        text += &mean_row(
            &format!("the same random heads, all × {FIXED}"),
            &still,
            &before,
        );
        for (mode, ablation) in [
            (Mode::Activation, Ablation::BatchMean),
            (Mode::Activation, Ablation::Zero),
            (Mode::Path, Ablation::SequenceMean),
            (Mode::Path, Ablation::BatchMean),
            (Mode::Path, Ablation::Zero),
        ] {
            let other = self.scores(LocateOptions {
                mode,
                ablation,
                ..LocateOptions::default()
            })?;
            text += &row(
                &format!("top {K} by {mode}, {ablation}"),
                &self.trained(&other.top(K))?,
                &before,
            );
            step("ways to score");
        }

        let pear = &learned[COUNTS
            .iter()
            .position(|&count| count == K)
            .unwrap_or_default()];
        text += &paired(&before, pear);
        let better = |outcomes: &[Outcome], than: &Outcome| {
            let of = |outcome: &Outcome| share(&outcome.marks.right(Kind::Conflicting, None));
            outcomes
                .iter()
                .filter(|outcome| of(outcome) >= of(than))
                .count()
        };
        let _ = write!(
            text,
            "\nRandom draws at or above the top {K} on conflicting documents: {} of {} trained, {} of {} fixed.\n\n\
             Highest scores: {}. Coefficients of the top {K}: {}.\n\n",
            better(&outcomes, pear),
            outcomes.len(),
            better(&still, &fixed(&scores.top(K))?),
            still.len(),
            list(scores.heads().iter().take(5).map(|scored| format!(
                "{} {:+.2} %",
                scored.head,
                100.0 * scored.score
            ))),
            list(
                pear.coefficients
                    .iter()
                    .map(|(head, value)| format!("{head} × {value:.2}"))
            ),
        );
        Ok(text)
    }

    fn scores(&self, options: LocateOptions) -> Result<Scores> {
        Ok(locate(&self.model, &proxy_batches(&self.task, &LENGTHS)?, &options)?.scores)
    }

    /// Coefficients learned on random tokens alone.
    fn trained(&self, heads: &[HeadId]) -> Result<Outcome> {
        let mut trainer = Trainer::new(&self.model, heads, options())?;
        trainer.run(&Sequences::Drawn(self.task.clone()))?;
        let coefficients = trainer.coefficients();
        self.outcome(
            &coefficients
                .heads()
                .into_iter()
                .zip(coefficients.values())
                .collect::<Vec<_>>(),
        )
    }

    fn outcome(&self, coefficients: &[(HeadId, f32)]) -> Result<Outcome> {
        let numbers =
            HeadCoefficients::new(coefficients, &self.model.shape(), &self.model.device())?;
        let folded = self.model.clone().with_coefficients(&numbers)?.fold();
        let held_out = self.task.batch(50, 1 << 40..(1 << 40) + 100)?;
        let proxy = evaluate(&folded, &held_out, None)?;
        Ok(Outcome {
            coefficients: coefficients.to_vec(),
            marks: self.exam.sit(&folded, |_| {})?,
            proxy,
        })
    }
}

/// Few steps at a high rate: the model is small.
fn options() -> TrainOptions {
    TrainOptions {
        steps: 40,
        learning_rate: 0.02,
        ..TrainOptions::default()
    }
}

const HEADER: &str = "| heads | proxy accuracy | proxy loss | agreeing | conflicting | of these from memory | unseen | closed book | \
                      perplexity |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";

fn columns(outcome: &Outcome) -> [f64; 8] {
    let Outcome { marks, proxy, .. } = outcome;
    let right = |kind| 100.0 * share(&marks.right(kind, None));
    [
        100.0 * proxy.accuracy,
        proxy.cross_entropy,
        right(Kind::Agreeing),
        right(Kind::Conflicting),
        100.0 * marks.from_memory(Kind::Conflicting),
        right(Kind::Unseen),
        100.0 * share(&marks.closed_book),
        marks.perplexity,
    ]
}

fn line(name: &str, cells: impl IntoIterator<Item = String>) -> String {
    format!(
        "| {name} | {} |\n",
        cells.into_iter().collect::<Vec<_>>().join(" | ")
    )
}

fn digits(column: usize) -> usize {
    if column == 1 || column == 7 { 2 } else { 1 }
}

fn row(name: &str, outcome: &Outcome, before: &Outcome) -> String {
    let (now, then) = (columns(outcome), columns(before));
    line(
        name,
        (0..now.len()).map(|i| match name {
            "before" => format!("{:.*}", digits(i), now[i]),
            _ => format!(
                "{:.*} ({:+.*})",
                digits(i),
                now[i],
                digits(i),
                now[i] - then[i]
            ),
        }),
    )
}

/// Mean change and its standard deviation over draws.
fn mean_row(name: &str, outcomes: &[Outcome], before: &Outcome) -> String {
    let (then, count) = (columns(before), outcomes.len() as f64);
    let cell = |i: usize| {
        let changes: Vec<f64> = outcomes
            .iter()
            .map(|outcome| columns(outcome)[i] - then[i])
            .collect();
        let mean = changes.iter().sum::<f64>() / count;
        let deviation = (changes.iter().map(|c| (c - mean).powi(2)).sum::<f64>()
            / (count - 1.0).max(1.0))
        .sqrt();
        format!(
            "{:.*} ({mean:+.*} ± {deviation:.*})",
            digits(i),
            then[i] + mean,
            digits(i),
            digits(i)
        )
    };
    line(name, (0..then.len()).map(cell))
}

/// The same questions before and after, one by one.
fn paired(before: &Outcome, after: &Outcome) -> String {
    let mut text = format!(
        "\nThe same questions before and after, top {K}:\n\n| questions | number | before | after | change, 95 % interval | wrong → right | right → wrong | p (exact McNemar) |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    );
    let mut add = |name: String, before: Vec<bool>, after: Vec<bool>| {
        let paired = PairedDifference::between(&before, &after);
        let cells = [
            before.len().to_string(),
            format!("{:.1} %", 100.0 * share(&before)),
            format!("{:.1} %", 100.0 * share(&after)),
            format!("{:+.1} … {:+.1}", 100.0 * paired.low, 100.0 * paired.high),
            paired.gained.to_string(),
            paired.lost.to_string(),
            p_value_text(paired.p_value),
        ];
        text += &line(&name, cells);
    };
    for kind in Kind::ALL {
        add(
            kind.name().into(),
            before.marks.right(kind, None),
            after.marks.right(kind, None),
        );
        for place in Place::ALL {
            let name = format!("{}, right document {}", kind.name(), place.name());
            add(
                name,
                before.marks.right(kind, Some(place)),
                after.marks.right(kind, Some(place)),
            );
        }
    }
    add(
        "closed book".into(),
        before.marks.closed_book.clone(),
        after.marks.closed_book.clone(),
    );
    text
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
