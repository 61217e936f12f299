// Files that a visitor takes home: NumPy archives, TIFF, CSV.

const DESCRIPTIONS = { Uint8Array: "|u1", Uint16Array: "<u2", Float32Array: "<f4", Float64Array: "<f8" };

/** An array or a text in NumPy's format 1.0. */
function npy({ data, shape }) {
  let bytes, description;
  if (typeof data === "string") {
    const points = Uint32Array.from(data, (letter) => letter.codePointAt(0));
    bytes = new Uint8Array(points.buffer);
    description = `<U${points.length}`;
  } else {
    bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    description = DESCRIPTIONS[data.constructor.name];
  }
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const facts = `{'descr': '${description}', 'fortran_order': False, 'shape': (${tuple}), }`;
  const head = new TextEncoder().encode(facts.padEnd(64 * Math.ceil((facts.length + 11) / 64) - 11) + "\n");
  const out = new Uint8Array(10 + head.length + bytes.length);
  out.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, head.length & 255, head.length >> 8]);
  out.set(head, 10);
  out.set(bytes, 10 + head.length);
  return out;
}

/** An .npz of {name: {data, shape}}, deflated as numpy.savez_compressed does. */
export async function npz(arrays) {
  const files = await Promise.all(
    Object.entries(arrays).map(async ([name, array]) => {
      const plain = npy(array);
      const stream = new Blob([plain]).stream().pipeThrough(new CompressionStream("deflate-raw"));
      return { name: new TextEncoder().encode(`${name}.npy`), crc: crc32(plain), plain: plain.length, packed: new Uint8Array(await new Response(stream).arrayBuffer()) };
    }),
  );
  const [parts, directory] = [[], []];
  let at = 0;
  const JANUARY_1980 = 0x21;
  for (const { name, crc, plain, packed } of files) {
    const facts = [[2, 20], [2, 0x800], [2, 8], [2, 0], [2, JANUARY_1980], [4, crc], [4, packed.length], [4, plain], [2, name.length], [2, 0]];
    directory.push(numbers([4, 0x02014b50], [2, 20], ...facts, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]), name);
    const head = numbers([4, 0x04034b50], ...facts);
    parts.push(head, name, packed);
    at += head.length + name.length + packed.length;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = numbers([4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, at], [2, 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** Little-endian numbers, each [bytes, value]. */
function numbers(...items) {
  return Uint8Array.from(items.flatMap(([width, value]) => Array.from({ length: width }, (_, k) => Math.floor(value / 256 ** k) & 255)));
}

function crc32(bytes) {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) {
    crc ^= bytes[i];
    for (let k = 0; k < 8; k++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** A TIFF of one map, 16-bit or float32 as its data are, with the pixel size where ImageJ and tifffile look for it. */
export function tiff({ data, shape: [height, width] }, pixel_A, title) {
  const float = data instanceof Float32Array;
  const text = new TextEncoder().encode(`ImageJ=1.54f\nimages=1\nunit=angstrom\nloop=false\npixel_size_A=${pixel_A}\ntitle=${title}\n\0`);
  const ENTRIES = 14;
  const after = 8 + 2 + 12 * ENTRIES + 4;
  const [description, resolution] = [after, after + text.length + (text.length & 1)];
  const start = resolution + 8;
  const [SHORT, LONG, RATIONAL, ASCII] = [3, 4, 5, 2];
  const entries = [
    [256, LONG, 1, width],
    [257, LONG, 1, height],
    [258, SHORT, 1, float ? 32 : 16],
    [259, SHORT, 1, 1],
    [262, SHORT, 1, 1],
    [270, ASCII, text.length, description],
    [273, LONG, 1, start],
    [277, SHORT, 1, 1],
    [278, LONG, 1, height],
    [279, LONG, 1, data.byteLength],
    [282, RATIONAL, 1, resolution],
    [283, RATIONAL, 1, resolution],
    [296, SHORT, 1, 1],
    [339, SHORT, 1, float ? 3 : 1],
  ];
  const out = new Uint8Array(start + data.byteLength);
  out.set(numbers([2, 0x4949], [2, 42], [4, 8], [2, ENTRIES], ...entries.flatMap(([tag, type, count, value]) => [[2, tag], [2, type], [4, count], [4, value]]), [4, 0]));
  out.set(text, description);
  out.set(numbers([4, Math.round(1e7 / pixel_A)], [4, 1e7]), resolution);
  out.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), start);
  return new Blob([out], { type: "image/tiff" });
}

/** Rows of objects as comma-separated values. */
export function csv(rows) {
  const fields = Object.keys(rows[0] ?? {});
  const cell = (value) => (/[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : value);
  return new Blob([[fields.join(","), ...rows.map((row) => fields.map((field) => cell(row[field])).join(","))].join("\n") + "\n"], { type: "text/csv" });
}
