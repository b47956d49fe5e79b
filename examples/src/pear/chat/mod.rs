//! A conversation with a model as it was and as it is with coefficients, side by side.

mod columns;
mod conversation;

use std::io::{BufRead, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use pear_models::{GenerateOptions, ModelDirectory};

use crate::cli::{self, Dtype, LayerPlace, ModelArgs};
use crate::device::DeviceName;
use columns::Columns;
pub use conversation::{AFTER, BEFORE, Conversation, Event};

/// Two columns are not drawn on a screen with fewer characters.
const NARROWEST: usize = 64;
/// Columns are not wider than this, together: longer lines are hard to read.
const WIDEST: usize = 160;
const TITLES: [&str; 2] = ["before", "after"];
const HELP: &str = "\
Each prompt is answered by both models; each remembers its own answers.
/new       start anew
/quit      end; so does the end of the input
\"\"\"        begins and ends a prompt of several lines, such as a passage with a question
";

/// Flags of `pear chat`.
#[derive(Args, Clone, Debug)]
pub struct ChatArgs {
    /// Model directory, GGUF file or, with the feature `hub`, owner/name on the Hugging Face hub; not yet folded
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,

    /// Profile whose coefficients the second model has
    #[arg(long, value_name = "FILE")]
    pub profile: PathBuf,

    /// Largest number of tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_new_tokens: usize,

    /// Temperature of sampling; 0 takes the most likely token
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,

    /// Seed of sampling
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Where to compute, as in the other commands
    #[arg(long, value_name = "NAME", default_value = "flex")]
    pub device: DeviceName,

    /// Dtype of the weights
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<Dtype>,
}

/// Runs a conversation between the terminal and both models.
///
/// # Errors
/// A model, profile or tokenizer that cannot be read or do not belong together; flags that are out of range.
pub fn run(arguments: &ChatArgs) -> Result<()> {
    if !(arguments.temperature.is_finite() && arguments.temperature >= 0.0) {
        bail!(
            "--temperature {}: expected 0 or more",
            arguments.temperature
        );
    }
    if arguments.max_new_tokens == 0 {
        bail!("--max-new-tokens 0: expected at least 1");
    }
    let model_args = ModelArgs {
        model: arguments.model.clone(),
        strict: false,
        device: arguments.device.clone(),
        dtype: arguments.dtype,
        layers: LayerPlace::default(),
    };
    let directory = model_args.open()?;
    let profile = cli::read_profile(&arguments.profile, &directory)?;
    let tokenizer = directory.tokenizer()?;
    let template = template(&directory);
    let options = GenerateOptions {
        max_new_tokens: arguments.max_new_tokens,
        eos_tokens: directory.eos_tokens()?,
        temperature: arguments.temperature,
        seed: arguments.seed,
        ..GenerateOptions::default()
    };
    let model = model_args.load(&directory)?;
    let conversation = Conversation::new(&model, &profile, &tokenizer, template, options)?;
    let screen = console::Term::stdout();
    let width = if screen.is_term() {
        screen.size().1.into()
    } else {
        100
    };
    let interactive = screen.is_term() && console::user_attended();
    converse(
        conversation,
        std::io::stdin().lock(),
        std::io::stdout().lock(),
        Screen { width, interactive },
    )
}

/// The chat template; a warning, if there is none.
fn template(directory: &ModelDirectory) -> Option<pear_models::ChatTemplate> {
    match directory.chat_template() {
        Ok(template) => Some(template),
        Err(error) => {
            cli::warn(&format!("{error}: prompts are texts to go on with"));
            None
        }
    }
}

/// Where the conversation is shown.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Characters in a line.
    pub width: usize,
    /// Whether somebody types: a sign asks for the next prompt.
    pub interactive: bool,
}

