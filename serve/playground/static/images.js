/** Reads the images of a question as data URLs. */

let lastId = 0;

/** The images among files, and the names of the other files. */
export async function readImages(files) {
  const [images, others] = [true, false].map((wanted) =>
    [...files].filter((file) => file.type.startsWith("image/") === wanted),
  );
  const read = await Promise.all(images.map(readImage));
  return { images: read, refused: others.map((file) => file.name) };
}

/** The image of an example. */
export async function fetchImage(name) {
  const response = await fetch(`playground/examples/${name}`);
  const blob = await response.blob();
  return readImage(new File([blob], name, { type: blob.type }));
}

/** The files of a paste or drop event. */
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
