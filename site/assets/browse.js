// The browse page: filters, sorting, grid and table over the index, with the whole state in the address.
import { condition, inVain } from "./address.js";
import { known, loadIndex, sampleId, word } from "./browse-index.js";
import { element, figure } from "./dom.js";
import { Facet, Range } from "./facets.js";
import { Filter } from "./filter.js";
import { Selection } from "./selection.js";
import { Thumbnails } from "./thumbnails.js";
import { Grid, SORTABLE, Table } from "./views.js";

const FACETS = {
  material: "Material",
  zone: "Zone axis",
  morphology: "Morphology",
  condition: "Condition",
  engine: "Engine",
  field_of_view_A: "Field of view (Å)",
  rotation_deg: "Rotation (°)",
  background: "Background",
  split: "Split",
};
const RANGES = {
  psnr_dB: "PSNR (dB)",
  dose_e_per_A2: "Dose (e/Å²)",
  columns: "Columns in the image",
  scan_sigma_A: "Scan jitter (Å)",
  pixel_size_A: "Pixel size (Å)",
  crlb_median_pm: "Bound, median (pm)",
  // Facets, unless a recipe draws them from a range.
  field_of_view_A: FACETS.field_of_view_A,
  rotation_deg: FACETS.rotation_deg,
};
/** Conditions that only addresses set, such as those of the home page's links. */
const FROM_ADDRESS = { entry: "Entry" };
const TITLES = { ...FROM_ADDRESS, ...FACETS, ...RANGES };
const LOGARITHMIC = new Set(["dose_e_per_A2", "columns", "crlb_median_pm"]);
const SORTS = { index: "number", entry: "entry", psnr_dB: "PSNR", dose_e_per_A2: "dose", columns: "columns", scan_sigma_A: "jitter", pixel_size_A: "pixel size", crlb_median_pm: "bound" };
const ADDRESS_MS = 250;

const byId = (id) => document.getElementById(id);
const scroller = byId("view");
const start = { q: "", sort: "index", descending: false, view: "grid", selected: false };
const state = { ...start, facets: new Map(), ranges: new Map() };
let index, filter, grid, table, view, selection, picks;
const facets = new Map();
const ranges = new Map();

begin().catch((error) => {
  notice([error.message]);
  byId("count").textContent = "No samples to show";
  document.body.classList.add("broken");
});

async function begin() {
  index = await loadIndex();
  const chosen = Object.keys(FACETS).filter((field) => index.values[field] && known(index, field));
  const fields = Object.keys(RANGES).filter((field) => index.columns[field] && !index.values[field]);
  filter = new Filter(index, [...chosen, ...Object.keys(FROM_ADDRESS)], Object.fromEntries(fields.map((field) => [field, LOGARITHMIC.has(field)])));
  choices();
  build(chosen, fields);
  notice(fromAddress());
  const place = history.state?.top;
  apply();
  listen();
  // Whoever comes back from a sample finds the list where it was.
  if (place) {
    scroller.scrollTop = place;
    view.paint();
  }
  byId("browse").removeAttribute("aria-busy");
  await new Promise(requestAnimationFrame);
  performance.mark("interactive");
}

/** Samples chosen by hand, as flags of rows. */
function choices() {
  let rowOf;
  selection = new Selection(index.name);
  picks = {
    flags: new Uint8Array(index.rows),
    set: (rows, chosen) => selection.set([...rows].map(name), chosen),
  };
  const read = () => {
    picks.flags.fill(0);
    if (!selection.size) return;
    rowOf ??= new Map(Array.from({ length: index.rows }, (_, row) => [name(row), row]));
    for (const chosen of selection.all()) if (rowOf.has(chosen)) picks.flags[rowOf.get(chosen)] = 1;
  };
  read();
  selection.addEventListener("change", () => {
    read();
    if (state.selected) update(true);
    else view.refresh();
    told();
  });
}

function name(row) {
  return `${sampleId(index, row)} ${word(index, "engine", row)}`;
}