/// Answers every prompt of `input` until it ends. What cannot be answered gets a line that says why.
///
/// # Errors
/// Input or output that fails.
pub fn converse(
    mut conversation: Conversation,
    mut input: impl BufRead,
    mut output: impl Write,
    screen: Screen,
) -> Result<()> {
    if screen.interactive {
        write(&mut output, "/help lists what else can be typed\n")?;
    }
    loop {
        if screen.interactive {
            write(&mut output, "\n> ")?;
        }
        let Some(prompt) = read_prompt(&mut input)? else {
            return Ok(());
        };
        match prompt.trim() {
            "" => {}
            "/quit" | "/exit" => return Ok(()),
            "/new" => conversation.clear(),
            "/help" => write(&mut output, HELP)?,
            command if command.starts_with('/') && !command.contains(char::is_whitespace) => {
                write(
                    &mut output,
                    &format!(
                        "{}: unknown; /help lists what there is\n",
                        printable(command)
                    ),
                )?;
            }
            prompt => answer(&mut conversation, prompt, &mut output, screen.width)?,
        }
    }
}

/// The next line, or the lines between two lines that begin or end with `"""`; `None` at the end of the input.
fn read_prompt(input: &mut impl BufRead) -> Result<Option<String>> {
    const QUOTES: &str = "\"\"\"";
    let mut prompt = String::new();
    if read_line(input, &mut prompt)? == 0 {
        return Ok(None);
    }
    let Some(start) = prompt.trim().strip_prefix(QUOTES) else {
        return Ok(Some(prompt));
    };
    let mut block = format!("{start}\n");
    loop {
        if let Some(end) = block.trim_end().strip_suffix(QUOTES) {
            return Ok(Some(end.to_owned()));
        }
        if read_line(input, &mut block)? == 0 {
            return Ok(Some(block));
        }
    }
}

/// Adds a line to `text`; gives the number of bytes, 0 at the end of the input.
fn read_line(input: &mut impl BufRead, text: &mut String) -> Result<usize> {
    let mut bytes = Vec::new();
    let length = input
        .read_until(b'\n', &mut bytes)
        .context("standard input: cannot read")?;
    text.push_str(&String::from_utf8_lossy(&bytes));
    Ok(length)
}

/// Answers one prompt: in two columns as the answers grow, or one below the other where there is no room.
fn answer(
    conversation: &mut Conversation,
    prompt: &str,
    output: &mut impl Write,
    width: usize,
) -> Result<()> {
    if width < NARROWEST {
        let answered = conversation.answer(prompt, |_| anyhow::Ok(()));
        let text = match answered {
            Ok([before, after]) => format!(
                "{}:\n{}\n\n{}:\n{}\n",
                TITLES[BEFORE],
                printable(before.trim()),
                TITLES[AFTER],
                printable(after.trim())
            ),
            Err(error) => complaint(&error),
        };
        return write(output, &text);
    }
    let mut columns = Columns::new(width.min(WIDEST));
    let mut ended = [false; 2];
    let mut started = false;
    let answered = conversation.answer(prompt, |event| {
        if !started {
            write(output, &columns.heading(TITLES))?;
            started = true;
        }
        let rows = match event {
            Event::Text(model, text) => columns.push(model, &printable(text)),
            Event::End(model) => {
                ended[model] = true;
                columns.end(model, ended[1 - model])
            }
        };
        write(output, &rows)
    });
    match answered {
        Ok(_) => Ok(()),
        Err(error) if error.downcast_ref::<std::io::Error>().is_some() => Err(error),
        Err(error) => write(output, &complaint(&error)),
    }
}

fn complaint(error: &anyhow::Error) -> String {
    format!(
        "cannot answer: {}; /new starts anew\n",
        printable(&format!("{error:#}"))
    )
}

/// A text without the control characters that would command the terminal.
fn printable(text: &str) -> String {
    let plain = |c: char| match c {
        '\n' => '\n',
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(plain).collect()
}

fn write(output: &mut impl Write, text: &str) -> Result<()> {
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_a_line_or_a_block_in_quotes() {
        let mut input = "one\n\"\"\"a\nb\n\n\"\"\"\n\"\"\"c\"\"\"\n\"\"\"open".as_bytes();
        let mut prompts = Vec::new();
        while let Some(prompt) = read_prompt(&mut input).unwrap() {
            prompts.push(prompt.trim().to_owned());
        }
        assert_eq!(prompts, ["one", "a\nb", "c", "open"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n\tc\r"), "a\u{fffd}[2Jb\n c\u{fffd}");
    }
}
