//! What a run of `pear` found: the contents of `report.json`, from which the pages and pictures are drawn.
//!
//! Nothing in it depends on the time or the machine's speed: the same command ends with the same bytes. Every number is finite; what was
//! not measured is absent. Log-probabilities are natural, KL divergences in nats a token, shares between 0 and 1.

use std::path::Path;

use anyhow::{Context, Result, bail};
use pear_core::HeadId;
use pear_core::files::write_json;
use pear_models::evaluation::{Estimate, PairedDifference, TextDivergence};
use serde::{Deserialize, Serialize};

/// Value of [`Report::format`].
pub const FORMAT: &str = "pear-report";
/// Value of [`Report::version`].
pub const VERSION: u32 = 1;

/// Everything that a run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The unmodified model.
    pub model: ModelSummary,
    /// What was asked for.
    pub settings: Settings,
    /// Whether the model can copy, by length, shortest first.
    pub copying: Vec<Copying>,
    /// The score of every head.
    pub heads: HeadGrid,
    /// The questions.
    pub questions: QuestionCounts,
    /// The plain text that divergences are measured on.
    pub text: TextSummary,
    /// The unmodified model on the development questions.
    pub baseline: Measures,
    /// Every candidate that was tried, in the order in which they were.
    pub candidates: Vec<Candidate>,
    /// Identifiers of the candidates on the Pareto front (faithfulness to conflicting contexts against KL), smallest KL first. The
    /// unmodified model is on it, too, and not listed.
    pub front: Vec<String>,
    /// What was chosen on the development questions.
    pub choice: Choice,
    /// What the held-out questions say of it.
    pub verdict: Verdict,
    /// Answers of the unmodified and the chosen model to some held-out questions.
    pub answers: Vec<AnswerPair>,
    /// The files that were saved before this report, by name.
    pub files: Vec<FileHash>,
}

/// The unmodified model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSummary {
    /// What it is called: the name of its directory or file.
    pub name: String,
    /// The architecture, such as `llama`.
    pub architecture: String,
    /// Number of layers.
    pub num_layers: usize,
    /// Number of query heads in each layer.
    pub num_heads: usize,
    /// Number of parameters.
    pub num_parameters: u64,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// How its weights are stored.
    pub storage: Storage,
    /// The dtype that it was run in.
    pub dtype: String,
    /// The device that it was run on.
    pub device: String,
    /// Fingerprint of its weights.
    pub weights: String,
}

/// How weights are stored; they are saved as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// A Hugging Face directory with safetensors files.
    HuggingFace,
    /// A GGUF file.
    Gguf,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// The command, to be run again.
    pub command: String,
    /// Version of this program.
    pub pear_version: String,
}

/// The proxy task at one length: n random tokens, repeated once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copying {
    /// Number n of random tokens.
    pub n: usize,
    /// Number of sequences.
    pub samples: usize,
    /// Share of positions in the second half whose next token the model finds most likely.
    pub accuracy: f64,
    /// Whether heads were located at this length.
    pub used: bool,
}

/// The score of every head, `[layer][head]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadGrid {
    /// The metric, such as `logit-ratio`.
    pub metric: String,
    /// What heads are ranked by: `score` or `z`.
    pub ranked_by: String,
    /// The scores, `[layer][head]`; positive: the model copies better without the head.
    pub scores: Vec<Vec<f64>>,
    /// Their standard errors.
    pub errors: Vec<Vec<f64>>,
    /// The heads in the order of their rank, as many as the largest candidate needs.
    pub ranked: Vec<HeadId>,
}

/// Where the questions come from, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionCounts {
    /// `built-in facts`, `tiny world` or the name of a file.
    pub source: String,
    /// Facts that were read.
    pub facts: usize,
    /// Those that the model knows by heart: the others cannot conflict with its memory.
    pub known: usize,
    /// Known facts in the development set.
    pub development: usize,
    /// Known facts in the held-out set.
    pub held_out: usize,
}

/// The plain text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSummary {
    /// Name of a file, `built-in text`, or `the model's own samples`.
    pub source: String,
    /// Tokens in the development part.
    pub development_tokens: usize,
    /// Tokens in the held-out part.
    pub held_out_tokens: usize,
}

/// A model on the development questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Conflicting contexts: share of questions for which the context's answer is more likely than the memorised one.
    pub conflicting: Estimate,
    /// Mean log-probability of the context's answer there.
    pub conflicting_log_prob: f64,
    /// Agreeing contexts: share of questions whose answer is the most likely one.
    pub agreeing: Estimate,
    /// Mean log-probability of that answer.
    pub agreeing_log_prob: f64,
}

/// A way to set the coefficients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Short identifier, such as `rank-10` or `all-kl-40`.
    pub id: String,
    /// What it is, in a few words.
    pub description: String,
    /// How its coefficients came about.
    pub kind: CandidateKind,
    /// The coefficients that differ from 1.
    pub coefficients: Vec<Coefficient>,
    /// Cost on the development text.
    pub divergence: TextDivergence,
    /// Answers to the development questions; absent if it was dropped before.
    pub measures: Option<Measures>,
    /// Why it was dropped; absent if it was not.
    pub dropped: Option<String>,
}

