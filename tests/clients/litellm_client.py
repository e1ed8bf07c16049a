#!/usr/bin/env python3
"""Drives a running server with LiteLLM, through both providers that its users choose.

    litellm_client.py BASE_URL BASE_MODEL ADAPTER      e.g. http://127.0.0.1:8000/v1 smollm2 pirate

Prints one line per check and ends on `N passed, M failed`; exits 1 where one failed.
"""

import asyncio
import os
import sys
import traceback

# LiteLLM otherwise asks the network for prices.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402 (reads the environment when it is loaded)

litellm.telemetry = False
litellm.suppress_debug_info = True

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
PROVIDERS = ["openai", "hosted_vllm"]
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Server:
    def __init__(self, url, provider, base, adapter):
        # A retry would hide a failure.
        self.options = {"api_base": url, "api_key": "unused", "num_retries": 0, "timeout": 120}
        self.base, self.adapter = f"{provider}/{base}", f"{provider}/{adapter}"
        self.completion_prefix = "text-completion-openai" if provider == "openai" else provider

    def chat(self, model=None, call=litellm.completion, **options):
        options = {"temperature": 0, "max_tokens": 16} | options
        return call(model=model or self.base, messages=MESSAGES, **self.options, **options)


def equal(actual, expected):
    assert actual == expected, f"{actual!r} instead of {expected!r}"


def fails(error, call):
    """The error of that type which `call` raises."""
    try:
        answer = call()
    except error as raised:
        return raised
    raise AssertionError(f"no {error.__name__}, but {answer!r}")


def text(answer):
    return answer.choices[0].message.content


@check
def a_chat(server):
    answer = server.chat()
    assert text(answer) and answer.choices[0].finish_reason in ("stop", "length"), answer
    equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)


@check
def a_chat_streams_what_it_answers(server):
    chunks = list(server.chat(stream=True, stream_options={"include_usage": True}))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = server.chat()
    equal(streamed, text(whole))
    built = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    equal(text(built), text(whole))
    equal(built.usage.total_tokens, whole.usage.total_tokens)


@check
def many_at_once_without_threads(server):
    models = [server.base, server.adapter] * 4

    async def together():
        return await asyncio.gather(*(server.chat(m, litellm.acompletion) for m in models))

    answers = asyncio.run(together())
    alone = {model: text(server.chat(model)) for model in set(models)}
    equal([text(answer) for answer in answers], [alone[model] for model in models])
    assert alone[server.base] != alone[server.adapter], alone


@check
def a_stream_without_threads(server):
    async def read():
        stream = await server.chat(call=litellm.acompletion, stream=True)
        return [chunk async for chunk in stream]

    deltas = [chunk.choices[0].delta.content or "" for chunk in asyncio.run(read())]
    equal("".join(deltas), text(server.chat()))


@check
def a_text_completion(server):
    model = f"{server.completion_prefix}/{server.base.split('/')[1]}"
    answer = litellm.text_completion(
        model=model, prompt="Gravity is", temperature=0, max_tokens=12, **server.options
    )
    assert answer.choices[0].text, answer
    equal(answer.usage.completion_tokens, 12)


@check
def errors_have_their_classes(server):
    unknown = server.base.split("/")[0] + "/nobody"
    equal(fails(litellm.NotFoundError, lambda: server.chat(unknown)).status_code, 404)
    equal(fails(litellm.BadRequestError, lambda: server.chat(temperature=3)).status_code, 400)
    long = [{"role": "user", "content": "word " * 9000}]
    call = lambda: litellm.completion(model=server.base, messages=long, **server.options)
    equal(fails(litellm.ContextWindowExceededError, call).status_code, 400)


def main():
    url, base, adapter = sys.argv[1:]
    passed = failed = 0
    for provider in PROVIDERS:
        server = Server(url, provider, base, adapter)
        for function in CHECKS:
            name = f"{provider}: {function.__name__.replace('_', ' ')}"
            try:
                function(server)
            except Exception:  # noqa: BLE001 (every failure is reported)
                failed += 1
                print(f"FAILED  {name}", flush=True)
                traceback.print_exc()
            else:
                passed += 1
                print(f"ok      {name}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
