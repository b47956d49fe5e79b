"""Reading a prompt and generating after it over PyTorch and transformers.

    pip install -r requirements.txt
    python benches/reference/generate.py --model DIR [--dtype float32] [--prompt 512] [--new 128] [--threads 2] [--load]

`--load`: only loads the checkpoint, and says how long that takes and what memory.
"""

import argparse
import resource
import statistics
import time

import torch
import transformers


def peak():
    """Bytes; not what was inherited from the parent process."""
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--dtype", default="float32")
    arguments.add_argument("--prompt", type=int, default=512)
    arguments.add_argument("--new", type=int, default=128)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--load", action="store_true")
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    before, started = peak(), time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype)).eval()
    if arguments.load:
        total = sum(p.double().sum().item() for p in model.parameters())  # every page was read
        print(f"seconds {time.perf_counter() - started}\npeak_bytes {peak() - before}\nchecksum {total}")
        return
    prompt = torch.arange(arguments.prompt)[None] * 7 % 31991 + 5
    prefill, decode = [], []
    with torch.inference_mode():
        for _ in range(4):
            started = time.perf_counter()
            out = model(prompt, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1:].argmax(-1)
            read = time.perf_counter()
            for _ in range(arguments.new - 1):
                out = model(token, past_key_values=out.past_key_values, use_cache=True)
                token = out.logits[:, -1:].argmax(-1)
            prefill.append(read - started)
            decode.append((time.perf_counter() - read) / (arguments.new - 1))
    print(f"prefill_seconds {statistics.median(prefill[1:])}\ndecode_seconds {statistics.median(decode[1:])}\npeak_bytes {peak()}")


main()
