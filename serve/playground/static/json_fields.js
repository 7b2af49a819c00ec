/** The fields of the form that hold JSON: the schema of the answer, and tools. */

import { select } from "./controls.js";
import { state } from "./state.js";
import { choiceAmong, namesIn } from "./tools.js";
import { h } from "./vue.js";

export function SchemaField() {
  return field("schema", "JSON schema", "The answer always fits the schema. Leave it empty for free text.");
}

export function ToolsField() {
  const names = namesIn(state.tools);
  const hint = "A JSON array of functions in OpenAI's form. The arguments of a call always fit their schema.";
  return field("tools", "Tools", hint, names.length > 0 && toolChoice(names));
}

function toolChoice(names) {
  const options = [
    ["auto", "auto: calls or text, as the model decides"],
    ["required", "required: at least one call"],
    ...names.map((name) => [name, `${name}: one call`]),
  ];
  return select("Tool choice", choiceAmong(names, state.toolChoice), options, (value) => (state.toolChoice = value));
}

/** A field that is folded away while it is empty; `name` is that of its text in the state. */
function field(name, label, hint, more) {
  const onInput = (event) => (state[name] = event.target.value);
  const text = { id: name, rows: 8, value: state[name], onInput, spellcheck: false, "aria-describedby": `${name}-hint` };
  return h("details", { class: "knobs json", open: Boolean(state[name]) }, [
    h("summary", label),
    h("label", { for: name, class: "visually-hidden" }, label),
    h("textarea", text),
    h("small", { id: `${name}-hint` }, hint),
    more,
  ]);
}
