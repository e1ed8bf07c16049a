#!/usr/bin/env python3
"""Drives a running server with the official OpenAI SDK, as its users do.

    openai_sdk.py BASE_URL BASE_MODEL ADAPTER      e.g. http://127.0.0.1:8000/v1 smollm2 pirate

The SDK validates every response strictly against its own types. Those are wrong in three places: they
have no null for `finish_reason` in a chunk of a text completion's stream, nor for the first token's
log-probability under `echo`, nor a string for an embedding in base64, while OpenAI's own server sends
them. There, and only there, the lenient client is used, and the shape is checked here.
Prints one line per check and ends on `N passed, M failed`; exits 1 where one failed.
"""

import asyncio
import json
import math
import sys
import traceback

import openai

PROMPT = "Gravity is"
QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "user", "content": QUESTION}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Looks up a country.",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"country": {"enum": ["France", "Italy"]}},
                "required": ["country"],
                "additionalProperties": False,
            },
        },
    }
]
FORCED = {"tools": TOOLS, "parallel_tool_calls": False, "max_completion_tokens": 200}
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Server:
    def __init__(self, url: str, base: str, adapter: str):
        self.base, self.adapter = base, adapter
        # A retry would hide a failure.
        options = {"base_url": url, "api_key": "unused", "max_retries": 0, "timeout": 300}
        self.lenient = openai.OpenAI(**options)
        self.strict = openai.OpenAI(**options, _strict_response_validation=True)
        self.strict_async = lambda: openai.AsyncOpenAI(**options, _strict_response_validation=True)

    def complete(self, prompt=PROMPT, client=None, **options):
        options = {"model": self.base, "temperature": 0, "max_tokens": 12} | options
        return (client or self.strict).completions.create(prompt=prompt, **options)

    def chat(self, messages=MESSAGES, **options):
        options = {"model": self.base, "temperature": 0, "max_completion_tokens": 16} | options
        return self.strict.chat.completions.create(messages=messages, **options)

    def respond(self, input=QUESTION, **options):
        options = {"model": self.base, "temperature": 0, "max_output_tokens": 64} | options
        return self.strict.responses.create(input=input, **options)


def equal(actual, expected):
    assert actual == expected, f"{actual!r} instead of {expected!r}"


def fails(error, call):
    """The error of that type which `call` raises."""
    try:
        answer = call()
    except error as raised:
        return raised
    raise AssertionError(f"no {error.__name__}, but {answer!r}")


def same_usage(usage, other):
    """But for what was cached: the second of two equal prompts finds more."""
    cached = [each.prompt_tokens_details.cached_tokens for each in (usage, other)]
    assert all(0 <= count < usage.prompt_tokens for count in cached), cached
    counts = [(each.prompt_tokens, each.completion_tokens, each.total_tokens) for each in (usage, other)]
    equal(counts[0], counts[1])


def books_balance(usage, prompt=None, completion=None):
    equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    assert usage.prompt_tokens > 0
    if prompt is not None:
        equal(usage.prompt_tokens, prompt)
    if completion is not None:
        equal(usage.completion_tokens, completion)


# Models


@check
def models_are_listed(server):
    models = {model.id: model for model in server.strict.models.list()}
    assert {server.base, server.adapter} <= set(models), sorted(models)
    equal(models[server.base].model_extra["parent"], None)
    equal(models[server.adapter].model_extra["parent"], server.base)


@check
def models_are_retrieved_one_by_one(server):
    for name in (server.base, server.adapter):
        model = server.strict.models.retrieve(name)
        equal((model.id, model.object), (name, "model"))
        assert model.created > 0 and model.owned_by


# Completions


@check
def a_completion(server):
    answer = server.complete()
    equal((answer.object, answer.model, len(answer.choices)), ("text_completion", server.base, 1))
    choice = answer.choices[0]
    equal((choice.index, choice.finish_reason, choice.logprobs), (0, "length", None))
    assert choice.text and not choice.text.startswith(PROMPT), choice.text
    books_balance(answer.usage, completion=12)
    equal(server.complete().choices[0].text, choice.text)


@check
def max_tokens_is_16_by_default(server):
    books_balance(server.complete(max_tokens=openai.NOT_GIVEN).usage, completion=16)


