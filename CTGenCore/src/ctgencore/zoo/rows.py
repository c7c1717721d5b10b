"""What a row says of a codec, a generator, a feature network, and of the networks they are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

TESTED = {  # besides the contract suite, which every codec passes: sizes, streaming, tiles, grey, determinism
    "golden": "our own network gives the original's numbers on deterministic weights",
    "library": "the network is a class of diffusers or MONAI",
    "weights": "its weights come with CTGen and were measured on real CT",
    "contract": "nothing else: this very network was compared with no original",
    "program": "it is the user's own copy of the original; the way to it and back was tested with a stand-in",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFile:
    """One published file of a codec's or generator's weights; a ``.txt`` is a vocabulary.

    Attributes:
        filename: path inside ``repo``; when importing from disk, its last part is the file to look for.
        also: other published names of the same thing, taken when importing from disk.
        repo: Hugging Face repository, or None when the file is published elsewhere (see ``Row.source``).
        prefix: put before every tensor name (for networks published in several files with bare names).
        sha256: of the published file, when known; an import that differs is refused.
        convert: ``package.module:function``; takes the row and the published tensors, gives those to keep.
        packaged: ships inside this package (``ctgencore/weights``).
    """

    filename: str
    also: tuple[str, ...] = ()
    repo: str | None = None
    prefix: str = ""
    sha256: str | None = None
    convert: str = ""
    packaged: bool = False

    @property
    def is_text(self) -> bool:
        """Whether this is a text file rather than tensors."""
        return self.filename.endswith(".txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What has weights and can be chosen by name; names are unique across all tables.

    Attributes:
        kind: the word for it.
        name, title, description: for people.
        weights: files to have before first use.
        license: SPDX name of the weights' licence.
        source: where the weights come from and who made them.
        program: environment variables that name the interpreter and the script of a program of the user's own, which
            holds the network and its weights; empty: CTGen has the network.
    """

    kind: ClassVar[str]

    name: str
    title: str
    description: str
    weights: tuple[WeightFile, ...] = ()
    license: str = "Apache-2.0"
    source: str = ""
    program: tuple[str, ...] = ()

    @property
    def needs_weights(self) -> bool:
        """Whether the user must download or import something first."""
        return any(not file.packaged for file in self.weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecRow(Row):
    """One frozen autoencoder.

    Attributes:
        codec: ``module:Class`` below :mod:`ctgencore.codecs`.
        network: row of :data:`NETWORKS`, or None when there is no network.
        stride_zyx: voxels per latent.
        latent_channels: numbers per latent.
        parameters: of the network as published, in RGB.
        tested: how we know that it does what the original does, a key of :data:`TESTED`.
        is_2d: works slice by slice, so that tri-planar averaging applies.
        config: attributes of the codec class that differ from its own, see the class.
    """

    kind: ClassVar[str] = "codec"

    codec: str
    network: str | None = None
    stride_zyx: tuple[int, int, int]
    latent_channels: int
    parameters: int = 0
    tested: str
    is_2d: bool = False
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def compression(self) -> float:
        """Voxels of a grey volume per latent number, far from its ends."""
        return math.prod(self.stride_zyx) / self.latent_channels

    @property
    def rate(self) -> str:
        """Voxels per latent, numbers per latent and their ratio: ``4x8x8, 16 ch, 16:1``."""
        return f"{'x'.join(map(str, self.stride_zyx))}, {self.latent_channels} ch, {self.compression:.3g}:1"


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorRow(Row):
    """One generator of CT volumes in a codec's latent space.

    Attributes:
        generator: ``module:Class`` below :mod:`ctgencore.generators`.
        network: row of :data:`NETWORKS`.
        network_config: sizes and switches that differ from that row.
        codec: row of :data:`CODECS`.
        text: ``cxrbert`` or ``embedded``, a module below :mod:`ctgencore.text`.
        text_config: keyword arguments of the text encoder.
        prediction: what the network predicts, ``epsilon`` or ``v_prediction``.
        trained_with_dropout: conditions were dropped in training, so that guidance works.
        drafts: follows disease masks better than words, so that a mask is drafted from the report where none is given.
        config: the generator's switches, see its class.
    """

    kind: ClassVar[str] = "generator"

    generator: str
    network: str
    network_config: dict[str, Any] = field(default_factory=dict)
    codec: str
    text: str
    text_config: dict[str, Any] = field(default_factory=dict)
    prediction: str = "epsilon"
    trained_with_dropout: bool = False
    drafts: bool = False
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractorRow(Row):
    """One network whose features metrics compare.

    Attributes:
        network: row of :data:`NETWORKS`.
    """

    kind: ClassVar[str] = "extractor"

    network: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkRow:
    """How to build a bare network.

    Attributes:
        cls: ``module:Class`` below :mod:`ctgencore.networks`.
        config: its published sizes, where they are not the class's defaults.
        tiny: sizes of a small but real network of the same kind, for tests.
    """

    cls: str
    config: dict[str, Any] = field(default_factory=dict)
    tiny: dict[str, Any] = field(default_factory=dict)
