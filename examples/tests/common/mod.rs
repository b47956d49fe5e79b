//! What the tests of the commands share: a folder to run them in.
#![allow(dead_code, reason = "each test binary uses its share")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A reference model of `pear-models`, or a file beside them.
pub fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/models")
        .join(name)
}

/// A copy of a reference model in a new folder.
pub fn copy_model(name: &str, folder: &Path) {
    fs::create_dir(folder).unwrap();
    for entry in fs::read_dir(model(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// A folder to work in, and runs of commands in it.
pub struct Bench(TempDir);

impl Bench {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path(name), text).unwrap();
        self
    }

    pub fn write_lines<'a>(&self, name: &str, rows: impl IntoIterator<Item = &'a Vec<u32>>) {
        let lines: Vec<String> = rows.into_iter().map(|row| json!(row).to_string()).collect();
        self.write(name, lines.join("\n"));
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// A copy of a reference model, to be changed.
    pub fn copy_model(&self, name: &str, copy: &str) {
        copy_model(name, &self.path(copy));
    }

    /// An example in the folder; `line` is split at spaces, and `{llama-2}` stands for that model's directory.
    pub fn command(&self, line: &str) -> Command {
        let mut words = line.split(' ').map(|word| {
            match word
                .strip_prefix('{')
                .and_then(|word| word.strip_suffix('}'))
            {
                Some(name) => model(name).display().to_string(),
                None => word.into(),
            }
        });
        let test = std::env::current_exe().unwrap();
        let program = test
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("examples")
            .join(words.next().unwrap());
        let mut command = Command::new(&program);
        command
            .args(words)
            .current_dir(self.0.path())
            .env_remove("RUST_BACKTRACE");
        assert!(
            program.exists(),
            "{}: build the examples first",
            program.display()
        );
        command
    }

    pub fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// Runs an example that must succeed; gives what it prints.
    pub fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs an example that must fail, with one line that holds `parts`, and leave nothing behind.
    pub fn refused(&self, line: &str, parts: &[&str]) {
        let before = self.files();
        let output = self.run(line);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}: {error}");
        assert!(
            error.starts_with("error: ")
                && error.trim_end().lines().count() == 1
                && error.len() < 2000,
            "{line}: {error}"
        );
        assert!(!error.contains("internal error"), "{line}: {error}");
        for part in parts {
            assert!(error.contains(part), "{line}: `{part}` is not in: {error}");
        }
        assert_eq!(self.files(), before, "{line}");
    }

    pub fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The largest difference between the numbers at a path of two files, one by one.
    pub fn largest_difference(&self, files: [&str; 2], path: &str) -> f64 {
        let [ours, theirs] = files.map(|file| numbers(self.json(file).pointer(path).unwrap()));
        assert!(!ours.is_empty() && ours.len() == theirs.len(), "{path}");
        let differences = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f64::max)
    }

    /// The numbers at a path of two files, one by one, differ by less than a tolerance.
    #[track_caller]
    pub fn assert_near(&self, files: [&str; 2], path: &str, tolerance: f64) {
        let [ours, theirs] = files.map(|file| numbers(self.json(file).pointer(path).unwrap()));
        assert!(!ours.is_empty() && ours.len() == theirs.len(), "{path}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!(
                (ours - theirs).abs() < tolerance,
                "{path}: {ours} and {theirs}"
            );
        }
    }
}

/// Every number of a value, in order.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Object(map) => map.values().flat_map(numbers).collect(),
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        value => value.as_f64().into_iter().collect(),
    }
}
