//! Questions made from data files, and prompts made from questions.

use std::fs;
use std::path::{Path, PathBuf};

use pear_models::evaluation::{PromptTemplate, Question, longbench, mdqa};
use serde_json::{Value, json};
use tempfile::TempDir;

fn write(lines: &[String]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    (folder, path)
}

/// Records with the gold document alone, as in the `oracle` file of the published data.
fn oracle(count: usize) -> Vec<String> {
    let record = |i: usize| {
        let document = json!({"title": format!("Title {i}"), "text": format!("It is word{i}."), "isgold": true, "hasanswer": true});
        // Every third answer also stands in the document of the question after it.
        let answers = if i.is_multiple_of(3) {
            json!([format!("word{i}"), format!("word{}", i + 1)])
        } else {
            json!([format!("word{i}")])
        };
        json!({"question": format!("what is {i}"), "answers": answers, "ctxs": [document]})
            .to_string()
    };
    (0..count).map(record).collect()
}

fn mdqa_questions(path: &Path, gold_positions: &[usize], limit: usize) -> Vec<Question> {
    let options = mdqa::Options {
        gold_positions: gold_positions.to_vec(),
        limit: Some(limit),
        seed: 5,
        max_new_tokens: 4,
        ..mdqa::Options::default()
    };
    mdqa::questions(path, &options).unwrap().questions
}

#[test]
fn the_gold_document_moves_and_the_distractors_stay() {
    let (_folder, path) = write(&oracle(40));
    let questions = mdqa_questions(&path, &[0, 4, 9], 40);
    assert_eq!(questions.len(), 120);
    for (number, same) in questions.chunks(3).enumerate() {
        let documents = |prompt: &str| -> Vec<String> {
            let lines = prompt
                .lines()
                .filter_map(|line| line.strip_prefix("Document ["));
            lines
                .map(|line| line.split_once("](").unwrap().1.to_owned())
                .collect()
        };
        let gold = format!("Title: Title {number}) It is word{number}.");
        let distractors: Vec<Vec<String>> = [0, 4, 9]
            .iter()
            .zip(same)
            .map(|(&position, question)| {
                assert_eq!(
                    (question.index, question.group.as_str()),
                    (number, format!("right document {position}").as_str())
                );
                let mut all = documents(&question.prompt);
                assert_eq!((all.len(), all.remove(position)), (10, gold.clone()));
                all
            })
            .collect();
        assert!(distractors[0] == distractors[1] && distractors[1] == distractors[2]);
        let has_answer = |document: &String| {
            same[0]
                .answers
                .iter()
                .any(|answer| document.ends_with(&format!(" {answer}.")))
        };
        assert!(
            !distractors[0].iter().any(has_answer),
            "{:?} in {:?}",
            same[0].answers,
            distractors[0]
        );
    }
    // The published prompt, letter by letter.
    let first = &questions[1].prompt;
    assert!(first.starts_with(
        "Write a high-quality answer for the given question using only the provided search results (some of which might be \
         irrelevant).\n\nDocument [1](Title: Title "
    ));
    assert!(
        first.contains("\nDocument [5](Title: Title 0) It is word0.\nDocument [6](Title: ")
            && first.ends_with("\n\nQuestion: what is 0\nAnswer:")
    );
    // A limit changes nothing about the questions before it.
    assert_eq!(mdqa_questions(&path, &[0, 4, 9], 2), questions[..6]);
}

#[test]
fn distractors_of_the_record_come_before_any_that_are_drawn() {
    let mut documents: Vec<Value> =
        (0..9).map(|i| json!({"title": "T", "text": format!("other {i}"), "isgold": false, "hasanswer": false})).collect();
    documents.insert(
        3,
        json!({"title": "T", "text": "right", "isgold": true, "hasanswer": true}),
    );
    let record = json!({"question": "q", "answers": ["right"], "ctxs": documents});
    let (_folder, path) = write(&[record.to_string()]);
    let prompt = &mdqa_questions(&path, &[9], 1)[0].prompt;
    let texts: Vec<&str> = prompt
        .lines()
        .filter_map(|line| line.split("(Title: T) ").nth(1))
        .collect();
    let expected: Vec<String> = (0..9)
        .map(|i| format!("other {i}"))
        .chain(["right".into()])
        .collect();
    assert_eq!(texts, expected);
}

