"""How well the embedded generator follows masks and words, on phantoms that it has never seen.

    python Testing/bench/embedded_generator.py [--phantoms 24] [--text-phantoms 8] [--own-words] [--json rows.json]

Prints the tables of BENCHMARKS.md. Each phantom (seeds from 900000, 64x128x128) is generated twice with one seed: from
organ mask, disease mask and report, and as its healthy twin from the organ mask alone. The ceiling is the same measure
on the phantom's own CT and on that CT through the codec. A report without a disease mask is drawn with a mask drafted
from it, with ``--own-words`` also without (twice the time); what the volumes show, ``probe.py`` says.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctgencore as ctg
import numpy as np
import probe as probes
import torch
from ctgencore import labels, phantom
from ctgencore.intensity import WINDOWS
from ctgencore.phantom.findings import plan
from ctgencore.phantom.report import write
from ctgencore.phantom.scene import Patient, Phantom
from ctgencore.tasks.generate import GenerateOptions
from ctgencore.tasks.quality import AROUND_MM, assess
from ctgencore.volume import Volume

MODEL = "foundation-embedded"
SHAPE_ZYX = probes.SHAPE_ZYX
FIRST_SEED = 900_000
STREAM = 98
AGREEMENT = {"lung": 0.95, "body": 0.97, "bone": 0.75}  # least mean Dice
RIGHT_WAY, OUTSIDE_HU, SECONDS = 0.9, 15.0, 60.0
CLASSES = {  # mask classes that a phantom can show, and a finding that shows them
    **{finding.disease: finding.name for finding in labels.FINDINGS if finding.disease},
    155: "Pulmonary fibrotic sequela",
    157: "Lung nodule",
}
WAYS = {"draft": "report alone, disease mask drafted from it", "own": "report alone, the network's own words"}
IN_THE_MASK = ("Cardiomegaly", "Hiatal hernia")  # the organ mask shows whether they are there


@dataclass(frozen=True)
class Case:
    """One phantom and what was made of it.

    Attributes:
        drawn: the phantom.
        twin: HU generated from its organ mask alone.
        row: measured values.
    """

    drawn: Phantom
    twin: np.ndarray
    row: dict[str, Any]


def choose(count: int) -> Iterator[tuple[int, list[str]]]:
    """Seeds and findings: every class of masks in turn, with up to two more findings that have masks."""
    seed = FIRST_SEED
    maskable = [finding.name for finding in labels.FINDINGS if finding.disease]
    for number in range(count):
        wanted = list(CLASSES)[number % len(CLASSES)]
        name = CLASSES[wanted]
        while all(fact.disease != wanted for fact in plan(Patient.draw(seed), seed, [name])):
            seed += 1
        rng = np.random.default_rng((seed, STREAM))
        others = [str(other) for other in rng.choice(maskable, size=int(rng.integers(3)), replace=False)]
        yield seed, [name, *(other for other in others if other != name)]
        seed += 1


# --- masks -----------------------------------------------------------------------------------------------------------


def measure(generator: ctg.Generator, seed: int, names: list[str], options: dict[str, Any]) -> Case:
    """Agreement with the mask, and what the disease changes, of one phantom."""
    drawn = phantom.chest(SHAPE_ZYX, seed=seed, findings=names)
    healthy = phantom.chest(SHAPE_ZYX, seed=seed)
    geometry, combined = drawn.ct.geometry, labels.paint(drawn.organs, drawn.diseases)
    ill = generator(drawn.organs, drawn.diseases, drawn.report.text, seed=seed, **options)
    twin = generator(drawn.organs, seed=seed, **options).voxels
    pairs = {
        "phantom": (drawn.ct.voxels, healthy.ct.voxels),
        "codec": (through_codec(generator, drawn.ct), through_codec(generator, healthy.ct)),
        "generated": (ill.voxels, twin),
    }
    row: dict[str, Any] = {
        "seed": seed,
        "findings": sorted(drawn.finding_names),
        "seconds": ill.record.timings_s["run"],
    }
    for source, (hu, without) in pairs.items():
        checks = {check.name: check.value for check in assess(hu, combined, geometry, twin_hu=without).checks}
        row[source] = {
            **{part: checks[f"{part}-agreement"] for part in AGREEMENT},
            "outside": checks["hallucination"],
            "shifts": shifts(hu - without, drawn.diseases.voxels),
        }
    return Case(drawn, twin, row)


def through_codec(generator: ctg.Generator, ct: Volume) -> np.ndarray:
    return generator.codec.reconstruct_hu(ct.voxels, WINDOWS["wide"])


def shifts(change: np.ndarray, diseases: np.ndarray) -> dict[int, float]:
    """Mean change of HU inside the mask of every class that has a direction, counted positive in that direction."""
    found = {}
    for class_id, disease in labels.DISEASES.items():
        inside = diseases == class_id
        if disease.direction and inside.any():
            found[class_id] = disease.direction * float(change[inside].mean(dtype=np.float64))
    return found


# --- words -----------------------------------------------------------------------------------------------------------


def measure_words(
    generator: ctg.Generator, cases: list[Case], probe: probes.Probe, options: dict[str, Any], ways: list[str]
) -> list[dict[str, Any]]:
    """What one sentence does to the probe, with the healthy organ mask and no disease mask, against no report.

    Args:
        ways: of :data:`WAYS`.

    Returns:
        A row per finding, phantom and way. ``inside`` is the change of HU in the mask that a draft has or would have,
        positive in the finding's direction, None where no disease class shows the finding.
    """

    places = [probes.Regions.of(case.drawn.organs.voxels, case.drawn.ct.geometry.spacing_zyx) for case in cases]

    def logits(hu: np.ndarray, regions: probes.Regions) -> np.ndarray:
        return probe.logits(probes.features(hu, regions))

    before = [logits(case.twin, regions) for case, regions in zip(cases, places, strict=True)]
    rows = []
    for name in probe.seen:
        if name in IN_THE_MASK:
            continue
        for case, regions, silent in zip(cases, places, before, strict=True):
            patient = case.drawn.patient
            report = write(plan(patient, patient.seed, [name]), patient, patient.seed).impression
            drafted = ctg.draft_diseases(case.drawn.organs, report, patient.seed).diseases
            own = probes.NAMES.index(name)
            others = [probes.NAMES.index(other) for other in probe.seen if other != name]
            for way in ways:
                if way != "draft" and drafted is None:  # both ways are the same
                    rows.append(rows[-1] | {"way": way})
                    continue
                asked = {"report": report, "seed": patient.seed, "draft": way == "draft"}
                spoken = generator(case.drawn.organs, **asked, **options).voxels
                change = logits(spoken, regions) - silent
                moved = shifts(spoken - case.twin, drafted.voxels) if drafted is not None else {}
                rows.append(
                    {
                        "finding": name,
                        "way": way,
                        "seed": patient.seed,
                        "report": report,
                        "change": float(change[own]),
                        "others": float(change[others].mean()) if others else 0.0,
                        "hu": float(np.abs(spoken - case.twin).mean(dtype=np.float64)),
                        "inside": statistics.fmean(moved.values()) if moved else None,
                    }
                )
        log(f"words: {name}")
    return rows


# --- time and memory -------------------------------------------------------------------------------------------------


def measure_alone(options: dict[str, Any]) -> dict[str, float]:
    """Seconds and peak memory of one volume in this process, from the import on."""
    drawn = phantom.chest(SHAPE_ZYX, seed=FIRST_SEED, findings=["Consolidation"])
    started = time.perf_counter()
    generator = ctg.Generator.from_pretrained(MODEL, device="cpu")
    loaded = time.perf_counter()
    generator(drawn.organs, drawn.diseases, drawn.report.text, **options)
    seconds = time.perf_counter() - loaded
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"load": loaded - started, "seconds": seconds, "peak_mib": peak, "threads": torch.get_num_threads()}


def in_own_process(options: dict[str, Any]) -> dict[str, float]:
    line = [sys.executable, __file__, "--one", json.dumps(options)]
    output = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


# --- tables ----------------------------------------------------------------------------------------------------------


def verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def table_of_masks(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"| {len(rows)} unseen phantoms | generated, mean (min) | target | | codec, mean (min) | phantom, mean (min) |",
        "|" + "---|" * 6,
    ]
    for part, least in AGREEMENT.items():
        mean, said = of_all(rows, part, min)
        told = " | ".join(said[source] for source in ("codec", "phantom"))
        met = verdict(mean >= least)
        lines.append(f"| Dice of {part} | {said['generated']} | >= {least:.2f} | {met} | {told} |")
    mean, said = of_all(rows, "outside", max, digits=1)
    told = " | ".join(said[source] for source in ("codec", "phantom"))
    what = f"HU changed > {AROUND_MM:g} mm from the disease, mean (max)"
    lines.append(f"| {what} | {said['generated']} | < {OUTSIDE_HU:g} | {verdict(mean < OUTSIDE_HU)} | {told} |")
    return lines


def of_all(rows: list[dict[str, Any]], field: str, worst: Any, digits: int = 3) -> tuple[float, dict[str, str]]:
    """The generated mean, and mean and worst of every source in words."""
    said = {}
    for source in ("generated", "codec", "phantom"):
        values = [row[source][field] for row in rows]
        said[source] = f"{statistics.fmean(values):.{digits}f} ({worst(values):.{digits}f})"
    return statistics.fmean(row["generated"][field] for row in rows), said


def table_of_diseases(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"| disease class | masks | moved the right way (>= {RIGHT_WAY:.0%}) | HU that way | codec | phantom |",
        "|" + "---|" * 6,
    ]
    every: list[float] = []
    for class_id, disease in labels.DISEASES.items():
        moved = {
            source: [row[source]["shifts"][class_id] for row in rows if class_id in row[source]["shifts"]]
            for source in ("generated", "codec", "phantom")
        }
        values = moved["generated"]
        if not values:
            continue
        every += values
        told = " | ".join(f"{statistics.fmean(moved[source]):.0f}" for source in moved)
        lines.append(f"| {class_id} {disease.name} | {len(values)} | {right_way(values)} | {told} |")
    lines.append(f"| all | {len(every)} | {right_way(every)} | {statistics.fmean(every):.0f} | | |")
    return lines


def right_way(values: list[float]) -> str:
    share = sum(value > 0 for value in values) / len(values)
    return f"{share:.0%} {verdict(share >= RIGHT_WAY)}"


def table_of_words(rows: list[dict[str, Any]], title: str, probe: probes.Probe) -> list[str]:
    lines = [
        f"| {title} | held-out AUC | logit rose | mean change of it | of the other logits | of HU, absolute "
        "| of HU in the draft, the right way |",
        "|" + "---|" * 7,
    ]
    for name in dict.fromkeys(row["finding"] for row in rows):
        of_it = [row for row in rows if row["finding"] == name]
        rose = sum(row["change"] > 0 for row in of_it)
        change, others, hu = (statistics.fmean(row[field] for row in of_it) for field in ("change", "others", "hu"))
        inside = [row["inside"] for row in of_it if row["inside"] is not None]
        shift = f"{statistics.fmean(inside):+.0f}" if inside else "no class"
        told = f"{rose} of {len(of_it)} | {change:+.2f} | {others:+.2f} | {hu:.1f} | {shift}"
        lines.append(f"| {name} | {probe.auc[name]:.2f} | {told} |")
    if rows:
        rose = sum(row["change"] > 0 for row in rows)
        mean = statistics.fmean(row["change"] for row in rows)
        lines.append(f"| all | | {rose} of {len(rows)} | {mean:+.2f} | | | |")
    return lines


def unseen_findings(probe: probes.Probe) -> list[str]:
    unseen = [f"{name} {value:.2f}" for name, value in probe.auc.items() if name not in probe.seen]
    lines = [f"Not seen by the probe (held-out AUC below {probes.VISIBLE_AUC}): {', '.join(unseen) or 'none'}."]
    shown = [name for name in probe.seen if name in IN_THE_MASK]
    if shown:
        lines.append(f"Left out, since the organ mask says whether they are there: {', '.join(shown)}.")
    return lines


def log(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def main() -> None:
    default = GenerateOptions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=24)
    parser.add_argument("--text-phantoms", type=int, default=8, help="0 leaves the words out")
    parser.add_argument("--own-words", action="store_true", help="also reports without a drafted disease mask")
    parser.add_argument("--probe-phantoms", type=int, default=360)
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that draw the probe's phantoms"
    )
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--solver", default=default.solver)
    parser.add_argument("--guidance", type=float, default=default.guidance)
    parser.add_argument("--json", type=Path, help="where to write every measured value")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure_alone(json.loads(arguments.one))))
        return
    options = {"steps": arguments.steps, "solver": arguments.solver, "guidance": arguments.guidance}
    alone = in_own_process(options)
    log(f"alone: {alone}")
    generator = ctg.Generator.from_pretrained(MODEL, device="cpu")
    cases = []
    for seed, names in choose(arguments.phantoms):
        case = measure(generator, seed, names, options)
        kept = len(cases) < arguments.text_phantoms
        cases.append(case if kept else Case(case.drawn, case.twin[:0], case.row))
        log(f"{len(cases)} of {arguments.phantoms}: {json.dumps(case.row['generated'])}")
    rows = [case.row for case in cases]
    parts = [table_of_masks(rows), table_of_diseases(rows)]
    result: dict[str, Any] = {"options": options, "weights": generator.weights, "alone": alone, "masks": rows}
    if arguments.text_phantoms:
        probe = probes.train(arguments.probe_phantoms, arguments.workers)
        ways = list(WAYS) if arguments.own_words else ["draft"]
        spoken = measure_words(generator, cases[: arguments.text_phantoms], probe, options, ways)
        parts += [table_of_words([row for row in spoken if row["way"] == way], WAYS[way], probe) for way in ways]
        parts.append(unseen_findings(probe))
        result |= {"auc": probe.auc, "words": spoken}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
    print(f"{arguments.steps} steps of {arguments.solver}, guidance {arguments.guidance:g}.\n")
    print("\n\n".join("\n".join(part) for part in parts))
    print(
        f"\nA 128x128x64 volume in a process of its own, {alone['threads']} threads: {alone['seconds']:.1f} s (<= "
        f"{SECONDS:g} s, {verdict(alone['seconds'] <= SECONDS)}) after {alone['load']:.1f} s of loading; peak memory "
        f"{alone['peak_mib']:.0f} MiB."
    )


if __name__ == "__main__":
    main()
