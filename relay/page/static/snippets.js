// The same call for a terminal, Python and JavaScript. Without the key unless it is asked for.

const PLACEHOLDER = "YOUR_RELAY_KEY";

const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";
const literal = (value) => JSON.stringify(value);

// One line for each field.
function lines(fields, indent) {
  const each = Object.entries(fields).map(([name, value]) => `${indent}  ${literal(name)}: ${literal(value)}`);
  return `{\n${each.join(",\n")}\n${indent}}`;
}

function curl(origin, key, body) {
  return [
    `curl -N ${origin}/v1/chat/completions \\`,
    `  -H ${quoted("Authorization: Bearer " + key)} \\`,
    "  -H 'Content-Type: application/json' \\",
    `  -d ${quoted(lines(body, "  "))}`,
  ].join("\n");
}

function python(origin, key, body) {
  const more = Object.entries(body)
    .filter(([name]) => !["model", "messages", "stream", "stream_options"].includes(name))
    .map(([name, value]) => `    ${name}=${literal(value)},`);
  return [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(origin + "/v1")}, api_key=${literal(key)})`,
    "stream = client.chat.completions.create(",
    `    model=${literal(body.model)},`,
    `    messages=${literal(body.messages)},`,
    ...more,
    "    stream=True,",
    ")",
    "for chunk in stream:",
    "    if chunk.choices:",
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
  ].join("\n");
}

function javascript(origin, key, body) {
  const { stream_options: _, ...call } = body;
  return [
    'import OpenAI from "openai";',
    "",
    `const client = new OpenAI({ baseURL: ${literal(origin + "/v1")}, apiKey: ${literal(key)} });`,
    `const stream = await client.chat.completions.create(${lines(call, "")});`,
    "for await (const chunk of stream) {",
    '  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");',
    "}",
  ].join("\n");
}

const PROGRAMS = { curl, python, javascript };

export function program(name, origin, key, body) {
  return PROGRAMS[name](origin, key || PLACEHOLDER, body);
}
