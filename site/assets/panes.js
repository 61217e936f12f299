// Panes that look at one field together: zoom, pan and pointer are shared, maps, colours and contrast are each pane's own.
import { COLOURS, paint } from "./colours.js";
import { element, figure } from "./dom.js";

const MOST = 64;
const LENGTHS_A = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500];
const KIND_COLOURS = ["#ff6a3d", "#3fc8ff", "#ffd84a", "#86e57f", "#e68bff", "#ffffff"];

/** Colour of a kind of column. */
export const kindColour = (kinds, kind) => KIND_COLOURS[kinds.indexOf(kind) % KIND_COLOURS.length];

/** What part of the field is in sight, and where the pointer is; fractions of the field. Dispatches "change". */
export class View extends EventTarget {
  scale = 1;
  x = 0;
  y = 0;
  pointer = null;

  /** Zoom about a point of the pane, given as fractions of it. */
  zoom(factor, u = 0.5, v = 0.5) {
    const scale = Math.min(Math.max(this.scale * factor, 1), MOST);
    this.x += u / this.scale - u / scale;
    this.y += v / this.scale - v / scale;
    this.scale = scale;
    this.pan(0, 0);
  }

  /** Move by fractions of the pane. */
  pan(u, v) {
    [this.x, this.y] = [this.x + u / this.scale, this.y + v / this.scale].map((at) => Math.min(Math.max(at, 0), 1 - 1 / this.scale));
    this.#changed();
  }

  reset() {
    [this.scale, this.x, this.y] = [1, 0, 0];
    this.#changed();
  }

