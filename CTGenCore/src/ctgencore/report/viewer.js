// The pictures: which panels there are, what is painted in them, and how mouse, touch and keys move through them.

const PLANES = ["axial", "coronal", "sagittal"];
const SIDES = [["R", "L", "A", "P"], ["R", "L", "S", "I"], ["A", "P", "S", "I"]]; // left, right, top, bottom
const PRESETS = {lung: [-1350, 150], soft: [-175, 250], bone: [-450, 1050], wide: [-1000, 1000]};
const TOLD_EVERY_MS = 60;
const PAGE = JSON.parse(document.getElementById("data").textContent);
const view = {
  number: 0, store: null, mode: "side", plane: "axial", axis: 0, position: [0, 0, 0], lo: -1000, hi: 1000, range: 100,
  opacity: 0.35, hidden: new Set(), cross: true, panels: [], step: 0, playing: false, speed: 15,
};
const byId = id => document.getElementById(id);

function element(parent, tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  parent?.append(made);
  return made;
}

function facts() { return PAGE.cases[view.number]; }

// What a mode shows, in order: {title, kind, volume, other (difference), overlay}.
function shown() {
  const volumes = facts().volumes.map(({name, kind}, volume) => ({title: name, kind, volume}));
  if (view.mode === "sequence") return [sequenceSteps()[view.step].panel];
  if (view.mode === "overlay") return volumes.map(panel => ({...panel, overlay: true}));
  if (view.mode === "side") return volumes;
  const [before, after] = volumes;
  const difference = {title: `${after.title} − ${before.title}`, kind: after.kind || before.kind, volume: 0, other: 1};
  return view.plane === "all" ? [difference] : [before, after, difference];
}

function openCase(number, position) {
  if (view.store) view.store.open = false;
  Object.assign(view, {number, step: 0});
  const shape = facts().shape;
  view.position = position ?? shape.map(n => n >> 1);
  view.hidden = new Set(facts().labels.flatMap((label, i) => label.body ? [i + 1] : []));
  const can = {difference: facts().volumes.length > 1, overlay: facts().labels.length > 0};
  if (can[view.mode] === false) view.mode = "side";
  for (const mode of ["difference", "overlay"]) choice("mode", mode).disabled = !can[mode];
  view.store = new Store(number, facts(), slot => { if (view.store.slots[view.position[0]] === slot || view.plane !== "axial") draw(); });
  snap();
  view.store.load().catch(fail);
  byId("case").value = number;
  byId("text").hidden = !facts().text;
  byId("text").lastElementChild.textContent = facts().text;
  showAccuracy();
  buildLegend();
  buildReadout();
  buildGrid();
}

// How true the page is to the volumes: in short below the pictures, in full when pointed at.
function showAccuracy() {
  const {slices, shape, step, window: [lo, hi]} = facts(), box = byId("held"), fewer = slices.length < shape[0];
  box.textContent = [step === 1 ? "whole HU" : `HU ±${step / 2}`, fewer ? `${slices.length} of ${shape[0]} slices` : ""].filter(Boolean).join(" · ");
  box.title = [
    step === 1 ? "HU are rounded to whole numbers." : `HU are rounded to steps of ${step}: each is up to ${step / 2} HU off, a difference up to ${step}.`,
    fewer ? "The page holds only some of the axial slices; metrics are of all." : "Every slice is here, at full resolution.",
    `The difference picture is inside ${minus(lo)} to ${minus(hi)} HU.`,
  ].join(" ");
}

function buildGrid() {
  const grid = byId("grid"), axes = view.plane === "all" ? [0, 1, 2] : [PLANES.indexOf(view.plane)];
  const panels = shown();
  if (!axes.includes(view.axis)) view.axis = axes[0];
  grid.replaceChildren();
  grid.style.setProperty("--columns", axes.length > 1 ? axes.length : panels.length);
  grid.classList.toggle("all", axes.length > 1);
  view.panels = panels.flatMap(spec => axes.map(axis => addPanel(grid, spec, axis)));
  byId("images").dataset.mode = view.mode;
  for (const name of ["mode", "plane"]) press(name, view[name]);
  buildSliders(axes);
  buildSteps();
  draw();
}

function addPanel(grid, spec, axis) {
  const [rows, columns] = view.store.size(axis), mm = facts().mm.filter((_, i) => i !== axis);
  const figure = element(grid, "figure");
  const frame = element(figure, "div", {className: "frame"});
  frame.style.setProperty("--ratio", columns * mm[1] / (rows * mm[0]));
  const canvas = element(frame, "canvas", {width: columns, height: rows, role: "img"});
  element(frame, "i", {className: "across"});
  element(frame, "i", {className: "down"});
  const caption = element(figure, "figcaption", {}, element(null, "span", {textContent: spec.title}));
  if (spec.overlay) caption.append(" + labels");
  if (spec.kind) element(caption, "b", {className: `badge ${spec.kind}`, textContent: spec.kind});
  SIDES[axis].forEach((side, i) => element(figure, "span", {className: `side ${["left", "right", "top", "bottom"][i]}`, textContent: side}));
  if (spec.other !== undefined) addScale(figure);
  const context = canvas.getContext("2d", {alpha: false}), image = new ImageData(columns, rows);
  const panel = {spec, axis, frame, canvas, context, image, pixels: new Uint32Array(image.data.buffer), key: ""};
  if (axis > 0) panel.gather = [0, 1].map(() => new Uint16Array(rows * columns));
  listen(frame, panel);
  return panel;
}

