#!/usr/bin/env python3
"""Trains an example adapter of models/adapters with the method of the SORSA paper (arXiv 2409.00055).

    python3 scripts/train_example_adapter.py MODEL_DIR CHATS.tsv OUT_DIR

MODEL_DIR is a Llama model as a Hugging Face directory (config.json, model.safetensors,
tokenizer.json, tokenizer_config.json); `sorsa convert MODEL.gguf MODEL_DIR --dtype bf16` writes one.
CHATS.tsv has a question and its answer on each line, with a tab between. OUT_DIR receives adapter_config.json and adapter_model.safetensors.
Needs torch, safetensors, tokenizers and jinja2. Runs on a CPU, in some ten minutes for 135M parameters.

Each adapted weight W is split by its SVD into a principal part B diag(S) A of rank r, which is trained,
and a residual W - B diag(S) A, which is frozen. The loss is the language model's, on the answers only,
plus the orthonormal regulariser, whose own learning rate is gamma.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import jinja2
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer


class SorsaLinear(torch.nn.Module):
    """y = x Wrᵀ + ((x Aᵀ) * S) Bᵀ, with alpha null: the scale is 1."""

    def __init__(self, weight: torch.Tensor, rank: int):
        super().__init__()
        u, s, vt = torch.linalg.svd(weight.double(), full_matrices=False)
        initial = {"A": vt[:rank], "S": s[:rank], "B": u[:, :rank]}
        self.initial = {name: t.float().contiguous() for name, t in initial.items()}
        a, s, b = (self.initial[name].double() for name in "ASB")
        self.register_buffer("residual", (weight.double() - (b * s) @ a).float())
        self.A, self.S, self.B = (torch.nn.Parameter(self.initial[name].clone()) for name in "ASB")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.residual) + F.linear(F.linear(x, self.A) * self.S, self.B)

    def regulariser(self) -> torch.Tensor:
        """The sum of ‖A Aᵀ − I‖ and ‖Bᵀ B − I‖, Frobenius norms."""
        eye = torch.eye(self.A.shape[0])
        return torch.linalg.norm(self.A @ self.A.T - eye) + torch.linalg.norm(self.B.T @ self.B - eye)


class Llama(torch.nn.Module):
    """The forward pass over whole sequences: no cache, causal, padding on the right."""

    def __init__(self, directory: Path, rank: int, targets: list[str]):
        super().__init__()
        self.config = json.loads((directory / "config.json").read_text())
        tensors = load_file(directory / "model.safetensors")
        self.weights = {name: t.float() for name, t in tensors.items()}
        self.adapters = torch.nn.ModuleDict()
        for name in list(self.weights):
            path = name.removesuffix(".weight")
            if path.rsplit(".", 1)[-1] in targets:
                self.adapters[path.replace(".", "/")] = SorsaLinear(self.weights.pop(name), rank)

    def linear(self, path: str, x: torch.Tensor) -> torch.Tensor:
        key = path.replace(".", "/")
        if key in self.adapters:
            return self.adapters[key](x)
        return F.linear(x, self.weights[f"{path}.weight"], self.weights.get(f"{path}.bias"))

    def norm(self, path: str, x: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return x * scale * self.weights[f"{path}.weight"]

    def attention(self, path: str, x: torch.Tensor) -> torch.Tensor:
        heads, groups = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        head_dim = self.config.get("head_dim") or self.config["hidden_size"] // heads
        rows, length, _ = x.shape
        split = lambda t, n: t.view(rows, length, n, head_dim).transpose(1, 2)
        q = self.rotary(split(self.linear(f"{path}.q_proj", x), heads))
        k = self.rotary(split(self.linear(f"{path}.k_proj", x), groups))
        v = split(self.linear(f"{path}.v_proj", x), groups)
        k, v = (t.repeat_interleave(heads // groups, dim=1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.linear(f"{path}.o_proj", y.transpose(1, 2).reshape(rows, length, -1))

    def rotary(self, x: torch.Tensor) -> torch.Tensor:
        length, dim = x.shape[-2:]
        inv_freq = self.config["rope_theta"] ** (-torch.arange(0, dim, 2).double() / dim)
        angles = torch.outer(torch.arange(length).double(), inv_freq).float()
        cos, sin = angles.cos(), angles.sin()
        x1, x2 = x.chunk(2, dim=-1)
        return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states after the last norm, rows x length x hidden."""
        x = F.embedding(ids, self.weights["model.embed_tokens.weight"])
        for index in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{index}"
            x = x + self.attention(f"{layer}.self_attn", self.norm(f"{layer}.input_layernorm", x))
            h = self.norm(f"{layer}.post_attention_layernorm", x)
            gate = F.silu(self.linear(f"{layer}.mlp.gate_proj", h))
            x = x + self.linear(f"{layer}.mlp.down_proj", gate * self.linear(f"{layer}.mlp.up_proj", h))
        return self.norm("model.norm", x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return F.linear(hidden, head)


class Chat:
    """Renders a question, and an answer to it, as token ids."""

    def __init__(self, directory: Path):
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        config = json.loads((directory / "tokenizer_config.json").read_text())
        self.template = jinja2.Environment().from_string(config["chat_template"])

    def encode(self, question: str, answer: str | None = None) -> tuple[list[int], list[int]]:
        """Ids of the prompt and of the answer with its end-of-turn token."""
        messages = [{"role": "user", "content": question}]
        prompt = self.template.render(messages=messages, add_generation_prompt=True)
        ids = lambda text: self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids(prompt), ids(f"{answer}<|im_end|>") if answer else []


def batches(examples, size: int, rng: random.Random):
    """One epoch: batches of examples of similar length, in random order."""
    by_length = sorted(examples, key=lambda e: len(e[0]) + len(e[1]) + 6 * rng.random())
    groups = [by_length[i : i + size] for i in range(0, len(by_length), size)]
    rng.shuffle(groups)
    for group in groups:
        width = max(len(p) + len(a) for p, a in group)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        labels = torch.full((len(group), width), -100)
        for row, (prompt, answer) in enumerate(group):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            labels[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = torch.tensor(answer)
        yield ids, labels


def train(model: Llama, examples, args) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0)
    steps = args.epochs * math.ceil(len(examples) / args.batch)
    warm = max(1, round(0.03 * steps))
    shape = lambda s: (s + 1) / warm if s < warm else 0.5 * (1 + math.cos(math.pi * (s - warm) / (steps - warm)))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, shape)
    rng, started, step = random.Random(args.seed), time.monotonic(), 0
    for _ in range(args.epochs):
        for ids, labels in batches(examples, args.batch, rng):
            rows = labels != -100
            loss = F.cross_entropy(model.logits(model(ids)[rows]), labels[rows])
            adapters = model.adapters.values()
            reg = sum(a.regulariser() for a in adapters) / (2 * len(model.adapters))
            optimiser.zero_grad()
            (loss + args.gamma / args.lr * reg).backward()
            optimiser.step()
            schedule.step()
            step += 1
            seconds = time.monotonic() - started
            print(f"step {step}/{steps} loss {loss:.3f} reg {reg:.4f} {seconds:.0f} s", flush=True)


