//! The whole way in one command: from a model to a verdict on re-weighting its heads.
//!
//! [`run`] takes the stages in order (see `pipeline`): a plan; whether the model can copy (`copying`); the questions that it knows the
//! answers to (`questions`, from `facts`, `source` or `data_file`), and what can be learned from them (`curriculum`); the scores of its heads
//! (`locating`); candidates (`recipe`, `learning`, `faithful`, `candidates`), their front and the choice of one (`choice`); the `verdict` on questions that nothing was chosen by; and the files
//! (`saving`, [`report`]). Each stage leaves its result in the `journal`.

mod arguments;
mod ask_user;
mod candidates;
pub mod card;
pub mod chat;
mod choice;
mod copying;
mod curriculum;
mod data_file;
mod encoder;
mod facts;
mod faithful;
pub mod front;
mod held_out;
pub mod html;
mod journal;
mod learning;
mod locating;
mod measures;
mod next_token;
mod number;
pub mod pages;
mod pipeline;
mod plain_text;
mod preflight;
mod questions;
mod recipe;
pub mod report;
mod saving;
mod side_by_side;
mod source;
mod terminal;
mod theme;
mod verdict;

use std::process::ExitCode;

use clap::Parser;

use crate::cli;

pub use arguments::Arguments;
pub use pipeline::run;

/// `pear chat`.
#[derive(Parser, Debug)]
#[command(
    name = "pear chat",
    about = "Talk to a model before and after, side by side"
)]
struct Chat {
    #[command(flatten)]
    arguments: chat::ChatArgs,
}

/// The program: `pear MODEL`, or `pear chat MODEL --profile FILE`.
pub fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == "chat")
    {
        let after_name = std::env::args_os().skip(1);
        return cli::main_with_from(after_name, |chat: Chat| chat::run(&chat.arguments));
    }
    cli::main_with_status(run)
}
