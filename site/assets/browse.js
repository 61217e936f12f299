// The browse page: facets, ranges, text search and sort over the catalogue, and a grid that keeps few elements.
import { catalogue } from "./catalogue.js";
import { bytes, tell } from "./library.js";

const FACETS = [
  ["material", "Material"],
  ["zone", "Zone axis"],
  ["morphology", "Morphology"],
  ["condition", "Condition"],
  ["engine", "Engine"],
  ["field_of_view_A", "Field of view (Å)"],
  ["rotation_deg", "Rotation (°)"],
  ["background", "Background"],
  ["split", "Split"],
];
const RANGES = [
  ["psnr_dB", "PSNR (dB)"],
  ["columns", "Columns in the image"],
  ["scan_sigma_A", "Scan noise (Å)"],
  ["crlb_median_pm", "Bound, median (pm)"],
];
const TILE = { width: 112, height: 152 };

const state = { q: "", sort: "index", chosen: new Map(), range: new Map() };
let rows = [];
let shown = [];
let ranges = [];
const boxes = new Map();

const grid = document.getElementById("grid");
const tall = grid.firstElementChild;

start().catch((error) => tell(error.message));

async function start() {
  rows = await catalogue();
  // Bounds are in libraries that were rendered with them.
  ranges = RANGES.filter(([field]) => rows.some((row) => row[field] != null));
  fromUrl();
  for (const row of rows) {
    row.text = ` ${row.id} ${row.entry} ${row.material} ${row.formula} ${row.zone} ${row.morphology} ${row.background} ${row.split} ${row.engine}`.toLowerCase();
    row.text += ` ${row.zone.replace(/[[\]]/g, "")} ${row.psnr_dB < 14 ? "noisy" : ""}`;
  }
  build();
  update();
}

function fromUrl() {
  const query = new URLSearchParams(location.search);
  state.q = query.get("q") ?? "";
  state.sort = query.get("sort") ?? "index";
  const unknown = [];
  for (const [key, value] of query) {
    if (FACETS.some(([field]) => field === key)) state.chosen.set(key, new Set(value.split("|")));
    else if (ranges.some(([field]) => field === key)) state.range.set(key, value.split("..").map(number));
    else if (key !== "q" && key !== "sort") unknown.push(key);
  }
  const sort = document.getElementById("sort");
  sort.value = state.sort;
  if (!sort.value) [sort.value, state.sort] = ["index", "index"];
  document.getElementById("text").value = state.q;
  if (unknown.length) tell(`This address asks for ${unknown.join(", ")}, which the catalogue does not have; the rest applies.`);
}

function number(text) {
  const value = parseFloat(text);
  return Number.isFinite(value) ? value : null;
}

function toUrl() {
  const query = new URLSearchParams();
  if (state.q) query.set("q", state.q);
  if (state.sort !== "index") query.set("sort", state.sort);
  for (const [field, values] of state.chosen) if (values.size) query.set(field, [...values].join("|"));
  for (const [field, [low, high]] of state.range) if (low !== null || high !== null) query.set(field, `${low ?? ""}..${high ?? ""}`);
  const text = query.toString();
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
}

