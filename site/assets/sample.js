// The sample page: image and labels out of the shard by byte range, in panes; facts, downloads and Python code.
import { COLOURS } from "./colours.js";
import { element, figure } from "./dom.js";
import { SCHEMA, base, checkSchema, copy, save, tell } from "./library.js";
import { Pane, View, kindColour, value } from "./panes.js";
import { bound, columnTable, factLists, loadRecord, prettySpec, samplePage, snippet } from "./record.js";
import { Selection } from "./selection.js";
import { readArray, readColumns, readSeries } from "./shard.js";

const BEAM = "of the beam";
/** What a pane can show: its title, unit and first colours. */
const MAPS = {
  image: ["image: electron counts", "e⁻", "grey"],
  noNoise: ["noNoise", BEAM, "grey"],
  noBackgroundnoNoise: ["noBackgroundnoNoise", BEAM, "grey"],
  noNoiseUpinterpolation2x: ["noNoiseUpinterpolation2x", BEAM, "grey"],
  noNoiseNoBackgroundUpinterpolation2x: ["noNoiseNoBackgroundUpinterpolation2x", BEAM, "grey"],
  gaussianMask: ["gaussianMask", "", "inferno"],
  noNoiseNoBackgroundSuperresolution: ["noNoiseNoBackgroundSuperresolution", BEAM, "inferno"],
  circularMask: ["circularMask", "", "grey"],
  smallcircularMask: ["smallcircularMask", "", "grey"],
};
/** Maps of a sample: all, since what is not stored is drawn, unless others made the sample: then those that are stored. */
const mapsOf = (of) => Object.keys(MAPS).filter((name) => of.series || name in of.arrays);
/** A map's title and unit; images that others made have grey values. */
const named = (of, name) => (of.series ? (MAPS[name] ?? ["expected counts", "e⁻"]) : [name === "image" ? "image: grey values" : name, ""]);
const MOST_PANES = 4;

const byId = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const library = byId("main").dataset.name;
const view = new View();
const scene = { size: 1, pixel_A: 1, radius_px: 1, points: [], kinds: [], marks: true, pixel: null, near: null, describe };
const state = { noise: true, twin: null, panes: [], divider: 50 };
const kept = new Map();
let record, fields;

start().catch((error) => tell(error.message));

async function start() {
  const [id, engine] = [query.get("id"), query.get("engine") ?? "linear"];
  if (!id) throw new Error("No sample was asked for. Choose one on the browse page.");
  if ((query.get("library") ?? library) !== library) tell(`This address asks for the library “${query.get("library")}”; these pages show “${library}”, whose sample of the same name follows.`);
  record = await loadRecord(library, id, engine);
  fields = record.fields;
  // On their way while the page is built.
  if (record.library.schema <= SCHEMA) for (const begun of [stored(record, "image"), columnsOf(record)]) begun.catch(() => {});
  Object.assign(scene, { size: fields.image_size, pixel_A: fields.pixel_size_A, radius_px: fields.radius_A / fields.pixel_size_A, kinds: record.kinds });
  about();
  byId("sample").hidden = false;
  checkSchema("This library", record.library.schema);
  address();
  listen();
  buildPanes();
  downloads();
  await Promise.all([...state.panes.map(show), drawColumns()]);
  performance.mark("panes");
}

/** What can be told without the shard. */
function about() {
  document.title = `${fields.id} ${fields.engine}: TEMImageNet`;
  byId("crumb").textContent = ` / ${record.library.name} / ${fields.id} / ${fields.engine}`;
  const told = [fields.entry, `${Number(fields.field_of_view_A.toPrecision(4))} Å`];
  if (fields.psnr_dB !== null) told.push(`${fields.psnr_dB.toFixed(1)} dB`);
  if (fields.engine !== "linear") told.push(fields.engine);
  byId("title").textContent = told.join(", ");
  for (const which of ["previous", "next"]) if (record[which]) byId(which).href = samplePage(record[which], fields.engine);
  byId("facts").append(...factLists(record, JSON.parse(byId("meanings").textContent)));
  byId("snippet").textContent = snippet(record);
  byId("spec").querySelector("code").textContent = prettySpec(record.spec);
  byId("copy").addEventListener("click", () => copy(snippet(record), byId("copy")));
}

function whole() {
  tell("This server does not answer byte ranges, so the whole shard is fetched: slow, but what you see is right.");
}

