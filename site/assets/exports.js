// What a visitor takes home of a sample: archives, pictures, tables, and a shard of this one sample.
import { hdf5 } from "./hdf5.js";
import { MAPS, SMALL_RADIUS } from "./labels.js";
import { csv, npz, tiff } from "./writers.js";

const scalar = (...numbers) => ({ data: Float64Array.from(numbers), shape: [] });

function positions(points, radius_px) {
  const inside = points.filter((point) => point.inside);
  const table = (rows, across) => ({ data: Float64Array.from(rows.flat()), shape: [rows.length, across] });
  return {
    position: table(inside.map(({ x_px, y_px }) => [x_px, y_px]), 2),
    positionRadius: table(inside.map(({ x_px, y_px }) => [x_px, y_px, radius_px]), 3),
  }; // prettier-ignore
}

/** Image and maps by name, positions, both radii and what goes with them, for numpy.load. `map(name)` gives a map. */
export async function archive(record, names, points, map) {
  const { fields } = record;
  const radius_px = fields.radius_A / fields.pixel_size_A;
  const found = await Promise.all(names.map(map));
  return npz({
    ...Object.fromEntries(names.map((name, i) => [name, found[i]])),
    ...positions(points, radius_px),
    radius: scalar(radius_px),
    smallRadius: scalar(SMALL_RADIUS * radius_px),
    pixel_size_A: scalar(fields.pixel_size_A),
    dose_e_per_A2: scalar(fields.dose_e_per_A2 ?? NaN),
    spec: { data: record.spec, shape: [] },
  });
}

/** A map as TIFF: counts in 16 bits, all others in float32. */
export function picture(record, name, map) {
  const { image_size, pixel_size_A, id, engine } = record.fields;
  const data = name === "image" ? map.data : Float32Array.from(map.data);
  return tiff({ data, shape: map.shape }, (pixel_size_A * image_size) / map.shape[0], `${id} ${engine} ${name}`);
}

/** Columns, those just outside the image included. */
export function columnsCsv(points) {
  return csv(points);
}

/** Series of a sample that has none. */
const NO_SERIES = { hk: new Int16Array(0), coefficients: new Float32Array(0), cell_A: [], rotation_deg: 0, offset_A: [0, 0] };

/**
 * The sample as a shard of one, which temimagenet and every HDF5 reader open. `series` is null where others made it;
 * `read(name)` gives what is stored.
 */
export async function singleShard(record, table, series, read) {
  const { fields } = record;
  const one = (map) => ({ data: map.stored ?? map.data, shape: [1, ...map.shape] });
  const names = Object.keys(record.arrays).filter((name) => name !== "columns");
  const stored = await Promise.all(names.map(read));
  const tree = {};
  for (const [i, name] of names.entries()) {
    tree[name] = one(stored[i]);
    if (record.arrays[name].scale) tree[`${name}_scale`] = { data: Float64Array.from(record.arrays[name].scale), shape: [1, 2] };
  }
  const texts = (...values) => ({ data: values, shape: [values.length] });
  const columns = record.n_columns * record.column_fields.length;
  const { hk, coefficients, cell_A, rotation_deg, offset_A } = series ?? NO_SERIES;
  const terms = hk.length / 2;
  Object.assign(tree, {
    columns: { data: table.data.slice(0, columns), shape: [1, record.n_columns, record.column_fields.length], attributes: { fields: texts(...record.column_fields) } },
    n_columns: { data: Int32Array.of(record.n_columns), shape: [1] },
    columns_inside: { data: Int32Array.of(fields.columns), shape: [1] },
    kinds: texts(JSON.stringify(record.kinds)),
    spec: texts(record.spec),
    sha256: texts(fields.sha256),
    dose_e_per_A2: { data: Float64Array.of(fields.dose_e_per_A2 ?? NaN), shape: [1] },
    clean_peak: { data: Float64Array.of(fields.clean_peak ?? NaN), shape: [1] },
    series_index: { data: Int32Array.of(series ? 0 : -1), shape: [1] },
    series_scan: { data: Float64Array.of(rotation_deg, ...offset_A), shape: [1, 3] },
    series: {
      children: {
        start: series ? { data: BigInt64Array.of(0n, BigInt(terms)), shape: [2] } : { data: BigInt64Array.of(0n), shape: [1] },
        cell_A: { data: Float64Array.from(cell_A.flat()), shape: [cell_A.length / 2, 2, 2] },
        hk: { data: hk, shape: [terms, 2] },
        coefficients: { data: coefficients, shape: [terms, 2] },
      },
    },
  });
  const text = (value) => ({ data: [value], shape: [] });
  const number = (value) => ({ data: Int32Array.of(value), shape: [] });
  return hdf5(tree, {
    schema: number(record.library.schema),
    dense: number(Number(MAPS.every((name) => name in record.arrays))),
    engine: text(fields.engine),
    library: text(record.library.name),
    code_version: text(record.library.version),
    licence: text(record.licence),
    citation: text(record.citation),
  });
}
