"""The authors' way of locating heads, over PyTorch and transformers: path patching by whole forward passes.

    pip install -r requirements.txt
    python benches/reference/locate.py [--heads 1] [--threads 2]

As in the published code, every head costs five passes of the whole model over all proxy sequences: one that caches what every
head puts out, one with the head replaced by the batch mean and all others frozen, one that feeds the resulting residual stream
to the logits, and two more in which the score is read off. Only `--heads` of the heads are run; the time of all of them is that
time scaled up, and said to be. The model is random and of GPT-2-small's shape, so that no download is needed.
"""

import argparse
import time

import torch
import transformers

LENGTHS = ((50, 20), (25, 40), (15, 80), (10, 100))


def build(layers=12, heads=12, hidden=768, vocabulary=32000):
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def run(model, tokens, edit=None):
    """One pass; `edit(layer, z)` sees and may change the input of the output projection, [batch, seq, heads * head_dim]."""
    hooks = []
    if edit:
        for layer, block in enumerate(model.model.layers):
            hook = lambda _, inputs, layer=layer: (edit(layer, inputs[0]),)
            hooks.append(block.self_attn.o_proj.register_forward_pre_hook(hook))
    try:
        return model(tokens, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()


def score(model, tokens, layer, head):
    """The published score of one head on one batch: difference of centred logits, and the passes it takes."""
    n = tokens.shape[1] // 2
    position, target = 2 * n - 2, tokens[:, n - 1]
    width = model.config.hidden_size // model.config.num_attention_heads
    cache = {}
    run(model, tokens, lambda l, z: cache.setdefault(l, z))

    def patched(l, z):
        frozen = cache[l].clone()
        if l == layer:
            part = slice(head * width, (head + 1) * width)
            frozen[:, position, part] = frozen[:, position, part].mean(0)
        return frozen

    run(model, tokens, patched)
    residual = run(model, tokens, patched)
    base, after = run(model, tokens), run(model, tokens, patched)
    rows = torch.arange(len(tokens))
    centred = lambda logits: logits[rows, position, target] - logits[rows, position].mean(-1)
    del residual
    return (centred(after) - centred(base)).mean().item()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--heads", type=int, default=1)
    arguments.add_argument("--threads", type=int, default=2)
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    model = build()
    all_heads = model.config.num_hidden_layers * model.config.num_attention_heads
    started = time.perf_counter()
    with torch.no_grad():
        for index in range(arguments.heads):
            layer, head = divmod(index * 7 % all_heads, model.config.num_attention_heads)
            for n, samples in LENGTHS:
                half = torch.randint(0, model.config.vocab_size, (samples, n))
                score(model, torch.cat([half, half], 1), layer, head)
    seconds = (time.perf_counter() - started) / arguments.heads
    print(f"seconds_per_head {seconds:.3f}")
    print(f"seconds_all_heads {seconds * all_heads:.1f}  (scaled up from {arguments.heads} of {all_heads} heads)")


if __name__ == "__main__":
    main()
