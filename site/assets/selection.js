// Samples chosen by hand, kept in this browser for each library; other tabs and pages see the same ones.

/** A set of samples, each named "id engine"; dispatches "change". */
export class Selection extends EventTarget {
  #key;
  #names;

  constructor(library) {
    super();
    this.#key = `temimagenet selection: ${library}`;
    this.#names = this.#stored();
    addEventListener("storage", (event) => {
      if (event.key !== this.#key && event.key !== null) return;
      this.#names = this.#stored();
      this.dispatchEvent(new Event("change"));
    });
  }

  get size() {
    return this.#names.size;
  }

  has(name) {
    return this.#names.has(name);
  }

  /** All names, in the order in which they were chosen. */
  all() {
    return [...this.#names];
  }

  /** Add or remove samples. */
  set(names, chosen) {
    for (const name of names) chosen ? this.#names.add(name) : this.#names.delete(name);
    this.#store();
    this.dispatchEvent(new Event("change"));
  }

  clear() {
    this.set(this.all(), false);
  }

  #stored() {
    try {
      const names = JSON.parse(localStorage.getItem(this.#key) ?? "[]");
      return new Set(Array.isArray(names) ? names.filter((name) => typeof name === "string") : []);
    } catch {
      return new Set();
    }
  }

  #store() {
    try {
      localStorage.setItem(this.#key, JSON.stringify(this.all()));
    } catch {
      // Without storage (private windows, full disks) the selection lasts as long as the page.
    }
  }
}
