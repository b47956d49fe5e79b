//! The whole way in one command, on the built-in models.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::Bench;
use pear_examples::pear::report::{Outcome, Report};
use pear_models::tiny::Tiny;

const SHIP: i32 = 0;
const UNUSABLE: i32 = 2;
const DO_NOT_SHIP: i32 = 3;

/// A folder with the built-in models as `rope` and `alibi`.
fn bench() -> Bench {
    let bench = Bench::new();
    Tiny::Rope.write(bench.path("rope")).unwrap();
    Tiny::Alibi.write(bench.path("alibi")).unwrap();
    bench
}

/// Runs `pear`, which must end with one of these statuses; gives the status and what was printed.
fn pear(bench: &Bench, line: &str, expected: &[i32]) -> (i32, String) {
    let output = bench.run(&format!("pear {line}"));
    let status = output.status.code().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(expected.contains(&status), "{line}: {status}: {error}");
    (status, String::from_utf8(output.stdout).unwrap())
}

/// Every file below a folder but the times, by name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("timings.json") {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_model_that_is_helped_is_saved_with_its_report() {
    let bench = bench();
    let (status, printed) = pear(&bench, "rope --yes --out out", &[SHIP, DO_NOT_SHIP]);
    let report = Report::read(&bench.path("out/report.json")).unwrap();
    assert_eq!(status, SHIP, "{printed}");
    assert_eq!(report.verdict.outcome, Outcome::Ship);
    assert!(report.verdict.checks.iter().all(|check| check.holds));
    assert_eq!(report.verdict.controls.len(), 3);
    assert!(printed.contains("held-out questions"), "{printed}");

    let chosen = report.chosen().unwrap();
    let profile = bench.json("out/profile.json");
    assert_eq!(
        profile["coefficients"].as_array().unwrap().len(),
        chosen.coefficients.len()
    );
    assert!(bench.path("out/folded/model.safetensors").is_file());
    for id in &report.front {
        let point = bench.json(&format!("out/front/{id}.json"));
        assert_eq!(point["format"], "pear-profile");
        assert_eq!(
            point == profile,
            Some(id) == report.choice.candidate.as_ref()
        );
    }
    let reproduce = bench.json("out/reproduce.json");
    let hashes = reproduce["files"].as_array().unwrap();
    for name in ["report.json", "profile.json", "folded/model.safetensors"] {
        let entry = hashes.iter().find(|file| file["name"] == name).unwrap();
        let bytes = fs::read(bench.path("out").join(name)).unwrap();
        assert_eq!(entry["blake3"], blake3::hash(&bytes).to_hex().to_string());
    }

    // A finished run is read, not computed again, and changes nothing.
    let before = files(&bench.path("out"));
    let times = bench.json("out/timings.json");
    pear(&bench, "rope --yes --out out", &[SHIP]);
    assert_eq!(bench.json("out/timings.json"), times);
    assert_eq!(files(&bench.path("out")), before);

    bench.refused(
        "pear alibi --yes --out out",
        &["--out out", "another weights"],
    );
    bench.refused(
        "pear rope --yes --out out --seed 1",
        &["--out out", "another --seed"],
    );
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_with_the_same_files() {
    let bench = bench();
    let (status, _) = pear(&bench, "rope --yes --out whole", &[SHIP, DO_NOT_SHIP]);
    let steps = [
        "copying",
        "locating-rounds",
        "scores",
        "learned-rank-3",
        "all-heads-state",
        "candidate-all-kl-0.03",
        "faithful-state",
        "held-out-chosen",
        "answers",
        "saved",
    ];
    for step in steps {
        let file = bench.path("killed/journal").join(format!("{step}.json"));
        let mut child = bench
            .command("pear rope --yes --out killed")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !file.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    pear(&bench, "rope --yes --out killed", &[status]);
    let [whole, killed] = ["whole", "killed"].map(|name| files(&bench.path(name)));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&whole), names(&killed));
    for (name, bytes) in &whole {
        assert!(*bytes == killed[name], "{name} differs");
    }
}

