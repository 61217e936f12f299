// The grid and the table of samples: only the rows in sight are elements, and these are used again while scrolling.
import { known, sampleId, samplePage, summary, told, word } from "./browse-index.js";
import { element } from "./dom.js";

const AROUND = 2;
const SPAN_MOST = 5000;
const SETTLE_MS = 60;
const TABLE_ROW = 40;
const CAPTION = 44;

/** Columns of the table: field, heading, width. */
const COLUMNS = [
  ["index", "Sample", "7.2em"],
  ["entry", "Entry", "minmax(7.4em, 1fr)"],
  ["engine", "Engine", "5.4em"],
  ["condition", "Condition", "5.5em"],
  ["field_of_view_A", "View (Å)", "3.2em"],
  ["rotation_deg", "Rotation (°)", "5.1em"],
  ["background", "Background", "6.6em"],
  ["psnr_dB", "PSNR (dB)", "4em"],
  ["dose_e_per_A2", "Dose (e/\u2060Å²)", "5em"],
  ["columns", "Columns", "5.2em"],
  ["scan_sigma_A", "Jitter (Å)", "5em"],
  ["split", "Split", "4.6em"],
];
const NUMERIC = new Set(["condition", "field_of_view_A", "rotation_deg", "psnr_dB", "dose_e_per_A2", "columns", "scan_sigma_A"]);

/** What sorting can go by. */
export const SORTABLE = COLUMNS.map(([field]) => field);

/** A virtual list of samples inside a scrolling element. */
class View {
  constructor(scroller, index, thumbnails, selection) {
    Object.assign(this, { scroller, index, thumbnails, selection });
    this.rows = new Uint32Array(0);
    this.lines = new Map();
    this.spare = [];
    this.active = 0;
    this.anchor = 0;
    this.across = 1;
    this.body = element("div", { class: "tall" });
    this.moved = { top: 0, timer: 0 };
  }

  /** Show rows from the top. */
  show(rows) {
    this.rows = rows;
    this.active = this.anchor = 0;
    this.scroller.scrollTop = 0;
    this.#forget();
    this.paint();
  }

  /** Draw anew after a change of size, of selection, or of which view is shown. */
  refresh() {
    this.measure();
    this.#forget();
    this.paint();
  }

