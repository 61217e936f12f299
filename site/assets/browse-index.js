// The browse page's index: columns as typed arrays, out of the one file that builder/browse_index.py writes.
import { figure } from "./dom.js";

const SCHEMA = 1;
const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };

/** Fetch and open the index; throws with a sentence for the visitor. */
export async function loadIndex(url = "browse.bin") {
  let reply;
  try {
    reply = await fetch(url);
  } catch {
    throw new Error("The index of samples cannot be reached. If these pages were opened from a folder, serve them: python -m builder serve.");
  }
  if (!reply.ok) throw new Error(`The index of samples is missing: the server answers ${reply.status} for ${url}. Build the site anew.`);
  return openIndex(await reply.arrayBuffer());
}

/** Columns and facts of an index: {rows, name, columns: {field: array}, values: {field: texts}, ...}. */
export function openIndex(buffer) {
  const broken = new Error("The index of samples is damaged or was cut short. Reload the page; if that does not help, build the site anew.");
  if (buffer.byteLength < 8 || new TextDecoder().decode(new Uint8Array(buffer, 0, 4)) !== "TEMI") throw broken;
  const start = 8 + new DataView(buffer).getUint32(4, true);
  let header;
  try {
    header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)));
  } catch {
    throw broken;
  }
  if (header.schema > SCHEMA) {
    throw new Error(`The index of samples has schema ${header.schema}, this page reads up to ${SCHEMA}. Reload the page without its cached scripts (Ctrl+Shift+R).`);
  }
  if (buffer.byteLength !== start + header.bytes) throw broken;
  // Without a prototype: addresses ask for fields by any name.
  const index = { ...header, columns: Object.create(null), values: Object.create(null) };
  for (const [field, { type, offset, values }] of Object.entries(header.columns)) {
    index.columns[field] = new ARRAYS[type](buffer, start + offset, header.rows);
    if (values) index.values[field] = values;
  }
  return index;
}

/** A sample's identity. */
export function sampleId(index, row) {
  return index.prefix + String(index.columns.index[row]).padStart(index.digits, "0");
}

/** The text of a coded column in a row. */
export function word(index, field, row) {
  return index.values[field][index.columns[field][row]];
}

/** Whether a library tells a field of any sample. */
export const known = (index, field) => Boolean(index.columns[field]) && index.values[field]?.join("") !== "";

/** What a column tells of a row: its word, or its number for reading; nothing where the library does not know it. */
export function told(index, field, row) {
  if (index.values[field]) return word(index, field, row);
  const number = index.columns[field]?.[row] ?? NaN;
  return Number.isNaN(number) ? "" : figure(number);
}

/** Field of view and noise of a row, as far as they are known. */
export function summary(index, row) {
  const decibel = index.columns.psnr_dB?.[row] ?? NaN;
  return [`${told(index, "field_of_view_A", row)} Å`, ...(Number.isNaN(decibel) ? [] : [`${decibel.toFixed(1)} dB`])].join(", ");
}

/** Address of a sample's page. */
export function samplePage(index, row) {
  return `sample.html?id=${encodeURIComponent(sampleId(index, row))}&engine=${word(index, "engine", row)}`;
}