@check
def several_prompts_answer_in_order_as_each_does_alone(server):
    prompts = [PROMPT, "The sea is", "One, two, three,"]
    answer = server.complete(prompts, n=2)
    equal([choice.index for choice in answer.choices], list(range(6)))
    alone = [server.complete(prompt) for prompt in prompts]
    expected = [one.choices[0].text for one in alone for _ in range(2)]
    equal([choice.text for choice in answer.choices], expected)
    # A prompt counts once, however many choices it has.
    books_balance(answer.usage, sum(one.usage.prompt_tokens for one in alone), 6 * 12)


@check
def token_ids_are_prompts(server):
    one = server.complete([504, 8354, 314])
    books_balance(one.usage, prompt=3)
    two = server.complete([[504, 8354, 314], [504]])
    equal([choice.index for choice in two.choices], [0, 1])
    equal(two.choices[0].text, one.choices[0].text)


@check
def a_completion_streams_what_it_answers(server):
    whole = server.complete(max_tokens=24)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(server.complete(client=server.lenient, max_tokens=24, **options))
    *parts, last = chunks
    equal("".join(part.choices[0].text for part in parts), whole.choices[0].text)
    reasons = [part.choices[0].finish_reason for part in parts]
    equal([reason for reason in reasons if reason], ["length"])
    assert all(part.usage is None for part in parts)
    equal(last.choices, [])
    same_usage(last.usage, whole.usage)
    equal(len({(part.id, part.created, part.model, part.object) for part in chunks}), 1)


@check
def completion_logprobs_describe_the_text(server):
    choice = server.complete(logprobs=3).choices[0]
    logprobs = choice.logprobs
    equal("".join(logprobs.tokens), choice.text)
    equal([len(logprobs.token_logprobs), len(logprobs.top_logprobs)], [12, 12])
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert logprob <= 0 and 3 <= len(top) <= 4, top
        # Greedy: the chosen token is the likeliest.
        assert math.isclose(top[token], logprob) and logprob >= max(top.values()) - 1e-6, top
    lengths = [len(token) for token in logprobs.tokens]
    starts = [logprobs.text_offset[0] + sum(lengths[:i]) for i in range(12)]
    equal(logprobs.text_offset, starts)


@check
def echo_repeats_the_prompt(server):
    plain, echo = server.complete(), server.complete(echo=True)
    equal(echo.choices[0].text, PROMPT + plain.choices[0].text)


@check
def echo_of_no_tokens_scores_a_prompt(server):
    answer = server.complete(client=server.lenient, echo=True, max_tokens=0, logprobs=1)
    choice, logprobs = answer.choices[0], answer.choices[0].logprobs
    equal((choice.text, choice.finish_reason), (PROMPT, "length"))
    equal("".join(logprobs.tokens), PROMPT)
    equal((logprobs.token_logprobs[0], logprobs.top_logprobs[0]), (None, None))
    assert all(logprob <= 0 for logprob in logprobs.token_logprobs[1:])
    books_balance(answer.usage, prompt=len(logprobs.tokens), completion=0)


@check
def a_completion_stops_before_a_stop_string(server):
    text = server.complete(max_tokens=24).choices[0].text
    stop = text.split()[4]
    answer = server.complete(max_tokens=24, stop=[stop, "never in the text"])
    equal(answer.choices[0].text, text[: text.index(stop)])
    equal(answer.choices[0].finish_reason, "stop")


@check
def a_seed_fixes_a_sample(server):
    sample = lambda seed: server.complete(temperature=1.0, seed=seed, max_tokens=24).choices[0].text
    first = sample(7)
    equal(sample(7), first)
    assert any(sample(seed) != first for seed in (8, 9, 10))


# Chat


@check
def a_chat(server):
    answer = server.chat()
    equal((answer.object, answer.model, len(answer.choices)), ("chat.completion", server.base, 1))
    choice = answer.choices[0]
    equal((choice.index, choice.message.role, choice.message.refusal), (0, "assistant", None))
    assert choice.finish_reason in ("stop", "length") and choice.message.content
    books_balance(answer.usage)


@check
def a_chat_streams_what_it_answers(server):
    whole = server.chat()
    *parts, last = list(server.chat(stream=True, stream_options={"include_usage": True}))
    deltas = [part.choices[0].delta for part in parts]
    equal([delta.role for delta in deltas], ["assistant"] + [None] * (len(deltas) - 1))
    equal("".join(delta.content or "" for delta in deltas), whole.choices[0].message.content)
    reasons = [part.choices[0].finish_reason for part in parts]
    equal([reason for reason in reasons if reason], [whole.choices[0].finish_reason])
    assert all(part.usage is None for part in parts)
    equal(last.choices, [])
    same_usage(last.usage, whole.usage)


