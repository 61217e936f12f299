// The browse page's index: columns as typed arrays, out of the one file that builder/browse_index.py writes.
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
  const index = { ...header, columns: {}, values: {} };
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

/** Address of a sample's page. */
export function samplePage(index, row) {
  return `sample.html?id=${encodeURIComponent(sampleId(index, row))}&engine=${word(index, "engine", row)}`;
}
