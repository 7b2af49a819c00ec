/** The right side: a card per answer, with its canvas, its figures and copy buttons. */

import { BANDS, bandOf, confidenceOf, countRevealed, piecesOf } from "./canvas.js";
import { curlOf } from "./request.js";
import { rateOf } from "./run.js";
import { comparing, differing, state } from "./state.js";
import { Calls, Fields } from "./values.js";
import { h, ref } from "./vue.js";

const STATUS = { running: "writing", done: "done", stopped: "stopped", failed: "failed" };
const SPECIAL = "▪";
const MASKED = "·\u200b"; // allows line breaks between masks

export function Answers() {
  const cards = state.runs.map((run, index) => h(Card, { key: index, run, marks: differing.value?.[index] }));
  return h("section", { class: "answers", "aria-label": "Answers" }, [
    h(Legend),
    h("div", { class: ["cards", cards.length > 1 && "two"] }, cards.length ? cards : h(Nothing)),
  ]);
}

function Nothing() {
  return h("article", { class: "card empty" }, h("p", "The answer appears here, token by token, in the order of the model's confidence."));
}

function Card({ run, marks }) {
  const finished = run.status !== "running";
  return h("article", { class: ["card", run.status], "aria-label": `Answer ${run.label}`.trim() }, [
    h("header", [
      h("h2", [run.label && h("b", { class: "side" }, run.label), run.title]),
      h("span", { class: ["status", run.status] }, finished && run.canvas.finish === "length" ? "full" : STATUS[run.status]),
    ]),
    h(Figures, { run, marks }), // above the canvas, which grows
    run.error ? h(Failure, { error: run.error }) : null,
    (!run.error || run.canvas.places.length > 0) && h(Canvas, { run, marks }),
    run.status === "done" && (run.canvas.calls.length ? h(Calls, { run }) : run.schema && h(Fields, { run })),
    run.warnings.length > 0 && h("ul", { class: "warnings", "aria-label": "Warnings" }, run.warnings.map((each) => h("li", each))),
    h("p", { class: "visually-hidden", "aria-live": "polite" }, run.status === "done" ? spoken(run) : ""),
    h(Copies, { run }),
  ]);
}
Card.props = ["run", "marks"];

function spoken({ label, canvas: { answer, calls } }) {
  const called = calls.map(({ function: { name, arguments: args } }) => `call of ${name} with ${args}`).join(", ");
  return `Answer ${label}: ${called || answer || "empty"}`;
}

function Failure({ error }) {
  const details = [error.status || null, error.code, error.param].filter(Boolean).join(" · ");
  return h("div", { class: "failure", role: "alert" }, [
    h("p", error.message),
    error.retryAfter && h("p", `Ask again in ${error.retryAfter} s.`),
    details && h("small", details),
  ]);
}
Failure.props = ["error"];

function Canvas({ run, marks }) {
  const pieces = piecesOf(run.canvas);
  const empty = run.status === "done" && pieces.length === 0;
  return h(
    "div",
    { class: "canvas", dir: "auto" },
    empty ? h("em", "The answer is empty.") : pieces.map((piece, place) => pieceView(piece, place, marks)),
  );
}
Canvas.props = ["run", "marks"];

function pieceView(piece, place, marks) {
  if (piece.state === "masked") return h("span", { key: place, class: "place masked", "aria-hidden": "true" }, MASKED);
  const confidence = confidenceOf(piece);
  const band = confidence === null ? null : `band${bandOf(confidence)}`;
  const special = piece.text === "";
  const attributes = { key: place, class: ["place", piece.state, band, { special }], title: titleOf(piece, confidence) };
  return h(marks?.has(place) ? "mark" : "span", attributes, special ? hidden(piece) : piece.text);
}

/** Special tokens have no text; they are drawn until the answer is known to end there. */
function hidden(piece) {
  return piece.state === "revealed" ? SPECIAL : "";
}

function titleOf(piece, confidence) {
  if (confidence === null) return null;
  const steps = [...new Set(piece.tokens.map((token) => token.step))].join(", ");
  return `confidence ${confidence.toFixed(2)}, revealed at step ${steps}`;
}

function Figures({ run, marks }) {
  const { usage, canvas } = run;
  const rate = rateOf(run);
  const figures = [
    ["tokens/s", rate ? rate.toFixed(1) : "–"],
    ["time", `${run.seconds.toFixed(1)} s`],
    ["forwards", usage ? usage.forwards : canvas.step || "–"],
    ["refreshes", usage ? usage.refreshes : "–"],
    ["cached", usage ? usage.cached_steps : "–"],
    ["tokens", usage ? usage.completion_tokens : countRevealed(canvas) || "–"],
    ["interval", usage?.refresh_interval ?? "–"],
  ];
  if (run.label) figures.push(["differing", marks ? marks.size : "–"]);
  return h("dl", { class: "figures" }, figures.map(([name, value]) => h("div", [h("dt", name), h("dd", value)])));
}
Figures.props = ["run", "marks"];

function Copies({ run }) {
  return h("footer", [
    h(CopyButton, { label: "Copy answer", disabled: !run.canvas.answer, text: () => copyOf(run.canvas) }),
    h(CopyButton, { label: "Copy as curl", text: () => curlOf(run.body, Boolean(state.key)) }),
  ]);
}
Copies.props = ["run"];

/** The text of an answer, or its calls in OpenAI's form. */
function copyOf({ answer, calls }) {
  return calls.length ? JSON.stringify(calls, null, 2) : answer;
}

const CopyButton = {
  props: ["label", "text"],
  setup(props) {
    const said = ref("");
    const onClick = async () => {
      said.value = (await copy(props.text())) ? "Copied" : "Copying is not allowed here";
      setTimeout(() => (said.value = ""), 1500);
    };
    return () => h("button", { type: "button", class: "chip", "aria-live": "polite", onClick }, said.value || props.label);
  },
};

/** Copies text. Pages over http from another host have no clipboard API; there a selection is copied. */
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const area = Object.assign(document.createElement("textarea"), { value: text, className: "visually-hidden" });
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

function percent(share) {
  return `${Math.round(share * 100)} %`;
}

function Legend() {
  const names = [`below ${percent(BANDS[0])}`, ...BANDS.map((bound) => `≥ ${percent(bound)}`)];
  const bands = names.map((name, band) => h("span", { class: `place revealed band${band}` }, name));
  return h("div", { class: "legend" }, [
    h("p", ["Confidence ", bands]),
    h("p", [
      h("span", { class: "place masked", "aria-hidden": "true" }, MASKED), "masked, ",
      h("span", { class: "place revealed band3" }, "filled"), " revealed, ",
      h("span", { class: "place committed band3" }, "underlined"), " committed",
      comparing.value && [", ", h("mark", { class: "place" }, "boxed"), " differs"],
    ]),
  ]);
}
