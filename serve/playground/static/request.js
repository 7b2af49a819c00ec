/** Builds the body of a request, and the same request as a shell command. */

import { COMPLETIONS } from "./api.js";
import { denoises } from "./dial.js";
import { fieldsOfTools } from "./tools.js";

/** Number fields, sent if they are filled in; otherwise the server's defaults apply. */
export const NUMBERS = {
  max_tokens: { label: "Max tokens", min: 1, step: 1 },
  block_length: { label: "Block length", min: 1, step: 1 },
  temperature: { label: "Temperature", min: 0, step: 0.1 },
  seed: { label: "Seed", min: 0, step: 1 },
};

/** Rules for the number of tokens per step; without one the server's default applies. */
export const RULES = {
  threshold: { label: "Threshold", value: "0.9", min: 0, max: 1, step: 0.05 },
  tokens_per_step: { label: "Tokens per step", value: "2", min: 1, step: 1 },
};

export function newKnobs() {
  const rules = Object.entries(RULES).map(([name, { value }]) => [name, value]);
  return { rule: "", ...Object.fromEntries(Object.keys(NUMBERS).map((name) => [name, ""])), ...Object.fromEntries(rules) };
}

/** Number fields of masked-diffusion models only. */
const DENOISING = ["block_length"];

/** The number fields that a model has. */
export function numbersOf(model) {
  return Object.keys(NUMBERS).filter((name) => denoises(model) || !DENOISING.includes(name));
}

/** The body of a request from the form, a refresh interval or preset, and a schema and tools, which may be null. */
export function bodyOf({ models, model, question, media, toolChoice, knobs }, dial, { schema, tools }) {
  const chosen = models.find(({ id }) => id === model);
  const parts = media.map(({ kind, url }) => ({ type: `${kind}_url`, [`${kind}_url`]: { url } }));
  return {
    model,
    messages: [{ role: "user", content: [...parts, { type: "text", text: question }] }],
    stream: true,
    stream_mode: "denoise",
    stream_options: { include_usage: true },
    ...(schema && { response_format: { type: "json_schema", json_schema: { name: "answer", schema } } }),
    ...(tools && fieldsOfTools(tools, toolChoice)),
    ...(denoises(chosen) && (dial.effort ? { effort: dial.effort } : { refresh_interval: dial.interval })),
    ...filledIn(knobs, [...numbersOf(chosen), denoises(chosen) && knobs.rule]),
  };
}

function filledIn(knobs, names) {
  const filled = names.filter((name) => name && `${knobs[name]}`.trim() !== "");
  return Object.fromEntries(filled.map((name) => [name, Number(knobs[name])]));
}

/** The request for a POSIX shell. It omits the key, and uses a here-document: images and videos are too long for an argument. */
export function curlOf(body, withKey) {
  const url = new URL(COMPLETIONS, document.baseURI).href;
  return [
    `curl --no-buffer '${url.replaceAll("'", "%27")}' \\`,
    "  -H 'Content-Type: application/json' \\",
    ...(withKey ? ['  -H "Authorization: Bearer $LLADAV_API_KEY" \\'] : []),
    "  --data-binary @- <<'JSON'",
    JSON.stringify(body),
    "JSON",
    "",
  ].join("\n");
}
