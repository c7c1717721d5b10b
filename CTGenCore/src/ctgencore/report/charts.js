// Plots as SVG: how cases spread (box and dots), and how regions compare (bars with 95 % confidence intervals).

const COLORS = ["#6cb6ff", "#ffb454", "#7fd1a0", "#f28fb1", "#b8a1ff", "#e6dc6e"];
const SVG = document.querySelector("svg").namespaceURI;
const LANE = 58, BAR = 22, LISTED = 20;

function svg(parent, tag, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  parent?.append(made);
  return made;
}

// About `count` round numbers that span [lo, hi].
function ticks(lo, hi, count) {
  const raw = (hi - lo) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find(m => m * power >= raw) * power;
  const first = Math.ceil(lo / step - 1e-9), n = Math.floor(hi / step + 1e-9) - first;
  return Array.from({length: n + 1}, (_, i) => +((first + i) * step).toPrecision(12));
}

function quantile(sorted, q) {
  const place = q * (sorted.length - 1), below = Math.floor(place);
  return sorted[below] + (place - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

// A frame with a value axis at the bottom; returns where a value lies.
function valueAxis(plot, {left, width, height, lo, hi}) {
  const x = value => left + (value - lo) / (hi - lo) * (width - left - 16);
  for (const value of ticks(lo, hi, Math.max(2, Math.floor((width - left) / 90)))) {
    svg(plot, "line", {x1: x(value), x2: x(value), y1: 4, y2: height - 24, class: value === 0 ? "zero" : "gridline"});
    svg(plot, "text", {x: x(value), y: height - 8, "text-anchor": "middle", class: "tick"}, format(value));
  }
  return x;
}

function start(box, height, label) {
  box.replaceChildren();
  const width = Math.max(box.clientWidth, 280);
  return [svg(box, "svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label}), width];
}

function clickable(shape, row, what) {
  svg(shape, "title", {}, what + (row?.at ? ": show its worst slice" : ""));
  if (!row?.at) return;
  shape.classList.add("link");
  shape.addEventListener("click", () => jump(row));
}

// One lane for each run: dots are cases, the box is quartiles, the line in it the median.
function drawCases(box, lanes, {title, unit}) {
  const values = lanes.flatMap(lane => lane.rows.map(row => number(row.value))).filter(Number.isFinite);
  if (!values.length) return box.replaceChildren("No case has a finite value.");
  const spread = Math.max(...values) - Math.min(...values) || Math.abs(values[0]) || 1;
  const lo = Math.min(...values) - 0.08 * spread, hi = Math.max(...values) + 0.08 * spread;
  const height = lanes.length * LANE + 32, left = lanes.length > 1 ? 110 : 10;
  const [plot, width] = start(box, height, `${title}: ${values.length} values from ${format(Math.min(...values))} to ${format(Math.max(...values))}`);
  const x = valueAxis(plot, {left, width, height, lo, hi});
  lanes.forEach((lane, i) => {
    const y = i * LANE + LANE / 2, color = COLORS[i % COLORS.length];
    const sorted = lane.rows.map(row => number(row.value)).filter(Number.isFinite).sort((a, b) => a - b);
    if (lanes.length > 1) svg(plot, "text", {x: 0, y: y + 4, class: "name"}, shorten(lane.name, 16));
    if (sorted.length > 2) {
      const [q1, median, q3] = [0.25, 0.5, 0.75].map(q => quantile(sorted, q));
      svg(plot, "line", {x1: x(sorted[0]), x2: x(sorted[sorted.length - 1]), y1: y, y2: y, class: "whisker"});
      svg(plot, "rect", {x: x(q1), width: Math.max(x(q3) - x(q1), 1), y: y - 14, height: 28, rx: 3, class: "box", stroke: color, fill: color});
      svg(plot, "line", {x1: x(median), x2: x(median), y1: y - 14, y2: y + 14, class: "median"});
    }
    lane.rows.forEach((row, j) => {
      const value = number(row.value);
      if (!Number.isFinite(value)) return;
      const up = sorted.length > 1 ? (j * 0.618 % 1 - 0.5) * 24 : 0; // dots beside each other, always in the same way
      clickable(svg(plot, "circle", {cx: x(value), cy: y + up, r: 4.5, fill: color, class: "dot"}), row, `${row.case}: ${format(value)} ${unit}`);
    });
  });
}

// One bar for each region (and run), the worst on top.
function drawRegions(box, items, {title, unit, all}) {
  const drawn = all ? items : items.slice(0, LISTED);
  const ends = drawn.flatMap(item => [item.mean, ...item.ci].filter(Number.isFinite));
  if (!ends.length) return box.replaceChildren("No region has a finite value.");
  const lo = Math.min(0, ...ends), hi = Math.max(0, ...ends), height = drawn.length * BAR + 34;
  const [plot, width] = start(box, height, `${title}: means of ${items.length} regions`);
  const left = Math.min(190, width * 0.42);
  const x = valueAxis(plot, {left, width: width - 44, height, lo, hi: hi === lo ? lo + 1 : hi});
  drawn.forEach((item, i) => {
    const y = 6 + i * BAR, middle = y + BAR / 2 - 1, color = COLORS[item.run % COLORS.length];
    svg(plot, "text", {x: left - 8, y: middle + 4, "text-anchor": "end", class: "name"}, shorten(item.name, left / 7));
    if (!Number.isFinite(item.mean)) return svg(plot, "text", {x: left + 4, y: middle + 4, class: "tick"}, "not defined");
    const from = Math.min(x(0), x(item.mean)), bar = svg(plot, "rect", {
      x: from, y: y + 3, width: Math.max(Math.abs(x(item.mean) - x(0)), 1), height: BAR - 8, rx: 2, fill: color, class: "bar",
    });
    clickable(bar, item.worst, `${item.name}: ${format(item.mean)} ${unit}`);
    if (item.ci.every(Number.isFinite)) {
      svg(plot, "line", {x1: x(item.ci[0]), x2: x(item.ci[1]), y1: middle, y2: middle, class: "interval"});
      for (const end of item.ci) svg(plot, "line", {x1: x(end), x2: x(end), y1: middle - 4, y2: middle + 4, class: "interval"});
    }
    svg(plot, "text", {x: width, y: middle + 4, "text-anchor": "end", class: "value"}, format(item.mean));
  });
}

function shorten(text, length) { return text.length > length ? text.slice(0, length - 1) + "…" : text; }
