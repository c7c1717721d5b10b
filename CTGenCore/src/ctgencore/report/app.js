// Tabs, controls, keys, and what a click on a value does.

const TABS = ["images", "metrics", "provenance", "failures"];
const MODES = ["side", "difference", "overlay", "sequence"];

function fail(error) {
  byId("problem").hidden = false;
  byId("problem").textContent = `The pictures cannot be shown: ${error}`;
}

function openTab(name) {
  for (const tab of TABS) {
    byId(tab).hidden = tab !== name;
    byId(`tab-${tab}`).ariaSelected = tab === name;
    byId(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
  }
  document.body.dataset.tab = name;
  if (name !== "images") play(false);
  if (name === "metrics") showMetrics();
  if (location.hash !== `#${name}`) history.pushState(null, "", `#${name}`);
}

// The worst slice of a value: its case, its slice, the difference if there is one, the crosshair on its region.
function jump(row) {
  const number = PAGE.cases.findIndex(each => each.title === row.case), [axis, index] = row.at;
  play(false);
  const position = PAGE.cases[number].shape.map(n => n >> 1);
  position[axis] = index;
  Object.assign(view, {plane: PLANES[axis], axis, mode: PAGE.cases[number].volumes.length > 1 ? "difference" : "side"});
  openTab("images");
  openCase(number, position);
  const {title, unit} = factsOf(row.metric), region = row.region === "all" ? "" : `, ${row.region}`;
  say(`${title}${region}: ${format(row.value)} ${unit} · worst slice of ${row.case}`);
  const label = facts().labels.findIndex(each => each.name === row.region) + 1;
  if (label) aim(view.store, label, axis, index);
}

// Put the crosshair on a label as soon as its slice is unpacked.
function aim(store, label, axis, index) {
  if (store !== view.store) return;
  if (axis === 0 ? !store.isReady(index) : store.ready < store.count) return void setTimeout(aim, 50, store, label, axis, index);
  view.position = store.middle(label, axis, index) ?? view.position;
  snap();
  draw();
}

let silence = 0;
function say(text) {
  byId("toast").textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => { byId("toast").textContent = ""; }, 6000);
}

function setMode(mode) {
  if (choice("mode", mode).disabled) return;
  Object.assign(view, {mode, step: 0});
  buildGrid();
}

function setPlane(plane) {
  view.plane = plane;
  if (plane !== "all") view.axis = PLANES.indexOf(plane);
  buildGrid();
}

function keyed(event) {
  const {target, key} = event;
  if (event.ctrlKey || event.metaKey || event.altKey || byId("images").hidden || byId("help").open) return;
  if (target.closest("input:not([type=range]):not([type=checkbox]), select, textarea")) return;
  if (key === " " && target.closest("button, input, summary")) return;
  if (target.type === "range" && target.dataset.axis === undefined) return;
  const moves = {ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10, Home: -1e6, End: 1e6};
  const windows = Object.keys(PRESETS);
  if (key in moves) moveBy(view.axis, moves[key]);
  else if (key === " ") play(!view.playing);
  else if ("1234".includes(key)) setMode(MODES[key - 1]);
  else if ("acsm".includes(key)) setPlane({a: "axial", c: "coronal", s: "sagittal", m: "all"}[key]);
  else if (key === "w") setWindow(...PRESETS[windows[(windows.findIndex(name => PRESETS[name][0] === view.lo && PRESETS[name][1] === view.hi) + 1) % windows.length]]);
  else if (key === "x") toggleCross();
  else if (key === "n" || key === "p") turnTo(key === "n" ? 1 : -1);
  else if (key === "?") byId("help").showModal();
  else return;
  event.preventDefault();
}

function toggleCross() {
  view.cross = !view.cross;
  byId("cross").ariaPressed = view.cross;
  byId("grid").classList.toggle("uncrossed", !view.cross);
}

function turnTo(change) { openCase((view.number + change + PAGE.cases.length) % PAGE.cases.length); }

