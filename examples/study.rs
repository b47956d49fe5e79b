//! The study behind RESULTS.md: the effect of PEAR on models of the tiny world, with controls.
//!
//! ```sh
//! cargo run --release --example study -- --model seed-0 --model seed-1 --model seed-2 --out study.md
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use burn::prelude::Device;
use burn::tensor::DType;
use clap::Parser;
use pear_core::files::write_atomic;
use pear_core::{DecoderModel, HeadCoefficients, HeadId, ProxyTask};
use pear_examples::cli;
use pear_examples::draw::{Curve, curves_over, heat_map};
use pear_examples::evaluate::p_value_text;
use pear_examples::progress::Progress;
use pear_examples::random::Random;
use pear_examples::tiny_world::{Exam, Kind, Marks, Place, World, share};
use pear_locate::{Ablation, LocateOptions, Mode, RankBy, Scores, locate, proxy_batches};
use pear_models::evaluation::PairedDifference;
use pear_models::{Decoder, ModelDirectory};
use pear_train::{ProxyMetrics, Sequences, TrainOptions, Trainer, evaluate};

/// Lengths n of the sequences that heads are located on, each with the number of sequences.
const LENGTHS: [(usize, usize); 5] = [(10, 100), (20, 100), (30, 100), (40, 100), (50, 100)];
/// Numbers of heads with the highest scores that are tried.
const COUNTS: [usize; 5] = [1, 2, 3, 5, 8];
/// Number of heads in the controls.
const K: usize = 3;
/// Numbers of heads with the lowest scores that are tried.
const LOWEST: [usize; 2] = [2, 3];
/// The coefficient of the controls without training.
const FIXED: f32 = 0.7;
/// Other ways to score heads than the default.
const WAYS: [(Mode, Ablation); 5] = [
    (Mode::Activation, Ablation::BatchMean),
    (Mode::Activation, Ablation::Zero),
    (Mode::Path, Ablation::SequenceMean),
    (Mode::Path, Ablation::BatchMean),
    (Mode::Path, Ablation::Zero),
];

/// Measure the effect of PEAR on models of the tiny world: numbers of heads, random and lowest heads, ways to score, fixed coefficients
#[derive(Parser, Debug)]
#[command(name = "study")]
struct Arguments {
    /// Directory of a model of the tiny world, as `pretrain` writes it; may be given several times
    #[arg(long, value_name = "DIR", required = true)]
    model: Vec<PathBuf>,

    /// Number of questions for each kind, number of documents and position: 9 times as many of each kind
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    questions: usize,

    /// Number of draws of random heads
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    draws: usize,

    /// Seed of questions and draws
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Folder to draw the scores of each model's heads in, and the effect of the number of heads
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,

    /// File to write the tables to, in Markdown
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
    let mut text = String::new();
    let mut curves = HeadCountCurves::default();
    for path in &arguments.model {
        let study = Study::open(path, &world, &exam, &arguments)?;
        let report = study.report(&mut curves)?;
        cli::print(&report)?;
        text += &report;
    }
    if let Some(folder) = &arguments.pictures {
        curves.draw(&folder.join("number-of-heads.svg"))?;
    }
    if let Some(out) = &arguments.out {
        write_atomic(out, |file| file.write_all(text.as_bytes()))?;
    }
    Ok(())
}

/// The effect of the number of heads, one curve for each model.
#[derive(Default)]
struct HeadCountCurves {
    conflicting: Vec<Curve>,
    unseen: Vec<Curve>,
    perplexity: Vec<Curve>,
}

impl HeadCountCurves {
    /// Adds a model, from its outcomes without coefficients and with each of [`COUNTS`] heads.
    fn add(&mut self, name: &str, before: &Outcome, top: &[Outcome]) {
        let curve = |column: usize| {
            let mut values = vec![f64::NAN; COUNTS[COUNTS.len() - 1] + 1];
            values[0] = columns(before)[column];
            for (count, outcome) in COUNTS.into_iter().zip(top) {
                values[count] = columns(outcome)[column];
            }
            Curve::new(name, values)
        };
        self.conflicting.push(curve(CONFLICTING));
        self.unseen.push(curve(UNSEEN));
        self.perplexity.push(curve(PERPLEXITY));
    }

    fn draw(self, path: &Path) -> Result<()> {
        let panels = [
            ("conflicting, %", self.conflicting),
            ("unseen, %", self.unseen),
            ("perplexity of plain text", self.perplexity),
        ];
        curves_over(path, "number of heads, highest scores first", &panels)
    }
}

