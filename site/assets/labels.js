// Labels drawn from columns and Fourier series, as temimagenet/labels.py draws them. No page is needed: workers use it.

export const MAPS = [
  "circularMask",
  "smallcircularMask",
  "gaussianMask",
  "noNoise",
  "noBackgroundnoNoise",
  "noNoiseNoBackgroundSuperresolution",
  "noNoiseNoBackgroundUpinterpolation2x",
  "noNoiseUpinterpolation2x",
];
export const SMALL_RADIUS = 0.7;

const BLOCK = 512;
const SPOT_SIGMA_A = 0.2 / (2 * Math.sqrt(2 * Math.log(2)));

/**
 * A label that is not stored: {data, shape}.
 * `facts` has size, pixel_size_A, radius_A, clean_peak and background; `series` is needed by 2x maps alone.
 */
export function drawLabel(name, facts, columns, series) {
  const { size } = facts;
  if (name.endsWith("ircularMask")) return { data: discs(name, facts, columns), shape: [size, size] };
  if (!name.includes("2x")) return { data: spots(name, facts, columns), shape: [size, size] };
  const data = evaluate(series, 2 * size, facts.pixel_size_A / 2);
  if (name === "noNoiseUpinterpolation2x") {
    const background = evaluateBackground(facts.background, 2 * size);
    for (let i = 0; i < data.length; i++) data[i] += facts.clean_peak * background[i];
  }
  return { data, shape: [2 * size, 2 * size] };
}

/** 1 within a radius of a column: in the very roundings of the Python package, so that every pixel agrees. */
function discs(name, { size, pixel_size_A, radius_A }, columns) {
  const { fround } = Math;
  const radius = (radius_A * (name === "smallcircularMask" ? SMALL_RADIUS : 1)) / pixel_size_A;
  const limit = fround(radius * radius);
  const out = new Float32Array(size * size);
  for (const { x_px, y_px } of columns) {
    near(x_px, y_px, radius + 1, size, (i, x, y) => {
      if (fround(fround((y - y_px) ** 2) + fround((x - x_px) ** 2)) <= limit) out[i] = 1;
    });
  }
  return out;
}

/** Gaussians of unit peak at pixel centres, or of unit volume times the column's weight averaged over each pixel. */
function spots(name, { size, pixel_size_A }, columns) {
  const sigma = SPOT_SIGMA_A / pixel_size_A;
  const root = Math.SQRT2 * sigma;
  const along =
    name === "gaussianMask" ? (d) => Math.exp(-(d * d) / (2 * sigma * sigma)) : (d) => erf((d + 0.5) / root) - erf((d - 0.5) / root);
  const out = new Float64Array(size * size);
  const across = new Float64Array(size);
  for (const { x_px, y_px, weight_A2 } of columns) {
    const weight = name === "gaussianMask" ? 1 : weight_A2 / (2 * pixel_size_A) ** 2;
    const reach = 6 * sigma + 1;
    const [left, right] = [x_px - reach, x_px + reach].map((x) => Math.min(Math.max(Math.ceil(x), 0), size));
    for (let x = left; x < right; x++) across[x] = weight * along(x - x_px);
    let last = -1;
    let down = 0;
    near(x_px, y_px, reach, size, (i, x, y) => {
      if (y !== last) [last, down] = [y, along(y - y_px)];
      if (x >= left && x < right) out[i] += down * across[x];
    });
  }
  return Float32Array.from(out);
}

/** Visit the pixels of an image within a square around a point, row by row. */
function near(x_px, y_px, reach, size, visit) {
  const [left, top] = [x_px, y_px].map((at) => Math.max(Math.ceil(at - reach), 0));
  const [right, bottom] = [x_px, y_px].map((at) => Math.min(Math.floor(at + reach), size - 1));
  for (let y = top; y <= bottom; y++) for (let x = left; x <= right; x++) visit(y * size + x, x, y);
}

/** Error function in double precision: its power series, and a continued fraction where that converges slowly. */
export function erf(x) {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 2.5) {
    let term = a;
    let sum = a;
    for (let n = 1; Math.abs(term) > 1e-17 * sum; n++) {
      term *= (-a * a) / n;
      sum += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let fraction = a;
  for (let n = 40; n > 0; n--) fraction = a + n / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-a * a) / fraction / Math.sqrt(Math.PI));
}

/** The matrix [cos, -sin, sin, cos] of a rotation, exact at multiples of 90 degrees. */
function turn(degrees) {
  const quarter = Math.floor(degrees / 90);
  const angle = ((degrees - 90 * quarter) * Math.PI) / 180;
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  return [
    [c, -s, s, c],
    [-s, -c, c, -s],
    [-c, s, -s, -c],
    [s, c, -c, s],
  ][((quarter % 4) + 4) % 4];
}