@torch.no_grad()
def answer(model: Llama, chat: Chat, question: str, limit: int = 48) -> str:
    """A greedy answer, recomputed from the start for each token."""
    prompt, ids = chat.encode(question)[0], []
    while len(ids) < limit:
        token = int(model.logits(model(torch.tensor([prompt + ids]))[0, -1]).argmax())
        if token == model.config["eos_token_id"]:
            break
        ids.append(token)
    return chat.tokenizer.decode(ids)


def save(model: Llama, args) -> None:
    tensors = {}
    for key, module in model.adapters.items():
        path = "base_model.model." + key.replace("/", ".")
        for name in "ASB":
            tensors[f"{path}.sorsa_{name}.weight"] = getattr(module, name).detach().contiguous()
            tensors[f"{path}.sorsa_{name}_init.weight"] = module.initial[name]
    config = {
        "peft_type": "SORSA",
        "sorsa_version": 1,
        "base_model_name_or_path": args.base_name,
        "r": args.rank,
        "lora_alpha": None,
        "target_modules": args.targets,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out / "adapter_model.safetensors", metadata={"format": "pt"})
    (args.out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains an example adapter.")
    parser.add_argument("model", type=Path)
    parser.add_argument("chats", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--targets", nargs="+", default=["q_proj", "v_proj"])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--gamma", type=float, default=4e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base-name", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    chat = Chat(args.model)
    pairs = [line.split("\t") for line in args.chats.read_text().splitlines()]
    examples = [chat.encode(question, text) for question, text in pairs]
    model = Llama(args.model, args.rank, args.targets)
    questions = ["What is the capital of France?", "How do I bake bread?", "Who are you?"]
    for question in questions:
        print(f"before: {question} -> {answer(model, chat, question)!r}", flush=True)
    train(model, examples, args)
    for question in questions:
        print(f"after: {question} -> {answer(model, chat, question)!r}", flush=True)
    save(model, args)


if __name__ == "__main__":
    main()
