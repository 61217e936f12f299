// Small helpers for building pages.

/** An element with attributes and children; attributes that are null or false are left out. */
export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  node.append(...children);
  return node;
}

/** A number for reading: three significant digits, thousands parted, powers of ten for large ones. */
export function figure(value) {
  if (!Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 1e5) return value.toExponential(1).replace("e+", " × 10^").replace(/\^(\d+)/, (_, digits) => digits.replace(/\d/g, (d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]));
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Number(value.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 6 });
}
