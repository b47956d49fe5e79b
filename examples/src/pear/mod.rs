//! The whole way in one command: from a model to a verdict on re-weighting its heads.
//!
//! [`run`] takes the stages in order (see `pipeline`): a plan; whether the model can copy (`copying`); the questions that it knows the
//! answers to (`questions`, from `facts`, `source` or `data_file`); the scores of its heads (`locating`); candidates (`recipe`, `learning`,
//! `candidates`), their front and the choice of one (`choice`); the `verdict` on questions that nothing was chosen by; and the files
//! (`saving`, [`report`]). Each stage leaves its result in the `journal`.

mod arguments;
mod ask_user;
mod candidates;
pub mod card;
pub mod chat;
mod choice;
mod copying;
mod data_file;
mod encoder;
mod facts;
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

pub use arguments::Arguments;
pub use pipeline::run;
