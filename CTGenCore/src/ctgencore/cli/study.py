"""``ctgencore study``: what reconstructed and synthetic volumes are worth to networks that are trained on them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ..jobs.events import ProgressEvents
from .common import AsJson, Device, Quiet, Threads, Verbose, print_event, reporting, talk, wide
from .progress import Display

if TYPE_CHECKING:
    from ..tasks.downstream import ClassifyOptions, SegmentOptions, Study

SHOWN = 12  # lines of differences; of more, only the means

app = typer.Typer(
    help="Train networks on original, reconstructed or synthetic volumes and compare them on held-out cases.",
    no_args_is_help=True,
)

Output = Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Results; run again to resume.")]
Data = Annotated[
    list[Path] | None,
    typer.Option(help="Folder of pairs or of MSD, a list or a table; may be given often. Default: phantoms."),
]
Test = Annotated[list[Path] | None, typer.Option(help="The same, of other patients. Default: a share of the data.")]
HeldOut = Annotated[float, typer.Option(help="That share.")]
Root = Annotated[Path | None, typer.Option(help="Folder below which a list's volumes lie.")]
ApplyRescale = Annotated[bool, typer.Option("--apply-rescale", help="A list's CTs are raw: apply slope and intercept.")]
Scheme = Annotated[str, typer.Option(help="Numbering of a folder's organ masks, such as totalsegmentator.")]
Phantoms = Annotated[int, typer.Option(help="Phantoms to train on.")]
TestPhantoms = Annotated[int, typer.Option(help="Phantoms to test on.")]
StudySeed = Annotated[list[int] | None, typer.Option("--seed", help="Repeat for several. Default: 0 1 2.")]
TrainSteps = Annotated[int, typer.Option(help="Optimizer steps of each arm.")]
Batch = Annotated[int, typer.Option(help="Volumes or patches per step.")]
Rate = Annotated[float, typer.Option(help="Peak learning rate.")]
HuWindow = Annotated[str, typer.Option(help="HU that the network sees: wide, soft, lung, or 'LO HI'.")]
Spacing = Annotated[tuple[float, float, float], typer.Option(metavar="X Y Z", help="Voxel size in mm.")]
Cache = Annotated[Path | None, typer.Option(help="Folder of prepared volumes, for several studies.")]


@app.command()
def classify(
    output: Output,
    data: Data = None,
    test: Test = None,
    labels: Annotated[list[Path] | None, typer.Option(help="Table of findings: VolumeName and 18 columns.")] = None,
    synthetic: Annotated[
        list[Path] | None, typer.Option(help="Synthetic volumes made beforehand, as --data. Default: draw them.")
    ] = None,
    conditions: Annotated[
        str, typer.Option(help="Whose masks and reports they follow: same (the training cases'), other, or auto.")
    ] = "auto",
    generator: Annotated[str, typer.Option(help="A generator of `ctgencore info`.")] = "foundation-embedded",
    sampling_steps: Annotated[int, typer.Option(help="Network passes of its solver.")] = 20,
    solver: Annotated[str, typer.Option(help="ddim (as published), dpm++ or unipc.")] = "ddim",
    network: Annotated[str, typer.Option(help="small, or ctnet (Draelos et al. 2021).")] = "small",
    backbone: Annotated[Path | None, typer.Option(help="ImageNet ResNet-18 that ctnet starts from.")] = None,
    shape: Annotated[tuple[int, int, int], typer.Option(metavar="Z Y X", help="Voxels it sees.")] = (48, 64, 64),
    held_out: HeldOut = 0.2,
    root: Root = None,
    apply_rescale: ApplyRescale = False,
    scheme: Scheme = "ctgen",
    phantoms: Phantoms = 32,
    test_phantoms: TestPhantoms = 40,
    arm: Annotated[
        list[str] | None, typer.Option(help="real, real-longer, real+synthetic, synthetic. Default: the first three.")
    ] = None,
    seed: StudySeed = None,
    steps: TrainSteps = 150,
    batch: Batch = 4,
    rate: Rate = 1e-3,
    window: HuWindow = "wide",
    spacing: Spacing = (5.6, 5.6, 5.0),
    cache: Cache = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """AUC of 18 findings: a classifier trained on real volumes, and fine-tuned on real and synthetic ones."""
    with reporting(as_json=as_json, verbose=verbose):
        from ..tasks.downstream import ClassifyOptions

        options = ClassifyOptions(
            data=tuple(data or ()),
            test=tuple(test or ()),
            labels=tuple(labels or ()),
            synthetic=tuple(synthetic or ()),
            conditions=conditions,
            generator=generator,
            sampling_steps=sampling_steps,
            solver=solver,
            network=network,
            backbone=backbone,
            shape_zyx=shape,
            held_out=held_out,
            root=root,
            apply_rescale=apply_rescale,
            scheme=scheme,
            phantoms=phantoms,
            test_phantoms=test_phantoms,
            arms=tuple(arm or ()),
            seeds=tuple(seed or (0, 1, 2)),
            steps=steps,
            batch=batch,
            rate=rate,
            window=window,
            spacing_mm=spacing,
            cache=cache,
            device=device,
            threads=threads,
        )
        _run(options, output, as_json=as_json, quiet=quiet)


@app.command()
def segment(
    output: Output,
    data: Data = None,
    test: Test = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Organ, organ group, disease or lesion; repeat for several.")
    ] = None,
    codec: Annotated[str, typer.Option(help="A codec of `ctgencore info`.")] = "embedded",
    test_view: Annotated[
        str, typer.Option(help="original, or matched: reconstructions for the arm that knows nothing else.")
    ] = "original",
    tolerance: Annotated[float, typer.Option(metavar="MM", help="Tolerance of the surface Dice.")] = 2.0,
    patch: Annotated[tuple[int, int, int], typer.Option(metavar="Z Y X", help="Voxels of a patch.")] = (32, 48, 48),
    channels: Annotated[list[int] | None, typer.Option(help="Of a level of the U-Net; repeat for all.")] = None,
    held_out: HeldOut = 0.2,
    root: Root = None,
    apply_rescale: ApplyRescale = False,
    scheme: Scheme = "ctgen",
    phantoms: Phantoms = 24,
    test_phantoms: TestPhantoms = 24,
    arm: Annotated[list[str] | None, typer.Option(help="original, reconstructed, both. Default: all of them.")] = None,
    seed: StudySeed = None,
    steps: TrainSteps = 300,
    batch: Batch = 2,
    rate: Rate = 5e-3,
    window: HuWindow = "wide",
    spacing: Spacing = (5.6, 5.6, 5.0),
    cache: Cache = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Dice and NSD of a U-Net trained on original volumes, on their reconstructions, and on both."""
    with reporting(as_json=as_json, verbose=verbose):
        from ..tasks.downstream import SegmentOptions

        options = SegmentOptions(
            data=tuple(data or ()),
            test=tuple(test or ()),
            targets=tuple(target or ()),
            codec=codec,
            test_view=test_view,
            tolerance_mm=tolerance,
            patch_zyx=patch,
            channels=tuple(channels or (16, 32, 64, 128)),
            held_out=held_out,
            root=root,
            apply_rescale=apply_rescale,
            scheme=scheme,
            phantoms=phantoms,
            test_phantoms=test_phantoms,
            arms=tuple(arm or ()),
            seeds=tuple(seed or (0, 1, 2)),
            steps=steps,
            batch=batch,
            rate=rate,
            window=window,
            spacing_mm=spacing,
            cache=cache,
            device=device,
            threads=threads,
        )
        _run(options, output, as_json=as_json, quiet=quiet)


