// Checks with the AI SDK of Vercel: its provider for compatible servers, and that of OpenAI.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";
import { BASE, IMAGE, MODEL, assert, check, report } from "./checks.mjs";

const compatible = createOpenAICompatible({
  name: "lladav",
  baseURL: BASE,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL: BASE, apiKey: "none" });
const model = compatible(MODEL);
const prompt = "How many?";
const maxRetries = 0;
const schema = z.object({ city: z.string().max(12), days: z.number().int().min(1).max(9) });
const weather = tool({
  description: "Ask for the weather of a city.",
  inputSchema: schema,
  execute: async ({ city }) => `${city}: sunny`,
});

check("text", async () => {
  const { text, usage } = await generateText({ model, prompt, system: "Be short.", maxOutputTokens: 16, maxRetries });
  assert(text && usage.outputTokens > 0);
});

check("images", async () => {
  const content = [
    { type: "text", text: "Which colour?" },
    { type: "image", image: IMAGE },
  ];
  assert((await generateText({ model, messages: [{ role: "user", content }], maxRetries })).text);
});

check("streams", async () => {
  const result = streamText({ model, prompt, maxOutputTokens: 16, maxRetries });
  let text = "";
  for await (const part of result.textStream) text += part;
  assert(text && (await result.usage).outputTokens > 0);
});

check("structured output", async () => {
  schema.parse((await generateObject({ model, prompt, schema, maxRetries })).object);
  const result = streamObject({ model, prompt, schema, maxRetries });
  let partial; // the stream is read only as far as it is asked for
  for await (partial of result.partialObjectStream);
  schema.parse(partial);
  schema.parse(await result.object);
});

check("tools", async () => {
  const asked = { model, prompt, tools: { weather }, toolChoice: "required", maxRetries };
  const { toolCalls, toolResults } = await generateText(asked);
  schema.parse(toolCalls[0].input);
  assert(toolResults[0].output.endsWith("sunny"));
  const prepareStep = ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" });
  const { text } = await generateText({ ...asked, stopWhen: stepCountIs(2), prepareStep });
  assert(text);
});

check("tools in streams", async () => {
  const result = streamText({ model, prompt, tools: { weather }, toolChoice: "required", maxRetries });
  schema.parse((await result.toolCalls)[0].input);
});

check("OpenAI's provider", async () => {
  assert((await generateText({ model: openai.chat(MODEL), prompt, maxRetries })).text);
  schema.parse((await generateObject({ model: openai.chat(MODEL), prompt, schema, maxRetries })).object);
});

check("responses", async () => {
  assert((await generateText({ model: openai.responses(MODEL), prompt, maxRetries })).text);
  const result = streamText({ model: openai.responses(MODEL), prompt, maxRetries });
  let text = "";
  for await (const part of result.textStream) text += part;
  assert(text);
  schema.parse((await generateObject({ model: openai.responses(MODEL), prompt, schema, maxRetries })).object);
});

await report("ai");
