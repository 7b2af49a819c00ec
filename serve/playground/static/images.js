/** Images of a question, read as data URLs; nothing is kept beyond the page. */

let lastId = 0;

/** Images among files, and the names of those that are none. */
export async function readImages(files) {
  const [pictures, others] = [true, false].map((wanted) =>
    [...files].filter((file) => file.type.startsWith("image/") === wanted),
  );
  const read = await Promise.all(pictures.map(readImage));
  return { images: read, refused: others.map((file) => file.name) };
}

/** An example's image. */
export async function fetchImage(name) {
  const response = await fetch(`playground/examples/${name}`);
  const blob = await response.blob();
  return readImage(new File([blob], name, { type: blob.type }));
}

/** Image files of a paste or a drop. */
export function filesOf(transfer) {
  return [...(transfer?.files ?? [])];
}

function readImage(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ id: ++lastId, name: file.name, url: reader.result });
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
