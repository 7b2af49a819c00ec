/** JSON schemas: the fields of an answer with their confidence, and whether the answer fits. Pure, no DOM. */

import { confidenceOf, piecesOf } from "./canvas.js";

/** The schema that is written in the form: null if there is none; throws an error if it is not a JSON object. */
export function parseSchema(text) {
  if (!text.trim()) return null;
  const schema = JSON.parse(text);
  if (schema === null || typeof schema !== "object" || Array.isArray(schema)) throw new SyntaxError("it is not an object");
  return schema;
}

/** Why an answer does not fit a schema; null if it fits. */
export function mismatchOf(answer, schema) {
  let value;
  try {
    value = JSON.parse(answer);
  } catch (error) {
    return `not JSON: ${error.message}`;
  }
  const { valid, errors } = window.jlib.compileSchema(schema).validate(value);
  return valid ? null : errors[0].message;
}

/**
 * The scalar values of JSON text, in order: `{path, text, confidence}`; none if it is not JSON.
 *
 * The text begins at `from` in the finished answer.
 */
export function fieldsOf(canvas, text = canvas.answer, from = 0) {
  const confidence = confidenceBetween(canvas);
  return scalarsOf(text).map(({ path, start, end }) => {
    return { path, text: text.slice(start, end), confidence: confidence(from + start, from + end) };
  });
}

/** A function that gives the lowest confidence between two places of a finished answer; 1 without tokens. */
export function confidenceBetween(canvas) {
  const pieces = spansOf(piecesOf(canvas));
  return (start, end) => {
    const own = pieces.filter((piece) => piece.start < end && piece.end > start);
    return Math.min(1, ...own.map(confidenceOf).filter((confidence) => confidence !== null));
  };
}

function spansOf(pieces) {
  let end = 0;
  return pieces.map((piece) => ({ ...piece, start: end, end: (end += piece.text.length) }));
}

const STRING = /"(?:[^"\\]|\\.)*"/y;
const SPACE = /\s*/y;
const SCALAR = /"(?:[^"\\]|\\.)*"|[^\s,\]}]+/y;

/** The scalar values of JSON text: `{path, start, end}`, in order. */
export function scalarsOf(text) {
  try {
    JSON.parse(text);
  } catch {
    return [];
  }
  const found = [];
  let at = 0;
  const take = (pattern) => {
    pattern.lastIndex = at;
    const [taken] = pattern.exec(text);
    at += taken.length;
    return taken;
  };
  const members = (end, member) => {
    for (at++, take(SPACE); text[at] !== end; text[at] === "," && at++, take(SPACE)) member();
    at++;
  };
  const value = (path) => {
    take(SPACE);
    if (text[at] === "{") members("}", () => property(path));
    else if (text[at] === "[") {
      let index = 0;
      members("]", () => value(`${path}[${index++}]`));
    } else {
      const start = at;
      take(SCALAR);
      found.push({ path, start, end: at });
    }
    take(SPACE);
  };
  const property = (path) => {
    const name = JSON.parse(take(STRING));
    take(SPACE);
    at++; // the colon
    value(path ? `${path}.${name}` : name);
  };
  value("");
  return found;
}
