"""The networks behind the set metrics: published names, reference outputs, what they are fed, how files get in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ctgencore import hub, phantom
from ctgencore.checkpoint import load_published
from ctgencore.cli.info import collect
from ctgencore.errors import InputError, WeightsError
from ctgencore.geometry import Geometry
from ctgencore.intensity import Window
from ctgencore.metrics import extractors
from ctgencore.metrics.base import Context
from ctgencore.metrics.table import EXTRACTORS
from ctgencore.volume import Volume
from ctgencore.zoo import EXTRACTORS as ROWS
from ctgencore.zoo import NETWORKS, build_network
from monai.data import MetaTensor
from monai.networks.nets.resnet import ResNet
from monai.transforms import CenterSpatialCrop, Compose, Orientation, ScaleIntensityRange, Spacing, SpatialPad
from processes import Command
from skimage.transform import resize
from test_networks import GOLDEN, array, fill
from torch import Tensor, nn
from torch.nn import functional as F

NUMBERS = json.loads((GOLDEN / "features.json").read_text())
RADIMAGENET = "radimagenet-resnet50"
WIDE = Window.parse("wide")


def published(net: nn.Module) -> dict[str, Tensor]:
    """Deterministic weights: the recipe of the reference numbers, with variances around one."""
    values = {name: fill(name, tuple(tensor.shape)) for name, tensor in net.state_dict().items()}
    return {name: 1 + value if name.endswith("running_var") else value for name, value in values.items()}


def filled(name: str) -> nn.Module:
    net = build_network(name)
    load_published(net, published(net))
    return net


def assert_equals(output: Tensor, entry: dict) -> None:
    assert list(output.shape) == entry["shape"]
    flat = output.double().flatten().numpy()
    for found, wanted in (
        (np.linalg.norm(flat), entry["l2"]),
        (flat.mean(), entry["mean"]),
        (flat.std(), entry["std"]),
    ):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(flat[entry["idx"]], entry["values"], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_radimagenet_equals_the_original() -> None:
    net, numbers = filled(RADIMAGENET), NUMBERS["radimagenet_public"]
    assert len(net.state_dict()) == 371
    maps = net(array(**{key: numbers["input"][key] for key in ("name", "shape", "scale")}))
    assert_equals(maps, numbers["feature_map"])
    assert_equals(maps.mean((2, 3)), numbers["features"])


@pytest.mark.parametrize("name", ["i3d_t13_public", pytest.param("i3d_t24_public", marks=pytest.mark.heavy)])
@torch.inference_mode()
def test_i3d_equals_the_original(name: str) -> None:
    net, numbers = filled("i3d"), NUMBERS[name]
    assert len(net.state_dict()) == 344
    clip = array(**{key: numbers["input"][key] for key in ("name", "shape", "scale")})
    clip = clip.repeat_interleave(32, 3).repeat_interleave(32, 4)
    outputs: dict[str, Tensor] = {}
    for part in ("Conv3d_1a_7x7", "Mixed_3c"):
        net.get_submodule(part).register_forward_hook(lambda _m, _i, out, part=part: outputs.update({part: out}))
    outputs["features"] = net.features(clip)
    outputs["logits"] = net.logits(outputs["features"])[..., 0, 0]
    for part, output in outputs.items():
        assert_equals(output, numbers[part])


def test_i3d_takes_files_without_counters() -> None:
    net = build_network("i3d")
    tensors = published(net)
    old = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    assert len(tensors) - len(old) == 57
    load_published(net, old)
    assert torch.equal(net.Mixed_4d.b1b.conv3d.weight, old["Mixed_4d.b1b.conv3d.weight"])
    del old["Mixed_4d.b1b.bn.running_var"]
    with pytest.raises(WeightsError, match=r"Mixed_4d\.b1b\.bn\.running_var"):
        load_published(net, old)


def test_ctnet_has_the_published_stages() -> None:
    with torch.device("meta"):
        net = build_network("ctnet")
        shapes: dict[str, tuple[int, ...]] = {}
        for name in ("features", "reducingconvs.0", "reducingconvs.2", "reducingconvs.4", "classifier.0"):
            net.get_submodule(name).register_forward_hook(
                lambda _m, _i, out, name=name: shapes.update({name: tuple(out.shape)})
            )
        assert net(torch.empty(2, 134, 3, 420, 420)).shape == (2, 96)
    assert shapes == {
        "features": (268, 512, 14, 14),
        "reducingconvs.0": (2, 64, 170, 12, 12),
        "reducingconvs.2": (2, 32, 56, 10, 10),
        "reducingconvs.4": (2, 16, 18, 5, 5),
        "classifier.0": (2, 128),
    }
    sizes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert sizes["features.0.weight"] == (64, 3, 7, 7)
    assert sizes["features.5.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert sizes["features.7.1.bn2.running_var"] == (512,)
    assert sizes["reducingconvs.4.weight"] == (16, 32, 3, 2, 2)
    assert [sizes[f"classifier.{i}.weight"] for i in (0, 3, 6)] == [(128, 7200), (96, 128), (18, 96)]
    assert not [name for name in sizes if name.startswith(("features.2", "features.3"))]


@torch.inference_mode()
def test_ctnet_equals_monais_resnet_and_the_formula() -> None:
    net = build_network("ctnet", **NETWORKS["ctnet"].tiny)
    tensors = published(net)
    load_published(net, {f"module.{name}": tensor for name, tensor in tensors.items()})
    resnet = ResNet("basic", [2, 2, 2, 2], [64, 128, 256, 512], 2, 3, 7, 2, feed_forward=False, bias_downsample=False)
    stems = {"0": "conv1", "1": "bn1", **{str(i + 3): f"layer{i}" for i in range(1, 5)}}
    renamed = {
        ".".join([stems[name.split(".")[1]], *name.split(".")[2:]]): tensor
        for name, tensor in tensors.items()
        if name.startswith("features.")
    }
    resnet.load_state_dict(renamed)
    outputs: list[Tensor] = []
    resnet.eval().layer4.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    x = array("ctnet", (2, 2, 3, 192, 192), 0.3)
    for volume in x:
        resnet(volume)
    y = torch.stack(outputs)
    for i, stride in ((0, (3, 1, 1)), (2, (3, 1, 1)), (4, (3, 2, 2))):
        weight, bias = (tensors[f"reducingconvs.{i}.{kind}"] for kind in ("weight", "bias"))
        y = F.relu(F.conv3d(y, weight, bias, stride))
    y = y.flatten(1)
    for i in (0, 3):
        y = F.relu(y @ tensors[f"classifier.{i}.weight"].T + tensors[f"classifier.{i}.bias"])
    assert y.max() > 0.1
    torch.testing.assert_close(net(x), y, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(net(x, batch=1), y, atol=1e-5, rtol=1e-4)


# --- files and what the networks are fed -----------------------------------------------------------------------------


def write(name: str, folder: Path) -> Path:
    """The row's published file, with deterministic weights of a tiny network."""
    tensors = published(build_network(ROWS[name].network))
    if name == "ctnet":
        content: dict = {"epoch": 7, "params": {f"module.{key}": value for key, value in tensors.items()}}
    else:
        content = tensors
    folder.mkdir(exist_ok=True)
    path = folder / ROWS[name].weights[0].filename
    torch.save(content, path)
    return path