/// The study of one model.
struct Study<'a> {
    name: String,
    model: Decoder,
    exam: &'a Exam,
    task: ProxyTask,
    arguments: &'a Arguments,
}

/// The effect of coefficients.
struct Outcome {
    coefficients: Vec<(HeadId, f32)>,
    marks: Marks,
    proxy: ProxyMetrics,
}

/// The main table as it grows, with a progress bar.
struct Table {
    text: String,
    before: Outcome,
    bar: Progress,
    done: u64,
}

impl Table {
    fn add(&mut self, name: &str, outcome: &Outcome) {
        self.text += &row(name, outcome, &self.before);
        self.tick(name);
    }

    fn add_mean(&mut self, name: &str, outcomes: &[Outcome]) {
        self.text += &mean_row(name, outcomes, &self.before);
    }

    fn tick(&mut self, what: &str) {
        self.done += 1;
        self.bar.set(self.done, what.to_owned());
    }
}

/// Random heads: the same draws with trained and with fixed coefficients.
struct RandomHeads {
    trained: Vec<Outcome>,
    fixed: Vec<Outcome>,
}

impl<'a> Study<'a> {
    fn open(path: &Path, world: &World, exam: &'a Exam, arguments: &'a Arguments) -> Result<Self> {
        let directory = ModelDirectory::open(path)?;
        let model = directory.load(&Device::flex(), DType::F32)?;
        let words = world.words().len();
        if model.vocab_size() != words {
            bail!(
                "{}: {} words, but the tiny world has {words}",
                path.display(),
                model.vocab_size()
            );
        }
        let name = match path.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => path.display().to_string(),
        };
        Ok(Self {
            name,
            model,
            exam,
            task: ProxyTask::new(words, &directory.special_tokens()?, 0)?,
            arguments,
        })
    }

    /// All tables, in Markdown.
    fn report(&self, curves: &mut HeadCountCurves) -> Result<String> {
        let mut table = self.table()?;
        let scores = self.scores(LocateOptions::default())?;
        let top = self.add_top_heads(&mut table, &scores)?;
        curves.add(&self.name, &table.before, &top);
        if let Some(folder) = &self.arguments.pictures {
            heat_map(
                &folder.join(format!("{}.svg", self.name)),
                &format!("{}: how much better without each head", self.name),
                &scores.grid(),
                &scores.top(K),
            )?;
        }
        self.add_lowest_heads(&mut table, &scores)?;
        let (random, fixed) = self.add_random_and_fixed(&mut table, &scores)?;
        self.add_ways_to_score(&mut table)?;

        let Table { text, before, .. } = table;
        let pear = COUNTS.iter().zip(&top).find(|(count, _)| **count == K);
        let (_, pear) = pear.context("the counts include that of the controls")?;
        Ok(format!(
            "### {}\n\n{HEADER}{text}{}{}",
            self.name,
            paired(&before, pear),
            conclusions(&scores, pear, &fixed, &random)
        ))
    }

    /// A table with the model without coefficients.
    fn table(&self) -> Result<Table> {
        let outcomes = 1 + COUNTS.len() + LOWEST.len() + 2 * self.arguments.draws + 1 + WAYS.len();
        let before = self.outcome(&[])?;
        let mut table = Table {
            text: first_row(&before),
            before,
            bar: Progress::new(&self.name, outcomes as u64),
            done: 0,
        };
        table.tick("before");
        Ok(table)
    }

    /// Different numbers of the heads with the highest scores.
    fn add_top_heads(&self, table: &mut Table, scores: &Scores) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for count in COUNTS {
            let outcome = self.trained(&scores.top(count))?;
            table.add(&format!("top {count}"), &outcome);
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    /// The heads with the lowest scores.
    fn add_lowest_heads(&self, table: &mut Table, scores: &Scores) -> Result<()> {
        let lowest = scores.heads().iter().rev();
        let lowest: Vec<HeadId> = lowest.map(|scored| scored.head).collect();
        for count in LOWEST {
            let outcome = self.trained(&lowest[..count])?;
            table.add(&format!("lowest {count}"), &outcome);
        }
        Ok(())
    }

    /// Random heads with trained coefficients, and top and random heads with fixed ones. The second result is that of the top heads.
    fn add_random_and_fixed(
        &self,
        table: &mut Table,
        scores: &Scores,
    ) -> Result<(RandomHeads, Outcome)> {
        let mut random = Random::new(self.arguments.seed, 1);
        let heads: Vec<HeadId> = self.model.shape().heads().collect();
        let draws: Vec<Vec<HeadId>> = (0..self.arguments.draws)
            .map(|_| random.sample(heads.iter().copied(), K))
            .collect();
        let mut trained = Vec::new();
        for draw in &draws {
            trained.push(self.trained(draw)?);
            table.tick("random heads");
        }
        table.add_mean(
            &format!("{} draws of {K} random heads", draws.len()),
            &trained,
        );
        let top_fixed = self.fixed(&scores.top(K))?;
        table.add(
            &format!("top {K}, all × {FIXED}, nothing learned"),
            &top_fixed,
        );
        let mut fixed = Vec::new();
        for draw in &draws {
            fixed.push(self.fixed(draw)?);
            table.tick("random heads, fixed");
        }
        table.add_mean(&format!("the same random heads, all × {FIXED}"), &fixed);
        Ok((RandomHeads { trained, fixed }, top_fixed))
    }

    /// Top heads by other scores.
    fn add_ways_to_score(&self, table: &mut Table) -> Result<()> {
        for (mode, ablation) in WAYS {
            let scores = self.scores(LocateOptions {
                mode,
                ablation,
                ..LocateOptions::default()
            })?;
            let outcome = self.trained(&scores.top(K))?;
            table.add(&format!("top {K} by {mode}, {ablation}"), &outcome);
        }
        Ok(())
    }

    /// The same fixed coefficient on all heads.
    fn fixed(&self, heads: &[HeadId]) -> Result<Outcome> {
        let coefficients: Vec<(HeadId, f32)> = heads.iter().map(|&head| (head, FIXED)).collect();
        self.outcome(&coefficients)
    }

    /// Ranked by score, as in the paper.
    fn scores(&self, options: LocateOptions) -> Result<Scores> {
        let options = LocateOptions {
            rank_by: RankBy::Score,
            ..options
        };
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

/// A high learning rate for few steps, as the models are small.
fn options() -> TrainOptions {
    TrainOptions {
        steps: 40,
        learning_rate: 0.02,
        ..TrainOptions::default()
    }
}

const HEADER: &str = "| heads | proxy accuracy | proxy loss | agreeing | conflicting | of these from memory | unseen | closed book | \
                      perplexity |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";

/// Indices of some columns.
const PROXY_LOSS: usize = 1;
const CONFLICTING: usize = 3;
const UNSEEN: usize = 5;
const PERPLEXITY: usize = 7;

/// The columns of the main table after the first.
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

/// Decimals of a column.
fn digits(column: usize) -> usize {
    if column == PROXY_LOSS || column == PERPLEXITY {
        2
    } else {
        1
    }
}

/// The model without coefficients.
fn first_row(before: &Outcome) -> String {
    let cells = columns(before).into_iter().enumerate();
    line(
        "before",
        cells.map(|(column, value)| format!("{value:.*}", digits(column))),
    )
}

/// An outcome, with the changes in parentheses.
fn row(name: &str, outcome: &Outcome, before: &Outcome) -> String {
    let pairs = columns(outcome).into_iter().zip(columns(before));
    line(
        name,
        pairs.enumerate().map(|(column, (value, before))| {
            let digits = digits(column);
            format!("{value:.digits$} ({:+.digits$})", value - before)
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

/// How random heads compare with the top heads, and what those are.
fn conclusions(
    scores: &Scores,
    pear: &Outcome,
    top_fixed: &Outcome,
    random: &RandomHeads,
) -> String {
    let highest = scores
        .heads()
        .iter()
        .take(5)
        .map(|scored| format!("{} {:+.2} %", scored.head, 100.0 * scored.score));
    let coefficients = pear
        .coefficients
        .iter()
        .map(|(head, value)| format!("{head} × {value:.2}"));
    format!(
        "\nRandom draws at or above the top {K} on conflicting documents: {} of {} trained, {} of {} fixed.\n\n\
         Highest scores: {}. Coefficients of the top {K}: {}.\n\n",
        count_as_good(&random.trained, pear),
        random.trained.len(),
        count_as_good(&random.fixed, top_fixed),
        random.fixed.len(),
        list(highest),
        list(coefficients),
    )
}

/// How many outcomes are at least as good as another on conflicting documents.
fn count_as_good(outcomes: &[Outcome], as_this: &Outcome) -> usize {
    let right = |outcome: &Outcome| share(&outcome.marks.right(Kind::Conflicting, None));
    outcomes
        .iter()
        .filter(|outcome| right(outcome) >= right(as_this))
        .count()
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
