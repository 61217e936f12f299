// The page that runs the network on a visitor's image: what was given, what was found, looking at it, taking it home.
import { readImage } from "./try-image.js";

const byId = (id) => document.getElementById(id);
const TITLES = {
  image: "the image",
  noNoise: "without noise",
  noBackgroundnoNoise: "without noise and background",
  gaussianMask: "Gaussian on each column",
  circularMask: "disc on each column",
  noNoiseNoBackgroundSuperresolution: "superresolution",
};
const FACTOR = 1.25;

let image = null; // {name, data, rows, columns}
let found = null; // what the worker answers
let asked = null; // the pixel size that the network was given
let used = null; // the same, of what was found
let worker = null;
let given = 0; // counts what was given, so that a slow file does not come after a later one
const eye = { scale: 1, x: 0, y: 0 }; // screen pixels a pixel, and the image's corner on the canvas
const pictures = new Map(); // a map's name -> its picture

// Giving an image

byId("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) take(target.files[0]);
  target.value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
byId("example").addEventListener("click", () =>
  attempt(async () => {
    const facts = await (await fetch("model/network.json")).json();
    const reply = await fetch(`model/${facts.example.file}`);
    if (await take(new File([await reply.blob()], facts.example.name))) {
      byId("pixel").value = facts.example.pixel_size_A;
      byId("source").textContent = "The example’s own.";
    }
  }),
);

async function attempt(work) {
  try {
    await work();
    return true;
  } catch (error) {
    tell(error.message);
    return false;
  }
}

function tell(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

/** Read a file and show it; what was there before stays if it cannot be read. */
function take(file) {
  const turn = ++given;
  tell("");
  return attempt(async () => {
    const read = await readImage(file);
    if (turn !== given) return;
    stop();
    image = { ...read, name: file.name.replace(/\.[^.]*$/, "") };
    forget();
    byId("drop").querySelector("b").textContent = `${file.name}, ${image.columns} x ${image.rows} pixels`;
    byId("drop").querySelector("span").textContent = "Choose or drop another";
    byId("pixel").value = image.pixelSizeA ?? "";
    byId("source").textContent = image.pixelSizeA ? "Read from the file." : "The file does not tell it: enter it. 1 nm is 10 Å, 10 pm are 0.1 Å.";
    byId("notes").textContent = image.notes.join(" ");
    byId("notes").hidden = !image.notes.length;
    byId("run").disabled = false;
    byId("result").hidden = false;
    whole();
  });
}

/** Drop what was found of an image before. */
function forget() {
  found = used = null;
  pictures.clear();
  byId("show").replaceChildren(new Option(TITLES.image, "image"));
  for (const id of ["marks", "chance"]) byId(id).disabled = true;
  byId("count").textContent = byId("readout").textContent = "";
  byId("downloads").hidden = true;
}

// Running the network

// Where the site has the runtime for it, and the browser gives pages a graphics card.
if (byId("card")) navigator.gpu?.requestAdapter().then((adapter) => (byId("card").hidden = !adapter), () => {});

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  tell("");
  const pixelSizeA = byId("pixel").valueAsNumber;
  if (!(pixelSizeA > 0)) {
    tell("Enter the pixel size, a positive length in ångström: the network must know how large atoms are.");
    byId("pixel").focus();
    return;
  }
  byId("readout").textContent = "";
  worker ??= start();
  wait("Loading the network, some 16 MB the first time");
  asked = pixelSizeA;
  const { data, rows, columns } = image;
  worker.postMessage({ image: { data, rows, columns }, pixelSizeA, webgpu: Boolean(byId("webgpu")?.checked) });
});
byId("stop").addEventListener("click", stop);

function start() {
  const fresh = new Worker(new URL("try-worker.js", import.meta.url), { type: "module" });
  fresh.onmessage = ({ data }) => {
    if (data.loaded) wait("Looking at the image");
    else if (data.all && data.done === data.all) wait("Reading the columns");
    else if (data.all) wait(`Looking at the image: ${data.done} of ${data.all} tiles`, data.done / data.all);
    else {
      wait("");
      if (data.error) tell(data.error);
      else show(data.found);
    }
  };
  fresh.onerror = (event) => {
    stop();
    tell(`The network cannot run here: ${event.message || "this browser has no module workers or no WebAssembly"}.`);
  };
  return fresh;
}

function stop() {
  worker?.terminate();
  worker = null;
  wait("");
}

function wait(doing, part) {
  byId("wait").hidden = !doing;
  byId("doing").textContent = doing;
  byId("run").disabled = Boolean(doing) || !image;
  byId("stop").hidden = !doing;
  if (part === undefined) byId("progress").removeAttribute("value");
  else byId("progress").value = part;
}