/** A Fourier series at the pixels of an ideal scan, `size` along each side. */
export function evaluate(series, size, pixel_A) {
  const { cell_A, hk, coefficients, rotation_deg, offset_A } = series;
  const out = new Float64Array(size * size);
  const alongAxes = rotation_deg === 0 && cell_A[0][1] === 0 && cell_A[1][0] === 0;
  if (alongAxes && hk.length > 2 * BLOCK) addProducts(out, boxed(series, size, pixel_A), size);
  else {
    for (let n = 0; n < hk.length; n += 2 * BLOCK) {
      const part = [hk, coefficients].map((values) => values.subarray(n, n + 2 * BLOCK));
      addProducts(out, plain(cell_A, ...part, turn(rotation_deg), offset_A, size, pixel_A), size);
    }
  }
  return Float32Array.from(out);
}

/** Each term of a series as a function of the row times one of the column. */
function plain([[a, b], [c, d]], hk, coefficients, [r0, r1, r2, r3], [x0, y0], size, pixel_A) {
  const count = hk.length / 2;
  const rows = [new Float64Array(size * count), new Float64Array(size * count)];
  const columns = [new Float64Array(count * size), new Float64Array(count * size)];
  const area = a * d - b * c;
  for (let n = 0; n < count; n++) {
    const [h, k] = [hk[2 * n], hk[2 * n + 1]];
    const [gx, gy] = [(h * d - k * b) / area, (k * a - h * c) / area];
    const factor = h || k ? 2 : 1;
    const [re, im] = [factor * coefficients[2 * n], factor * coefficients[2 * n + 1]];
    const start = gx * x0 + gy * y0;
    const [across, down] = [pixel_A * (gx * r0 + gy * r2), pixel_A * (gx * r1 + gy * r3)];
    for (let i = 0; i < size; i++) {
      const [p, q] = phase(start + i * down);
      rows[0][i * count + n] = re * p - im * q;
      rows[1][i * count + n] = re * q + im * p;
      [columns[0][n * size + i], columns[1][n * size + i]] = phase(i * across);
    }
  }
  return { count, rows, columns };
}

/** A series whose cell lies along the scan: summed over k for every row first, one term is left for each h. */
function boxed({ cell_A, hk, coefficients, offset_A }, size, pixel_A) {
  let [most, high] = [0, 0];
  for (let n = 0; n < hk.length; n += 2) [most, high] = [Math.max(most, hk[n]), Math.max(high, Math.abs(hk[n + 1]))];
  const count = most + 1;
  const rows = [new Float64Array(size * count), new Float64Array(size * count)];
  const columns = [new Float64Array(count * size), new Float64Array(count * size)];
  const wave = new Float64Array(2 * (2 * high + 1));
  for (let i = 0; i < size; i++) {
    const y = (i * pixel_A + offset_A[1]) / cell_A[1][1];
    for (let k = -high; k <= high; k++) [wave[2 * (k + high)], wave[2 * (k + high) + 1]] = phase(k * y);
    for (let n = 0; n < hk.length; n += 2) {
      const [h, k] = [hk[n], hk[n + 1]];
      const factor = h || k ? 2 : 1;
      const [p, q] = [wave[2 * (k + high)], wave[2 * (k + high) + 1]];
      rows[0][i * count + h] += factor * (coefficients[n] * p - coefficients[n + 1] * q);
      rows[1][i * count + h] += factor * (coefficients[n] * q + coefficients[n + 1] * p);
    }
    for (let h = 0; h < count; h++) {
      [columns[0][h * size + i], columns[1][h * size + i]] = phase((h * (i * pixel_A + offset_A[0])) / cell_A[0][0]);
    }
  }
  return { count, rows, columns };
}

function phase(cycles) {
  const angle = 2 * Math.PI * (cycles - Math.round(cycles));
  return [Math.cos(angle), Math.sin(angle)];
}

/** Add the real part of rows times columns, (size x count) by (count x size) of complex numbers. */
function addProducts(out, { count, rows, columns }, size) {
  for (let i = 0; i < size; i++) {
    const line = out.subarray(i * size, (i + 1) * size);
    for (let n = 0, at = 0; n < count; n++) {
      const p = rows[0][i * count + n];
      const q = rows[1][i * count + n];
      for (let j = 0; j < size; j++, at++) line[j] += p * columns[0][at] - q * columns[1][at];
    }
  }
}

/** The background at the pixels of a grid over the field, in units of the clean peak (imaging/background.py). */
export function evaluateBackground({ level, slope, stripes, blobs }, size) {
  const out = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    const v = i / size;
    for (let j = 0; j < size; j++) {
      const u = j / size;
      let sum = level + slope[0] * u + slope[1] * v;
      for (const [a, fx, fy, start] of stripes) sum += (a / 2) * (1 + Math.cos(2 * Math.PI * (fx * u + fy * v) + start));
      for (const [a, cu, cv, s] of blobs) sum += a * Math.exp(-((u - cu) ** 2 + (v - cv) ** 2) / (2 * s * s));
      out[i * size + j] = Math.max(sum, 0);
    }
  }
  return out;
}