@check
def a_chat_streams_without_usage_unless_asked(server):
    chunks = list(server.chat(stream=True))
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in chunks)


@check
def the_sdk_assembles_a_stream(server):
    """The SDK's own accumulator, which refuses an inconsistent stream."""
    options = {"model": server.base, "temperature": 0, "max_completion_tokens": 16}
    with server.strict.chat.completions.stream(messages=MESSAGES, **options) as stream:
        stream.until_done()
        final = stream.current_completion_snapshot
    equal(final.choices[0].message.content, server.chat().choices[0].message.content)


@check
def a_chat_has_n_choices(server):
    options = {"n": 2, "temperature": 1.0, "seed": 11, "max_completion_tokens": 24}
    story = [{"role": "user", "content": "Tell me a story."}]
    answer = server.chat(story, **options)
    equal([choice.index for choice in answer.choices], [0, 1])
    texts = [choice.message.content for choice in answer.choices]
    assert texts[0] != texts[1], "two samples of one seed are the same"
    streamed = ["", ""]
    for chunk in server.chat(story, stream=True, **options):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    equal(streamed, texts)


@check
def a_chat_stops_before_a_stop_string(server):
    text = server.chat().choices[0].message.content
    stop = text.split()[2]
    choice = server.chat(stop=stop).choices[0]
    equal((choice.message.content, choice.finish_reason), (text[: text.index(stop)], "stop"))


@check
def chat_logprobs_describe_the_text(server):
    choice = server.chat(logprobs=True, top_logprobs=2).choices[0]
    content = choice.logprobs.content
    text = b"".join(bytes(token.bytes) for token in content).decode()
    assert text.startswith(choice.message.content), text
    for token in content:
        equal(len(token.top_logprobs), 2)
        assert math.isclose(token.top_logprobs[0].logprob, token.logprob), token
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob


@check
def an_adapter_answers_for_itself(server):
    base = server.chat(max_completion_tokens=32)
    adapted = server.chat(model=server.adapter, max_completion_tokens=32)
    equal(adapted.model, server.adapter)
    assert adapted.choices[0].message.content != base.choices[0].message.content


# Embeddings


@check
def embeddings_are_vectors_of_length_one_in_order(server):
    embed = server.strict.embeddings.create
    # The SDK asks for base64 unless told otherwise, and reads it after its own strict look at it.
    embed_base64 = server.lenient.embeddings.create
    texts = ["The sea is blue.", "The ocean is blue.", "def main(): pass"]
    answer = embed_base64(model=server.base, input=texts)
    equal([item.index for item in answer.data], [0, 1, 2])
    equal((answer.object, answer.model, answer.data[0].object), ("list", server.base, "embedding"))
    vectors = [item.embedding for item in answer.data]
    dot = lambda a, b: math.fsum(x * y for x, y in zip(a, b))
    assert all(abs(dot(vector, vector) - 1) < 1e-5 for vector in vectors)
    assert dot(vectors[0], vectors[1]) > dot(vectors[0], vectors[2])
    equal(answer.usage.prompt_tokens, answer.usage.total_tokens)
    floats = embed(model=server.base, input=texts, encoding_format="float")
    for one, other in zip(vectors, floats.data):
        assert max(abs(a - b) for a, b in zip(one, other.embedding)) < 1e-7
    adapted = embed_base64(model=server.adapter, input=texts[0]).data[0].embedding
    assert dot(adapted, vectors[0]) < 1 - 1e-5
    error = fails(openai.BadRequestError, lambda: embed(model=server.base, input="a", dimensions=8))
    equal(error.param, "dimensions")


# Responses


@check
def a_response(server):
    answer = server.respond()
    equal((answer.object, answer.model, answer.status), ("response", server.base, "completed"))
    equal((answer.error, answer.incomplete_details, answer.store), (None, None, False))
    equal([(item.type, item.role, item.status) for item in answer.output], [("message", "assistant", "completed")])
    equal(answer.output_text, server.chat(max_completion_tokens=64).choices[0].message.content)
    usage = answer.usage
    equal(usage.total_tokens, usage.input_tokens + usage.output_tokens)
    fails(openai.NotFoundError, lambda: server.strict.responses.retrieve(answer.id))
    fails(openai.NotFoundError, lambda: server.strict.responses.delete(answer.id))


