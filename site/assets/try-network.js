// What the Python package does around a network, in the same steps and numbers: `models/inputs.py`, `predict.py` and
// `columns.py`. `facts` are the constants that the builder writes beside the model, taken from there.
import { bringIntoAgreement } from "./agreement.js";

/** An image that can be worked on, or an error with a sentence for the visitor. */
export function checkImage({ data, rows, columns }, pixelSizeA, facts) {
  if (Math.min(rows, columns) < 4) throw new Error(`The image has ${rows} x ${columns} pixels: at least 4 x 4 are needed.`);
  let [low, high, bad] = [Infinity, -Infinity, 0];
  for (const value of data) {
    if (!Number.isFinite(value)) bad++;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (bad) throw new Error(`${bad} ${bad === 1 ? "pixel is" : "pixels are"} not a number or infinite: fill them first.`);
  if (low === high) throw new Error(`Every pixel is ${low}: there is nothing to find in a constant image.`);
  const grid = chooseGrid([rows, columns], pixelSizeA, facts);
  if (Math.max(rows * columns, grid.rows * grid.columns) > facts.most_pixels) {
    const side = Math.floor(Math.sqrt(facts.most_pixels));
    throw new Error(
      `${rows} x ${columns} pixels of ${pixelSizeA} Å are more than this page can take, at most ${side} x ${side} of ` +
        `${facts.range_A.join(" to ")} Å: crop the image, or use the Python package.`,
    );
  }
  return grid;
}

/** The grid to work on: the image's own where the network knows its pixel size, else binned or interpolated. */
export function chooseGrid([rows, columns], pixelSizeA, facts) {
  if (!(pixelSizeA > 0 && pixelSizeA < Infinity)) throw new Error("Enter the pixel size, a positive length in ångström.");
  const [least, most] = facts.range_A;
  if (least <= pixelSizeA && pixelSizeA <= most) return { step: 1, pixelSizeA, rows, columns };
  if (pixelSizeA < least) {
    const step = Math.max(2, Math.floor(facts.comfortable_A / pixelSizeA + 0.5));
    if (Math.floor(Math.min(rows, columns) / step) < 4) {
      throw new Error(`At ${pixelSizeA} Å a pixel the image shows less than half an ångström: is the pixel size in ångström?`);
    }
    return { step, pixelSizeA: step * pixelSizeA, rows: Math.floor(rows / step), columns: Math.floor(columns / step) };
  }
  if (pixelSizeA > 1) throw new Error(`At ${pixelSizeA} Å a pixel atomic columns are not resolved: is the pixel size in ångström?`);
  const step = facts.comfortable_A / pixelSizeA;
  return { step, pixelSizeA: facts.comfortable_A, rows: Math.floor(rows / step), columns: Math.floor(columns / step) };
}

/** The image on a grid: mean of the pixels that are binned, or cubic splines. */
export function resample(image, grid) {
  if (grid.step === 1) return image.data;
  return grid.step > 1 ? bin(image, grid) : interpolate(image, grid);
}

function bin({ data, columns }, { step, rows, columns: wide }) {
  const out = new Float64Array(rows * wide);
  for (let row = 0; row < rows * step; row++) {
    const [from, to] = [row * columns, Math.floor(row / step) * wide];
    for (let column = 0; column < wide * step; column++) out[to + Math.floor(column / step)] += data[from + column];
  }
  for (let i = 0; i < out.length; i++) out[i] /= step * step;
  return out;
}

const MARGIN = 12;
const POLE = Math.sqrt(3) - 2;

function interpolate(image, grid) {
  const places = (count) => Float64Array.from({ length: count }, (_, i) => (i + 0.5) * grid.step - 0.5);
  const across = splineRows(image.data, image.rows, image.columns, places(grid.columns));
  const turned = transpose(across, image.rows, grid.columns);
  return transpose(splineRows(turned, grid.columns, image.rows, places(grid.rows)), grid.columns, grid.rows);
}

/** Each row evaluated at places by a cubic spline through its pixels; the first and last pixel go on outside. */
function splineRows(data, rows, columns, places) {
  const out = new Float64Array(rows * places.length);
  const c = new Float64Array(columns + 2 * MARGIN);
  const last = c.length - 1;
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i <= last; i++) {
      c[i] = 6 * data[row * columns + Math.min(Math.max(i - MARGIN, 0), columns - 1)];
    }
    c[0] /= 1 - POLE;
    for (let i = 1; i <= last; i++) c[i] += POLE * c[i - 1];
    c[last] = (POLE / (POLE * POLE - 1)) * (c[last] + POLE * c[last - 1]);
    for (let i = last - 1; i >= 0; i--) c[i] = POLE * (c[i + 1] - c[i]);
    places.forEach((place, k) => {
      const first = Math.floor(place);
      const t = place - first;
      const i = first + MARGIN;
      const s = 1 - t;
      out[row * places.length + k] =
        (s ** 3 * c[i - 1] + (4 - 3 * t * t * (1 + s)) * c[i] + (4 - 3 * s * s * (1 + t)) * c[i + 1] + t ** 3 * c[i + 2]) / 6;
    });
  }
  return out;
}