// The legend of the difference: colors and their HU.
function addScale(figure) {
  const scale = element(figure, "div", {className: "scale"});
  const bar = element(scale, "div", {className: "ramp"});
  bar.style.background = divergingGradient("to right");
  for (const t of [-1, -0.5, 0, 0.5, 1]) element(scale, "span", {className: "tick"}).dataset.t = t;
}

function fractions(panel) { // position along rows (down) and columns (across), as fractions
  const {position, store: {depth, height, width}} = view, [z, y, x] = position.map(p => p + 0.5);
  return [[y / height, x / width], [1 - z / depth, x / width], [1 - z / depth, y / height]][panel.axis];
}

let pending = 0, telling = 0; // texts follow more slowly than pictures: laying them out costs more than painting
function draw() { pending ||= requestAnimationFrame(() => { pending = 0; drawNow(); }); }

function drawNow() {
  const {store, position} = view, {step, window, labels} = facts();
  store.want(position[0]);
  const looks = [view.lo, view.hi, view.range, view.opacity, [...view.hidden]].join();
  if (looks !== view.looks || view.tablesOf !== view.store) {
    const colors = labels.map(label => parseColor(label.color));
    view.grey = greyTable(step, view.lo, view.hi);
    view.overlay = overlayTable(colors, view.hidden, view.opacity);
    view.outlines = Uint32Array.from([0, ...colors.map((c, i) => view.hidden.has(i + 1) ? 0 : rgba(...c))]);
    view.differences = differenceTables(step, window, view.range);
    Object.assign(view, {looks, tablesOf: view.store});
  }
  document.querySelectorAll(".scale .tick").forEach(tick => { tick.textContent = signed(tick.dataset.t * view.range) + (tick.dataset.t === "1" ? " HU" : ""); });
  for (const panel of view.panels) drawPanel(panel);
  telling ||= setTimeout(() => { telling = 0; showPosition(); }, TOLD_EVERY_MS);
}

function drawPanel(panel) {
  const {store, position} = view, {axis, spec, pixels} = panel, index = position[axis];
  const [down, across] = fractions(panel);
  panel.frame.style.setProperty("--down", `${100 * down}%`);
  panel.frame.style.setProperty("--across", `${100 * across}%`);
  panel.frame.classList.toggle("waiting", axis === 0 && !store.isReady(index));
  if (axis === 0 && !store.isReady(index)) return;
  const key = [index, view.looks, axis ? store.ready : 0].join();
  if (key === panel.key) return;
  panel.key = key;
  const at = (stack, place) => store.slice(stack, axis, index, panel.gather?.[place]);
  const steps = at(store.stacks[spec.volume], 0);
  if (spec.other !== undefined) paintDifference(pixels, steps, at(store.stacks[spec.other], 1), view.differences);
  else if (spec.overlay) paintOverlay(pixels, steps, at(store.labels, 1), view.grey, view.overlay, view.outlines, panel.canvas.width);
  else paintGrey(pixels, steps, view.grey);
  panel.context.putImageData(panel.image, 0, 0);
  panel.canvas.ariaLabel = `${spec.title}, ${PLANES[axis]} slice ${index + 1} of ${facts().shape[axis]}`;
}

function minus(value) { return String(value).replace("-", "−"); }

function signed(value) { return value > 0 ? `+${value}` : minus(value); }

// The line below the pictures is built once for a case; moving only changes its texts, which keeps scrolling cheap.
function buildReadout() {
  const box = byId("readout");
  box.replaceChildren();
  const where = element(box, "span", {className: "where"}), volumes = facts().volumes;
  const value = name => element(element(box, "span", {textContent: `${name} `}), "b");
  const values = volumes.map(({name}) => value(name));
  view.readout = {where, values, difference: volumes.length > 1 ? value("difference") : null, organ: element(box, "span", {className: "organ"})};
}

function showPosition() {
  const {store, position, readout} = view, [z, y, x] = position;
  const values = facts().volumes.map((_, i) => store.hu(i, position)), label = facts().labels[store.label(position) - 1];
  readout.where.textContent = `x ${x + 1}  y ${y + 1}  z ${z + 1}`;
  readout.values.forEach((value, i) => { value.textContent = values[i] === null ? "…" : `${minus(values[i])} HU`; });
  if (readout.difference) readout.difference.textContent = values[0] === null ? "…" : `${signed(values[1] - values[0])} HU`;
  readout.organ.textContent = label ? label.name : "";
  readout.organ.style.setProperty("--color", label ? label.color : "transparent");
  document.querySelectorAll("#sliders input").forEach(showSlider);
  byId("steps").style.setProperty("--done", (placeOf(view.axis) + 1) / slots(view.axis));
}