@pytest.fixture
def tiny(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], nn.Module]]:
    """``tiny(name)``: import a tiny network's file and give the network that extractors will use."""
    extractors.network.cache_clear()

    def get(name: str) -> nn.Module:
        row = NETWORKS[ROWS[name].network]
        monkeypatch.setitem(NETWORKS, ROWS[name].network, replace(row, config=row.tiny))
        hub.import_weights(name, write(name, tmp_path / "files"), accept_license=True)
        return extractors.network(name, "cpu")

    yield get
    extractors.network.cache_clear()


def context(**options: object) -> Context:
    return Context(options=options, features=lambda name, volume: np.empty(0))


def turned(volume: Volume) -> Volume:
    """The same patient in another array order: axes swapped, two of them reversed."""
    matrix = volume.geometry.direction_matrix
    (x, y, z), spacing = volume.geometry.size_xyz, volume.geometry.spacing_mm
    origin = (volume.geometry.affine_lps() @ [x - 1, y - 1, 0, 1])[:3]
    direction = np.stack([-matrix[:, 1], matrix[:, 2], -matrix[:, 0]], axis=1)
    geometry = Geometry((y, z, x), (spacing[1], spacing[2], spacing[0]), tuple(origin), tuple(direction.ravel()))
    return Volume(volume.voxels[:, ::-1, ::-1].transpose(2, 0, 1), geometry)