function show(answer) {
  const chosen = byId("show").value;
  forget();
  found = answer;
  used = asked;
  for (const name of Object.keys(found.maps)) byId("show").append(new Option(TITLES[name] ?? name, name));
  byId("show").value = [...byId("show").options].some(({ value }) => value === chosen) ? chosen : "image";
  for (const id of ["marks", "chance"]) byId(id).disabled = false;
  byId("downloads").hidden = false;
  byId("readout").textContent = `Done in ${found.seconds.toFixed(1)} s. Point at the image to read values.`;
  draw();
}

// Looking

const canvas = byId("view");

const chosenMap = () => (byId("show").value === "image" ? image.data : found.maps[byId("show").value]);
const chosenColumns = () => found?.columns.filter(({ chance }) => chance >= byId("chance").valueAsNumber) ?? [];

/** A map in grey, its least and greatest values black and white, the utmost 0.1 % cut off. */
function picture(name) {
  if (!pictures.has(name)) {
    const values = chosenMap();
    const step = Math.ceil(values.length / 1e5);
    const few = values.filter((_, i) => i % step === 0).sort();
    const [low, high] = name.endsWith("Mask") ? [0, 1] : [few[Math.floor(0.001 * (few.length - 1))], few[Math.ceil(0.999 * (few.length - 1))]];
    const pixels = new ImageData(image.columns, image.rows);
    const words = new Uint32Array(pixels.data.buffer);
    const factor = 255 / (high - low || 1);
    for (let i = 0; i < words.length; i++) {
      words[i] = 0xff000000 | (0x010101 * Math.floor(Math.min(Math.max((values[i] - low) * factor, 0), 255)));
    }
    const own = new OffscreenCanvas(image.columns, image.rows);
    own.getContext("2d").putImageData(pixels, 0, 0);
    pictures.set(name, own);
  }
  return pictures.get(name);
}

function draw() {
  if (!image) return;
  const name = byId("show").value;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#101214";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingEnabled = eye.scale < 1;
  pen.drawImage(picture(name), eye.x, eye.y, image.columns * eye.scale, image.rows * eye.scale);
  const columns = chosenColumns();
  if (byId("marks").checked) mark(pen, columns);
  scaleBar(pen);
  if (found) byId("count").textContent = `${columns.length.toLocaleString("en")} columns`;
  canvas.setAttribute("aria-label", `${image.name}: ${TITLES[name] ?? name}${found ? `, ${columns.length} columns found` : ""}`);
}

function mark(pen, columns) {
  const ratio = devicePixelRatio;
  const radius = Math.min(Math.max((0.35 / used) * eye.scale, 2.5 * ratio), 12 * ratio);
  pen.lineWidth = 1.6 * ratio;
  pen.strokeStyle = "#ff5a36";
  pen.beginPath();
  for (const { x_px, y_px } of columns) {
    const [x, y] = [eye.x + (x_px + 0.5) * eye.scale, eye.y + (y_px + 0.5) * eye.scale];
    if (x < -radius || y < -radius || x > canvas.width + radius || y > canvas.height + radius) continue;
    pen.moveTo(x + radius, y);
    pen.arc(x, y, radius, 0, 2 * Math.PI);
  }
  pen.stroke();
}

function scaleBar(pen) {
  const pixelSizeA = found ? used : byId("pixel").valueAsNumber;
  if (!(pixelSizeA > 0)) return;
  const ratio = devicePixelRatio;
  const most = (0.3 * canvas.width * pixelSizeA) / eye.scale;
  const nice = [1, 2, 5].flatMap((digit) => [-1, 0, 1, 2, 3].map((power) => digit * 10 ** power)).filter((length) => length < most);
  if (!nice.length) return;
  const length = Math.max(...nice);
  const wide = (length / pixelSizeA) * eye.scale;
  const [left, low] = [16 * ratio, canvas.height - 16 * ratio];
  pen.fillStyle = "rgb(0 0 0 / 60%)";
  pen.fillRect(left - 8 * ratio, low - 34 * ratio, Math.max(wide, 44 * ratio) + 16 * ratio, 42 * ratio);
  pen.fillStyle = "white";
  pen.fillRect(left, low - 5 * ratio, wide, 5 * ratio);
  pen.font = `600 ${14 * ratio}px system-ui, sans-serif`;
  pen.fillText(length >= 10 ? `${length / 10} nm` : `${length} Å`, left, low - 12 * ratio);
}

/** Show the whole image in the middle. */
function whole() {
  fit();
  eye.scale = Math.min(canvas.width / image.columns, canvas.height / image.rows);
  eye.x = (canvas.width - image.columns * eye.scale) / 2;
  eye.y = (canvas.height - image.rows * eye.scale) / 2;
  draw();
}

/** The canvas as many pixels as it has on the screen. */
function fit() {
  canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
  canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
}