#[test]
fn records_with_drawn_distractors_are_counted() {
    let own = json!({"title": "T", "text": "other"});
    let gold = json!({"title": "T", "text": "right", "hasanswer": true});
    let complete = json!({"question": "q", "answers": ["right"], "ctxs": [own, gold]});
    let mut lines = oracle(4);
    lines.push(complete.to_string());
    let (_folder, path) = write(&lines);
    let options = mdqa::Options {
        num_documents: 2,
        gold_positions: vec![0, 1],
        ..mdqa::Options::default()
    };
    let set = mdqa::questions(&path, &options).unwrap();
    assert_eq!((set.num_records, set.num_with_drawn_distractors), (5, 4));
    assert_eq!(set.questions.len(), 10);
}

#[test]
fn multi_document_options_and_records_that_cannot_be_used_are_named() {
    let error = |lines: &[String], options: &mdqa::Options| {
        let (_folder, path) = write(lines);
        mdqa::questions(&path, options).unwrap_err().to_string()
    };
    let options = mdqa::Options {
        num_documents: 2,
        gold_positions: vec![0],
        ..mdqa::Options::default()
    };
    let outside = mdqa::Options {
        gold_positions: vec![2],
        ..options.clone()
    };
    assert_eq!(
        error(&oracle(3), &outside),
        "`gold_positions` is 2: expected less than 2, the number of documents"
    );
    let none = mdqa::Options {
        num_documents: 0,
        gold_positions: vec![],
        ..options.clone()
    };
    assert!(error(&oracle(3), &none).contains("`num_documents` is 0"));
    // Records beyond the limit are checked, since their gold documents may be drawn.
    let limited = mdqa::Options {
        limit: Some(1),
        ..options.clone()
    };
    let no_gold = json!({"question": "q", "answers": ["a"], "ctxs": [{"title": "t", "text": "x"}]});
    let mut lines = oracle(2);
    lines.push(no_gold.to_string());
    assert!(error(&lines, &limited).contains("data.jsonl, record 3: no document of `ctxs`"));
    assert!(error(&oracle(1), &options).contains("record 1: too few other documents"));
    assert!(error(&[String::new()], &options).contains("data.jsonl: no records"));
}

#[test]
fn longbench_has_the_published_prompts_and_lengths_and_all_reference_answers() {
    let line = |dataset: &str| {
        json!({"input": "why?", "context": "Because {input}.", "answers": ["no", "yes"], "length": 3, "dataset": dataset})
            .to_string()
    };
    let (_folder, path) =
        write(&["musique", "qasper_e", "multifieldqa_en", "narrativeqa"].map(line));
    let questions = longbench::questions(&path, &longbench::Options::default()).unwrap();
    let lengths: Vec<(usize, &str)> = questions
        .iter()
        .map(|q| (q.max_new_tokens, q.group.as_str()))
        .collect();
    assert_eq!(
        lengths,
        [
            (32, "musique"),
            (128, "qasper_e"),
            (64, "multifieldqa_en"),
            (128, "narrativeqa")
        ]
    );
    assert_eq!(
        questions[0].prompt,
        "Answer the question based on the given passages. Only give me the answer and do not output any other words.\n\nThe following \
         are given passages.\nBecause {input}.\n\nAnswer the question based on the given passages. Only give me the answer and do not \
         output any other words.\n\nQuestion: why?\nAnswer:"
    );
    assert!(questions[1].prompt.contains(
        "\n\nArticle: Because {input}.\n\n Answer the question based on the above article"
    ));
    assert!(questions.iter().all(|q| q.answers == ["no", "yes"]));

    let options = longbench::Options {
        template: Some(PromptTemplate::new("{input} {context}", longbench::FIELDS).unwrap()),
        max_new_tokens: Some(7),
        limit: Some(2),
    };
    let questions = longbench::questions(&path, &options).unwrap();
    assert_eq!(questions.len(), 2);
    assert!(
        questions
            .iter()
            .all(|q| q.prompt == "why? Because {input}." && q.max_new_tokens == 7)
    );
}

