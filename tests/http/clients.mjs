// The clients openai and @anthropic-ai/sdk against a server.
//   node clients.mjs PACKAGES URL CASE..
// Each CASE is one of the functions below. Prints "ok CASE" where all that it expects is so, else why not.
import assert from "node:assert/strict";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, url, ...names] = process.argv.slice(2);
const load = async (path) => (await import(pathToFileURL(join(packages, path)).href)).default;
const OpenAI = await load("openai/index.mjs");
const Anthropic = await load("@anthropic-ai/sdk/index.mjs");
const key = "client-key";
const openai = new OpenAI({ apiKey: key, baseURL: url + "/v1", maxRetries: 0 });
const anthropic = new Anthropic({ apiKey: key, baseURL: url, maxRetries: 0 });
const user = (content) => [{ role: "user", content }];
const metric = async (metric_name) => {
  const response = await fetch(url + "/metrics", { headers: { authorization: "Bearer " + key } });
  const line = (await response.text()).split("\n").find((one) => one.startsWith(metric_name + " "));
  return Number(line?.split(" ").at(-1) ?? 0);
};

const cases = {
  async openai_chat() {
    const chat = openai.chat.completions;
    const answer = await chat.create({ model: "any", messages: user("[say Hi \u00e9][cached 4]"), seed: 7 });
    assert.equal(answer.choices[0].message.content, "Hi \u00e9");
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.equal(answer.usage.prompt_tokens_details.cached_tokens, 4);
    assert.match(answer._request_id, /^req_/);
    const several = await chat.create({
      model: "any", messages: user("[think so][say a]"), n: 3, logprobs: true, top_logprobs: 2, think: true,
      logit_bias: { 97: 5 }, stop: ["z"], max_completion_tokens: 100, temperature: 0.5, top_p: 0.9,
      presence_penalty: 0.1, frequency_penalty: 0.1, user: "u", store: false,
    });
    assert.deepEqual(several.choices.map((choice) => choice.message.content), ["a", "a1", "a2"]);
    assert.equal(several.choices[0].message.reasoning_content, "so");
    assert.equal(several.choices[2].logprobs.content.length, 2);
    assert.equal(several.choices[0].logprobs.content[0].top_logprobs.length, 2);
  },
  async openai_stream() {
    const stream = await openai.chat.completions.create({
      model: "any", messages: user("[think hm][say Hi \u00e9]"), stream: true, reasoning_effort: "high",
      stream_options: { include_usage: true },
    });
    let text = "", reasoning = "", usage = null, finish = null;
    for await (const piece of stream) {
      text += piece.choices[0]?.delta.content ?? "";
      reasoning += piece.choices[0]?.delta.reasoning_content ?? "";
      finish = piece.choices[0]?.finish_reason ?? finish;
      usage = piece.usage ?? usage;
    }
    assert.deepEqual([text, reasoning, finish], ["Hi \u00e9", "hm", "stop"]);
    assert.equal(usage.completion_tokens, 3 + 5);
    const runner = openai.chat.completions.stream({ model: "any", messages: user("[say abc]"), stop: "c" });
    const completion = await runner.finalChatCompletion();
    assert.equal(completion.choices[0].message.content, "ab");
  },
  async openai_text() {
    const answer = await openai.completions.create({ model: "any", prompt: "[say abc]", max_tokens: 2, logprobs: 1 });
    assert.equal(answer.choices[0].text, "ab");
    assert.equal(answer.choices[0].finish_reason, "length");
    assert.deepEqual(answer.choices[0].logprobs.tokens, ["a", "b"]);
    let text = "";
    for await (const piece of await openai.completions.create({ model: "any", prompt: "[say abc]", stream: true }))
      text += piece.choices[0].text;
    assert.equal(text, "abc");
  },
  async openai_models() {
    const names = [];
    for await (const model of openai.models.list()) names.push(model.id);
    assert.deepEqual(names, ["tiny"]);
    assert.equal((await openai.models.retrieve("tiny")).object, "model");
  },
  async openai_errors() {
    const ask = (content, more = {}) => openai.chat.completions.create({ model: "any", messages: user(content), ...more });
    const fails = async (promise, kind, status, param) => {
      const error = await promise.then(() => assert.fail("no error"), (error) => error);
      assert.ok(error instanceof kind, String(error));
      assert.equal(error.status, status);
      assert.equal(error.param, param);
    };
    await fails(ask("a", { temperature: 9 }), OpenAI.BadRequestError, 400, "temperature");
    await fails(ask("a", { tools: [{ type: "function", function: { name: "f" } }] }), OpenAI.BadRequestError, 400, "tools");
    await fails(ask([{ type: "image_url", image_url: { url: "data:," } }]), OpenAI.BadRequestError, 400,
                "messages[0].content[0].type");
    await fails(ask("[end busy]"), OpenAI.RateLimitError, 429, null);
    await fails(ask("[end failed]"), OpenAI.InternalServerError, 500, null);
    await fails(openai.models.retrieve("none"), OpenAI.NotFoundError, 404, "model");
    const stranger = new OpenAI({ apiKey: "wrong", baseURL: url + "/v1", maxRetries: 0 });
    await fails(stranger.models.list(), OpenAI.AuthenticationError, 401, null);
    const stream = await ask("[say ab][end failed]", { stream: true });
    let text = "";
    await assert.rejects(async () => {
      for await (const piece of stream) text += piece.choices[0].delta.content ?? "";
    }, OpenAI.APIError);
    assert.equal(text, "ab");
  },
  async openai_abort() {
    const before = await metric("kvfold_cancelled_total");
    const stream = await openai.chat.completions.create({
      model: "any", messages: user("[say abcdefghijklmnopqrstuvwxyz][each 300]"), stream: true });
    for await (const piece of stream) if (piece.choices[0].delta.content) break; // leaves the loop: aborts
    const whole = new AbortController();
    const promise = openai.chat.completions.create({ model: "any", messages: user("[wait 9000]") },
                                                   { signal: whole.signal });
    setTimeout(() => whole.abort(), 200);
    await assert.rejects(promise, OpenAI.APIUserAbortError);
    const begun = Date.now();
    while ((await metric("kvfold_cancelled_total")) < before + 2) assert.ok(Date.now() - begun < 1500);
  },
  async openai_retry() { // the server says that it loads
    const patient = new OpenAI({ apiKey: key, baseURL: url + "/v1", maxRetries: 5 });
    const answer = await patient.chat.completions.create({ model: "any", messages: user("[say late]") });
    assert.equal(answer.choices[0].message.content, "late");
  },
  async anthropic_message() {
    const answer = await anthropic.messages.create({
      model: "claude-any", max_tokens: 100, messages: user("[say Hi \u00e9][cached 4]"),
      system: [{ type: "text", text: "s", cache_control: { type: "ephemeral" } }], metadata: { user_id: "u" } });
    assert.deepEqual(answer.content, [{ type: "text", text: "Hi \u00e9" }]);
    assert.deepEqual([answer.stop_reason, answer.usage.cache_read_input_tokens], ["end_turn", 4]);
    const thought = await anthropic.messages.create({
      model: "claude-any", max_tokens: 4000, messages: user("[think hm][say ok]"),
      thinking: { type: "enabled", budget_tokens: 1024 } });
    assert.deepEqual(thought.content.map((block) => block.type), ["thinking", "text"]);
    const again = await anthropic.messages.create({
      model: "claude-any", max_tokens: 4000, stop_sequences: ["d"], thinking: { type: "enabled", budget_tokens: 1024 },
      messages: [...user("first"), { role: "assistant", content: thought.content }, ...user("[say abcd]")] });
    assert.equal(again.stop_sequence, "d");
  },
  async anthropic_stream() {
    const seen = [];
    const stream = anthropic.messages.stream({
      model: "claude-any", max_tokens: 4000, messages: user("[think hm][say Hi \u00e9][wait 600]"),
      thinking: { type: "enabled", budget_tokens: 1024 } });
    stream.on("text", (text) => seen.push(text));
    const message = await stream.finalMessage();
    assert.equal(seen.join(""), "Hi \u00e9");
    assert.equal(message.content[0].thinking, "hm");
    assert.ok(message.content[0].signature);
    assert.equal(message.usage.output_tokens, 3 + 5);
    const types = [];
    for await (const event of await anthropic.messages.create({
      model: "claude-any", max_tokens: 3, messages: user("[say abcdef]"), stream: true })) types.push(event.type);
    assert.deepEqual([types[0], types.at(-1)], ["message_start", "message_stop"]);
    assert.ok(!types.includes("ping"));
  },
  async anthropic_beta() {
    const answer = await anthropic.beta.messages.create({
      model: "claude-any", max_tokens: 10, messages: user("[say a]"), betas: ["interleaved-thinking-2025-05-14"] });
    assert.equal(answer.content[0].text, "a");
    const counted = await anthropic.beta.messages.countTokens({ model: "claude-any", messages: user("abc") });
    assert.equal(counted.input_tokens, 7);
  },
  async anthropic_count() {
    const counted = await anthropic.messages.countTokens({ model: "claude-any", system: "s", messages: user("abc") });
    assert.equal(counted.input_tokens, 8);
  },
  async anthropic_models() {
    const names = [];
    for await (const model of anthropic.models.list()) names.push([model.id, model.type]);
    assert.deepEqual(names, [["tiny", "model"]]);
    assert.equal((await anthropic.models.retrieve("tiny")).id, "tiny");
  },
  async anthropic_errors() {
    const ask = (content, more = {}) =>
      anthropic.messages.create({ model: "claude-any", max_tokens: 10, messages: user(content), ...more });
    const fails = async (promise, kind, status, type) => {
      const error = await promise.then(() => assert.fail("no error"), (error) => error);
      assert.ok(error instanceof kind, String(error));
      assert.equal(error.status, status);
      assert.equal(error.error.error.type, type);
      assert.match(error.requestID, /^req_/);
    };
    await fails(ask("a", { temperature: 9 }), Anthropic.BadRequestError, 400, "invalid_request_error");
    await fails(ask("a", { tools: [{ name: "f", input_schema: { type: "object" } }] }), Anthropic.BadRequestError, 400,
                "invalid_request_error");
    await fails(ask("[end busy]"), Anthropic.RateLimitError, 429, "rate_limit_error");
    await fails(ask("[end failed]"), Anthropic.InternalServerError, 500, "api_error");
    await fails(anthropic.models.retrieve("none"), Anthropic.NotFoundError, 404, "not_found_error");
    const stranger = new Anthropic({ apiKey: "wrong", baseURL: url, maxRetries: 0 });
    await fails(stranger.messages.countTokens({ model: "a", messages: user("a") }), Anthropic.AuthenticationError, 401,
                "authentication_error");
    const stream = anthropic.messages.stream({ model: "a", max_tokens: 10, messages: user("[say ab][end failed]") });
    await assert.rejects(stream.finalMessage(), Anthropic.APIError);
  },
  async anthropic_abort() {
    const before = await metric("kvfold_cancelled_total");
    const stream = anthropic.messages.stream({
      model: "a", max_tokens: 100, messages: user("[say abcdefghijklmnopqrstuvwxyz][each 300]") });
    stream.on("text", () => stream.abort());
    await assert.rejects(stream.finalMessage(), Anthropic.APIUserAbortError);
    const begun = Date.now();
    while ((await metric("kvfold_cancelled_total")) < before + 1) assert.ok(Date.now() - begun < 1500);
  },
  async anthropic_retry() {
    const patient = new Anthropic({ apiKey: key, baseURL: url, maxRetries: 5 });
    const answer = await patient.messages.create({ model: "a", max_tokens: 10, messages: user("[say late]") });
    assert.equal(answer.content[0].text, "late");
  },
  // The model itself, and not a script: what comes is not known, but that it is the same.
  async model() {
    const chat = { model: "any", messages: user("Tell me"), max_tokens: 24, think: false };
    const answer = await openai.chat.completions.create(chat);
    const text = answer.choices[0].message.content;
    assert.equal(answer.usage.completion_tokens, 24);
    let streamed = "";
    for await (const piece of await openai.chat.completions.create({ ...chat, stream: true }))
      streamed += piece.choices[0].delta.content ?? "";
    assert.equal(streamed, text);
    const message = await anthropic.messages.create({ model: "any", max_tokens: 24, messages: user("Tell me"),
                                                      temperature: 0 });
    assert.equal(message.content[0].text, text);
    assert.ok(message.usage.cache_read_input_tokens + message.usage.input_tokens === answer.usage.prompt_tokens);
    const two = await openai.chat.completions.create({ ...chat, n: 2, temperature: 1, seed: 5 });
    const same = await openai.chat.completions.create({ ...chat, n: 2, temperature: 1, seed: 5 });
    assert.deepEqual(two.choices.map((choice) => choice.message.content),
                     same.choices.map((choice) => choice.message.content));
  },
};

for (const name of names) {
  try {
    await cases[name]();
    console.log("ok " + name);
  } catch (error) {
    console.log("failed " + name + ": " + (error.stack ?? error));
  }
}
