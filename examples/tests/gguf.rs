//! The commands on a GGUF file, beside the directory that it was converted from.

mod common;

use common::Bench;

#[test]
fn commands_compute_the_same_from_a_gguf_file_and_from_the_directory_it_was_made_of() {
    let bench = Bench::new();
    let sequence = |first: u32| -> Vec<u32> { (0..12).map(|i| 3 + (first + 7 * i) % 90).collect() };
    bench.write_lines("prompts.jsonl", &[sequence(1), sequence(2)]);
    let repeated = |first| {
        let once = sequence(first);
        [&once[..], &once].concat()
    };
    bench.write_lines("proxy.jsonl", &[repeated(3), repeated(4)]);
    let mut printed = Vec::new();
    for (name, model) in [
        ("directory", "{llama-biases}"),
        ("file", "{gguf/llama-biases.gguf}"),
    ] {
        let run = |line: &str| bench.ok(&line.replace("MODEL", model).replace("NAME", name));
        run("score --model MODEL --tokens prompts.jsonl --out NAME-log_probs.json");
        run("locate --model MODEL --proxy-tokens proxy.jsonl --out NAME-scores.json");
        run(
            "train --model MODEL --heads NAME-scores.json --top-k 2 --length 4 --steps 2 --batch-size 1 --out NAME-profile.json",
        );
        printed.push(run(
            "generate --model MODEL --prompt-tokens 5,9,40 --max-new-tokens 8 --ignore-eos --profile NAME-profile.json",
        ));
    }
    bench.assert_near(
        ["directory-log_probs.json", "file-log_probs.json"],
        "/log_probs",
        1e-5,
    );
    bench.assert_near(
        ["directory-scores.json", "file-scores.json"],
        "/heads",
        1e-5,
    );
    assert_eq!(printed[0], printed[1]);
}

#[test]
fn files_that_are_no_models_get_one_line() {
    let bench = Bench::new();
    bench.write("model.gguf", "GGUF but no more");
    bench.refused(
        "score --model model.gguf --tokens x.jsonl",
        &["model.gguf: is a GGUF file of version"],
    );
    bench.refused(
        "score --model absent/model.gguf --tokens x.jsonl",
        &["absent/model.gguf: cannot open"],
    );
    bench.write("weights.bin", "PK");
    bench.refused(
        "locate --model weights.bin",
        &["weights.bin: is not a GGUF file"],
    );
}

#[test]
fn a_gguf_file_is_folded_into_one_after_a_dry_run_that_writes_nothing() {
    let bench = Bench::new();
    bench.write(
        "profile.json",
        r#"{"format": "pear-profile", "version": 1, "model": {"architecture": "llama", "num_layers": 2, "num_heads": 4},
            "coefficients": [{"layer": 0, "head": 1, "value": 0.6}, {"layer": 1, "head": 2, "value": 1.4}]}"#,
    );
    let sequence: Vec<u32> = (0..20).map(|i| 3 + (7 * i) % 90).collect();
    bench.write_lines("tokens.jsonl", &[sequence]);
    let export = "export --model {gguf/quantized.gguf} --profile profile.json";
    let table = bench.ok(&format!("{export} --dry-run"));
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert_eq!(
        rows[1][..6],
        ["0", "blk.0.attn_output.weight", "1", "Q5_1", "→", "F16"]
    );
    assert_eq!(
        rows[2][..5],
        ["1", "blk.1.attn_output.weight", "2", "F16", "values"]
    );
    assert!(!bench.path("folded.gguf").exists());

    let printed = bench.ok(&format!("{export} --out folded.gguf --verify tokens.jsonl"));
    assert!(printed.starts_with(&table), "{printed}");
    let kl = printed.split("the exact result: ").nth(1).unwrap();
    let kl: f64 = kl.split(' ').next().unwrap().parse().unwrap();
    assert!(kl.abs() < 1e-6, "{printed}");
    assert!(printed.contains("over 20 positions"), "{printed}");

    bench.refused(
        &format!("{export} --out folded.gguf"),
        &["folded.gguf: exists already: expected the name of a new file"],
    );
    bench.refused(
        "export --model folded.gguf --profile profile.json --dry-run",
        &["`pear.version`: coefficients were folded into this file before (heads 0.1, 1.2)"],
    );
    bench.refused(export, &["--out"]);
}
