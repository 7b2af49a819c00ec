/**
 * The API over fetch: models, and answers as streams of server-sent events.
 *
 * Paths are relative to the page, so that the page works under a path prefix.
 */

export const COMPLETIONS = "v1/chat/completions";

/** An error response, or an error within a stream; `message` is the API's own message. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter });
  }
}

/** The models in `GET /v1/models`. */
export async function listModels(key) {
  const response = await ask("v1/models", { headers: authorization(key) });
  return (await readJson(response)).data;
}

/** Yields the chunks of an answer until `[DONE]`; aborting `signal` cancels the request on the server. */
export async function* complete(body, key, signal) {
  const headers = { "Content-Type": "application/json", ...authorization(key) };
  const response = await ask(COMPLETIONS, { method: "POST", headers, body: JSON.stringify(body), signal });
  let done = false; // the stream is read to its end: the server treats an early close as a disconnect
  for await (const data of eventsOf(response.body)) {
    done = data === "[DONE]";
    if (!done) yield chunkOf(data);
  }
  if (!done) throw new ApiError("The connection ended before the answer did; ask again.");
}

function chunkOf(data) {
  const chunk = JSON.parse(data);
  if (chunk.error) throw new ApiError(chunk.error.message, chunk.error);
  return chunk;
}

/** The `data` of each event in a byte stream; comments and other fields are skipped. */
export async function* eventsOf(bytes) {
  let data = [];
  for await (const line of linesOf(bytes)) {
    if (line === "" && data.length) {
      yield data.join("\n");
      data = [];
    } else if (line.startsWith("data:")) {
      data.push(line.slice(5).replace(/^ /, ""));
    }
  }
}

/** The complete lines of a byte stream; an incomplete last line is skipped. */
async function* linesOf(bytes) {
  const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      for (const line of lines) yield line.replace(/\r$/, "");
    }
  } finally {
    reader.cancel().catch(() => {}); // an aborted stream has nothing left to cancel
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached; check that it runs, then ask again.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** The error of a response; proxies may answer with something other than JSON. */
async function refusal(response) {
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `The server answered ${response.status} ${response.statusText}.`;
  const retryAfter = response.headers.get("Retry-After");
  return new ApiError(message, { ...body?.error, status: response.status, retryAfter });
}

async function readJson(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError("The server's answer is not JSON; is another program at this address?");
  }
}

function authorization(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}
