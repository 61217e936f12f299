// What a network drew, brought into agreement with the image, as `models/agreement.py` does it: see there. `facts` are
// its constants.

/**
 * The maps wanted, corrected in place by the clean image among them.
 *
 * @param seen the noisy image, spikes cut down, with mean 0 and deviation 1
 * @param scale {mean, deviation} that it had
 * @param maps {name: Float32Array} in the image's unit
 */
export function bringIntoAgreement(seen, scale, maps, { rows, columns }, facts) {
  const drawn = maps[facts.clean];
  if (!drawn) return;
  const size = { rows, columns };
  const unit = Float32Array.from(drawn, (value) => (value - scale.mean) / scale.deviation);
  const [seenPlane, cleanPlane] = [plane(seen, size), plane(unit, size)];
  const given = seen.map((value, i) => value - seenPlane[i]);
  const clean = unit.map((value, i) => value - cleanPlane[i]);
  const match = matched(given, clean, size, facts);
  const left = new Float32Array(rows * columns);
  for (let number = 0; number < rows; number++) {
    const row = new Row(number);
    const there = left.subarray(number * columns, (number + 1) * columns);
    for (let round = 0; round < facts.last_rounds; round++) {
      const told = tell(given, clean, size, row, match, there);
      const [x, y] = row.moved;
      row.move(told, match.variance, facts);
      if (Math.max(Math.abs(row.moved[0] - x), Math.abs(row.moved[1] - y)) < facts.at_rest_px) break;
    }
  }
  for (let i = 0; i < left.length; i++) left[i] += seenPlane[i] - match.gain * cleanPlane[i];
  const slow = smoothed(left, size, facts.slow_px);
  for (const [name, map] of Object.entries(maps)) {
    if (name === facts.clean) {
      for (let i = 0; i < map.length; i++) map[i] = scale.mean + scale.deviation * (match.gain * unit[i] + slow[i]);
    } else if (facts.above_zero.includes(name)) {
      for (let i = 0; i < map.length; i++) map[i] *= match.gain;
    }
  }
}

/** A row: where it was displaced to, (dx, dy) in pixels, and the covariance of that as [xx, xy, yy]. */
class Row {
  moved = [0, 0];
  unsure = [0, 0, 0];

  constructor(number) {
    this.number = number;
  }

  /** A step towards where it likely was. */
  move({ known, pull }, variance, { most_step_px: most }) {
    if (variance === 0) {
      [this.moved, this.unsure] = [[0, 0], [0, 0, 0]];
      return;
    }
    const [xx, xy, yy] = [known[0] + 1 / variance, known[1], known[2] + 1 / variance];
    const determinant = xx * yy - xy * xy;
    this.unsure = [yy / determinant, -xy / determinant, xx / determinant];
    const likely = [this.unsure[0] * pull[0] + this.unsure[1] * pull[1], this.unsure[1] * pull[0] + this.unsure[2] * pull[1]];
    this.moved = this.moved.map((place, axis) => place + Math.min(Math.max(likely[axis] - place, -most), most));
  }
}

/** The plane through an image, by least squares. */
function plane(values, { rows, columns }) {
  let [mean, down, along] = [0, 0, 0];
  const [middle, centre] = [(rows - 1) / 2, (columns - 1) / 2];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const value = values[row * columns + column];
      mean += value / values.length;
      down += value * (row - middle);
      along += value * (column - centre);
    }
  }
  const squares = (count) => (count * (count * count - 1)) / 12;
  down /= squares(rows) * columns;
  along /= squares(columns) * rows;
  return values.map((_, i) => mean + down * (Math.floor(i / columns) - middle) + along * ((i % columns) - centre));
}

/** The gain, the noise's variance and that of the displacements, from some rows. */
function matched(given, clean, size, facts) {
  const { rows, columns } = size;
  const count = Math.min(rows, Math.max(facts.least_rows, Math.floor(facts.pixels / columns)));
  const chosen = Array.from({ length: count }, (_, i) => new Row(Math.floor((i + 0.5) * (rows / count))));
  let match = { gain: 1, noise: 0, variance: 0 };
  for (let round = 0; round < facts.rounds; round++) {
    let [square, both] = [0, 0];
    const there = chosen.map((row) => displaced(clean, size, row));
    chosen.forEach(({ number, unsure: [xx, xy, yy] }, i) => {
      const { value, alongTwice, alongUpward, upwardTwice } = there[i];
      for (let j = 0; j < columns; j++) {
        value[j] += 0.5 * xx * alongTwice[j] + xy * alongUpward[j] + 0.5 * yy * upwardTwice[j];
        square += value[j] * value[j];
        both += value[j] * given[number * columns + j];
      }
      const sums = products(there[i]);
      square += sums[0] * xx + 2 * sums[1] * xy + sums[2] * yy;
    });
    const gain = Math.min(Math.max(square > 0 ? both / square : 1, facts.gains[0]), facts.gains[1]);
    match = { gain, noise: 0, variance: 0 };
    const rest = chosen.map(({ number }, i) => there[i].value.map((v, j) => given[number * columns + j] - gain * v));
    for (const row of rest) for (const value of row) match.noise += (value * value) / (count * columns);
    if (match.noise === 0) break;
    const told = chosen.map((row, i) => toldBy(there[i], rest[i], row, match));
    let [pulls, trace, squares] = [0, 0, 0];
    for (const { known: [xx, xy, yy], pull: [x, y] } of told) {
      pulls += x * x + y * y;
      trace += xx + yy;
      squares += xx * xx + 2 * xy * xy + yy * yy;
    }
    match.variance = squares > 0 ? Math.min(Math.max(0, (pulls - trace) / squares), facts.most_wander_px ** 2) : 0;
    chosen.forEach((row, i) => row.move(told[i], match.variance, facts));
  }
  return match;
}