@check
def a_response_streams_what_it_answers(server):
    whole = server.respond(max_output_tokens=4)
    equal((whole.status, whole.incomplete_details.reason), ("incomplete", "max_output_tokens"))
    events = list(server.respond(max_output_tokens=4, stream=True))
    equal([event.sequence_number for event in events], list(range(len(events))))
    names = [event.type.removeprefix("response.") for event in events]
    equal(names[:4], ["created", "in_progress", "output_item.added", "content_part.added"])
    equal(names[-4:], ["output_text.done", "content_part.done", "output_item.done", "incomplete"])
    equal(set(names[4:-4]), {"output_text.delta"})
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    equal("".join(deltas), whole.output_text)
    equal(events[-1].response.output_text, whole.output_text)
    equal(events[-1].response.usage.output_tokens, whole.usage.output_tokens)


@check
def the_sdk_assembles_a_streamed_response(server):
    options = {"model": server.base, "temperature": 0, "max_output_tokens": 64}
    with server.strict.responses.stream(input=QUESTION, **options) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    equal(final.output_text, server.respond().output_text)


@check
def a_response_goes_on_from_the_items_of_another(server):
    first = server.respond()
    again = [{"role": "user", "content": QUESTION}, *first.output, {"role": "user", "content": "And of Italy?"}]
    answer = server.respond(input=again, instructions="Be brief.")
    equal((answer.status, answer.instructions), ("completed", "Be brief."))
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And of Italy?"},
    ]
    equal(answer.output_text, server.chat(turns, max_completion_tokens=64).choices[0].message.content)


@check
def a_response_obeys_a_schema(server):
    schema = {
        "type": "object",
        "properties": {"capital": {"enum": ["Paris", "Rome"]}},
        "required": ["capital"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "name": "city", "schema": schema, "strict": True}
    answer = server.respond(text={"format": form})
    assert json.loads(answer.output_text)["capital"] in ("Paris", "Rome"), answer.output_text
    equal(answer.text.format.type, "json_schema")


@check
def a_response_has_log_probabilities(server):
    options = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 8}
    part = server.respond(**options).output[0].content[0]
    text = b"".join(bytes(token.bytes) for token in part.logprobs).decode(errors="ignore")
    assert text.startswith(part.text), (text, part.text)
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)
    events = list(server.respond(stream=True, **options))
    told = [token for event in events if event.type == "response.output_text.delta" for token in event.logprobs]
    equal([token.logprob for token in told], [token.logprob for token in part.logprobs])


@check
def what_needs_a_memory_is_refused_by_name(server):
    cases = {
        "previous_response_id": "resp_1",
        "conversation": "conv_1",
        "background": True,
        "truncation": "auto",
        "include": ["file_search_call.results"],
    }
    for name, value in cases.items():
        error = fails(openai.BadRequestError, lambda: server.respond(**{name: value}))
        equal((name, error.type), (error.param, "invalid_request_error"))
    error = fails(openai.BadRequestError, lambda: server.respond(tools=[{"type": "web_search"}]))
    equal(error.param, "tools[0].type")


# Functions


def called(message):
    """The one call of a message: its id and arguments."""
    equal(message.content or None, None)
    [call] = message.tool_calls
    equal((call.type, call.function.name), ("function", "look_up"))
    arguments = json.loads(call.function.arguments)
    equal(list(arguments), ["country"])
    assert arguments["country"] in ("France", "Italy"), arguments
    return call.id, arguments


@check
def a_function_is_called_and_its_result_is_read(server):
    [choice] = server.chat(tool_choice="required", **FORCED).choices
    equal(choice.finish_reason, "tool_calls")
    id, _ = called(choice.message)
    result = {"role": "tool", "tool_call_id": id, "content": "Its capital is Paris."}
    messages = [*MESSAGES, choice.message.model_dump(exclude_none=True), result]
    books_balance(server.chat(messages, tools=TOOLS).usage)


@check
def a_named_function_is_called(server):
    named = {"type": "function", "function": {"name": "look_up"}}
    [choice] = server.chat(tool_choice=named, **FORCED).choices
    equal(choice.finish_reason, "stop")
    called(choice.message)


@check
def the_sdk_assembles_a_streamed_call(server):
    whole = server.chat(tool_choice="required", **FORCED).choices[0].message
    options = {"model": server.base, "temperature": 0, "tool_choice": "required"} | FORCED
    with server.strict.chat.completions.stream(messages=MESSAGES, **options) as stream:
        stream.until_done()
        message = stream.current_completion_snapshot.choices[0].message
    equal(called(message)[1], called(whole)[1])