#[test]
fn a_longbench_record_without_answers_is_named_and_those_beyond_the_limit_are_not_read() {
    let line =
        |answers: Value| json!({"input": "q", "context": "c", "answers": answers}).to_string();
    let (_folder, path) = write(&[line(json!(["a"])), line(json!([]))]);
    let error = longbench::questions(&path, &longbench::Options::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("data.jsonl, record 2: `answers` is empty"),
        "{error}"
    );
    let options = longbench::Options {
        limit: Some(1),
        ..longbench::Options::default()
    };
    let questions = longbench::questions(&path, &options).unwrap();
    assert_eq!(questions.len(), 1);
    assert_eq!(questions[0].group, "all");
}

#[cfg(all(feature = "chat", feature = "tiny", feature = "tokenizer"))]
mod prompts {
    use burn::prelude::*;
    use burn::tensor::DType;
    use pear_models::evaluation::{
        AnswerRecord, Answerer, Prompt, PromptBuilder, TextWindows, read_text_tokens,
    };
    use pear_models::tiny::Tiny;
    use pear_models::{ChatTemplate, Error, ModelDirectory, log_probs, perplexity};

    use super::*;

    const SENTENCE: &str = "the old dog sees a boy near the river .";

    fn tiny() -> (TempDir, ModelDirectory) {
        let folder = tempfile::tempdir().unwrap();
        Tiny::Rope.write(folder.path()).unwrap();
        let directory = ModelDirectory::open(folder.path()).unwrap();
        (folder, directory)
    }

    #[test]
    fn a_prompt_leaves_room_for_the_answer() {
        let (_folder, directory) = tiny();
        let prompts = PromptBuilder::new(&directory).unwrap();
        // The model was trained for 2048 positions.
        assert_eq!(prompts.room(2000).unwrap(), Some(48));
        let text = [SENTENCE; 10].join(" ");
        let prompt = prompts.build(&text, 2040).unwrap();
        assert!(prompt.cut);
        // BOS and three words, then the last four.
        assert_eq!(
            (prompt.tokens.len(), prompts.decode(&prompt.tokens).unwrap()),
            (8, "the old dog near the river .".into())
        );
        let whole = prompts.build(SENTENCE, 2037).unwrap();
        assert_eq!((whole.tokens.len(), whole.cut), (11, false));
        let error = prompts.build(&text, 2047).unwrap_err().to_string();
        assert!(error.contains("`max_new_tokens` is 2047"), "{error}");
        let prompts = prompts.with_max_prompt_tokens(Some(1));
        let error = prompts.build(&text, 4).unwrap_err().to_string();
        assert!(error.contains("`max_prompt_tokens` is 1"), "{error}");
    }

    #[test]
    fn a_text_is_put_into_the_chat_template_or_an_error_tells_that_there_is_no_room() {
        let (folder, directory) = tiny();
        let template =
            "{{ bos_token }} question {% for m in messages %}{{ m.content }}{% endfor %} answer :";
        fs::write(
            folder.path().join("tokenizer_config.json"),
            json!({"bos_token": "<bos>", "chat_template": template}).to_string(),
        )
        .unwrap();
        let prompts = PromptBuilder::new(&directory)
            .unwrap()
            .with_chat_template(ChatTemplate::open(folder.path()).unwrap());
        let prompt = prompts.build(SENTENCE, 1).unwrap();
        assert_eq!((prompt.tokens.len(), prompt.cut), (14, false));
        assert_eq!(
            prompts.decode(&prompt.tokens).unwrap(),
            format!("question {SENTENCE} answer :")
        );
        let error = prompts
            .with_max_prompt_tokens(Some(5))
            .build(SENTENCE, 1)
            .unwrap_err();
        assert!(error.to_string().contains("no room"), "{error}");
    }

