//! What `evaluate` measures of a model without and with coefficients: tables for people, JSON for programs.

mod arguments;
mod context;
mod measures;
mod proxy;
mod questions;
mod task;
mod text;
mod tiny_world;

use pear_core::{DecoderModel, Profile};
use pear_models::Decoder;
use pear_models::evaluation::{Estimate, PairedDifference};
use serde_json::{Map, Value};

pub use arguments::{Arguments, By, Format};
pub use context::ContextItems;
pub use proxy::proxy_task;
pub use questions::{OutputFile, QuestionReport};
pub use task::Task;
pub use text::text_cost;
pub use tiny_world::tiny_world;

/// One model, and the same with the coefficients of a profile if there is one.
#[derive(Debug)]
pub struct Models {
    /// Without coefficients.
    pub baseline: Decoder,
    /// With the coefficients folded into its weights.
    pub pear: Option<Decoder>,
}

impl Models {
    /// The names of the two models in files of results.
    pub const NAMES: [&str; 2] = ["baseline", "pear"];

    /// Makes the second model from a profile.
    ///
    /// # Errors
    /// A profile for another shape of model.
    pub fn new(baseline: Decoder, profile: Option<&Profile>) -> pear_core::Result<Self> {
        let pear = match profile {
            Some(profile) => Some(baseline.clone().with_profile(profile)?.fold()),
            None => None,
        };
        Ok(Self { baseline, pear })
    }

    /// The models by name, the baseline first.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &Decoder)> {
        let models = [Some(&self.baseline), self.pear.as_ref()];
        Self::NAMES
            .into_iter()
            .zip(models)
            .filter_map(|(name, model)| Some((name, model?)))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.each().count()
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.baseline.vocab_size()
    }
}

/// Results twice over.
#[derive(Clone, Debug)]
pub struct Measured {
    /// A table for people.
    pub table: String,
    /// The same for programs.
    pub json: Map<String, Value>,
}

impl Measured {
    /// Adds other results after these; those of a model stand beside the ones that it has.
    fn append(&mut self, other: Self) {
        self.table += &other.table;
        for (name, value) in other.json {
            match (self.json.get_mut(&name), value) {
                (Some(Value::Object(own)), Value::Object(value)) => own.extend(value),
                (_, value) => drop(self.json.insert(name, value)),
            }
        }
    }

    /// The same with the results of each model under a name.
    fn under(self, name: &str) -> Self {
        let json = self.json.into_iter();
        let json = json.map(|(model, value)| {
            (
                model,
                Value::Object(Map::from_iter([(name.to_owned(), value)])),
            )
        });
        Self {
            json: json.collect(),
            ..self
        }
    }
}

/// A model's name as it stands in tables.
fn shown_name(name: &str) -> &str {
    if name == "pear" { "PEAR" } else { name }
}

/// `41.2 % [38.0, 44.5]`.
fn estimate_cell(estimate: &Estimate) -> String {
    let [mean, low, high] = [estimate.mean, estimate.low, estimate.high].map(|x| 100.0 * x);
    format!("{mean:.1} % [{low:.1}, {high:.1}]")
}

/// `+3.1, p = 0.002`.
fn change_cell(change: &PairedDifference) -> String {
    format!(
        "{:+.1}, p = {}",
        100.0 * change.difference,
        p_value_text(change.p_value)
    )
}

/// A p-value in as many digits as mean something: `0.031`, `2e-9`.
pub fn p_value_text(p: f64) -> String {
    if p >= 0.001 {
        format!("{p:.3}")
    } else {
        format!("{p:.0e}")
    }
}
