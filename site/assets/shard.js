// One sample's arrays out of an HDF5 shard: fetched by byte range, checked, inflated, unshuffled.
import { bytes } from "./library.js";

const ARRAYS = { "<u2": Uint16Array, "<i2": Int16Array, "|u1": Uint8Array, "<f4": Float32Array, "<f8": Float64Array };

async function inflate(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** HDF5's shuffle filter undone: byte k of every item lies together. */
function unshuffle(data, itemsize) {
  const count = data.length / itemsize;
  const out = new Uint8Array(data.length);
  for (let k = 0; k < itemsize; k++) {
    for (let i = 0, from = k * count; i < count; i++) out[i * itemsize + k] = data[from + i];
  }
  return out;
}

/** A chunk as a typed array. */
async function chunk(shard, what, dtype, place, onWhole) {
  const packed = await bytes(shard, place.offset, place.size, onWhole);
  const damaged = new Error(`${shard}, ${what}: wrong checksum, the file is damaged or is not the one this site was built of. Download it anew.`);
  // Browsers offer checksums on https and localhost alone.
  if (globalThis.crypto?.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", packed));
    const hex = [...digest.subarray(0, 16)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== place.sha256) throw damaged;
  }
  const Type = ARRAYS[dtype];
  try {
    return new Type(unshuffle(await inflate(packed), Type.BYTES_PER_ELEMENT).buffer);
  } catch {
    throw damaged;
  }
}

/** An array of a sample: {data, shape}. Scaled maps come as true values, rounded as the Python package rounds. */
export async function readArray(record, name, onWhole) {
  const entry = record.arrays[name];
  if (!entry) throw new Error(`${record.shard.path} does not store ${name}.`);
  const stored = await chunk(record.shard.path, name, entry.dtype, entry, onWhole);
  if (!entry.scale) return { data: stored, shape: entry.shape };
  const [offset, step] = entry.scale.map(Math.fround);
  return { data: Float32Array.from(stored, (value) => Math.fround(value * step) + offset), shape: entry.shape, stored };
}

/** Columns of a sample as objects, those just outside the image included. */
export async function readColumns(record, onWhole) {
  const { data, shape } = await readArray(record, "columns", onWhole);
  return Array.from({ length: record.n_columns }, (_, i) => {
    const column = Object.fromEntries(record.column_fields.map((field, k) => [field, data[i * shape[1] + k]]));
    return { ...column, kind: record.kinds[column.kind] };
  });
}

/** The Fourier series of a sample's clean image: {cell_A, hk, coefficients, rotation_deg, offset_A}. */
export async function readSeries(record, onWhole) {
  const { start, stop, hk, coefficients, ...rest } = record.series;
  const read = async (facts, what) => {
    const [rows, across] = facts.chunk;
    const out = new ARRAYS[facts.dtype](2 * (stop - start));
    await Promise.all(
      facts.chunks.map(async (place) => {
        const data = await chunk(record.shard.path, what, facts.dtype, place, onWhole);
        for (let i = Math.max(start, place.row); i < Math.min(stop, place.row + rows); i++) {
          for (let k = 0; k < across; k++) out[2 * (i - start) + place.column + k] = data[(i - place.row) * across + k];
        }
      }),
    );
    return out;
  };
  return { ...rest, hk: await read(hk, "series/hk"), coefficients: await read(coefficients, "series/coefficients") };
}