  #forget() {
    for (const line of this.lines.values()) line.shown = null;
  }

  paint() {
    this.measure();
    const { scrollTop, clientHeight } = this.scroller;
    const lines = Math.ceil(this.rows.length / this.across);
    const first = Math.max(0, Math.floor(scrollTop / this.height) - AROUND);
    const last = Math.min(lines, Math.ceil((scrollTop + clientHeight) / this.height) + AROUND);
    this.body.style.height = `${lines * this.height}px`;
    for (const [at, line] of this.lines) {
      // An element that has the focus stays, so that the focus is not lost by scrolling.
      if ((at >= first && at < last) || (at < lines && line.contains(document.activeElement))) continue;
      this.lines.delete(at);
      this.spare.push(line);
    }
    // From the last, so that each finds the one it stands before: elements stay in reading order.
    for (let at = last - 1; at >= first; at--) this.#line(at);
    for (const line of this.spare) line.remove();
    this.#pictures(first, last);
  }

  #line(at) {
    let line = this.lines.get(at);
    if (!line) {
      line = this.spare.pop() ?? this.line();
      line.shown = null;
      this.lines.set(at, line);
      const next = this.lines.get(at + 1);
      if (next) next.before(line);
      else this.body.append(line);
      line.style.transform = `translateY(${at * this.height}px)`;
    }
    if (line.shown !== at) {
      line.shown = at;
      line.style.transform = `translateY(${at * this.height}px)`;
      this.fill(line, at);
    }
  }

  /** Pictures are asked for once scrolling is slower than a third of a page a frame: what is faster nobody sees. */
  #pictures(first, last) {
    clearTimeout(this.moved.timer);
    const far = Math.abs(this.scroller.scrollTop - this.moved.top) > this.scroller.clientHeight / 3;
    this.moved.top = this.scroller.scrollTop;
    const wanted = () => this.thumbnails.want([...this.rows.subarray(first * this.across, last * this.across)]);
    if (far) this.moved.timer = setTimeout(wanted, SETTLE_MS);
    else wanted();
  }

  /** Put a row's picture into its element. */
  picture(item) {
    const canvas = item.canvas;
    const picture = this.thumbnails.get(item.row);
    item.classList.toggle("missing", this.thumbnails.failed(item.row));
    if (picture) canvas.getContext("2d").drawImage(picture, 0, 0);
    else if (canvas.drawn) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    canvas.drawn = Boolean(picture);
  }

  arrived(row) {
    for (const item of this.items()) if (item.row === row && !item.hidden) this.picture(item);
  }

  *items() {
    for (const line of this.lines.values()) yield* line.items;
  }

  /** What both views' items share: a link, a picture and a box. */
  item(node, link) {
    node.link = link;
    node.canvas = element("canvas", { width: 96, height: 96, "aria-hidden": "true" });
    node.box = element("input", { type: "checkbox", tabindex: "-1" });
    link.tabIndex = -1;
    return node;
  }

  fillItem(item, at) {
    item.hidden = at >= this.rows.length;
    if (item.hidden) return;
    const row = this.rows[at];
    const moved = item.at !== at || item.row !== row;
    item.at = at;
    item.link.tabIndex = at === this.active ? 0 : -1;
    item.box.checked = this.selection.flags[row] === 1;
    item.classList.toggle("chosen", item.box.checked);
    if (!moved && item.of === this.rows) return this.picture(item);
    item.row = row;
    item.of = this.rows;
    item.link.href = samplePage(this.index, row);
    item.box.setAttribute("aria-label", `Select ${sampleId(this.index, row)} ${word(this.index, "engine", row)}`);
    this.describe(item, row);
    this.picture(item);
  }

  /** Move the focus to a sample, scrolling it into sight. */
  focus(at) {
    if (!this.rows.length) return;
    this.active = Math.min(Math.max(at, 0), this.rows.length - 1);
    const top = Math.floor(this.active / this.across) * this.height;
    const { scroller } = this;
    const room = scroller.clientHeight - this.body.offsetTop;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + this.height > scroller.scrollTop + room) scroller.scrollTop = top + this.height - room;
    this.paint();
    for (const item of this.items()) {
      item.link.tabIndex = item.at === this.active && !item.hidden ? 0 : -1;
      if (item.link.tabIndex === 0) item.link.focus({ preventScroll: true });
    }
  }

  /** Select or deselect a sample; with `span`, all from the one changed last. */
  choose(at, span) {
    const chosen = this.selection.flags[this.rows[at]] === 0;
    const from = span ? Math.max(Math.min(this.anchor, at), at - SPAN_MOST) : at;
    const to = span ? Math.min(Math.max(this.anchor, at), at + SPAN_MOST) : at;
    this.anchor = at;
    this.selection.set(this.rows.subarray(from, to + 1), chosen);
  }

  key(event) {
    const item = event.target.closest(".item");
    if (!item || event.ctrlKey || event.altKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.height) - 1) * this.across;
    const steps = {
      ArrowLeft: item.at - 1,
      ArrowRight: item.at + 1,
      ArrowUp: item.at - this.across,
      ArrowDown: item.at + this.across,
      PageUp: item.at - page,
      PageDown: item.at + page,
      Home: 0,
      End: this.rows.length - 1,
    };
    if (event.key in steps) {
      const to = steps[event.key];
      if (Math.abs(to - item.at) === this.across && (to < 0 || to >= this.rows.length)) return event.preventDefault();
      this.focus(to);
    } else if (event.key === " " && event.target === item.link) this.choose(item.at, event.shiftKey);
    else return;
    event.preventDefault();
  }

  click(event) {
    const item = event.target.closest(".item");
    if (!item) return;
    this.active = item.at;
    if (event.target === item.box) this.choose(item.at, event.shiftKey);
  }
}

