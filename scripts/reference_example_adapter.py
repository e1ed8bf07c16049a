#!/usr/bin/env python3
"""Writes what the example adapter must answer, computed in float32 with PyTorch.

    python3 scripts/reference_example_adapter.py MODEL_DIR ADAPTER_DIR OUT.json

MODEL_DIR as for train_example_adapter.py, whose forward pass this uses: the trained factors on the
residual, never merged, so it shares no code and no formula with the server's low-rank delta.
Per question: the prompt's ids, the largest logits at its last position, and the greedy tokens with
the margin of each choice over the next best.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from train_example_adapter import Chat, Llama

QUESTIONS = ["What is the capital of France?", "How do I bake bread?", "Who are you?"]
TOP, TOKENS = 10, 24


@torch.no_grad()
def reference(model: Llama, prompt: list[int]) -> dict:
    ids, margins, top = [], [], None
    while len(ids) < TOKENS and model.config["eos_token_id"] not in ids:
        best = torch.topk(model.logits(model(torch.tensor([prompt + ids]))[0, -1]), TOP)
        top = top or [[int(i), round(float(v), 5)] for i, v in zip(best.indices, best.values)]
        ids.append(int(best.indices[0]))
        margins.append(round(float(best.values[0] - best.values[1]), 5))
    return {"prompt": prompt, "top_logits": top, "greedy": ids, "margins": margins}


def product(factors: dict) -> torch.Tensor:
    return (factors["B"].double() * factors["S"].double()) @ factors["A"].double()


def load(model: Llama, directory: Path) -> None:
    """The file's factors; the residual becomes the weight less the file's initial factors."""
    tensors = load_file(directory / "adapter_model.safetensors")
    for key, module in model.adapters.items():
        path = "base_model.model." + key.replace("/", ".")
        for name in "ASB":
            getattr(module, name).data = tensors[f"{path}.sorsa_{name}.weight"]
        initial = {name: tensors[f"{path}.sorsa_{name}_init.weight"] for name in "ASB"}
        weight = module.residual.double() + product(module.initial)
        module.residual = (weight - product(initial)).float()


def main() -> None:
    model_dir, adapter_dir, out = map(Path, sys.argv[1:])
    config = json.loads((adapter_dir / "adapter_config.json").read_text())
    chat = Chat(model_dir)
    model = Llama(model_dir, config["r"], config["target_modules"])
    cases = {"base": [reference(model, chat.encode(q)[0]) for q in QUESTIONS]}
    load(model, adapter_dir)
    cases["adapter"] = [reference(model, chat.encode(q)[0]) for q in QUESTIONS]
    for name, answers in cases.items():
        for question, answer in zip(QUESTIONS, answers):
            print(f"{name}: {question} -> {chat.tokenizer.decode(answer['greedy'])!r}")
            answer["question"] = question
    rows = {name: [json.dumps(answer) for answer in answers] for name, answers in cases.items()}
    body = ",\n".join(f'"{name}": [\n' + ",\n".join(lines) + "\n]" for name, lines in rows.items())
    out.write_text("{\n" + body + "\n}\n")


if __name__ == "__main__":
    main()
