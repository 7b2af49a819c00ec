// What the scripts for Node share: the checks of a client, and a line of JSON with their results.
import { readFileSync } from "node:fs";
import { deflateSync } from "node:zlib";

export const ADDRESS = process.env.LLADAV_ADDRESS;
export const BASE = `${ADDRESS}/v1`;
export const MODEL = (await (await fetch(`${BASE}/models`)).json()).data[0].id;

const SECONDS = 60;
const checks = [];

/** Adds a check: an async function that throws if the check fails. */
export function check(name, run) {
  checks.push([name, run]);
}

export function assert(condition, message = "the answer has another form") {
  if (!condition) throw new Error(message);
}

/** Runs all checks and prints the results. */
export async function report(name) {
  const folder = new URL(`./node_modules/${name}/package.json`, import.meta.url);
  const results = {};
  for (const [each, run] of checks) {
    try {
      await withTimeLimit(run());
      results[each] = null;
    } catch (error) {
      results[each] = `${error.name}: ${error.message}`.replace(/\s+/g, " ").slice(0, 300);
    }
  }
  console.log(JSON.stringify({ version: JSON.parse(readFileSync(folder)).version, checks: results }));
}

/** A promise that also ends if the other one never does; the timer keeps Node running until then. */
async function withTimeLimit(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end after ${SECONDS} s`)), SECONDS * 1000);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function chunk(kind, data) {
  const named = Buffer.concat([Buffer.from(kind), data]);
  const length = Buffer.alloc(4);
  const sum = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  sum.writeUInt32BE(crc32(named));
  return Buffer.concat([length, named, sum]);
}

function crc32(data) {
  let sum = ~0;
  for (const byte of data) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}

/** An image of 16 x 16 pixels in one colour. */
function png() {
  const header = Buffer.from([0, 0, 0, 16, 0, 0, 0, 16, 8, 2, 0, 0, 0]);
  const rows = Buffer.alloc(16 * (1 + 3 * 16), 0x60);
  for (let row = 0; row < 16; row++) rows[row * 49] = 0;
  const start = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([
    start,
    chunk("IHDR", header),
    chunk("IDAT", deflateSync(rows)),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

export const IMAGE = `data:image/png;base64,${png().toString("base64")}`;
