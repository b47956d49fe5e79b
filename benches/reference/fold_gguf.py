"""Measures what folding into GGUF files of each type changes: the table of pear-models/docs/gguf-folding.md.

    cargo build --release --example export
    python benches/reference/fold_gguf.py MODEL.gguf LLAMA_QUANTIZE TOKENS.jsonl FOLDER

MODEL.gguf is a Llama-style model, such as SmolLM2-135M-Instruct; LLAMA_QUANTIZE is llama.cpp's `llama-quantize`; TOKENS.jsonl holds sequences
of token ids of some text, one array a line. The model is dequantised and written to FOLDER with a multiple of 256 inputs to its output
projections, which the K and IQ types need: heads of zeros are added, which change nothing that it computes. It is then quantised to each type
by llama.cpp, folded by `export` with coefficients of four heads, and run beside the quantised model with the coefficients attached, in f32.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np

# The type of the file, and of its output projections where that is to be another one.
TYPES = [
    ("F32", None), ("F16", None), ("BF16", None),
    ("Q4_0", None), ("Q4_1", None), ("Q5_0", None), ("Q5_1", None), ("Q8_0", None), ("IQ4_NL", None),
    ("Q4_K_M", None), ("Q5_K_M", None), ("Q6_K", None), ("IQ4_XS", None),
    ("Q3_K_M", "q3_k"), ("Q2_K", "q2_k"), ("Q8_0", "iq3_s"), ("Q8_0", "tq2_0"),
]
# Coefficients of heads in four layers.
HEADS = [(0.62, 3), (0.55, 4), (1.7, 8), (-0.4, 0)]
WIDTH = 256
EXPORT = Path(__file__).parents[2] / "target/release/examples/export"


def padded(source, target):
    """Writes the model in f32, with heads of zeros behind the others."""
    reader = gguf.GGUFReader(source)
    value = lambda key: reader.get_field(key).contents()
    heads, key_value_heads = value("llama.attention.head_count"), value("llama.attention.head_count_kv")
    head_dim = value("llama.embedding_length") // heads
    group = heads // key_value_heads
    new_key_value_heads = key_value_heads
    while new_key_value_heads * group * head_dim % WIDTH:
        new_key_value_heads += 1
    rows = {"attn_q": new_key_value_heads * group * head_dim}
    rows |= dict.fromkeys(["attn_k", "attn_v"], new_key_value_heads * head_dim)
    changed = {
        "llama.attention.head_count": new_key_value_heads * group,
        "llama.attention.head_count_kv": new_key_value_heads,
        "general.file_type": 0,
    }
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, changed.get(field.name, field.contents()), field.types[0], inner)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        kind = tensor.name.split(".")[-2]
        if kind in rows:
            numbers = np.pad(numbers, ((0, rows[kind] - len(numbers)), (0, 0)))
        elif kind == "attn_output":
            numbers = np.pad(numbers, ((0, 0), (0, rows["attn_q"] - numbers.shape[1])))
        writer.add_tensor(tensor.name, np.ascontiguousarray(numbers))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return value("llama.block_count"), new_key_value_heads * group


def run(*arguments):
    result = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{arguments[0]}: {result.stderr[-2000:]}")
    return result.stdout


def main(source, quantize, tokens, folder):
    folder.mkdir(parents=True, exist_ok=True)
    full = folder / "f32.gguf"
    layers, heads = padded(source, full)
    coefficients = [
        {"layer": layers * (2 + place) // 6, "head": head, "value": value} for place, (value, head) in enumerate(HEADS)
    ]
    model = {"architecture": "llama", "num_layers": layers, "num_heads": heads}
    profile = {"format": "pear-profile", "version": 1, "model": model, "coefficients": coefficients}
    (folder / "profile.json").write_text(json.dumps(profile))
    print("| file | projection | route | error | bytes | KL |\n| --- | --- | --- | --- | --- | --- |")
    for file_type, projection in TYPES:
        path, out = folder / "quantized.gguf", folder / "folded.gguf"
        out.unlink(missing_ok=True)
        override = ["--tensor-type", f"attn_output={projection}"] if projection else []
        if file_type == "F32":
            path = full
        else:
            run(quantize, *override, full, path, file_type)
        printed = run(EXPORT, "--model", path, "--profile", folder / "profile.json", "--out", out, "--verify", tokens)
        lines = printed.splitlines()
        rows = [re.split(r"  +", line.strip()) for line in lines if ".attn_output." in line]
        [(dtype, route)] = {(row[3], row[4]) for row in rows}
        error = max(float(row[5]) for row in rows)
        before, after = (sum(int(row[column]) for row in rows) for column in (6, 7))
        divergence = lines[-1].split(": ")[1].split(" nats")[0]
        print(f"| {file_type} | {dtype} | {route} | {error:.1e} | {after / before - 1:+.0%} | {divergence} |", flush=True)


main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
