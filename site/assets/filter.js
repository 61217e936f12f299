// Filters over the index: one bit of each row's word says that a condition fails, so any change costs one pass.
export const BINS = 40;
const NOISY_DB = 14;
const CLEAN_DB = 24;
const TEXT_FIELDS = ["entry", "material", "formula", "zone", "morphology", "background", "engine", "split"];

/** Words of a search: lower case, without brackets, SrTiO₃ as SrTiO3. */
export function words(text) {
  return text.normalize("NFKC").toLowerCase().replace(/[[\](),]/g, " ").split(/\s+/).filter(Boolean);
}

/** Where a range's histogram has its bins; linear, or logarithmic over positive values. */
export class Axis {
  constructor(values, logarithmic) {
    let least = Infinity;
    let most = -Infinity;
    for (let i = 0; i < values.length; i++) {
      if (values[i] < least) least = values[i];
      if (values[i] > most) most = values[i];
    }
    this.logarithmic = logarithmic && least > 0;
    this.least = least;
    this.most = most;
    const map = this.logarithmic ? Math.log : (value) => value;
    this.low = map(least);
    this.span = map(most) - this.low || 1;
    // Plain loops: typed arrays made by a mapping function take ten times longer.
    this.bins = new Uint8Array(values.length).fill(BINS);
    for (let i = 0; i < values.length; i++) {
      const bin = ((map(values[i]) - this.low) / this.span) * BINS;
      if (bin >= 0) this.bins[i] = Math.min(BINS - 1, bin);
    }
  }

  /** Value at a handle's position, 0 to BINS. */
  at(position) {
    const value = this.low + (position / BINS) * this.span;
    return this.logarithmic ? Math.exp(value) : value;
  }

  /** Nearest handle position of a value. */
  position(value) {
    const mapped = this.logarithmic ? Math.log(Math.max(value, 1e-300)) : value;
    return Math.min(BINS, Math.max(0, Math.round(((mapped - this.low) / this.span) * BINS)));
  }
}

/** Conditions on rows, what passes them, and how many would pass without each; up to 32 conditions and 2^21 rows. */
export class Filter {
  /** Facets are coded columns; ranges are numbers: {field: logarithmic}. */
  constructor(index, facets, ranges) {
    this.index = index;
    this.facets = facets;
    this.ranges = Object.keys(ranges);
    this.axes = Object.fromEntries(this.ranges.map((field) => [field, new Axis(index.columns[field], ranges[field])]));
    this.conditions = ["text", "selected", ...facets, ...this.ranges];
    this.failed = new Uint32Array(index.rows);
    this.passing = new Uint32Array(index.rows);
    this.alone = this.conditions.map(() => new Uint32Array(index.rows));
    this.orders = new Map();
  }

