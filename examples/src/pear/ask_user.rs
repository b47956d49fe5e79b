//! Questions to the person at the terminal.

use std::io::{IsTerminal, stdin};

use anyhow::{Context, Result, bail};

use super::report::{Candidate, Choice};
use crate::cli;

/// Whether to start: yes with `--yes`.
///
/// # Errors
/// Nobody to ask.
pub fn go_on(yes: bool) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !stdin().is_terminal() {
        bail!("standard input is not a terminal: expected --yes, to start without asking");
    }
    let answer = ask("\nStart? [Y/n] ")?;
    Ok(!answer.eq_ignore_ascii_case("n") && !answer.eq_ignore_ascii_case("no"))
}

/// The choice of the rule, or that of the person; the former with `--yes`.
///
/// # Errors
/// A terminal that cannot be read.
pub fn choose_candidate(choice: Choice, candidates: &[Candidate], yes: bool) -> Result<Choice> {
    if yes || !stdin().is_terminal() {
        return Ok(choice);
    }
    let preselected = choice.candidate.clone();
    let name = preselected.as_deref().unwrap_or("none");
    loop {
        let answer = ask(&format!(
            "\nThe rule chooses {name}. [Enter] to take it, the name of another candidate, or `none` to leave the model alone: "
        ))?;
        match answer.as_str() {
            "" => return Ok(choice),
            "none" => return Ok(chosen_by_hand(choice, None)),
            id if is_offered(candidates, id) => return Ok(chosen_by_hand(choice, Some(id.into()))),
            _ => cli::print("There is no such candidate, or it was dropped.\n")?,
        }
    }
}

fn is_offered(candidates: &[Candidate], id: &str) -> bool {
    candidates
        .iter()
        .any(|candidate| candidate.id == id && candidate.dropped.is_none())
}

fn chosen_by_hand(choice: Choice, candidate: Option<String>) -> Choice {
    if candidate == choice.candidate {
        return choice;
    }
    let rule = choice.candidate.unwrap_or("none".into());
    Choice {
        candidate,
        reason: format!("chosen by hand; the rule chose {rule}"),
        rule: choice.rule,
    }
}

fn ask(question: &str) -> Result<String> {
    cli::print(question)?;
    let mut line = String::new();
    let read = stdin()
        .read_line(&mut line)
        .context("standard input: cannot read")?;
    if read == 0 {
        bail!("standard input ended: expected an answer, or --yes");
    }
    Ok(line.trim().to_owned())
}