/** The address tells library, sample, engine and panes, and nothing that is as usual. */
function address() {
  const now = new URLSearchParams({ library: record.library.name, id: fields.id, engine: fields.engine });
  const panes = state.panes.map((pane) => `${pane.name}:${pane.colour}`).join(",");
  if (state.panes.length ? panes !== usual() : query.has("panes")) now.set("panes", state.panes.length ? panes : query.get("panes"));
  history.replaceState(null, "", `?${now}`);
}

/** Panes of a first visit: the image, and beside it, where there is room, a label that needs no further bytes. */
function usual() {
  const beside = mapsOf(record).includes("gaussianMask") && !matchMedia("(max-width: 44rem)").matches;
  return beside ? "image:grey,gaussianMask:inferno" : "image:grey";
}

function buildPanes() {
  const wanted = (query.get("panes") ?? usual()).split(",").map((part) => part.split(":"));
  const there = mapsOf(record);
  const known = wanted.filter(([name]) => there.includes(name)).slice(0, MOST_PANES);
  const unknown = wanted.filter(([name]) => !there.includes(name)).map(([name]) => `“${name}”`);
  if (unknown.length) tell(`This address asks for the maps ${unknown.join(", ")}, which this sample does not have; the rest applies.`);
  const strange = known.flatMap(([, colour]) => (colour === undefined || COLOURS.includes(colour) ? [] : [`“${colour}”`]));
  if (strange.length) tell(`This address asks for the colours ${strange.join(", ")}, which there are not; the rest applies.`);
  for (const [name, colour] of known.length ? known : [["image"]]) addPane(name, COLOURS.includes(colour) ? colour : undefined);
}

function addPane(name, colour) {
  const titles = Object.fromEntries(mapsOf(record).map((key) => [key, named(record, key)[0]]));
  const pane = new Pane(view, scene, titles, { name, colour: colour ?? MAPS[name][2], first: !state.panes.length });
  pane.addEventListener("name", () => {
    pane.colours.value = pane.colour = MAPS[pane.name][2];
    show(pane);
    address();
  });
  pane.addEventListener("colour", () => {
    pane.paint();
    address();
  });
  pane.addEventListener("divide", () => {
    state.divider = pane.divider.value;
    for (const each of state.panes) each.divide(state.divider);
  });
  pane.addEventListener("close", () => {
    state.panes.splice(state.panes.indexOf(pane), 1);
    pane.remove();
    arranged();
  });
  state.panes.push(pane);
  byId("panes").append(pane.element);
  arranged();
  return pane;
}

function arranged() {
  byId("panes").dataset.count = state.panes.length;
  byId("add").disabled = state.panes.length >= MOST_PANES;
}

/** Bring a pane's map, and its twin's, to the screen. */
async function show(pane) {
  const name = pane.name;
  pane.wait(name.includes("2x") ? "evaluating the series" : "reading");
  try {
    const shown = name === "image" && !state.noise ? "expected" : name;
    const [map, twin, image, twinImage] = await Promise.all([
      mapOf(record, shown),
      state.twin && mapOf(state.twin, shown),
      shown === "expected" ? mapOf(record, "image") : null,
      shown === "expected" && state.twin ? mapOf(state.twin, "image") : null,
    ]);
    if (pane.name !== name) return;
    // With noise off, contrast stays that of the image.
    pane.show(image ? { ...map, scale: image } : map, twin && (twinImage ? { ...twin, scale: twinImage } : twin));
    pane.divide(state.divider);
    if (name === "image" && !performance.getEntriesByName("image").length) performance.mark("image");
  } catch (error) {
    tell(error.message);
    pane.wait("cannot be shown");
  }
}

/** Anything of a sample, fetched or drawn once; what failed may be tried again. */
function once(key, make) {
  if (!kept.has(key)) {
    kept.set(key, make());
    kept.get(key).catch(() => kept.delete(key));
  }
  return kept.get(key);
}

const stored = (of, name) => once(`${of.fields.engine} ${name}`, () => readArray(of, name, whole));
const columnsOf = (of) => once(`${of.fields.engine} points`, () => readColumns(of, whole));
const seriesOf = (of) => once(`${of.fields.engine} series`, () => readSeries(of, whole));

/** A map: {data, shape, title, unit, engine}. "expected" is the image without noise, in electrons. */
async function mapOf(of, name) {
  const engine = of.fields.engine;
  const [title, unit] = named(of, name);
  return { ...(await dataOf(of, name)), title, unit, engine };
}