/// Each time a model is helped, there is less left to gain.
#[test]
fn a_model_that_is_not_helped_is_left_alone() {
    let bench = bench();
    let mut model = "rope".to_owned();
    for round in 0..6 {
        let out = format!("out-{round}");
        let (status, printed) = pear(
            &bench,
            &format!("{model} --yes --out {out}"),
            &[SHIP, DO_NOT_SHIP],
        );
        if status == SHIP {
            model = format!("{out}/folded");
            continue;
        }
        assert!(round > 0, "{printed}");
        assert!(printed.contains("Leave the model alone"), "{printed}");
        let file = |name: &str| bench.path(&out).join(name);
        let report = Report::read(&file("report.json")).unwrap();
        assert_eq!(report.verdict.outcome, Outcome::DoNotShip);
        assert!(file("report.html").is_file() && file("front.svg").is_file());
        assert!(!file("folded").exists() && !file("profile.json").exists());
        return;
    }
    panic!("a model cannot be helped for ever");
}

#[test]
fn a_plan_is_printed_and_nothing_is_written() {
    let bench = bench();
    let before = bench.files();
    let (_, printed) = pear(&bench, "--model rope --plan", &[SHIP]);
    for part in [
        "4 layers",
        "flex in f32",
        "tiny world",
        "all-kl-0.03",
        "about",
        "pear-rope",
    ] {
        assert!(printed.contains(part), "`{part}` is not in: {printed}");
    }
    assert_eq!(bench.files(), before);
}

#[test]
fn a_model_that_cannot_copy_is_unusable() {
    let bench = bench();
    bench.ok("pretrain --seed 3 --copying-steps 2 --clean-steps 1 --hedging-steps 1 --out new");
    let output = bench.run("pear new --yes --out out");
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(UNUSABLE), "{error}");
    assert!(error.contains("cannot copy"), "{error}");
    assert!(!bench.path("out/report.json").exists());
}

#[test]
fn input_that_cannot_be_used_gets_one_line() {
    let bench = bench();
    bench.refused("pear", &["MODEL"]);
    bench.refused("pear absent --yes", &["absent"]);
    bench.refused("pear rope", &["--yes"]);
    bench.refused("pear rope --yes --data absent.jsonl", &["absent.jsonl"]);
    bench.refused("pear rope --yes --text absent.txt", &["absent.txt"]);
    bench.write("empty.jsonl", "");
    bench.refused(
        "pear rope --yes --data empty.jsonl",
        &["empty.jsonl", "no usable question"],
    );
    bench.write("half.jsonl", "{\"question\": \"the");
    bench.refused(
        "pear rope --yes --data half.jsonl",
        &["half.jsonl", "line 1"],
    );
    bench.write("other.jsonl", "{\"question\": \"the dog\"}\n");
    bench.refused(
        "pear rope --yes --data other.jsonl",
        &["other.jsonl", "record 1", "context"],
    );
    bench.write("type.jsonl", "{\"question\": 3}\n");
    bench.refused(
        "pear rope --yes --data type.jsonl",
        &["type.jsonl", "line 1"],
    );
    bench.write("bytes.jsonl", [0xff, 0xfe, 0x00]);
    bench.refused("pear rope --yes --data bytes.jsonl", &["bytes.jsonl"]);
    fs::create_dir(bench.path("taken")).unwrap();
    bench.write("taken/file", "");
    bench.refused(
        "pear rope --yes --out taken",
        &["--out taken", "other files"],
    );
    bench.refused("pear rope --yes --out empty.jsonl", &["--out empty.jsonl"]);
}

#[test]
fn too_few_questions_are_refused_by_number() {
    let bench = bench();
    let text = "the old dog sees a boy near the river .";
    let line =
        format!("{{\"question\": \"{text}\", \"context\": \"{text}\", \"answer\": \"boy\"}}\n");
    bench.write("few.jsonl", line);
    let output = bench.run("pear rope --yes --out out --data few.jsonl");
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(UNUSABLE), "{error}");
    assert!(error.contains("few.jsonl"), "{error}");
}
