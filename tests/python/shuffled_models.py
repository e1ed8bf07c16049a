"""Writes a trained model twice, for examples/perplexity.rs: merged, and as its residual with factors.

    shuffled_models.py BASE CHECKPOINT TARGET

BASE is a Hugging Face directory in float32, CHECKPOINT the directory of a SORSA checkpoint's factors
(model.safetensors, init.safetensors, config.json). TARGET/residual becomes the whole checkpoint with
residuals in bfloat16, TARGET/merged the same model with the factors folded in, in float32.

Both are shuffled: the order of channels, which means nothing to a model, is changed wherever a group
of weights that share a scale would lie. A base that was quantised once would otherwise be rounded
back to its own grid, at no error.
"""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file


def main():
    base, checkpoint, target = map(pathlib.Path, sys.argv[1:])
    config = json.loads((base / "config.json").read_text())
    weights = load_file(base / "model.safetensors")
    initial = load_file(checkpoint / "init.safetensors")
    trained = load_file(checkpoint / "model.safetensors")
    order = orders(config)

    residual, merged = {}, {}
    for name, weight in weights.items():
        rows, columns = (order[axis] for axis in axes(name))
        path = "model." + name.removesuffix(".weight")
        a, s, b = (f"{path}.sorsa_{role}" for role in "ASB")
        if a in initial:
            weight = (weight - (initial[b] * initial[s]) @ initial[a]).bfloat16()
            part = (trained[b].float() * trained[s].float()) @ trained[a].float()
            merged[name] = shuffle(weight.float() + part, rows, columns)
            residual[a] = shuffle(trained[a], None, columns)
            residual[s] = trained[s].contiguous()
            residual[b] = shuffle(trained[b], rows, None)
        else:
            merged[name] = shuffle(weight.float(), rows, columns)
        residual[f"model.{name}"] = shuffle(weight, rows, columns)

    for name, tensors in (("residual", residual), ("merged", merged)):
        (target / name).mkdir(parents=True)
        save_file(tensors, target / name / "model.safetensors")
    shutil.copy(checkpoint / "config.json", target / "residual")
    for file in base.glob("*.json"):
        shutil.copy(file, target / "merged")


def orders(config):
    """A random order of each kind of axis."""
    torch.manual_seed(0)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width = config["hidden_size"] // heads
    within = torch.randperm(width)
    each = lambda count: torch.cat([head * width + within for head in range(count)])
    return {
        None: None,
        "hidden": torch.randperm(config["hidden_size"]),
        "inner": torch.randperm(config["intermediate_size"]),
        "values": each(kv_heads),
        "heads": each(heads),
    }


def axes(name):
    """What the rows and the columns of a weight are."""
    match name.split(".")[-2]:
        case "embed_tokens" | "lm_head" | "q_proj" | "k_proj":
            return None, "hidden"
        case "v_proj":
            return "values", "hidden"
        case "o_proj":
            return "hidden", "heads"
        case "gate_proj" | "up_proj":
            return "inner", "hidden"
        case "down_proj":
            return "hidden", "inner"
        case _:
            return "hidden", None


def shuffle(weight, rows, columns):
    if rows is not None:
        weight = weight[rows]
    if columns is not None:
        weight = weight[:, columns]
    return weight.contiguous()


main()
