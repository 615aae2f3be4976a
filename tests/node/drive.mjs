// Drives an npm openai package through a relay and prints what it met, as one JSON object. It is told where to go
// by BASE_URL and API_KEY; arguments: the package's folder, the scenario.

import { createRequire } from "node:module";
import path from "node:path";

const [folder, scenario] = process.argv.slice(2);
const require = createRequire(path.join(folder, "package.json"));
const { OpenAI, APIError } = require(folder);
const { version } = require(path.join(folder, "package.json"));

const baseURL = process.env.BASE_URL;
const apiKey = process.env.API_KEY;
const model = process.env.MODEL ?? "m";
const messages = [{ role: "user", content: "Say hello." }];
const client = () => new OpenAI({ baseURL, apiKey });

const failure = (error) => ({
  class: error.constructor.name,
  is_api_error: error instanceof APIError,
  message: String(error.message),
  code: error.code ?? null,
  type: error.type ?? null,
  status_code: error.status ?? null,
});

const collect = async (more = {}) => {
  const stream = await client().chat.completions.create({ model, messages, stream: true, ...more });
  const seen = [];
  for await (const chunk of stream) seen.push(chunk);
  return seen;
};

const inEachWay = async (more = {}) => ({
  async: await collect(more),
  with_usage: await collect({ stream_options: { include_usage: true }, ...more }),
});

const scenarios = {
  stream: async () => ({
    ...(await inEachWay()),
    models: (await client().models.list()).data.map((each) => each.id),
  }),
  // Each of PROMPTS, a JSON list, in each way.
  streams: async () => {
    const found = {};
    for (const prompt of JSON.parse(process.env.PROMPTS)) {
      found[prompt] = await inEachWay({ messages: [{ role: "user", content: prompt }] });
    }
    return found;
  },
  plain: async () => {
    const { data, response } = await client()
      .chat.completions.create({ model, messages })
      .withResponse();
    return { async: data, request_id: response.headers.get("x-request-id") };
  },
  // Streams that the relay had to break off, one for each of MODELS: what is raised, null for nothing.
  broken: async () => {
    const through = async (model) => {
      let seen = 0;
      try {
        const stream = await client().chat.completions.create({ model, messages, stream: true });
        for await (const _ of stream) seen += 1;
      } catch (error) {
        return { ...failure(error), seen };
      }
      return null;
    };
    const bare = async (model) => {
      const response = await fetch(`${baseURL}/chat/completions`, {
        method: "POST",
        headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json" },
        body: JSON.stringify({ model, messages, stream: true }),
      });
      let text = "";
      try {
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let part = await reader.read(); !part.done; part = await reader.read()) text += part.value;
      } catch (error) {
        return { class: error.constructor.name, text };
      }
      return null;
    };
    const models = process.env.MODELS.split(",");
    const each = async (call) =>
      Object.fromEntries(await Promise.all(models.map(async (name) => [name, await call(name)])));
    return { async: await each(through), fetch: await each(bare) };
  },
  refused: async () => {
    try {
      await client().chat.completions.create({ model, messages });
    } catch (error) {
      return failure(error);
    }
    return null;
  },
};

process.stdout.write(JSON.stringify({ version, result: await scenarios[scenario]() }));
