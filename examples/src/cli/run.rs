//! Running a command: its errors, warnings and exit status.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Context, Result};
use clap::Parser;

use crate::progress::print_above;

/// Exit status for wrong arguments or unusable input.
const UNUSABLE: u8 = 2;

/// What the last panic said.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Runs a command. Its exit status is 0; or 2 with one line on standard error that says what is wrong with the input.
pub fn main_with<A: Parser>(command: impl FnOnce(A) -> Result<()>) -> ExitCode {
    main_with_status(|arguments| command(arguments).map(|()| ExitCode::SUCCESS))
}

/// Same as [`main_with`], for a command with an exit status of its own where it succeeds.
pub fn main_with_status<A: Parser>(command: impl FnOnce(A) -> Result<ExitCode>) -> ExitCode {
    run(std::env::args_os(), command)
}

/// Same as [`main_with`], for the arguments of a subcommand, its name being the first.
pub fn main_with_from<A: Parser>(
    arguments: impl IntoIterator<Item = OsString>,
    command: impl FnOnce(A) -> Result<()>,
) -> ExitCode {
    run(arguments, |arguments| {
        command(arguments).map(|()| ExitCode::SUCCESS)
    })
}

fn run<A: Parser>(
    arguments: impl IntoIterator<Item = OsString>,
    command: impl FnOnce(A) -> Result<ExitCode>,
) -> ExitCode {
    crate::allocator::keep_pages();
    // A panic is printed where it ends the command: a library may catch those of another library.
    set_hook(Box::new(|panic| {
        let location = panic.location().map_or(String::new(), |location| {
            format!(" ({}:{})", location.file(), location.line())
        });
        let message = panic.payload_as_str().unwrap_or("unknown cause");
        if let Ok(mut last) = LAST_PANIC.lock() {
            *last = Some(format!("internal error{location}: {message}"));
        }
    }));
    crate::log::install();
    let arguments = match A::try_parse_from(arguments) {
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
        Ok(Ok(status)) => return status,
        Ok(Err(error)) => fail(&chain(&error)),
        Err(_) => {
            let last = LAST_PANIC.lock().ok().and_then(|mut last| last.take());
            fail(&last.unwrap_or_else(|| "internal error".into()));
        }
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

/// An error message of clap on one line, without the usage and advice below it.
fn usage_line(text: &str) -> String {
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let message = lines
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    message
        .strip_prefix("error: ")
        .unwrap_or(&message)
        .replace(" tip: ", "; tip: ")
}

/// An error followed by its causes, without those that it contains already.
fn chain(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .fold(String::new(), |message, cause| {
            if message.is_empty() {
                cause
            } else if message.contains(&cause) {
                message
            } else {
                format!("{message}: {cause}")
            }
        })
}

/// A message on one line of bounded length: white space is collapsed to single spaces, control characters are removed.
fn one_line(message: &str) -> String {
    const MAX_CHARS: usize = 1500;
    let words: Vec<&str> = message.split_whitespace().collect();
    let mut line: String = words
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_CHARS + 1)
        .collect();
    if line.chars().count() > MAX_CHARS {
        line = line.chars().take(MAX_CHARS).chain("…".chars()).collect();
    }
    line
}

/// Prints to standard output. A broken pipe is ignored.
///
/// # Errors
/// Any other failure to write.
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
    fn repeated_causes_are_left_out() {
        let error = anyhow::anyhow!("no such file")
            .context("a.json: cannot read: no such file")
            .context("profile");
        assert_eq!(chain(&error), "profile: a.json: cannot read: no such file");
    }

    #[test]
    fn lines_have_no_control_characters_and_a_bounded_length() {
        assert_eq!(one_line("a\n\tb\u{1b}[2J"), "a b[2J");
        assert_eq!(one_line(&"x".repeat(5000)).chars().count(), 1501);
    }
}