function buildSliders(axes) {
  const box = byId("sliders");
  box.replaceChildren();
  box.style.setProperty("--columns", axes.length);
  for (const axis of axes) {
    const label = element(box, "label"), name = element(label, "span");
    element(name, "em", {textContent: PLANES[axis]});
    element(name, "span");
    const slider = element(label, "input", {type: "range", min: 0, max: slots(axis) - 1, ariaLabel: `${PLANES[axis]} slice`});
    slider.dataset.axis = axis;
    slider.addEventListener("input", () => { view.axis = axis; moveTo(axis, axis ? +slider.value : facts().slices[slider.value]); });
    showSlider(slider);
  }
}

function showSlider(slider) {
  const axis = +slider.dataset.axis, index = view.position[axis];
  const text = `${index + 1} / ${facts().shape[axis]}`;
  slider.value = placeOf(axis);
  slider.ariaValueText = text;
  slider.previousElementSibling.lastElementChild.textContent = text;
}

function placeOf(axis) { return axis ? view.position[axis] : view.store.slots[view.position[0]]; }

// How many slices an axis can be moved through, and where it is among them: axial slices may be fewer than the CT has.
function slots(axis) { return axis ? facts().shape[axis] : facts().slices.length; }

function snap() { view.position[0] = facts().slices[view.store.slots[view.position[0]]]; }

function moveTo(axis, index) {
  view.position[axis] = Math.min(Math.max(index, 0), facts().shape[axis] - 1);
  snap();
  draw();
}

// By so many slices; false at the end.
function moveBy(axis, change) {
  const place = placeOf(axis);
  const next = Math.min(Math.max(place + change, 0), slots(axis) - 1);
  moveTo(axis, axis ? next : facts().slices[next]);
  return next !== place;
}

function listen(frame, panel) {
  const {axis} = panel, figure = frame.parentElement;
  let start = null, rest = 0;
  const point = event => {
    const box = frame.getBoundingClientRect(), [rows, columns] = view.store.size(axis);
    const row = Math.floor((event.clientY - box.top) / box.height * rows), column = Math.floor((event.clientX - box.left) / box.width * columns);
    const r = Math.min(Math.max(row, 0), rows - 1), c = Math.min(Math.max(column, 0), columns - 1);
    const z = view.store.depth - 1 - r;
    view.position = [[view.position[0], r, c], [z, view.position[1], c], [z, c, view.position[2]]][axis];
    snap();
    draw();
  };
  figure.addEventListener("wheel", event => {
    if (event.ctrlKey) return; // zooms the page
    event.preventDefault();
    view.axis = axis;
    rest += event.deltaMode ? Math.sign(event.deltaY) : event.deltaY / (Math.abs(event.deltaY) >= 50 ? Math.abs(event.deltaY) : 30);
    if (Math.trunc(rest)) moveBy(axis, Math.trunc(rest));
    rest -= Math.trunc(rest);
  }, {passive: false});
  frame.addEventListener("pointerdown", event => {
    if (event.button) return;
    view.axis = axis;
    start = {x: event.clientX, index: placeOf(axis), moved: false};
    frame.setPointerCapture(event.pointerId);
    if (event.pointerType === "mouse") point(event);
  });
  frame.addEventListener("pointermove", event => {
    if (!start) return;
    if (event.pointerType === "mouse") return point(event);
    const slices = Math.round((event.clientX - start.x) / Math.max(3, frame.clientWidth / slots(axis)));
    start.moved ||= slices !== 0;
    if (start.moved) moveBy(axis, start.index + slices - placeOf(axis));
  });
  frame.addEventListener("pointerup", event => {
    if (start && !start.moved && event.pointerType !== "mouse") point(event);
    start = null;
  });
  frame.addEventListener("pointercancel", () => { start = null; });
}

function setWindow(lo, hi) {
  Object.assign(view, {lo, hi});
  [byId("low").value, byId("high").value] = [lo, hi];
  const preset = Object.keys(PRESETS).find(name => PRESETS[name][0] === lo && PRESETS[name][1] === hi);
  press("window", preset ?? "custom");
  draw();
}

// The list of labels with their colors; a click hides or shows one.
function buildLegend() {
  const list = byId("labels");
  list.replaceChildren();
  facts().labels.forEach((label, i) => {
    const item = element(element(list, "li"), "label"), box = element(item, "input", {type: "checkbox", checked: !view.hidden.has(i + 1)});
    element(item, "i").style.background = label.color;
    item.append(label.name);
    box.addEventListener("change", () => { view.hidden[box.checked ? "delete" : "add"](i + 1); draw(); });
  });
}

function showLabels(all) {
  view.hidden = new Set(all ? [] : facts().labels.map((_, i) => i + 1));
  buildLegend();
  draw();
}

function choice(name, value) { return document.querySelector(`[data-${name}="${value}"]`); }

function press(name, value) {
  document.querySelectorAll(`button[data-${name}]`).forEach(button => {
    button.ariaPressed = button.dataset[name] === value;
  });
}
