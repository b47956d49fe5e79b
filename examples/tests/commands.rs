//! The commands as they are run: results against transformers', and one clear line for whatever cannot be done.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use common::{Bench, model};
use serde::Deserialize;
use serde_json::{Value, json};

const MODELS: [&str; 3] = ["llama-2", "gpt2", "bloom"];

#[derive(Deserialize)]
struct Expected {
    prompts: Vec<Vec<u32>>,
    log_probs: Vec<Vec<f64>>,
    greedy: Greedy,
    locate: Locate,
    reweighted: Reweighted,
    train: Train,
}

#[derive(Deserialize)]
struct Greedy {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
}

/// `[layer][head][sample]`.
type Logits = Vec<Vec<Vec<f64>>>;

#[derive(Deserialize)]
struct Locate {
    sequences: Vec<Vec<u32>>,
    base_logits: Vec<f64>,
    /// By mode and ablation.
    patched_logits: BTreeMap<String, BTreeMap<String, Logits>>,
}

/// After the last prompt.
#[derive(Deserialize)]
struct Reweighted {
    coefficients: Value,
    log_probs: Vec<f64>,
}

#[derive(Deserialize)]
struct Train {
    heads: Vec<[usize; 2]>,
    sequences: Vec<Vec<Vec<u32>>>,
    learning_rate: f64,
    warmup_steps: usize,
    losses: Vec<f64>,
    coefficients: Vec<Vec<f64>>,
}

fn expected(name: &str) -> Expected {
    serde_json::from_slice(&fs::read(model(name).join("expected.json")).unwrap()).unwrap()
}

fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!(
        (found - expected).abs() <= tolerance * expected.abs().max(1.0),
        "{what}: {found}, expected {expected}"
    );
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_f64().unwrap())
        .collect()
}

