/** The playground's page: composes and mounts the components. */

import { Answers } from "./answer.js";
import { QuestionForm } from "./form.js";
import { filesOf } from "./media.js";
import { addFiles, loadModels, state } from "./state.js";
import { createApp, h, nextTick, watch } from "./vue.js";

function Page() {
  return h("main", [
    h("header", { class: "top" }, [
      h("h1", "LLaDA-V playground"),
      state.model && h("code", { class: "model", title: "Model" }, state.model),
    ]),
    h(QuestionForm),
    h(Answers),
  ]);
}

function paste(event) {
  const files = filesOf(event.clipboardData);
  if (!files.length) return;
  event.preventDefault();
  addFiles(files);
}

/** Also accepts a drop outside of the media field; the browser would navigate to the file otherwise. */
function drop(event) {
  if (event.defaultPrevented) return;
  event.preventDefault();
  addFiles(filesOf(event.dataTransfer));
}

/** Scrolls to the answer, which is below the form on narrow screens. */
function showAnswers() {
  const smooth = matchMedia("(prefers-reduced-motion: no-preference)").matches;
  const options = { block: "nearest", behavior: smooth ? "smooth" : "instant" };
  nextTick(() => document.querySelector(".card")?.scrollIntoView(options));
}

document.addEventListener("paste", paste);
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", drop);
watch(() => state.runs, showAnswers);
createApp(Page).mount("#app");
loadModels();
