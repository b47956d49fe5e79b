//! A program outside the workspace, built against the four crates as a user's would be, and run (see `stranger/`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn a_program_outside_the_workspace_uses_all_four_crates() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = package.parent().unwrap();
    let program = package.join("tests/stranger");
    let folder = tempfile::tempdir().unwrap();

    // The sources outside the workspace, with its choice of releases: no network is needed.
    let sources = folder.path().join("program");
    fs::create_dir_all(sources.join("src")).unwrap();
    for file in fs::read_dir(program.join("src")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), sources.join("src").join(file.file_name())).unwrap();
    }
    // Depending on the commands as well turns on what they do in the crates that both need, so that those are not built again.
    let manifest = fs::read_to_string(program.join("Cargo.toml")).unwrap();
    let shared =
        format!("\n[target.'cfg(all())'.dependencies]\npear-examples.path = {package:?}\n");
    fs::write(sources.join("Cargo.toml"), manifest + &shared).unwrap();
    fs::copy(workspace.join("Cargo.lock"), sources.join("Cargo.lock")).unwrap();

    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--release", "--offline", "--quiet"]);
    for name in ["pear-core", "pear-locate", "pear-train", "pear-models"] {
        let patch = format!("patch.crates-io.{name}.path={:?}", workspace.join(name));
        cargo.args(["--config", &patch]);
    }
    let output = cargo
        .arg("--")
        .arg(folder.path())
        .current_dir(&sources)
        .env("CARGO_TARGET_DIR", target_directory())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{errors}");
    assert!(printed.ends_with("all steps passed\n"), "{printed}");
    assert!(folder.path().join("folded/model.safetensors").exists());
}

/// Where this test itself was built.
fn target_directory() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/release/deps/stranger-0123
    test.ancestors().nth(3).unwrap().to_owned()
}
