"""What the tests of the Augment tab make, choose and look at."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

PATIENCE = 300  # seconds for something that takes five: the machine may be busy
CODEC, WINDOW, NOISE_FROM, NOISE_TO, GRAIN_FROM, GRAIN_TO, NAME = range(7)


def make_data_set(root: Path, train: dict[str, np.ndarray], test: np.ndarray | None = None) -> Path:
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True)
    for name, voxels in train.items():
        write(voxels, root / "imagesTr" / f"{name}_0000.nii.gz")
        write(labels_of(voxels), root / "labelsTr" / f"{name}.nii.gz")
    if test is not None:
        write(test, root / "imagesTs" / "case_900_0000.nii.gz")
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lung": 1, "bone": 2},
        "numTraining": len(train),
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def labels_of(voxels: np.ndarray) -> np.ndarray:
    return np.where(voxels > 200, 2, np.where((voxels < -600) & (voxels > -950), 1, 0)).astype(np.uint8)


def write(voxels: np.ndarray, path: Path) -> None:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((5.6, 5.6, 8.0))
    image.SetOrigin((-190.0, -170.0, 40.0))
    sitk.WriteImage(image, str(path))


def files(folder: Path) -> list[str]:
    """What a data set is made of: all but the hidden folder."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != ".ctgen")


def images(folder: Path) -> list[str]:
    return [name for name in files(folder) if name.startswith("imagesTr") and name.endswith(".nii.gz")]


def cell(panel: Any, row: int, column: int) -> Any:
    return panel.ui.viewTable.cellWidget(row, column)


def views(panel: Any) -> list[str]:
    return json.loads(panel._parameterNode.views)


def look(host: Any, panel: Any) -> None:
    """Wait until the engine has said what it thinks of the choices."""
    host.process_events()
    host.wait(lambda: not panel.augmentSection.question.waiting, PATIENCE)


def select(host: Any, panel: Any, source: Path, output: Path, codec: str = "embedded") -> None:
    panel.ui.dataSetEdit.currentPath = str(source)
    panel.ui.augmentOutputEdit.currentPath = str(output)
    cell(panel, 0, CODEC).setEditText(codec)
    look(host, panel)


def begin(panel: Any) -> None:
    assert panel.ui.applyButton.enabled, panel.ui.hintLabel.text
    assert panel.ui.applyButton.text == "Augment"
    panel.ui.applyButton.click()
    assert panel.logic.running, panel.ui.statusLabel.text
    assert panel.ui.applyButton.text == "Cancel"


def problems(panel: Any) -> list[tuple[str, str]]:
    table = panel.ui.problemTable
    return [(table.item(row, 0).text(), table.item(row, 1).text()) for row in range(table.rowCount)]


def assert_same_files(one: Path, other: Path) -> None:
    assert files(one) == files(other)
    different = [name for name in files(one) if not filecmp.cmp(one / name, other / name, shallow=False)]
    assert different == []
