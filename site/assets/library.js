// Reads files of a library in the browser, whole or by byte range, and tells the visitor what is wrong.

export const base = new URL(document.body.dataset.library, document.baseURI).href;

/** A library's schema, and that of sample records, that these pages read. */
export const SCHEMA = 1;

const WHOLE_MB = 80;

/** Throw if a library or record is of a schema that these pages do not know. */
export function checkSchema(what, schema) {
  if (schema > SCHEMA) {
    throw new Error(`${what} has schema ${schema}, this page reads up to ${SCHEMA}. Reload without cached scripts (Ctrl+Shift+R), or build the site anew with the version that made the library.`);
  }
}

/** A file of the library, or of any address; throws with a sentence for the visitor. */
export async function get(name, options) {
  const url = new URL(name, base);
  let reply;
  try {
    reply = await fetch(url, options);
  } catch {
    if (url.origin !== location.origin) throw new Error(`${url} cannot be reached, or its server does not let these pages read it: it must answer with Access-Control-Allow-Origin.`);
    throw new Error(`${url} cannot be reached. If these pages were opened from a folder, serve them: python -m builder serve.`);
  }
  if (reply.status === 404) throw new Error(`${url} is missing (the server answers 404). The library may be incomplete.`);
  if (reply.status === 416) throw new Error(`${name} ends too early: the file is truncated. Download it anew.`);
  if (!reply.ok) throw new Error(`${url}: the server answers ${reply.status}. The library may be incomplete.`);
  return reply;
}

const wholes = new Map();

/** Bytes [offset, offset + size) of a file of the library. A server without ranges costs the whole file, once. */
export async function bytes(name, offset, size, onWhole = () => {}) {
  const reply = wholes.has(name) ? null : await get(name, { headers: { Range: `bytes=${offset}-${offset + size - 1}` } });
  let part;
  if (reply?.status === 206) part = new Uint8Array(await reply.arrayBuffer());
  else {
    if (reply) onWhole();
    part = (await whole(name, reply)).subarray(offset, offset + size);
  }
  if (part.length !== size) throw new Error(`${name} ends too early: the file is truncated. Download it anew.`);
  return part;
}

/** A whole file out of a reply that should have been a part; a second reply for the same file is dropped. */
function whole(name, reply) {
  if (wholes.has(name)) {
    reply?.body.cancel();
    return wholes.get(name);
  }
  const megabytes = Number(reply.headers.get("Content-Length")) / 1e6;
  if (megabytes > WHOLE_MB) {
    reply.body.cancel();
    throw new Error(`This server does not answer byte ranges, and ${name} has ${megabytes.toFixed(0)} MB, too much to fetch for one sample. Download the file and read it in Python.`);
  }
  wholes.set(name, reply.arrayBuffer().then((buffer) => new Uint8Array(buffer)));
  return wholes.get(name);
}

/** Show a sentence in the page's notice; more sentences are added below. */
export function tell(text) {
  const notice = document.getElementById("notice");
  if (!text) notice.replaceChildren();
  else if (![...notice.childNodes].some((node) => node.textContent === text)) {
    const line = document.createElement("div");
    line.textContent = text;
    notice.append(line);
  }
  notice.hidden = !notice.childNodes.length;
}

/** Let the visitor save a file. */
export function save(name, content, type = "application/octet-stream") {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Copy text, and say so on the button for a moment. */
export async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it and press Ctrl+C";
  }
  setTimeout(() => (button.textContent = before), 1500);
}
