// TIFF 6.0 with grey or colour samples of 8 to 64 bits in strips or tiles, plain or packed (LZW, deflate, PackBits),
// and the pixel sizes that ImageJ, Thermo Fisher and Gatan write into it.
import { checkSize, COLOURS, grey, inflate, toAngstrom } from "./try-pixels.js";

const SIZES = [0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8];

/** The first image of a TIFF file. */
export async function readTiff(bytes) {
  const view = new DataView(bytes.buffer);
  const little = bytes[0] === 0x49;
  const { tags, more } = readTags(view, view.getUint32(4, little), little);
  const one = (tag, otherwise) => tags.get(tag)?.[0] ?? otherwise;
  const [columns, rows] = [one(256, 0), one(257, 0)];
  checkSize(rows, columns);
  const samples = one(277, 1);
  const bits = one(258, 1);
  const kind = { 1: "Uint", 2: "Int", 3: "Float" }[one(339, 1)];
  const get = `get${kind}${bits}`;
  if (one(262) === 3) throw new Error("a TIFF with a palette of colours: save it in grey.");
  if (![8, 16, 32, 64].includes(bits) || !(get in view)) throw new Error(`a TIFF of ${bits}-bit samples: save it in 8, 16 or 32 bits.`);
  if (samples > 1 && one(284, 1) === 2) throw new Error("a TIFF whose colours lie apart: save it in grey.");
  const layout = { view, little, get, bytes: bits / 8, samples, columns, rows };
  const data = await readBlocks(bytes, tags, one, layout);
  const values = grey(data, rows * columns, samples);
  if (one(262) === 0 && kind === "Uint") values.forEach((value, i) => (values[i] = 2 ** bits - 1 - value));
  const notes = samples > 2 ? [COLOURS] : [];
  if (more) notes.push("This is the first of several images in the file.");
  return { data: values, rows, columns, pixelSizeA: pixelSize(tags, one), notes };
}

/** Tags by number, as arrays of numbers or, of text, one string; and whether another image follows. */
function readTags(view, at, little) {
  const tags = new Map();
  const count = view.getUint16(at, little);
  for (let i = 0; i < count; i++) {
    const entry = at + 2 + 12 * i;
    const [tag, type, length] = [view.getUint16(entry, little), view.getUint16(entry + 2, little), view.getUint32(entry + 4, little)];
    const size = (SIZES[type] ?? 0) * length;
    if (!size) continue;
    const from = size <= 4 ? entry + 8 : view.getUint32(entry + 8, little);
    if (from + size > view.byteLength) throw new RangeError("cut short");
    const read = {
      1: (k) => view.getUint8(from + k), 3: (k) => view.getUint16(from + 2 * k, little), 4: (k) => view.getUint32(from + 4 * k, little),
      5: (k) => view.getUint32(from + 8 * k, little) / view.getUint32(from + 8 * k + 4, little),
      11: (k) => view.getFloat32(from + 4 * k, little), 12: (k) => view.getFloat64(from + 8 * k, little),
    }[type];
    if (type === 2) tags.set(tag, [new TextDecoder().decode(new Uint8Array(view.buffer, from, size)).replace(/\0.*$/s, "")]);
    else if (read) tags.set(tag, Array.from({ length }, (_, k) => read(k)));
  }
  return { tags, more: view.getUint32(at + 2 + 12 * count, little) !== 0 };
}

/** All samples of the image, interleaved. */
async function readBlocks(bytes, tags, one, layout) {
  const { columns, rows, samples, get } = layout;
  const tiled = tags.has(322);
  const wide = tiled ? one(322) : columns;
  const high = tiled ? one(323) : Math.min(one(278, rows), rows);
  const [offsets, counts] = tiled ? [tags.get(324), tags.get(325)] : [tags.get(273), tags.get(279)];
  const across = Math.ceil(columns / wide);
  const out = new Float64Array(rows * columns * samples);
  for (const [block, offset] of offsets.entries()) {
    const [top, left] = [Math.floor(block / across) * high, (block % across) * wide];
    const here = tiled ? high : Math.min(high, rows - top);
    const need = here * wide * samples * layout.bytes;
    const size = counts?.[block] ?? need;
    if (offset + size > bytes.length) throw new RangeError("cut short");
    const plain = await unpack(bytes.subarray(offset, offset + size), one(259, 1), need);
    if (plain.length < need) throw new RangeError("cut short");
    const view = new DataView(plain.buffer, plain.byteOffset);
    if (one(317, 1) > 2) throw new Error("a TIFF packed by differences of floating point numbers: save it without compression.");
    if (one(317, 1) === 2) undoDifferences(view, here, wide, layout);
    for (let row = 0; row < here && top + row < rows; row++) {
      for (let k = 0; k < Math.min(wide, columns - left) * samples; k++) {
        const at = (row * wide * samples + k) * layout.bytes;
        out[((top + row) * columns + left) * samples + k] = Number(view[get](at, layout.little));
      }
    }
  }
  return out;
}

