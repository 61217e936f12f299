// A sample's record, which builder/samples.py wrote: fetched, and told in tables, sentences and Python.
import { element, figure } from "./dom.js";
import { checkSchema } from "./library.js";

const GROUPS = {
  Specimen: ["entry", "material", "formula", "zone", "morphology", "thickness_A", "realisation", "columns", "radius_A"],
  "Optics and detector": ["condition", "energy_keV", "aperture_mrad", "source_size_A", "defocus_A", "C3_mm", "C5_mm", "detector_inner_mrad", "detector_outer_mrad", "contrast"],
  "Field and scan": ["field_of_view_A", "pixel_size_A", "image_size", "rotation_deg", "offset_x_A", "offset_y_A", "scan_sigma_A", "scan_modulation", "scan_form"],
  "Dose and background": ["psnr_dB", "dose_e_per_A2", "background", "background_level", "clean_peak"],
  "Bound and twin": ["crlb_median_pm", "mean_to_linear", "column_to_linear_min", "column_to_linear_max", "column_shift_pm"],
  Provenance: ["id", "index", "split", "engine", "shard", "row", "sha256"],
};
const UNITS = { _e_per_A2: "e/Å²", _A: "Å", _pm: "pm", _dB: "dB", _keV: "keV", _mrad: "mrad", _deg: "°", _mm: "mm" };
/** Facts that a multislice image shares with its linear twin, from which dose and background follow. */
const OF_LINEAR = new Set(["psnr_dB", "clean_peak"]);
const ALL_LABELS = 10;
/** What a shard stores of a sample beside maps. */
const NO_MAPS = new Set(["image", "columns", "row_shift_A"]);
const BIG = /([:[,]\s*)(\d{16,})(?=\s*[,\]}])/g;

/** Fetch a sample's record; throws with a sentence for the visitor. */
export async function loadRecord(library, id, engine) {
  const url = new URL(`samples/${encodeURIComponent(engine)}/${encodeURIComponent(id)}.json`, document.baseURI);
  const reply = await fetch(url).catch(() => {
    throw new Error(`${url} cannot be reached. If these pages were opened from a folder, serve them: python -m builder serve.`);
  });
  if (reply.status === 404) throw new Error(`The library “${library}” has no sample “${id}” of engine “${engine}”. Choose one on the browse page.`);
  if (!reply.ok) throw new Error(`${url}: the server answers ${reply.status}. Build the site anew.`);
  const record = await reply.json().catch(() => {
    throw new Error(`${url} is damaged. Build the site anew.`);
  });
  checkSchema("This sample's record", record.schema);
  return record;
}

/** All facts of the catalogue, in groups, under the names that `where=` knows; `meanings` says of names what they are. */
export function factLists({ fields, spec, series, library, licence }, meanings) {
  const rest = Object.keys(fields).filter((key) => !Object.values(GROUPS).flat().includes(key));
  const lists = Object.entries({ ...GROUPS, "More of the catalogue": rest }).map(([title, keys]) => [title, keys.filter((key) => fields[key] !== null && fields[key] !== undefined && fields[key] !== "").map((key) => [key, fields[key]])]);
  lists.find(([title]) => title === "Field and scan")[1].push(...(series ? seeds(spec) : []));
  lists.find(([title]) => title === "Provenance")[1].push(["library", library.name], ["version", library.version], ["licence", licence]);
  return lists
    .filter(([, facts]) => facts.length)
    .map(([title, facts]) => element("section", {}, element("h3", {}, title), element("dl", {}, ...facts.flatMap(([key, value]) => [element("dt", { title: meanings[key] ?? null }, ...broken(key)), element("dd", {}, said(key, value), fields.engine === "multislice" && OF_LINEAR.has(key) ? " (linear twin’s)" : "")]))));
}

/** A long key may break after its underscores. */
function broken(key) {
  return key.split(/(?<=_)/).flatMap((part) => [element("wbr"), part]);
}

/** Seeds out of the specification's text: they are larger than JavaScript's whole numbers. */
function seeds(spec) {
  return [...spec.matchAll(/"(scan_seed|noise_seed|seed)": (\d+)/g)].map(([, key, value]) => [key === "seed" ? "specimen_seed" : key, value]);
}

