"""What our DICOM files share: names that follow from the content, codes, equipment, and a header without its patient.

The attributes that a derived series takes over from its source are a short list (:data:`TAKEN`). The Basic
Application Level Confidentiality Profile (DICOM PS3.15, E.2) is applied to that list as well, so that nothing
identifying is left whatever a scanner writes into these attributes' neighbors.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
import secrets
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError

SCHEME = "99CTGEN"  # our private coding scheme (PS3.16, 8.2), as in labels.terminology
CREATOR = "CTGen"  # of our private block, group 0077
BLOCK = 0x0077
ISO_TEXT = "ISO_IR 192"  # UTF-8
NO_DATE, NO_TIME = "19000101", "000000"  # where DICOM demands a date and none may be told
TAKEN = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("PatientAge", "PatientSize", "PatientWeight"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription"),
    *("AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID"),
    *("Manufacturer", "ManufacturerModelName", "BodyPartExamined", "Laterality", "PatientPosition"),
    *("KVP", "SliceThickness", "ConvolutionKernel", "FilterType", "ScanOptions", "ContrastBolusAgent"),
    *("DataCollectionDiameter", "ReconstructionDiameter", "WindowCenter", "WindowWidth"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
_IMPLEMENTATION = f"CTGEN_{__version__}"[:16]


def require(*names: str) -> list[Any]:
    """Import optional modules.

    Raises:
        InputError: one is not installed.
    """
    try:
        return [import_module(name) for name in names]
    except ImportError as error:
        raise InputError(
            f'Writing DICOM needs {error.name}, which is not installed. Run: pip install "ctgencore[dicom]"'
        ) from None


def uid(*parts: object) -> str:
    """A UID that follows from the parts alone: 2.25 and a name-based UUID's number (PS3.5, B.2)."""
    digest = hashlib.sha256("\0".join(("CTGen", *map(str, parts))).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def code(value: str, scheme: str, meaning: str) -> Any:
    """One item of a code sequence."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def equipment(purpose: tuple[str, str], manufacturer: str, model: str, version: str = "") -> Any:
    """One item of the Contributing Equipment Sequence; ``purpose`` is a DCM code and its meaning (CID 7005)."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.Manufacturer = manufacturer
    if model:
        item.ManufacturerModelName = model
    if version:
        item.SoftwareVersions = version
    item.PurposeOfReferenceCodeSequence = [code(purpose[0], "DCM", purpose[1])]
    return item


def sign(dataset: Any) -> None:
    """Say in the general equipment module and the coding schemes that CTGen made this."""
    from pydicom.dataset import Dataset

    dataset.SpecificCharacterSet = ISO_TEXT
    dataset.Manufacturer = dataset.ManufacturerModelName = "CTGen"
    dataset.SoftwareVersions = __version__
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, "CTGen"
    dataset.CodingSchemeIdentificationSequence = [scheme]


def save(dataset: Any, path: Path) -> None:
    """Write as explicit little endian with our own file header, which has no date and no machine in it."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(uid("implementation"))
    meta.ImplementationVersionName = _IMPLEMENTATION
    dataset.file_meta = meta
    dataset.preamble = bytes(128)
    dataset.save_as(path, enforce_file_format=True)


def take_over(source: Any, *, keep_patient: bool) -> Any:
    """The :data:`TAKEN` attributes of a source header, with its patient or with a pseudonym.

    A pseudonym is a hash of the PatientID (of the StudyInstanceUID where there is none), so that all series of a
    patient stay together. UIDs are replaced by hashes of themselves, which keeps series of one study in one study.

    Raises:
        InputError: text is burned into the source's pixels, and the patient is not to be kept.
    """
    from pydicom.dataset import Dataset

    if not keep_patient and str(source.get("BurnedInAnnotation", "NO")).strip() == "YES":
        raise InputError(
            "The source series says that text is burned into its pixels (Burned In Annotation YES); that may name the "
            "patient, and no header can take it out. Use another series, or --keep-patient."
        )
    taken = Dataset()
    for name in TAKEN:
        if name in source:
            taken.add(copy.deepcopy(source[name]))
    if keep_patient:
        return taken
    issuer, patient = (str(source.get(name, "") or "").strip() for name in ("IssuerOfPatientID", "PatientID"))
    study = str(source.get("StudyInstanceUID", "") or "")
    [anonymizer] = require("dicomanonymizer")
    blanked = ("StudyDate", "StudyTime", "ContrastBolusAgent")  # the library would write dummies
    rules: dict[tuple[int, int], Any] = {_tag(name): _blank for name in blanked}
    rules |= {_tag(name): _replace_uid for name in ("StudyInstanceUID", "FrameOfReferenceUID")}
    anonymizer.anonymize_dataset(taken, rules)
    set_patient(taken, f"{issuer}\0{patient}" if patient else study)
    for name in ("PatientAge", "PatientSize", "PatientWeight", "IssuerOfPatientID", "StudyDescription"):
        taken.pop(_tag(name), None)
    for name in ("StudyID", "AccessionNumber", "ReferringPhysicianName"):
        setattr(taken, name, "")
    taken.PatientIdentityRemoved = "YES"
    taken.DeidentificationMethod = ["PS3.15 Basic Profile", "Attributes outside of a short list left out"]
    taken.DeidentificationMethodCodeSequence = [code("113100", "DCM", "Basic Application Confidentiality Profile")]
    taken.LongitudinalTemporalInformationModified = "REMOVED"
    return taken


def set_patient(dataset: Any, secret: str) -> None:
    """A patient module that tells nobody: a pseudonym that follows from ``secret``."""
    pseudonym = hashlib.sha256(f"CTGen patient\0{secret}".encode()).hexdigest()[:16].upper()
    dataset.PatientID = f"CTGEN-{pseudonym}"
    dataset.PatientName = f"CTGen^{pseudonym}"
    dataset.PatientBirthDate = dataset.PatientSex = ""


def replaced_uid(original: str) -> str:
    """What a source's UID becomes without its patient."""
    return uid("replaces", original)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside ``folder`` that takes its place when the block ends well.

    Raises:
        InputError: there is something in the way that CTGen did not write, or the disk refused.
    """
    if folder.exists() and not is_ours(folder):
        raise InputError(
            f"{folder} exists and holds more than a DICOM series of CTGen; refusing to replace it. Choose another "
            "folder."
        )
    if not folder.parent.is_dir():
        raise InputError(
            f"Cannot write {folder.name}: its folder {folder.parent} does not exist. Make the folder first."
        )
    stem = f".ctgen-{os.getpid()}-{secrets.token_hex(4)}"
    temporary, old = folder.with_name(stem), folder.with_name(f"{stem}-old")
    try:
        temporary.mkdir()
        yield temporary
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(temporary, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise
    except OSError as error:
        raise InputError(f"Cannot write {folder.name}: {error}. Choose another place or free some space.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def is_ours(folder: Path) -> bool:
    """Whether a folder holds nothing but DICOM files that CTGen wrote (or nothing at all)."""
    [filereader] = require("pydicom.filereader")
    try:
        names = [filereader.read_file_meta_info(path).get("ImplementationVersionName", "") for path in folder.iterdir()]
    except (OSError, ValueError, KeyError, filereader.InvalidDicomError):
        return False
    return all(re.match(r"CTGEN_", name) for name in names)


def _tag(name: str) -> tuple[int, int]:
    from pydicom.tag import Tag

    tag = Tag(name)
    return tag.group, tag.element


def _blank(dataset: Any, tag: tuple[int, int]) -> None:
    if tag in dataset:
        dataset[tag].value = ""


def _replace_uid(dataset: Any, tag: tuple[int, int]) -> None:
    if tag in dataset:
        dataset[tag].value = replaced_uid(str(dataset[tag].value)) if dataset[tag].value else ""
