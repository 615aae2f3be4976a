// Streams one answer through the relay with the unchanged OpenAI SDK.
//
// npm install openai
// OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sk-... node node_stream.mjs "Where is my parcel?"

import OpenAI from "openai";

// Nothing here knows of the relay: the SDK reads OPENAI_BASE_URL and OPENAI_API_KEY by itself.
const client = new OpenAI();

try {
  const stream = await client.chat.completions.create({
    model: process.env.MODEL ?? "deepseek-chat",
    messages: [{ role: "user", content: process.argv.slice(2).join(" ") || "Hello!" }],
    stream: true,
  });
  for await (const chunk of stream) {
    process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
  }
  process.stdout.write("\n");
} catch (error) {
  // Thrown in the middle of a stream too: what was printed so far is then not the whole answer.
  console.error(`\n${error.constructor.name}: ${error.message}`);
  process.exitCode = 1;
}