async function dataOf(of, name) {
  if (name in of.arrays) {
    const map = await stored(of, name);
    return name.endsWith("ircularMask") ? { ...map, data: Float32Array.from(map.data) } : map;
  }
  if (name === "expected") {
    const { dose_e_per_A2, pixel_size_A } = of.fields;
    const { data, shape } = await stored(of, "noNoise");
    return { data: data.map((fraction) => fraction * dose_e_per_A2 * pixel_size_A ** 2), shape };
  }
  return once(`${of.fields.engine} drawn ${name}`, async () => {
    const { image_size, pixel_size_A, radius_A, clean_peak } = of.fields;
    const facts = { size: image_size, pixel_size_A, radius_A, clean_peak, background: JSON.parse(of.spec).background };
    return inWorker({ name, facts, columns: await columnsOf(of), series: name.includes("2x") ? await seriesOf(of) : null });
  });
}

let worker = null;
const waiting = new Map();

function inWorker(task) {
  worker ??= Object.assign(new Worker(new URL("labels-worker.js", import.meta.url), { type: "module" }), {
    onmessage: ({ data: { ticket, drawn, error } }) => {
      const { resolve, reject } = waiting.get(ticket);
      waiting.delete(ticket);
      drawn ? resolve(drawn) : reject(new Error(`${task.name} cannot be drawn: ${error}`));
    },
    onerror: () => {
      for (const { reject } of waiting.values()) reject(new Error("Labels cannot be drawn: this browser does not run the page's worker."));
      waiting.clear();
    },
  });
  return new Promise((resolve, reject) => {
    const ticket = crypto.getRandomValues(new Uint32Array(1))[0];
    waiting.set(ticket, { resolve, reject });
    worker.postMessage({ ticket, ...task });
  });
}

/** Columns on the panes, in the legend and the table, and what they bound. */
async function drawColumns() {
  try {
    scene.points = await columnsOf(record);
  } catch (error) {
    tell(error.message);
    return;
  }
  const inside = scene.points.filter((point) => point.inside);
  byId("kinds").replaceChildren(
    ...record.kinds
      .map((kind) => [kind, inside.filter((point) => point.kind === kind).length])
      .filter(([, count]) => count)
      .map(([kind, count]) => element("li", {}, element("span", { class: "dot", style: `--dot: ${kindColour(record.kinds, kind)}` }), `${kind} (${figure(count)})`)),
  );
  byId("bound").replaceChildren(...bound(record, scene.points));
  byId("table").addEventListener("toggle", () => byId("table").querySelector("div").replaceChildren(columnTable(scene.points, scene.radius_px)), { once: true });
  rest();
  for (const pane of state.panes) pane.draw();
}

function rest() {
  const inside = scene.points.filter((point) => point.inside).length;
  byId("readout").textContent = `${figure(inside)} ${inside === 1 ? "column" : "columns"} in the image. Point at it to read values; drag to move when zoomed in.`;
}

/** What a column is. */
function describe({ kind, atoms, weight_A2, x_px, y_px, crlb_x_A, crlb_y_A }) {
  const clean = kept.get(`${fields.engine} image`) && state.panes[0].maps[0];
  const parts = [kind === "unknown" ? "column" : kind];
  if (Number.isFinite(weight_A2)) parts.push(`${figure(atoms)} ${atoms === 1 ? "atom" : "atoms"}`, `weight ${figure(weight_A2)} Å²`);
  if (clean) parts.push(`here ${value(clean, x_px, y_px, scene.size)}`);
  if (Number.isFinite(crlb_x_A)) parts.push(`bound ${(100 * crlb_x_A).toPrecision(3)} and ${(100 * crlb_y_A).toPrecision(3)} pm`);
  return parts.join(", ");
}

view.addEventListener("change", () => {
  const { pointer } = view;
  byId("fit").textContent = `${figure(view.scale)}×`;
  if (!pointer) {
    [scene.pixel, scene.near] = [null, null];
    return rest();
  }
  const [x, y] = [pointer.u, pointer.v].map((at) => at * scene.size - 0.5);
  scene.pixel = { x, y };
  let [best, apart] = [null, scene.radius_px];
  for (const point of scene.points) {
    const distance = Math.hypot(point.x_px - x, point.y_px - y);
    if (distance < apart) [best, apart] = [point, distance];
  }
  scene.near = best;
  const place = `x ${x.toFixed(1)}, y ${y.toFixed(1)} px (${(x * scene.pixel_A).toFixed(2)}, ${(y * scene.pixel_A).toFixed(2)} Å)`;
  byId("readout").textContent = best ? `${place}. Column at (${best.x_A.toFixed(3)}, ${best.y_A.toFixed(3)}) Å: ${describe(best)}` : place;
});