/** Each sample had its left neighbour subtracted. */
function undoDifferences(view, rows, wide, { samples, bytes, little }) {
  const [get, set, most] = [`getUint${8 * bytes}`, `setUint${8 * bytes}`, 2 ** (8 * bytes)];
  if (bytes > 4) throw new Error("a TIFF packed by differences of 64-bit samples: save it without compression.");
  for (let row = 0; row < rows; row++) {
    for (let k = samples; k < wide * samples; k++) {
      const at = (row * wide * samples + k) * bytes;
      view[set](at, (view[get](at, little) + view[get](at - samples * bytes, little)) % most, little);
    }
  }
}

async function unpack(data, compression, size) {
  if (compression === 1) return data;
  if (compression === 5) return unpackLzw(data, size);
  if (compression === 8 || compression === 32946) return inflate(data);
  if (compression === 32773) return unpackBits(data, size);
  throw new Error(`a TIFF of compression ${compression}: save it without compression.`);
}

function unpackBits(data, size) {
  const out = new Uint8Array(size);
  for (let from = 0, to = 0; from < data.length && to < size; ) {
    const count = (data[from++] << 24) >> 24;
    if (count >= 0) {
      out.set(data.subarray(from, from + Math.min(count + 1, size - to)), to);
      from += count + 1;
      to += count + 1;
    } else if (count > -128) {
      out.fill(data[from++], to, to + 1 - count);
      to += 1 - count;
    }
  }
  return out;
}

/** LZW as TIFF packs it: codes of 9 to 12 bits, the highest bit first, 256 clears, 257 ends. */
function unpackLzw(data, size) {
  const out = new Uint8Array(size);
  const [from, length] = [new Uint32Array(4097), new Uint32Array(4097)];
  let [bit, width, next, previous, to] = [0, 9, 258, -1, 0];
  while (to < size && bit + width <= 8 * data.length) {
    let code = 0;
    for (let k = 0; k < width; k++, bit++) code = (code << 1) | ((data[bit >> 3] >> (7 - (bit & 7))) & 1);
    if (code === 257) break;
    if (code === 256) {
      [width, next, previous] = [9, 258, -1];
      continue;
    }
    const start = to;
    if (previous >= 0) {
      // The new entry is what was written last and the first byte of what is written now, which follows it.
      from[next] = start - (previous < 256 ? 1 : length[previous]);
      length[next] = (previous < 256 ? 1 : length[previous]) + 1;
      next++;
    }
    if (code < 256) out[to++] = code;
    else for (let k = 0; k < length[code] && to < size; k++) out[to++] = out[from[code] + k];
    previous = code;
    if (next + 1 >= 2 ** width && width < 12) width++;
  }
  return out;
}

/** The pixel size that the file tells, or null. */
function pixelSize(tags, one) {
  const told = String(one(270, ""));
  const unit = told.match(/^unit=(.*)$/m)?.[1];
  if (told.startsWith("ImageJ") && unit && one(282)) return toAngstrom(1 / one(282), unit);
  const thermo = [34680, 34682].map((tag) => String(one(tag, "")).match(/PixelWidth\s*=\s*([\d.eE+-]+)/)?.[1]).find(Boolean);
  if (thermo) return toAngstrom(Number(thermo), "m");
  if (one(65009) && typeof one(65003) === "string") return toAngstrom(one(65009), one(65003));
  return one(282) && one(296) === 3 ? toAngstrom(1 / one(282), "cm") : null;
}
