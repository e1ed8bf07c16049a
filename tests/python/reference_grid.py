#!/usr/bin/env python3
"""Makes small checkpoints with the paper's own library, and records what it computes with them.

    reference_grid.py OUT_DIR

For every case: `base/` (a plain Hugging Face model with a tokenizer), `init/` (the checkpoint as the
library initialises it), `trained/` (its factors moved, as training would), and `reference.json` with
the logits of each prompt's last position for the base and for the trained, un-merged model, and the
greedy tokens of the trained model with the margin of each choice, all computed in float32 from the
saved tensors. Needs the packages of `reference_requirements.txt`.
"""

import json
import os
import random
import shutil
import sys
import warnings

warnings.simplefilter("ignore")

import torch
from sorsa import SORSAConfig, SORSAModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VOCABULARY = 300
NEW_TOKENS = 12
F32, BF16 = torch.float32, torch.bfloat16

# Each row differs from a plain case in what its name says; together they hold every value of every
# setting that changes the file.
CASES = {
    "rank1": dict(rank=1),
    "rank4-alpha8": dict(rank=4, alpha=8),
    "rank16": dict(rank=16),
    "rank16-alpha8-bf16-residual": dict(rank=16, alpha=8, weight=BF16),
    "one-key-value-head": dict(rank=4, kv_heads=1, weight=BF16),
    "as-many-key-value-heads": dict(rank=4, kv_heads=4),
    "biases": dict(rank=4, bias=True, alpha=8),
    "dict-targets": dict(rank=4, targets={"a": "q_proj", "b": "down_proj"}),
    "sharded": dict(rank=4, shard="40KB", weight=BF16),
    "tied": dict(rank=4, tied=True),
    "tied-head-saved": dict(rank=4, tied=True, resave=True),
    "all-bf16": dict(rank=4, weight=BF16, factors=BF16, alpha=8, tied=True),
    "output-head-too": dict(rank=4, targets=[*ALL, "lm_head"]),
}


def write_tokenizer(folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["a small text to make merges of", "and another small one"] * 4, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def make_base(folder, seed, tied, bias, kv_heads):
    os.makedirs(folder)
    write_tokenizer(folder)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=kv_heads, max_position_embeddings=128,
        tie_word_embeddings=tied, attention_bias=bias, mlp_bias=bias, bos_token_id=1, eos_token_id=2,
        initializer_range=0.15,
    ))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.1)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def last_logits(model, prompts):
    return [model(input_ids=torch.tensor([prompt])).logits[0, -1].tolist() for prompt in prompts]


@torch.no_grad()
def greedy(model, prompts):
    tokens, margins = [], []
    for prompt in prompts:
        ids, gaps = list(prompt), []
        for _ in range(NEW_TOKENS):
            best = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2)
            gaps.append(float(best.values[0] - best.values[1]))
            ids.append(int(best.indices[0]))
        tokens.append(ids[len(prompt):])
        margins.append(gaps)
    return tokens, margins


def make_case(folder, seed, rank, alpha=None, tied=False, bias=False, kv_heads=2, weight=F32,
              factors=F32, targets=ALL, shard=None, resave=False):
    base_dir = os.path.join(folder, "base")
    base = make_base(base_dir, seed, tied, bias, kv_heads)
    rng = random.Random(seed)
    prompts = [[rng.randrange(3, VOCABULARY) for _ in range(length)] for length in (1, 7, 40)]
    reference = dict(prompts=prompts, base_logits=last_logits(base.float().eval(), prompts))

    config = SORSAConfig(base_model_name_or_path=base_dir, target_modules=targets, rank=rank, alpha=alpha)
    wrapped = SORSAModel(config)
    wrapped.sorsa_init(weight, factors)
    if factors is BF16:
        wrapped.to(BF16)
    options = dict(max_shard_size=shard) if shard else {}
    wrapped.config.base_model_name_or_path = "base"
    wrapped.save_pretrained(os.path.join(folder, "init"), safe_serialization=True, **options)
    for name, parameter in wrapped.named_parameters():
        if name.endswith(("sorsa_A", "sorsa_B")):
            parameter.data += (0.08 * torch.randn(parameter.shape)).to(parameter.dtype)
        elif name.endswith("sorsa_S"):
            parameter.data += (0.25 * parameter.abs().mean() * torch.randn(parameter.shape)).to(parameter.dtype)
    trained = os.path.join(folder, "trained")
    if resave:
        # The library loses the tie on loading, and writes the head when it saves again.
        for name, parameter in wrapped.named_parameters():
            if name.endswith("lm_head.weight"):
                parameter.data = parameter.data.clone()
        head = wrapped.model.lm_head
        head.weight = torch.nn.Parameter(head.weight.data.clone())
        wrapped.config.tie_word_embeddings = False
    wrapped.save_pretrained(trained, safe_serialization=True, **options)
    wrapped.float().eval()
    reference["trained_unmerged_logits"] = last_logits(wrapped, prompts)
    reference["trained_greedy"], reference["trained_margins"] = greedy(wrapped, prompts)
    with open(os.path.join(folder, "reference.json"), "w") as file:
        json.dump(reference, file)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = sys.argv[1]
    shutil.rmtree(root, ignore_errors=True)
    for seed, (name, settings) in enumerate(CASES.items()):
        make_case(os.path.join(root, name), seed, **settings)
        print("made", name)


main()
