"""One training step of head coefficients over PyTorch and transformers.

    pip install -r requirements.txt
    python benches/reference/train.py --style authors|careful [--upper] [--dtype float32] [--steps 3] [--threads 2]

`authors`: single sequences, the gradients of 20 accumulated, as the published code trains. `careful`: one batch of 20, coefficients
applied by hooks on the output projections, every weight frozen. Either way logits and loss are the library's own. The model is random
and of GPT-2-small's shape; ten heads are re-weighted, spread over all layers or over the upper half.
"""

import argparse
import statistics
import time

import torch
from locate import build

LENGTH, BATCH, HEADS = 50, 20, 10


def reweight(model, upper):
    """Coefficients as hooks; returns the parameters."""
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    first = layers // 2 if upper else 0
    chosen = {}
    for index in range(HEADS):
        layer = first + index % (layers - first)
        chosen.setdefault(layer, []).append((5 * index) % heads)
    parameters = []
    for layer, own in chosen.items():
        alpha = torch.nn.Parameter(torch.ones(len(own)))
        parameters.append(alpha)

        def scale(_, inputs, alpha=alpha, own=own):
            z = inputs[0].unflatten(-1, (heads, -1))
            factors = torch.ones(heads).index_put((torch.tensor(own),), alpha)
            return ((z * factors[:, None]).to(z.dtype).flatten(-2),)

        model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(scale)
    return parameters


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--style", choices=("authors", "careful"), required=True)
    arguments.add_argument("--upper", action="store_true")
    arguments.add_argument("--dtype", default="float32")
    arguments.add_argument("--steps", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=2)
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    model = build().to(getattr(torch, arguments.dtype)).requires_grad_(False)
    parameters = reweight(model, arguments.upper)
    optimizer = torch.optim.AdamW(parameters, lr=5e-3, weight_decay=0.0)
    times = []
    for _ in range(arguments.steps + 1):
        half = torch.randint(0, model.config.vocab_size, (BATCH, LENGTH))
        tokens = torch.cat([half, half], 1)
        labels = tokens.clone()
        labels[:, :LENGTH] = -100
        started = time.perf_counter()
        optimizer.zero_grad()
        size = 1 if arguments.style == "authors" else BATCH
        for start in range(0, BATCH, size):
            part = slice(start, start + size)
            loss = model(tokens[part], labels=labels[part], use_cache=False).loss * size / BATCH
            loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - started)
    # The first step warms up.
    print(f"seconds_per_step {statistics.median(times[1:]):.4f}")
    # Of this process alone: the figure of getrusage starts at that of the one that called it.
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    print(f"peak_bytes {int(peak.split()[1]) * 1024}")


if __name__ == "__main__":
    main()
