//! The stages, one after the other, each kept in the journal.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use pear_core::{DecoderModel, ProxyTask};
use pear_locate::Scores;
use pear_models::evaluation::TextReference;
use pear_models::{Decoder, ModelDirectory};

use super::arguments::Arguments;
use super::ask_user::{choose_candidate, go_on};
use super::candidates::{Trial, Tried};
use super::choice;
use super::copying::{self, training_length};
use super::encoder::Encoder;
use super::front::terminal_front;
use super::held_out::{CONTROLS, HeldOut, Measured};
use super::journal::{Identity, Journal};
use super::learning::{Learner, reweighted};
use super::locating::{self, head_grid, locate};
use super::measures::Answers;
use super::pages::write_pages;
use super::plain_text::{PlainText, num_tokens};
use super::preflight::Plan;
use super::questions::QuestionSet;
use super::recipe::Recipe;
use super::report::{
    AnswerPair, Choice, Coefficient, Copying, FORMAT, HeadGrid, ModelSummary, Outcome,
    QuestionCounts, Report, Settings, TextSummary, VERSION, Verdict,
};
use super::saving::{
    hash, hashes, make_empty, save_folded, save_profile, save_reproduction, storage,
};
use super::side_by_side::side_by_side;
use super::source::Facts;
use super::terminal;
use super::verdict::{judge, nothing_chosen};
use crate::cli;
use crate::memory::peak_memory;
use crate::proxy::Draw;

/// Folder of the profiles on the front.
const FRONT: &str = "front";
/// Exit status where the model is to be left alone.
const DO_NOT_SHIP: u8 = 3;

/// Runs the command.
///
/// # Errors
/// Input that cannot be used, a model that cannot copy, files that cannot be written.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let flags = arguments.model_args();
    let directory = flags.open()?;
    let encoder = Encoder::new(&directory)?;
    let facts = Facts::read(arguments.data.as_deref(), &directory, &encoder)?;
    let text = match &arguments.text {
        Some(path) => Some(PlainText::read(path, &directory)?),
        None => None,
    };
    let out = arguments.out();
    let plan = Plan::of(&flags, &directory, &facts)?;
    cli::print(&plan.text(&out))?;
    if plan.is_too_large() {
        cli::warn("this is more memory than is free");
    }
    if arguments.plan || !go_on(arguments.yes)? {
        return Ok(ExitCode::SUCCESS);
    }
    let identity = identity(&arguments, &directory)?;
    let journal = Journal::open(&out, &identity)?;
    let model = flags.load(&directory)?;
    let draw = Draw {
        seed: arguments.seed,
        bos: false,
        special: false,
    };
    let stages = Stages {
        arguments: &arguments,
        encoder,
        task: draw.task(&directory)?,
        directory: &directory,
        model: &model,
        journal: &journal,
        identity,
    };
    let outcome = stages.run(&facts, text)?;
    cli::print(&terminal::cost(&journal.seconds(), peak_memory()))?;
    Ok(match outcome {
        Outcome::Ship => ExitCode::SUCCESS,
        Outcome::DoNotShip => ExitCode::from(DO_NOT_SHIP),
    })
}

fn identity(arguments: &Arguments, directory: &ModelDirectory) -> Result<Identity> {
    let dtype = arguments.model_args().dtype(Some(directory))?;
    let hash_of = |path: &Option<std::path::PathBuf>| path.as_deref().map(hash).transpose();
    Ok(Identity {
        pear_version: env!("CARGO_PKG_VERSION").into(),
        weights: directory.fingerprint().into(),
        tokenizer: directory.tokenizer_fingerprint()?,
        dtype: cli::name_of(dtype),
        device: arguments.device.to_string(),
        seed: arguments.seed,
        data: hash_of(&arguments.data)?,
        text: hash_of(&arguments.text)?,
    })
}

/// What all stages need.
struct Stages<'a> {
    arguments: &'a Arguments,
    encoder: Encoder,
    task: ProxyTask,
    directory: &'a ModelDirectory,
    model: &'a Decoder,
    journal: &'a Journal,
    identity: Identity,
}

