// Draws a label away from the page, which stays responsive: {name, facts, columns, series} in, {data, shape} out.
import { drawLabel } from "./labels.js";

addEventListener("message", ({ data: { ticket, name, facts, columns, series } }) => {
  try {
    const drawn = drawLabel(name, facts, columns, series);
    postMessage({ ticket, drawn }, [drawn.data.buffer]);
  } catch (error) {
    postMessage({ ticket, error: String(error.message ?? error) });
  }
});
