//! The whole way in one command: from a model to a verdict.

pub mod report;
