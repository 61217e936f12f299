// Runs the network off the page's thread, on one thread of WebAssembly. It fetches the model and the runtime from where
// the page lies; images come by message and go nowhere.
import { env, InferenceSession, Tensor } from "../vendor/onnxruntime-web/ort.wasm.min.mjs";
import { predict } from "./try-network.js";

env.wasm.numThreads = 1;
env.wasm.wasmPaths = new URL("../vendor/onnxruntime-web/", import.meta.url).href;

const folder = new URL("../model/", import.meta.url);
let ready;

async function get(name) {
  const reply = await fetch(new URL(name, folder));
  if (!reply.ok) throw new Error(`${reply.url}: the server answers ${reply.status}. Build the portal anew.`);
  return reply;
}

async function load() {
  const facts = await (await get("network.json")).json();
  const session = await InferenceSession.create(new Uint8Array(await (await get(facts.file)).arrayBuffer()));
  return { facts, session };
}

/** One tile's outputs by name. */
async function runTile(session, wanted, pixels, rows, columns) {
  const image = new Tensor("float32", pixels, [1, 1, rows, columns]);
  const answer = await session.run({ image }, wanted);
  return Object.fromEntries(wanted.map((name) => [name, answer[name].data]));
}

self.onmessage = async ({ data: { image, pixelSizeA } }) => {
  try {
    ready ??= load().catch((error) => {
      ready = undefined;
      throw error;
    });
    const { facts, session } = await ready;
    self.postMessage({ loaded: true });
    const start = performance.now();
    const wanted = [...facts.maps, "columns"];
    const run = (...tile) => runTile(session, wanted, ...tile);
    const found = await predict(run, image, pixelSizeA, facts, (done, all) => self.postMessage({ done, all }));
    const seconds = (performance.now() - start) / 1000;
    self.postMessage({ found: { ...found, seconds } }, Object.values(found.maps).map((map) => map.buffer));
  } catch (error) {
    self.postMessage({ error: error.message ?? String(error) });
  }
};
