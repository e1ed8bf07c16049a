#!/usr/bin/env python3
"""Holds what lm-evaluation-harness was served against transformers.

    against_transformers.py MODEL_DIR COMPLETIONS_DIR CHATS_DIR GREEDY

MODEL_DIR is the Hugging Face directory that was served, in float32; the others are what lm_eval wrote
with --log_samples. Sums of log-probabilities may differ by 1e-3; which answers are greedy, and greedy
texts, may not. GREEDY is how many of the continuations must be greedy at least: none of a model that
knows nothing.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-3


class Model:
    def __init__(self, directory):
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32)
        self.model.eval()

    @torch.no_grad()
    def score(self, context, continuation):
        """The sum of the continuation's log-probabilities, and whether each is the likeliest."""
        ids = torch.tensor([context + continuation])
        logits = self.model(ids).logits[0, len(context) - 1 : -1].double()
        logprobs = torch.log_softmax(logits, dim=-1)
        expected = torch.tensor(continuation)
        chosen = logprobs.gather(1, expected[:, None]).sum()
        return float(chosen), bool((logprobs.argmax(dim=-1) == expected).all())

    def pair(self, context, continuation):
        # As the harness splits them: what the whole has beyond the context's tokens.
        whole, start = self.tokenizer.encode(context + continuation), len(self.tokenizer.encode(context))
        return self.score(whole[:start], whole[start:])

    def text(self, text):
        first = self.tokenizer.bos_token_id
        first = self.tokenizer.eos_token_id if first is None else first
        return self.score([first], self.tokenizer.encode(text))[0]

    @torch.no_grad()
    def answer(self, ids, until, max_gen_toks, **_):
        """A greedy text up to the first of the strings `until`."""
        rules = {"do_sample": False, "max_new_tokens": max_gen_toks}
        ids = torch.tensor([ids])
        rules |= {"attention_mask": torch.ones_like(ids), "pad_token_id": self.tokenizer.eos_token_id}
        answer = self.model.generate(ids, **rules)[0, ids.shape[1] :]
        text = self.tokenizer.decode(answer, skip_special_tokens=True)
        return text[: min([text.find(stop) for stop in until if stop in text], default=None)]


def samples(directory, task):
    (path,) = Path(directory).rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def main():
    directory, completions, chats, least = sys.argv[1:]
    model = Model(directory)
    likelihoods(model, completions, int(least))
    encode = model.tokenizer.encode
    texts(model, completions, encode)
    template = model.tokenizer.apply_chat_template
    # A chat comes as its messages, written as JSON.
    texts(model, chats, lambda chat: template(json.loads(chat[0]), add_generation_prompt=True))


def texts(model, directory, encode):
    found = samples(directory, "sorsa_answers")
    for sample in found:
        ((asked, rules),) = [tuple(each.values()) for each in sample["arguments"].values()]
        expected = model.answer(encode(asked), **rules)
        served = sample["resps"][0][0]
        assert served == expected, f"{asked!r}: {served!r} instead of {expected!r}"
    assert len(found) == 4, f"{len(found)} answers"
    print(f"{len(found)} greedy answers are the same")


def likelihoods(model, directory, least):
    worst, greedy, count = 0.0, 0, 0
    for sample in samples(directory, "sorsa_choices"):
        for arguments, (served, *_) in zip(sample["arguments"].values(), sample["resps"], strict=True):
            expected, is_greedy = model.pair(arguments["arg_0"], arguments["arg_1"])
            worst = max(worst, abs(float(served[0]) - expected))
            assert served[1] == str(is_greedy), f"{arguments}: is_greedy is {served[1]}"
            greedy, count = greedy + is_greedy, count + 1
    for sample in samples(directory, "sorsa_texts"):
        expected = model.text(sample["doc"]["text"])
        worst, count = max(worst, abs(float(sample["resps"][0][0]) - expected)), count + 1
    print(f"{count} log-likelihoods, {greedy} of them greedy; largest difference {worst:.1e}")
    assert worst <= TOLERANCE, f"above {TOLERANCE}"
    assert count == 36 and least <= greedy <= 27, "the samples say too little"


if __name__ == "__main__":
    main()