@pytest.fixture(scope="module")
def volume() -> Volume:
    return phantom.chest((18, 40, 30), spacing_mm=(2.6, 1.3, 2.2)).ct


def monai_stack(volume: Volume, window: Window, edge: int) -> Tensor:
    """(1, x, y, z) in 0..1 as the published script makes it, with MONAI's transforms."""
    stack = Compose(
        [
            Orientation(axcodes="RAS", labels=None),
            Spacing(pixdim=(1.0, 1.0, 1.0), mode="bilinear"),
            SpatialPad(spatial_size=(edge,) * 3, mode="constant", value=-1000),
            CenterSpatialCrop(roi_size=(edge,) * 3),
            ScaleIntensityRange(window.lo, window.hi, window.lo, window.hi, clip=True),
        ]
    )(MetaTensor(volume.voxels.transpose(2, 1, 0)[None], affine=volume.geometry.affine_ras())).as_tensor()
    return (stack - stack.min()) / (stack.max() - stack.min() + 1e-10)


@pytest.mark.parametrize("window", [WIDE, *extractors.MEDSYN2_WINDOWS], ids=lambda window: window.name)
def test_radimagenet_is_fed_as_the_published_script_does(
    window: Window, volume: Volume, tiny: Callable[[str], nn.Module]
) -> None:
    net = tiny(RADIMAGENET)
    edge = 45  # less than the phantom along x, more than it along y and z
    with torch.inference_mode():
        stack = monai_stack(turned(volume), window, edge)[None].expand(-1, 3, -1, -1, -1).clone()
        for channel, mean in enumerate((0.406, 0.456, 0.485)):
            stack[:, channel] -= mean
        expected = [
            torch.cat([net(picture).mean((2, 3)) for picture in stack.unbind(axis)]).numpy() for axis in (4, 2, 3)
        ]
    assert expected[0].shape == (edge, 256)
    ours = extractors._maisi(turned(volume), context(batch=7), (window,), edge)
    np.testing.assert_allclose(ours, np.stack(expected), atol=2e-4)
    assert np.abs(ours[0] - ours[0][0]).max() > 0.01  # not all slices are alike


