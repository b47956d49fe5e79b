//! Runs of a trainer that are stopped, and what they save.

use std::ops::ControlFlow;
use std::path::Path;

use pear_train::{Error, Sequences, StepReport, Trainer};

use super::Small;

/// Runs on until `stop` steps are done and returns those taken.
pub fn run(trainer: &mut Trainer<&Small>, stop: usize) -> Vec<StepReport> {
    let sequences = Sequences::Drawn(trainer.model().task());
    let mut steps = Vec::new();
    let each = |trainer: &Trainer<&Small>, step: &StepReport| {
        steps.push(step.clone());
        Ok::<_, Error>(if trainer.steps_done() < stop {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    };
    trainer.run_with(&sequences, each).unwrap();
    steps
}

/// The file of a trainer's state.
pub fn saved(trainer: &Trainer<&Small>, path: &Path) -> String {
    trainer.save(path).unwrap();
    std::fs::read_to_string(path).unwrap()
}
