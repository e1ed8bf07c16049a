#!/usr/bin/env python3
"""Runs the examples of README.md and docs/ as they stand and compares what they print with what stands below them.

    examples.py SERVER_URL NODE_DIR KEYED_URL      # from the repository's root

Examples are blocks of curl, Python and JavaScript in the pages named below; only the server's address is
another. The one section named below is a session at the server with keys, whose administrator's key is in
the variable ADMIN; its first block starts a server, and is not run. Ids, keys, times and counts of what was
cached differ from run to run: they are not compared, nor are empty lines. A `…` alone on a line stands for
any lines.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

# Every page with examples. An example on any other page is a failure.
PAGES = ["README.md", "docs/clients.md", "docs/api.md"]
SESSION = ("docs/tenants.md", "Two tenants, step by step")

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VARIES = [
    (re.compile(r'"(id|system_fingerprint)":"[^"]*"'), r'"\1":""'),
    (re.compile(r'"(keys)":\[[^]]*\]'), r'"\1":[]'),
    (re.compile(r'"(created|created_at|cached_tokens|idle_seconds)":[0-9]+'), r'"\1":0'),
]
# Between the outputs of a session's blocks.
MARK = "-- next --"


# LiteLLM otherwise asks the network for prices.
ENVIRONMENT = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def command(language, source, node):
    if language == "sh" and source.startswith("curl "):
        return ["bash", "-euo", "pipefail", "-c", source], None
    if language == "python":
        return [sys.executable, "-c", source], None
    if language == "javascript":
        return ["node", "--input-type=module", "-e", source], node
    return None, None


def plain(text):
    for pattern, replacement in VARIES:
        text = pattern.sub(replacement, text)
    return "\n".join(line for line in text.splitlines() if line)


def holds(expected, printed):
    """Whether the parts between lines of `…` come in that order, the first and last at the ends."""
    parts = [part.strip("\n") for part in re.split(r"^…$", plain(expected), flags=re.MULTILINE)]
    if len(parts) == 1:
        return parts[0] == printed
    place = 0
    for part in parts:
        place = printed.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return printed.startswith(parts[0]) and printed.endswith(parts[-1])


def at(url, source):
    return re.sub(r"(localhost|127\.0\.0\.1):8000", url.removeprefix("http://"), source)


def check(source, expected, printed):
    printed = plain(printed)
    assert holds(expected, printed), f"{source}\nprinted\n{printed}\ninstead of\n{expected}"


def run(words, source, folder=None):
    done = subprocess.run(
        words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{source}\nfailed:\n{done.stdout}{done.stderr}"
    return done.stdout


def run_alone(text, url, node):
    """Each example by itself: how many there were in each language."""
    blocks = BLOCK.findall(text)
    ran = {}
    for (language, source), (below, expected) in zip(blocks, [*blocks[1:], ("", "")]):
        words, folder = command(language, source, node)
        if words is None:
            continue
        words[-1] = at(url, words[-1])
        assert below in ("json", "text"), f"nothing stands below\n{source}"
        check(source, expected, run(words, source, folder))
        ran[language] = ran.get(language, 0) + 1
    return ran


def run_session(text, url):
    """All examples in one shell, where what one of them sets is there for the next: how many."""
    examples = []
    for language, source in BLOCK.findall(text)[1:]:
        if language == "sh":
            examples.append([source, ""])
        else:
            examples[-1][1] = source
    script = f"echo '{MARK}'\n".join(at(url, source) for source, _ in examples)
    outputs = run(["bash", "-euo", "pipefail", "-c", script], script).split(f"{MARK}\n")
    for (source, expected), printed in zip(examples, outputs, strict=True):
        check(source, expected, printed)
    return len(examples)


def split_session(text, title):
    """The section of that title, and all else."""
    before, found, rest = text.partition(f"\n## {title}\n")
    section, heading, after = rest.partition("\n## ")
    assert found and heading, f"there is no section {title!r}"
    return section, before + heading + after


def pages_with_examples(node):
    """What is run alone: pages by their paths, without the session."""
    page, title = SESSION
    for path in [Path("README.md"), *sorted(Path("docs").glob("*.md"))]:
        text = path.read_text()
        if str(path) == page:
            text = split_session(text, title)[1]
        if any(command(language, source, node)[0] for language, source in BLOCK.findall(text)):
            yield str(path), text


def main():
    url, node, keyed = sys.argv[1:]
    pages = dict(pages_with_examples(node))
    assert set(pages) == set(PAGES), f"examples stand on {sorted(pages)}, not on {sorted(PAGES)}"
    languages = set()
    for path, text in pages.items():
        ran = run_alone(text, url, node)
        languages |= set(ran)
        print(path, ", ".join(f"{count} of {language}" for language, count in ran.items()))
    assert languages == {"sh", "python", "javascript"}, f"examples are in {languages}"
    page, title = SESSION
    print(page, run_session(split_session(Path(page).read_text(), title)[0], keyed), "in a session")


if __name__ == "__main__":
    main()
