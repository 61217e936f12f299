// The sample page: image and labels out of the shard by byte range, columns on top, downloads and a Python snippet.
import { base, catalogue, columns, draw, labelNames, read, sidecar, tell } from "./library.js";

const byId = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
let row, points, current, size;
const maps = new Map();

start().catch((error) => tell(error.message));

async function start() {
  const rows = await catalogue();
  const id = query.get("id");
  const engine = query.get("engine") ?? "linear";
  const at = rows.findIndex((candidate) => candidate.id === id && candidate.engine === engine);
  if (at < 0) {
    tell(id ? `The library has no sample “${id}” of engine “${engine}”. Choose one on the browse page.` : "No sample was asked for. Choose one on the browse page.");
    return;
  }
  row = rows[at];
  size = row.image_size;
  document.title = `${row.id}: TEMImageNet`;
  const twin = row.engine === "linear" ? "" : ` (of the linear image), ${row.engine}`;
  byId("title").textContent = `${row.entry}, ${row.field_of_view_A} Å, ${row.psnr_dB.toFixed(1)} dB${twin}`;
  byId("sample").hidden = false;
  link("previous", rows[at - 1]);
  link("next", rows[at + 1]);
  const other = rows.find((candidate) => candidate.id === id && candidate.engine !== engine);
  if (other) {
    link("twin", other);
    byId("twin").textContent = `${other.engine} twin of this image`;
    byId("twin").hidden = false;
  }
  facts();
  snippet();
  points = await columns(row.shard, row.row, whole);
  choices((await sidecar(row.shard)).datasets);
  await show("image");
  byId("label").addEventListener("change", (event) => show(event.target.value).catch((error) => tell(error.message)));
  byId("columns").addEventListener("change", overlay);
  byId("overlay").addEventListener("pointermove", hover);
  byId("overlay").addEventListener("pointerleave", rest);
  downloads();
}

function whole() {
  tell("This server does not answer byte ranges, so whole shards are fetched: slow, but what you see is right.");
}

function link(id, other) {
  const anchor = byId(id);
  if (other) anchor.href = `sample.html?id=${encodeURIComponent(other.id)}&engine=${other.engine}`;
  else anchor.removeAttribute("href");
}

function choices(stored) {
  const select = byId("label");
  for (const [name, title] of Object.entries(labelNames)) {
    select.append(new Option(title, name));
  }
  for (const name of Object.keys(stored)) {
    if (name.includes("2x")) select.append(new Option(name, name));
  }
}

async function show(name) {
  if (!maps.has(name)) {
    const stored = (await sidecar(row.shard)).datasets;
    if (name in stored) maps.set(name, await read(row.shard, name, row.row, whole));
    else maps.set(name, { data: draw(name, points, size, row.radius_A / row.pixel_size_A, row.pixel_size_A), shape: [size, size] });
  }
  current = { name, ...maps.get(name) };
  paint();
  overlay();
  rest();
}

