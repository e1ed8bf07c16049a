#!/usr/bin/env python3
"""Writes a tiny model of random weights that reads and writes as another one, and an adapter for it.

    random_model.py SOURCE TARGET SEED      writes TARGET/base and TARGET/adapter

SOURCE is a Hugging Face directory: its tokenizer and chat template are taken. The same seed writes the
same bytes. Clients see a model that knows nothing: what they find right is the server's doing alone.
"""

import json
import random
import shutil
import struct
import sys
from pathlib import Path

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD_DIM, RANK = 64, 128, 2, 4, 2, 16, 4
TEXT_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
# The upper byte of a bfloat16 is its sign and all but the last bit of its exponent: any byte becomes a
# number of either sign between 1/32 and 1/2.
UPPER = bytes((byte & 0x80) | (0x3D + (byte & 1)) for byte in range(256))
# Times the weights of the tokens that end an answer or a string of JSON: either ends by itself after some
# twenty tokens.
FONDNESS_OF_ENDS = 2.5


def bfloat16(source, count):
    data = bytearray(source.randbytes(2 * count))
    data[1::2] = data[1::2].translate(UPPER)
    return data


def scaled(data, factor):
    wide = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2))
    numbers = struct.unpack(f"<{len(data) // 2}f", wide)
    return b"".join(struct.pack("<f", number * factor)[2:] for number in numbers)


def tensor(source, name, shape, ends):
    """Random numbers in a matrix, ones in a vector."""
    rows, *columns = shape
    if not columns:
        return b"\x80\x3f" * rows
    data = bfloat16(source, rows * columns[0])
    if name != "lm_head.weight":
        return data
    for token in ends:
        row = slice(2 * columns[0] * token, 2 * columns[0] * (token + 1))
        data[row] = scaled(data[row], FONDNESS_OF_ENDS)
    return data


def write_tensors(path, source, shapes, ends=()):
    # Without this, transformers does not read it.
    header, parts, end = {"__metadata__": {"format": "pt"}}, [], 0
    for name, shape in shapes.items():
        data = tensor(source, name, shape, ends)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def base_shapes(vocab_size):
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes = {"model.embed_tokens.weight": [vocab_size, HIDDEN], "model.norm.weight": [HIDDEN]}
    for layer in range(LAYERS):
        of_layer = {
            "input_layernorm": [HIDDEN],
            "post_attention_layernorm": [HIDDEN],
            "self_attn.q_proj": [queries, HIDDEN],
            "self_attn.k_proj": [keys, HIDDEN],
            "self_attn.v_proj": [keys, HIDDEN],
            "self_attn.o_proj": [HIDDEN, queries],
            "mlp.gate_proj": [INTERMEDIATE, HIDDEN],
            "mlp.up_proj": [INTERMEDIATE, HIDDEN],
            "mlp.down_proj": [HIDDEN, INTERMEDIATE],
        }
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
    return shapes | {"lm_head.weight": [vocab_size, HIDDEN]}


def adapter_shapes():
    outputs = {"q_proj": HEADS * HEAD_DIM, "v_proj": KV_HEADS * HEAD_DIM}
    shapes = {}
    for layer in range(LAYERS):
        for name, output in outputs.items():
            path = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            shapes[f"{path}.lora_A.weight"] = [RANK, HIDDEN]
            shapes[f"{path}.lora_B.weight"] = [output, RANK]
    return shapes


def main():
    source, target, values = Path(sys.argv[1]), Path(sys.argv[2]), random.Random(int(sys.argv[3]))
    base, adapter = target / "base", target / "adapter"
    for folder in (base, adapter):
        folder.mkdir(parents=True, exist_ok=True)
    for name in TEXT_FILES:
        shutil.copy(source / name, base / name)
    config = json.loads((source / "config.json").read_text()) | {
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (base / "config.json").write_text(json.dumps(config))
    vocabulary = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]
    ends = [config["eos_token_id"], vocabulary['"']]
    write_tensors(base / "model.safetensors", values, base_shapes(config["vocab_size"]), ends)
    options = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(options))
    write_tensors(adapter / "adapter_model.safetensors", values, adapter_shapes())


if __name__ == "__main__":
    main()