#[test]
fn located_scores_are_those_of_transformers() {
    for name in MODELS {
        let expected = expected(name).locate;
        let bench = Bench::new();
        bench.write_lines("proxy.jsonl", &expected.sequences);
        let mean = |logits: &[f64]| logits.iter().sum::<f64>() / logits.len() as f64;
        let base = mean(&expected.base_logits);
        for (mode, ablations) in &expected.patched_logits {
            for (ablation, patched) in ablations {
                for metric in ["logit-ratio", "logit-diff"] {
                    let flags = format!(
                        "--mode {mode} --ablation {ablation} --metric {metric} --out scores.json"
                    );
                    bench.ok(&format!(
                        "locate --model {{{name}}} --proxy-tokens proxy.jsonl {flags}"
                    ));
                    let scores = bench.json("scores.json");
                    assert_eq!(
                        (scores["format"].as_str(), scores["version"].as_u64()),
                        (Some("pear-scores"), Some(1))
                    );
                    assert_eq!(
                        scores["settings"],
                        json!({"mode": mode, "ablation": ablation, "metric": metric, "seed": 0, "rank_by": "z"})
                    );
                    let length = &scores["by_length"][0];
                    assert_eq!(
                        (length["n"].as_u64(), length["samples"].as_u64()),
                        (Some(8), Some(3))
                    );
                    close(
                        length["base_logit"].as_f64().unwrap(),
                        base,
                        1e-4,
                        "base logit",
                    );
                    for head in scores["heads"].as_array().unwrap() {
                        let (layer, index) = (
                            head["layer"].as_u64().unwrap() as usize,
                            head["head"].as_u64().unwrap() as usize,
                        );
                        let patched = mean(&patched[layer][index]);
                        let right = if metric == "logit-ratio" {
                            patched / base - 1.0
                        } else {
                            patched - base
                        };
                        let what = format!("{name} {mode} {ablation} {metric} {layer}.{index}");
                        close(head["score"].as_f64().unwrap(), right, 1e-3, &what);
                        close(
                            length["scores"][layer][index].as_f64().unwrap(),
                            right,
                            1e-3,
                            &what,
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn learned_coefficients_are_those_of_torch() {
    for name in MODELS {
        let train = expected(name).train;
        let bench = Bench::new();
        bench.write_lines("proxy.jsonl", train.sequences.iter().flatten());
        let heads: Vec<String> = train
            .heads
            .iter()
            .map(|[layer, head]| format!("{layer}.{head}"))
            .collect();
        let (batch, rate, warmup) = (
            train.sequences[0].len(),
            train.learning_rate,
            train.warmup_steps,
        );
        let line = format!(
            "train --model {{{name}}} --heads {} --proxy-tokens proxy.jsonl --batch-size {batch} --learning-rate {rate} \
             --warmup-steps {warmup} --out profile.json --curve curve.svg",
            heads.join(",")
        );
        bench.ok(&line);
        let profile = bench.json("profile.json");
        assert_eq!(profile["training"]["steps"], train.losses.len());
        for (found, right) in numbers(&profile["training"]["loss"])
            .into_iter()
            .zip(&train.losses)
        {
            close(found, *right, 1e-3, name);
        }
        let learned = profile["coefficients"].as_array().unwrap();
        assert_eq!(learned.len(), heads.len());
        for ([layer, head], right) in train.heads.iter().zip(train.coefficients.last().unwrap()) {
            let found = learned
                .iter()
                .find(|c| c["layer"] == *layer && c["head"] == *head)
                .unwrap();
            close(found["value"].as_f64().unwrap(), *right, 1e-3, name);
        }
        assert!(
            fs::read_to_string(bench.path("curve.svg"))
                .unwrap()
                .starts_with("<svg")
        );
    }
}

#[test]
fn a_finished_training_can_be_resumed() {
    let bench = Bench::new();
    bench.ok("locate --model {llama-2} --lengths 5,7 --samples 4,3 --out scores.json --heatmap heads.png");
    assert!(
        fs::read(bench.path("heads.png"))
            .unwrap()
            .starts_with(b"\x89PNG")
    );
    let flags = "--model {llama-2} --heads scores.json --top-k 3 --length 6 --batch-size 2 --steps 20 --checkpoint state";
    bench.ok(&format!("train {flags} --out once.json"));
    let mut state = bench.json("state/checkpoint.json");
    assert_eq!(state["losses"].as_array().unwrap().len(), 20);
    bench.ok(&format!("train {flags} --resume --out again.json"));
    let (once, scores) = (bench.json("once.json"), bench.json("scores.json"));
    assert_eq!(once, bench.json("again.json"));
    for learned in once["coefficients"].as_array().unwrap() {
        let found = scores["heads"]
            .as_array()
            .unwrap()
            .iter()
            .find(|s| (&s["layer"], &s["head"]) == (&learned["layer"], &learned["head"]));
        assert_eq!(learned["score"], found.unwrap()["score"]);
    }
    let other = flags.replace("--steps 20", "--steps 20 --seed 3");
    bench.refused(
        &format!("train {other} --resume"),
        &["checkpoint.json", "another run", "`seed` was 0 and is 3"],
    );
    let other = flags.replace("--steps 20", "--steps 20 --bos");
    bench.refused(
        &format!("train {other} --resume"),
        &["checkpoint.json", "another run", "other proxy sequences"],
    );
    bench.ok(&format!(
        "train {flags} --patience 1 --held-out-every 2 --also-device flex --out third.json"
    ));
    assert!(bench.json("third.json")["training"]["best_step"].is_u64());
    state["losses"] = json!("none");
    bench.write("state/checkpoint.json", state.to_string());
    bench.refused(
        &format!("train {flags} --resume --out third.json"),
        &["checkpoint.json", "not a checkpoint"],
    );
}

#[test]
fn a_training_killed_at_any_moment_ends_as_if_it_had_not_been() {
    let bench = Bench::new();
    let flags = "--model {llama-2} --heads 0.1,1.2 --length 6 --batch-size 2 --steps 400 --held-out-every 50 --checkpoint-every 3";
    bench.ok(&format!(
        "train {flags} --checkpoint whole --log whole.csv --out whole.json"
    ));
    let again = format!("{flags} --checkpoint state --log log.csv --out profile.json");
    let train = |resume: &str| {
        let mut command = bench.command(&format!("train {again}{resume}"));
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let state = bench.path("state/checkpoint.json");
    let resume = || if state.exists() { " --resume" } else { "" };
    let mut delay = 1u64;
    for _ in 0..50 {
        let mut child = train(resume());
        // Anywhere from before the model is read to some dozens of steps on.
        delay = delay
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        std::thread::sleep(Duration::from_millis(delay >> 33 & 63));
        child.kill().unwrap();
        child.wait().unwrap();
        if state.exists() {
            assert!(bench.json("state/checkpoint.json")["losses"].is_array());
        }
    }
    bench.ok(&format!("train {again}{}", resume()));
    assert_eq!(bench.json("profile.json"), bench.json("whole.json"));
    let log = |name: &str| fs::read_to_string(bench.path(name)).unwrap();
    assert_eq!(log("log.csv"), log("whole.csv"));
    assert_eq!(log("log.csv").lines().count(), 401);
}

#[test]
fn all_heads_can_be_trained_within_bounds() {
    let bench = Bench::new();
    bench.ok("locate --model {llama-2} --lengths 5 --samples 3 --out scores.json");
    let flags = "--length 6 --batch-size 2 --steps 12 --learning-rate 0.05 --clamp 0.9,1.02 --schedule cosine --seed 3";
    bench.ok(&format!(
        "train --model {{llama-2}} --heads scores.json --top-k all {flags} --out profile.json"
    ));
    let profile = bench.json("profile.json");
    let values: Vec<f64> = profile["coefficients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["value"].as_f64().unwrap())
        .collect();
    assert_eq!(
        values.len(),
        bench.json("scores.json")["heads"].as_array().unwrap().len()
    );
    assert!(
        values.iter().all(|value| (0.9..=1.02).contains(value))
            && values.iter().any(|value| [0.9, 1.02].contains(value))
    );
    let training = &profile["training"];
    assert_eq!(
        (&training["schedule"], &training["seed"], &training["clamp"]),
        (&json!("cosine"), &json!(3), &json!([0.9, 1.02]))
    );
    assert_eq!(training["held_out_loss"].as_array().unwrap().len(), 2);
}

#[test]
fn results_say_where_they_come_from_and_warn_where_they_do_not_belong() {
    let bench = Bench::new();
    bench.write("proxy.jsonl", "[5, 6, 5, 6]\n[7, 8, 7, 8]");
    bench.ok("locate --model {llama-2} --lengths 5 --samples 2 --bos --out scores.json");
    let scores = bench.json("scores.json");
    let made = &scores["provenance"];
    assert_eq!(
        (&made["version"], &made["dtype"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!("f32"))
    );
    assert_eq!(
        made["sequences"],
        json!({"from": "drawn", "bos": 1, "special": false})
    );
    let flags =
        "--top-k 2 --proxy-tokens proxy.jsonl --batch-size 2 --warmup-steps 0 --learning-rate 0.1";
    bench.ok(&format!(
        "train --model {{llama-2}} --heads scores.json {flags} --out profile.json"
    ));
    let profile = bench.json("profile.json");
    assert_eq!(profile["provenance"]["sequences"]["from"], "file");
    for field in ["weights", "tokenizer"] {
        assert_eq!(made[field], profile["provenance"][field]);
    }
    let warned = |line: &str| {
        let output = bench.run(line);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stderr)
            .unwrap()
            .lines()
            .filter(|line| line.contains("made for another model"))
            .count()
    };
    assert_eq!(
        warned("export --model {llama-2} --profile profile.json --out folded"),
        0
    );
    // The folded model has the same shape and other weights.
    assert_eq!(
        warned("export --model folded --profile profile.json --out twice"),
        1
    );
    assert_eq!(
        warned("score --model folded --tokens proxy.jsonl --profile profile.json"),
        1
    );
    assert_eq!(
        warned("train --model folded --heads scores.json --length 4 --steps 1 --batch-size 1"),
        1
    );
    assert_eq!(
        warned("train --model {llama-2} --heads scores.json --length 4 --steps 1 --batch-size 1"),
        0
    );
}

#[test]
fn located_heads_come_with_what_they_depend_on() {
    let bench = Bench::new();
    let flags = "--lengths 5,7 --samples 4,3 --metric logit-diff --out scores.json";
    let shown = bench.ok(&format!(
        "locate --model {{llama-2}} {flags} --top-k 4 --compare-modes --compare-dtypes"
    ));
    for part in [
        "std. error",
        "even sequences, odd sequences",
        "n = 5, n = 7",
        "activation, path",
        "f32, bf16",
        "in bf16 scores differ",
    ] {
        assert!(shown.contains(part), "`{part}` is not in: {shown}");
    }
    let scores = bench.json("scores.json");
    let stability = &scores["stability"];
    assert_eq!(
        (
            &stability["top_k"],
            stability["overlaps"].as_array().unwrap().len()
        ),
        (&json!(4), 5)
    );
    let [largest, typical] =
        ["largest", "typical"].map(|field| stability["rounding"][field].as_f64().unwrap());
    assert!(
        0.0 < typical && typical < largest && largest < 0.1,
        "{stability}"
    );
    assert!(scores["heads"][0]["standard_error"].as_f64().unwrap() > 0.0);
    assert_eq!(
        scores["by_length"][1]["standard_errors"][1]
            .as_array()
            .unwrap()
            .len(),
        6
    );

    let shown = bench.ok(&format!("locate --model {{llama-2}} {flags} --method both"));
    assert!(
        shown.contains("attribution patching ranks") && shown.contains("exact, attribution"),
        "{shown}"
    );
    assert!(
        bench.json("scores.json")["stability"]["attribution_rank_correlation"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    assert!(
        bench.json("scores.json")["settings"]
            .get("method")
            .is_none()
    );
    bench.ok(&format!(
        "locate --model {{llama-2}} {flags} --method attribution"
    ));
    assert_eq!(
        bench.json("scores.json")["settings"]["method"],
        "attribution"
    );

    // Only what stands out; a random model has nothing that does, or little.
    bench.ok(&format!("locate --model {{llama-2}} {flags} --top-k auto"));
    let mut scores = bench.json("scores.json");
    let mut grid = scores["by_length"][0]["scores"].clone();
    for (rank, head) in scores["heads"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .enumerate()
    {
        let score = json!(1.0 - rank as f64);
        let at = |key: &str| head[key].as_u64().unwrap() as usize;
        grid[at("layer")][at("head")] = score.clone();
        head["score"] = score;
        head["standard_error"] = json!(if rank < 1 { 0.2 } else { 0.5 });
    }
    for length in scores["by_length"].as_array_mut().unwrap() {
        length["scores"] = grid.clone();
    }
    bench.write("clear.json", scores.to_string());
    let train = "train --model {llama-2} --top-k auto --length 4 --steps 1 --batch-size 1 --out profile.json --heads";
    bench.ok(&format!("{train} clear.json"));
    assert_eq!(
        bench.json("profile.json")["coefficients"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    scores["heads"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .for_each(|head| head["standard_error"] = json!(9));
    bench.write("noise.json", scores.to_string());
    bench.refused(
        &format!("{train} noise.json"),
        &["--top-k auto", "noise.json", "stands out"],
    );
    bench.ok("locate --model {llama-2} --lengths 5 --samples 1 --out single.json");
    bench.refused(
        &format!("{train} single.json"),
        &["--top-k auto", "single.json", "at least 2 sequences"],
    );
}

#[test]
fn parts_make_a_whole() {
    let bench = Bench::new();
    let flags = "--model {llama-2} --lengths 5,7 --samples 4,3 --metric log-prob-diff";
    bench.ok(&format!("locate {flags} --out whole.json"));
    bench.ok(&format!(
        "locate {flags} --ablation batch-mean --out one.json"
    ));
    bench.ok(&format!(
        "locate {flags} --ablation batch-mean --also-device flex --out two.json"
    ));
    let score =
        |file: &str, rank: usize| bench.json(file)["heads"][rank]["score"].as_f64().unwrap();
    (0..12).for_each(|rank| {
        close(
            score("two.json", rank),
            score("one.json", rank),
            1e-5,
            "on two devices",
        )
    });
    bench.ok(&format!("locate {flags} --layers 0 --out low.json"));
    bench.ok(&format!("locate {flags} --layers 1-1 --out high.json"));
    assert_eq!(
        bench.json("high.json")["layers"],
        json!({"first": 1, "last": 1})
    );
    assert_eq!(
        bench.json("high.json")["by_length"][0]["scores"][0],
        json!([])
    );
    let shown = bench.ok("locate --merge high.json low.json --out merged.json --heatmap heads.svg");
    assert!(shown.contains("std. error"), "{shown}");
    let (mut whole, merged) = (bench.json("whole.json"), bench.json("merged.json"));
    // What the heads depend on is not known from the parts.
    assert!(whole.as_object_mut().unwrap().remove("stability").is_some());
    assert_eq!(whole, merged);

    bench.refused(
        "train --model {llama-2} --heads low.json",
        &["low.json", "layers 0 alone", "--merge"],
    );
    bench.refused(
        "locate --merge low.json --out x.json",
        &["low.json", "`layers`", "layer 1 is in no file"],
    );
    bench.refused(
        "locate --merge high.json --out x.json",
        &["high.json", "`layers`", "layer 0 is in no file"],
    );
    bench.refused(
        "locate --merge low.json high.json low.json",
        &["low.json", "`layers`", "layer 0 is in another file too"],
    );
    bench.refused(
        "locate --merge low.json nothing.json",
        &["nothing.json", "cannot read"],
    );
    bench.refused("locate --merge", &["--merge"]);
    bench.refused(
        &format!("locate {flags} --layers 1-2"),
        &["--layers 1-2", "2 layers"],
    );
    bench.refused(
        &format!("locate {flags} --layers 1-0"),
        &["--layers", "first-last"],
    );
    for (path, value, named) in [
        ("/model/architecture", json!("opt"), "`model`"),
        ("/settings/seed", json!(1), "`settings`"),
        ("/provenance/weights", json!("0000"), "`provenance`"),
        ("/by_length/1/samples", json!(9), "`by_length"),
        (
            "/by_length/1/base_logit",
            json!(1e3),
            "`base_logit of n = 7`",
        ),
    ] {
        let mut other = bench.json("high.json");
        *other.pointer_mut(path).unwrap() = value;
        bench.write("other.json", other.to_string());
        bench.refused(
            "locate --merge low.json other.json",
            &["other.json", named, "low.json"],
        );
    }
}

#[test]
fn an_interrupted_sweep_goes_on_where_it_was() {
    let bench = Bench::new();
    let flags = "--lengths 5,6,40 --samples 4,3,600 --metric log-prob-diff";
    bench.ok(&format!(
        "locate --model {{llama-2}} {flags} --out whole.json"
    ));
    bench.refused(
        &format!("locate --model {{llama-2}} {flags} --out scores.json --resume"),
        &["--resume", "scores.json.partial"],
    );
    let mut child = bench.command(&format!(
        "locate --model {{llama-2}} {flags} --out scores.json"
    ));
    let mut child = child
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let partial = bench.path("scores.json.partial");
    let finished = || {
        partial.exists().then(|| {
            bench.json("scores.json.partial")["finished"]
                .as_array()
                .unwrap()
                .len()
        })
    };
    while finished().is_none_or(|count| count < 2) {
        assert!(
            child.try_wait().unwrap().is_none(),
            "over before it could be interrupted"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success() && !bench.path("scores.json").exists());

    let resume =
        |flags: &str| format!("locate --model {{llama-2}} {flags} --out scores.json --resume");
    for (other, named) in [
        (flags.replace("600", "601"), "`lengths`"),
        (flags.replace("log-prob-diff", "logit-diff"), "`settings`"),
        (format!("{flags} --layers 1"), "`layers`"),
        (format!("{flags} --bos"), "`provenance`"),
    ] {
        bench.refused(
            &resume(&other),
            &["scores.json.partial", "another run", named],
        );
    }
    // What is there is taken, not computed again.
    let mut state = bench.json("scores.json.partial");
    state["finished"][0]["logits"]["accuracy"] = json!(0.625);
    bench.write("scores.json.partial", state.to_string());
    bench.ok(&resume(flags));
    assert!(!partial.exists());
    let (mut whole, scores) = (bench.json("whole.json"), bench.json("scores.json"));
    whole["by_length"][0]["accuracy"] = json!(0.625);
    assert_eq!(whole, scores);
}

#[test]
fn heads_are_ranked_as_asked_and_training_takes_them_in_that_order() {
    let bench = Bench::new();
    let top = |profile: &str| -> Vec<Value> {
        let heads = bench.json(profile)["coefficients"].clone();
        let heads = heads.as_array().unwrap().iter();
        heads
            .map(|head| json!([head["layer"], head["head"]]))
            .collect()
    };
    let mut tops = Vec::new();
    for rank_by in ["z", "score"] {
        let shown = bench.ok(&format!(
            "locate --model {{llama-2}} --lengths 5,7 --samples 4,3 --rank-by {rank_by} --out {rank_by}.json"
        ));
        assert!(shown.contains(&format!("by {rank_by}")), "{shown}");
        bench.ok(&format!(
            "train --model {{llama-2}} --heads {rank_by}.json --top-k 3 --length 4 --steps 1 --batch-size 1 --out profile.json"
        ));
        tops.push(top("profile.json"));
    }
    let (by_z, by_score) = (bench.json("z.json"), bench.json("score.json"));
    assert_eq!(by_z["heads"], by_score["heads"]);
    assert_eq!(by_z["settings"]["rank_by"], "z");
    assert!(by_score["settings"].get("rank_by").is_none());
    assert_ne!(tops[0], tops[1]);
    bench.ok("locate --model {llama-2} --lengths 5 --samples 4 --preset as-published --out published.json");
    assert!(
        bench.json("published.json")["settings"]
            .get("rank_by")
            .is_none()
    );
}

#[test]
fn a_budget_is_kept_and_an_interrupted_run_goes_on_after_its_last_round() {
    let bench = Bench::new();
    let flags = "--model {llama-2} --lengths 5,40 --samples 3000,900 --top-k 3 --budget 150000";
    let shown = bench.ok(&format!("locate {flags} --out whole.json"));
    assert!(shown.contains("of 150000 row passes in"), "{shown}");
    let record = bench.json("whole.json")["anytime"].clone();
    assert!(
        record["row_passes"].as_u64().unwrap() <= 150_000,
        "{record}"
    );

    let mut child = bench
        .command(&format!("locate {flags} --out scores.json"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let partial = bench.path("scores.json.partial");
    while !partial.exists() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "over before it could be interrupted"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for (other, named) in [
        (flags.replace("150000", "150001"), "`budget`"),
        (flags.replace("--top-k 3", "--top-k 4"), "`budget`"),
        (flags.replace(" --budget 150000", ""), "`budget`"),
        (flags.replace("3000", "3001"), "`lengths`"),
    ] {
        bench.refused(
            &format!("locate {other} --out scores.json --resume"),
            &["scores.json.partial", "another run", named],
        );
    }
    bench.ok(&format!("locate {flags} --out scores.json --resume"));
    assert!(!partial.exists());
    assert_eq!(bench.json("scores.json"), bench.json("whole.json"));

    for (flags, expected) in [
        ("--top-k 3 --budget 100", "expected at least"),
        ("--top-k all --budget 50%", "--top-k must be a number"),
        (
            "--top-k 3 --budget 50% --method both",
            "--method must be exact",
        ),
        (
            "--top-k 3 --budget 50% --preset as-published",
            "batch means",
        ),
        ("--top-k 3 --budget none", "per cent such as 50%"),
    ] {
        bench.refused(
            &format!("locate --model {{llama-2}} --lengths 5,7 --samples 9,9 {flags}"),
            &[expected],
        );
    }
}

#[test]
fn an_exported_model_scores_as_the_reweighted_one() {
    for name in MODELS {
        let expected = expected(name);
        let bench = Bench::new();
        let longest = expected
            .prompts
            .iter()
            .max_by_key(|prompt| prompt.len())
            .unwrap();
        let shape =
            json!({"architecture": name.split('-').next(), "num_layers": 2, "num_heads": 6});
        let profile = json!({"format": "pear-profile", "version": 1, "model": shape, "coefficients": expected.reweighted.coefficients});
        bench.write("profile.json", profile.to_string());
        bench.write_lines("prompts.jsonl", &expected.prompts);
        let prompt = expected
            .prompts
            .iter()
            .position(|p| p.len() == expected.reweighted.log_probs.len() + 1);
        let prompt = prompt.unwrap_or_else(|| {
            panic!(
                "no prompt of the right length, the longest has {}",
                longest.len()
            )
        });

        bench.ok(&format!(
            "score --model {{{name}}} --tokens prompts.jsonl --out plain.json"
        ));
        for (found, right) in bench.json("plain.json")["log_probs"]
            .as_array()
            .unwrap()
            .iter()
            .zip(&expected.log_probs)
        {
            let found = numbers(found);
            assert_eq!(found.len(), right.len());
            found
                .iter()
                .zip(right)
                .for_each(|(found, right)| close(*found, *right, 1e-3, name));
        }
        bench.ok(&format!("score --model {{{name}}} --tokens prompts.jsonl --profile profile.json --out reweighted.json"));
        bench.ok(&format!(
            "export --model {{{name}}} --profile profile.json --out folded"
        ));
        bench.ok("score --model folded --tokens prompts.jsonl --out folded.json");
        for file in ["reweighted.json", "folded.json"] {
            let found = numbers(&bench.json(file)["log_probs"][prompt]);
            found
                .iter()
                .zip(&expected.reweighted.log_probs)
                .for_each(|(found, right)| close(*found, *right, 1e-3, file));
        }
        let folded = bench.json("folded.json");
        let rows: Vec<f64> = folded["log_probs"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(numbers)
            .collect();
        let perplexity = (-rows.iter().sum::<f64>() / rows.len() as f64).exp();
        close(
            folded["perplexity"].as_f64().unwrap(),
            perplexity,
            1e-9,
            "perplexity",
        );
    }
}

#[test]
fn generated_tokens_are_those_of_transformers() {
    for name in MODELS {
        let Greedy { prompt, tokens } = expected(name).greedy;
        let bench = Bench::new();
        let prompt: Vec<String> = prompt.iter().map(u32::to_string).collect();
        let count = tokens.len();
        let flags = format!(
            "--prompt-tokens {} --max-new-tokens {count} --ignore-eos --out new.json",
            prompt.join(",")
        );
        let shown = bench.ok(&format!("generate --model {{{name}}} {flags}"));
        let new = bench.json("new.json");
        assert_eq!(new["tokens"], json!(tokens));
        // With a tokenizer what is shown as it comes is the text in the end; without there is none.
        match model(name).join("tokenizer.json").exists() {
            true => assert_eq!(new["text"].as_str().unwrap().trim(), shown.trim()),
            false => assert_eq!(new["text"], ""),
        }
    }
}

#[test]
fn help_is_no_error() {
    for example in ["locate", "train", "export", "score", "generate"] {
        let help = Bench::new().ok(&format!("{example} --help"));
        for flag in ["--model", "--device", "--dtype", "--out"] {
            assert!(help.contains(flag), "{example} {flag}");
        }
    }
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let bench = Bench::new();
    bench
        .write("empty.jsonl", "")
        .write("object.jsonl", "{\"a\": 1}")
        .write("text.txt", "a text");
    bench
        .write("proxy.jsonl", "[5, 6, 5, 6]\n[7, 8, 7, 8]")
        .write("mixed.jsonl", "[5, 6, 5, 6]\n[7, 8, 9, 7, 8, 9]");
    bench
        .write("negative.jsonl", "[5, 6, 5, 6]\n[5, -6, 5, -6]")
        .write("large.jsonl", "[5, 97, 5, 97]");
    bench
        .write("odd.jsonl", "[5, 6, 5]")
        .write("halves.jsonl", "[5, 6, 6, 5]")
        .write("short.jsonl", "[5, 6]\n[5]");
    bench
        .write("float.jsonl", "[5, 6.5]")
        .write("binary.jsonl", b"\xff\xfe\0[1]")
        .write("deep.jsonl", "[".repeat(300_000));
    bench.write(
        "long.jsonl",
        json!([vec![5; 101], vec![5; 101]].concat()).to_string(),
    );
    bench.write(
        "other.json",
        json!({"format": "pear-scores", "version": 2}).to_string(),
    );
    let shape =
        |heads: usize| json!({"architecture": "llama", "num_layers": 2, "num_heads": heads});
    let profile = |heads: usize, coefficients: Value| {
        json!({"format": "pear-profile", "version": 1, "model": shape(heads), "coefficients": coefficients}).to_string()
    };
    bench.write(
        "profile.json",
        profile(6, json!([{"layer": 1, "head": 3, "value": 0.5}])),
    );
    bench.write(
        "misfit.json",
        profile(8, json!([{"layer": 1, "head": 3, "value": 0.5}])),
    );
    bench.write(
        "beyond.json",
        profile(6, json!([{"layer": 2, "head": 0, "value": 0.5}])),
    );
    bench.write(
        "twice.json",
        profile(
            6,
            json!([{"layer": 1, "head": 0, "value": 0.5}, {"layer": 1, "head": 0, "value": 2}]),
        ),
    );
    bench.write(
        "infinite.json",
        profile(6, json!([])).replace("[]", "[{\"layer\": 1, \"head\": 0, \"value\": 1e39}]"),
    );

    let locate: &[(&str, &[&str])] = &[
        ("", &["--model"]),
        ("--model nowhere", &["nowhere", "config.json"]),
        ("--model {llama-2} --lenghts 5", &["--lenghts"]),
        ("--model {llama-2} --lengths 5,x", &["--lengths", "x"]),
        (
            "--model {llama-2} --lengths 5,6 --samples 3",
            &["--samples", "--lengths"],
        ),
        (
            "--model {llama-2} --lengths 1 --samples 3",
            &["--lengths 1"],
        ),
        (
            "--model {llama-2} --lengths 5,5 --samples 3,3",
            &["--lengths", "twice"],
        ),
        (
            "--model {llama-2} --lengths 5 --samples 0",
            &["--samples 0"],
        ),
        (
            "--model {llama-2} --lengths 5 --samples 9999999999999999",
            &["--samples"],
        ),
        (
            "--model {llama-2} --lengths 9999999999999999 --samples 1",
            &["--lengths 9999999999999999"],
        ),
        (
            "--model {llama-2} --lengths 99999999999999999999 --samples 1",
            &["--lengths"],
        ),
        (
            "--model {gpt2} --lengths 49 --samples 1",
            &["--lengths 49", "96 positions"],
        ),
        ("--model {llama-2} --seed -1", &["--seed", "-1"]),
        (
            "--model {llama-2} --mode sideways",
            &["--mode", "sideways", "activation, path"],
        ),
        (
            "--model {llama-2} --metric ratio",
            &["--metric", "logit-ratio"],
        ),
        (
            "--model {llama-2} --preset none",
            &["--preset", "as-published"],
        ),
        (
            "--model {llama-2} --preset as-published --bos",
            &["--bos", "--preset"],
        ),
        ("--model {llama-2} --top-k 0", &["--top-k 0"]),
        ("--model {llama-2} --memory 0", &["--memory 0"]),
        (
            "--model {llama-2} --device tpu",
            &["--device", "tpu", "flex"],
        ),
        ("--model {llama-2} --device flex:1", &["--device", "flex"]),
        ("--model {llama-2} --dtype f64", &["--dtype", "f64", "bf16"]),
        (
            "--model {llama-2} --out no/scores.json",
            &["--out no/scores.json", "does not exist"],
        ),
        ("--model {llama-2} --out .", &["--out", "folder"]),
        (
            "--model {llama-2} --heatmap map.jpg",
            &["map.jpg", ".svg or .png"],
        ),
        ("--model {llama-2} --heatmap no/map.svg", &["--heatmap"]),
        (
            "--model {llama-2} --proxy-tokens nothing.jsonl",
            &["nothing.jsonl", "cannot read"],
        ),
        ("--model {llama-2} --proxy-tokens .", &["cannot read"]),
        (
            "--model {llama-2} --proxy-tokens empty.jsonl",
            &["empty.jsonl", "empty"],
        ),
        (
            "--model {llama-2} --proxy-tokens object.jsonl",
            &["object.jsonl: line 1", "array"],
        ),
        (
            "--model {llama-2} --proxy-tokens negative.jsonl",
            &["negative.jsonl: line 2", "-6"],
        ),
        (
            "--model {llama-2} --proxy-tokens large.jsonl",
            &["large.jsonl: line 1", "97"],
        ),
        (
            "--model {llama-2} --proxy-tokens odd.jsonl",
            &["odd.jsonl: line 1"],
        ),
        (
            "--model {llama-2} --proxy-tokens halves.jsonl",
            &["halves.jsonl: line 1", "halves"],
        ),
        (
            "--model {llama-2} --proxy-tokens float.jsonl",
            &["float.jsonl: line 1", "6.5"],
        ),
        (
            "--model {llama-2} --proxy-tokens binary.jsonl",
            &["binary.jsonl: line 1", "JSON"],
        ),
        (
            "--model {llama-2} --proxy-tokens deep.jsonl",
            &["deep.jsonl: line 1"],
        ),
        (
            "--model {gpt2} --proxy-tokens long.jsonl",
            &["long.jsonl: line 1", "96 positions"],
        ),
    ];
    let train: &[(&str, &[&str])] = &[
        ("--model {llama-2}", &["--heads"]),
        (
            "--heads nothing.json",
            &["--heads nothing.json", "26.28,11.6"],
        ),
        ("--heads 0.1,x", &["--heads 0.1,x"]),
        ("--heads 0.6", &["0.6", "6 heads"]),
        ("--heads 0.1,0.1", &["0.1", "twice"]),
        ("--heads other.json", &["other.json", "version 2"]),
        ("--heads profile.json", &["profile.json", "pear-profile"]),
        ("--heads text.txt", &["text.txt", "pear-scores"]),
        ("--heads 0.1 --batch-size 0", &["--batch-size 0"]),
        (
            "--heads 0.1 --batch-size 9999999999999",
            &["--batch-size 9999999999999"],
        ),
        ("--heads 0.1 --steps 0", &["--steps 0"]),
        (
            "--heads 0.1 --steps 9999999999999",
            &["--steps 9999999999999"],
        ),
        ("--heads 0.1 --length 1", &["--length 1"]),
        (
            "--heads 0.1 --length 9999999999999",
            &["--length 9999999999999"],
        ),
        ("--heads 0.1 --learning-rate NaN", &["--learning-rate NaN"]),
        ("--heads 0.1 --learning-rate inf", &["--learning-rate inf"]),
        (
            "--heads 0.1 --learning-rate -0.1",
            &["--learning-rate -0.1"],
        ),
        ("--heads 0.1 --weight-decay NaN", &["--weight-decay NaN"]),
        ("--heads 0.1 --warmup-steps -2", &["--warmup-steps", "-2"]),
        ("--heads 0.1 --learning-rate 1e300 --steps 4", &["diverged"]),
        ("--heads 0.1 --resume", &["--checkpoint"]),
        (
            "--heads 0.1 --checkpoint text.txt",
            &["--checkpoint text.txt"],
        ),
        (
            "--heads 0.1 --checkpoint no/folder",
            &["--checkpoint", "does not exist"],
        ),
        (
            "--heads 0.1 --proxy-tokens mixed.jsonl --batch-size 1",
            &["mixed.jsonl: line 2", "6 tokens"],
        ),
        (
            "--heads 0.1 --proxy-tokens proxy.jsonl",
            &["proxy.jsonl", "2 sequences", "20"],
        ),
        (
            "--heads 0.1 --proxy-tokens proxy.jsonl --batch-size 1 --steps 3",
            &["proxy.jsonl", "2 sequences", "3 steps"],
        ),
        (
            "--heads 0.1 --proxy-tokens proxy.jsonl --batch-size 1 --length 3",
            &["proxy.jsonl: line 1", "--length"],
        ),
        ("--heads 0.1 --curve curve.gif", &["curve.gif"]),
    ];
    let export: &[(&str, &[&str])] = &[
        ("--model {llama-2} --out folded", &["--profile"]),
        ("--model {llama-2} --profile profile.json", &["--out"]),
        (
            "--model {llama-2} --profile nothing.json --out folded",
            &["nothing.json", "cannot read"],
        ),
        (
            "--model {llama-2} --profile misfit.json --out folded",
            &["misfit.json", "8 heads", "6 heads"],
        ),
        (
            "--model {llama-2} --profile beyond.json --out folded",
            &["beyond.json", "2.0"],
        ),
        (
            "--model {llama-2} --profile twice.json --out folded",
            &["twice.json", "1.0", "twice"],
        ),
        (
            "--model {llama-2} --profile infinite.json --out folded",
            &["infinite.json"],
        ),
        (
            "--model {gpt2} --profile profile.json --out folded",
            &["profile.json", "gpt2", "llama"],
        ),
        (
            "--model {llama-2} --profile profile.json --out .",
            &["exists already"],
        ),
        (
            "--model {llama-2} --profile profile.json --out no/folded",
            &["--out no/folded"],
        ),
        (
            "--model {llama-2} --profile profile.json --out text.txt",
            &["text.txt"],
        ),
    ];
    let score: &[(&str, &[&str])] = &[
        ("--model {llama-2}", &["--tokens <FILE>|--text <FILE>"]),
        (
            "--model {llama-2} --tokens proxy.jsonl --text text.txt",
            &["--tokens", "--text"],
        ),
        (
            "--model {llama-2} --tokens short.jsonl",
            &["short.jsonl: line 2", "1 token"],
        ),
        (
            "--model {llama-2} --tokens large.jsonl",
            &["large.jsonl: line 1", "97"],
        ),
        (
            "--model {llama-2} --tokens proxy.jsonl --profile misfit.json",
            &["misfit.json"],
        ),
        (
            "--model {gpt2} --tokens long.jsonl",
            &["long.jsonl: line 1", "96 positions"],
        ),
        ("--model {bloom} --text nothing.txt", &["nothing.txt"]),
        ("--model {llama-2} --text empty.jsonl", &["empty.jsonl"]),
        (
            "--model {llama-2} --text binary.jsonl",
            &["binary.jsonl", "UTF-8"],
        ),
        (
            "--model {llama-2} --tokens proxy.jsonl --out no/scores.json",
            &["--out"],
        ),
    ];
    let generate: &[(&str, &[&str])] = &[
        ("", &["--prompt <TEXT>|--prompt-tokens"]),
        (
            "--prompt a --prompt-tokens 1",
            &["--prompt", "--prompt-tokens"],
        ),
        ("--prompt-tokens 1,x", &["--prompt-tokens", "`x`"]),
        ("--prompt-tokens -1", &["--prompt-tokens", "`-1`"]),
        ("--prompt-tokens 97", &["--prompt-tokens", "97"]),
        ("--prompt-tokens 1 --chat", &["--chat"]),
        (
            "--prompt-tokens 1 --max-new-tokens 18446744073709551615",
            &["--max-new-tokens"],
        ),
        (
            "--prompt-tokens 1 --temperature NaN",
            &["--temperature NaN"],
        ),
        ("--prompt-tokens 1 --temperature -1", &["--temperature -1"]),
        ("--prompt-tokens 1 --top-k 0", &["--top-k 0"]),
        ("--prompt-tokens 1 --top-p 1.5", &["--top-p 1.5"]),
        ("--prompt-tokens 1 --min-p 0", &["--min-p 0"]),
        (
            "--prompt-tokens 1 --repetition-penalty -2",
            &["--repetition-penalty -2"],
        ),
        (
            "--prompt-tokens 1 --profile text.txt",
            &["text.txt", "pear-profile"],
        ),
        (
            "--prompt-tokens 1 --top-k 3",
            &["--top-k", "--temperature above 0"],
        ),
        (
            "--prompt-tokens 1 --out /dev/null",
            &["--out /dev/null", "device"],
        ),
    ];
    let evaluate: &[(&str, &[&str])] = &[
        ("--format proxy --outputs o.jsonl", &["--outputs", "mdqa"]),
        ("--format proxy --chat", &["--chat", "mdqa"]),
        (
            "--format proxy --template text.txt",
            &["--template", "mdqa"],
        ),
        ("--format proxy --documents 3", &["--documents", "mdqa"]),
        ("--data odd.jsonl --lengths 5", &["--lengths", "proxy"]),
        ("--data odd.jsonl --samples 5", &["--samples", "tiny-world"]),
        (
            "--data odd.jsonl --gold-position 0,4,0",
            &["--gold-position 0", "twice"],
        ),
        (
            "--format proxy --samples 1000000000",
            &["--samples 1000000000", "at most"],
        ),
        (
            "--data odd.jsonl --documents 9223372036854775807",
            &["--documents 9223372036854775807", "at most"],
        ),
        (
            "--data odd.jsonl --out odd.jsonl",
            &["--out odd.jsonl", "which is read"],
        ),
        (
            "--data odd.jsonl --out a.json --outputs ./a.json",
            &["--outputs", "the file of --out"],
        ),
    ];
    let with_model = |lines: &[(&str, &[&str])], example: &str| {
        for (flags, parts) in lines {
            let flags = if flags.contains("--model") {
                (*flags).into()
            } else {
                format!("--model {{llama-2}} {flags}")
            };
            bench.refused(
                &format!("{example} {flags}").trim_end().replace("  ", " "),
                parts,
            );
        }
    };
    for (flags, parts) in locate {
        bench.refused(format!("locate {flags}").trim_end(), parts);
    }
    with_model(train, "train");
    with_model(export, "export");
    with_model(score, "score");
    with_model(generate, "generate");
    with_model(evaluate, "evaluate");
    bench.refused(
        "export --model {llama-2} --profile text.txt --dry-run --dtype bf16",
        &["--dtype", "--verify"],
    );
    bench.refused(
        "generate --model {gpt2} --prompt-tokens 1,2,3 --max-new-tokens 95",
        &["--max-new-tokens 95", "96 positions"],
    );
}

#[test]
fn broken_models_are_refused_by_every_command() {
    let bench = Bench::new();
    fs::create_dir(bench.path("broken")).unwrap();
    bench.write("profile.json", "{}");
    let files: Vec<_> = ["config.json", "model.safetensors"]
        .map(|file| (file, fs::read(model("llama-2").join(file)).unwrap()))
        .into();
    let restore = || {
        for (file, bytes) in &files {
            bench.write(&format!("broken/{file}"), bytes);
        }
    };
    let breaks: [(&str, Vec<u8>); 4] = [
        ("config.json", b"{".into()),
        ("config.json", b"{\"model_type\": \"mystery\"}".into()),
        ("model.safetensors", files[1].1[..1000].into()),
        (
            "model.safetensors",
            [&u64::MAX.to_le_bytes()[..], b"{}"].concat(),
        ),
    ];
    for (file, bytes) in breaks {
        restore();
        bench.write(&format!("broken/{file}"), bytes);
        bench.refused("locate --model broken", &["broken", file]);
        bench.refused("train --model broken --heads 0.1", &["broken", file]);
        bench.refused(
            "export --model broken --profile profile.json --out folded",
            &["broken", file],
        );
        bench.refused(
            "generate --model broken --prompt-tokens 1",
            &["broken", file],
        );
    }
}

#[test]
fn ignored_keys_are_named_once_and_refused_by_strict_commands() {
    let bench = Bench::new();
    fs::create_dir(bench.path("odd")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(model("llama-2").join(file), bench.path("odd").join(file)).unwrap();
    }
    let mut config = bench.json("odd/config.json");
    config["max_sequence_length"] = 2048.into();
    config["author"] = "someone".into();
    bench.write("odd/config.json", config.to_string());
    bench.write_lines("tokens.jsonl", &[vec![1, 2, 3]]);

    let score = "score --tokens tokens.jsonl --model odd";
    let output = bench.run(score);
    let warnings = String::from_utf8(output.stderr).unwrap();
    let named = "author (\"someone\"), max_sequence_length (2048)";
    let lines: Vec<&str> = warnings
        .lines()
        .filter(|line| line.starts_with("warning: "))
        .collect();
    assert_eq!(output.status.code(), Some(0), "{warnings}");
    assert!(
        lines.len() == 1 && lines[0].contains("config.json") && lines[0].ends_with(named),
        "{warnings}"
    );
    for line in [
        score,
        "generate --prompt-tokens 1,2 --model odd",
        "locate --model odd --lengths 3 --samples 1 --out scores.json",
        "train --model odd --heads 0.1 --out profile.json",
        "export --model odd --profile profile.json --out folded",
        "evaluate --model odd --format proxy",
    ] {
        bench.refused(&format!("{line} --strict"), &["config.json", named]);
    }
    bench.ok("score --tokens tokens.jsonl --model {llama-2} --strict");
}

#[test]
fn a_model_is_not_exported_into_itself() {
    let bench = Bench::new();
    fs::create_dir(bench.path("model")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(model("llama-2").join(file), bench.path("model").join(file)).unwrap();
    }
    let shape = json!({"architecture": "llama", "num_layers": 2, "num_heads": 6});
    bench.write(
        "profile.json",
        json!({"format": "pear-profile", "version": 1, "model": shape, "coefficients": []})
            .to_string(),
    );
    bench.refused(
        "export --model model --profile profile.json --out model/folded",
        &["--out model/folded", "within"],
    );
    assert_eq!(fs::read_dir(bench.path("model")).unwrap().count(), 2);
}

#[test]
fn the_weights_of_a_model_are_not_replaced_by_results() {
    let bench = Bench::new();
    bench.copy_model("llama-2", "model");
    bench.write("tokens.jsonl", "[5, 6, 7]");
    for name in ["model.safetensors", "config.json"] {
        bench.refused(
            &format!("score --model model --tokens tokens.jsonl --out model/{name}"),
            &["--out", name, "which is read"],
        );
    }
    bench.ok("score --model model --tokens tokens.jsonl --out model/scores.json");
}

#[cfg(unix)]
#[test]
fn arguments_that_are_no_text_are_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    for example in ["locate", "train", "evaluate", "score", "generate", "pear"] {
        let mut command = bench.command(example);
        command.arg(OsStr::from_bytes(b"--\xff\xfe"));
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{example}: {error}");
        assert!(!error.contains("internal error"), "{example}: {error}");
    }
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name() {
    let bench = Bench::new();
    bench.copy_model("llama-2", "model");
    let path = bench.path("model").join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    // NaN in every type of weights.
    bytes[end - 4..].copy_from_slice(&[0xff, 0x7f, 0xff, 0x7f]);
    fs::write(&path, bytes).unwrap();
    bench.write("tokens.jsonl", "[5, 6, 7]");
    for command in [
        "score --tokens tokens.jsonl",
        "evaluate --format proxy",
        "locate --lengths 5 --samples 2",
    ] {
        bench.refused(
            &format!("{command} --model model"),
            &["tensor `", "is NaN", "finite"],
        );
    }
}

#[test]
fn logits_that_are_not_finite_are_refused_with_the_layer_that_gives_them() {
    let bench = Bench::new();
    bench.copy_model("llama-2", "model");
    let path = bench.path("model").join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let range = &header["model.layers.1.mlp.down_proj.weight"]["data_offsets"];
    let [start, end] = [0, 1].map(|at| 8 + length + range[at].as_u64().unwrap() as usize);
    // The largest finite numbers, whose sums are not.
    bytes[start..end].fill(0x7f);
    fs::write(&path, bytes).unwrap();
    bench.write("tokens.jsonl", "[5, 6, 7]");
    for command in [
        "score --tokens tokens.jsonl",
        "evaluate --format proxy",
        "locate --lengths 5 --samples 2 --out scores.json",
        "train --heads 0.1 --length 5 --batch-size 2 --steps 2 --out profile.json",
        "generate --prompt-tokens 5,6,7 --max-new-tokens 2",
    ] {
        bench.refused(
            &format!("{command} --model model"),
            &["layer 1 is the first whose output is not finite"],
        );
    }
}
