"""Measures profiles independently of this project, in PyTorch: faithfulness to the context against harm.

    python benches/reference/front.py MODEL.gguf DATA PROFILE.json...

MODEL.gguf is read by transformers, a profile by the few lines below. DATA is a folder with `comp-mech.jsonl.gz` (`base_prompt`, `prompt`,
`target_true`, `target_new`), `nq-swap.jsonl.gz` (`question`, `org_context`, `org_answer`, `sub_context`, `sub_answer`) and a text,
`wikitext-2-valid.txt.gz`. One line for each profile, changes against the unmodified model with standard errors of paired differences:

- context: share of facts where the answer of a contradicting context beats the remembered one, in points. Facts are those with answers of
  one token whose right answer the unmodified model finds most likely without a context.
- kl, same: mean KL divergence over all positions of pieces of 512 tokens, in nats; share of positions with the same most likely token.
- swap, agree, closed: log-probability of the first token of the answer in the passage, for passages with another answer put in, for
  the original passages, and, of the original answer, without a passage.
- known: share of the facts whose right answer is still the most likely one without a context, in points.
"""

import gzip
import json
import random
import re
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PIECES, PIECE_LENGTH, PASSAGES, PASSAGE_CHARS, TOKENS_AT_ONCE = 24, 512, 200, 900, 4096


class Reweighted:
    """A model of the Llama kind, the outputs of whose heads are multiplied before the output projection."""

    def __init__(self, model):
        self.model, self.alpha = model, None
        self.shape = (model.config.num_hidden_layers, model.config.num_attention_heads)
        for index, layer in enumerate(model.model.layers):
            layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args, index=index: self.scale(index, args[0]))

    def scale(self, layer, heads):
        if self.alpha is None:
            return None
        split = heads.unflatten(-1, (self.shape[1], -1))
        return ((split * self.alpha[layer][:, None]).flatten(-2),)

    def read_profile(self, path):
        self.alpha = torch.ones(self.shape)
        for entry in json.loads(Path(path).read_text())["coefficients"]:
            self.alpha[entry["layer"], entry["head"]] = entry["value"]

    def log_probs(self, tokens, rows):
        """At some positions of `[batch, seq]`: `[len(rows), vocab]`."""
        hidden = self.model.model(input_ids=tokens, use_cache=False).last_hidden_state
        return self.model.lm_head(hidden[rows]).float().log_softmax(-1)

    def next_token(self, prompts):
        """Log-probabilities behind each prompt, `[vocab]` each, one batch of similar lengths at a time."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        while order:
            batch = [order.pop(0)]
            while order and len(prompts[order[0]]) * (len(batch) + 1) <= TOKENS_AT_ONCE:
                batch.append(order.pop(0))
            length = len(prompts[batch[-1]])
            tokens = torch.tensor([prompts[index] + [0] * (length - len(prompts[index])) for index in batch])
            last = torch.tensor([len(prompts[index]) - 1 for index in batch])
            yield from zip(batch, self.log_probs(tokens, (torch.arange(len(batch)), last)))


def lines(path):
    return [json.loads(line) for line in gzip.open(path, "rt")]


class Facts:
    def __init__(self, model, encode, path):
        facts = {}
        for fact in lines(path):
            targets = [encode(fact[key]) for key in ("target_true", "target_new")]
            if all(len(target) == 1 for target in targets):
                prompts = [encode(fact[key].removeprefix("Redefine: ")) for key in ("base_prompt", "prompt")]
                facts.setdefault(fact["base_prompt"], (*prompts, targets[0][0], targets[1][0]))
        facts = list(facts.values())
        top = {index: int(row.argmax()) for index, row in model.next_token([fact[0] for fact in facts])}
        self.facts = [fact for index, fact in enumerate(facts) if top[index] == fact[2]]

    def measure(self, model):
        context, known = torch.zeros(len(self.facts)), torch.zeros(len(self.facts))
        for index, row in model.next_token([fact[1] for fact in self.facts]):
            context[index] = float(row[self.facts[index][3]] > row[self.facts[index][2]])
        for index, row in model.next_token([fact[0] for fact in self.facts]):
            known[index] = float(row.argmax() == self.facts[index][2])
        return {"context": 100 * context, "known": 100 * known}


def cleaned(passage):
    passage = re.sub(r"\s+", " ", re.sub(r"</?P>", " ", passage)).strip()
    return re.sub(r" ([.,;:!?%)'])", r"\1", passage)


class Passages:
    def __init__(self, chat, encode, path):
        rows = lines(path)
        random.Random(0).shuffle(rows)
        found = {}
        for row in rows:
            swapped, original = cleaned(row["sub_context"]), cleaned(row["org_context"])
            answers = [encode(row[key][0])[0] for key in ("sub_answer", "org_answer")]
            if max(len(swapped), len(original)) > PASSAGE_CHARS or answers[0] == answers[1]:
                continue
            question = f"Using only the text above, answer in a few words.\nQuestion: {row['question']}?"
            prompts = [chat(f"{passage}\n\n{question}") for passage in (swapped, original)]
            closed = chat(f"Answer in a few words.\nQuestion: {row['question']}?")
            found.setdefault(row["question"], ((prompts[0], answers[0]), (prompts[1], answers[1]), (closed, answers[1])))
        self.items = list(found.values())[:PASSAGES]

    def measure(self, model):
        result = {}
        for place, name in enumerate(["swap", "agree", "closed"]):
            prompts = [item[place][0] for item in self.items]
            values = torch.zeros(len(prompts))
            for index, row in model.next_token(prompts):
                values[index] = row[self.items[index][place][1]]
            result[name] = values
        return result


class Text:
    def __init__(self, encode, path):
        tokens = encode(gzip.open(path, "rt").read())
        stride = len(tokens) // PIECES
        self.pieces = [torch.tensor([tokens[start * stride : start * stride + PIECE_LENGTH]]) for start in range(PIECES)]

    def measure(self, model):
        kl, same, alpha = [], [], model.alpha
        for piece in self.pieces:
            model.alpha = None
            before = model.log_probs(piece, 0)
            model.alpha = alpha
            after = model.log_probs(piece, 0)
            kl.append((before.exp() * (before - after)).sum(-1))
            same.append(100 * (before.argmax(-1) == after.argmax(-1)).float())
        return torch.cat(kl), torch.cat(same)


@torch.no_grad()
def main(path, data, *profiles):
    path, data = Path(path), Path(data)
    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = Reweighted(AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval())
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    chat = lambda text: encode(
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
    )
    facts = Facts(model, encode, data / "comp-mech.jsonl.gz")
    passages = Passages(chat, encode, data / "nq-swap.jsonl.gz")
    text = Text(encode, data / "wikitext-2-valid.txt.gz")
    before = facts.measure(model) | passages.measure(model)
    print("unmodified:", *(f"{name} {values.mean():.3f} (of {len(values)})" for name, values in before.items()), flush=True)
    for profile in profiles:
        model.read_profile(profile)
        kl, same = text.measure(model)
        changes = [f"kl {kl.mean():.4f}", f"same {same.mean():.1f} %"]
        for name, values in (facts.measure(model) | passages.measure(model)).items():
            change = values - before[name]
            changes.append(f"{name} {change.mean():+.2f} ({change.std() / len(change) ** 0.5:.2f})")
        model.alpha = None
        print(f"{profile}:", ", ".join(changes), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
