// Metrics: the summary, plots of what is selected in it, and the single values; a click on a value opens its worst slice.

const ROWS = PAGE.runs.flatMap((run, place) => run.rows.map(row => ({...row, run: place})));
const SUMMARY = PAGE.runs.flatMap((run, place) => (run.summary.length ? run.summary : summarize(run.rows)).map(line => ({...line, run: place})));
const chosen = {metric: "", region: "all", search: "", regions: false, all: false};
const ARROWS = {higher: "↑", lower: "↓", zero: "→ 0"};

function number(value) { return value === null || value === undefined ? NaN : typeof value === "string" ? (value === "-inf" ? -Infinity : Infinity) : value; }

function format(value) {
  value = number(value);
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const text = Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-4) ? value.toExponential(2) : String(+value.toPrecision(4));
  return text.replaceAll("-", "−");
}

function factsOf(metric) { return {title: metric, unit: "", better: "", ...PAGE.metrics[metric]}; }

function summarize(rows) {
  const groups = new Map();
  for (const row of rows) {
    const key = `${row.metric}\n${row.region}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  return [...groups.values()].map(found => {
    const values = found.map(row => number(row.value)).filter(value => !Number.isNaN(value)).sort((a, b) => a - b), n = values.length;
    const mean = values.reduce((a, b) => a + b, 0) / n;
    const sd = n > 1 ? Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / (n - 1)) : null;
    const {metric, region} = found[0];
    return {metric, region, n, mean, sd, median: n ? quantile(values, 0.5) : null, min: values[0], max: values[n - 1], ci95: [null, null], worst: worstOf(found)?.case ?? ""};
  });
}

// How bad a value is; larger is worse.
function badness(metric, value) {
  return {higher: -number(value), lower: number(value), zero: Math.abs(number(value))}[factsOf(metric).better] ?? NaN;
}

function worstOf(rows) {
  return rows.filter(row => !Number.isNaN(badness(row.metric, row.value))).sort((a, b) => badness(b.metric, b.value) - badness(a.metric, a.value))[0];
}

function worstRow(line) {
  const rows = ROWS.filter(row => row.run === line.run && row.metric === line.metric && row.region === line.region);
  return rows.find(row => row.case === line.worst) ?? (rows.length === 1 ? rows[0] : worstOf(rows));
}

// A table that sorts by any column. Columns: {title, value(row) to sort by, cell(row) text or node, numeric}.
function sortable(box, caption, columns, rows, {onrow, isChosen = () => false, limit = 100} = {}) {
  let by = null, down = false, most = limit;
  const draw = () => {
    const key = row => { const value = columns[by].value(row); return Number.isNaN(value) ? null : value; };
    const compare = (a, b) => a === b ? 0 : a === null ? 1 : b === null ? -1 : (a < b ? -1 : 1) * (down ? -1 : 1);
    const sorted = by === null ? rows : [...rows].sort((a, b) => compare(key(a), key(b)));
    const table = element(null, "table");
    element(table, "caption", {textContent: caption});
    const head = element(element(table, "thead"), "tr"), body = element(table, "tbody");
    columns.forEach((column, i) => {
      const cell = element(head, "th", {scope: "col", className: column.numeric ? "numeric" : ""});
      cell.ariaSort = by === i ? (down ? "descending" : "ascending") : "none";
      element(cell, "button", {textContent: column.title}).addEventListener("click", () => {
        down = by === i ? !down : false;
        by = i;
        draw();
        box.querySelectorAll("th button")[i].focus();
      });
    });
    for (const row of sorted.slice(0, most)) {
      const line = element(body, "tr", {className: isChosen(row) ? "chosen" : ""});
      for (const column of columns) element(line, "td", {className: column.numeric ? "numeric" : ""}, column.cell(row));
      if (!onrow || !onrow(row)) continue;
      Object.assign(line, {tabIndex: 0}).classList.add("link");
      line.addEventListener("click", event => { if (!event.target.closest("button")) onrow(row)(); });
      line.addEventListener("keydown", event => { if (event.key === "Enter" && event.target === line) onrow(row)(); });
    }
    box.replaceChildren(table);
    if (rows.length > most) {
      element(box, "button", {className: "more", textContent: `Show all ${rows.length}`}).addEventListener("click", () => { most = Infinity; draw(); });
    }
  };
  draw();
}

function metricCell(metric) {
  const {title, better} = factsOf(metric);
  const cell = element(null, "span", {className: "metric", textContent: `${title} ${ARROWS[better] ?? ""}`});
  if (title !== metric) element(cell, "small", {textContent: metric});
  return cell;
}

function jumpButton(row) {
  if (!row?.at) return row?.case ? shorten(row.case, 24) : "";
  const button = element(null, "button", {className: "jump", title: `Show ${row.case}, ${PLANES[row.at[0]]} slice ${row.at[1] + 1}`});
  button.append(element(null, "span", {textContent: row.case}), element(null, "em", {textContent: `slice ${row.at[1] + 1}`}));
  button.addEventListener("click", () => jump(row));
  return button;
}

function matches(...texts) { return texts.join(" ").toLowerCase().includes(chosen.search.toLowerCase()); }

function showMetrics() {
  if (!SUMMARY.length) return;
  const several = PAGE.runs.length > 1, runName = row => PAGE.runs[row.run].name || "this page";
  const isShown = line => (chosen.search || chosen.regions || line.region === "all" || !SUMMARY.some(other => other.metric === line.metric && other.region === "all"))
    && matches(line.metric, factsOf(line.metric).title, line.region, line.worst);
  if (!chosen.metric) [chosen.metric, chosen.region] = [SUMMARY[0].metric, SUMMARY[0].region];
  const unit = metric => element(null, "span", {className: "dim", textContent: factsOf(metric).unit});
  const numeric = (title, get) => ({title, numeric: true, value: line => number(get(line)), cell: line => format(get(line))});
  const run = several ? [{title: "Run", value: runName, cell: runName}] : [];
  const lines = SUMMARY.filter(isShown);
  const anyRegion = SUMMARY.some(line => line.region !== "all");
  const region = anyRegion ? [{title: "Region", value: line => line.region, cell: line => line.region === "all" ? "whole volume" : line.region}] : [];
  const interval = ([lo, hi]) => Number.isNaN(number(lo)) ? "–" : `${format(lo)} to ${format(hi)}`;
  const one = SUMMARY.every(line => line.n < 2); // nothing to spread over
  const numbers = one ? [numeric("Value", line => line.mean)] : [
    {title: "n", numeric: true, value: line => line.n, cell: line => line.n},
    numeric("Mean", line => line.mean), numeric("SD", line => line.sd), numeric("Median", line => line.median),
    numeric("Min", line => line.min), numeric("Max", line => line.max),
    {title: "95% CI", numeric: true, value: line => number(line.ci95[0]), cell: line => interval(line.ci95)},
  ];
  sortable(byId("summary"), `${one ? "Summary" : "Summary over cases"}. Select a row to plot it.`, [
    ...run,
    {title: "Metric", value: line => factsOf(line.metric).title, cell: line => metricCell(line.metric)},
    ...region, ...numbers,
    {title: "Unit", value: line => factsOf(line.metric).unit, cell: line => unit(line.metric)},
    {title: one ? "Case" : "Worst", value: line => line.worst, cell: line => jumpButton(worstRow(line))},
  ], lines, {
    onrow: line => () => {
      Object.assign(chosen, {metric: line.metric, region: line.region});
      showMetrics();
      document.querySelector(".plots").scrollIntoView({block: "nearest", behavior: matchMedia("(prefers-reduced-motion)").matches ? "auto" : "smooth"});
    },
    isChosen: line => line.metric === chosen.metric && line.region === chosen.region,
  });
  showPlots();
  sortable(byId("values"), "Values. Select a row to see its worst slice.", [
    ...run,
    {title: "Case", value: row => row.case, cell: row => row.case},
    ...region,
    {title: "Value", numeric: true, value: row => number(row.value), cell: row => format(row.value)},
    {title: "Unit", value: row => factsOf(row.metric).unit, cell: row => unit(row.metric)},
    {title: "Slice", numeric: true, value: row => row.at ? row.at[1] : NaN, cell: row => row.at ? row.at[1] + 1 : "–"},
    {title: "Note", value: row => row.note, cell: row => element(null, "span", {className: "dim", textContent: row.note})},
  ], ROWS.filter(row => row.metric === chosen.metric && (row.region === chosen.region || chosen.search || chosen.regions) && matches(row.case, row.region, row.metric, factsOf(row.metric).title, row.note)),
  {onrow: row => row.at ? () => jump(row) : null});
}

function showPlots() {
  const {metric, region} = chosen, {title, unit, better, source} = factsOf(metric);
  const where = region === "all" ? "whole volume" : region;
  const lanes = PAGE.runs.map((run, place) => ({name: run.name || "this page", rows: ROWS.filter(row => row.run === place && row.metric === metric && row.region === region)})).filter(lane => lane.rows.length);
  const several = PAGE.runs.length > 1;
  const items = SUMMARY.filter(line => line.metric === metric && line.region !== "all").map(line => ({
    name: several ? `${line.region} · ${PAGE.runs[line.run].name}` : line.region, run: line.run, mean: number(line.mean),
    ci: line.ci95.map(number), worst: worstRow(line), bad: badness(metric, line.mean),
  }));
  if (better) items.sort((a, b) => (Number.isNaN(a.bad) ? -Infinity : a.bad) < (Number.isNaN(b.bad) ? -Infinity : b.bad) ? 1 : -1);
  byId("regions").hidden = !items.length; // before drawing: plots are as wide as their box
  const titled = unit ? `${title} (${unit})` : title;
  byId("cases-title").textContent = `${titled}, ${where}`;
  byId("cases-note").textContent = source ?? "";
  byId("regions-title").textContent = `${titled} by region${better ? ", worst first" : ""}`;
  drawCases(byId("cases-plot"), lanes, {title, unit});
  if (items.length) drawRegions(byId("regions-plot"), items, {title, unit, all: chosen.all});
  const more = byId("regions-more");
  more.hidden = items.length <= LISTED;
  more.textContent = chosen.all ? `Show ${LISTED} only` : `Show all ${items.length}`;
}

function showVerdicts() {
  const verdicts = PAGE.runs.flatMap(run => run.verdicts.map(verdict => ({...verdict, run: run.name})));
  byId("verdicts").hidden = !verdicts.length;
  const list = byId("verdicts").querySelector("ul");
  for (const {metric, region, value, verdict, limit, run} of verdicts) {
    const item = element(list, "li", {className: `verdict ${{OK: "good", caution: "careful", no: "bad"}[verdict] ?? ""}`});
    element(item, "b", {textContent: verdict});
    element(item, "span", {textContent: [factsOf(metric).title, region === "all" ? "" : region, PAGE.runs.length > 1 ? run : ""].filter(Boolean).join(", ")});
    element(item, "span", {className: "dim", textContent: `${`${format(value)} ${factsOf(metric).unit}`.trim()}; ${limit}`});
  }
}