function build(chosen, fields) {
  const parent = byId("facets");
  for (const field of chosen) {
    const facet = new Facet(FACETS[field], index.values[field], index.notes[field], (chosen) => {
      state.facets.set(field, chosen);
      filter.facet(field, chosen);
      update();
    });
    facets.set(field, facet);
    parent.append(facet.element);
  }
  for (const field of fields) {
    const range = new Range(TITLES[field], filter.axes[field], (low, high) => {
      state.ranges.set(field, [low, high]);
      filter.range(field, low, high);
      update();
    });
    ranges.set(field, range);
    parent.append(range.element);
  }
  for (const [field, title] of Object.entries(SORTS)) if (index.columns[field]) byId("sort").append(new Option(title, field));
  const thumbnails = new Thumbnails(index, (row) => view.arrived(row));
  grid = new Grid(scroller, index, thumbnails, picks);
  table = new Table(scroller, index, thumbnails, picks);
}

/** State out of the address; sentences about what it asks for in vain. */
function fromAddress() {
  const wrong = [];
  for (const [key, value] of new URLSearchParams(location.search)) {
    if (key === "q") state.q = value;
    else if (key === "sort") {
      const field = value.replace(/^-/, "");
      if ((field in SORTS || SORTABLE.includes(field)) && index.columns[field]) [state.sort, state.descending] = [field, value.startsWith("-")];
      else wrong.push(`sort “${value}”`);
    } else if (key === "view") {
      if (value === "grid" || value === "table") state.view = value;
      else wrong.push(`view “${value}”`);
    } else if (key === "selected") {
      if (value === "1") state.selected = true;
      else wrong.push(`selected “${value}”`);
    } else if (facets.has(key) || ranges.has(key) || Object.hasOwn(FROM_ADDRESS, key)) {
      const { facet, range, wrong: strange } = condition(index, key, value);
      if (facet) state.facets.set(key, facet);
      if (range) state.ranges.set(key, range);
      wrong.push(...strange);
    } else wrong.push(`“${key}”`);
  }
  return wrong.length ? [inVain(wrong)] : [];
}

function toAddress() {
  const query = new URLSearchParams();
  if (state.q) query.set("q", state.q);
  for (const [field, chosen] of state.facets) if (chosen.size) query.set(field, [...chosen].join("|"));
  for (const [field, [low, high]] of state.ranges) if (low !== null || high !== null) query.set(field, `${low ?? ""}..${high ?? ""}`);
  if (state.selected) query.set("selected", "1");
  byId("collect").hidden = !query.size;
  byId("collect").href = `collection.html?${query}`;
  if (state.sort !== "index" || state.descending) query.set("sort", (state.descending ? "-" : "") + state.sort);
  if (state.view !== "grid") query.set("view", state.view);
  const text = query.toString();
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
}

// Browsers slow down pages that change their address often: at most a few times a second.
const address = { timer: 0, last: -Infinity };

function writeAddress() {
  clearTimeout(address.timer);
  const write = () => {
    address.last = performance.now();
    toAddress();
  };
  if (performance.now() - address.last > ADDRESS_MS) write();
  else address.timer = setTimeout(write, ADDRESS_MS);
}

/** Bring controls and filters to the state. */
function apply() {
  byId("text").value = state.q;
  filter.text(state.q);
  filter.selected(state.selected ? picks.flags : null);
  for (const [field, facet] of facets) {
    facet.set(state.facets.get(field) ?? []);
    filter.facet(field, facet.chosen);
  }
  for (const field of Object.keys(FROM_ADDRESS)) filter.facet(field, state.facets.get(field));
  for (const [field, range] of ranges) {
    const [low, high] = state.ranges.get(field) ?? [null, null];
    range.set(low, high);
    filter.range(field, low, high);
  }
  look();
  update();
}