function said(key, value) {
  const suffix = Object.keys(UNITS).find((end) => key.endsWith(end));
  const text = typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(6)).toString() : String(value);
  return suffix ? `${text} ${UNITS[suffix]}`.replace(" °", "°") : text;
}

/** The specification, indented; large seeds stay as they are. */
export function prettySpec(spec) {
  return JSON.stringify(JSON.parse(spec.replace(BIG, '$1"#$2"')), null, 2).replace(/"#(\d+)"/g, "$1");
}

/** Labels as Python code: all by one name, or as a list of some. */
export function labelsCode(labels) {
  return labels.length === ALL_LABELS ? "LABELS" : `[${labels.map((label) => `"${label}"`).join(", ")}]`;
}

/** Python that loads exactly this sample. */
export function snippet({ fields, series, arrays }) {
  const stored = Object.keys(arrays).filter((name) => !NO_MAPS.has(name));
  const labels = series ? "LABELS" : labelsCode([...stored, "position", "positionRadius"]);
  return [
    `from temimagenet import ${labels === "LABELS" ? "LABELS, " : ""}TEMImageNet`,
    "",
    'data = TEMImageNet("library", split=None,',
    `                   engine="${fields.engine}", labels=${labels},`,
    `                   where="id == '${fields.id}'")`,
    "sample = data[0]",
    "print(sample)",
  ].join("\n");
}

/** What is known of the precision that the columns allow: nodes for the page. */
export function bound({ fields, engines }, points) {
  const known = points.filter((point) => point.inside && Number.isFinite(point.crlb_x_A) && Number.isFinite(point.crlb_y_A));
  const say = (...children) => element("p", {}, ...children);
  if (known.length) {
    const sorted = known.flatMap((point) => [100 * point.crlb_x_A, 100 * point.crlb_y_A]).sort((a, b) => a - b);
    const [least, most] = [sorted[0], sorted.at(-1)];
    const median = sorted[Math.floor(sorted.length / 2)];
    return [say(element("b", {}, `${figure(median)} pm`), ` in the median of ${known.length} columns, ${figure(least)} to ${figure(most)} pm: the smallest standard deviation that an unbiased estimate of x or y can have from this image (Cramér–Rao). Each column's own is in the table below.`)];
  }
  if (fields.engine !== "linear") {
    const twin = engines.includes("linear") ? element("a", { href: samplePage(fields.id, "linear") }, "its linear twin") : "linear images";
    return [say("Bounds are worked out by the linear model, which does not draw multislice images: see ", twin, ".")];
  }
  if (fields.dose_e_per_A2 === null) return [say("None: others made this image, and its dose, which a bound needs, is not known.")];
  if (!points.some((point) => point.inside)) return [say("No column lies in the image.")];
  if (fields.scan_form === "published" && fields.scan_sigma_A > 0) return [say("None: its rows were moved by whole pixels, and such displacements have no density.")];
  const code = "from temimagenet.render import with_bounds\n\nbounds_pm = 100 * with_bounds(sample).columns.crlb_A";
  return [say("This library was rendered without bounds. The sample's own take a few seconds in Python, after the lines above:"), element("pre", { tabindex: 0, role: "region", "aria-label": "Python code for bounds", id: "bound-snippet" }, element("code", {}, code))];
}

/** Address of a sample's page. */
export function samplePage(id, engine) {
  return `sample.html?id=${encodeURIComponent(id)}&engine=${encodeURIComponent(engine)}`;
}

/** The columns inside the image as a table. */
export function columnTable(points, radius_px) {
  const inside = points.filter((point) => point.inside);
  const bounded = inside.some((point) => Number.isFinite(point.crlb_x_A));
  const heads = ["column", "x (px)", "y (px)", "r (px)", "x (Å)", "y (Å)", "atoms", "weight (Å²)", ...(bounded ? ["bound x (pm)", "bound y (pm)"] : [])];
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))));
  const body = table.createTBody();
  for (const point of inside) {
    const bounds = bounded ? [100 * point.crlb_x_A, 100 * point.crlb_y_A].map((pm) => figure(pm)) : [];
    const numbers = [point.x_px, point.y_px, radius_px, point.x_A, point.y_A].map((value) => value.toFixed(3));
    body.append(element("tr", {}, element("th", { scope: "row" }, point.kind), ...[...numbers, figure(point.atoms), figure(point.weight_A2), ...bounds].map((text) => element("td", {}, text))));
  }
  return table;
}