function transpose(data, rows, columns) {
  const out = new data.constructor(data.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) out[column * rows + row] = data[row * columns + column];
  }
  return out;
}

/** A map drawn on a grid, on the image's: linear between pixels. */
export function restore(drawn, grid, rows, columns) {
  if (grid.step === 1) return drawn;
  const out = new Float32Array(rows * columns);
  const down = betweens(rows, grid.rows, grid.step);
  const across = betweens(columns, grid.columns, grid.step);
  for (let row = 0; row < rows; row++) {
    const [top, below, low] = down[row];
    for (let column = 0; column < columns; column++) {
      const [left, right, part] = across[column];
      const above = drawn[top * grid.columns + left] * (1 - part) + drawn[top * grid.columns + right] * part;
      const under = drawn[below * grid.columns + left] * (1 - part) + drawn[below * grid.columns + right] * part;
      out[row * columns + column] = above * (1 - low) + under * low;
    }
  }
  return out;
}

/** For each pixel of the image along an axis: the pixels of the grid before and after it, and how far between. */
function betweens(count, length, step) {
  return Array.from({ length: count }, (_, i) => {
    const place = Math.min(Math.max((i + 0.5) / step - 0.5, 0), length - 1);
    const before = Math.floor(place);
    return [before, Math.min(before + 1, length - 1), place - before];
  });
}

/** Pixels with mean 0 and standard deviation 1, hot and dead ones cut down, and how to get back. */
export function normalise(pixels) {
  const sorted = Float64Array.from(pixels).sort();
  const [low, middle, high] = [0.001, 0.5, 0.999].map((part) => quantile(sorted, part));
  const least = low < middle ? middle - 4 * (middle - low) : -Infinity;
  const most = high > middle ? middle + 4 * (high - middle) : Infinity;
  const cut = Float64Array.from(pixels, (value) => Math.min(Math.max(value, least), most));
  let [mean, square] = [0, 0];
  for (const value of cut) mean += value;
  mean /= cut.length;
  for (const value of cut) square += (value - mean) ** 2;
  const deviation = Math.sqrt(square / cut.length);
  if (!(deviation > 0)) throw new Error(`Every pixel is ${pixels[0]}: there is nothing to find in a constant image.`);
  return { seen: Float32Array.from(cut, (value) => (value - mean) / deviation), mean, deviation };
}

function quantile(sorted, part) {
  const place = part * (sorted.length - 1);
  const before = Math.floor(place);
  const after = Math.min(before + 1, sorted.length - 1);
  return sorted[before] + (sorted[after] - sorted[before]) * (place - before);
}

/**
 * Maps and raw columns of a normalised image, tile by tile.
 *
 * @param run (pixels, rows, columns) -> promise of {name: Float32Array} of one tile
 * @param onTile (done, all) called after each tile
 */