/** Show the grid or the table. */
function look() {
  view = state.view === "table" ? table : grid;
  scroller.replaceChildren(view.element);
  for (const button of document.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", String(button.dataset.view === state.view));
}

function update(stay = false) {
  if (state.selected) filter.selected(picks.flags);
  const found = filter.count();
  for (const [field, facet] of facets) facet.draw(found.counts[field]);
  for (const [field, range] of ranges) range.draw(found.bins[field]);
  const top = scroller.scrollTop;
  view.show(filter.order(state.sort, state.descending));
  if (stay) {
    scroller.scrollTop = top;
    view.paint();
  }
  table.sorted(state.sort, state.descending);
  byId("sort").value = state.sort in SORTS ? state.sort : "";
  byId("direction").setAttribute("aria-pressed", String(state.descending));
  chips(found);
  told(found.total);
  writeAddress();
}

let shown = 0;

/** How many samples are shown, and how many are selected. */
function told(total = shown) {
  shown = total;
  const all = index.rows.toLocaleString("en");
  const plural = index.rows === 1 ? "sample" : "samples";
  byId("count").textContent = total === index.rows ? `${all} ${plural}` : `${total.toLocaleString("en")} of ${all} ${plural}`;
  byId("picked").hidden = !selection.size && !state.selected;
  byId("picked-count").textContent = `${selection.size.toLocaleString("en")} selected`;
  byId("only").checked = state.selected;
}

/** The conditions in force: [name for the filter, words for the visitor, how to lift it]. */
function conditions() {
  const list = [];
  if (state.q.trim()) list.push(["text", `“${state.q.trim()}”`, () => (state.q = "")]);
  if (state.selected) list.push(["selected", "selected only", () => (state.selected = false)]);
  for (const [field, chosen] of state.facets) if (chosen.size) list.push([field, `${TITLES[field]}: ${[...chosen].join(", ")}`, () => state.facets.delete(field)]);
  for (const [field, [low, high]] of state.ranges) {
    if (low === null && high === null) continue;
    const limits = low === null ? `up to ${figure(high)}` : high === null ? `from ${figure(low)}` : `${figure(low)} to ${figure(high)}`;
    list.push([field, `${TITLES[field]}: ${limits}`, () => state.ranges.delete(field)]);
  }
  return list;
}

/** Buttons that lift conditions; where nothing fits, each says what it would bring back. */
function chips(found) {
  const active = conditions();
  const button = (text, label, lift) => {
    const node = element("button", { type: "button", class: "chip", "aria-label": label }, text);
    node.addEventListener("click", () => {
      lift();
      apply();
      byId("count").focus();
    });
    return node;
  };
  byId("chips").replaceChildren(...active.map(([, words, lift]) => button(`${words} ×`, `Remove filter ${words}`, lift)));
  byId("clear").hidden = !active.length;
  const empty = byId("empty");
  empty.hidden = found.total > 0;
  scroller.hidden = found.total === 0;
  if (found.total) return;
  const ways = active.filter(([condition]) => found.without[condition] > 0);
  const back = ways.map(([condition, words, lift]) => button(`Without ${words}: ${found.without[condition].toLocaleString("en")}`, `Remove filter ${words}`, lift));
  const why = !active.length
    ? "This library has no samples."
    : state.selected && !selection.size
      ? "No samples are selected. Select some by the boxes on their pictures, or with the space bar."
      : ways.length
        ? "No sample meets all of these filters together. Leaving one out brings samples back:"
        : "No sample meets these filters, nor all but one of them. Clear them to start anew.";
  empty.replaceChildren(element("p", {}, why), element("div", { class: "ways" }, ...back));
}

function clear() {
  Object.assign(state, { q: "", selected: false });
  state.facets.clear();
  state.ranges.clear();
  notice([]);
  apply();
}

function sort(field, descending) {
  [state.sort, state.descending] = [field, descending];
  update();
}

function listen() {
  byId("text").addEventListener("input", (event) => {
    state.q = event.target.value;
    filter.text(state.q);
    update();
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("sort").addEventListener("change", (event) => sort(event.target.value, state.descending));
  byId("direction").addEventListener("click", () => sort(state.sort, !state.descending));
  byId("clear").addEventListener("click", clear);
  byId("only").addEventListener("change", (event) => {
    state.selected = event.target.checked;
    filter.selected(state.selected ? picks.flags : null);
    update();
  });
  byId("deselect").addEventListener("click", () => {
    state.selected = false;
    filter.selected(null);
    selection.clear();
    update();
  });
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => {
      state.view = button.dataset.view;
      look();
      update();
    });
  }
  scroller.addEventListener("click", (event) => {
    const field = event.target.dataset?.sort;
    if (field) sort(field, field === state.sort ? !state.descending : false);
    else view.click(event);
  });
  scroller.addEventListener("keydown", (event) => view.key(event));
  let asked = false;
  scroller.addEventListener("scroll", () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      view.paint();
    });
  });
  addEventListener("pagehide", () => history.replaceState({ top: scroller.scrollTop }, ""));
  new ResizeObserver(() => view.refresh()).observe(scroller);
  if (matchMedia("(max-width: 52rem)").matches) byId("more").open = false;
}

/** Say something at the top of the page; nothing hides it. */
function notice(sentences) {
  const node = byId("notice");
  node.textContent = sentences.join(" ");
  node.hidden = !sentences.length;
}
