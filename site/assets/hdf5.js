// Writes small HDF5 files: groups, contiguous arrays and texts, in the oldest form (superblock 0), which all readers open.
// "HDF5 File Format Specification, version 3.0" says what every byte below is.

const UNDEFINED = 0xffffffffffffffffn;
const LEAF_K = 16;
const INTERNAL_K = 16;

/** Little-endian bytes: numbers by width ([2, 7] is a 16-bit 7, bigint for 64 bits), texts and byte arrays as they are. */
function packed(...items) {
  const parts = items.map((item) => {
    if (typeof item === "string") return new TextEncoder().encode(item);
    if (item instanceof Uint8Array) return item;
    const [width, value] = item;
    const bytes = new Uint8Array(width);
    for (let k = 0, rest = BigInt(value); k < width; k++, rest >>= 8n) bytes[k] = Number(rest & 255n);
    return bytes;
  });
  return joined(parts);
}

function joined(parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Filled up with zeros to a multiple of eight bytes, or to a size. */
function padded(bytes, size = 8 * Math.ceil(bytes.length / 8)) {
  const out = new Uint8Array(size);
  out.set(bytes);
  return out;
}

const INTEGER = (size, signed) => packed([1, 0x10], [1, signed ? 8 : 0], [2, 0], [4, size], [2, 0], [2, 8 * size]);
const FLOAT = (size, exponent, mantissa) =>
  packed([1, 0x11], [1, 0x20], [1, 8 * size - 1], [1, 0], [4, size], [2, 0], [2, 8 * size], [1, mantissa], [1, exponent], [1, 0], [1, mantissa], [4, 2 ** (exponent - 1) - 1]);
const TEXT = packed([1, 0x19], [1, 1], [1, 1], [1, 0], [4, 16], INTEGER(1, false));

function typeOf(data) {
  if (Array.isArray(data)) return TEXT;
  if (data instanceof Float32Array) return FLOAT(4, 8, 23);
  if (data instanceof Float64Array) return FLOAT(8, 11, 52);
  return INTEGER(data.BYTES_PER_ELEMENT, /^(Int|BigInt)/.test(data.constructor.name));
}

/**
 * An HDF5 file of a tree: {name: {data, shape, attributes}} are datasets, {name: {children: tree}} groups.
 * Data are typed arrays, or arrays of text; attributes of the file and of datasets are the same.
 */
export function hdf5(tree, attributes) {
  const file = { parts: [new Uint8Array(96)], end: 96, texts: [] };
  const heap = new Uint8Array(heapSize(tree, attributes));
  file.heap = place(file, heap);
  const root = writeGroup(file, tree, attributes);
  fillHeap(heap, file.texts);
  const superblock = packed(
    new Uint8Array([0x89, 0x48, 0x44, 0x46, 0x0d, 0x0a, 0x1a, 0x0a]),
    [4, 0], [1, 0], [1, 8], [1, 8], [1, 0], [2, LEAF_K], [2, INTERNAL_K], [4, 0],
    [8, 0], [8, UNDEFINED], [8, file.end], [8, UNDEFINED],
    [8, 0], [8, root], [4, 0], [4, 0], [8, 0], [8, 0],
  ); // prettier-ignore
  file.parts[0].set(superblock);
  return joined(file.parts);
}

/** Append bytes; their address. */
function place(file, bytes) {
  const at = file.end;
  const whole = bytes.length % 8 ? padded(bytes) : bytes;
  file.parts.push(whole);
  file.end += whole.length;
  return at;
}

/** Room for all texts of a tree in one global heap. */
function heapSize(tree, attributes) {
  const texts = (values) => Object.values(values ?? {}).flatMap(({ data }) => (Array.isArray(data) ? data : []));
  const all = (nodes) => Object.values(nodes).flatMap((node) => (node.children ? all(node.children) : [...texts({ node }), ...texts(node.attributes)]));
  const sizes = [...all(tree), ...texts(attributes)].map((text) => 16 + padded(packed(text)).length);
  return Math.max(4096, 32 + sizes.reduce((sum, size) => sum + size, 0));
}

function fillHeap(heap, texts) {
  const objects = texts.flatMap((bytes, i) => [packed([2, i + 1], [2, 1], [4, 0], [8, bytes.length]), padded(bytes)]);
  const body = joined([packed("GCOL", [4, 1], [8, heap.length]), ...objects]);
  heap.set(body);
  heap.set(packed([8, 0], [8, heap.length - body.length]), body.length);
}

/** Bytes of an array; texts go to the heap, and what is stored is where they are. */
function content(file, data) {
  if (!Array.isArray(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return joined(
    data.map((text) => {
      const bytes = packed(text);
      file.texts.push(bytes);
      return packed([4, bytes.length], [8, file.heap], [4, file.texts.length]);
    }),
  );
}

const space = (shape) => packed([1, 1], [1, shape.length], [2, 0], [4, 0], ...shape.map((length) => [8, length]));

/** An object header, version 1, of messages [type, bytes]. */
function header(file, messages) {
  const body = joined(messages.flatMap(([type, bytes]) => [packed([2, type], [2, padded(bytes).length], [4, 0]), padded(bytes)]));
  return place(file, packed([1, 1], [1, 0], [2, messages.length], [4, 1], [4, body.length], [4, 0], body));
}

function attributeMessages(file, attributes = {}) {
  return Object.entries(attributes).map(([name, { data, shape }]) => {
    const [title, type, extent] = [packed(name, [1, 0]), typeOf(data), space(shape)];
    const sizes = [title, type, extent].map((part) => [2, part.length]);
    return [0x0c, packed([1, 1], [1, 0], ...sizes, padded(title), padded(type), padded(extent), content(file, data))];
  });
}

function writeDataset(file, { data, shape, attributes }) {
  const bytes = content(file, data);
  const address = place(file, bytes);
  return header(file, [
    [0x01, space(shape)],
    [0x03, typeOf(data)],
    [0x05, packed([1, 2], [1, 2], [1, 0], [1, 0])],
    [0x08, packed([1, 3], [1, 1], [8, address], [8, bytes.length])],
    ...attributeMessages(file, attributes),
  ]);
}

/** A group: names in a local heap, entries in one symbol table node under a tree of one leaf. */
function writeGroup(file, tree, attributes) {
  const names = Object.keys(tree).sort((a, b) => (a < b ? -1 : 1));
  if (names.length > 2 * LEAF_K) throw new Error(`a group of ${names.length} members: at most ${2 * LEAF_K} can be written`);
  const entries = [];
  let heap = new Uint8Array(8);
  let last = 0;
  for (const name of names) {
    const node = tree[name];
    const address = node.children ? writeGroup(file, node.children) : writeDataset(file, node);
    last = heap.length;
    entries.push(packed([8, last], [8, address], [4, 0], [4, 0], [8, 0], [8, 0]));
    heap = joined([heap, padded(packed(name, [1, 0]))]);
  }
  const data = place(file, heap);
  const names_ = place(file, packed("HEAP", [4, 0], [8, heap.length], [8, 1], [8, data]));
  const symbols = place(file, padded(packed("SNOD", [1, 1], [1, 0], [2, entries.length], ...entries), 8 + 80 * LEAF_K));
  const leaf = packed("TREE", [1, 0], [1, 0], [2, 1], [8, UNDEFINED], [8, UNDEFINED], [8, 0], [8, symbols], [8, last]);
  const btree = place(file, padded(leaf, 24 + 8 * (4 * INTERNAL_K + 1)));
  return header(file, [[0x11, packed([8, btree], [8, names_])], ...attributeMessages(file, attributes)]);
}
