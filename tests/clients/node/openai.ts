// Drives a running server with the official OpenAI SDK for Node, as its users do.
//
//     node openai.js BASE_URL BASE_MODEL ADAPTER      e.g. http://127.0.0.1:8000/v1 smollm2 pirate
//
// The compiler holds this file to the SDK's types, strictly; the SDK itself checks nothing at run time
// but what its helpers for streams need, so shapes that matter are checked here.
// Prints one line per check and ends on `N passed, M failed`; exits 1 where one failed.

import assert from "node:assert/strict";
import OpenAI from "openai";
import type { ChatCompletion, ChatCompletionChunk } from "openai/resources/chat/completions";

const [url, base, adapter] = process.argv.slice(2) as [string, string, string];
// A retry would hide a failure.
const client = new OpenAI({ baseURL: url, apiKey: "unused", maxRetries: 0, timeout: 120_000 });

const PROMPT = "Gravity is";
const MESSAGES = [{ role: "user" as const, content: "What is the capital of France?" }];
const CHAT = { model: base, messages: MESSAGES, temperature: 0, max_completion_tokens: 16 };
const COMPLETION = { model: base, prompt: PROMPT, temperature: 0, max_tokens: 12 };

const checks: [string, () => Promise<void>][] = [];
const check = (name: string, run: () => Promise<void>) => checks.push([name, run]);

/** The error of that class which `call` fails with. */
async function fails<E extends InstanceType<typeof OpenAI.APIError>>(
  kind: new (...args: never[]) => E,
  call: PromiseLike<unknown>,
): Promise<E> {
  try {
    await call;
  } catch (error) {
    assert(error instanceof kind, `${error} is no ${kind.name}`);
    return error;
  }
  return assert.fail(`no ${kind.name}`);
}

async function all<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

function hasShape(answer: ChatCompletion) {
  assert.match(answer.id, /^chatcmpl-/);
  assert.equal(answer.object, "chat.completion");
  assert(Number.isInteger(answer.created));
  for (const [place, choice] of answer.choices.entries()) {
    assert.equal(choice.index, place);
    assert(["stop", "length"].includes(choice.finish_reason));
    assert.equal(choice.message.role, "assistant");
    // Strict clients want the keys, whatever their values.
    assert.equal(choice.message.refusal, null);
    assert("logprobs" in choice);
  }
  const usage = answer.usage!;
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
}

check("models are listed and retrieved", async () => {
  const models = await all(client.models.list());
  const names = models.map((model) => model.id);
  assert(names.includes(base) && names.includes(adapter), names.join());
  const model = await client.models.retrieve(adapter);
  assert.deepEqual([model.id, model.object], [adapter, "model"]);
  assert(model.created > 0 && model.owned_by.length > 0);
});

check("a completion streams what it answers", async () => {
  const whole = await client.completions.create(COMPLETION);
  assert.equal(whole.object, "text_completion");
  assert.equal(whole.usage?.completion_tokens, 12);
  const options = { stream: true, stream_options: { include_usage: true } } as const;
  const chunks = await all(await client.completions.create({ ...COMPLETION, ...options }));
  const texts = chunks.map((chunk) => chunk.choices[0]?.text ?? "");
  assert.equal(texts.join(""), whole.choices[0]?.text);
  const last = chunks.at(-1);
  assert.deepEqual(last?.choices, []);
  assert.equal(last?.usage?.total_tokens, whole.usage?.total_tokens);
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
});

check("prompts of every kind are taken", async () => {
  const prompts = [["Gravity is", "The sea is"], [504, 8354, 314], [[504, 8354, 314], [504]]];
  for (const prompt of prompts) {
    const answer = await client.completions.create({ ...COMPLETION, prompt });
    const expected = typeof prompt[0] === "number" ? 1 : prompt.length;
    assert.equal(answer.choices.length, expected);
  }
});

check("a chat has the shape", async () => hasShape(await client.chat.completions.create(CHAT)));

check("a chat's raw answer has its headers", async () => {
  const headers = { "x-request-id": "node-check-1" };
  const call = client.chat.completions.create(CHAT, { headers });
  const { data, response, request_id } = await call.withResponse();
  assert.equal(request_id, "node-check-1");
  assert.match(response.headers.get("content-type") ?? "", /^application\/json/);
  hasShape(data);
});

