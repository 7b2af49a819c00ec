/** The state of the page and all functions that change it. The server stores nothing; the tab stores the key. */

import { listModels } from "./api.js";
import { differences, piecesOf } from "./canvas.js";
import { denoises, describe, newDials } from "./dial.js";
import { fetchImage, readImages } from "./images.js";
import { bodyOf, newKnobs } from "./request.js";
import { newRun, perform } from "./run.js";
import { parseSchema } from "./schema.js";
import { computed, reactive, shallowRef } from "./vue.js";

const KEY = "lladav-api-key";

const DIGIT = { type: "integer", minimum: 0, maximum: 9 };
const FORM = {
  type: "object",
  properties: {
    digits: { type: "array", items: DIGIT, minItems: 1, maxItems: 6 },
    largest: DIGIT,
    sum: { type: "integer", minimum: 0, maximum: 54 },
    parity_of_sum: { enum: ["even", "odd"] },
    background: { type: ["string", "null"], maxLength: 12 },
  },
  required: ["digits", "largest", "sum", "parity_of_sum"],
  additionalProperties: false,
};

export const EXAMPLES = [
  { label: "Read digits", question: "Which digits are in the picture?", images: ["digits.png"] },
  { label: "Calculate", question: "Add the first and the last digit. Think step by step.", images: ["sum.png"] },
  {
    label: "Several images",
    question: "Read the digits of each image.",
    images: ["several-1.png", "several-2.png", "several-3.png"],
  },
  { label: "Fill in a form", question: "Which digits are in the picture?", images: ["digits.png"], schema: FORM },
  { label: "Describe my image", question: "Describe the image.", images: null },
];

export const state = reactive({
  models: [],
  model: "",
  question: "",
  images: [],
  schema: "",
  compare: false,
  dials: newDials(null),
  knobs: newKnobs(),
  settingsOpen: false,
  key: sessionStorage.getItem(KEY) ?? "",
  keyWanted: false,
  notice: "",
  runs: [],
});

const aborter = shallowRef(null);

export const running = computed(() => state.runs.some((run) => run.status === "running"));
export const chosenModel = computed(() => state.models.find(({ id }) => id === state.model));

/** Whether a question is asked with two refresh intervals. */
export const comparing = computed(() => state.compare && denoises(chosenModel.value));

/** The differences between two finished answers, per run; null before. */
export const differing = computed(() => {
  if (state.runs.length !== 2 || state.runs.some((run) => run.status !== "done")) return null;
  return differences(...state.runs.map((run) => piecesOf(run.canvas)));
});

export async function loadModels() {
  try {
    state.models = await listModels(state.key);
    state.notice = "";
    chooseModel(chosenModel.value?.id ?? state.models[0]?.id ?? "");
  } catch (error) {
    refuse(error);
  }
}

/** Selects a model and resets the refresh intervals to its default. */
export function chooseModel(id) {
  if (id === state.model) return;
  state.model = id;
  state.dials = newDials(chosenModel.value);
}

export function keepKey(key) {
  state.key = key.trim();
  sessionStorage.setItem(KEY, state.key);
  loadModels();
}

export async function addFiles(files) {
  const { images, refused } = await readImages(files);
  state.images.push(...images);
  state.notice = refused.length ? `${refused.join(", ")}: not an image.` : "";
}

export function removeImage(id) {
  state.images = state.images.filter((image) => image.id !== id);
}

export async function useExample({ question, images, schema }) {
  state.question = question;
  state.schema = schema && denoises(chosenModel.value) ? JSON.stringify(schema, null, 2) : "";
  if (images) state.images = await Promise.all(images.map(fetchImage));
}

/** Sends the question once per refresh interval; returns when all answers have ended. */
export async function ask() {
  if (!state.question.trim()) {
    state.notice = "Write a question first.";
    return;
  }
  if (!chosenModel.value) await loadModels(); // the key or the server may have been missing when the page was opened
  if (!chosenModel.value) return;
  const schema = readSchema();
  if (schema === undefined) return;
  state.notice = "";
  aborter.value = new AbortController();
  state.runs = comparing.value ? [runOf("A", 0, schema), runOf("B", 1, schema)] : [runOf("", 0, schema)];
  await Promise.all(state.runs.map((run) => perform(run, state.key, aborter.value.signal)));
  if (state.runs.some((run) => run.error?.status === 401)) state.keyWanted = true;
}

/** Cancels running requests; received text stays. */
export function stop() {
  aborter.value?.abort();
}

/** The schema of the form, null without one; undefined, with a notice, if it is not JSON. */
function readSchema() {
  try {
    return denoises(chosenModel.value) ? parseSchema(state.schema) : null;
  } catch (error) {
    state.notice = `The schema is not JSON: ${error.message}.`;
  }
}

function runOf(label, which, schema) {
  const dial = state.dials[which];
  return newRun(label, describe(dial, chosenModel.value), bodyOf(state, dial, schema), schema);
}

function refuse(error) {
  state.notice = error.message;
  if (error.status === 401) state.keyWanted = true;
}
