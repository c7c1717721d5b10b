// Play: slices in turn, or in the mode "sequence" one volume after the other: input, output, output with labels, next case.

function sequenceSteps() {
  const volumes = facts().volumes.map(({name, kind}, volume) => ({name, panel: {title: name, kind, volume}}));
  const last = volumes[volumes.length - 1];
  if (facts().labels.length) volumes.push({name: `${last.name} + labels`, panel: {...last.panel, overlay: true}});
  return volumes;
}

function buildSteps() {
  const box = byId("steps");
  box.replaceChildren();
  if (view.mode !== "sequence") return;
  sequenceSteps().forEach(({name}, i) => {
    const item = element(box, "li"), button = element(item, "button", {ariaPressed: i === view.step});
    button.append(element(null, "b", {textContent: i + 1}), ` ${name}`, element(null, "i"));
    button.addEventListener("click", () => { goTo(i); });
  });
  if (PAGE.cases.length > 1) {
    element(box, "li", {className: "dim", textContent: `then ${PAGE.cases[(view.number + 1) % PAGE.cases.length].title}`});
  }
}

function goTo(step) {
  view.step = step;
  buildGrid();
}

function first() { return view.axis ? 0 : facts().slices[0]; }

let due = 0;
function play(on) {
  view.playing = on;
  const button = byId("play");
  button.ariaLabel = on ? "Pause" : "Play";
  button.dataset.on = on;
  if (on && view.mode === "sequence") moveTo(view.axis, first());
  if (on) {
    due = performance.now();
    requestAnimationFrame(tick);
  }
}

function tick(now) {
  if (!view.playing) return;
  requestAnimationFrame(tick);
  if (now < due || (view.axis === 0 && !view.store.isReady(view.position[0]))) return;
  due = Math.max(due + 1000 / view.speed, now - 1000 / view.speed);
  if (!moveBy(view.axis, 1)) atEnd();
}

function atEnd() {
  if (view.mode === "sequence") {
    if (view.step + 1 < sequenceSteps().length) goTo(view.step + 1);
    else if (PAGE.cases.length > 1) openCase((view.number + 1) % PAGE.cases.length);
    else goTo(0);
  }
  moveTo(view.axis, first());
}
