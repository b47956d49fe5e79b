//! What the commands share: flags, checks of files, errors, warnings and exit status.

mod files;
mod model;
mod options;
mod row_budget;
mod run;
mod top_k;

pub use files::{Outputs, check_out, parent, read_profile, warn_of_mismatches};
pub use model::{Dtype, LayerPlace, ModelArgs, duration, half_of, name_of, stream_summary};
pub use options::{check_text_limit, option_error};
pub use row_budget::RowBudget;
pub use run::{main_with, main_with_from, main_with_status, print, warn};
pub use top_k::TopK;
