//! Some held-out questions with the answers of both models.

use anyhow::Result;
use pear_models::{Decoder, GenerateOptions, generate_batch};

use super::encoder::Encoder;
use super::measures::{Answered, Answers};
use super::questions::{Asked, Groups};
use super::report::AnswerPair;

/// New tokens of each answer.
const NEW_TOKENS: usize = 12;
/// Conflicting questions that are won, lost, and the same as before; and agreeing ones.
const SHOWN: [usize; 4] = [4, 2, 2, 2];

/// Continues some questions with both models: of the conflicting ones some that the re-weighted model now answers from the context, some that
/// it no longer does, some where nothing changed; and some agreeing ones.
///
/// # Errors
/// Logits that are not finite.
pub fn side_by_side(
    models: [&Decoder; 2],
    encoder: &Encoder,
    eos_tokens: Vec<u32>,
    questions: &Groups,
    answers: [&Answers; 2],
) -> Result<Vec<AnswerPair>> {
    let shown = shown(questions, answers);
    let prompts: Vec<&[u32]> = shown.iter().map(|(_, asked)| &asked.prompt[..]).collect();
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    let options = GenerateOptions {
        max_new_tokens: NEW_TOKENS,
        eos_tokens,
        ..GenerateOptions::default()
    };
    let [before, after] = models.map(|model| generate_batch(model, &prompts, &options));
    let pairs = shown.iter().zip(before?.into_iter().zip(after?));
    pairs
        .map(|(&(group, asked), (before, after))| {
            Ok(AnswerPair {
                group: group.into(),
                prompt: encoder.decode(&asked.prompt)?,
                context_answer: encoder.decode(&[asked.wanted])?,
                memory_answer: encoder.decode(&[asked.other.unwrap_or(asked.wanted)])?,
                before: encoder.decode(&before)?,
                after: encoder.decode(&after)?,
            })
        })
        .collect()
}

fn shown<'a>(questions: &'a Groups, answers: [&Answers; 2]) -> Vec<(&'static str, &'a Asked)> {
    let [before, after] = answers;
    let changes = before.conflicting.iter().zip(&after.conflicting);
    let conflicting: Vec<(&Asked, (&Answered, &Answered))> =
        questions.conflicting.iter().zip(changes).collect();
    let [won, lost, same, agreeing] = SHOWN;
    // The change: 1 where a question is won, −1 where it is lost.
    let mut shown = Vec::new();
    for (count, change) in [(won, 1), (lost, -1), (same, 0)] {
        let of_kind = conflicting.iter().filter(|(_, (before, after))| {
            i32::from(after.right) - i32::from(before.right) == change
        });
        shown.extend(
            of_kind
                .take(count)
                .map(|(asked, _)| ("conflicting", *asked)),
        );
    }
    let agreeing = questions.agreeing.iter().take(agreeing);
    shown.extend(agreeing.map(|asked| ("agreeing", asked)));
    shown
}
