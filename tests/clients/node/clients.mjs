// Clients from npm against a server: each check prints one line of JSON, {"name", "ok", "why"}.
// Run as: URL=http://127.0.0.1:8000 KEY=… MODEL=mocker node clients.mjs

import assert from 'node:assert/strict';
import OpenAI from 'openai';
import Anthropic from '@anthropic-ai/sdk';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { createAnthropic } from '@ai-sdk/anthropic';
import { generateText, streamText, tool, stepCountIs } from 'ai';
import { z } from 'zod';

const { URL: base, KEY: key, MODEL: model } = process.env;
const asked = 'ask weather({"city": "Oslo"}), please';
const schema = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
const checks = [];
const check = (name, run) => checks.push([name, run]);

const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: base, apiKey: key, maxRetries: 0 });

check('openai: a chat and its stream', async () => {
  const body = { model, max_tokens: 30, messages: [{ role: 'user', content: 'hi' }] };
  const whole = await openai.chat.completions.create(body);
  let text = '';
  for await (const chunk of await openai.chat.completions.create({ ...body, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? '';
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(text.length, 30);
});

check('openai: a response and its stream', async () => {
  const body = { model, max_output_tokens: 30, input: 'hi' };
  const whole = await openai.responses.create(body);
  let text = '';
  for await (const event of await openai.responses.create({ ...body, stream: true })) {
    if (event.type === 'response.output_text.delta') text += event.delta;
  }
  assert.equal(text, whole.output_text);
});

check('openai: an error', async () => {
  const body = { model: 'nobody', messages: [{ role: 'user', content: 'hi' }] };
  await assert.rejects(openai.chat.completions.create(body), OpenAI.NotFoundError);
});

check('anthropic: a message and its stream', async () => {
  const body = { model, max_tokens: 30, messages: [{ role: 'user', content: 'hi' }] };
  const whole = await anthropic.messages.create(body);
  const final = await anthropic.messages.stream(body).finalMessage();
  assert.deepEqual(final.content, whole.content);
  assert.equal(final.stop_reason, 'max_tokens');
  const counted = await anthropic.messages.countTokens({ model, messages: body.messages });
  assert.ok(counted.input_tokens > 0);
});

check('anthropic: tools', async () => {
  const tools = [{ name: 'weather', input_schema: schema }];
  const body = { model, max_tokens: 200, tools, messages: [{ role: 'user', content: asked }] };
  const said = await anthropic.messages.stream(body).finalMessage();
  const use = said.content.at(-1);
  assert.deepEqual([use.type, use.name, use.input], ['tool_use', 'weather', { city: 'Oslo' }]);
});

check('anthropic: an error', async () => {
  const body = { model: 'nobody', max_tokens: 5, messages: [{ role: 'user', content: 'hi' }] };
  await assert.rejects(anthropic.messages.create(body), Anthropic.NotFoundError);
});

const providers = {
  '@ai-sdk/openai, chat': createOpenAI({ baseURL: `${base}/v1`, apiKey: key }).chat(model),
  '@ai-sdk/openai, responses': createOpenAI({ baseURL: `${base}/v1`, apiKey: key }).responses(model),
  '@ai-sdk/openai-compatible': createOpenAICompatible({ name: 'ours', baseURL: `${base}/v1`, apiKey: key })(model),
  '@ai-sdk/anthropic': createAnthropic({ baseURL: `${base}/v1`, apiKey: key })(model),
};

for (const [name, served] of Object.entries(providers)) {
  check(`${name}: a text and its stream`, async () => {
    const body = { model: served, prompt: 'hi', maxOutputTokens: 30, maxRetries: 0 };
    const whole = await generateText(body);
    let text = '';
    for await (const piece of streamText(body).textStream) text += piece;
    assert.equal(text, whole.text);
    assert.equal(text.length, 30);
    assert.ok(whole.usage.inputTokens > 0);
  });
  check(`${name}: a loop of tools`, async () => {
    const weather = tool({
      description: 'The weather of a city.',
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => `18 degrees in ${city}`,
    });
    const body = { model: served, prompt: asked, tools: { weather }, stopWhen: stepCountIs(3), maxRetries: 0 };
    const answer = await generateText({ ...body, maxOutputTokens: 300 });
    assert.match(answer.text, /^Result: .*18 degrees in Oslo/);
    assert.equal(answer.steps.length, 2);
  });
}

for (const [name, run] of checks) {
  try {
    await run();
    console.log(JSON.stringify({ name, ok: true }));
  } catch (error) {
    console.log(JSON.stringify({ name, ok: false, why: String(error?.stack ?? error) }));
  }
}