def _run(options: ClassifyOptions | SegmentOptions, output: Path, *, as_json: bool, quiet: bool) -> None:
    from ..tasks.downstream import study

    with Display(quiet=quiet or as_json, total=1) as display:
        result = study(options, output, progress=ProgressEvents("J1", print_event if as_json else display))
    if as_json:
        print_event({"event": "result", "study": str(output / "study.json"), **_plain(result)})
        return
    show(result, quiet=quiet)
    print(output / "study.json")


def _plain(result: Study) -> dict[str, Any]:
    lines = [asdict(line) for line in result.lines]
    for line in lines:
        line["ci95"] = [_or_none(value) for value in line["ci95"]]
        line.update({name: _or_none(line[name]) for name in ("value", "sd_seeds")})
    return {"kind": result.kind, "summary": lines}


def _or_none(value: float) -> float | None:
    return value if value == value else None


def show(result: Study, *, quiet: bool = False) -> None:
    """Print the statistics of the arms side by side, then the differences between arms."""
    from ..tasks.downstream.statistics import INTERVAL, MEAN

    found = {(line.arm, line.against, line.metric, line.region): line for line in result.lines}
    pairs = list(dict.fromkeys((line.arm, line.against) for line in result.lines))
    keys = list(dict.fromkeys((line.metric, line.region) for line in result.lines))
    arms, differences = ([pair for pair in pairs if bool(pair[1]) is compared] for compared in (False, True))
    some = keys if len(keys) <= SHOWN else [key for key in keys if key[1] == MEAN]
    for columns, rows in ((arms, keys), (differences, some)):
        if not columns:
            continue
        table = Table("metric", "region", "n", box=SIMPLE_HEAD, pad_edge=False)
        for arm, against in columns:
            table.add_column(f"{arm} - {against}" if against else arm, justify="right", no_wrap=True)
        before = ""
        for metric, region in rows:
            lines = [found[arm, against, metric, region] for arm, against in columns]
            cells = [f"{_number(line.value)} ({' to '.join(map(_number, line.ci95))})" for line in lines]
            table.add_row("" if metric == before else metric, escape(region), str(lines[0].n), *cells)
            before = metric
        wide().print(table)
    if not quiet:
        talk(f"In parentheses: {INTERVAL}. Differences of every region are in summary.csv.")


def _number(value: float) -> str:
    return f"{value:.3f}" if value == value else "-"