check("the helper for streams puts a chat together", async () => {
  const whole = await client.chat.completions.create(CHAT);
  const chunks: ChatCompletionChunk[] = [];
  const contents: string[] = [];
  const options = { stream_options: { include_usage: true } };
  const stream = client.chat.completions
    .stream({ ...CHAT, ...options })
    .on("chunk", (chunk) => chunks.push(chunk))
    .on("content", (delta) => contents.push(delta));
  const final = await stream.finalChatCompletion();
  const text = whole.choices[0]?.message.content;
  assert.equal(await stream.finalContent(), text);
  assert.equal(contents.join(""), text);
  assert.equal(final.choices[0]?.finish_reason, whole.choices[0]?.finish_reason);
  const usage = await stream.totalUsage();
  assert.equal(usage.total_tokens, whole.usage?.total_tokens);
  assert.equal(chunks[0]?.choices[0]?.delta.role, "assistant");
  assert.deepEqual(chunks.at(-1)?.choices, []);
});

check("the helper for streams puts several choices and log-probabilities together", async () => {
  const story = [{ role: "user" as const, content: "Tell me a story." }];
  const options = { messages: story, n: 2, temperature: 1, seed: 11, logprobs: true, top_logprobs: 2 };
  const whole = await client.chat.completions.create({ ...CHAT, ...options });
  hasShape(whole);
  const final = await client.chat.completions.stream({ ...CHAT, ...options }).finalChatCompletion();
  for (const index of [0, 1]) {
    const [a, b] = [whole.choices[index], final.choices[index]];
    assert.equal(a?.message.content, b?.message.content);
    assert.deepEqual(a?.logprobs?.content, b?.logprobs?.content);
  }
});

check("a stream that is aborted ends", async () => {
  // Long enough that it cannot be over before it is aborted: the runtime's `fetch` then never answers.
  const options = { max_completion_tokens: 2000, stream: true, ignore_eos: true } as const;
  const stream = await client.chat.completions.create({ ...CHAT, ...options });
  let chunks = 0;
  for await (const _ of stream) {
    if (++chunks === 3) stream.controller.abort();
  }
  assert(chunks >= 3 && chunks < 100, `${chunks} chunks`);
});

check("a stream can be split and read as text", async () => {
  const stream = await client.chat.completions.create({ ...CHAT, stream: true });
  const [left, right] = stream.tee();
  assert.deepEqual(await all(left), await all(right));
});

check("an adapter answers for itself", async () => {
  const ask = (model: string) => client.chat.completions.create({ ...CHAT, model });
  const [plain, adapted] = await Promise.all([ask(base), ask(adapter)]);
  assert.equal(adapted.model, adapter);
  assert.notEqual(plain.choices[0]?.message.content, adapted.choices[0]?.message.content);
});

check("many at once answer as each does alone", async () => {
  const prompts = ["Gravity is", "The sea is", "Once upon a time", "A list of three fruits:"];
  const ask = async (prompt: string, model: string) =>
    (await client.completions.create({ ...COMPLETION, prompt, model })).choices[0]?.text;
  const jobs = prompts.flatMap((prompt) => [base, adapter].map((model) => [prompt, model] as const));
  const together = await Promise.all(jobs.map(([prompt, model]) => ask(prompt, model)));
  for (const [place, [prompt, model]] of jobs.entries()) {
    assert.equal(together[place], await ask(prompt, model));
  }
});

check("errors have their classes, codes and parameters", async () => {
  const chats = client.chat.completions;
  const missing = await fails(OpenAI.NotFoundError, chats.create({ ...CHAT, model: "nobody" }));
  assert.deepEqual([missing.status, missing.code, missing.param], [404, "model_not_found", "model"]);
  assert.equal(missing.type, "invalid_request_error");
  const hot = await fails(OpenAI.BadRequestError, chats.create({ ...CHAT, temperature: 3 }));
  assert.deepEqual([hot.code, hot.param], [null, "temperature"]);
  const long = { ...COMPLETION, prompt: Array<number>(9000).fill(504) };
  const full = await fails(OpenAI.BadRequestError, client.completions.create(long));
  assert.equal(full.code, "context_length_exceeded");
  // Before the first byte of a stream a failure is a status too.
  await fails(OpenAI.BadRequestError, chats.create({ ...CHAT, temperature: 3, stream: true }));
  await fails(OpenAI.NotFoundError, client.models.retrieve("nobody"));
});

let failed = 0;
for (const [name, run] of checks) {
  try {
    await run();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}`);
    console.log(error);
  }
}
console.log(`${checks.length - failed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
