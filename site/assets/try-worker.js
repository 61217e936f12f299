// Runs the network off the page's thread, on one thread of WebAssembly or, if asked, on the graphics card. It fetches the
// model and the runtime from where the page lies; images come by message and go nowhere.
import { predict } from "./try-network.js";

const site = new URL("../", import.meta.url);
const folder = new URL("model/", site);
const ready = new Map();

async function get(name) {
  const reply = await fetch(new URL(name, folder));
  if (!reply.ok) throw new Error(`${reply.url}: the server answers ${reply.status}. Build the portal anew.`);
  return reply;
}

async function load(webgpu) {
  const facts = await (await get("network.json")).json();
  const place = new URL(webgpu ? facts.webgpu : "vendor/onnxruntime-web/ort.wasm.min.mjs", site).href;
  const { env, InferenceSession, Tensor } = await import(place);
  env.wasm.numThreads = 1;
  env.wasm.wasmPaths = new URL("./", place).href;
  // Shapes are worked out by the processor, which the runtime warns of.
  env.logLevel = "error";
  const model = new Uint8Array(await (await get(facts.file)).arrayBuffer());
  const session = await InferenceSession.create(model, { executionProviders: [webgpu ? "webgpu" : "wasm"], logSeverityLevel: 3 });
  return { facts, session, Tensor };
}

/** One tile's outputs by name. */
async function runTile({ session, Tensor }, wanted, pixels, rows, columns) {
  const image = new Tensor("float32", pixels, [1, 1, rows, columns]);
  const answer = await session.run({ image }, wanted);
  return Object.fromEntries(wanted.map((name) => [name, answer[name].data]));
}

/** Network and runtime, loaded once; what failed may be tried again. */
function loaded(webgpu) {
  if (!ready.has(webgpu)) {
    const loading = load(webgpu).catch((error) => {
      ready.delete(webgpu);
      if (webgpu) throw new Error(`The graphics card cannot be used (${error.message ?? error}). Take the tick away and run again.`);
      throw error;
    });
    ready.set(webgpu, loading);
  }
  return ready.get(webgpu);
}

self.onmessage = async ({ data: { image, pixelSizeA, webgpu } }) => {
  try {
    const network = await loaded(webgpu);
    const { facts } = network;
    self.postMessage({ loaded: true });
    const start = performance.now();
    const wanted = [...facts.maps, "columns"];
    const run = (...tile) => runTile(network, wanted, ...tile);
    const found = await predict(run, image, pixelSizeA, facts, (done, all) => self.postMessage({ done, all }));
    const seconds = (performance.now() - start) / 1000;
    self.postMessage({ found: { ...found, seconds } }, Object.values(found.maps).map((map) => map.buffer));
  } catch (error) {
    self.postMessage({ error: error.message ?? String(error) });
  }
};