/// How the coefficients of a candidate came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CandidateKind {
    /// Learned for the first heads of the ranking.
    Ranked,
    /// The same number for the first heads of the ranking.
    Fixed,
    /// Learned for all heads, with a price on the divergence from the unmodified model.
    AllHeads,
}

/// The coefficient of one head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coefficient {
    /// The head.
    pub head: HeadId,
    /// What its output is multiplied by.
    pub value: f64,
}

/// What was chosen on the development questions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Identifier of the candidate; absent: leave the model alone.
    pub candidate: Option<String>,
    /// The rule, stated before the measurements.
    pub rule: String,
    /// How it came to this choice.
    pub reason: String,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Use the re-weighted model: exit status 0.
    Ship,
    /// Leave the model alone: exit status 3.
    DoNotShip,
}

/// What the held-out questions say of the choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What to do.
    pub outcome: Outcome,
    /// One sentence that says why.
    pub summary: String,
    /// What had to hold, in order; empty where nothing was chosen.
    pub checks: Vec<Check>,
    /// Conflicting, agreeing and closed-book questions; empty where nothing was chosen.
    pub groups: Vec<GroupComparison>,
    /// Accuracy lost on items that were right and whose context agrees.
    pub neutral_regression: Option<NeutralRegression>,
    /// Cost on the held-out text.
    pub divergence: Option<TextDivergence>,
    /// Random heads, as many as were chosen, with the same coefficients.
    pub controls: Vec<Control>,
    /// Conflicting questions: the chosen heads against the mean of the controls (before: the controls).
    pub against_controls: Option<PairedDifference>,
}

/// One condition of the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What had to hold.
    pub condition: String,
    /// What was found.
    pub found: String,
    /// Whether it holds.
    pub holds: bool,
}

/// The questions of one group, answered by both models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupComparison {
    /// `conflicting`, `agreeing` or `closed book`.
    pub group: String,
    /// What is counted.
    pub counted: String,
    /// Share for the unmodified model.
    pub before: Estimate,
    /// Share for the chosen one.
    pub after: Estimate,
    /// The change, with McNemar's exact test.
    pub change: PairedDifference,
    /// Log-probability of the right answer.
    pub log_prob: LogProbChange,
}

/// How the mean log-probability of the right answers changed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogProbChange {
    /// Mean for the unmodified model.
    pub before: f64,
    /// Mean for the chosen one.
    pub after: f64,
    /// The mean difference.
    pub difference: f64,
    /// Lower end of its 95 % confidence interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// Accuracy lost where there was nothing to gain.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeutralRegression {
    /// Questions with an agreeing context that the unmodified model answers right.
    pub right_before: usize,
    /// Those that the chosen model answers wrong.
    pub lost: usize,
    /// Their share.
    pub share: Estimate,
}

/// Random heads instead of the chosen ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// The draw, from 0.
    pub draw: u64,
    /// The heads with the coefficients that they got.
    pub coefficients: Vec<Coefficient>,
    /// Cost on the held-out text.
    pub divergence: TextDivergence,
    /// Share of the conflicting questions answered from the context.
    pub conflicting: Estimate,
    /// Its change from the unmodified model.
    pub change: PairedDifference,
}

/// One held-out question with the answers of both models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerPair {
    /// `conflicting` or `agreeing`.
    pub group: String,
    /// What the models read.
    pub prompt: String,
    /// The answer in the context.
    pub context_answer: String,
    /// The answer that the model knows by heart.
    pub memory_answer: String,
    /// How the unmodified model went on.
    pub before: String,
    /// How the chosen one went on.
    pub after: String,
}

/// A file of the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHash {
    /// Its name below the output folder, with `/`.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3, in hexadecimal.
    pub blake3: String,
}

impl Report {
    /// The candidate with an identifier.
    pub fn candidate(&self, id: &str) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.id == id)
    }

    /// The chosen candidate, if the choice is not to leave the model alone.
    pub fn chosen(&self) -> Option<&Candidate> {
        self.candidate(self.choice.candidate.as_deref()?)
    }

    /// Reads a report.
    ///
    /// # Errors
    /// A file that cannot be read, is not a report, or is one of another version; the file is named.
    pub fn read(path: &Path) -> Result<Self> {
        let name = || path.display().to_string();
        let text = std::fs::read(path).with_context(|| format!("{}: cannot read", name()))?;
        let report: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{}: expected a report of `pear`", name()))?;
        if report.format != FORMAT || report.version != VERSION {
            bail!(
                "{}: format {} version {}: expected {FORMAT} version {VERSION}",
                name(),
                report.format,
                report.version
            );
        }
        Ok(report)
    }

    /// Writes the report, beside the old file first.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(write_json(path, self)?)
    }
}