@check
def a_response_calls_a_function(server):
    tools = [{"type": "function", **TOOLS[0]["function"]}]
    options = {"tools": tools, "parallel_tool_calls": False, "max_output_tokens": 200}
    named = {"type": "function", "name": "look_up"}
    for choice in ("required", named):
        answer = server.respond(tool_choice=choice, **options)
        [call] = [item for item in answer.output if item.type == "function_call"]
        equal((call.name, call.status, answer.status), ("look_up", "completed", "completed"))
        assert json.loads(call.arguments)["country"] in ("France", "Italy"), call.arguments
        events = list(server.respond(tool_choice=choice, stream=True, **options))
        deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
        equal("".join(deltas), call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Its capital is Paris."}
    again = server.respond(input=[{"role": "user", "content": QUESTION}, *answer.output, result], tools=tools)
    assert again.usage.output_tokens > 0


# Errors


@check
def an_unknown_model_is_not_found(server):
    calls = [
        lambda: server.complete(model="nobody"),
        lambda: server.chat(model="nobody"),
        lambda: server.strict.models.retrieve("nobody"),
    ]
    for call in calls:
        error = fails(openai.NotFoundError, call)
        equal((error.status_code, error.code, error.param), (404, "model_not_found", "model"))
        equal(error.type, "invalid_request_error")
        assert "nobody" in error.body["message"], error.body


@check
def too_long_a_prompt_is_refused_with_both_numbers(server):
    limit = server.strict.models.retrieve(server.base).model_extra["max_model_len"]
    length = limit + 10
    error = fails(openai.BadRequestError, lambda: server.complete([504] * length))
    equal((error.code, error.type), ("context_length_exceeded", "invalid_request_error"))
    message = error.body["message"]
    assert str(limit) in message and str(length) in message, message


@check
def wrong_values_are_refused_by_name(server):
    cases = {
        "temperature": ["hot", -1, 3, True],
        "top_p": [-0.5, 1.5],
        "max_tokens": [-1, "many", 1.5, 2**63],
        "n": [0, 129],
        "logit_bias": [{"1": 101}],
        "stop": [["a", "b", "c", "d", "e"], 7],
        "frequency_penalty": [2.5],
        "presence_penalty": [-2.5],
    }
    for name, values in cases.items():
        for value in values:
            error = fails(openai.BadRequestError, lambda: server.complete(**{name: value}))
            context = f"{name}={value!r}: {error.body}"
            assert error.type == "invalid_request_error" and error.param == name, context


@check
def chats_without_sense_are_refused(server):
    for messages in ([], "hello", [{"role": "nobody", "content": "x"}], [{"content": "x"}]):
        error = fails(openai.BadRequestError, lambda: server.chat(messages))
        assert error.type == "invalid_request_error" and error.body["message"], error.body
    error = fails(openai.BadRequestError, lambda: server.chat(top_logprobs=2))
    equal(error.param, "top_logprobs")
    usage = {"include_usage": True}
    fails(openai.BadRequestError, lambda: server.chat(stream_options=usage))


# Asynchronous


@check
def concurrent_requests_answer_as_alone(server):
    prompts = [PROMPT, "The sea is", "Once upon a time", "A list of three fruits:"]
    jobs = [(prompt, model) for prompt in prompts for model in (server.base, server.adapter)]

    async def together():
        async with server.strict_async() as client:
            create = client.completions.create
            options = {"temperature": 0, "max_tokens": 12}
            return await asyncio.gather(
                *(create(prompt=prompt, model=model, **options) for prompt, model in jobs)
            )

    answers = asyncio.run(together())
    equal([answer.model for answer in answers], [model for _, model in jobs])
    alone = [server.complete(prompt, model=model).choices[0].text for prompt, model in jobs]
    equal([answer.choices[0].text for answer in answers], alone)


@check
def a_client_that_hangs_up_harms_nobody(server):
    async def hang_up(client):
        stream = await client.chat.completions.create(
            messages=MESSAGES, model=server.base, stream=True, max_completion_tokens=400
        )
        async with stream:
            async for _ in stream:
                return

    async def all_hang_up():
        async with server.strict_async() as client:
            await asyncio.gather(*(hang_up(client) for _ in range(6)))

    before = server.complete().choices[0].text
    asyncio.run(all_hang_up())
    equal(server.complete().choices[0].text, before)


def main() -> int:
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    server = Server(*sys.argv[1:])
    failed = 0
    for function in CHECKS:
        try:
            function(server)
        except Exception:
            failed += 1
            print(f"FAILED {function.__name__}\n{traceback.format_exc()}")
        else:
            print(f"ok {function.__name__}")
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