function zoom(factor, x = canvas.width / 2, y = canvas.height / 2) {
  const scale = Math.min(Math.max(eye.scale * factor, 0.02), 64);
  eye.x = x - ((x - eye.x) * scale) / eye.scale;
  eye.y = y - ((y - eye.y) * scale) / eye.scale;
  eye.scale = scale;
  draw();
}

function move(dx, dy) {
  eye.x += dx;
  eye.y += dy;
  draw();
}

const spot = (event) => [event.offsetX * devicePixelRatio, event.offsetY * devicePixelRatio];
const fingers = new Map();

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  if (image) zoom(Math.exp(-event.deltaY / 400), ...spot(event));
}, { passive: false });
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, spot(event));
});
for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => fingers.delete(event.pointerId));
canvas.addEventListener("pointermove", (event) => {
  if (!image) return;
  const [x, y] = spot(event);
  const before = fingers.get(event.pointerId);
  if (!before) return read(x, y);
  fingers.set(event.pointerId, [x, y]);
  const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
  if (!other) return move(x - before[0], y - before[1]);
  const apart = (at) => Math.hypot(at[0] - other[0], at[1] - other[1]) || 1;
  zoom(apart([x, y]) / apart(before), (x + other[0]) / 2, (y + other[1]) / 2);
});
canvas.addEventListener("keydown", (event) => {
  const step = 60 * devicePixelRatio;
  const act = {
    "+": () => zoom(FACTOR), "=": () => zoom(FACTOR), "-": () => zoom(1 / FACTOR), 0: whole,
    ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0), ArrowUp: () => move(0, step), ArrowDown: () => move(0, -step),
  }[event.key];
  if (!act || !image || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  act();
});
byId("closer").addEventListener("click", () => zoom(FACTOR));
byId("farther").addEventListener("click", () => zoom(1 / FACTOR));
byId("whole").addEventListener("click", whole);
for (const id of ["show", "marks"]) byId(id).addEventListener("change", draw);
byId("pixel").addEventListener("input", draw);
byId("chance").addEventListener("input", () => {
  byId("least").textContent = byId("chance").valueAsNumber.toFixed(2);
  draw();
});
new ResizeObserver(() => {
  if (image) whole();
}).observe(canvas);

/** Tell what lies under the pointer. */
function read(x, y) {
  const [across, down] = [(x - eye.x) / eye.scale - 0.5, (y - eye.y) / eye.scale - 0.5];
  const [column, row] = [Math.round(across), Math.round(down)];
  if (column < 0 || row < 0 || column >= image.columns || row >= image.rows) return;
  let text = `x ${across.toFixed(1)}, y ${down.toFixed(1)} px; value ${chosenMap()[row * image.columns + column].toPrecision(4)}`;
  let best = { apart: 0.5 / used };
  for (const item of chosenColumns()) {
    const apart = Math.hypot(item.x_px - across, item.y_px - down);
    if (apart < best.apart) best = { apart, item };
  }
  if (best.item) {
    const { x_px, y_px, sigma_x_px, sigma_y_px, intensity, chance } = best.item;
    text += `. Column at (${x_px.toFixed(2)}, ${y_px.toFixed(2)}) px, ± ${(100 * used * sigma_x_px).toFixed(1)} and ${(100 * used * sigma_y_px).toFixed(1)} pm, intensity ${intensity.toPrecision(3)}, chance ${chance.toFixed(2)}`;
  }
  byId("readout").textContent = text;
}

// Taking it home

const FIELDS = {
  x_px: (c) => c.x_px, y_px: (c) => c.y_px, x_pm: (c) => 100 * used * c.x_px, y_pm: (c) => 100 * used * c.y_px,
  sigma_x_pm: (c) => 100 * used * c.sigma_x_px, sigma_y_pm: (c) => 100 * used * c.sigma_y_px,
  intensity: (c) => c.intensity, intensity_sigma: (c) => c.intensity_sigma, chance: (c) => c.chance,
};

byId("csv").addEventListener("click", () => {
  const lines = chosenColumns().map((column) => Object.values(FIELDS).map((field) => field(column)).join(","));
  save(`${image.name}-columns.csv`, new Blob([[Object.keys(FIELDS).join(","), ...lines, ""].join("\n")], { type: "text/csv" }));
});
byId("png").addEventListener("click", async () => {
  const name = byId("show").value;
  save(`${image.name}-${name}.png`, await picture(name).convertToBlob({ type: "image/png" }));
});
byId("npy").addEventListener("click", () => {
  const head = `{'descr': '<f4', 'fortran_order': False, 'shape': (${image.rows}, ${image.columns}), }`;
  const text = head.padEnd(128 - 11) + "\n";
  const magic = new Uint8Array([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, text.length, 0]);
  save(`${image.name}-${byId("show").value}.npy`, new Blob([magic, text, Float32Array.from(chosenMap())]));
});

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
