#!/usr/bin/env python3
"""Records what transformers computes as the hidden states of the small real model.

    embeddings_reference.py MODEL OUT.json

MODEL is what `sorsa convert --dtype bf16` writes. For some prompts of
`tests/fixtures/smollm2/prompts.json`, each run alone in float32: the mean of `last_hidden_state`
(after the final norm) over all tokens, and that of the last token, both scaled to length 1.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

PROMPTS = Path(__file__).parent.parent / "fixtures" / "smollm2" / "prompts.json"
NAMES = ["chat-capital", "plain-unicode"]


def unit(vector):
    vector = vector.double()
    return [round(value, 7) for value in (vector / vector.norm()).tolist()]


def main():
    folder, out = sys.argv[1:]
    model = transformers.AutoModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
    prompts = {prompt["name"]: prompt["ids"] for prompt in json.loads(PROMPTS.read_text())["prompts"]}
    outputs = {}
    for name in NAMES:
        with torch.no_grad():
            states = model(torch.tensor([prompts[name]])).last_hidden_state[0]
        outputs[name] = {"mean": unit(states.double().mean(0)), "last": unit(states[-1])}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    record = {"dtype": "float32 (bf16 checkpoint upcast)", "versions": versions, "outputs": outputs}
    Path(out).write_text(json.dumps(record) + "\n")


main()
