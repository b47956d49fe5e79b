//! Two answers to a prompt: of a model as it is, and with coefficients.

use burn::prelude::*;
use burn::tensor::DType;
use pear_core::{DecoderModel, HeadCoefficients, HeadId, Profile};
use pear_examples::pear::chat::{AFTER, BEFORE, Conversation, Event, Screen, converse};
use pear_models::tiny::Tiny;
use pear_models::{
    Decoder, DecoderConfig, DecoderSizes, GenerateOptions, Generator, ModelDirectory, Tokenizer,
    generate,
};

const PROMPT: &str = "doc the colour of Alice is red . question the colour of Alice ?";

/// The embedded model, its tokenizer, and a profile that changes what it says.
fn tiny() -> (Decoder, Tokenizer, Profile) {
    let folder = tempfile::tempdir().unwrap();
    Tiny::Rope.write(folder.path()).unwrap();
    let directory = ModelDirectory::open(folder.path()).unwrap();
    let model = directory.load(&Device::flex(), DType::F32).unwrap();
    let heads: Vec<_> = (0..4)
        .flat_map(|layer| [0, 3, 5].map(|head| (HeadId::new(layer, head), 0.2)))
        .collect();
    let coefficients = HeadCoefficients::new(&heads, &model.shape(), &model.device()).unwrap();
    let profile = Profile::new(&coefficients, None).unwrap();
    (model, directory.tokenizer().unwrap(), profile)
}

fn options(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens,
        ..GenerateOptions::default()
    }
}

#[test]
fn both_answers_are_those_of_each_model_alone() {
    let (model, tokenizer, profile) = tiny();
    let prompt = tokenizer.encode(PROMPT).unwrap();
    let before = generate(&model, &prompt, &options(12)).unwrap();
    let mut edit = profile.for_model(&model.shape(), &model.device()).unwrap();
    let generator = Generator::new(&model, options(12)).unwrap();
    let after = generator
        .run_with(&[&prompt], &mut edit, |_, _| {
            Ok::<_, pear_models::Error>(std::ops::ControlFlow::Continue(()))
        })
        .unwrap()
        .remove(0);
    assert_ne!(
        before, after,
        "the coefficients change nothing: the test would show nothing"
    );

    // With no token that ends a text; with one that ends the first answer early; with one that ends the second.
    for eos in [None, Some(before[2]), Some(after[2])] {
        let options = GenerateOptions {
            eos_tokens: eos.into_iter().collect(),
            ..options(12)
        };
        let mut conversation =
            Conversation::new(&model, &profile, &tokenizer, None, options).unwrap();
        let mut streamed = [String::new(), String::new()];
        let mut ends = Vec::new();
        let answers = conversation
            .answer(PROMPT, |event| {
                match event {
                    Event::Text(model, text) => streamed[model] += text,
                    Event::End(model) => ends.push(model),
                }
                anyhow::Ok(())
            })
            .unwrap();
        ends.sort_unstable();
        assert_eq!(ends, [BEFORE, AFTER]);
        for (answer, alone) in answers.iter().zip([&before, &after]) {
            let end = alone
                .iter()
                .position(|token| Some(*token) == eos)
                .map_or(alone.len(), |at| at + 1);
            assert_eq!(*answer, tokenizer.decode(&alone[..end]).unwrap(), "{eos:?}");
        }
        for (streamed, answer) in streamed.iter().zip(&answers) {
            assert!(answer.starts_with(streamed.as_str()), "{streamed} {answer}");
        }
    }
}

#[test]
fn a_screen_shows_both_answers_beside_each_other_or_one_below_the_other() {
    let (model, tokenizer, profile) = tiny();
    let converse_on = |width: usize, input: &str| {
        let conversation =
            Conversation::new(&model, &profile, &tokenizer, None, options(6)).unwrap();
        let mut output = Vec::new();
        let screen = Screen {
            width,
            interactive: false,
        };
        converse(conversation, input.as_bytes(), &mut output, screen).unwrap();
        String::from_utf8(output).unwrap()
    };
    let wide = converse_on(80, PROMPT);
    let lines: Vec<&str> = wide.lines().collect();
    assert!(
        lines[0].starts_with("before") && lines[0].ends_with("│ after"),
        "{wide}"
    );
    assert!(lines[2].contains(" │ "), "{wide}");
    assert!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{wide}"
    );
    let narrow = converse_on(40, PROMPT);
    assert!(
        narrow.starts_with("before:\n") && narrow.contains("\n\nafter:\n"),
        "{narrow}"
    );
}

#[test]
fn what_cannot_be_answered_gets_a_line_and_the_conversation_goes_on() {
    let (_, tokenizer, _) = tiny();
    // A model that knows only the first words of the tokenizer.
    let sizes = DecoderSizes {
        vocab_size: 100,
        hidden_size: 16,
        intermediate_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
    };
    let device = Device::flex();
    let model = DecoderConfig::llama(sizes).init(&device).unwrap();
    let heads = [(HeadId::new(0, 0), 0.5)];
    let coefficients = HeadCoefficients::new(&heads, &model.shape(), &device).unwrap();
    let profile = Profile::new(&coefficients, None).unwrap();
    let conversation = Conversation::new(&model, &profile, &tokenizer, None, options(4)).unwrap();
    let [known, unknown] = [50, 400].map(|token| tokenizer.decode(&[token]).unwrap());

    let input = format!("{unknown}\n/nonsense\n/help\n\n{known}\n/quit\n{known}\n");
    let mut output = Vec::new();
    let screen = Screen {
        width: 80,
        interactive: false,
    };
    converse(conversation, input.as_bytes(), &mut output, screen).unwrap();
    let text = String::from_utf8(output).unwrap();
    assert!(text.starts_with("cannot answer: "), "{text}");
    assert!(
        text.contains("/nonsense: unknown") && text.contains("start anew"),
        "{text}"
    );
    assert_eq!(text.matches("│ after").count(), 1, "{text}");
}

#[test]
fn a_profile_of_another_shape_is_refused() {
    let (model, tokenizer, mut profile) = tiny();
    profile.model.num_layers += 1;
    assert!(Conversation::new(&model, &profile, &tokenizer, None, options(1)).is_err());
}
