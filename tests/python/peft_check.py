"""Checks that PEFT loads what `sorsa convert --to peft` writes and computes the same logits.

    python peft_check.py BASE LORA MERGED [--tolerance 1e-4]

BASE is a Hugging Face directory, LORA what `sorsa convert ADAPTER LORA --to peft` wrote, MERGED what
`sorsa merge BASE ADAPTER --out MERGED --dtype f32` wrote. Needs torch, transformers and peft.
"""

import argparse
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

PROMPTS = [[3, 17, 42, 99, 200], list(range(5, 60)), [7], [300, 2, 2, 150, 151, 9, 9, 9, 31, 64, 128]]


def last_logits(model):
    model.eval()
    with torch.no_grad():
        return torch.stack([model(torch.tensor([ids])).logits[0, -1].float() for ids in PROMPTS])


def load(path):
    return AutoModelForCausalLM.from_pretrained(path, torch_dtype=torch.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base")
    parser.add_argument("lora")
    parser.add_argument("merged")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()

    base = last_logits(load(args.base))
    adapted = last_logits(PeftModel.from_pretrained(load(args.base), args.lora))
    merged = last_logits(load(args.merged))

    spread = (adapted.max() - adapted.min()).item()
    off = (adapted - merged).abs().max().item() / spread
    moved = (adapted - base).abs().max().item() / spread
    print(f"PEFT against merged: {off:.1e} of the spread; against the base: {moved:.1e}")
    if moved <= 10 * args.tolerance:
        sys.exit("the adapter changed nothing: PEFT did not apply it")
    if not off <= args.tolerance:
        sys.exit(f"off by {off:.1e}, allowed {args.tolerance:.1e}")


if __name__ == "__main__":
    main()
