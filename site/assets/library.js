// Reads a library in the browser: the catalogue in Parquet, and single samples out of HDF5 shards by byte range.
import { parquetReadObjects } from "../vendor/hyparquet/index.js";

export const base = new URL(document.body.dataset.library, document.baseURI).href;

const LABELS = {
  image: "image (electron counts)",
  noNoise: "noNoise",
  noBackgroundnoNoise: "noBackgroundnoNoise",
  circularMask: "circularMask",
  smallcircularMask: "smallcircularMask",
  gaussianMask: "gaussianMask",
  noNoiseNoBackgroundSuperresolution: "noNoiseNoBackgroundSuperresolution",
};

/** The maps that a sample page can show: stored ones, and those drawn from the columns. */
export const labelNames = LABELS;

/** Whole catalogue as an array of plain rows; throws with a sentence for the visitor. */
export async function catalogue() {
  const reply = await get("catalogue.parquet");
  const rows = await parquetReadObjects({ file: await reply.arrayBuffer() });
  for (const row of rows) {
    for (const key in row) if (typeof row[key] === "bigint") row[key] = Number(row[key]);
  }
  return rows;
}

async function get(name, options) {
  const url = new URL(name, base);
  let reply;
  try {
    reply = await fetch(url, options);
  } catch {
    throw new Error(`${url} cannot be reached. If these pages were opened from a folder, serve them: python -m builder serve.`);
  }
  if (!reply.ok) throw new Error(`${url}: the server answers ${reply.status}. The library may be incomplete.`);
  return reply;
}

/** Bytes [offset, offset + size) of a file of the library; a server without ranges costs the whole file. */
export async function bytes(name, offset, size, onWhole = () => {}) {
  const reply = await get(name, { headers: { Range: `bytes=${offset}-${offset + size - 1}` } });
  const body = new Uint8Array(await reply.arrayBuffer());
  const part = reply.status === 206 ? body : body.subarray(offset, offset + size);
  if (reply.status !== 206) onWhole();
  if (part.length !== size) throw new Error(`${name} ends too early: the shard is truncated. Download it anew.`);
  return part;
}

const sidecars = new Map();

/** The map of a shard's bytes. */
export function sidecar(shard) {
  if (!sidecars.has(shard)) {
    sidecars.set(shard, get(shard.replace(/\.h5$/, ".json")).then((reply) => reply.json()));
  }
  return sidecars.get(shard);
}

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

const ARRAYS = { "<u2": Uint16Array, "|u1": Uint8Array, "<f4": Float32Array, "<f8": Float64Array };

/** One sample's array of a dataset, checked against its digest: {data, shape}; scaled maps come as true values. */
export async function read(shard, name, row, onWhole) {
  const map = await sidecar(shard);
  const entry = map.datasets[name];
  if (!entry) throw new Error(`${shard} does not store ${name}.`);
  const packed = await bytes(shard, entry.offsets[row], entry.sizes[row], onWhole);
  if (globalThis.crypto?.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", packed));
    const hex = [...digest.subarray(0, 16)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== entry.sha256[row]) throw new Error(`${shard}, ${name}, sample ${row}: wrong checksum. Download the shard anew.`);
  }
  const Type = ARRAYS[entry.dtype];
  const raw = unshuffle(await inflate(packed), Type.BYTES_PER_ELEMENT);
  let data = new Type(raw.buffer);
  if (entry.scale) {
    const [offset, step] = entry.scale[row];
    data = Float32Array.from(data, (value) => offset + step * value);
  }
  return { data, shape: entry.shape.slice(1) };
}

/** Columns of a sample as objects, those just outside the image included. */
export async function columns(shard, row, onWhole) {
  const map = await sidecar(shard);
  const { data, shape } = await read(shard, "columns", row, onWhole);
  const fields = map.datasets.columns.fields;
  return Array.from({ length: map.n_columns[row] }, (_, i) => {
    const column = Object.fromEntries(fields.map((field, k) => [field, data[i * shape[1] + k]]));
    return { ...column, kind: map.kinds[row][column.kind] };
  });
}

const SPOT_SIGMA_A = 0.2 / (2 * Math.sqrt(2 * Math.log(2)));

/** A label drawn from the columns, as the Python package draws it: masks, Gaussians, superresolution. */
export function draw(name, points, size, radiusPx, pixelSizeA) {
  const out = new Float32Array(size * size);
  if (name.endsWith("ircularMask")) {
    const radius = name === "circularMask" ? radiusPx : 0.7 * radiusPx;
    for (const point of points) {
      stamp(point, radius + 1, size, (i, dx, dy) => {
        if (dx * dx + dy * dy <= radius * radius) out[i] = 1;
      });
    }
    return out;
  }
  const sigma = SPOT_SIGMA_A / pixelSizeA;
  for (const point of points) {
    const weight = point.weight_A2 / (2 * pixelSizeA) ** 2;
    stamp(point, 6 * sigma + 1, size, (i, dx, dy) => {
      out[i] += name === "gaussianMask" ? Math.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma)) : weight * box(dx, sigma) * box(dy, sigma);
    });
  }
  return out;
}

function stamp(point, reach, size, visit) {
  const clamp = (value) => Math.min(Math.max(value, 0), size - 1);
  for (let y = clamp(Math.ceil(point.y_px - reach)); y <= clamp(Math.floor(point.y_px + reach)); y++) {
    for (let x = clamp(Math.ceil(point.x_px - reach)); x <= clamp(Math.floor(point.x_px + reach)); x++) {
      visit(y * size + x, x - point.x_px, y - point.y_px);
    }
  }
}

function box(d, sigma) {
  return erf((d + 0.5) / (Math.SQRT2 * sigma)) - erf((d - 0.5) / (Math.SQRT2 * sigma));
}

/** Error function, Abramowitz & Stegun 7.1.26: absolute error below 1.5e-7. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(x) * (1 - tail * Math.exp(-x * x));
}

/** Show a sentence in the page's notice. */
export function tell(text) {
  const notice = document.getElementById("notice");
  notice.textContent = text;
  notice.hidden = !text;
}
