// Reads a picture that a visitor gives, whatever it is called: PNG, TIFF, NPY, DM3, DM4, and what the browser knows.
// Readers return {data: Float64Array, rows, columns, pixelSizeA: number or null, notes: sentences}.
import { readDm } from "./try-dm.js";
import { checkSize, COLOURS, grey, inflate } from "./try-pixels.js";
import { readTiff } from "./try-tiff.js";

const MOST_BYTES = 512e6;

/** The image in a file. */
export async function readImage(file) {
  if (file.size === 0) throw new Error(`${file.name} is empty.`);
  if (file.size > MOST_BYTES) throw new Error(`${file.name} has ${(file.size / 1e6).toFixed(0)} MB; this page takes up to ${MOST_BYTES / 1e6} MB. Use the Python package.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  const reader = READERS.find(([starts]) => starts(bytes))?.[1] ?? readPicture;
  try {
    return await reader(bytes, file);
  } catch (error) {
    const told = error instanceof RangeError || error instanceof TypeError ? "the file is damaged or ends too early." : error.message;
    throw new Error(`${file.name}: ${told}`);
  }
}

const begins = (...wanted) => (bytes) => wanted.every((value, i) => bytes[i] === value);

const READERS = [
  [begins(0x89, 0x50, 0x4e, 0x47), readPng],
  [begins(0x49, 0x49, 42, 0), readTiff],
  [begins(0x4d, 0x4d, 0, 42), readTiff],
  [begins(0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59), readNpy],
  [begins(0, 0, 0, 3), readDm],
  [begins(0, 0, 0, 4), readDm],
];

/** Any picture that the browser shows: eight bits. */
async function readPicture(bytes, file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes], { type: file.type }), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error("this is not an image that can be read here. PNG, JPEG, TIFF, NPY, DM3 and DM4 can.");
  }
  const { width: columns, height: rows } = bitmap;
  checkSize(rows, columns);
  const pen = new OffscreenCanvas(columns, rows).getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0);
  const samples = pen.getImageData(0, 0, columns, rows).data;
  const coloured = samples.some((value, i) => i % 4 < 2 && value !== samples[i + 1]);
  return { data: grey(samples, rows * columns, 4), rows, columns, pixelSizeA: null, notes: coloured ? [COLOURS] : [] };
}

/** PNG of 8 or 16 bits bit by bit, which a canvas would round or recolour; rarer kinds go to the browser. */
async function readPng(bytes, file) {
  const view = new DataView(bytes.buffer);
  const [columns, rows, depth, kind, woven] = [view.getUint32(16), view.getUint32(20), bytes[24], bytes[25], bytes[28]];
  checkSize(rows, columns);
  if (depth < 8 || kind === 3 || woven) {
    if (depth === 16) throw new Error("an interlaced PNG of 16 bits: save it without interlacing.");
    return readPicture(bytes, file);
  }
  const parts = [];
  for (let at = 8; at + 12 <= bytes.length; ) {
    const size = view.getUint32(at);
    if (String.fromCharCode(...bytes.subarray(at + 4, at + 8)) === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + size));
    at += size + 12;
  }
  const channels = { 0: 1, 2: 3, 4: 2, 6: 4 }[kind];
  const step = (channels * depth) / 8;
  const lines = unfilter(await inflate(await new Blob(parts).arrayBuffer()), rows, columns * step, step);
  const samples = depth === 8 ? lines : Uint16Array.from({ length: lines.length / 2 }, (_, i) => (lines[2 * i] << 8) | lines[2 * i + 1]);
  return { data: grey(samples, rows * columns, channels), rows, columns, pixelSizeA: null, notes: channels > 2 ? [COLOURS] : [] };
}

/** PNG's filters undone (RFC 2083, section 6). */
function unfilter(packed, rows, wide, step) {
  if (packed.length < rows * (wide + 1)) throw new RangeError("cut short");
  const out = new Uint8Array(rows * wide);
  for (let row = 0; row < rows; row++) {
    const filter = packed[row * (wide + 1)];
    for (let i = 0; i < wide; i++) {
      const at = row * wide + i;
      const left = i >= step ? out[at - step] : 0;
      const above = row ? out[at - wide] : 0;
      const corner = row && i >= step ? out[at - wide - step] : 0;
      const guess = [0, left, above, (left + above) >> 1, paeth(left, above, corner)][filter];
      out[at] = packed[row * (wide + 1) + 1 + i] + guess;
    }
  }
  return out;
}

function paeth(left, above, corner) {
  const [toLeft, toAbove, toCorner] = [left, above, corner].map((value) => Math.abs(left + above - corner - value));
  return toLeft <= toAbove && toLeft <= toCorner ? left : toAbove <= toCorner ? above : corner;
}

const NUMPY = { b1: "getUint8", u1: "getUint8", i1: "getInt8", u2: "getUint16", i2: "getInt16", u4: "getUint32", i4: "getInt32", f4: "getFloat32", f8: "getFloat64", u8: "getBigUint64", i8: "getBigInt64" };

/** An array that NumPy saved, of two dimensions. */
function readNpy(bytes) {
  const view = new DataView(bytes.buffer);
  const long = bytes[6] > 1;
  const start = (long ? 12 : 10) + (long ? view.getUint32(8, true) : view.getUint16(8, true));
  const head = new TextDecoder("latin1").decode(bytes.subarray(10, start));
  const [, order, kind] = head.match(/'descr': '([<>|=])(\w+)'/) ?? [];
  const shape = (head.match(/'shape': \(([^)]*)\)/)?.[1] ?? "").split(",").filter((part) => part.trim()).map(Number);
  const get = NUMPY[kind];
  if (!get) throw new Error(`an array of type ${kind ?? "that is not plain numbers"}: save real numbers of up to 8 bytes.`);
  if (shape.length !== 2) throw new Error(`an array of ${shape.length} dimensions: save one image of two.`);
  const [rows, columns] = shape;
  checkSize(rows, columns);
  const size = Number(kind.slice(1));
  const turned = /'fortran_order': True/.test(head);
  const data = Float64Array.from({ length: rows * columns }, (_, i) => {
    const at = turned ? (i % columns) * rows + Math.floor(i / columns) : i;
    return Number(view[get](start + at * size, order !== ">"));
  });
  return { data, rows, columns, pixelSizeA: null, notes: [] };
}
