//! Running a command: its errors, warnings and exit status.

use std::io::{ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::progress::print_above;

/// Exit status for wrong arguments or unusable input.
const UNUSABLE: u8 = 2;

/// Runs a command to its exit status: 0, or 2 with one line on standard error that says what was wrong with the input.
pub fn main_with<A: Parser>(command: impl FnOnce(A) -> Result<()>) -> ExitCode {
    crate::allocator::keep_pages();
    set_hook(Box::new(|panic| {
        let place = panic.location().map_or(String::new(), |place| {
            format!(" ({}:{})", place.file(), place.line())
        });
        let message = panic.payload_as_str().unwrap_or("of unknown cause");
        fail(&format!("internal error{place}: {message}"));
    }));
    crate::log::install();
    let arguments = match A::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            // --help and --version.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            fail(&usage_line(&error.render().to_string()));
            return ExitCode::from(UNUSABLE);
        }
    };
    match catch_unwind(AssertUnwindSafe(|| command(arguments))) {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&chain(&error)),
        // The hook has told.
        Err(_) => {}
    }
    ExitCode::from(UNUSABLE)
}

/// Prints a warning.
pub fn warn(message: &str) {
    print_above(&format!("warning: {}", one_line(message)));
}

fn fail(message: &str) {
    print_above(&format!("error: {}", one_line(message)));
}

/// What clap says on several lines, without the general advice below it.
fn usage_line(text: &str) -> String {
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let said = lines
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    said.strip_prefix("error: ")
        .unwrap_or(&said)
        .replace(" tip: ", "; tip: ")
}

/// An error and its causes, except those that it repeats itself.
fn chain(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .fold(String::new(), |said, cause| match said.as_str() {
            "" => cause,
            said if said.contains(&cause) => said.into(),
            said => format!("{said}: {cause}"),
        })
}

/// White space of any kind becomes single spaces, control characters vanish, and no line is endless.
fn one_line(message: &str) -> String {
    const LONGEST: usize = 1500;
    let words: Vec<&str> = message.split_whitespace().collect();
    let mut line: String = words
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST + 1)
        .collect();
    if line.chars().count() > LONGEST {
        line = line.chars().take(LONGEST).chain("…".chars()).collect();
    }
    line
}

/// Prints on standard output. A reader that has gone away is no error.
///
/// # Errors
/// Whatever else the system says.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output: cannot write"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_one_line() {
        let text = "error: the following required arguments were not provided:\n  --model <DIR>\n\nUsage: x --model <DIR>\n\nFor more";
        assert_eq!(
            usage_line(text),
            "the following required arguments were not provided: --model <DIR>"
        );
    }

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("no such file")
            .context("a.json: cannot read: no such file")
            .context("profile");
        assert_eq!(chain(&error), "profile: a.json: cannot read: no such file");
    }

    #[test]
    fn lines_have_no_control_characters_and_an_end() {
        assert_eq!(one_line("a\n\tb\u{1b}[2J"), "a b[2J");
        assert_eq!(one_line(&"x".repeat(5000)).chars().count(), 1501);
    }
}
