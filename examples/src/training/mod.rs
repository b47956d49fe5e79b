//! Parts of the command `train`.

pub mod gradient_ranking;
pub mod heads;
pub mod log;
pub mod text;