function wire() {
  const on = (id, type, act) => byId(id).addEventListener(type, act);
  for (const tab of TABS) on(`tab-${tab}`, "click", () => openTab(tab));
  document.querySelector("nav").addEventListener("keydown", event => {
    const tabs = TABS.filter(tab => !byId(`tab-${tab}`).hidden), change = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!change) return;
    const next = tabs[(tabs.indexOf(document.body.dataset.tab) + change + tabs.length) % tabs.length];
    openTab(next);
    byId(`tab-${next}`).focus();
  });
  window.addEventListener("popstate", () => openTab(tabOfAddress()));
  for (const button of document.querySelectorAll("[data-mode]:is(button)")) button.addEventListener("click", () => setMode(button.dataset.mode));
  for (const button of document.querySelectorAll("button[data-plane]")) button.addEventListener("click", () => setPlane(button.dataset.plane));
  for (const button of document.querySelectorAll("button[data-window]")) {
    button.addEventListener("click", () => button.dataset.window === "custom" ? byId("low").focus() : setWindow(...PRESETS[button.dataset.window]));
  }
  for (const id of ["low", "high"]) on(id, "input", () => { if (byId(id).value !== "") Object.assign(view, {lo: +byId("low").value, hi: +byId("high").value}); press("window", "custom"); draw(); });
  for (const id of ["low", "high"]) on(id, "change", () => setWindow(+byId("low").value, +byId("high").value));
  on("range", "input", () => { view.range = Math.max(+byId("range").value, 1); draw(); });
  on("opacity", "input", () => { view.opacity = byId("opacity").value / 100; draw(); });
  on("speed", "change", () => { view.speed = +byId("speed").value; });
  on("play", "click", () => play(!view.playing));
  on("cross", "click", toggleCross);
  on("keys", "click", () => byId("help").showModal());
  on("all-labels", "click", () => showLabels(true));
  on("no-labels", "click", () => showLabels(false));
  on("case", "change", () => openCase(+byId("case").value));
  on("previous", "click", () => turnTo(-1));
  on("next", "click", () => turnTo(1));
  on("search", "input", () => { chosen.search = byId("search").value; showMetrics(); });
  on("all-regions", "change", () => { chosen.regions = byId("all-regions").checked; showMetrics(); });
  on("regions-more", "click", () => { chosen.all = !chosen.all; showPlots(); });
  document.addEventListener("keydown", keyed);
  let resized = 0;
  window.addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { if (!byId("metrics").hidden) showPlots(); }, 150); });
}

function tabOfAddress() {
  const asked = location.hash.slice(1);
  return TABS.includes(asked) && !byId(`tab-${asked}`).hidden ? asked : TABS.find(tab => !byId(`tab-${tab}`).hidden);
}

function fillLists() {
  PAGE.cases.forEach(({title}, i) => element(byId("case"), "option", {value: i, textContent: title}));
  for (const button of ["previous", "next"]) byId(button).hidden = PAGE.cases.length < 2;
  const failures = PAGE.runs.flatMap(run => run.failures.map(failure => ({...failure, run: run.name})));
  const notes = PAGE.runs.flatMap(run => run.notes);
  byId("tab-images").hidden = byId("cases").hidden = byId("tab-provenance").hidden = !PAGE.cases.length;
  byId("tab-provenance").hidden &&= !PAGE.runs.some(run => run.name);
  byId("tab-metrics").hidden = !SUMMARY.length;
  byId("tab-failures").hidden = !failures.length;
  byId("tab-failures").lastElementChild.textContent = failures.length;
  byId("filters").hidden = SUMMARY.length < 2;
  byId("all-regions").parentElement.hidden = !SUMMARY.some(line => line.region !== "all");
  sortable(byId("failed"), "What could not be measured or shown.", [
    ...(PAGE.runs.length > 1 ? [{title: "Run", value: row => row.run, cell: row => row.run}] : []),
    {title: "Case", value: row => row.case, cell: row => row.case || "–"},
    {title: "Metric", value: row => row.metric, cell: row => row.metric || "all"},
    {title: "Message", value: row => row.message, cell: row => row.message},
  ], failures);
  for (const note of notes) element(byId("notes"), "li", {textContent: note});
  byId("notes").parentElement.hidden = !notes.length;
  for (const {name, about} of PAGE.runs.filter(run => run.name)) {
    const card = element(byId("runs"), "article");
    element(card, "h3", {textContent: `Evaluation ${name}`});
    element(card, "p", {textContent: `${about.cases} cases, ${about.created_utc}; ${Object.entries(about.versions).map(pair => pair.join(" ")).join(", ")}`});
    const details = element(card, "details");
    element(details, "summary", {textContent: "Options and inputs"});
    element(details, "pre", {textContent: JSON.stringify({options: about.options, sets: about.sets, inputs: about.inputs}, null, 2)});
  }
  showVerdicts();
}

function main() {
  fillLists();
  wire();
  if (PAGE.cases.length) {
    setWindow(...PAGE.cases[0].window);
    openCase(0);
  }
  openTab(tabOfAddress());
  document.body.dataset.ready = "true";
}

try { main(); } catch (error) { fail(error); throw error; }
