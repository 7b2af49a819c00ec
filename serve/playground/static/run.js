/** The state of one answer: its canvas, its figures, and its result. */

import { ApiError, complete } from "./api.js";
import { applyChunk, countRevealed, newCanvas } from "./canvas.js";
import { reactive } from "./vue.js";

const TICK_MS = 100;

/** A new answer; `status` changes to "done", "stopped" or "failed". */
export function newRun(label, title, body, { schema, tools }) {
  return reactive({
    label,
    title,
    body,
    schema,
    tools,
    status: "running",
    canvas: newCanvas(),
    usage: null,
    warnings: [],
    error: null,
    seconds: 0,
  });
}

/** Sends the request and updates `run` with each chunk; never throws. */
export async function perform(run, key, signal) {
  const started = performance.now();
  const updateTime = () => (run.seconds = (performance.now() - started) / 1000);
  const clock = setInterval(updateTime, TICK_MS);
  try {
    for await (const chunk of complete(run.body, key, signal)) update(run, chunk);
    run.status = "done";
  } catch (error) {
    run.status = signal.aborted ? "stopped" : "failed";
    if (!signal.aborted) run.error = asApiError(error);
  } finally {
    clearInterval(clock);
    updateTime();
  }
}

/** Tokens per second since the request was sent; null before the first token. */
export function rateOf(run) {
  const tokens = run.usage?.completion_tokens ?? countRevealed(run.canvas);
  return tokens && run.seconds ? tokens / run.seconds : null;
}

function update(run, chunk) {
  applyChunk(run.canvas, chunk);
  run.usage = chunk.usage ?? run.usage;
  run.warnings.push(...(chunk.warnings ?? []));
}

function asApiError(error) {
  if (error instanceof ApiError) return error;
  console.warn(error);
  return new ApiError(`The connection was lost (${error.message}); ask again.`);
}
