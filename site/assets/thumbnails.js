// Thumbnails out of packs by byte range: what is in sight is fetched, neighbours in one request, and kept for a while.
const KEPT = 1500;
const REQUESTS = 4;
const GAP_BYTES = 32768;
const PART_BYTES = 262144;

export class Thumbnails {
  #cache = new Map();
  #failed = new Set();
  #loading = new Set();
  #wanted = [];
  #active = 0;
  #whole = new Map();

  /** `arrived(row)` is called when a row's picture is there, or known to be missing. */
  constructor(index, arrived) {
    this.index = index;
    this.arrived = arrived;
  }

  /** A row's picture, if it is there. */
  get(row) {
    return this.#cache.get(row);
  }

  /** Whether a row's picture could not be had. */
  failed(row) {
    return this.#failed.has(row);
  }

  /** Fetch what these rows lack; what was wanted before and has not begun is forgotten. */
  want(rows) {
    this.#wanted = rows.filter((row) => !this.#cache.has(row) && !this.#loading.has(row) && !this.#failed.has(row));
    for (const row of rows) {
      const picture = this.#cache.get(row);
      if (!picture) continue;
      this.#cache.delete(row);
      this.#cache.set(row, picture);
    }
    this.#pump();
  }

  #pump() {
    while (this.#active < REQUESTS && this.#wanted.length) {
      const part = this.#part();
      this.#wanted = this.#wanted.filter((row) => !part.includes(row));
      for (const row of part) this.#loading.add(row);
      this.#active++;
      this.#load(part).finally(() => {
        this.#active--;
        this.#pump();
      });
    }
  }

  /** Wanted rows that lie close together in the pack of the first. */
  #part() {
    const { shard, thumb, thumb_bytes } = this.index.columns;
    const pack = shard[this.#wanted[0]];
    const sorted = this.#wanted.filter((row) => shard[row] === pack).sort((a, b) => thumb[a] - thumb[b]);
    const part = [sorted[0]];
    for (const row of sorted.slice(1)) {
      const end = thumb[part.at(-1)] + thumb_bytes[part.at(-1)];
      if (thumb[row] - end > GAP_BYTES || thumb[row] - thumb[part[0]] > PART_BYTES) break;
      part.push(row);
    }
    return part;
  }

  async #load(part) {
    const { shard, thumb, thumb_bytes } = this.index.columns;
    const from = thumb[part[0]];
    const to = thumb[part.at(-1)] + thumb_bytes[part.at(-1)];
    let body = null;
    try {
      body = await this.#bytes(`thumbs/${this.index.packs[shard[part[0]]]}`, from, to);
    } catch {
      // Told by each tile; scrolling there again tries no more.
    }
    await Promise.all(
      part.map(async (row) => {
        try {
          const data = body.subarray(thumb[row] - from, thumb[row] - from + thumb_bytes[row]);
          this.#keep(row, await createImageBitmap(new Blob([data], { type: "image/webp" })));
        } catch {
          this.#failed.add(row);
        }
        this.#loading.delete(row);
        this.arrived(row);
      }),
    );
  }

  async #bytes(url, from, to) {
    if (this.#whole.has(url)) return (await this.#whole.get(url)).subarray(from, to);
    const reply = await fetch(url, { headers: { Range: `bytes=${from}-${to - 1}` } });
    if (!reply.ok) throw new Error(`${url}: ${reply.status}`);
    if (reply.status === 206) return new Uint8Array(await reply.arrayBuffer());
    // A server without ranges sends the whole pack: it is kept, so that it comes once.
    const whole = reply.arrayBuffer().then((buffer) => new Uint8Array(buffer));
    this.#whole.set(url, whole);
    return (await whole).subarray(from, to);
  }

  #keep(row, picture) {
    this.#cache.set(row, picture);
    if (this.#cache.size <= KEPT) return;
    const oldest = this.#cache.keys().next().value;
    this.#cache.get(oldest).close();
    this.#cache.delete(oldest);
  }
}
