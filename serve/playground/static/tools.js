/** Tools: what the form holds, and the calls of an answer. Pure, no DOM. */

/** The tools that are written in the form: null if there are none; throws an error if they are not a JSON array. */
export function parseTools(text) {
  if (!text.trim()) return null;
  const tools = JSON.parse(text);
  if (!Array.isArray(tools)) throw new SyntaxError("they are not an array");
  return tools.length ? tools : null;
}

/** The names of the functions in the form; none while its text is not complete. */
export function namesIn(text) {
  try {
    return namesOf(parseTools(text) ?? []);
  } catch {
    return [];
  }
}

function namesOf(tools) {
  return tools.map((tool) => tool?.function?.name).filter(Boolean);
}

/** A choice of tools ("auto", "required" or the name of a function); "auto" if the function is gone. */
export function choiceAmong(names, choice) {
  return choice === "required" || names.includes(choice) ? choice : "auto";
}

/** The fields of a request. */
export function fieldsOfTools(tools, choice) {
  const names = namesOf(tools);
  const chosen = choiceAmong(names, choice);
  return { tools, tool_choice: names.includes(chosen) ? { type: "function", function: { name: chosen } } : chosen };
}

/** The schema of a function's arguments. */
export function parametersOf(tools, name) {
  return tools.find((tool) => tool.function.name === name)?.function.parameters ?? { type: "object" };
}

/** Appends a chunk's `tool_calls` to calls. */
export function appendCalls(calls, deltas) {
  for (const { index, function: added, ...head } of deltas) {
    if (calls[index]) calls[index].function.arguments += added.arguments;
    else calls[index] = { ...head, function: { ...added } };
  }
}

/** The text of an answer that calls tools, as the model writes it (docs/serving.md, Tools). */
export function textOfCalls(calls) {
  return calls.map((call) => `${startOf(call)}${call.function.arguments}${END}`).join(BETWEEN);
}

/** The calls in that text: `{name, nameStart, args, argsStart}`. */
export function spansOfCalls(calls) {
  let at = 0;
  return calls.map((call) => {
    const { name, arguments: args } = call.function;
    const argsStart = at + startOf(call).length;
    const span = { name, nameStart: at + NAME.length + 1, args, argsStart };
    at = argsStart + args.length + END.length + BETWEEN.length;
    return span;
  });
}

const NAME = '<tool_call>\n{"name": ';
const END = "}\n</tool_call>";
const BETWEEN = "\n";

function startOf(call) {
  return `${NAME}${JSON.stringify(call.function.name)}, "arguments": `;
}
