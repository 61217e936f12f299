// DigitalMicrograph's DM3 and DM4: a tree of tags, big-endian outside and mostly little-endian inside. Read are the
// largest image and its pixel size.
import { checkSize, toAngstrom } from "./try-pixels.js";

const NUMBERS = {
  2: ["Int16", 2], 3: ["Int32", 4], 4: ["Uint16", 2], 5: ["Uint32", 4], 6: ["Float32", 4], 7: ["Float64", 8],
  8: ["Uint8", 1], 9: ["Int8", 1], 10: ["Uint8", 1], 11: ["BigInt64", 8], 12: ["BigUint64", 8],
};
const PIXELS = { 1: "Int16", 2: "Float32", 6: "Uint8", 7: "Int32", 9: "Int8", 10: "Uint16", 11: "Uint32", 12: "Float64" };

/** The image of a DM3 or DM4 file. */
export function readDm(bytes) {
  const view = new DataView(bytes.buffer);
  const file = { view, at: 4, wide: view.getUint32(0) === 4, little: true };
  long(file);
  file.little = view.getUint32(file.at) === 1;
  file.at += 4;
  const root = readGroup(file);
  const images = Object.values(root.ImageList ?? {}).map((image) => image.ImageData).filter((image) => image?.Data?.count);
  const image = images.filter(({ DataType }) => DataType in PIXELS).sort((a, b) => b.Data.count - a.Data.count)[0];
  if (!image) throw new Error("a DigitalMicrograph file without an image of real numbers.");
  const [columns, rows] = Object.values(image.Dimensions).map(Number);
  if (!rows) throw new Error("a DigitalMicrograph file of a line, not of an image.");
  checkSize(rows, columns);
  const kind = PIXELS[image.DataType];
  const size = Number(kind.match(/\d+/)[0]) / 8;
  const data = Float64Array.from({ length: rows * columns }, (_, i) => view[`get${kind}`](image.Data.from + i * size, file.little));
  const scale = Object.values(image.Calibrations?.Dimension ?? {})[0];
  const pixelSizeA = scale?.Units ? toAngstrom(Number(scale.Scale), scale.Units) : null;
  const notes = image.Data.count * image.Data.size > data.length * size ? ["This is the first of several images in the file."] : [];
  return { data, rows, columns, pixelSizeA, notes };
}

/** A number of four bytes in DM3 and of eight in DM4. */
function long(file) {
  const value = file.wide ? Number(file.view.getBigUint64(file.at)) : file.view.getUint32(file.at);
  file.at += file.wide ? 8 : 4;
  return value;
}

/** The tags of a group by name; those without one by their number. */
function readGroup(file) {
  file.at += 2;
  const count = long(file);
  const group = {};
  for (let number = 0; number < count; number++) {
    const kind = file.view.getUint8(file.at);
    const length = file.view.getUint16(file.at + 1);
    const name = new TextDecoder("latin1").decode(new Uint8Array(file.view.buffer, file.at + 3, length));
    file.at += 3 + length;
    if (file.wide) file.at += 8;
    if (kind !== 20 && kind !== 21) throw new RangeError("not a tag");
    group[name || number] = kind === 20 ? readGroup(file) : readData(file);
  }
  return group;
}

/** What a tag holds: a number, a text, a list; of long lists where they lie: {from, count, size}. */
function readData(file) {
  file.at += 4;
  const info = Array.from({ length: long(file) }, () => long(file));
  const from = file.at;
  const [kind, inner] = info;
  if (kind in NUMBERS) {
    file.at += NUMBERS[kind][1];
    return Number(file.view[`get${NUMBERS[kind][0]}`](from, file.little));
  }
  if (kind === 15) {
    file.at += structSize(info.slice(1));
    return null;
  }
  if (kind === 18) {
    file.at += 2 * inner;
    return null;
  }
  if (kind !== 20) throw new RangeError("unknown kind of data");
  const count = info.at(-1);
  const size = inner === 15 ? structSize(info.slice(2)) : NUMBERS[inner][1];
  file.at += count * size;
  if (file.at > file.view.byteLength) throw new RangeError("cut short");
  // Texts are short arrays of 16-bit characters.
  if (inner === 4 && count < 64) {
    return String.fromCharCode(...Array.from({ length: count }, (_, i) => file.view.getUint16(from + 2 * i, file.little)));
  }
  return { from, count, size };
}

/** Bytes of a struct: after the length of its name, the number of fields, then name length and kind of each. */
function structSize([, fields, ...rest]) {
  let size = 0;
  for (let i = 0; i < fields; i++) size += NUMBERS[rest[2 * i + 1]][1];
  return size;
}
