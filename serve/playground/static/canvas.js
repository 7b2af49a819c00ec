/**
 * The canvas of one answer: which positions are masked, revealed and committed. Pure state, no DOM.
 *
 * Plain objects and functions: Vue wraps the state in proxies, which do not work with private members of classes.
 */

import { appendCalls, textOfCalls } from "./tools.js";

/** Lower bounds of the confidence bands after the first, which starts at 0. */
export const BANDS = [0.5, 0.7, 0.9, 0.99];

export function newCanvas() {
  return { places: [], committed: 0, step: 0, answer: "", calls: [], finish: null };
}

/** Band of a confidence: from 0, the least confident, to `BANDS.length`. */
export function bandOf(confidence) {
  return BANDS.filter((bound) => confidence >= bound).length;
}

/** Applies a chunk to the canvas. */
export function applyChunk(canvas, { denoise, choices = [] }) {
  if (denoise) applyDenoise(canvas, denoise);
  for (const { delta, finish_reason: finish } of choices) {
    canvas.answer += delta?.content ?? "";
    appendCalls(canvas.calls, delta?.tool_calls ?? []);
    if (finish) finishCanvas(canvas, finish);
  }
}

function applyDenoise(canvas, { step, canvas: size, reveal, committed }) {
  while (canvas.places.length < size) canvas.places.push(null);
  for (const { place, ...token } of reveal) canvas.places[place] = { ...token, step };
  canvas.step = step;
  canvas.committed = Math.max(canvas.committed, committed);
}

/** Removes positions behind the end of a stopped answer; the answer may end inside a token. Calls become its text. */
function finishCanvas(canvas, finish) {
  canvas.finish = finish;
  if (finish === "tool_calls") canvas.answer = textOfCalls(canvas.calls);
  if (finish === "stop") canvas.places.length = Math.min(canvas.places.length, canvas.committed + 1);
}

export function countRevealed(canvas) {
  return canvas.places.filter(Boolean).length;
}

/** The pieces to draw, in order: `{state: "masked" | "revealed" | "committed", text, tokens}`. */
export function piecesOf(canvas) {
  if (canvas.finish) return finalPieces(canvas);
  return canvas.places.map((token, place) => {
    if (!token) return { state: "masked", text: "", tokens: [] };
    const state = place < canvas.committed ? "committed" : "revealed";
    return { state, text: token.text, tokens: [token] };
  });
}

/**
 * The finished answer, split into its tokens.
 *
 * The answer's text is authoritative. Tokens that share a character are drawn as one piece, because the character is
 * broken in each of them. Text that no token matches is drawn without tokens.
 */
function finalPieces(canvas) {
  const pieces = [];
  let at = 0;
  let broken = [];
  for (const token of canvas.places) {
    if (!token?.text || at === canvas.answer.length) continue;
    const found = token.text.includes("\ufffd") ? -1 : canvas.answer.indexOf(token.text, at);
    if (found < 0 || (found > at && !broken.length)) {
      broken.push(token);
      continue;
    }
    if (broken.length) pieces.push(committed(canvas.answer.slice(at, found), broken));
    pieces.push(committed(token.text, [token]));
    at = found + token.text.length;
    broken = [];
  }
  if (at < canvas.answer.length) pieces.push(committed(canvas.answer.slice(at), broken));
  return pieces.filter((piece) => piece.text);
}

function committed(text, tokens) {
  return { state: "committed", text, tokens };
}

/** Confidence of a piece: the lowest of its tokens; null for text without tokens. */
export function confidenceOf(piece) {
  return piece.tokens.length ? Math.min(...piece.tokens.map((token) => token.confidence)) : null;
}

/** The indices of pieces in which two finished answers differ: those outside of a longest common subsequence. */
export function differences(left, right) {
  const same = commonPairs(left.map((piece) => piece.text), right.map((piece) => piece.text));
  const [inLeft, inRight] = [0, 1].map((side) => new Set(same.map((pair) => pair[side])));
  return [others(left, inLeft), others(right, inRight)];
}

function others(pieces, kept) {
  return new Set([...pieces.keys()].filter((index) => !kept.has(index)));
}

/** Pairs of indices of a longest common subsequence. */
function commonPairs(left, right) {
  const lengths = commonLengths(left, right);
  const pairs = [];
  for (let i = 0, j = 0; i < left.length && j < right.length; ) {
    if (left[i] === right[j]) pairs.push([i++, j++]);
    else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    else j++;
  }
  return pairs;
}

/** `lengths[i][j]`: length of the longest common subsequence of the suffixes from `i` and `j`. */
function commonLengths(left, right) {
  const lengths = Array.from({ length: left.length + 1 }, () => new Uint16Array(right.length + 1));
  for (let i = left.length - 1; i >= 0; i--) {
    for (let j = right.length - 1; j >= 0; j--) {
      lengths[i][j] =
        left[i] === right[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  return lengths;
}
