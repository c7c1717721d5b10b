"""The HTML page in headless Chromium: the voxels that are drawn, and what mouse, keys, touch and tables do."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import AVAILABLE, Browser
from ctgencore.geometry import Geometry
from ctgencore.report import Case, Page
from ctgencore.volume import LabelMap, Volume

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="no chromium on this machine")

SHAPE = (12, 20, 16)
GRID = Geometry(SHAPE[::-1], (1.0, 1.0, 2.0))
MINUS = "\N{MINUS SIGN}"
ALL_READY = "view.store.ready === view.store.count"


def volumes() -> dict[str, Volume]:
    """Smooth, noisy and wild voxels: every class and the escape of the packing."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices(SHAPE)
    before = 40.0 * z + 10 * y - 30 * x + rng.integers(-5, 6, SHAPE)
    before[4:8, 5:12] = rng.integers(-1024, 3072, (4, 7, SHAPE[2]))
    after = before + np.where(x > 8, 50, -30) * (y > 3)
    return {"before": Volume(before, GRID), "after": Volume(after.clip(-1024, 3071), GRID)}


def organs() -> LabelMap:
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[:, 4:10, 3:9] = 1  # liver
    voxels[3:7, 12:18, 10:14] = 23  # left lung lobe or whatever it is called: a second color
    voxels[:, :2] = 200  # body: hidden until asked for
    return LabelMap(voxels, GRID)


