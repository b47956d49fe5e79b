"""Answers to many prompts over PyTorch and transformers, in batches of similar length.

    pip install -r requirements.txt
    python benches/reference/answer.py --model DIR|FILE.gguf --prompts FILE --out FILE [--dtype float32] [--batch-tokens 16384] [--threads 2]

The prompts are a JSON object: `prompts` (token ids), `eos_tokens`, `max_new_tokens`. The new tokens are written to `--out`.
"""

import argparse
import json
import pathlib
import time

import torch
import transformers


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--prompts", required=True)
    arguments.add_argument("--out", required=True)
    arguments.add_argument("--dtype", default="float32")
    arguments.add_argument("--batch-tokens", type=int, default=16384)
    arguments.add_argument("--threads", type=int, default=2)
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    request = json.load(open(arguments.prompts))
    prompts, eos, new = request["prompts"], request["eos_tokens"], request["max_new_tokens"]
    dtype = getattr(torch, arguments.dtype)
    path = pathlib.Path(arguments.model)
    place = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = path.parent if place else path
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **place).eval()
    answers = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    started = time.perf_counter()
    with torch.inference_mode():
        while order:
            longest = len(prompts[order[0]])
            rows = max(1, arguments.batch_tokens // (longest + new))
            batch, order = order[:rows], order[rows:]
            padding = [longest - len(prompts[index]) for index in batch]
            tokens = torch.tensor([[0] * empty + prompts[index] for index, empty in zip(batch, padding)])
            mask = torch.tensor([[0] * empty + [1] * (longest - empty) for empty in padding])
            found = model.generate(
                tokens, attention_mask=mask, do_sample=False, max_new_tokens=new, eos_token_id=eos, pad_token_id=eos[0]
            )
            for index, row in zip(batch, found[:, longest:].tolist()):
                end = next((place + 1 for place, token in enumerate(row) if token in eos), len(row))
                answers[index] = row[:end]
    print(f"seconds {time.perf_counter() - started}")
    json.dump(answers, open(arguments.out, "w"))


main()
