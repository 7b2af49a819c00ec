/**
 * The canvas of one answer: which places are masked, revealed and committed. Pure state, no DOM.
 *
 * Objects are plain and functions free: Vue wraps the state in proxies, which classes with private members refuse.
 */

/** Lower bounds of the confidence bands behind the first, which begins at 0. */
export const BANDS = [0.5, 0.7, 0.9, 0.99];

export function newCanvas() {
  return { places: [], committed: 0, step: 0, answer: "", finish: null };
}

/** Band of a confidence: 0, the least sure, to `BANDS.length`. */
export function bandOf(confidence) {
  return BANDS.filter((bound) => confidence >= bound).length;
}

/** Brings the canvas to the state after a chunk. */
export function applyChunk(canvas, { denoise, choices = [] }) {
  if (denoise) applyDenoise(canvas, denoise);
  for (const { delta, finish_reason: finish } of choices) {
    canvas.answer += delta?.content ?? "";
    if (finish) finishCanvas(canvas, finish);
  }
}

function applyDenoise(canvas, { step, canvas: size, reveal, committed }) {
  while (canvas.places.length < size) canvas.places.push(null);
  for (const { place, ...token } of reveal) canvas.places[place] = { ...token, step };
  canvas.step = step;
  canvas.committed = Math.max(canvas.committed, committed);
}

/** What lies behind the end of a stopped answer is no part of it; the answer may end inside a token. */
function finishCanvas(canvas, finish) {
  canvas.finish = finish;
  if (finish === "stop") canvas.places.length = Math.min(canvas.places.length, canvas.committed + 1);
}

export function countRevealed(canvas) {
  return canvas.places.filter(Boolean).length;
}

/** What to draw: `{state: "masked" | "revealed" | "committed", text, tokens}` in order. */
export function piecesOf(canvas) {
  if (canvas.finish) return finalPieces(canvas);
  return canvas.places.map((token, place) => {
    if (!token) return { state: "masked", text: "", tokens: [] };
    const state = place < canvas.committed ? "committed" : "revealed";
    return { state, text: token.text, tokens: [token] };
  });
}

/**
 * The finished answer, cut into its tokens.
 *
 * The answer's text decides: a character spread over several tokens is broken in each of them, so that they are drawn
 * as one piece; and where tokens and text cannot be brought together, the text is drawn without tokens.
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

/** Confidence of a piece: that of its least sure token; none for text without tokens. */
export function confidenceOf(piece) {
  return piece.tokens.length ? Math.min(...piece.tokens.map((token) => token.confidence)) : null;
}

/** Which pieces of two finished answers differ: two sets of indices, outside a longest common subsequence. */
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

/** `lengths[i][j]`: longest common subsequence of what begins at `i` and at `j`. */
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
