"""A comparison's folder: reconstructions, differences and tables, and what of an earlier run is still good."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from .. import __version__, io
from ..errors import InputError
from ..provenance import fingerprint, verify
from ..volume import Volume
from .common import difference_of
from .compare import CompareOptions, Row, as_data
from .evaluate_cache import written
from .evaluate_results import to_csv

TABLE = "comparison.json"


class Folder:
    """Where a comparison is kept, codec by codec: its files first, then the row that names them.

    Whoever ends the process at any moment finds whole files and tables whose rows have their files.

    Args:
        folder: is made if it is not there.
        source: the CT.
        options: see :class:`CompareOptions`.
        resume: keep the rows of an earlier run whose files are as written, by this version, from this CT with these
            options.

    Attributes:
        path: of ``comparison.json``.
        rows: codec to row, of all that is finished.
    """

    def __init__(self, folder: Path, source: Volume, options: CompareOptions, *, resume: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.source, self.options = folder / TABLE, source, options
        self.rows: dict[str, Row] = self._kept() if resume else {}
        self._begun = False

    def add(self, row: Row, result: Volume | None) -> Row:
        """Write a codec's files, if it has any, and the tables, as soon as one codec has done it.

        Returns:
            The row with the names of its files.

        Raises:
            InputError: the disk refused.
        """
        if result is not None:
            if not self._begun:  # rows of an earlier run must not stand beside files of this one
                self._begun = True
                self.write_tables()
            volume, difference = (self.path.with_name(self._name(row.codec, end)) for end in ("", "_difference"))
            io.write_all({volume: result, difference: difference_of(result, self.source)})
            row = replace(row, volume=volume.name, difference=difference.name)
        self.rows[row.codec] = row
        if any(row.volume for row in self.rows.values()):
            self.write_tables()
        return row

    def _name(self, codec: str, end: str) -> str:
        stem = io.sidecar_path(io.output_name(self.source.source or "ct.nii.gz", "")).stem
        return f"{stem}_{codec}{end}{'.nrrd' if self.source.geometry.is_sheared() else '.nii.gz'}"

    def write_tables(self) -> None:
        """Write ``comparison.json`` and ``comparison.csv`` with the rows that there are, or remove them."""
        rows = [self.rows[codec] for codec in self.options.codecs if codec in self.rows]
        table = self.path.with_suffix(".csv")
        if not any(row.volume for row in rows):
            self.path.unlink(missing_ok=True)
            table.unlink(missing_ok=True)
            return
        content = as_data(self.source, self.options, rows)
        columns = [item.name for item in fields(Row)]
        texts = {
            table: to_csv(columns, content["rows"]),
            self.path: json.dumps(content, indent=1, allow_nan=False) + "\n",
        }
        for path, text in texts.items():
            with written(path) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="")

    def _kept(self) -> dict[str, Row]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            rows = [Row(**row) for row in content["rows"]] if content["version"] == 1 else []
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        inputs = [_plain(fingerprint(self.source))]
        return {row.codec: row for row in rows if row.codec in self.options.codecs and self._is_good(row, inputs)}

    def _is_good(self, row: Row, inputs: list[Any]) -> bool:
        names = (self._name(row.codec, ""), self._name(row.codec, "_difference"))
        if row.error is not None or (row.volume, row.difference) != names:
            return False
        for name in names:
            try:
                found = verify(self.path.with_name(name))
            except InputError:
                return False
            record = found.record
            if record is None or not found.voxels_match_record or record.ctgencore_version != __version__:
                return False
            asked = asdict(self.options.of(row.codec))
            if asked["dtype"] == "auto":  # the record has what it stood for
                asked["dtype"] = record.options.get("dtype")
            if record.options != asked or record.inputs != inputs:
                return False
        return True


def _plain(data: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(data))
