"""How large, how quick to open and how smooth the report page is, in headless Chromium: 512x512x128, all slices.

    python Testing/bench/report_page.py [--codec dct16] [--keep FOLDER]

A phantom and its reconstruction with organ labels, at full resolution. Opening ends when the first slice of both
volumes is drawn. Scrolling turns the wheel once per frame through 100 slices, side by side, as difference and as
overlay. Chromium draws without a GPU here: a desk computer is faster.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from ctgencore import phantom
from ctgencore.report import Case, write_page
from ctgencore.tasks.reconstruct import ReconstructOptions, reconstruct

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Core"))
from browser import Browser

SCROLL = """
(async () => {
  const figure = document.querySelector("#grid figure"), times = [], work = [];
  const frame = () => new Promise(requestAnimationFrame);
  moveTo(0, 10);
  await frame(); await frame();
  let last = await frame();
  for (let i = 0; i < 100; i++) {
    figure.dispatchEvent(new WheelEvent("wheel", {deltaY: 100, cancelable: true}));
    const start = performance.now();
    drawNow();
    work.push(performance.now() - start);
    const now = await frame();
    times.push(now - last);
    last = now;
  }
  if (view.position[0] !== 110) throw Error(`scrolled to ${view.position[0]}, not to 110`);
  for (const list of [times, work]) list.sort((a, b) => a - b);
  return [times.reduce((a, b) => a + b) / 100, times[95], work[50]];
})()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", default="dct16")
    parser.add_argument("--keep", type=Path, help="folder to leave the page in")
    arguments = parser.parse_args()
    drawn = phantom.chest((128, 512, 512), findings=("Pleural effusion", "Lung nodule"))
    result = reconstruct(drawn.ct, arguments.codec, ReconstructOptions(device="cpu"))
    case = Case(title="phantom", volumes={"input": drawn.ct, "output": result}, labels=drawn.organs, synthetic=True)
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        started = time.perf_counter()
        page = write_page((arguments.keep or Path(folder)) / "page.html", [case])
        print(f"written in {time.perf_counter() - started:.1f} s, {page.stat().st_size / 1e6:.1f} MB")
        started = time.perf_counter()
        browser.open(page)
        browser.wait("view.store.isReady(view.position[0]) && view.panels[0].key")
        print(f"first slice after {time.perf_counter() - started:.2f} s")
        print(f"held: {browser.run('facts().slices.length')} axial slices in steps of {browser.run('facts().step')} HU")
        browser.wait("view.store.ready === view.store.count")
        print(f"all slices after {time.perf_counter() - started:.2f} s")
        for mode in ("side", "difference", "overlay"):
            browser.run(f"setMode('{mode}')")
            mean, slow, work = browser.run(SCROLL)
            print(
                f"{mode}: {1000 / mean:.0f} slices/s; 95 of 100 within {slow:.0f} ms; {work:.1f} ms of it in our code"
            )
        assert not browser.problems, browser.problems


if __name__ == "__main__":
    main()