export async function runTiles(run, seen, grid, names, facts, onTile = () => {}) {
  const { rows, columns } = grid;
  const cell = facts.cell_px;
  const drawn = Object.fromEntries(names.map((name) => [name, new Float32Array(rows * columns)]));
  const total = new Float32Array(rows * columns);
  const [cellRows, cellColumns] = [Math.ceil(rows / cell), Math.ceil(columns / cell)];
  const best = new Float32Array(cellRows * cellColumns).fill(-1);
  const raw = Array.from({ length: facts.channels }, () => new Float32Array(best.length));
  const tiles = starts(rows, facts).flatMap((top) => starts(columns, facts).map((left) => [top, left]));
  for (const [number, [top, left]] of tiles.entries()) {
    const [below, right] = [Math.min(top + facts.tile_px, rows), Math.min(left + facts.tile_px, columns)];
    const [high, wide] = [below - top, right - left];
    const tile = new Float32Array(high * wide);
    for (let row = 0; row < high; row++) {
      tile.set(seen.subarray((top + row) * columns + left, (top + row) * columns + right), row * wide);
    }
    const answer = await run(tile, high, wide);
    const [down, across] = [ramp(top, below, rows, facts.overlap_px), ramp(left, right, columns, facts.overlap_px)];
    for (let row = 0; row < high; row++) {
      for (let column = 0; column < wide; column++) {
        const [weight, at] = [down[row] * across[column], (top + row) * columns + left + column];
        total[at] += weight;
        for (const name of names) drawn[name][at] += weight * answer[name][row * wide + column];
      }
    }
    // Numbers of two tiles have no mean: each cell is told by the tile it lies deepest in.
    const tileCells = Math.ceil(wide / cell);
    for (let row = 0; row < Math.ceil(high / cell); row++) {
      for (let column = 0; column < tileCells; column++) {
        const weight = Math.fround(down[row * cell] * across[column * cell]);
        const at = (top / cell + row) * cellColumns + left / cell + column;
        if (weight <= best[at]) continue;
        best[at] = weight;
        const from = row * tileCells + column;
        const size = tileCells * Math.ceil(high / cell);
        raw.forEach((channel, k) => (channel[at] = answer.columns[k * size + from]));
      }
    }
    onTile(number + 1, tiles.length);
  }
  for (const name of names) drawn[name].forEach((value, i, map) => (map[i] = value / total[i]));
  return { drawn, raw, cellRows, cellColumns };
}

/** Where tiles begin along one axis. */
function starts(length, { tile_px: tile, overlap_px: overlap, multiple }) {
  if (length <= tile) return [0];
  const count = 1 + Math.ceil((length - tile) / (Math.floor((tile - overlap) / multiple) * multiple));
  return Array.from({ length: count }, (_, number) => {
    const place = (number * (length - tile)) / (count - 1) / multiple;
    return multiple * (number === count - 1 ? Math.ceil((length - tile) / multiple) : roundEven(place));
  });
}

/** As Python rounds: halves go to the even neighbour. */
function roundEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value - Math.trunc(value)) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/** A tile's weight along one axis: 1 inside, falling towards borders that it shares with other tiles. */
function ramp(start, stop, length, overlap) {
  return Float32Array.from({ length: stop - start }, (_, i) => {
    const before = start > 0 ? (i + 0.5) / overlap : 1;
    const after = stop < length ? (stop - start - i) / overlap : 1;
    return Math.min(1, before, after);
  });
}

/** A map in the image's unit, in place; masks are cut to 0 and 1. */
export function toImageUnit(name, drawn, { mean, deviation }, facts) {
  const [factor, offset] = facts.above_zero.includes(name)
    ? [deviation * (facts.sharper[name] ?? 1), 0]
    : name.endsWith("Mask") ? [1, 0] : [deviation, mean];
  for (let i = 0; i < drawn.length; i++) {
    drawn[i] = name.endsWith("Mask") ? Math.min(Math.max(drawn[i], 0), 1) : drawn[i] * factor + offset;
  }
  return drawn;
}

const sigmoid = (value) => 1 / (1 + Math.exp(-value));
const softplus = (value) => Math.max(value, 0) + Math.log1p(Math.exp(-Math.abs(value)));