def numbers(case: str) -> list[dict[str, object]]:
    facts = {"metric": "mae", "note": "", "case": case}
    return [
        {**facts, "region": "all", "value": 7.5 if case == "one" else 12.25, "slice": 3},
        {**facts, "region": "liver", "value": 3.0 if case == "one" else 1.0, "slice": 5},
        {**facts, "region": "spleen", "value": None, "slice": None, "note": "not in this scan"},
    ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    content = {
        "metrics": {"mae": {"title": "Mean absolute error", "unit": "HU", "better": "lower"}},
        "rows": [*numbers("one"), *numbers("two")],
        "failures": [{"case": "three", "metric": "", "code": "input", "message": "three.nii.gz has no partner."}],
        "about": {},
        "cases": 2,
        "created_utc": "2026-01-01",
        "versions": {"ctgencore": "1"},
    }
    page = Page(2, evaluations={"run": content})
    pair = volumes()
    page.add(Case(title="one", volumes=pair, labels=organs(), text="Clear lungs."))
    page.add(Case(title="two", volumes={"before": pair["after"], "after": pair["before"]}, synthetic=True))
    path = page.write(tmp_path_factory.mktemp("page") / "page.html")
    with Browser() as found:
        found.path = path  # type: ignore[attr-defined]
        yield found


@pytest.fixture
def opened(browser: Browser) -> Iterator[Browser]:
    """The page, fresh, with all slices unpacked."""
    browser.resize(1280, 800)
    browser.open(browser.path, "#images")  # type: ignore[attr-defined]
    browser.wait(ALL_READY)
    browser.settle()
    yield browser
    assert browser.problems == []


def pixels(browser: Browser, panel: int = 0) -> np.ndarray:
    """RGB of a panel as it is drawn, (rows, columns, 3)."""
    browser.settle()
    width, height, text = browser.run(
        f"""(() => {{
          const {{context, canvas: {{width, height}}}} = view.panels[{panel}];
          return [width, height, btoa(String.fromCharCode(...context.getImageData(0, 0, width, height).data))];
        }})()"""
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[..., :3].astype(int)


def grey(hu: np.ndarray, lo: float, hi: float) -> np.ndarray:
    return np.repeat(np.floor((hu.clip(lo, hi) - lo) / (hi - lo) * 255 + 0.5)[..., None], 3, axis=-1)


def plane(voxels: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A slice as it is shown: the head on top."""
    found = voxels.take(index, axis=axis)
    return found if axis == 0 else found[::-1]


def test_the_right_voxels_are_drawn_in_every_plane_and_window(opened: Browser) -> None:
    pair = [volume.voxels for volume in volumes().values()]
    opened.key("m")
    for position in ([6, 10, 8], [0, 0, 0], [11, 19, 15], [5, 7, 3]):
        opened.run(f"view.position = {position}; draw()")
        for row, voxels in enumerate(pair):
            for axis in range(3):
                expected = grey(plane(voxels, axis, position[axis]), -1000, 1000)
                assert np.array_equal(pixels(opened, 3 * row + axis), expected), (position, row, axis)
    for name, (lo, hi) in {"lung": (-1350, 150), "soft": (-175, 250), "bone": (-450, 1050)}.items():
        opened.click(f"button[data-window={name}]")
        assert np.array_equal(pixels(opened), grey(pair[0][5], lo, hi)), name
        assert opened.run("[byId('low').value, byId('high').value]") == [str(lo), str(hi)]
    opened.run("byId('low').value = -20; byId('high').value = 80; byId('high').dispatchEvent(new Event('change'))")
    assert np.array_equal(pixels(opened), grey(pair[0][5], -20, 80))
    assert opened.run("choice('window', 'custom').ariaPressed") == "true"


def test_the_difference_is_in_color_with_a_scale(opened: Browser) -> None:
    opened.key("2")
    assert opened.run("view.panels.map(panel => panel.spec.title)") == ["before", "after", f"after {MINUS} before"]
    before, after = (volume.voxels[6].clip(-1000, 1000) for volume in volumes().values())
    found, change = pixels(opened, 2), after - before
    ramp = opened.run("[-100, -50, -30, 0, 50, 100].map(d => diverging(d / 100))")
    for value, color in zip((-30, 0, 50), (ramp[2], ramp[3], ramp[4]), strict=True):
        assert (change == value).any()
        assert np.all(found[change == value] == color), value
    assert ramp[0][2] > ramp[0][0]  # blue below,
    assert ramp[5][0] > ramp[5][2]  # red above
    assert [sum(color) for color in ramp[:4]] == sorted((sum(color) for color in ramp[:4]), reverse=True)
    ticks = "[...document.querySelectorAll('.scale .tick')].map(tick => tick.textContent)"
    opened.settle()
    assert opened.run(ticks) == [f"{MINUS}100", f"{MINUS}50", "0", "+50", "+100 HU"]
    opened.run("byId('range').value = 50; byId('range').dispatchEvent(new Event('input'))")
    assert np.all(pixels(opened, 2)[change == 50] == ramp[5])
    assert opened.run(ticks)[-1] == "+50 HU"


def test_the_overlay_colors_labels_by_name_and_leaves_the_rest(opened: Browser) -> None:
    opened.key("3")
    base, labels = grey(volumes()["before"].voxels[6], -1000, 1000), organs().voxels[6]
    found = pixels(opened)
    color = np.array(opened.run("parseColor(facts().labels[0].color)"))
    assert np.array_equal(found[(labels == 0) | (labels == 200)], base[(labels == 0) | (labels == 200)])
    inside = np.zeros_like(labels, bool)
    inside[5:9, 4:8] = True
    assert np.abs(found[inside] - (0.65 * base[inside] + 0.35 * color)).max() <= 0.5 + 1e-3
    assert np.all(found[4, 3:9] == color)  # its border, in full
    assert opened.run("[...document.querySelectorAll('#labels label')].map(item => item.textContent)") == [
        *("liver", opened.run("facts().labels[1].name"), "body")
    ]
    opened.click("#labels input")  # the liver
    assert np.array_equal(pixels(opened)[labels == 1], base[labels == 1])
    opened.click("#all-labels")
    assert not np.array_equal(pixels(opened)[labels == 200], base[labels == 200])
    opened.click("#no-labels")
    assert np.array_equal(pixels(opened), base)


def test_wheel_keys_slider_and_touch_scroll(opened: Browser) -> None:
    voxels = volumes()["before"].voxels

    def at() -> int:
        z = opened.run("view.position[0]")
        assert np.array_equal(pixels(opened), grey(voxels[z], -1000, 1000))
        return int(z)

    assert at() == 6
    opened.wheel("#grid figure", 2)
    assert at() == 8
    opened.wheel("#grid figure", -3)
    assert at() == 5
    opened.key("ArrowUp")
    assert at() == 6
    opened.key("End")
    assert at() == 11
    opened.key("PageDown")
    assert at() == 1
    opened.run("{const s = document.querySelector('#sliders input'); s.value = 4; s.dispatchEvent(new Event('input'))}")
    assert at() == 4
    opened.resize(390, 844, touch=True)
    x, y = opened.middle(".frame")
    opened.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    for moved in (20, 40, 60):
        opened.send("Input.dispatchTouchEvent", type="touchMove", touchPoints=[{"x": x + moved, "y": y}])
    opened.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert at() > 4


def test_the_crosshair_is_linked_and_tells_hu_and_organ(opened: Browser) -> None:
    opened.key("m")
    opened.settle()
    box = opened.run(
        "(() => { const b = view.panels[1].frame.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
    )
    x = box[0] + (5 + 0.5) / SHAPE[2] * box[2]  # a coronal picture: x across, head on top
    y = box[1] + (SHAPE[0] - 1 - 2 + 0.5) / SHAPE[0] * box[3]
    for kind in ("mousePressed", "mouseReleased"):
        opened.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert opened.run("view.position") == [2, 10, 5]
    opened.run("view.position[1] = 6; draw()")
    opened.settle()
    for panel in opened.run("view.panels.map(p => [p.axis, p.frame.style.cssText])"):
        share = {0: (6, 20, 5, 16), 1: (9, 12, 5, 16), 2: (9, 12, 6, 20)}[panel[0]]
        expected = [100 * (share[0] + 0.5) / share[1], 100 * (share[2] + 0.5) / share[3]]
        found = [
            float(part.split("%")[0].split(":")[1])
            for part in panel[1].split(";")
            if "down" in part or "across" in part
        ]
        assert np.allclose(found, expected, atol=1e-3), panel
    opened.wait("byId('readout').textContent.includes('y 7')")
    text = opened.run("byId('readout').innerText")
    before, after = (int(volume.voxels[2, 6, 5]) for volume in volumes().values())
    assert f"before {before} HU".replace("-", MINUS) in text
    assert f"after {after} HU".replace("-", MINUS) in text
    assert f"{MINUS}30 HU" in text
    assert "liver" in text


def test_the_sequence_plays_volumes_labels_and_the_next_case(opened: Browser) -> None:
    opened.run("view.speed = 1000")
    opened.key("4")
    steps = opened.run("[...document.querySelectorAll('#steps li')].map(item => item.textContent.trim())")
    assert steps == ["1 before", "2 after", "3 after + labels", "then two"]
    opened.run(
        "window.seen = []; { const old = moveTo; moveTo = (...a) => { old(...a); "
        "seen.push([view.number, view.step, view.position[0]].join()); }; }"
    )
    opened.key(" ")
    opened.wait("view.number === 1 && view.step === 1")
    opened.key(" ")
    assert opened.run("view.playing") is False
    seen = opened.run("[...new Set(seen)]")
    assert seen[:36] == [f"0,{step},{z}" for step in range(3) for z in range(12)]
    assert "1,0,11" in seen
    assert opened.run("document.querySelectorAll('#grid .badge.synthetic').length") == 1


def test_tables_sort_and_a_click_opens_the_worst_slice(opened: Browser) -> None:
    opened.click("#tab-metrics")
    assert opened.run("location.hash") == "#metrics"
    assert (
        opened.run("document.querySelector('#summary td:last-child').innerText.replaceAll('\\n', ' ')") == "two slice 4"
    )
    values = "[...document.querySelectorAll('#values tbody tr')].map(row => row.cells[2].textContent)"
    sort = "document.querySelectorAll('#values th button')[2].click()"
    assert opened.run(values) == ["7.5", "12.25"]
    opened.run(sort)
    opened.run(sort)
    assert opened.run(values) == ["12.25", "7.5"]
    assert opened.run("document.querySelectorAll('#values th')[2].ariaSort") == "descending"
    opened.click("#all-regions")
    assert opened.run("[...document.querySelectorAll('#summary tbody tr')].map(row => row.cells[1].textContent)") == [
        *("whole volume", "liver", "spleen")
    ]
    assert "not in this scan" in opened.run("byId('values').innerText")
    assert opened.run("document.querySelectorAll('#cases-plot circle').length") == 2
    assert opened.run("document.querySelectorAll('#regions-plot rect.bar').length") == 1
    opened.run("document.querySelector('#regions-plot .bar').dispatchEvent(new MouseEvent('click'))")
    opened.wait(f"{ALL_READY} && view.position[1] === 6")  # the middle of the liver
    assert opened.run("[facts().title, view.mode, view.plane, view.position]") == [
        "one",
        "difference",
        "axial",
        [5, 6, 5],
    ]
    assert "liver: 3 HU" in opened.run("byId('toast').textContent")
    opened.run("history.back()")
    opened.wait("!byId('metrics').hidden")
    opened.click("#tab-failures")
    assert "three.nii.gz has no partner." in opened.run("byId('failed').innerText")


def test_everything_has_a_name_and_fits_any_width(opened: Browser) -> None:
    for width, height in ((1280, 800), (390, 844)):
        opened.resize(width, height)
        for tab in ("images", "metrics", "provenance", "failures"):
            opened.run(f"openTab('{tab}')")
            for mode in ("side", "difference", "overlay", "sequence") if tab == "images" else ("side",):
                opened.run(f"setMode('{mode}')")
                opened.settle()
                assert opened.run("document.documentElement.scrollWidth") <= width, (tab, mode)
                assert opened.run("view.panels.every(p => p.canvas.clientWidth > 60)") or tab != "images", (width, mode)
    nameless = opened.run(
        "[...document.querySelectorAll('button, input, select, canvas')].map(e => [e, e.labels?.[0] ?? e])"
        ".filter(([e, label]) => !(e.ariaLabel || label.textContent.trim())).map(([e]) => e.outerHTML)"
    )
    assert nameless == []


def test_a_page_with_some_of_the_slices_scrolls_through_those(browser: Browser, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    voxels = rng.normal(0, 300, (30, 64, 64)).round()
    case = Case(title="x", volumes={"a": Volume(voxels, Geometry((64, 64, 30)))})
    page = Page(1, max_bytes=40_000)
    page.add(replace(case, volumes={"a": Volume(voxels.astype(np.float32), Geometry((64, 64, 30)))}))
    browser.resize(1280, 800)
    browser.open(page.write(tmp_path / "page.html"))
    browser.wait(ALL_READY)
    slices = browser.run("facts().slices")
    assert 3 < len(slices) < 30
    browser.key("Home")
    assert browser.run("view.position[0]") == slices[0]
    browser.wheel("#grid figure", 1)
    assert browser.run("view.position[0]") == slices[1]
    rounded = np.floor((voxels[slices[1]] + 1024) / 4 + 0.5) * 4 - 1024
    assert np.abs(pixels(browser) - grey(rounded, -1000, 1000)).max() <= 1  # halves round to even here, up there
    assert browser.run("byId('held').textContent") == f"HU ±2 · {len(slices)} of 30 slices"
    assert browser.problems == []
