//! Two devices served by two processes: locating and training on them give what this process gives by itself.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use common::Bench;

/// A running `serve`, ended with the test.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(bench: &Bench, token: &str) -> Self {
        let local = if token.is_empty() {
            " --insecure-local"
        } else {
            ""
        };
        let mut command = bench.command(&format!("serve --listen 127.0.0.1:0{local}"));
        let mut process = command
            .env("PEAR_TOKEN", token)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line
            .trim()
            .strip_prefix("serving ")
            .unwrap_or_else(|| panic!("it said `{line}`"))
            .into();
        Self { process, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

#[test]
fn two_served_devices_locate_and_train_as_one_at_hand() {
    let bench = Bench::new();
    let servers = [Server::start(&bench, ""), Server::start(&bench, "")];
    let [first, second] = servers.each_ref().map(|server| &server.url);
    for mode in ["activation --ablation batch-mean", "path"] {
        let flags = format!(
            "--model {{llama-2}} --lengths 5,7 --samples 4,3 --metric log-prob-diff --mode {mode}"
        );
        bench.ok(&format!("locate {flags} --out here.json"));
        bench.ok(&format!(
            "locate {flags} --device {first} --dtype f32 --also-device {second} --out there.json"
        ));
        bench.assert_near(["here.json", "there.json"], "/by_length/0/scores", 1e-5);
        bench.assert_near(["here.json", "there.json"], "/by_length/1/scores", 1e-5);
    }
    let flags = "--model {llama-2} --heads 0.1,1.2 --length 6 --batch-size 4 --steps 5";
    bench.ok(&format!("train {flags} --out here.json"));
    bench.ok(&format!(
        "train {flags} --device {first} --dtype f32 --also-device {second} --out there.json"
    ));
    bench.assert_near(["here.json", "there.json"], "/coefficients", 1e-5);
    bench.assert_near(["here.json", "there.json"], "/training/loss", 1e-5);
}

#[test]
fn a_server_that_is_not_there_or_wants_a_token_is_said() {
    let bench = Bench::new();
    let score = "score --model {llama-2} --tokens tokens.jsonl --out out.json --dtype f32";
    bench.write("tokens.jsonl", "[1, 5, 9]");
    let server = Server::start(&bench, "secret");
    bench.refused(
        &format!("{score} --device {}", server.url),
        &["--device ws://127.0.0.1:", "no device is served there"],
    );
    let output = bench
        .command(&format!("{score} --device {}", server.url))
        .env("PEAR_TOKEN", "secret")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let url = server.url.clone();
    drop(server);
    bench.refused(
        &format!("{score} --device {url}"),
        &["--device ws://127.0.0.1:", "no device is served there"],
    );
}

#[test]
fn a_server_without_a_token_is_refused_unless_only_this_machine_reaches_it() {
    let bench = Bench::new();
    bench.refused("serve --listen 127.0.0.1:0", &["PEAR_TOKEN"]);
    bench.refused(
        "serve --listen 0.0.0.0:0 --insecure-local",
        &["--insecure-local", "PEAR_TOKEN"],
    );
}
