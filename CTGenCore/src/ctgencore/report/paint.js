// From steps of HU and label numbers to pixels; every function fills a Uint32Array of RGBA.

const OPAQUE = 0xff000000;
const DIVERGING = [ // where output minus input lies between -range and +range: light blue, black, light orange
  [-1, 178, 214, 255], [-0.6, 64, 128, 224], [-0.25, 24, 52, 110], [0, 8, 9, 11],
  [0.25, 112, 34, 22], [0.6, 228, 84, 48], [1, 255, 206, 164],
];

function rgba(r, g, b) { return (OPAQUE | b << 16 | g << 8 | r) >>> 0; }

function greyOf(hu, lo, hi) { return Math.round(Math.min(Math.max((hu - lo) / Math.max(hi - lo, 1), 0), 1) * 255); }

function diverging(t) {
  t = Math.min(Math.max(t, -1), 1);
  const k = Math.max(1, DIVERGING.findIndex(stop => t <= stop[0]));
  const [a, b] = [DIVERGING[k - 1], DIVERGING[k]], w = (t - a[0]) / (b[0] - a[0]);
  return [1, 2, 3].map(i => Math.round(a[i] + w * (b[i] - a[i])));
}

// Grey of every step of HU, as 0..255.
function greyTable(step, lo, hi) {
  return Uint8Array.from({length: Math.ceil(4096 / step) + 1}, (_, i) => greyOf(PAGE.lowest + step * i, lo, hi));
}

function paintGrey(pixels, steps, grey) {
  const table = Uint32Array.from(grey, g => rgba(g, g, g));
  for (let i = 0; i < pixels.length; i++) pixels[i] = table[steps[i]];
}

// Color of every label over every grey: place 256 * label + grey. Hidden labels leave the grey.
function overlayTable(colors, hidden, opacity) {
  const table = new Uint32Array(256 * (colors.length + 1));
  for (let label = 0; label <= colors.length; label++) {
    const color = label && !hidden.has(label) ? colors[label - 1] : null, w = color ? opacity : 0;
    for (let g = 0; g < 256; g++) {
      const mix = c => Math.round((1 - w) * g + w * (color ? color[c] : 0));
      table[256 * label + g] = rgba(mix(0), mix(1), mix(2));
    }
  }
  return table;
}

// Filled labels with a full line where a label ends.
function paintOverlay(pixels, steps, labels, grey, table, outlines, width) {
  const n = pixels.length;
  for (let i = 0; i < n; i++) {
    const label = labels[i];
    const edge = label && outlines[label] &&
      (labels[i - 1] !== label || labels[i + 1] !== label || labels[i - width] !== label || labels[i + width] !== label);
    pixels[i] = edge ? outlines[label] : table[256 * label + grey[steps[i]]];
  }
}

// Both clipped to the window [lo, hi] of the case: a network that saw no more cannot return more.
function differenceTables(step, [lo, hi], range) {
  const levels = Math.ceil(4096 / step) + 1;
  const inside = Int16Array.from({length: levels}, (_, i) => Math.min(Math.max(PAGE.lowest + step * i, lo), hi));
  const colors = Uint32Array.from({length: 8193}, (_, i) => rgba(...diverging((i - 4096) / range)));
  return {inside, colors};
}

function paintDifference(pixels, before, after, {inside, colors}) {
  for (let i = 0; i < pixels.length; i++) pixels[i] = colors[inside[after[i]] - inside[before[i]] + 4096];
}

function divergingGradient(direction) {
  const stops = DIVERGING.map(([t, r, g, b]) => `rgb(${r} ${g} ${b}) ${50 + 50 * t}%`);
  return `linear-gradient(${direction}, ${stops.join(", ")})`;
}

function parseColor(text) { return [1, 3, 5].map(i => parseInt(text.slice(i, i + 2), 16)); }
