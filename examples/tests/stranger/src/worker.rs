//! Long work in a thread: it owns its model, can be cancelled at any layer, and fails with an error of this program.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pear_core::{HeadId, ProxyTask};
use pear_locate::{Event, LocateOptions, Locator, Outcome, Report, proxy_batches};
use pear_models::Decoder;
use pear_train::{Sequences, TrainOptions, Trainer};

/// Any error of this program.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Locates heads and learns their coefficients.
pub struct Worker {
    locator: Locator<Arc<Decoder>>,
    task: ProxyTask,
    cancel: AtomicBool,
}

impl Worker {
    pub fn new(model: Arc<Decoder>, task: ProxyTask) -> Self {
        Self {
            locator: Locator::new(model, LocateOptions::default()),
            task,
            cancel: AtomicBool::new(false),
        }
    }

    pub fn run(&self) -> Result<Trainer<Arc<Decoder>>, Failure> {
        let heads = self.locate()?.scores.top(2);
        println!("located {heads:?}");
        self.train(&heads)
    }

    /// Scores all heads: cancelled in the middle of a length, resumed after a finished one, and to the end in one go.
    fn locate(&self) -> Result<Report, Failure> {
        let batches = proxy_batches(&self.task, &[(6, 8), (10, 8)])?;

        self.cancel.store(true, Ordering::Relaxed);
        let Outcome::Cancelled(finished) = self.locator.run_with(&batches, |_| self.go_on())?
        else {
            return Err("locating went on after it was cancelled".into());
        };
        if !finished.is_empty() {
            return Err("a length was finished within one layer".into());
        }
        self.cancel.store(false, Ordering::Relaxed);

        let outcome = self.locator.run_with(&batches, |event| {
            if let Event::LengthFinished(_) = event {
                self.cancel.store(true, Ordering::Relaxed);
            }
            self.go_on()
        })?;
        let Outcome::Cancelled(finished) = outcome else {
            return Err("locating went on after a length".into());
        };
        self.cancel.store(false, Ordering::Relaxed);

        let whole = self.locator.run(&batches)?;
        let resumed = self.locator.clone().with_finished(finished).run(&batches)?;
        if whole.scores.heads() != resumed.scores.heads() {
            return Err("resuming changed the scores".into());
        }
        Ok(whole)
    }

    fn go_on(&self) -> Result<ControlFlow<()>, Failure> {
        Ok(if self.cancel.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }

    /// Learns coefficients; the trainer outlives this function, and the thread.
    fn train(&self, heads: &[HeadId]) -> Result<Trainer<Arc<Decoder>>, Failure> {
        let options = TrainOptions {
            steps: 4,
            batch_size: 4,
            length: 10,
            learning_rate: 0.02,
            ..TrainOptions::default()
        };
        let sequences = Sequences::Drawn(self.task.clone());
        let mut trainer = Trainer::new(self.locator.model().clone(), heads, options)?;

        let stopped = trainer.run_with(&sequences, |_, step| {
            if step.step == 1 {
                return Err(Failure::from("enough for now"));
            }
            Ok(ControlFlow::Continue(()))
        });
        match stopped {
            Err(e) if e.to_string() == "enough for now" => {}
            other => return Err(format!("not this program's own error: {other:?}").into()),
        }
        trainer.run(&sequences)?;
        if trainer.steps_done() != 4 {
            return Err("the trainer did not go on where it was".into());
        }
        Ok(trainer)
    }
}
