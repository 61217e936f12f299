// The collection page: samples chosen by hand, by an address or by a search of the browse page, and their manifest.
import { condition, inVain } from "./address.js";
import { loadIndex, sampleId, samplePage, summary, word } from "./browse-index.js";
import { catalogue } from "./catalogue.js";
import { element, figure } from "./dom.js";
import { Filter } from "./filter.js";
import { copy, save, tell } from "./library.js";
import { labelsCode } from "./record.js";
import { Selection } from "./selection.js";
import { Thumbnails } from "./thumbnails.js";

const FORMAT = "temimagenet-collection";
const SCHEMA = 1;
const PAGE = 120;
/** Parts of the browse page's address that choose nothing. */
const LOOKS = new Set(["sort", "view"]);

const byId = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
let index, thumbnails, selection, contents, rows;
let shown = 0;

start().catch((error) => tell(error.message));

async function start() {
  [index, contents] = await Promise.all([loadIndex(), shardContents()]);
  selection = new Selection(index.name);
  thumbnails = new Thumbnails(index, draw);
  const read = () => {
    const [found, text] = chosen();
    rows = found;
    byId("source").replaceChildren(...text);
    refresh();
  };
  read();
  selection.addEventListener("change", () => byHand() && read());
  listen();
  performance.mark("panes");
}

/** Digests of shards and sizes of their samples. */
async function shardContents() {
  const reply = await fetch("samples/index.json");
  if (!reply.ok) throw new Error(`The list of shards is missing (the server answers ${reply.status}). Build the site anew.`);
  return reply.json();
}

/** Whether the visitor's own selection is shown, or a search over it. */
function byHand() {
  return ![...query.keys()].some((key) => !LOOKS.has(key)) || query.get("selected") === "1";
}

/** Rows that the address asks for, and words that say how. */
function chosen() {
  const asked = [...query].filter(([key]) => !LOOKS.has(key));
  if (!asked.length) {
    const found = named(selection.all());
    const hint = found.length ? "Chosen by hand, kept in this browser. " : "Nothing is chosen yet. Choose samples by the boxes on their pictures, or take all that a search finds: ";
    return [found, [hint, element("a", { href: "browse.html" }, "browse the library")]];
  }
  if (query.has("samples")) {
    const found = named(listed(query.get("samples")));
    return [found, [found.length ? "The samples that this address lists." : "This address lists no sample of the library."]];
  }
  const [found, applied] = searched(asked);
  if (!applied.length) return [found, ["The whole library. ", element("a", { href: "browse.html" }, "Browse it")]];
  const words = applied.map(([key, value]) => (key === "q" ? `“${value}”` : `${key} ${spoken(value)}`));
  const [before, after] = found.length ? ["What the search for ", " finds. "] : ["The search for ", " finds no sample. "];
  return [found, [before, element("b", {}, words.join(", ")), after, element("a", { href: `browse.html${location.search}` }, "Change the search")]];
}

/** "a|b" and "1..2" of an address in words. */
function spoken(value) {
  const range = value.match(/^(.*)\.\.(.*)$/);
  if (!range) return value.replaceAll("|", " or ");
  return range[1] && range[2] ? `${range[1]} to ${range[2]}` : range[1] ? `from ${range[1]}` : `up to ${range[2]}`;
}

/** Rows of "id engine" names; what the library does not have is told. */
function named(names) {
  const place = new Map(Array.from({ length: index.rows }, (_, row) => [name(row), row]));
  const lost = names.filter((text) => !place.has(text));
  if (lost.length) tell(`The library “${index.name}” does not have ${lost.slice(0, 3).join(", ")}${lost.length > 3 ? ` and ${lost.length - 3} more` : ""}; the rest is shown.`);
  return names.filter((text) => place.has(text)).map((text) => place.get(text));
}

const name = (row) => `${sampleId(index, row)} ${word(index, "engine", row)}`;

/** Names out of "linear:0-3,7;multislice:2". */
function listed(text) {
  const names = [];
  for (const part of text.split(";")) {
    const [engine, numbers] = part.split(":");
    if (!numbers) tell(`“${part}” lists no samples (they are written linear:0-3,7); the rest of this address applies.`);
    for (const span of numbers ? numbers.split(",") : []) {
      const [first, last = first] = /^\d+(-\d+)?$/.test(span) ? span.split("-").map(Number) : [NaN];
      if (!(first <= last && last - first <= index.rows)) {
        tell(`“${span}” is no number of a sample; the rest of this address applies.`);
        continue;
      }
      for (let number = first; number <= last; number++) names.push(`${index.prefix}${String(number).padStart(index.digits, "0")} ${engine}`);
    }
  }
  return [...new Set(names)];
}

/** The address that lists these rows: numbers in runs, engine by engine. */
function addressOf(list) {
  const engines = new Map();
  for (const row of list) {
    const number = index.columns.index[row];
    const engine = word(index, "engine", row);
    if (!engines.has(engine)) engines.set(engine, []);
    const runs = engines.get(engine);
    if (runs.at(-1)?.[1] === number - 1) runs.at(-1)[1] = number;
    else runs.push([number, number]);
  }
  const written = (runs) => runs.map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(",");
  const parts = [...engines].map(([engine, runs]) => `${engine}:${written(runs)}`);
  return new URL(`collection.html?samples=${parts.join(";")}`, document.baseURI).href;
}

