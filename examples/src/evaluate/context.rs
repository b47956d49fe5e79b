//! Context against memory: facts with a contradicting statement, passages with another answer, key-value retrieval.

use anyhow::{Context, Result, bail};
use pear_models::evaluation::conflict::{self, Fact};
use pear_models::evaluation::kv::{self, KvQuestion};
use pear_models::evaluation::swap::{self, SwapQuestion};
use pear_models::evaluation::{ItemResult, PromptBuilder, Question};
use pear_models::{Decoder, Error};
use serde_json::{Map, json};

use super::measures::{MeasuredItems, measures};
use super::task::template;
use super::{Arguments, Format, Measured, Models};
use crate::progress::Progress;

/// What models are asked, and how long an answer may be.
#[derive(Clone, Debug)]
pub struct ContextItems {
    items: Items,
    /// In an answer that is generated.
    pub max_new_tokens: usize,
}

#[derive(Clone, Debug)]
enum Items {
    Conflict(Vec<Fact>),
    Swap(Vec<SwapQuestion>),
    Kv(Vec<KvQuestion>),
}

impl ContextItems {
    /// Reads the items of `--data`.
    ///
    /// # Errors
    /// A file that cannot be read, or without items that can be used.
    pub fn read(format: Format, arguments: &Arguments, prompts: &PromptBuilder) -> Result<Self> {
        let path = arguments.data.as_deref().context("--data is missing")?;
        let (items, max_new_tokens) = match format {
            Format::Conflict => {
                let facts = conflict::read(path, prompts, arguments.limit)?;
                (Items::Conflict(facts), 5)
            }
            Format::Swap => {
                let questions = swap::read(path, prompts, arguments.limit)?;
                (Items::Swap(questions), 24)
            }
            _ => {
                let defaults = kv::Options::default();
                let options = kv::Options {
                    template: template(arguments, kv::FIELDS)?.unwrap_or(defaults.template),
                    max_pairs: arguments.pairs,
                    num_groups: arguments.place_groups(),
                    limit: arguments.limit,
                };
                (Items::Kv(kv::read(path, prompts, &options)?), 100)
            }
        };
        let items = Self {
            items,
            max_new_tokens: arguments.max_new_tokens.unwrap_or(max_new_tokens),
        };
        if items.len() == 0 {
            bail!(
                "--data {}: no record can be used with this model's tokenizer",
                path.display()
            );
        }
        Ok(items)
    }

    fn len(&self) -> usize {
        match &self.items {
            Items::Conflict(facts) => facts.len(),
            Items::Swap(questions) => questions.len(),
            Items::Kv(questions) => questions.len(),
        }
    }

    /// Keeps the items that `baseline`, the unmodified model, is asked: of facts, those that it knows.
    ///
    /// # Errors
    /// An item that the model cannot read; no item that is left.
    pub fn choose(&mut self, baseline: &Decoder, batch_tokens: usize) -> Result<Measured> {
        let usable = self.len();
        let Items::Conflict(facts) = &mut self.items else {
            return Ok(Measured {
                table: String::new(),
                json: Map::from_iter([("items".into(), json!({"usable": usable}))]),
            });
        };
        let mut bar = Bar::new("closed book", usable);
        let facts_left =
            conflict::known(baseline, std::mem::take(facts), batch_tokens, || bar.step())?;
        let known = facts_left.len();
        if known == 0 {
            bail!(
                "--data: the model knows none of the {usable} facts: nothing contradicts its memory"
            );
        }
        *facts = facts_left;
        Ok(Measured {
            table: format!("\n{known} of {usable} facts are known to the model without PEAR\n"),
            json: Map::from_iter([("items".into(), json!({"usable": usable, "known": known}))]),
        })
    }

    /// The probability of the right tokens, by each model.
    ///
    /// # Errors
    /// An item that a model cannot read.
    pub fn likelihood(&self, models: &Models, batch_tokens: usize) -> Result<Measured> {
        let all = vec![String::new(); self.len()];
        match &self.items {
            Items::Conflict(facts) => score(models, 2 * facts.len(), all, |model, bar| {
                conflict::evaluate(model, facts, batch_tokens, || bar.step())
            }),
            Items::Swap(questions) => score(models, 3 * questions.len(), all, |model, bar| {
                swap::evaluate(model, questions, batch_tokens, || bar.step())
            }),
            Items::Kv(questions) => {
                let groups = questions.iter().map(|question| question.group.clone());
                score(models, questions.len(), groups.collect(), |model, bar| {
                    kv::evaluate(model, questions, batch_tokens, || bar.step())
                })
            }
        }
    }

    /// The items as questions to be answered by generation; `is_chat` if prompts are put into a chat template.
    pub fn questions(&self, is_chat: bool) -> Vec<Question> {
        match &self.items {
            Items::Conflict(facts) => conflict::questions(facts, self.max_new_tokens),
            Items::Swap(questions) => swap::questions(questions, self.max_new_tokens, is_chat),
            Items::Kv(questions) => kv::questions(questions, self.max_new_tokens),
        }
    }
}

/// Evaluates each model on the same items, of which each belongs to one of `groups`.
fn score<R: ItemResult + Clone>(
    models: &Models,
    steps: usize,
    groups: Vec<String>,
    evaluate: impl Fn(&Decoder, &mut Bar) -> Result<Vec<R>, Error>,
) -> Result<Measured> {
    let mut bar = Bar::new("scoring", steps * models.count());
    let mut by_model = Vec::new();
    for (name, model) in models.each() {
        by_model.push((name, evaluate(model, &mut bar)?));
    }
    Ok(measures(&MeasuredItems { by_model, groups }))
}

/// A progress bar that moves on by one prompt at a time.
struct Bar {
    bar: Progress,
    done: u64,
}

impl Bar {
    fn new(name: &str, total: usize) -> Self {
        Self {
            bar: Progress::new(name, total as u64),
            done: 0,
        }
    }

    /// One prompt more is done.
    fn step(&mut self) -> Result<(), Error> {
        self.done += 1;
        self.bar.set(self.done, "");
        Ok(())
    }
}