def test_radimagenet_recipes(volume: Volume, tiny: Callable[[str], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(RADIMAGENET)
    assert extractors.MAISI_EDGE == 512
    limits = {window.name: (window.lo, window.hi) for window in extractors.MEDSYN2_WINDOWS}
    assert limits == {"lung": (-1350, 150), "vessel": (-250, 450), "soft": (-125, 225), "bone": (-700, 1300)}
    short = Volume(volume.voxels[:9, :16, :16], Geometry((16, 16, 9), (3.0, 3.0, 3.0)))
    monkeypatch.setattr(extractors, "MAISI_EDGE", 32)
    assert extractors.radimagenet_planes(short, context()).shape == (3, 32, 256)
    windows = extractors.radimagenet_windows(short, context())
    assert windows.shape == (12, 32, 256)
    lung = extractors._maisi(short, context(), (Window("lung", -1350, 150),), 32)
    np.testing.assert_array_equal(windows[:3], lung)


def test_i3d_is_fed_clips_of_sixteen_slices(tiny: Callable[[str], nn.Module]) -> None:
    net = tiny("i3d")
    inputs: list[Tensor] = []
    net.register_forward_pre_hook(lambda _m, given: inputs.append(given[0].clone()))
    chest = phantom.chest((35, 30, 40), spacing_mm=(5.0, 5.0, 5.0)).ct
    features = extractors.i3d_logits(turned(chest), context())
    assert features.shape == (2, 10)
    assert np.abs(features[0] - features[1]).max() > 1e-4  # random weights see averages
    grey = np.rint((chest.voxels.clip(-1000, 1000) + 1000) / 2000 * 255) / 255
    for clip, first in zip(inputs, (1, 17), strict=True):  # of 35 slices, one is left out before and two behind
        assert clip.shape == (1, 3, 16, 224, 224)
        assert torch.equal(clip[:, 0], clip[:, 2])
        for i in (0, 15):
            picture = resize(grey[first + i], (224, 299), order=1, mode="edge", anti_aliasing=False)
            np.testing.assert_allclose(clip[0, 1, i].numpy(), picture[:, 37:261] * 2 - 1, atol=1e-4)
    with pytest.raises(InputError, match="16 axial slices; this volume has 15"):
        extractors.i3d_logits(phantom.chest((15, 16, 16)).ct, context())


def test_ctnet_is_fed_as_the_challenge_does(volume: Volume, tiny: Callable[[str], nn.Module]) -> None:
    net = tiny("ctnet")
    inputs: list[Tensor] = []
    net.register_forward_pre_hook(lambda _m, given: inputs.append(given[0].clone()))
    features = extractors.ctnet(turned(volume), context(batch=1))
    assert features.shape == (1, 96)
    assert features.max() > 0
    zxy = volume.voxels.clip(-1000, 1000).transpose(0, 2, 1)
    hu = resize(zxy, (6, 192, 192), order=1, mode="edge", anti_aliasing=False)
    expected = (np.clip(hu, -1000, 200) + 1000) / 1200 - 0.449
    np.testing.assert_allclose(inputs[0].flatten(0, 2).numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(extractors.ctnet(volume, context()), features, atol=1e-5)


def test_every_extractor_has_its_row_and_its_size() -> None:
    for row in EXTRACTORS.values():
        assert not row.weights or row.weights in ROWS, row.name
    assert all(row.network in NETWORKS for row in ROWS.values())
    widths = {"radimagenet_planes": 2048, "radimagenet_windows": 2048, "i3d_logits": 400, "ctnet": 96}
    assert widths.items() <= {name: row.size for name, row in EXTRACTORS.items()}.items()


def test_a_file_comes_in_by_the_command_line(cache: Path, tmp_path: Path, command: Command) -> None:
    file = tmp_path / "rgb_imagenet.pt"
    torch.save({"logits.conv3d.bias": torch.arange(400.0)}, file, _use_new_zipfile_serialization=False)
    row = next(row for row in collect()["extractors"] if row["name"] == "i3d")
    assert not row["available"]
    assert "ctgencore download i3d --from" in row["why"]
    refused = command("download", "i3d", "--from", file)
    assert refused.returncode == 3
    assert ROWS["i3d"].license in refused.stderr
    done = command("download", "i3d", "--from", file, "--accept-license")
    assert done.returncode == 0, done.stderr
    assert "Extractor 'i3d' is ready to use." in done.stderr
    [entry] = json.loads((cache / "weights" / "i3d" / "index.json").read_text())["files"].values()
    assert entry["source_sha256"] == hub.sha256(file)
    assert collect("i3d")["extractors"][0]["available"]
    assert collect("i3d")["codecs"] == []
    with pytest.raises(WeightsError, match="do not fit I3D"):
        extractors.network("i3d", "cpu")
