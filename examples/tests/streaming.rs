//! Models whose layers are read from the files when they are visited.

mod common;

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use common::{Bench, model};

const LOCATE: &str = "locate --model {llama-2} --lengths 12,8 --samples 20,20";
const TRAIN: &str = "train --model {llama-2} --length 6 --batch-size 4 --steps 5 --heads all";

#[test]
fn streamed_commands_give_what_resident_ones_do() {
    let bench = Bench::new();
    let printed = bench.ok(&format!("{LOCATE} --resident --out resident.json"));
    assert!(!printed.contains("layers read"));
    let printed = bench.ok(&format!("{LOCATE} --stream --out streamed.json"));
    assert!(printed.contains("layers read 1 times"), "{printed}");
    assert_eq!(bench.json("resident.json"), bench.json("streamed.json"));
    assert_eq!(bench.files(), ["resident.json", "streamed.json"]);

    bench.ok(&format!("{TRAIN} --resident --recompute --out a.json"));
    let printed = bench.ok(&format!("{TRAIN} --stream --out b.json"));
    assert!(printed.contains("layers read "), "{printed}");
    let difference = bench.largest_difference(["a.json", "b.json"], "/coefficients");
    assert!(difference < 1e-6, "{difference}");

    for command in [
        "generate --model {llama-2} --prompt-tokens 5,7,9 --max-new-tokens 4 --profile a.json",
        "score --model {llama-2} --tokens tokens.jsonl",
    ] {
        bench.write("tokens.jsonl", "[1,5,7,9,11]\n[1,6]");
        let [resident, streamed] =
            ["", " --stream"].map(|flag| bench.ok(&format!("{command}{flag}")));
        assert_eq!(resident, streamed, "{command}");
    }
    bench.refused(&format!("{LOCATE} --stream --resident"), &["--resident"]);
    let refused = format!("{LOCATE} --stream --method both");
    bench.refused(&refused, &["--method", "--resident"]);
}

#[test]
fn a_streamed_sweep_killed_at_ten_moments_gives_the_same_scores() {
    let bench = Bench::new();
    bench.ok(&format!("{LOCATE} --stream --out whole.json"));
    let (partial, mut killed) = (bench.path("killed.json.partial"), 0);
    // A few sequences at a time, so that there are many moments.
    let line = format!("{LOCATE} --stream --memory 1 --out killed.json");
    for pause in (0..).map(|step| 7 * step % 97) {
        let resume = if partial.exists() { " --resume" } else { "" };
        let mut command = bench.command(&format!("{line}{resume}"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        sleep(Duration::from_millis(pause));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            killed += 1;
        }
        let status = child.wait().unwrap();
        if killed >= 10 {
            break;
        }
        if status.success() {
            fs::remove_file(bench.path("killed.json")).unwrap();
        }
    }
    let resume = if partial.exists() { " --resume" } else { "" };
    bench.ok(&format!("{line}{resume}"));
    let difference = bench.largest_difference(["whole.json", "killed.json"], "/by_length");
    assert!(difference < 1e-6, "{difference}");
    assert_eq!(bench.files(), ["killed.json", "whole.json"]);
}

#[test]
fn a_plan_needs_the_config_alone() {
    let bench = Bench::new();
    fs::create_dir(bench.path("model")).unwrap();
    let config = fs::read(model("llama-2").join("config.json")).unwrap();
    bench.write("model/config.json", &config);
    bench.write("config.json", &config);
    for path in ["model", "config.json"] {
        let plan = bench.ok(&format!("locate --plan --model {path}"));
        for row in ["locate --stream", "train --recompute", "train --stream"] {
            assert!(plan.lines().any(|line| line.starts_with(row)), "{plan}");
        }
    }
    // 405 billion parameters, on whatever machine this is.
    let large = r#"{"model_type": "llama", "vocab_size": 128256, "hidden_size": 16384, "intermediate_size": 53248,
        "num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8}"#;
    bench.write("large.json", large);
    let plan = bench.ok("locate --plan --dtype bf16 --model large.json");
    assert!(
        plan.contains("405853 M parameters, 811.7 GB in bf16"),
        "{plan}"
    );
    assert!(plan.contains("does not fit"), "{plan}");
    bench.refused("locate --plan --model absent", &["absent"]);
}