impl Stages<'_> {
    fn run(&self, facts: &Facts, text: Option<PlainText>) -> Result<Outcome> {
        let copying = self.copying()?;
        let questions = self.questions(facts)?;
        let text = self.text(text)?;
        let scores = self.locate(&copying)?;
        let heads = head_grid(&scores);
        cli::print(&terminal::heads(&heads))?;
        let baseline = self.journal.step("development-unmodified", || {
            Answers::of(self.model, &questions.development, false)
        })?;
        let tried = self.candidates(&copying, &heads, &questions, &baseline, &text)?;
        let front = choice::front(&tried, &baseline);
        let rule = choice::choose(&tried, &front, &baseline);
        let mut report = Report {
            format: FORMAT.into(),
            version: VERSION,
            model: self.model_summary(),
            settings: self.settings(),
            copying,
            heads,
            questions: counts(&questions),
            text: TextSummary {
                source: text.source.clone(),
                development_tokens: num_tokens(&text.development),
                held_out_tokens: num_tokens(&text.held_out),
            },
            baseline: baseline.measures(),
            candidates: tried.into_iter().map(|tried| tried.candidate).collect(),
            front,
            choice: rule,
            // Until the held-out questions are asked.
            verdict: nothing_chosen("nothing was judged"),
            answers: Vec::new(),
            files: Vec::new(),
        };
        cli::print(&format!("\n{}", terminal_front(&report)))?;
        report.choice = self.choose(&report)?;
        (report.verdict, report.answers) = self.verdict(&report, &questions, &text)?;
        cli::print(&terminal::verdict(&report.verdict))?;
        self.save(report, &scores)
    }

    fn copying(&self) -> Result<Vec<Copying>> {
        let positions = self.directory.config().max_positions();
        let copying = self.journal.step("copying", || {
            copying::measure(self.model, &self.task, positions)
        })?;
        cli::print(&terminal::copying(&copying))?;
        Ok(copying)
    }

    fn questions(&self, facts: &Facts) -> Result<QuestionSet> {
        let questions = self.journal.step("questions", || {
            QuestionSet::of(&facts.source, &facts.facts, self.model)
        })?;
        cli::print(&format!(
            "\nquestions   {}: {} facts, of which the model knows {}: {} for development, {} held out\n",
            questions.source,
            questions.facts,
            questions.known,
            questions.development.conflicting.len(),
            questions.held_out.conflicting.len()
        ))?;
        Ok(questions)
    }

    fn text(&self, text: Option<PlainText>) -> Result<PlainText> {
        let text = match text {
            Some(text) => text,
            None => self.journal.step("text", || {
                let seed = self.arguments.seed;
                PlainText::made(self.model, self.directory, &self.encoder, seed)
            })?,
        };
        cli::print(&format!(
            "text        {}: {} tokens to learn from, {} for development, {} held out\n",
            text.source,
            num_tokens(&text.learning),
            num_tokens(&text.development),
            num_tokens(&text.held_out)
        ))?;
        Ok(text)
    }

    fn locate(&self, copying: &[Copying]) -> Result<Scores> {
        let recipes = self.recipes();
        let count = recipes.iter().filter_map(|recipe| recipe.num_located());
        let count = count.max().unwrap_or(1);
        let scores = self.journal.step("scores", || {
            let mut scores = locate(self.model, &self.task, copying, count, self.journal)?;
            scores.provenance = self.directory.provenance(self.model.dtype())?;
            Ok(scores)
        })?;
        self.journal.remove(locating::PARTIAL)?;
        Ok(scores)
    }

    fn candidates(
        &self,
        copying: &[Copying],
        heads: &HeadGrid,
        questions: &QuestionSet,
        baseline: &Answers,
        text: &PlainText,
    ) -> Result<Vec<Tried>> {
        let development = TextReference::new(self.model, &text.development);
        let trial = Trial {
            learner: Learner {
                model: self.model,
                task: &self.task,
                length: training_length(copying),
                text: &text.learning,
                seed: self.arguments.seed,
                journal: self.journal,
            },
            ranked: &heads.ranked,
            curriculum: &questions.learning,
            questions: &questions.development,
            baseline,
            text: &development,
        };
        let measures = baseline.measures();
        cli::print(&terminal::candidates_head(&measures))?;
        let mut tried = Vec::new();
        for recipe in self.recipes() {
            let step = format!("candidate-{}", recipe.id());
            let one = self.journal.step(&step, || trial.run(recipe))?;
            cli::print(&terminal::candidate_line(&one.candidate, &measures))?;
            tried.push(one);
        }
        Ok(tried)
    }

    fn recipes(&self) -> Vec<Recipe> {
        let shape = self.model.shape();
        Recipe::grid(shape.num_layers * shape.num_heads)
    }

    /// By the rule; a person at a terminal may choose otherwise, once.
    fn choose(&self, report: &Report) -> Result<Choice> {
        let choice = self.journal.step("choice", || {
            choose_candidate(
                report.choice.clone(),
                &report.candidates,
                self.arguments.yes,
            )
        })?;
        let name = choice.candidate.as_deref();
        cli::print(&format!(
            "\nrule        {}\nchosen      {}: {}\n",
            choice.rule,
            name.unwrap_or("leave the model alone"),
            choice.reason
        ))?;
        Ok(choice)
    }

    fn verdict(
        &self,
        report: &Report,
        questions: &QuestionSet,
        text: &PlainText,
    ) -> Result<(Verdict, Vec<AnswerPair>)> {
        let Some(chosen) = report.chosen() else {
            return Ok((nothing_chosen(&report.choice.reason), Vec::new()));
        };
        let coefficients = &chosen.coefficients;
        let text = TextReference::new(self.model, &text.held_out);
        let held_out = HeldOut {
            model: self.model,
            questions: &questions.held_out,
            text: &text,
        };
        let journal = self.journal;
        let before = journal.step("held-out-unmodified", || held_out.baseline())?;
        let after = journal.step("held-out-chosen", || held_out.chosen(coefficients))?;
        let controls = (0..CONTROLS)
            .map(|draw| {
                journal.step(&format!("held-out-random-{draw}"), || {
                    held_out.control(coefficients, self.arguments.seed, draw)
                })
            })
            .collect::<Result<Vec<Measured>>>()?;
        let answers = journal.step("answers", || {
            let chosen = reweighted(self.model, coefficients)?;
            side_by_side(
                [self.model, &chosen],
                &self.encoder,
                self.directory.eos_tokens()?,
                held_out.questions,
                [&before, &after.answers],
            )
        })?;
        Ok((judge(&before, &after, &controls), answers))
    }

    fn model_summary(&self) -> ModelSummary {
        let shape = self.model.shape();
        ModelSummary {
            name: self.arguments.model_name(),
            architecture: shape.architecture.clone(),
            num_layers: shape.num_layers,
            num_heads: shape.num_heads,
            num_parameters: burn::module::Module::num_params(self.model) as u64,
            vocab_size: self.model.vocab_size(),
            storage: storage(self.directory),
            dtype: self.identity.dtype.clone(),
            device: self.identity.device.clone(),
            weights: self.identity.weights.clone(),
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            seed: self.arguments.seed,
            command: self.arguments.command(),
            pear_version: self.identity.pear_version.clone(),
        }
    }

    /// Writes the files: the folded model and its profile where it is to be used, the report in any case.
    fn save(&self, mut report: Report, scores: &Scores) -> Result<Outcome> {
        let out = self.journal.out();
        let outcome = report.verdict.outcome;
        let profile = |path: &Path, coefficients: &[Coefficient]| {
            let of_heads = scores.heads().iter();
            let scores = of_heads.map(|scored| (scored.head, scored.score));
            save_profile(path, coefficients, self.model, self.directory, scores)
        };
        self.journal.step("front-profiles", || {
            let folder = out.join(FRONT);
            make_empty(&folder)?;
            for point in report.candidates.iter() {
                if report.front.contains(&point.id) {
                    let path = folder.join(format!("{}.json", point.id));
                    profile(&path, &point.coefficients)?;
                }
            }
            Ok(())
        })?;
        if outcome == Outcome::Ship {
            let Some(chosen) = report.chosen() else {
                bail!("nothing was chosen");
            };
            self.journal.step("saved", || {
                let profile = profile(&out.join("profile.json"), &chosen.coefficients)?;
                save_folded(self.journal, &profile, self.directory)
            })?;
        }
        report.files = hashes(out)?
            .into_iter()
            .filter(|file| {
                let name = &file.name;
                name == "profile.json"
                    || name.starts_with("folded")
                    || Path::new(name).starts_with(FRONT)
            })
            .collect();
        report.write(&out.join("report.json"))?;
        write_pages(&report, out)?;
        save_reproduction(
            out,
            report.settings.clone(),
            self.identity.clone(),
            report.choice.candidate.clone(),
        )?;
        cli::print(&format!(
            "{}\nresults in {}\n",
            terminal::answers(&report),
            out.display()
        ))?;
        Ok(outcome)
    }
}

fn counts(questions: &QuestionSet) -> QuestionCounts {
    QuestionCounts {
        source: questions.source.clone(),
        facts: questions.facts,
        known: questions.known,
        development: questions.development.conflicting.len(),
        held_out: questions.held_out.conflicting.len(),
    }
}