    #[test]
    fn answers_are_recorded_with_all_that_scores_them_again() {
        let (_folder, directory) = tiny();
        let model = directory.load(&Device::flex(), DType::F32).unwrap();
        let question = Question {
            index: 3,
            group: "all".into(),
            prompt: "the old dog sees a".into(),
            answers: vec!["boy".into()],
            max_new_tokens: 2,
        };
        let prompts = PromptBuilder::new(&directory).unwrap();
        let record = Answerer::new(prompts, directory.eos_tokens().unwrap())
            .answer("baseline", &model, &question)
            .unwrap();
        assert_eq!((record.run.as_str(), record.index), ("baseline", 3));
        assert_eq!((record.prompt_tokens, record.new_tokens), (6, 2));
        assert_eq!(record.output.split(' ').count(), 2, "{:?}", record.output);
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<AnswerRecord>(&line).unwrap(), record);
    }

    #[test]
    fn a_text_file_is_read_in_windows_that_begin_with_the_bos() {
        let (folder, directory) = tiny();
        let model = directory.load(&Device::flex(), DType::F32).unwrap();
        let path = folder.path().join("text.txt");
        fs::write(&path, [SENTENCE; 3].join(" ")).unwrap();
        let tokens = read_text_tokens(&path, &directory).unwrap();
        assert_eq!((tokens.len(), tokens[0]), (31, 1));
        let text = TextWindows::read(&path, &directory, 21).unwrap();
        let expected = [&tokens[..21], &[&[1], &tokens[21..]].concat()];
        assert_eq!(text.windows(), expected);
        let rows = expected.map(|window| log_probs(&model, window).unwrap());
        assert_eq!(text.perplexity(&model).unwrap(), perplexity(&rows));
        let divergence = text.divergence(&model, &model).unwrap();
        assert_eq!((divergence.kl, divergence.positions), (0.0, 32));

        fs::write(&path, "").unwrap();
        let error = TextWindows::read(&path, &directory, 21).unwrap_err();
        assert!(error.to_string().contains("text.txt: 1 tokens"), "{error}");
    }

    #[test]
    fn answers_in_batches_are_those_given_one_at_a_time() {
        let (_folder, directory) = tiny();
        let model = directory.load(&Device::flex(), DType::F32).unwrap();
        let prompts = PromptBuilder::new(&directory).unwrap();
        let answerer = Answerer::new(prompts, directory.eos_tokens().unwrap());
        let question = |i: usize| Question {
            index: i,
            group: "all".into(),
            prompt: format!(
                "{}the old dog sees a",
                "the cat is near the river . ".repeat(i * 5 % 7)
            ),
            answers: vec!["boy".into()],
            max_new_tokens: 2 + i % 3,
        };
        let questions: Vec<Question> = (0..12).map(question).collect();
        let prompts: Vec<Prompt> = questions
            .iter()
            .map(|q| {
                answerer
                    .prompts()
                    .build(&q.prompt, q.max_new_tokens)
                    .unwrap()
            })
            .collect();
        let pairs: Vec<(&Question, &Prompt)> = questions.iter().zip(&prompts).collect();
        for batch_tokens in [1, 100, 4096] {
            let mut seen = vec![0; 12];
            let together = answerer
                .answer_batch("x", &model, &pairs, batch_tokens, |index, record| {
                    assert_eq!(record.index, index);
                    seen[index] += 1;
                    Ok::<_, Error>(())
                })
                .unwrap();
            assert_eq!(seen, [1; 12]);
            for (question, record) in questions.iter().zip(&together) {
                let mut alone = answerer.answer("x", &model, question).unwrap();
                alone.seconds = record.seconds;
                assert_eq!(*record, alone);
                assert!(record.new_tokens <= question.max_new_tokens);
            }
        }
    }
}
