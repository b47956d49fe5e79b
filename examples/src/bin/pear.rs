//! The example `pear` as a program to install: `cargo install --path examples --bin pear`.

use std::process::ExitCode;

use pear_examples::{cli, pear};

fn main() -> ExitCode {
    cli::main_with_status(pear::run)
}
