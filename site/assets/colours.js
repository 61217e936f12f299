// Colour maps: evenly spaced stops, straight lines between them. Viridis and inferno are matplotlib's (CC0).

const STOPS = {
  grey: "000000 ffffff",
  viridis: "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725",
  inferno: "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d24644 e45a31 f1731d f98e09 fcac11 f9cb35 f2ea69 fcffa4",
  fire: "000000 800000 ff0000 ff8000 ffff00 ffffff",
  ice: "000000 001a4d 0050a0 2090d0 80d0f0 ffffff",
};

export const COLOURS = Object.keys(STOPS);

/** 256 colours of a map, (r, g, b) each. */
export function colours(name) {
  const stops = STOPS[name].split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const table = new Uint8ClampedArray(768);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    for (let k = 0; k < 3; k++) table[3 * i + k] = stops[low][k] + (at - low) * (stops[low + 1][k] - stops[low][k]);
  }
  return table;
}

/** Draw a map on a canvas of its own size. */
export function paint(canvas, { data, shape }, name, [low, high]) {
  const [height, width] = shape;
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const table = colours(name);
  const pen = canvas.getContext("2d");
  const pixels = pen.createImageData(width, height);
  const factor = 255 / (high - low || 1);
  for (let i = 0; i < data.length; i++) {
    const at = 3 * Math.round(Math.min(Math.max((data[i] - low) * factor, 0), 255));
    pixels.data[4 * i] = table[at];
    pixels.data[4 * i + 1] = table[at + 1];
    pixels.data[4 * i + 2] = table[at + 2];
    pixels.data[4 * i + 3] = 255;
  }
  pen.putImageData(pixels, 0, 0);
}