/** What a row tells of its displacement; what is left over of it is written to `left`. */
function tell(given, clean, size, row, match, left) {
  const there = displaced(clean, size, row);
  const first = row.number * size.columns;
  for (let j = 0; j < size.columns; j++) left[j] = given[first + j] - match.gain * there.value[j];
  return toldBy(there, left, row, match);
}

function toldBy(there, rest, { moved: [x, y] }, { gain, noise }) {
  if (noise === 0) return { known: [0, 0, 0], pull: [0, 0] };
  const [xx, xy, yy] = products(there).map((product) => (product * gain * gain) / noise);
  let [across, down] = [0, 0];
  for (let j = 0; j < rest.length; j++) {
    across += there.along[j] * rest[j];
    down += there.upward[j] * rest[j];
  }
  const pull = [(across * gain) / noise + xx * x + xy * y, (down * gain) / noise + xy * x + yy * y];
  return { known: [xx, xy, yy], pull };
}

/** Sums over a row of products of its slopes. */
function products({ along, upward }) {
  let [xx, xy, yy] = [0, 0, 0];
  for (let j = 0; j < along.length; j++) {
    xx += along[j] * along[j];
    xy += along[j] * upward[j];
    yy += upward[j] * upward[j];
  }
  return [xx, xy, yy];
}

/** A row of a map at displaced places, and its derivatives along x and y, by cubic convolution (Keys 1981). */
function displaced(map, { rows, columns }, { number, moved }) {
  const [right, below] = moved.map(Math.floor);
  const [across, acrossSlope, acrossCurve] = weights(moved[0] - right);
  const [down, downSlope, downCurve] = weights(moved[1] - below);
  const array = () => new Float64Array(columns);
  const [level, rise, bend] = [array(), array(), array()];
  for (let tap = 0; tap < 4; tap++) {
    const from = columns * Math.min(Math.max(number + below + tap - 1, 0), rows - 1);
    for (let j = 0; j < columns; j++) {
      level[j] += down[tap] * map[from + j];
      rise[j] += downSlope[tap] * map[from + j];
      bend[j] += downCurve[tap] * map[from + j];
    }
  }
  const there = { value: array(), along: array(), upward: array(), alongTwice: array(), alongUpward: array(), upwardTwice: array() };
  for (let tap = 0; tap < 4; tap++) {
    for (let j = 0; j < columns; j++) {
      const place = Math.min(Math.max(j + right + tap - 1, 0), columns - 1);
      there.value[j] += across[tap] * level[place];
      there.along[j] += acrossSlope[tap] * level[place];
      there.upward[j] += across[tap] * rise[place];
      there.alongTwice[j] += acrossCurve[tap] * level[place];
      there.alongUpward[j] += acrossSlope[tap] * rise[place];
      there.upwardTwice[j] += across[tap] * bend[place];
    }
  }
  return there;
}

// Of the pixels -1, 0, 1 and 2, the coefficients of t^3, t^2, t and 1 (a = -1/2).
const CUBICS = [[-0.5, 1, -0.5, 0], [1.5, -2.5, 0, 1], [-1.5, 2, 0.5, 0], [0.5, -0.5, 0, 0]];

/** Weights of four pixels at a place from 0 to 1, and their first two derivatives. */
function weights(t) {
  return [
    CUBICS.map(([a, b, c, d]) => ((a * t + b) * t + c) * t + d),
    CUBICS.map(([a, b, c]) => (3 * a * t + 2 * b) * t + c),
    CUBICS.map(([a, b]) => 6 * a * t + 2 * b),
  ];
}

/** A Gaussian filter that ends at four standard deviations; the first and last pixels go on outside. */
function smoothed(map, { rows, columns }, sigma) {
  const reach = Math.floor(4 * sigma + 0.5);
  const bell = Float64Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-0.5 * ((i - reach) / sigma) ** 2));
  const sum = bell.reduce((total, part) => total + part, 0);
  const along = (from, to, count, step, lines, apart) => {
    for (let line = 0; line < lines; line++) {
      for (let i = 0; i < count; i++) {
        let total = 0;
        for (let k = -reach; k <= reach; k++) {
          total += bell[k + reach] * from[line * apart + step * Math.min(Math.max(i + k, 0), count - 1)];
        }
        to[line * apart + step * i] = total / sum;
      }
    }
    return to;
  };
  const halfway = along(map, new Float32Array(map.length), rows, columns, columns, 1);
  return along(halfway, new Float32Array(map.length), columns, 1, rows, columns);
}
