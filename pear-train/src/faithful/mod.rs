#![doc = include_str!("../../docs/faithful.md")]

mod batch;
mod items;
mod loss;
mod momentum;
mod options;
mod report;
mod state;
mod trainer;
mod whitening;

pub use items::{Goal, Item, ItemGroup};
pub use loss::{ItemLoss, item_losses, item_losses_and_gradients, log_probs};
pub use options::{FaithfulOptions, Stage};
pub use report::{FaithfulStep, FrontPoint, GroupLoss};
pub use trainer::FaithfulTrainer;