  point(pointer) {
    this.pointer = pointer;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** Least and greatest of numbers, or what lies between a share cut off at either end. */
export function limits(arrays, cut = 0) {
  if (!cut) {
    let [low, high] = [Infinity, -Infinity];
    for (const data of arrays) {
      for (let i = 0; i < data.length; i++) {
        if (data[i] < low) low = data[i];
        if (data[i] > high) high = data[i];
      }
    }
    return [low, high];
  }
  const all = Float64Array.from(arrays.flatMap((data) => [...data])).sort();
  return [all[Math.floor(cut * (all.length - 1))], all[Math.ceil((1 - cut) * (all.length - 1))]];
}

/** One pane; `scene` has size, pixel_A, points, kinds and marks (whether columns are marked); the page changes it. */
export class Pane extends EventTarget {
  #frame = 0;
  #fingers = new Map();

  constructor(view, scene, names, { name, colour, first }) {
    super();
    Object.assign(this, { view, scene, name, colour, range: null, cut: 0, maps: [] });
    const id = (text) => (first ? text : null);
    this.choice = element("select", { "aria-label": "Map", id: id("label") }, ...Object.entries(names).map(([key, text]) => new Option(text, key)));
    this.colours = element("select", { "aria-label": "Colours" }, ...COLOURS.map((key) => new Option(key, key)));
    this.close = element("button", { type: "button", class: "close", "aria-label": "Close this pane", hidden: Boolean(first) }, "×");
    this.canvas = element("canvas", { id: id("image"), role: "img", "aria-label": "Map" });
    this.twin = element("canvas", { "aria-hidden": "true" });
    this.behind = element("div", { class: "layer twin", hidden: true }, this.twin);
    this.overlay = element("canvas", { id: id("overlay"), class: "overlay", "aria-hidden": "true" });
    this.divider = element("input", { type: "range", class: "divider", min: 0, max: 100, step: 0.5, "aria-label": "Where the twin begins", hidden: true });
    this.tip = element("div", { class: "tip", hidden: true });
    this.busy = element("div", { class: "busy" }, "reading");
    this.names = element("div", { class: "names", "aria-hidden": "true", hidden: true }, element("span"), element("span"));
    this.viewer = element(
      "div",
      { class: "viewer", tabindex: 0, role: "group", "aria-label": "Pane: arrow keys move, plus and minus zoom, 0 shows all" },
      element("div", { class: "layer" }, this.canvas), this.behind, this.overlay, this.names, this.divider, this.tip, this.busy,
    ); // prettier-ignore
    this.value = element("output", { class: "value" });
    this.low = element("input", { type: "number", step: "any", "aria-label": "Black at" });
    this.high = element("input", { type: "number", step: "any", "aria-label": "White at" });
    this.auto = element("select", { "aria-label": "Contrast" }, new Option("full range", 0), new Option("clip 0.5 %", 0.005), new Option("clip 2 %", 0.02), new Option("by hand", ""));
    this.unit = element("span");
    this.element = element(
      "div",
      { class: "pane" },
      element("div", { class: "head" }, this.choice, this.colours, this.close),
      this.viewer,
      element("div", { class: "foot" }, this.value, element("span", { class: "contrast" }, this.auto, this.low, "–", this.high, this.unit)),
    );
    this.choice.value = name;
    this.colours.value = colour;
    this.#listen();
  }

  #listen() {
    const redraw = () => this.draw();
    this.view.addEventListener("change", redraw);
    this.watch = new ResizeObserver(redraw);
    this.watch.observe(this.viewer);
    this.choice.addEventListener("change", () => this.#chosen("name", this.choice.value));
    this.colours.addEventListener("change", () => this.#chosen("colour", this.colours.value));
    this.auto.addEventListener("change", () => {
      if (this.auto.value === "") return;
      this.cut = Number(this.auto.value);
      this.range = null;
      this.paint();
    });
    for (const input of [this.low, this.high]) {
      input.addEventListener("change", () => {
        const range = [Number(this.low.value), Number(this.high.value)];
        if (!(range[0] < range[1])) return this.paint();
        [this.range, this.auto.value] = [range, ""];
        this.paint();
      });
    }
    this.viewer.addEventListener("keydown", (event) => this.#key(event));
    this.viewer.addEventListener("dblclick", (event) => this.view.zoom(2, ...this.#place(event)));
    this.viewer.addEventListener("wheel", (event) => {
      // The page scrolls on, unless the pane was chosen first or Ctrl is held.
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== this.viewer) return;
      event.preventDefault();
      this.view.zoom(Math.exp(-0.0025 * event.deltaY), ...this.#place(event));
    });
    this.viewer.addEventListener("pointerdown", (event) => {
      if (event.target === this.divider) return;
      this.#fingers.set(event.pointerId, this.#place(event));
      if (this.view.scale > 1 || this.#fingers.size > 1) this.viewer.setPointerCapture(event.pointerId);
    });
    this.viewer.addEventListener("pointermove", (event) => this.#move(event));
    for (const kind of ["pointerup", "pointercancel", "pointerleave"]) {
      this.viewer.addEventListener(kind, (event) => {
        this.#fingers.delete(event.pointerId);
        if (kind === "pointerleave") this.view.point(null);
      });
    }
    this.divider.addEventListener("input", () => this.dispatchEvent(new Event("divide")));
    this.close.addEventListener("click", () => this.dispatchEvent(new Event("close")));
  }

  #chosen(what, value) {
    this[what] = value;
    if (what === "name") this.range = null;
    this.dispatchEvent(new Event(what));
  }

  #key(event) {
    if (event.target !== this.viewer || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
    if (moves[event.key]) this.view.pan(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.view.zoom(1.5);
    else if (event.key === "-") this.view.zoom(1 / 1.5);
    else if (event.key === "0") this.view.reset();
    else return;
    event.preventDefault();
  }

  /** Where an event is, in fractions of the pane. */
  #place(event) {
    const box = this.viewer.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  #move(event) {
    const place = this.#place(event);
    const before = this.#fingers.get(event.pointerId);
    if (before) {
      const other = [...this.#fingers].find(([id]) => id !== event.pointerId)?.[1];
      this.#fingers.set(event.pointerId, place);
      if (other) {
        const apart = ([u, v]) => Math.hypot(u - other[0], v - other[1]) || 1e-3;
        this.view.zoom(apart(place) / apart(before), ...other);
      } else if (this.view.scale > 1) {
        this.view.pan(before[0] - place[0], before[1] - place[1]);
        this.view.point(null);
        return;
      }
    }
    const { x, y, scale } = this.view;
    this.view.point({ u: x + place[0] / scale, v: y + place[1] / scale });
  }

  /** Show a map, and a twin's beside it; each is {data, shape, title, unit, engine}. */
  show(map, twin) {
    this.maps = twin ? [map, twin] : [map];
    this.behind.hidden = this.divider.hidden = this.names.hidden = !twin;
    if (twin) [...this.names.children].forEach((node, i) => (node.textContent = this.maps[i].engine));
    this.busy.hidden = true;
    this.canvas.setAttribute("aria-label", map.title);
    this.paint();
  }

  wait(text) {
    this.busy.textContent = text;
    this.busy.hidden = false;
  }

  divide(value) {
    this.divider.value = value;
    this.behind.style.clipPath = `inset(0 0 0 ${value}%)`;
  }

  paint() {
    if (!this.maps.length) return;
    const [low, high] = this.range ?? limits(this.maps.map((map) => map.scale?.data ?? map.data), this.cut);
    [this.canvas, this.twin].slice(0, this.maps.length).forEach((canvas, i) => paint(canvas, this.maps[i], this.colour, [low, high]));
    [this.low.value, this.high.value] = [low, high].map((value) => (value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(3) : Number(value.toPrecision(4))));
    this.unit.textContent = this.maps[0].unit;
    this.draw();
  }

  /** Place maps and draw what lies on them, once a frame. */
  draw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#layout();
    });
  }

  #layout() {
    const { scale, x, y, pointer } = this.view;
    const { size, pixel_A } = this.scene;
    this.viewer.classList.toggle("zoomed", scale > 1);
    [this.canvas, this.twin].forEach((canvas, i) => {
      // Pixel (2 i, 2 j) of a finer map lies on pixel (i, j): its first pixel begins a quarter pixel later.
      const factor = (this.maps[i]?.shape[1] ?? size) / size;
      const shift = (1 - 1 / factor) / 2 / size;
      canvas.style.transform = `scale(${scale}) translate(${100 * (shift - x)}%, ${100 * (shift - y)}%)`;
    });
    const ratio = devicePixelRatio || 1;
    const width = this.viewer.clientWidth;
    const pixels = Math.max(1, Math.round(width * ratio));
    if (this.overlay.width !== pixels) this.overlay.width = this.overlay.height = pixels;
    const pen = this.overlay.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, width);
    const step = (width * scale) / size;
    const at = (x_px, y_px) => [(x_px + 0.5) * step - x * scale * width, (y_px + 0.5) * step - y * scale * width];
    // Maps that are drawn of columns show them already.
    if (this.scene.marks && !/Mask|Superresolution/.test(this.name)) this.#marks(pen, at, Math.min(Math.max(0.45 * this.scene.radius_px * step, 2.5), 9), width);
    if (pointer) this.#cross(pen, (pointer.u - x) * scale * width, (pointer.v - y) * scale * width, width);
    this.#bar(pen, width, (width * scale) / (size * pixel_A));
    this.#tell(at, width);
  }

  #marks(pen, at, radius, width) {
    const places = this.scene.points.filter((point) => point.inside).map((point) => [point, ...at(point.x_px, point.y_px)]);
    const seen = places.filter(([, x, y]) => x > -radius && y > -radius && x < width + radius && y < width + radius);
    for (const [thick, colour] of [[3.5, () => "rgb(0 0 0 / 45%)"], [1.6, (point) => kindColour(this.scene.kinds, point.kind)]]) {
      pen.lineWidth = thick;
      for (const [point, x, y] of seen) {
        pen.strokeStyle = colour(point);
        pen.beginPath();
        pen.arc(x, y, point === this.scene.near ? 1.6 * radius : radius, 0, 2 * Math.PI);
        pen.stroke();
      }
    }
  }

  #cross(pen, x, y, width) {
    pen.strokeStyle = "rgb(255 255 255 / 70%)";
    pen.lineWidth = 1;
    pen.setLineDash([4, 4]);
    pen.beginPath();
    pen.moveTo(x, 0);
    pen.lineTo(x, width);
    pen.moveTo(0, y);
    pen.lineTo(width, y);
    pen.stroke();
    pen.setLineDash([]);
  }

  #bar(pen, width, pixels_per_A) {
    const length_A = LENGTHS_A.filter((length) => length * pixels_per_A < 0.32 * width).pop() ?? LENGTHS_A[0];
    const length = length_A * pixels_per_A;
    const text = `${length_A} Å`;
    pen.font = "600 14px system-ui, sans-serif";
    const wide = Math.max(length, pen.measureText(text).width);
    pen.fillStyle = "rgb(0 0 0 / 55%)";
    pen.beginPath();
    pen.roundRect(10, width - 46, wide + 20, 36, 5);
    pen.fill();
    pen.fillStyle = "white";
    pen.fillRect(20, width - 20, length, 4);
    pen.fillText(text, 20, width - 27);
    this.viewer.dataset.bar = text;
  }