/** Thumbnails with captions, as many beside each other as fit. */
export class Grid extends View {
  constructor(...parts) {
    super(...parts);
    this.body.setAttribute("role", "list");
    this.body.setAttribute("aria-label", "Samples");
    this.element = element("div", { class: "grid" }, this.body);
  }

  measure() {
    const width = this.scroller.clientWidth - 16;
    const across = Math.max(2, Math.round(width / 120));
    this.height = Math.floor(width / across) + CAPTION;
    if (across === this.across) return;
    this.across = across;
    for (const line of this.lines.values()) line.remove();
    this.lines.clear();
    this.spare = [];
  }

  line() {
    const line = element("div", { class: "line" });
    line.items = Array.from({ length: this.across }, () => {
      const link = element("a");
      const item = this.item(element("div", { class: "item tile", role: "listitem" }), link);
      item.title1 = element("b");
      item.title2 = element("span");
      link.append(item.canvas, item.title1, item.title2);
      item.append(link, item.box);
      return item;
    });
    line.append(...line.items);
    line.style.setProperty("--across", this.across);
    return line;
  }

  fill(line, at) {
    line.style.height = `${this.height}px`;
    line.items.forEach((item, k) => this.fillItem(item, at * this.across + k));
  }

  describe(item, row) {
    const { index } = this;
    item.setAttribute("aria-setsize", this.rows.length);
    item.setAttribute("aria-posinset", item.at + 1);
    item.title1.textContent = word(index, "entry", row);
    item.title2.textContent = summary(index, row);
    item.classList.toggle("multislice", word(index, "engine", row) === "multislice");
    item.link.title = `${sampleId(index, row)}, ${word(index, "engine", row)}`;
  }
}

/** A row a sample; headings sort. */
export class Table extends View {
  constructor(...parts) {
    super(...parts);
    this.height = TABLE_ROW;
    this.headings = new Map();
    this.columns = COLUMNS.filter(([field]) => known(this.index, field));
    const head = this.columns.map(([field, title]) => {
      const button = element("button", { type: "button", "data-sort": field }, title);
      const cell = element("div", { role: "columnheader", class: NUMERIC.has(field) ? "number" : "" }, button);
      this.headings.set(field, cell);
      return cell;
    });
    const pick = element("div", { role: "columnheader" }, element("span", { class: "unseen" }, "Select"));
    this.body.setAttribute("role", "rowgroup");
    const top = element("div", { role: "rowgroup", class: "head" }, element("div", { role: "row", class: "cells" }, pick, ...head));
    this.element = element("div", { class: "table", role: "table", "aria-label": "Samples" }, top, this.body);
    this.element.style.setProperty("--tracks", this.columns.map(([, , width]) => width).join(" "));
  }

  measure() {
    this.element.setAttribute("aria-rowcount", this.rows.length + 1);
  }

  /** Mark the heading that rows are sorted by. */
  sorted(field, descending) {
    for (const [name, cell] of this.headings) {
      if (name === field) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  line() {
    const link = element("a");
    const item = this.item(element("div", { class: "item cells", role: "row" }), link);
    const pick = element("div", { role: "cell", class: "pick" }, item.box, item.canvas);
    item.cells = this.columns.map(([field]) => element("div", { role: "cell", class: NUMERIC.has(field) ? "number" : "" }));
    item.cells[0].append(link);
    item.append(pick, ...item.cells);
    item.items = [item];
    return item;
  }

  fill(line, at) {
    this.fillItem(line, at);
    line.setAttribute("aria-rowindex", at + 2);
  }

  describe(item, row) {
    item.link.textContent = sampleId(this.index, row);
    this.columns.forEach(([field], k) => {
      if (k) item.cells[k].textContent = told(this.index, field, row);
    });
  }
}
