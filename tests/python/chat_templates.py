"""Chat templates rendered by the server's code against Jinja2 as transformers sets it up.

    python3 tests/python/chat_templates.py TEMPLATES RENDERER   # what CI runs
    python3 tests/python/chat_templates.py --record             # after editing the cases

TEMPLATES is a folder of `.jinja` files of published models, each rendered with every conversation
below; RENDERER the program of examples/render_chat_template.rs. The small cases of
tests/fixtures/jinja/cases.jsonl are rendered by Jinja2 again: their recorded results, which the Rust
tests compare with, must be its own. Needs transformers and jinja2; no model.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

FIXTURES = Path(__file__).parent.parent / "fixtures" / "jinja"
CASES = FIXTURES / "cases.jsonl"
CONTEXT = json.loads((FIXTURES / "context.json").read_text("utf-8"))
# What a template may hold and is allowed to be rendered otherwise: (template, conversation), why.
ALLOWED = {}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city"},
                "unit": {"type": "string", "enum": ["c", "f"]},
                "days": {"type": "array", "items": {"type": "integer"}},
                "more": {"type": "object", "properties": {"a": {"type": ["string", "null"], "default": None}}},
            },
            "required": ["city"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now", "description": "The time <b>é",
                                        "parameters": {"type": "object", "properties": {}, "required": []}}}
TOOLS = [WEATHER, NOW]
ARGUMENTS = {"city": "Zürich", "unit": "c", "days": [1, 2], "more": {"a": None, "f": 1e16, "g": 1e-5}}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def call(arguments, identifier="abcdefghi"):
    return {"id": identifier, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def tool(content, identifier="abcdefghi"):
    return {"role": "tool", "name": "get_weather", "tool_call_id": identifier, "content": content}


def text(*parts):
    return [{"type": "text", "text": part} for part in parts]


CONVERSATIONS = {
    "plain": {"messages": [user("Hello")]},
    "system": {"messages": [system("Be brief.\n"), user(" Hello ")]},
    "turns": {"messages": [user("Hello"), assistant("Hi.\n"), user("And?"), assistant("So."), user("Bye")]},
    "tools": {"messages": [system("S"), user("Weather?")], "tools": TOOLS},
    "calls": {
        "messages": [
            user("Weather?"),
            assistant("", tool_calls=[call(ARGUMENTS)]),
            tool('{"t": 3}'),
            assistant("3 degrees"),
            user("Thanks"),
        ],
        "tools": TOOLS,
    },
    "calls at once": {
        "messages": [
            user("Weather?"),
            assistant(None, tool_calls=[call(ARGUMENTS), call({"city": "B"}, "bcdefghij")]),
            tool("1"),
            tool("2", "bcdefghij"),
        ],
        "tools": TOOLS,
    },
    "arguments as text": {
        "messages": [user("W"), assistant("", tool_calls=[call('{"city": "A"}')]), tool("1")],
        "tools": TOOLS,
    },
    "parts": {"messages": [system(text("S")), user(text("One ", "two")), assistant(text("A")), user(text("q"))]},
    "null content": {"messages": [user(None), assistant(None), user("x")]},
    "reasoning": {
        "messages": [
            user("Q"),
            assistant("<think>\nin</think>\n\nA", reasoning_content="Because.\n"),
            user("Q2"),
            assistant("A2", reasoning_content="R2"),
        ],
        "add_generation_prompt": False,
        "enable_thinking": True,
    },
    "no thinking": {"messages": [user("Q")], "enable_thinking": False},
    "unicode": {"messages": [system("é\r\n🙂\u200b\u2028"), user("a\r\nb\n\n<|im_end|>'\"\\ {{ x }}\x00")]},
    "continued": {"messages": [user("Once"), assistant("upon a ")], "add_generation_prompt": False},
    "documents": {"messages": [user("D?")], "documents": [{"title": "T", "text": "X"}]},
    "out of order": {"messages": [assistant("A"), assistant("B"), system("S")]},
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def reference(case):
    """What transformers renders, or why it does not."""
    given = {name: case[name] for name in ("enable_thinking",) if case.get(name) is not None}
    try:
        template = _compile_jinja_template(case["template"])
        return {"text": template.render(
            messages=case["messages"],
            tools=case.get("tools"),
            documents=case.get("documents"),
            add_generation_prompt=case.get("add_generation_prompt", False),
            **case["special_tokens"],
            **given,
        )}
    except Exception as error:  # a template may fail in any way
        return {"error": f"{type(error).__name__}: {error}"}


def small_case(line):
    return {"template": line["template"], **CONTEXT}


def recorded(result):
    """A result as it is kept: why something fails is worded otherwise elsewhere."""
    return {"text": result["text"]} if "text" in result else {"error": True}


def read_cases():
    return [json.loads(line) for line in CASES.read_text("utf-8").split("\n") if line]


def record():
    lines = []
    for line in read_cases():
        result = reference(small_case(line))
        if re.search(r" at 0x[0-9a-f]+>", result.get("text", "")):
            sys.exit(f"no case: the result has an address: {line['template']}")
        kept = {name: line[name] for name in ("ours", "why") if name in line}
        lines.append(json.dumps({"template": line["template"], **recorded(result), **kept}, ensure_ascii=False))
    CASES.write_text("\n".join(lines) + "\n", "utf-8")


def check_cases():
    differences = 0
    for line in read_cases():
        now = recorded(reference(small_case(line)))
        if {name: line[name] for name in now if name in line} != now:
            differences += 1
            print(f"recorded otherwise than Jinja2 renders it: {line['template']!r}: {now}")
    return differences


def excerpt(ours, theirs):
    """Where two results begin to differ."""
    if "text" not in ours or "text" not in theirs:
        return f"{str(ours)[:300]}\n    {str(theirs)[:300]}"
    ours, theirs = ours["text"], theirs["text"]
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    return f"{ours[max(0, at - 60):at + 60]!r}\n    {theirs[max(0, at - 60):at + 60]!r}"


def check_templates(folder, renderer):
    templates = sorted(Path(folder).glob("*.jinja"))
    if len(templates) < 60:
        sys.exit(f"only {len(templates)} templates in {folder}")
    names, cases = [], []
    for template in templates:
        source = template.read_bytes().decode("utf-8")
        for name, conversation in CONVERSATIONS.items():
            # Windows line ends change nothing.
            for ends in ["\n", "\r\n"] if name == "turns" else ["\n"]:
                names.append((template.name, name))
                cases.append({"template": source.replace("\r\n", "\n").replace("\n", ends), "special_tokens": TOKENS,
                              "add_generation_prompt": True, **conversation})
    lines = "\n".join(json.dumps(case) for case in cases)
    results = subprocess.run([renderer], input=lines, capture_output=True, text=True, check=True, encoding="utf-8")
    results = [json.loads(line) for line in results.stdout.split("\n") if line]
    differences, rendered = 0, 0
    for name, case, ours in zip(names, cases, results, strict=True):
        theirs = reference(case)
        rendered += "text" in theirs
        same = recorded(ours) == recorded(theirs)
        if same == (name in ALLOWED):
            differences += 1
            print(f"{name}: {'no longer differs' if same else excerpt(ours, theirs)}")
    print(f"{len(templates)} templates, {len(cases)} conversations, {rendered} of them rendered, "
          f"{len(ALLOWED)} known differences, {differences} others")
    if rendered < len(cases) / 2:
        sys.exit("most conversations are refused: the comparison says little")
    return differences


def main():
    if sys.argv[1:] == ["--record"]:
        return record()
    folder, renderer = sys.argv[1:]
    sys.exit(1 if check_cases() + check_templates(folder, renderer) else 0)


if __name__ == "__main__":
    main()
