//! The example `pear` as a program to install: `cargo install --path examples --bin pear`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pear_examples::pear::main()
}