/** The columns that cells tell of, those of the greatest chance first, on the grid's pixels. */
export function readColumns({ raw, cellRows, cellColumns }, pixelSizeA, facts) {
  const cells = [];
  const shift = (facts.cell_px - 1) / 2;
  const reach = facts.reach_cells;
  for (let at = 0; at < cellRows * cellColumns; at++) {
    const chance = sigmoid(raw[0][at]);
    if (!(chance > facts.heard_chance)) continue;
    const x = (at % cellColumns) + reach * Math.tanh(raw[1][at] / reach);
    const y = Math.floor(at / cellColumns) + reach * Math.tanh(raw[2][at] / reach);
    const [sx, sy, ss] = [4, 5, 6].map((k) => softplus(raw[k][at]) + facts.least_spread);
    cells.push({
      chance,
      place: [x * facts.cell_px + shift, y * facts.cell_px + shift, softplus(raw[3][at])],
      spread: [sx * facts.cell_px, sy * facts.cell_px, ss],
    });
  }
  cells.sort((a, b) => b.chance - a.chance);
  return groups(cells, facts.apart_A / pixelSizeA).map((group) => {
    const chance = group.reduce((sum, cell) => sum + cell.chance, 0);
    const mean = (value) => group.reduce((sum, cell) => sum + cell.chance * value(cell), 0) / chance;
    const place = [0, 1, 2].map((k) => mean((cell) => cell.place[k]));
    const sigma = [0, 1, 2].map((k) => Math.sqrt(mean((cell) => cell.spread[k] ** 2 + (cell.place[k] - place[k]) ** 2)));
    return { place, sigma, chance };
  });
}

/** Cells in groups: the one with the greatest chance takes those not taken within a distance; then the next. */
function groups(cells, apart) {
  const key = (x, y) => `${x},${y}`;
  const bins = new Map();
  for (const cell of cells) {
    cell.bin = [Math.floor(cell.place[0] / apart), Math.floor(cell.place[1] / apart)];
    const name = key(...cell.bin);
    if (!bins.has(name)) bins.set(name, []);
    bins.get(name).push(cell);
  }
  const found = [];
  for (const cell of cells) {
    if (cell.taken) continue;
    const group = [];
    for (const dx of [-1, 0, 1]) {
      for (const dy of [-1, 0, 1]) {
        for (const other of bins.get(key(cell.bin[0] + dx, cell.bin[1] + dy)) ?? []) {
          const near = Math.hypot(other.place[0] - cell.place[0], other.place[1] - cell.place[1]) <= apart;
          if (near && !other.taken) group.push(other);
        }
      }
    }
    for (const other of group) other.taken = true;
    found.push(group);
  }
  return found;
}

/** Columns on the image's grid, in its unit; those told beyond its edge are left out. */
export function toImageColumns(found, grid, { deviation }, pixelSizeA) {
  const [rows, columns] = [Math.round(grid.rows * grid.step), Math.round(grid.columns * grid.step)];
  return found
    .map(({ place, sigma, chance }) => ({
      x_px: (place[0] + 0.5) * grid.step - 0.5,
      y_px: (place[1] + 0.5) * grid.step - 0.5,
      sigma_x_px: sigma[0] * grid.step,
      sigma_y_px: sigma[1] * grid.step,
      intensity: (place[2] * deviation) / pixelSizeA ** 2,
      intensity_sigma: (sigma[2] * deviation) / pixelSizeA ** 2,
      chance: Math.min(chance, 1),
    }))
    .filter(({ x_px: x, y_px: y }) => x >= -0.5 && y >= -0.5 && x < columns - 0.5 && y < rows - 0.5);
}

/** Everything at once: {maps, columns, grid} of an image of a pixel size. */
export async function predict(run, image, pixelSizeA, facts, onTile) {
  const grid = checkImage(image, pixelSizeA, facts);
  const { seen, ...scale } = normalise(resample(image, grid));
  const told = await runTiles(run, seen, grid, facts.maps, facts, onTile);
  const maps = {};
  for (const name of facts.maps) {
    maps[name] = restore(toImageUnit(name, told.drawn[name], scale, facts), grid, image.rows, image.columns);
    delete told.drawn[name];
  }
  const { seen: whole, ...levels } = grid.step === 1 ? { seen, ...scale } : normalise(image.data);
  bringIntoAgreement(whole, levels, maps, image, { ...facts.agreement, above_zero: facts.above_zero });
  const columns = toImageColumns(readColumns(told, grid.pixelSizeA, facts), grid, scale, pixelSizeA);
  return { maps, columns, grid, scale };
}
