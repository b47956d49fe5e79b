//! Training all heads at a price, and heads ranked by their gradient.

mod common;

use std::fs;

use common::Bench;
use serde_json::Value;

const FLAGS: &str = "--model {llama-2} --length 6 --batch-size 2 --steps 20 --learning-rate 0.05";

fn heads(file: &Value, field: &str) -> Vec<(u64, u64)> {
    let id = |head: &Value| {
        (
            head["layer"].as_u64().unwrap(),
            head["head"].as_u64().unwrap(),
        )
    };
    file[field].as_array().unwrap().iter().map(id).collect()
}

/// The number before the last in the row of a table that begins with `name`, or the last.
fn after(table: &str, name: &str) -> f64 {
    let row = table.lines().find(|line| line.starts_with(name)).unwrap();
    row.split_whitespace().last().unwrap().parse().unwrap()
}

#[test]
fn a_price_on_changes_of_text_keeps_predictions_and_one_on_distance_keeps_heads_at_one() {
    let bench = Bench::new();
    let own = "--text-samples 8 --text-length 24 --text-batch-size 3";
    let train = |flags: &str| bench.ok(&format!("train {FLAGS} --heads all {own} {flags}"));
    let cheap = train("--kl-weight 0.001 --out cheap.json --log cheap.csv");
    let dear = train("--kl-weight 300 --out dear.json");
    let [cheap_kl, dear_kl] = [&cheap, &dear].map(|table| after(table, "KL on other plain text"));
    assert!(dear_kl < 0.5 * cheap_kl, "{cheap}\n{dear}");

    let profile = bench.json("cheap.json");
    assert_eq!(heads(&profile, "coefficients").len(), 12);
    let training = &profile["training"];
    assert_eq!(training["kl"].as_array().unwrap().len(), 20);
    assert_eq!(training["kl_weight"], 0.001);
    let log = fs::read_to_string(bench.path("cheap.csv")).unwrap();
    assert!(log.starts_with("step,loss,learning_rate,gradient_norm,held_out_loss,held_out_accuracy,kl,distance_from_one,at_one,0.0,"));

    let sparse = train("--kl-weight 1 --sparsity 0.05 --out sparse.json");
    let listed = heads(&bench.json("sparse.json"), "coefficients").len();
    assert!(listed < 12, "{sparse}");
    let line = format!("{} of 12 coefficients are exactly 1", 12 - listed);
    assert!(sparse.contains(&line), "{sparse}");
    // So high a price that nothing is worth it: a profile that changes nothing, and can be used.
    train("--sparsity 1000 --out none.json");
    assert_eq!(heads(&bench.json("none.json"), "coefficients").len(), 0);
    bench.ok(
        "generate --model {llama-2} --prompt-tokens 5,7 --max-new-tokens 2 --profile none.json",
    );
}

#[test]
fn the_models_own_text_is_kept_beside_the_checkpoint() {
    let bench = Bench::new();
    let flags = format!(
        "train {FLAGS} --heads all --kl-weight 1 --text-samples 8 --text-length 24 --checkpoint state"
    );
    bench.ok(&format!("{flags} --out once.json"));
    let text = fs::read_to_string(bench.path("state/text.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 8);
    bench.ok(&format!("{flags} --resume --out again.json"));
    assert_eq!(bench.json("once.json"), bench.json("again.json"));
    let other: Vec<&str> = text.lines().rev().collect();
    bench.write("state/text.jsonl", other.join("\n"));
    let refused = format!("{flags} --resume --out third.json");
    bench.refused(&refused, &["another run", "other plain text"]);
}

#[test]
fn a_text_is_divided_into_what_is_learned_from_and_what_is_measured() {
    let bench = Bench::new();
    let words: Vec<String> = (0..400).map(|i| format!("{}", (i * i) % 97)).collect();
    bench.write("text.txt", words.join(" "));
    let flags = "--heads all --kl-weight 1 --text text.txt --text-length 16 --window 32";
    let table = bench.ok(&format!("train {FLAGS} {flags} --out profile.json"));
    assert!(table.contains("perplexity of the text"), "{table}");
    assert!(after(&table, "KL on other plain text") < 1.0, "{table}");
    bench.write("short.txt", "a");
    let short = flags.replace("text.txt", "short.txt");
    bench.refused(
        &format!("train {FLAGS} {short}"),
        &["--text short.txt", "two pieces"],
    );
}

#[test]
fn heads_ranked_by_gradient_are_those_of_the_scores_that_are_written() {
    let bench = Bench::new();
    bench.ok(&format!(
        "train {FLAGS} --heads gradient --top-k 3 --gradient-scores scores.json --out one.json"
    ));
    let (scores, profile) = (bench.json("scores.json"), bench.json("one.json"));
    assert_eq!(scores["settings"]["method"], "gradient");
    assert_eq!(heads(&scores, "heads").len(), 12);
    assert_eq!(heads(&profile, "coefficients").len(), 3);
    assert!(scores["heads"][0]["standard_error"].as_f64().unwrap() > 0.0);
    bench.ok(&format!(
        "train {FLAGS} --heads scores.json --top-k 3 --out two.json"
    ));
    assert_eq!(profile, bench.json("two.json"));
}

#[test]
fn prices_and_heads_that_make_no_sense_are_refused() {
    let bench = Bench::new();
    for (flags, parts) in [
        ("--heads every", &["--heads every", "all, gradient"][..]),
        ("--heads gradient --top-k 0", &["--top-k 0"]),
        ("--heads all --kl-weight -1", &["--kl-weight -1"]),
        ("--heads all --kl-weight NaN", &["--kl-weight NaN"]),
        ("--heads all --sparsity inf", &["--sparsity inf"]),
        ("--heads all --text-length 1", &["--text-length 1"]),
        ("--heads all --text-batch-size 0", &["--text-batch-size 0"]),
        ("--heads all --text-samples 3", &["--text-samples 3"]),
        (
            "--heads all --gradient-scores no/scores.json",
            &["--gradient-scores"],
        ),
    ] {
        bench.refused(&format!("train {FLAGS} {flags}"), parts);
    }
    // A model with learned positions.
    let flags = FLAGS.replace("llama-2", "gpt2");
    bench.refused(
        &format!("train {flags} --heads all --text-length 100000"),
        &["--text-length 100000", "positions"],
    );
}

#[test]
fn recomputed_layers_learn_the_same_in_a_resumed_run_too() {
    let bench = Bench::new();
    let flags = "--heads all --kl-weight 1 --text-samples 4 --text-length 16 --checkpoint state";
    bench.ok(&format!("train {FLAGS} {flags} --out kept.json"));
    fs::remove_dir_all(bench.path("state")).unwrap();
    bench.ok(&format!(
        "train {FLAGS} {flags} --recompute --out again.json"
    ));
    bench.assert_near(["kept.json", "again.json"], "/coefficients", 1e-5);
    // A run may go on the other way.
    bench.ok(&format!(
        "train {FLAGS} {flags} --resume --out resumed.json"
    ));
    bench.assert_near(["again.json", "resumed.json"], "/coefficients", 1e-6);
}