  /** Set a condition's bit to 1 in rows for which `passes` is 0; null lifts it. */
  #set(condition, passes) {
    const bit = 1 << this.conditions.indexOf(condition);
    const failed = this.failed;
    if (!passes) for (let i = 0; i < failed.length; i++) failed[i] &= ~bit;
    else for (let i = 0; i < failed.length; i++) failed[i] = passes[i] ? failed[i] & ~bit : failed[i] | bit;
  }

  /** Keep rows that have one of a facet's values; an empty set keeps all. */
  facet(field, chosen) {
    if (!chosen?.size) return this.#set(field, null);
    const kept = Uint8Array.from(this.index.values[field], (value) => Number(chosen.has(value)));
    this.#set(field, this.#coded(field, kept));
  }

  #coded(field, kept, into = new Uint8Array(this.index.rows)) {
    const codes = this.index.columns[field];
    for (let i = 0; i < codes.length; i++) into[i] |= kept[codes[i]];
    return into;
  }

  /** Keep rows from low to high, either of which may be null. */
  range(field, low, high) {
    if (low === null && high === null) return this.#set(field, null);
    // Numbers are stored in single precision: limits are rounded like them.
    const least = Math.fround(low ?? -Infinity);
    const most = Math.fround(high ?? Infinity);
    const values = this.index.columns[field];
    const passes = new Uint8Array(values.length);
    for (let i = 0; i < values.length; i++) passes[i] = values[i] >= least && values[i] <= most;
    this.#set(field, passes);
  }

  /** Keep rows in which every word begins some word of their description, or of their identity. */
  text(text) {
    const sought = words(text);
    if (!sought.length) return this.#set("text", null);
    const all = new Uint8Array(this.index.rows).fill(1);
    for (const word of sought) {
      const passes = new Uint8Array(this.index.rows);
      for (const field of TEXT_FIELDS) {
        const kept = Uint8Array.from(this.index.values[field], (value) => Number(words(value).some((own) => own.startsWith(word))));
        if (kept.includes(1)) this.#coded(field, kept, passes);
      }
      this.#psnr(word, passes);
      this.#identity(word, passes);
      for (let i = 0; i < all.length; i++) all[i] &= passes[i];
    }
    this.#set("text", all);
  }

  #psnr(word, passes) {
    const values = this.index.columns.psnr_dB;
    if (!values) return;
    if (word === "noisy") for (let i = 0; i < passes.length; i++) passes[i] |= values[i] < NOISY_DB;
    if (word === "clean") for (let i = 0; i < passes.length; i++) passes[i] |= values[i] > CLEAN_DB;
  }

  #identity(word, passes) {
    const { prefix, digits, columns } = this.index;
    if (prefix.toLowerCase().startsWith(word)) passes.fill(1);
    else if (word.startsWith(prefix.toLowerCase())) {
      const rest = word.slice(prefix.length);
      if (!/^\d+$/.test(rest) || rest.length > digits) return;
      const step = 10 ** (digits - rest.length);
      for (let i = 0; i < passes.length; i++) passes[i] |= Math.floor(columns.index[i] / step) === Number(rest);
    }
  }

  /** Keep rows whose flag is set; null keeps all. */
  selected(flags) {
    this.#set("selected", flags);
  }

  /**
   * What passes: {total, counts: {facet: per code}, bins: {range: per bin}, without: {condition: rows}}.
   * A facet's counts tell what choosing a value would give: they pass over the facet's own choice; so do a range's bins.
   */
  count() {
    const { failed, passing, alone, conditions, index } = this;
    const sizes = new Uint32Array(conditions.length);
    let total = 0;
    for (let i = 0; i < failed.length; i++) {
      const bits = failed[i];
      if (bits === 0) passing[total++] = i;
      else if ((bits & (bits - 1)) === 0) {
        const condition = 31 - Math.clz32(bits);
        alone[condition][sizes[condition]++] = i;
      }
    }
    const tally = (field, codes, length) => {
      const counts = new Uint32Array(length);
      for (let k = 0; k < total; k++) counts[codes[passing[k]]]++;
      const condition = conditions.indexOf(field);
      for (let k = 0; k < sizes[condition]; k++) counts[codes[alone[condition][k]]]++;
      return counts;
    };
    return {
      total,
      counts: Object.fromEntries(this.facets.map((field) => [field, tally(field, index.columns[field], index.values[field].length)])),
      bins: Object.fromEntries(this.ranges.map((field) => [field, tally(field, this.axes[field].bins, BINS + 1)])),
      without: Object.fromEntries(conditions.map((condition, k) => [condition, total + sizes[k]])),
    };
  }

  /** Rows that pass, ordered by a column; rows without a value come last. */
  order(field, descending) {
    const key = `${field} ${descending}`;
    if (!this.orders.has(key)) this.orders.set(key, this.#sorted(field, descending));
    const order = this.orders.get(key);
    const shown = new Uint32Array(order.length);
    let total = 0;
    for (let i = 0; i < order.length; i++) if (this.failed[order[i]] === 0) shown[total++] = order[i];
    return shown.subarray(0, total);
  }

  /** Sorting numbers without a comparator is ten times faster, so rank and row share one: rank * 2^21 + row. */
  #sorted(field, descending) {
    const { columns, values, rows } = this.index;
    const source = columns[field];
    let keys = source;
    if (values[field]) {
      const names = [...values[field].keys()].sort((a, b) => values[field][a].localeCompare(values[field][b], "en", { numeric: true }));
      const rank = new Uint32Array(names.length);
      names.forEach((code, at) => (rank[code] = at));
      keys = new Uint32Array(rows);
      for (let i = 0; i < rows; i++) keys[i] = rank[source[i]];
    } else if (source instanceof Float32Array) {
      // The bits of floats, made to sort as unsigned integers.
      const bits = new Uint32Array(source.buffer, source.byteOffset, rows);
      keys = new Uint32Array(rows);
      for (let i = 0; i < rows; i++) keys[i] = bits[i] >>> 31 ? ~bits[i] : bits[i] | 0x80000000;
    }
    const packed = new Float64Array(rows);
    for (let i = 0; i < rows; i++) {
      const missing = Number.isNaN(source[i]);
      packed[i] = (missing ? 2 ** 32 - 1 : descending ? 2 ** 32 - 2 - keys[i] : keys[i]) * 2 ** 21 + i;
    }
    packed.sort();
    const order = new Uint32Array(rows);
    for (let i = 0; i < rows; i++) order[i] = packed[i] % 2 ** 21;
    return order;
  }
}
