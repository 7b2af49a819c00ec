/** The field for images and videos: files are chosen, dropped or pasted, and shown as thumbnails. */

import { filesOf, kindsOf } from "./media.js";
import { addFiles, chosenModel, removeMedium, state } from "./state.js";
import { h, ref } from "./vue.js";

export const MediaField = {
  setup() {
    const over = ref(false);
    const drop = (event) => {
      event.preventDefault();
      over.value = false;
      addFiles(filesOf(event.dataTransfer));
    };
    const drag = (event) => {
      event.preventDefault();
      over.value = true;
    };
    return () =>
      h("div", { class: "media" }, [
        h(
          "label",
          { class: ["drop", over.value && "over"], onDrop: drop, onDragover: drag, onDragleave: () => (over.value = false) },
          [h(FileInput), h("span", [h("strong", `Add ${wanted()}`), ", or drop or paste them"])],
        ),
        state.media.length > 0 && h("ul", { class: "thumbs", "aria-label": "Images and videos" }, state.media.map(thumb)),
      ]);
  },
};

function wanted() {
  return kindsOf(chosenModel.value).map((kind) => `${kind}s`).join(" or ");
}

function FileInput() {
  const onChange = async ({ target }) => {
    await addFiles(target.files);
    target.value = ""; // so that the same file can be selected again
  };
  const accept = kindsOf(chosenModel.value).map((kind) => `${kind}/*`).join(",");
  return h("input", { type: "file", accept, multiple: true, class: "visually-hidden", onChange });
}

function thumb({ id, kind, name, url }, index) {
  const title = `${kind} ${index + 1}, ${name}`;
  const remove = { type: "button", class: "remove", "aria-label": `Remove ${title}`, onClick: () => removeMedium(id) };
  const view = kind === "video" ? h(Clip, { url, name, title }) : h("img", { src: url, alt: name, title: name });
  return h("li", { key: id }, [view, h("button", remove, "×")]);
}

/** The first frame of a video, and a button that plays it; its name if the browser cannot decode it. */
const Clip = {
  props: ["url", "name", "title"],
  setup(props) {
    const video = ref(null);
    const playing = ref(false);
    const failed = ref(false);
    const toggle = () => (playing.value ? video.value.pause() : video.value.play());
    const events = {
      onPlay: () => (playing.value = true),
      onPause: () => (playing.value = false),
      onError: () => (failed.value = true),
    };
    return () => {
      const { url, name, title } = props;
      if (failed.value) return h("span", { class: "unplayable", title: name }, name);
      const label = `${playing.value ? "Pause" : "Play"} ${title}`;
      return [
        h("video", { ref: video, src: url, title: name, muted: true, loop: true, playsinline: true, ...events }),
        h("button", { type: "button", class: "play", "aria-label": label, onClick: toggle }, playing.value ? "❚❚" : "▶\ufe0e"),
      ];
    };
  },
};