/** Rows that a search of the browse page finds, and those of its conditions that apply. */
function searched(asked) {
  const facets = asked.map(([key]) => key).filter((key) => index.values[key]);
  const ranges = asked.map(([key]) => key).filter((key) => index.columns[key] && !index.values[key]);
  const filter = new Filter(index, facets, Object.fromEntries(ranges.map((key) => [key, false])));
  const strange = [];
  const applied = [];
  for (const [key, value] of asked) {
    if (key === "q") filter.text(value);
    else if (key === "selected") filter.selected(Uint8Array.from({ length: index.rows }, (_, row) => Number(selection.has(name(row)))));
    else {
      const { facet, range, wrong } = condition(index, key, value);
      if (facet) filter.facet(key, facet);
      if (range) filter.range(key, ...range);
      strange.push(...wrong);
      if (!facet && !range) continue;
      applied.push([key, facet ? [...facet].join("|") : value]);
      continue;
    }
    applied.push([key, value]);
  }
  if (strange.length) tell(inVain(strange));
  return [[...filter.order("index", false)], applied];
}

function place(row) {
  const shard = word(index, "shard", row);
  return { shard, row: index.columns.row[row], facts: contents.shards[shard] };
}

function refresh() {
  byId("full").hidden = !rows.length;
  byId("clear").hidden = !byHand();
  byId("keep").hidden = byHand();
  const places = rows.map(place);
  const bytes = places.reduce((sum, { facts, row }) => sum + facts.sizes[row], 0);
  const shards = new Set(places.map(({ shard }) => shard));
  const whole = [...shards].reduce((sum, shard) => sum + contents.shards[shard].bytes, 0);
  const materials = new Set(rows.map((row) => word(index, "material", row)));
  byId("numbers").replaceChildren(
    ...[
      [figure(rows.length), rows.length === 1 ? "sample" : "samples"],
      [megabytes(bytes), "their own bytes"],
      [`${megabytes(whole)}`, `in ${shards.size} ${shards.size === 1 ? "shard" : "shards"} that hold them`],
      [figure(materials.size), materials.size === 1 ? "material" : "materials"],
    ].map(([number, what]) => element("li", {}, element("b", {}, number), element("span", {}, what))),
  );
  const labels = labelsCode(contents.labels);
  byId("snippet").textContent = `from temimagenet import ${labels === "LABELS" ? "LABELS, " : ""}TEMImageNet\n\ndata = TEMImageNet.from_manifest("${fileName()}", root="library",\n                                 labels=${labels})`;
  byId("tiles").replaceChildren();
  shown = 0;
  more();
}

const megabytes = (bytes) => `${(bytes / 1e6).toLocaleString("en", { maximumFractionDigits: bytes < 1e7 ? 2 : 0 })} MB`;
const fileName = () => `${index.name}-collection.json`;

function more() {
  const next = rows.slice(shown, shown + PAGE);
  shown += next.length;
  byId("tiles").append(...next.map(tile));
  byId("more").hidden = shown >= rows.length;
  byId("more").textContent = `Show more (${figure(rows.length - shown)} left)`;
  // Those in sight before keep their place in the queue.
  thumbnails.want(rows.slice(0, shown));
  for (const row of next) draw(row);
}

function tile(row) {
  const canvas = element("canvas", { width: 96, height: 96, "aria-hidden": "true" });
  const engine = word(index, "engine", row);
  const link = element("a", { href: samplePage(index, row) }, canvas, element("b", {}, word(index, "entry", row)), element("span", {}, summary(index, row)), element("span", {}, sampleId(index, row)), engine === "linear" ? "" : element("i", {}, engine));
  const item = element("li", { "data-row": row }, link);
  if (byHand()) {
    const drop = element("button", { type: "button", "aria-label": `Remove ${name(row)}` }, "×");
    drop.addEventListener("click", () => selection.set([name(row)], false));
    item.append(drop);
  }
  return item;
}

function draw(row) {
  const picture = thumbnails.get(row);
  const canvas = document.querySelector(`[data-row="${row}"] canvas`);
  if (picture && canvas) canvas.getContext("2d").drawImage(picture, 0, 0, 96, 96);
}

/** What `TEMImageNet.from_manifest` reads. */
async function manifest() {
  const digests = new Map((await catalogue(["id", "engine", "sha256"])).map((row) => [`${row.id} ${row.engine}`, row.sha256]));
  const samples = rows.map((row) => {
    const { shard, row: at } = place(row);
    const sha256 = digests.get(name(row));
    if (!sha256) throw new Error(`The catalogue has no sample ${name(row)}: the site and the library do not belong together. Build the site anew.`);
    return { id: sampleId(index, row), engine: word(index, "engine", row), shard, row: at, sha256 };
  });
  const shards = [...new Set(samples.map((sample) => sample.shard))].sort();
  return {
    format: FORMAT,
    schema: SCHEMA,
    library: contents.library.name,
    version: contents.library.version,
    shards: Object.fromEntries(shards.map((shard) => [shard, { sha256: contents.shards[shard].sha256, bytes: contents.shards[shard].bytes }])),
    samples,
  };
}

function listen() {
  byId("more").addEventListener("click", more);
  byId("manifest").addEventListener("click", async () => {
    byId("manifest").disabled = true;
    byId("note").textContent = "Reading checksums from the catalogue …";
    try {
      save(fileName(), JSON.stringify(await manifest(), null, 1), "application/json");
      byId("note").textContent = `Saved ${fileName()}.`;
    } catch (error) {
      byId("note").textContent = "";
      tell(error.message);
    }
    byId("manifest").disabled = false;
  });
  byId("link").addEventListener("click", () => copy(byHand() ? addressOf(rows) : location.href, byId("link")));
  byId("copy").addEventListener("click", () => copy(byId("snippet").textContent, byId("copy")));
  byId("clear").addEventListener("click", () => selection.clear());
  byId("keep").addEventListener("click", () => {
    selection.clear();
    selection.set(rows.map(name), true);
    byId("note").textContent = `${figure(rows.length)} samples are now your selection, on the browse page too.`;
  });
}
