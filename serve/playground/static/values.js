/** Tables of the values in an answer that has a schema, or in calls of tools, coloured by confidence. */

import { bandOf } from "./canvas.js";
import { confidenceBetween, fieldsOf, mismatchOf } from "./schema.js";
import { parametersOf, spansOfCalls } from "./tools.js";
import { h } from "./vue.js";

/** The fields of an answer, and whether it fits its schema. */
export function Fields({ run }) {
  const { canvas, schema } = run;
  return h(Values, { title: "Fields", fields: fieldsOf(canvas), mismatch: mismatchOf(canvas.answer, schema) });
}
Fields.props = ["run"];

/** The calls of an answer: the function, its arguments, and whether they fit its schema. */
export function Calls({ run: { canvas, tools } }) {
  const confidence = confidenceBetween(canvas);
  return spansOfCalls(canvas.calls).map(({ name, nameStart, args, argsStart }, index) => {
    const called = coloured(name, confidence(nameStart, nameStart + name.length));
    const mismatch = mismatchOf(args, parametersOf(tools, name));
    return h(Values, { key: index, title: ["Call of ", called], fields: fieldsOf(canvas, args, argsStart), mismatch });
  });
}
Calls.props = ["run"];

function Values({ title, fields, mismatch }) {
  const fits = mismatch === null;
  const verdict = fits ? "✓ fits the schema" : `✗ does not fit the schema: ${mismatch}`;
  const heads = ["field", "value", "confidence"].map((name) => h("th", { scope: "col" }, name));
  return h("table", { class: "values" }, [
    h("caption", [title, " ", h("span", { class: ["status", fits ? "done" : "failed"] }, verdict)]),
    fields.length > 0 && [h("thead", h("tr", heads)), h("tbody", fields.map(row))],
  ]);
}
Values.props = ["title", "fields", "mismatch"];

function row({ path, text, confidence }) {
  const cells = [h("th", { scope: "row" }, path || "answer"), h("td", coloured(text, confidence)), h("td", confidence.toFixed(2))];
  return h("tr", { key: path }, cells);
}

function coloured(text, confidence) {
  const title = `confidence ${confidence.toFixed(2)}`;
  return h("span", { class: `place revealed band${bandOf(confidence)}`, title }, text);
}
