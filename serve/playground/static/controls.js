/** Controls that several parts of the form use. */

import { h } from "./vue.js";

/** A menu of `[value, text]` options. */
export function select(label, value, options, change) {
  const onChange = (event) => change(event.target.value);
  return h("label", [
    label,
    h("select", { value, onChange }, options.map(([id, text]) => h("option", { value: id }, text))),
  ]);
}