function listen() {
  byId("noise").hidden = fields.dose_e_per_A2 === null;
  byId("noise").addEventListener("click", () => {
    state.noise = !state.noise;
    byId("noise").setAttribute("aria-pressed", state.noise);
    for (const pane of state.panes) if (pane.name === "image") show(pane);
  });
  byId("columns").addEventListener("change", () => {
    scene.marks = byId("columns").checked;
    for (const pane of state.panes) pane.draw();
  });
  byId("in").addEventListener("click", () => view.zoom(1.5));
  byId("out").addEventListener("click", () => view.zoom(1 / 1.5));
  byId("fit").addEventListener("click", () => view.reset());
  byId("add").addEventListener("click", () => {
    const shown = state.panes.map((pane) => pane.name);
    show(addPane(mapsOf(record).find((name) => !shown.includes(name)) ?? "image"));
    address();
  });
  byId("panes").addEventListener("click", (event) => event.target.classList.contains("close") && address());
  byId("link").addEventListener("click", () => copy(location.href, byId("link")));
  const twin = record.engines.find((engine) => engine !== fields.engine);
  byId("twin").hidden = !twin;
  byId("twin").textContent = `Compare with ${twin}`;
  byId("twin").addEventListener("click", () => compare(twin));
  const selection = new Selection(record.library.name);
  const name = `${fields.id} ${fields.engine}`;
  const picked = () => (byId("picked").checked = selection.has(name));
  picked();
  selection.addEventListener("change", picked);
  byId("picked").addEventListener("change", () => selection.set([name], byId("picked").checked));
  addEventListener("keydown", keys);
}

async function compare(engine) {
  const on = !state.twin;
  try {
    state.twin = on ? await once(`record ${engine}`, () => loadRecord(library, fields.id, engine)) : null;
  } catch (error) {
    tell(error.message);
  }
  byId("twin").setAttribute("aria-pressed", Boolean(state.twin));
  await Promise.all(state.panes.map(show));
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const buttons = { p: "previous", n: "next", x: "noise", c: "columns", t: "twin" };
  const target = byId(buttons[event.key]);
  if (target && !target.hidden) target.click();
}

function downloads() {
  const parent = byId("downloads");
  const note = byId("downloads-note");
  const name = (what) => `${fields.id}-${fields.engine}-${what}`;
  const button = (label, title, make) => {
    const node = element("button", { type: "button", title }, label);
    node.addEventListener("click", async () => {
      node.disabled = true;
      note.textContent = `Making ${label} …`;
      try {
        const [file, content] = await make(await import("./exports.js"));
        save(file, content);
        note.textContent = `Saved ${file}.`;
      } catch (error) {
        note.textContent = "";
        tell(error.message);
      }
      node.disabled = false;
    });
    parent.append(node);
  };
  const chosen = () => {
    const pane = state.panes[0];
    return [pane, pane.name === "image" && !state.noise ? "expected" : pane.name];
  };
  button("NPZ", "image, labels, positions: numpy.load", async ({ archive }) => [name("sample.npz"), await archive(record, mapsOf(record), await columnsOf(record), (map) => dataOf(record, map))]);
  button("HDF5", "a shard of this one sample", async ({ singleShard }) => {
    const [table, series] = await Promise.all([stored(record, "columns"), record.series && seriesOf(record)]);
    return [name("sample.h5"), await singleShard(record, table, series, (array) => stored(record, array))];
  });
  button("PNG", "the first pane's map as it looks", async () => [name(`${chosen()[1]}.png`), await new Promise((done) => chosen()[0].canvas.toBlob(done))]);
  button("TIFF", "the first pane's map in true values, with its pixel size", async ({ picture }) => [name(`${chosen()[1]}.tif`), picture(record, chosen()[1], await mapOf(record, chosen()[1]))]);
  button("Columns (CSV)", "positions and what is known of each column", async ({ columnsCsv }) => [name("columns.csv"), columnsCsv(await columnsOf(record))]);
  parent.append(
    element("a", { href: `samples/${fields.engine}/${encodeURIComponent(fields.id)}.json`, download: `${fields.id}-${fields.engine}.json` }, "Facts (JSON)"),
    element("a", { href: new URL(record.shard.path, base).href, download: true }, `Its shard (${(record.shard.bytes / 1e6).toFixed(0)} MB, row ${fields.row})`),
  );
  note.textContent = "PNG and TIFF hold the first pane's map; TIFF has 16-bit counts or float32, and the pixel size. The HDF5 file opens with temimagenet.storage.Shard.";
}
