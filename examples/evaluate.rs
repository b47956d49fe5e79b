//! Measures question answering, context against memory, the proxy task or plain text, with and without coefficients.
//!
//! ```sh
//! cargo run --release --example evaluate -- --model DIR --profile profile.json --format mdqa --data nq-open.jsonl.gz --gold-position 0,4,9
//! cargo run --release --example evaluate -- --model DIR --profile profile.json --format conflict --data comp-mech.jsonl.gz
//! ```

use std::process::ExitCode;

use anyhow::Result;
use pear_core::files::{SequenceRecord, write_json};
use pear_examples::cli;
use pear_examples::evaluate::{Arguments, Models, Task, text_cost};
use pear_examples::memory::peak_memory;
use pear_models::ModelDirectory;
use pear_models::evaluation::TextWindows;
use serde_json::{Map, Value, json};

fn main() -> ExitCode {
    cli::main_with(run)
}

fn run(arguments: Arguments) -> Result<()> {
    let format = arguments.chosen_format()?;
    arguments.check(format)?;
    // Everything that can be wrong with the input is found before any weights are loaded.
    let directory = arguments.model.open()?;
    let profile = arguments
        .profile
        .as_ref()
        .map(|path| cli::read_profile(path, &directory))
        .transpose()?;
    let task = format
        .map(|format| Task::prepare(format, &arguments, &directory))
        .transpose()?;
    let text = arguments
        .text
        .as_ref()
        .map(|path| TextWindows::read(path, &directory, arguments.window))
        .transpose()?;

    let models = Models::new(arguments.model.load(&directory)?, profile.as_ref())?;
    cli::print(&format!("model     {}\n", directory.shape()))?;
    let mut results = Map::new();
    if let Some(task) = task {
        let measured = task.run(&arguments, &models)?;
        cli::print(&measured.table)?;
        results = measured.json;
    }
    if let Some(text) = &text {
        let cost = text_cost(text, arguments.text_limit, &models)?;
        results.insert("text".into(), cost);
    }
    let peak = peak_memory();
    if peak > 0 {
        cli::print(&format!("peak memory {} MiB\n", peak >> 20))?;
    }
    if let Some(out) = &arguments.out {
        results.insert("settings".into(), arguments.settings(format));
        results.insert("provenance".into(), provenance(&arguments, &directory)?);
        write_json(out, &results)?;
    }
    Ok(())
}

/// Where the results come from. The settings describe the sequences.
fn provenance(arguments: &Arguments, directory: &ModelDirectory) -> Result<Value> {
    let no_sequences = SequenceRecord::Drawn {
        bos: None,
        special: false,
    };
    let mut provenance = arguments.model.provenance(directory, no_sequences)?;
    provenance.sequences = None;
    Ok(json!(provenance))
}
