//! The whole way in one command: locate, learn, compare, judge, save.
//!
//! ```sh
//! cargo run --release --example pear -- MODEL
//! ```

use std::process::ExitCode;

use pear_examples::{cli, pear};

fn main() -> ExitCode {
    cli::main_with_status(pear::run)
}