function build() {
  const parent = document.getElementById("facets");
  for (const [field, title] of FACETS) {
    const values = [...new Set(rows.map((row) => String(row[field] ?? "")))].filter((value) => value !== "");
    values.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const set = element("fieldset", {}, element("legend", {}, title));
    for (const value of values) {
      const input = element("input", { type: "checkbox" });
      input.checked = state.chosen.get(field)?.has(value) ?? false;
      input.addEventListener("change", () => {
        const chosen = state.chosen.get(field) ?? new Set();
        input.checked ? chosen.add(value) : chosen.delete(value);
        state.chosen.set(field, chosen);
        update();
      });
      const count = element("span");
      const label = element("label", {}, input, element("span", {}, value), count);
      boxes.set(`${field}=${value}`, { input, count, label });
      set.append(label);
    }
    parent.append(set);
  }
  for (const [field, title] of ranges) {
    const current = state.range.get(field) ?? [null, null];
    const inputs = ["from", "to"].map((word, end) => {
      const input = element("input", { type: "number", step: "any", "aria-label": `${title}, ${word}`, placeholder: word });
      input.value = current[end] ?? "";
      input.addEventListener("input", () => {
        const range = state.range.get(field) ?? [null, null];
        range[end] = number(input.value);
        state.range.set(field, range);
        update();
      });
      return input;
    });
    parent.append(element("fieldset", {}, element("legend", {}, title), element("div", { class: "range" }, inputs[0], "–", inputs[1])));
  }
  document.getElementById("text").addEventListener("input", (event) => {
    state.q = event.target.value;
    update();
  });
  document.getElementById("sort").addEventListener("change", (event) => {
    state.sort = event.target.value;
    update();
  });
  document.getElementById("clear").addEventListener("click", () => {
    state.q = document.getElementById("text").value = "";
    state.chosen.clear();
    state.range.clear();
    for (const { input } of boxes.values()) input.checked = false;
    for (const input of document.querySelectorAll(".range input")) input.value = "";
    tell("");
    update();
  });
  document.querySelector(".facets").addEventListener("submit", (event) => event.preventDefault());
  grid.addEventListener("scroll", () => requestAnimationFrame(paint));
  addEventListener("resize", () => requestAnimationFrame(paint));
  if (matchMedia("(max-width: 52rem)").matches) document.querySelector(".facets details").open = false;
}

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function update() {
  // Words match from their start, so that "110" finds a zone axis and not sample 000110.
  const words = state.q.toLowerCase().replace(/[[\]]/g, " ").split(/\s+/).filter(Boolean).map((word) => ` ${word}`);
  const facets = FACETS.map(([field]) => [field, state.chosen.get(field)]).map(([field, set]) => [field, set?.size ? set : null]);
  const counts = new Map();
  shown = [];
  for (const row of rows) {
    if (!words.every((word) => row.text.includes(word))) continue;
    if (![...state.range].every(([field, [low, high]]) => (low === null && high === null) || (row[field] != null && row[field] >= (low ?? -Infinity) && row[field] <= (high ?? Infinity)))) continue;
    // A facet's counts tell what choosing a value would give: they pass over the facet's own choice.
    const failed = facets.filter(([field, set]) => set && !set.has(String(row[field])));
    if (failed.length > 1) continue;
    for (const [field] of failed.length ? [failed[0]] : facets) {
      const key = `${field}=${row[field]}`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    if (!failed.length) shown.push(row);
  }
  const key = state.sort;
  shown.sort((a, b) => a[key] - b[key]);
  for (const [name, box] of boxes) {
    const count = counts.get(name) ?? 0;
    box.count.textContent = count.toLocaleString("en");
    box.label.classList.toggle("none", !count);
  }
  const plural = shown.length === 1 ? "sample" : "samples";
  document.getElementById("count").textContent = `${shown.length.toLocaleString("en")} ${plural}${shown.length ? "" : ": nothing fits these filters"}`;
  toUrl();
  grid.scrollTop = 0;
  paint(true);
}

const tiles = new Map();

function paint(fresh = false) {
  const across = Math.max(1, Math.floor((grid.clientWidth - 12) / TILE.width));
  tall.style.height = `${Math.ceil(shown.length / across) * TILE.height + 12}px`;
  const first = Math.max(0, Math.floor(grid.scrollTop / TILE.height) - 1) * across;
  const last = Math.min(shown.length, (Math.ceil((grid.scrollTop + grid.clientHeight) / TILE.height) + 1) * across);
  if (fresh === true) {
    tall.replaceChildren();
    tiles.clear();
  }
  for (const [index, node] of tiles) {
    if (index < first || index >= last) {
      node.remove();
      tiles.delete(index);
    }
  }
  for (let index = first; index < last; index++) {
    const node = tiles.get(index) ?? tile(shown[index]);
    node.style.left = `${6 + (index % across) * TILE.width}px`;
    node.style.top = `${6 + Math.floor(index / across) * TILE.height}px`;
    node.style.width = `${TILE.width}px`;
    if (!tiles.has(index)) {
      tiles.set(index, node);
      tall.append(node);
    }
  }
}

function tile(row) {
  const canvas = element("canvas", { width: 96, height: 96, role: "img", "aria-label": `${row.entry}, ${row.psnr_dB.toFixed(0)} dB` });
  thumbnail(row, canvas).catch(() => canvas.setAttribute("aria-label", "no preview"));
  const link = element("a", { class: "tile", href: `sample.html?id=${encodeURIComponent(row.id)}&engine=${row.engine}` });
  link.append(canvas, element("b", {}, row.entry), element("span", {}, `${row.field_of_view_A} Å, ${row.psnr_dB.toFixed(1)} dB${row.engine === "linear" ? "" : `, ${row.engine}`}`));
  return link;
}

let index = null;

async function thumbnail(row, canvas) {
  index ??= fetch("thumbs/index.json").then((reply) => reply.json());
  const { offsets, pack } = (await index)[row.shard];
  const [from, to] = [offsets[row.row], offsets[row.row + 1]];
  const url = new URL(`thumbs/${pack}`, document.baseURI).href;
  const data = await bytes(url, from, to - from);
  const bitmap = await createImageBitmap(new Blob([data], { type: "image/webp" }));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, 96, 96);
}
