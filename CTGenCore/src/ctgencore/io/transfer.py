"""Files of a data set that go on as they are: linked, copied or, where the format must change, converted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import InputError
from .files import _NIFTI, _WRITABLE, TAG_KEY, _meta, _read_image, _suffix, _temporary, _write_image


def ending_of(path: Path) -> str:
    """The suffix of a name that a volume can be written to, or an empty text."""
    suffix = _suffix(path)
    return suffix if suffix in _WRITABLE else ""


def ending(path: Path) -> str:
    """The suffix of a volume file that is whole in itself (``.nii.gz``, ...), or an empty text."""
    return ending_of(path) if path.is_file() else ""


def is_volume_file(path: Path) -> bool:
    """Whether this is a file of a format that :func:`convert` takes, as against DICOM."""
    return path.is_file() and bool(_suffix(path))


def keep(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source`` by a hard link, or a copy where disks differ; whole or not at all.

    Raises:
        InputError: the disk refused.
    """
    source = source.resolve()  # a link to a link would dangle when the first goes
    try:
        if target.exists() and target.samefile(source):
            return  # renaming one name of a file to another of its names does nothing, and leaves both
        with _temporary(target, _suffix(target)) as temporary:
            try:
                os.link(source, temporary)
            except OSError:  # another disk, or one without hard links
                shutil.copyfile(source, temporary)
            os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"Cannot write {target.name}: {error}. Choose another place or free some space.") from error


def convert(source: Path, target: Path) -> None:
    """Write a volume or label file in another format, in its own number type; of its header only the grid goes along.

    Raises:
        InputError: as :func:`ctgencore.io.read` and :func:`ctgencore.io.write`.
    """
    image, _ = _read_image(source)
    tag = _meta(image).get("ctgen_tag")
    for key in image.GetMetaDataKeys():  # which may name a patient
        image.EraseMetaData(key)
    if tag:
        image.SetMetaData("ITK_FileNotes" if _suffix(target) in _NIFTI else TAG_KEY, tag)
    with _temporary(target, _suffix(target)) as temporary:
        _write_image(image, temporary, target.name)
        try:
            os.replace(temporary, target)
        except OSError as error:
            raise InputError(
                f"Cannot write {target.name}: {error}. Choose another place or free some space."
            ) from error