function paint() {
  const { data, shape } = current;
  const canvas = byId("image");
  [canvas.height, canvas.width] = shape;
  let low = Infinity;
  let high = -Infinity;
  for (const value of data) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (current.name.endsWith("Mask")) low = 0;
  const pixels = new ImageData(shape[1], shape[0]);
  const scale = 255 / (high - low || 1);
  for (let i = 0; i < data.length; i++) {
    const grey = (data[i] - low) * scale;
    pixels.data.set([grey, grey, grey, 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  canvas.setAttribute("aria-label", `${current.name} of ${row.id}: ${row.entry}, ${row.columns} atomic columns`);
}

function overlay() {
  const canvas = byId("overlay");
  const width = (canvas.width = canvas.height = 1024);
  const zoom = width / size;
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, width, width);
  if (byId("columns").checked) {
    pen.strokeStyle = "#ff5a36";
    pen.lineWidth = 2;
    for (const point of points) {
      if (!point.inside) continue;
      pen.beginPath();
      pen.arc((point.x_px + 0.5) * zoom, (point.y_px + 0.5) * zoom, 6, 0, 2 * Math.PI);
      pen.stroke();
    }
  }
  const nice = [0.5, 1, 2, 5, 10, 20, 50, 100].filter((length) => length < 0.4 * row.field_of_view_A).pop() ?? 0.5;
  const length = (nice / row.field_of_view_A) * width;
  pen.fillStyle = "rgb(0 0 0 / 55%)";
  pen.fillRect(28, width - 92, Math.max(length, 110) + 24, 70);
  pen.fillStyle = "white";
  pen.fillRect(40, width - 42, length, 8);
  pen.font = "600 32px system-ui, sans-serif";
  pen.fillText(`${nice} Å`, 40, width - 54);
}

function rest() {
  const inside = points.filter((point) => point.inside).length;
  byId("readout").textContent = `${inside} columns in the image. Point at the image to read values.`;
}

function hover(event) {
  const bounds = event.target.getBoundingClientRect();
  const x = ((event.clientX - bounds.left) / bounds.width) * size - 0.5;
  const y = ((event.clientY - bounds.top) / bounds.height) * size - 0.5;
  const { data, shape } = current;
  const factor = shape[0] / size;
  const column = Math.min(Math.max(Math.round(x * factor), 0), shape[1] - 1);
  const line = Math.min(Math.max(Math.round(y * factor), 0), shape[0] - 1);
  let text = `x ${x.toFixed(1)}, y ${y.toFixed(1)} px; value ${data[line * shape[1] + column].toPrecision(4)}`;
  let best = null;
  for (const point of points) {
    const apart = Math.hypot(point.x_px - x, point.y_px - y);
    if (!best || apart < best.apart) best = { point, apart };
  }
  if (best && best.apart * row.pixel_size_A < row.radius_A) {
    const { kind, x_A, y_A, weight_A2, atoms, crlb_x_A, crlb_y_A } = best.point;
    text += `. Column ${kind} at (${x_A.toFixed(3)}, ${y_A.toFixed(3)}) Å, ${atoms.toFixed(1)} atoms, weight ${weight_A2.toPrecision(3)} Å²`;
    if (Number.isFinite(crlb_x_A)) text += `, bound ${(100 * crlb_x_A).toPrecision(3)} and ${(100 * crlb_y_A).toPrecision(3)} pm`;
  }
  byId("readout").textContent = text;
}

function facts() {
  const hidden = new Set(["text", "row"]);
  const table = byId("facts");
  for (const [key, value] of Object.entries(row)) {
    if (hidden.has(key) || value === null || value === undefined) continue;
    const line = table.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = key;
    const cell = document.createElement("td");
    cell.textContent = typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value;
    line.append(head, cell);
  }
}

function snippet() {
  byId("snippet").textContent = [
    "from temimagenet import LABELS, TEMImageNet, plot",
    "",
    `data = TEMImageNet("library", split=None, engine="${row.engine}",`,
    `                   labels=LABELS, where="id == '${row.id}'")`,
    "plot(data[0]).savefig(\"sample.png\")",
  ].join("\n");
}

function downloads() {
  const parent = byId("downloads");
  const button = (label, make) => {
    const node = document.createElement("button");
    node.type = "button";
    node.textContent = label;
    node.addEventListener("click", async () => save(...(await make())));
    parent.append(node);
  };
  button("PNG", async () => [`${row.id}-${current.name}.png`, await new Promise((done) => byId("image").toBlob(done))]);
  button("Columns (CSV)", async () => {
    const fields = Object.keys(points[0] ?? {});
    const lines = [fields.join(","), ...points.map((point) => fields.map((field) => point[field]).join(","))];
    return [`${row.id}-columns.csv`, new Blob([lines.join("\n") + "\n"], { type: "text/csv" })];
  });
  button("Metadata (JSON)", async () => [`${row.id}.json`, new Blob([JSON.stringify(row, null, 1)], { type: "application/json" })]);
  const shard = document.createElement("a");
  shard.href = new URL(row.shard, base).href;
  shard.textContent = `Shard (${row.shard.split("/").pop()}, row ${row.row})`;
  parent.append(shard);
}

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