  /** The value under the pointer, and the column there. */
  #tell(at, width) {
    const pixel = this.scene.pixel;
    if (!pixel || !this.maps.length) {
      this.value.textContent = "";
      this.tip.hidden = true;
      return;
    }
    this.value.textContent = this.maps.map((map) => `${this.maps.length > 1 ? `${map.engine} ` : ""}${value(map, pixel.x, pixel.y, this.scene.size)}`).join(" · ");
    const { near } = this.scene;
    this.tip.hidden = !near || !this.viewer.matches(":hover");
    if (this.tip.hidden) return;
    const [x, y] = at(near.x_px, near.y_px);
    this.tip.textContent = this.scene.describe(near);
    this.tip.style.left = `${Math.min(Math.max(x, 0), width)}px`;
    this.tip.style.top = `${Math.min(Math.max(y, 0), width)}px`;
    this.tip.className = `tip${x > width / 2 ? " leftwards" : ""}${y > width / 2 ? " upwards" : ""}`;
  }

  remove() {
    this.watch.disconnect();
    this.element.remove();
  }
}

/** A map's value at a place of the image, with its unit. */
export function value(map, x_px, y_px, size) {
  const factor = map.shape[0] / size;
  const [column, row] = [x_px, y_px].map((at, axis) => Math.min(Math.max(Math.round(at * factor), 0), map.shape[1 - axis] - 1));
  const number = map.data[row * map.shape[1] + column];
  return `${Number.isInteger(number) ? figure(number) : Number(number.toPrecision(5))} ${map.unit}`.trim();
}
