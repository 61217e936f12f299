// Controls of the browse page: a facet's boxes with counts, and a range with its histogram, two handles and two numbers.
import { element, figure } from "./dom.js";
import { BINS } from "./filter.js";

/** One facet: a box for each value. */
export class Facet {
  /** `changed(set of values)` is called after each click; `notes` say what values stand for. */
  constructor(title, values, notes, changed) {
    this.chosen = new Set();
    this.boxes = values.map((value, code) => {
      const input = element("input", { type: "checkbox" });
      const count = element("span", { class: "count" });
      const note = notes?.[value];
      const name = element("span", {}, value, ...(note ? [element("small", {}, note)] : []));
      const label = element("label", {}, input, name, count);
      input.addEventListener("change", () => {
        input.checked ? this.chosen.add(value) : this.chosen.delete(value);
        changed(this.chosen);
      });
      return { value, code, input, count, label };
    });
    const named = this.boxes.filter((box) => box.value !== "");
    named.sort((a, b) => a.value.localeCompare(b.value, "en", { numeric: true }));
    this.element = element("fieldset", {}, element("legend", {}, title), element("div", { class: "values" }, ...named.map((box) => box.label)));
  }

  set(chosen) {
    this.chosen = new Set(chosen);
    for (const box of this.boxes) box.input.checked = this.chosen.has(box.value);
  }

  draw(counts) {
    for (const { code, count, label } of this.boxes) {
      const text = counts[code].toLocaleString("en");
      if (count.textContent !== text) count.textContent = text;
      label.classList.toggle("none", counts[code] === 0);
    }
  }
}

/** One range: limits are numbers or null. */
export class Range {
  constructor(title, axis, changed) {
    this.axis = axis;
    this.low = this.high = null;
    const whole = new Uint32Array(BINS + 1);
    for (let i = 0; i < axis.bins.length; i++) whole[axis.bins[i]]++;
    this.tallest = Math.max(1, ...whole.subarray(0, BINS));
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    picture.setAttribute("viewBox", `0 0 ${BINS} 1`);
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("aria-hidden", "true");
    this.paths = ["whole", "now"].map((name) => {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("class", name);
      picture.append(path);
      return path;
    });
    this.paths[0].setAttribute("d", this.#outline(whole));
    this.handles = ["lower", "upper"].map((word, end) => {
      const handle = element("input", { type: "range", min: 0, max: BINS, step: 1, value: end * BINS, "aria-label": `${title}, ${word} handle` });
      handle.addEventListener("input", () => {
        const [low, high] = this.handles.map((other) => Number(other.value));
        if (low > high) handle.value = end ? low : high;
        const at = Number(handle.value);
        this[end ? "high" : "low"] = at === end * BINS ? null : Number(axis.at(at).toPrecision(3));
        this.#tell();
        changed(this.low, this.high);
      });
      return handle;
    });
    this.numbers = ["from", "to"].map((word, end) => {
      const input = element("input", { type: "number", step: "any", "aria-label": `${title}, ${word}` });
      input.placeholder = Number((end ? axis.most : axis.least).toPrecision(3));
      input.addEventListener("input", () => {
        const value = input.value === "" ? null : Number(input.value);
        this[end ? "high" : "low"] = value;
        this.#place();
        changed(this.low, this.high);
      });
      return input;
    });
    this.element = element(
      "fieldset",
      { class: "range" },
      element("legend", {}, title),
      picture,
      element("div", { class: "handles" }, ...this.handles),
      element("div", { class: "limits" }, this.numbers[0], element("span", { "aria-hidden": "true" }, "to"), this.numbers[1]),
    );
    this.#tell();
  }

  set(low, high) {
    [this.low, this.high] = [low, high];
    this.numbers[0].value = low ?? "";
    this.numbers[1].value = high ?? "";
    this.#place();
  }

  draw(bins) {
    this.paths[1].setAttribute("d", this.#outline(bins));
  }

  /** Handles where the limits are. */
  #place() {
    this.handles[0].value = this.low === null ? 0 : this.axis.position(this.low);
    this.handles[1].value = this.high === null ? BINS : this.axis.position(this.high);
    this.#tell(false);
  }

  /** Numbers, and what a screen reader says of the handles. */
  #tell(numbers = true) {
    if (numbers) [this.numbers[0].value, this.numbers[1].value] = [this.low ?? "", this.high ?? ""];
    this.handles[0].setAttribute("aria-valuetext", figure(this.low ?? this.axis.least));
    this.handles[1].setAttribute("aria-valuetext", figure(this.high ?? this.axis.most));
    this.handles[0].parentElement?.style.setProperty("--low", this.handles[0].value / BINS);
    this.handles[0].parentElement?.style.setProperty("--high", this.handles[1].value / BINS);
  }

  /** A staircase as high as the root of the counts, so that small bins are seen. */
  #outline(counts) {
    let path = "M0 1";
    for (let bin = 0; bin < BINS; bin++) {
      const top = 1 - Math.sqrt(counts[bin] / this.tallest);
      path += `V${top.toFixed(3)}H${bin + 1}`;
    }
    return `${path}V1Z`;
  }
}
