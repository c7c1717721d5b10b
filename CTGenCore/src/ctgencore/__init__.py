"""CTGenCore: frozen foundation VAEs at work on 3D CT.

```python
import ctgencore as ctg

ct = ctg.read("chest.nii.gz")
recon = ctg.reconstruct(ct, "embedded")
recon.save("chest_recon.nii.gz")
```

Names are resolved when they are first used, so importing this package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .codecs.base import Codec
    from .errors import CTGenError
    from .generators.base import Generator
    from .io import read, read_labels
    from .jobs.augmentation import augment
    from .provenance import RunRecord, verify
    from .tasks.augment.options import AugmentOptions
    from .tasks.compare import CompareOptions, Comparison, compare
    from .tasks.draft import Draft, draft_diseases
    from .tasks.edit import EditOptions, edit
    from .tasks.evaluate import EvaluateOptions, evaluate
    from .tasks.evaluate_results import Evaluation
    from .tasks.generate import GenerateOptions, generate
    from .tasks.reconstruct import ReconstructOptions, reconstruct
    from .volume import LabelMap, Volume

__version__ = "0.1.0"

_HOMES = {
    "AugmentOptions": "tasks.augment.options",
    "CTGenError": "errors",
    "Codec": "codecs.base",
    "CompareOptions": "tasks.compare",
    "Comparison": "tasks.compare",
    "Draft": "tasks.draft",
    "EditOptions": "tasks.edit",
    "EvaluateOptions": "tasks.evaluate",
    "Evaluation": "tasks.evaluate_results",
    "GenerateOptions": "tasks.generate",
    "Generator": "generators.base",
    "LabelMap": "volume",
    "ReconstructOptions": "tasks.reconstruct",
    "RunRecord": "provenance",
    "Volume": "volume",
    "augment": "jobs.augmentation",
    "compare": "tasks.compare",
    "draft_diseases": "tasks.draft",
    "edit": "tasks.edit",
    "evaluate": "tasks.evaluate",
    "generate": "tasks.generate",
    "read": "io",
    "read_labels": "io",
    "reconstruct": "tasks.reconstruct",
    "verify": "provenance",
}

__all__ = [
    "AugmentOptions",
    "CTGenError",
    "Codec",
    "CompareOptions",
    "Comparison",
    "Draft",
    "EditOptions",
    "EvaluateOptions",
    "Evaluation",
    "GenerateOptions",
    "Generator",
    "LabelMap",
    "ReconstructOptions",
    "RunRecord",
    "Volume",
    "__version__",
    "augment",
    "compare",
    "draft_diseases",
    "edit",
    "evaluate",
    "generate",
    "read",
    "read_labels",
    "reconstruct",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ctgencore' has no attribute '{name}'; public names: {', '.join(__all__)}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
