/** Reads the images and videos of a question as data URLs: `{id, kind, name, url}`. */

const KINDS = ["image", "video"];

let lastId = 0;

/** The kinds of media that a model's server accepts. */
export function kindsOf(model) {
  return model?.max_videos === 0 ? ["image"] : KINDS;
}

/** The media of these kinds among files, and the names of the other files. */
export async function readMedia(files, kinds) {
  const all = [...files];
  const media = await Promise.all(all.filter((file) => kinds.includes(kindOf(file))).map(readFile));
  return { media, refused: all.filter((file) => !kinds.includes(kindOf(file))).map((file) => file.name) };
}

/** The image or video of an example. */
export async function fetchMedia(name) {
  const response = await fetch(`playground/examples/${name}`);
  const blob = await response.blob();
  return readFile(new File([blob], name, { type: blob.type }));
}

/** The files of a paste or drop event. */
export function filesOf(transfer) {
  return [...(transfer?.files ?? [])];
}

function kindOf(file) {
  return file.type.split("/")[0];
}

function readFile(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ id: ++lastId, kind: kindOf(file), name: file.name, url: reader.result });
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
