// What the readers of image files share: units, sizes, colours, inflating.

const MOST_PIXELS = 64e6;
const UNITS_A = { m: 1e10, cm: 1e8, mm: 1e7, "µm": 1e4, "μm": 1e4, um: 1e4, micron: 1e4, nm: 10, nanometers: 10, pm: 0.01, "å": 1, a: 1, angstrom: 1, angstroms: 1 };

/** A length in ångström, or null where the unit is none or the length is not one of a pixel at atomic resolution. */
export function toAngstrom(length, unit) {
  const value = length * (UNITS_A[unit.trim().toLowerCase()] ?? NaN);
  return value > 0.002 && value < 5 ? Number(value.toPrecision(7)) : null;
}

/** Throws if an image has more pixels than a page should hold. */
export function checkSize(rows, columns) {
  if (!(rows > 0 && columns > 0)) throw new Error("The file says that the image has no pixels: it is damaged.");
  if (rows * columns > MOST_PIXELS) throw new Error(`${rows} x ${columns} pixels are too many for this page: crop the image, or use the Python package.`);
}

/** Grey of colours, as the Python imaging library weighs them; interleaved samples, alpha ignored. */
export function grey(samples, count, channels) {
  if (channels < 3) return Float64Array.from({ length: count }, (_, i) => samples[i * channels]);
  const weigh = (i) => 19595 * samples[i] + 38470 * samples[i + 1] + 7471 * samples[i + 2];
  return Float64Array.from({ length: count }, (_, i) => weigh(i * channels) / 65536);
}

export const COLOURS = "Colours were turned into grey: a screenshot or a coloured picture has lost what the detector counted.";

/** Bytes inflated; a stream cut short is an error. */
export async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
