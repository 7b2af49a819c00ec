/** The left side: images and videos, question, schema, tools, refresh intervals, settings, key. */

import { select } from "./controls.js";
import { denoises, intervalsOf } from "./dial.js";
import { EXAMPLES } from "./examples.js";
import { SchemaField, ToolsField } from "./json_fields.js";
import { kindsOf } from "./media.js";
import { MediaField } from "./media_field.js";
import { NUMBERS, numbersOf, RULES } from "./request.js";
import { ask, chooseModel, chosenModel, comparing, keepKey, running, state, stop, useExample } from "./state.js";
import { h, nextTick, ref, watch } from "./vue.js";

export function QuestionForm() {
  return h("form", { class: "ask", novalidate: true, onSubmit: submit, "aria-label": "Ask a question" }, [
    h(MediaField),
    h(Question),
    denoises(chosenModel.value) && [h(SchemaField), h(ToolsField), h(Dials)],
    h(Knobs),
    h(KeyField),
    h(Actions),
  ]);
}

function submit(event) {
  event.preventDefault();
  if (!running.value) ask();
  if (!state.question.trim()) document.getElementById("question").focus();
}

function Question() {
  const onKeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    event.target.form.requestSubmit();
  };
  const onInput = (event) => (state.question = event.target.value);
  return h("div", { class: "question" }, [
    h("label", { for: "question" }, "Question"),
    h("textarea", { id: "question", rows: 3, value: state.question, onInput, onKeydown, "aria-describedby": "keys" }),
    h("small", { id: "keys" }, "Enter asks, Shift+Enter begins a new line."),
    h("ul", { class: "examples", "aria-label": "Examples" }, examples().map(example)),
  ]);
}

/** The examples that the model and its server can answer. */
function examples() {
  const model = chosenModel.value;
  const kinds = kindsOf(model);
  const structured = ({ schema, tools }) => Boolean(schema || tools);
  return EXAMPLES.filter((each) => kinds.includes(each.kind ?? "image") && (denoises(model) || !structured(each)));
}

function example(each) {
  return h("li", [h("button", { type: "button", class: "chip", onClick: () => useExample(each) }, each.label)]);
}

function Dials() {
  const onChange = (event) => (state.compare = event.target.checked);
  const sides = state.compare ? ["A", "B"] : [""];
  return h("fieldset", { class: "dials" }, [
    h("legend", { class: "visually-hidden" }, "Dial"),
    sides.map((side, index) => h(Dial, { key: index, side, dial: state.dials[index] })),
    h("small", "At 1 the model recomputes its keys and values at every step, which is exact. Larger is faster and less exact."),
    h("label", { class: "switch" }, [
      h("input", { type: "checkbox", role: "switch", checked: state.compare, disabled: running.value, onChange }),
      "Compare side by side",
    ]),
  ]);
}

function Dial({ side, dial }) {
  const stops = intervalsOf(chosenModel.value);
  const id = `interval${side}`;
  const onInput = (event) => Object.assign(dial, { interval: stops[event.target.value], effort: "" });
  const range = { min: 0, max: stops.length - 1, step: 1, value: stops.indexOf(dial.interval), onInput };
  const said = dial.effort ? `by effort ${dial.effort}` : `${dial.interval}`;
  return h("div", { class: "dial" }, [
    h("label", { for: id }, side ? [h("b", { class: "side" }, side), "Refresh interval"] : "Refresh interval"),
    h("output", { for: id }, said),
    h("input", { type: "range", id, class: dial.effort && "unused", "aria-valuetext": said, ...range }),
    h("div", { class: "ends", "aria-hidden": "true" }, [h("span", `${stops[0]} exact`), h("span", `${stops.at(-1)} fast`)]),
    h(Efforts, { side, dial }),
  ]);
}
Dial.props = ["side", "dial"];

/** Presets by name; a selected preset replaces the slider's value. */
function Efforts({ side, dial }) {
  const names = chosenModel.value?.efforts ?? [];
  const label = `Effort ${side}`.trim();
  return (
    names.length > 0 &&
    h("ul", { class: "efforts", "aria-label": label }, [
      h("li", { "aria-hidden": "true" }, "or an effort:"),
      names.map((name) => h("li", { key: name }, [effort(name, dial)])),
    ])
  );
}
Efforts.props = ["side", "dial"];

function effort(name, dial) {
  const pressed = dial.effort === name;
  const onClick = () => (dial.effort = pressed ? "" : name);
  return h("button", { type: "button", class: "chip", "aria-pressed": `${pressed}`, onClick }, name);
}

function Knobs() {
  const onToggle = (event) => (state.settingsOpen = event.target.open);
  return h("details", { class: "knobs", onToggle }, [
    h("summary", "Settings"),
    h("div", { class: "fields" }, [
      state.models.length > 1 && h(ModelField),
      numbersOf(chosenModel.value).map((name) => numberField(name, NUMBERS[name])),
      denoises(chosenModel.value) && [
        h(RuleField),
        state.knobs.rule && numberField(state.knobs.rule, RULES[state.knobs.rule]),
      ],
    ]),
  ]);
}

function ModelField() {
  const options = state.models.map(({ id }) => [id, id]);
  return select("Model", state.model, options, chooseModel);
}

function RuleField() {
  const rules = Object.entries(RULES).map(([name, { label }]) => [name, label.toLowerCase()]);
  return select("Reveal by", state.knobs.rule, [["", "default"], ...rules], (value) => (state.knobs.rule = value));
}

function numberField(name, { label, ...limits }) {
  const onInput = (event) => (state.knobs[name] = event.target.value);
  const placeholder = `${usual(name) ?? ""}`;
  return h("label", { key: name }, [
    label,
    h("input", { type: "number", name, inputmode: "decimal", value: state.knobs[name], placeholder, onInput, ...limits }),
  ]);
}

/** The server's default, if it is known. */
function usual(name) {
  const model = chosenModel.value;
  return { max_tokens: model?.default_max_tokens, block_length: model?.block_length, temperature: 0, seed: 0 }[name];
}

const KeyField = {
  setup() {
    const input = ref(null);
    watch(
      () => state.keyWanted,
      (wanted) => wanted && nextTick(() => input.value?.focus()),
    );
    const onChange = (event) => keepKey(event.target.value);
    const onKeydown = (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault(); // do not submit the question
      keepKey(event.target.value);
    };
    const attributes = { type: "password", id: "key", autocomplete: "off", spellcheck: false, "aria-describedby": "kept" };
    return () =>
      (state.settingsOpen || state.keyWanted) &&
      h("div", { class: "key" }, [
        h("label", { for: "key" }, "API key"),
        h("input", { ref: input, value: state.key, onChange, onKeydown, ...attributes }),
        h("small", { id: "kept" }, "Kept in this tab until it is closed."),
      ]);
  },
};

function Actions() {
  const type = running.value ? "button" : "submit"; // the same element, so that it keeps the focus
  const onClick = (event) => {
    if (!running.value) return;
    event.preventDefault(); // the button becomes a submit button before the browser handles the click, which would send the question again
    stop();
  };
  return h("div", { class: "actions" }, [
    state.notice && h("p", { class: "notice", role: "alert" }, state.notice),
    h(
      "button",
      { id: "run", type, class: running.value && "secondary", onClick },
      running.value ? "Stop" : comparing.value ? "Ask both" : "Ask",
    ),
  ]);
}
