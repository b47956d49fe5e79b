//! What a run will take: memory, time, and what it will do.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use burn::tensor::DType;
use pear_models::ModelDirectory;

use super::copying;
use super::curriculum::{PASSAGES, PROMPTS};
use super::faithful::{ALL_STEPS, FISHER_DRAWS};
use super::held_out::CONTROLS;
use super::learning::{STEPS, batch_size};
use super::locating;
use super::questions::Fact;
use super::recipe::Recipe;
use super::source::Facts;
use crate::cli::{ModelArgs, duration, name_of};
use crate::machine::{EFFICIENCY, speed};
use crate::memory::available_memory;

/// Work of a step of learning, in forward passes.
const PASSES_A_STEP: f64 = 3.0;
/// The length that learning is estimated at.
const LENGTH: usize = 25;
/// Share of the facts that a model is expected to know.
const KNOWN: f64 = 0.5;
/// Tokens of the plain text that are read for each candidate, by both models, and for each of the points of a budget.
const TEXT_TOKENS: f64 = 3000.0;
/// Tokens of a passage in a chat template, of the plain text of a step of learning from questions, and of the text that the Fisher
/// information is estimated on.
const PASSAGE_TOKENS: f64 = 150.0;
const STEP_TEXT_TOKENS: f64 = 768.0;
const FISHER_TOKENS: f64 = 8192.0;

/// What a run is expected to take.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The model in words.
    pub model: String,
    /// Where it runs, and in which dtype.
    pub place: String,
    /// Bytes of the weights in memory.
    pub weights: u64,
    /// Bytes beside them.
    pub working: u64,
    /// Bytes that are free, where the system says.
    pub available: Option<u64>,
    /// Facts, and where they come from.
    pub questions: String,
    /// Identifiers of the candidates.
    pub candidates: Vec<String>,
    /// Expected seconds of each stage.
    pub seconds: Vec<(&'static str, f64)>,
}

impl Plan {
    /// Estimates a run. Weights are not loaded.
    ///
    /// # Errors
    /// A device that is not there.
    pub fn of(flags: &ModelArgs, directory: &ModelDirectory, facts: &Facts) -> Result<Self> {
        let dtype = flags.dtype(Some(directory))?;
        let shape = directory.shape();
        let parameters = directory.config().num_parameters();
        let recipes = Recipe::grid(shape.num_layers * shape.num_heads);
        let bytes = if dtype == DType::F32 { 4 } else { 2 };
        let speed = speed(&flags.device.open()?, dtype);
        let seconds_a_token = 2.0 * parameters as f64 / (EFFICIENCY * speed);
        let heads = shape.num_layers * shape.num_heads;
        Ok(Self {
            model: format!("{shape}, {:.0} M parameters", parameters as f64 / 1e6),
            place: format!("{} in {}", flags.device, name_of(dtype)),
            weights: parameters * bytes,
            working: pear_locate::LocateOptions::default().memory_budget as u64,
            available: flags.device.is_cpu().then(available_memory).flatten(),
            questions: format!("{} ({})", facts.facts.len(), facts.source),
            seconds: tokens(&recipes, heads, &facts.facts)
                .into_iter()
                .map(|(stage, tokens)| (stage, tokens * seconds_a_token))
                .collect(),
            candidates: recipes.into_iter().map(Recipe::id).collect(),
        })
    }

    /// Whether it does not fit into memory.
    pub fn is_too_large(&self) -> bool {
        self.available
            .is_some_and(|available| self.weights + self.working / 4 > available)
    }

    /// The plan as text.
    pub fn text(&self, out: &Path) -> String {
        let mut text = String::new();
        let available = self.available.map_or(String::new(), |available| {
            format!(", {} MiB are free", available >> 20)
        });
        let total: f64 = self.seconds.iter().map(|(_, seconds)| seconds).sum();
        let stages: Vec<String> = self
            .seconds
            .iter()
            .map(|(stage, seconds)| format!("{stage} {}", duration(*seconds)))
            .collect();
        let _ = write!(
            text,
            "model       {}\nruns on     {}\nmemory      {} MiB of weights, up to {} MiB beside them{available}\n\
             questions   {}\ncandidates  {}\ntime        about {}: {}\nresults     {}\n",
            self.model,
            self.place,
            self.weights >> 20,
            self.working >> 20,
            self.questions,
            self.candidates.join(", "),
            duration(total),
            stages.join(", "),
            out.display(),
        );
        text
    }
}

/// Work of each stage, in tokens that pass through the whole model.
fn tokens(recipes: &[Recipe], heads: usize, facts: &[Fact]) -> Vec<(&'static str, f64)> {
    let lengths = [10, 25, 50];
    let clean: usize = lengths.iter().map(|&n| 2 * n * locating::samples(n)).sum();
    let rows: usize = lengths.iter().map(|&n| heads * locating::samples(n)).sum();
    // A row of a head passes through the layers above it, half of them on average.
    let locate = clean as f64 + rows as f64 / 2.0;

    let step = (2 * LENGTH * batch_size(LENGTH)) as f64;
    // Where all heads are learned, there is text beside the sequences; a step of the natural gradient is a few of its steps.
    let ranked = recipes
        .iter()
        .filter(|recipe| matches!(recipe, Recipe::Ranked { .. }))
        .count();
    let learned = ranked as f64 + 2.5;
    let asked: usize = facts.iter().map(|fact| fact.closed.len() + 20).sum();
    let a_group = KNOWN * asked as f64;
    let candidates = recipes.len() as f64;
    let on_proxy_task = learned * STEPS as f64 * step;
    let a_prompt = asked as f64 / facts.len().max(1) as f64;
    let lesson = PROMPTS as f64 * a_prompt + PASSAGES as f64 * PASSAGE_TOKENS + STEP_TEXT_TOKENS;
    let from_questions = ALL_STEPS as f64 * lesson + FISHER_DRAWS as f64 * FISHER_TOKENS;
    let learning = (on_proxy_task + from_questions) * PASSES_A_STEP;
    let asking = candidates * (TEXT_TOKENS + 2.0 * 0.4 * a_group) + 20.0 * TEXT_TOKENS;
    let held_out = (2.0 * 3.0 + CONTROLS as f64) * 0.6 * a_group
        + (1.0 + CONTROLS as f64) * TEXT_TOKENS
        + 4000.0;
    vec![
        ("copying", copying::num_tokens() as f64),
        ("locating", locate),
        ("candidates", learning + asking),
        ("verdict", held_out + asked as f64),
    ]
}
