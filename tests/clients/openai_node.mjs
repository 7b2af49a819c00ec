// Checks with the openai package for Node.
import OpenAI from "openai";
import { BASE, IMAGE, MODEL, assert, check, report } from "./checks.mjs";

const client = new OpenAI({ baseURL: BASE, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "How many?" }];
const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 12 }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", parameters, strict: true } }];
const isWeather = (value) => typeof value.city === "string" && Number.isInteger(value.days);

check("text", async () => {
  const answer = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 16 });
  assert(answer.choices[0].message.content);
});

check("images", async () => {
  const content = [
    { type: "text", text: "Which colour?" },
    { type: "image_url", image_url: { url: IMAGE } },
  ];
  const asked = { model: MODEL, messages: [{ role: "user", content }], max_tokens: 8 };
  assert((await client.chat.completions.create(asked)).choices[0].message.content !== null);
});

check("streams", async () => {
  const asked = { model: MODEL, messages, max_tokens: 16 };
  const whole = (await client.chat.completions.create(asked)).choices[0].message.content;
  let text = "";
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? "";
  }
  assert(text === whole, "the stream differs from the whole answer");
});

check("structured output", async () => {
  const response_format = { type: "json_schema", json_schema: { name: "weather", schema: parameters } };
  const answer = await client.chat.completions.parse({ model: MODEL, messages, response_format });
  assert(isWeather(JSON.parse(answer.choices[0].message.content)));
});

check("tools", async () => {
  const asked = { model: MODEL, messages, tools, tool_choice: "required" };
  const { message } = (await client.chat.completions.create(asked)).choices[0];
  assert(isWeather(JSON.parse(message.tool_calls[0].function.arguments)));
  const results = message.tool_calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "sunny" }));
  const history = [...messages, message, ...results];
  const next = await client.chat.completions.create({ ...asked, messages: history, tool_choice: "none" });
  assert(next.choices[0].message.content);
});

check("tools in streams", async () => {
  const stream = client.chat.completions.stream({ model: MODEL, messages, tools, tool_choice: "required" });
  const { message } = (await stream.finalChatCompletion()).choices[0];
  assert(isWeather(JSON.parse(message.tool_calls[0].function.arguments)));
});

check("responses", async () => {
  assert((await client.responses.create({ model: MODEL, input: "How many?" })).output_text);
  const stream = client.responses.stream({ model: MODEL, input: "How many?", max_output_tokens: 16 });
  assert((await stream.finalResponse()).output_text);
});

check("text completions", async () => {
  const answer = await client.completions.create({ model: MODEL, prompt: ["One, ", "Two, "], max_tokens: 8 });
  assert(answer.choices.length === 2);
});

check("models and errors", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert(names.includes(MODEL));
  const refused = await client.chat.completions.create({ model: "gpt-4o", messages }).catch((error) => error);
  assert(refused instanceof OpenAI.NotFoundError && refused.param === "model");
});

await report("openai");
