/** One answer on its way: its canvas, its figures, and how it ended. */

import { ApiError, complete } from "./api.js";
import { applyChunk, countRevealed, newCanvas } from "./canvas.js";
import { describe } from "./dial.js";
import { reactive } from "./vue.js";

const TICK_MS = 100;

/** An answer that nothing is known of yet; `status` goes to "done", "stopped" or "failed". */
export function newRun(label, dial, body) {
  return reactive({
    label,
    title: describe(dial),
    body,
    status: "running",
    canvas: newCanvas(),
    usage: null,
    error: null,
    seconds: 0,
  });
}

/** Asks, and brings `run` up to date with each chunk until the end; never throws. */
export async function perform(run, key, signal) {
  const started = performance.now();
  const look = () => (run.seconds = (performance.now() - started) / 1000);
  const clock = setInterval(look, TICK_MS);
  try {
    for await (const chunk of complete(run.body, key, signal)) take(run, chunk);
    run.status = "done";
  } catch (error) {
    run.status = signal.aborted ? "stopped" : "failed";
    if (!signal.aborted) run.error = explained(error);
  } finally {
    clearInterval(clock);
    look();
  }
}

/** Tokens for each second since the question was sent; none before the first. */
export function rateOf(run) {
  const tokens = run.usage?.completion_tokens ?? countRevealed(run.canvas);
  return tokens && run.seconds ? tokens / run.seconds : null;
}

function take(run, chunk) {
  applyChunk(run.canvas, chunk);
  run.usage = chunk.usage ?? run.usage;
}

function explained(error) {
  if (error instanceof ApiError) return error;
  console.warn(error);
  return new ApiError(`The connection broke off (${error.message}); ask again.`);
}
