//! The whole way in one command: from a model to a verdict.

pub mod card;
pub mod front;
pub mod html;
mod number;
pub mod pages;
pub mod report;
mod theme;
