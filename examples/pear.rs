//! The whole way in one command: locate, learn, compare, judge, save.
//!
//! ```sh
//! cargo run --release --example pear -- MODEL
//! ```

use std::process::ExitCode;

fn main() -> ExitCode {
    pear_examples::pear::main()
}
