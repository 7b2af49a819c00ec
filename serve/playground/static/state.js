/** The state of the page and all functions that change it. The server stores nothing; the tab stores the key. */

import { listModels } from "./api.js";
import { differences, piecesOf } from "./canvas.js";
import { denoises, describe, newDials } from "./dial.js";
import { fetchMedia, kindsOf, readMedia } from "./media.js";
import { bodyOf, newKnobs } from "./request.js";
import { newRun, perform } from "./run.js";
import { parseSchema } from "./schema.js";
import { parseTools } from "./tools.js";
import { computed, reactive, shallowRef } from "./vue.js";

const KEY = "lladav-api-key";

export const state = reactive({
  models: [],
  model: "",
  question: "",
  media: [],
  schema: "",
  tools: "",
  toolChoice: "auto",
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

/** Selects a model and resets the refresh intervals to its default, unless they were moved before there was a model. */
export function chooseModel(id) {
  if (id === state.model) return;
  const moved = !state.model && JSON.stringify(state.dials) !== JSON.stringify(newDials(null));
  state.model = id;
  if (!moved) state.dials = newDials(chosenModel.value);
}

export function keepKey(key) {
  state.key = key.trim();
  sessionStorage.setItem(KEY, state.key);
  loadModels();
}

export async function addFiles(files) {
  const kinds = kindsOf(chosenModel.value);
  const { media, refused } = await readMedia(files, kinds);
  state.media.push(...media);
  state.notice = refused.length ? `${refused.join(", ")}: not an ${kinds.join(" or a ")}.` : "";
}

export function removeMedium(id) {
  state.media = state.media.filter((medium) => medium.id !== id);
}

export async function useExample({ question, media, schema, tools, toolChoice = "auto" }) {
  const json = (value) => (value ? JSON.stringify(value, null, 2) : "");
  Object.assign(state, { question, schema: json(schema), tools: json(tools), toolChoice });
  if (media) state.media = await Promise.all(media.map(fetchMedia));
}

/** Sends the question once per refresh interval; returns when all answers have ended. */
export async function ask() {
  if (!state.question.trim()) {
    state.notice = "Write a question first.";
    return;
  }
  if (!chosenModel.value) await loadModels(); // the key or the server may have been missing when the page was opened
  if (!chosenModel.value) return;
  const structure = readStructure();
  if (!structure) return;
  state.notice = "";
  aborter.value = new AbortController();
  state.runs = comparing.value ? [runOf("A", 0, structure), runOf("B", 1, structure)] : [runOf("", 0, structure)];
  await Promise.all(state.runs.map((run) => perform(run, state.key, aborter.value.signal)));
  if (state.runs.some((run) => run.error?.status === 401)) state.keyWanted = true;
}

/** Cancels running requests; received text stays. */
export function stop() {
  aborter.value?.abort();
}

/** The schema and the tools of the form, null where there are none; nothing, with a notice, if one is not JSON. */
function readStructure() {
  if (!denoises(chosenModel.value)) return { schema: null, tools: null };
  const schema = read("The schema is", parseSchema, state.schema);
  const tools = read("The tools are", parseTools, state.tools);
  return schema === undefined || tools === undefined ? null : { schema, tools };
}

function read(subject, parse, text) {
  try {
    return parse(text);
  } catch (error) {
    state.notice = `${subject} not JSON: ${error.message}.`;
  }
}

function runOf(label, which, structure) {
  const dial = state.dials[which];
  return newRun(label, describe(dial, chosenModel.value), bodyOf(state, dial, structure), structure);
}

function refuse(error) {
  state.notice = error.message;
  if (error.status === 401) state.keyWanted = true;
}
