//! The commands on wgpu, a software driver if there is no GPU: what they give on the CPU.

mod common;

use common::Bench;

#[test]
fn commands_give_on_wgpu_what_they_give_on_the_cpu() {
    let bench = Bench::new();
    bench.write("tokens.jsonl", "[1, 5, 9, 33, 7, 80, 12]");
    bench.ok("score --model {llama-2} --tokens tokens.jsonl --out cpu.json");
    bench.ok(
        "score --model {llama-2} --tokens tokens.jsonl --device wgpu --dtype f32 --out gpu.json",
    );
    bench.assert_near(["cpu.json", "gpu.json"], "/log_probs", 1e-4);
    // In the half precision that the device computes in, if there is one.
    bench.ok("score --model {llama-2} --tokens tokens.jsonl --device wgpu --out gpu.json");
    bench.assert_near(["cpu.json", "gpu.json"], "/log_probs", 0.3);
    let locate = "locate --model {llama-2} --lengths 5 --samples 4 --metric log-prob-diff";
    bench.ok(&format!("{locate} --out cpu.json"));
    bench.ok(&format!(
        "{locate} --device wgpu --dtype f32 --out gpu.json"
    ));
    bench.assert_near(["cpu.json", "gpu.json"], "/by_length/0/scores", 1e-4);
}
