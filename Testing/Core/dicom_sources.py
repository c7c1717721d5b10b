"""DICOM series for the tests: a small one full of identifying values, and what to look for in what is made of it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SECRET = "Secret"  # in every identifying text of the invented series
DATES = ("19480229", "20190317", "171819.123")
# what may be seen: techniques, and what is the same in every scan
KEPT = (
    *("SOPClassUID", "Modality", "Manufacturer", "ManufacturerModelName", "BodyPartExamined", "Laterality"),
    *("PatientPosition", "KVP", "SliceThickness", "ConvolutionKernel", "FilterType", "ScanOptions", "ImageType"),
    *("DataCollectionDiameter", "ReconstructionDiameter", "WindowCenter", "WindowWidth", "PhotometricInterpretation"),
    *("RescaleType", "SpecificCharacterSet", "LossyImageCompressionMethod", "LossyImageCompression"),
)
_IDENTIFYING = ("PN", "DA", "TM", "DT", "UI", "LO", "SH", "LT", "ST", "UT", "UC", "UR", "AE", "AS", "UN", "OB")
# dicom3tools of 2022 does not know (0008,001C), Synthetic Data, which came into the standard later
_YOUNGER_THAN_THE_CHECKER = "not a recognized standard attribute - (0x0008,0x001c)"


def nasty_series(folder: Path, *, patient: str = f"{SECRET}-4711", study: str = "", count: int = 6) -> Path:
    """A CT series whose every identifying attribute, nested and private ones too, says who it is."""
    folder.mkdir(parents=True)
    study, series, frame = study or generate_uid(), generate_uid(), generate_uid()
    voxels = np.random.default_rng(0).integers(-1000, 1000, (count, 24, 32), dtype=np.int16)
    for number in range(count):
        item = Dataset()
        item.SpecificCharacterSet = "ISO_IR 100"
        item.SOPClassUID, item.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", generate_uid()
        item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = study, series, frame
        item.Modality, item.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        item.Manufacturer, item.ManufacturerModelName, item.ConvolutionKernel = "ACME", "Spiral 9", "B31f"
        item.PatientName, item.PatientID, item.PatientSex = f"{SECRET}^M\xfcller", patient, "F"
        item.PatientBirthDate, item.StudyDate, item.StudyTime = DATES
        item.SeriesDate = item.AcquisitionDate = item.ContentDate = DATES[1]
        item.PatientAge, item.PatientWeight, item.OtherPatientIDs = "071Y", "71.25", f"{SECRET}-other"
        item.InstitutionName, item.StationName = f"{SECRET} Hospital", f"{SECRET}-CT1"
        item.ReferringPhysicianName = item.OperatorsName = f"{SECRET}^Doctor"
        item.AccessionNumber, item.StudyID, item.DeviceSerialNumber = f"{SECRET}-A1", f"{SECRET}-S1", f"{SECRET}-D1"
        item.StudyDescription = item.SeriesDescription = item.ProtocolName = f"{SECRET} chest"
        item.ImageComments = item.PatientComments = f"{SECRET} comment"
        item.ContrastBolusAgent = f"{SECRET} agent"
        item.PositionReferenceIndicator = f"{SECRET} PRI"
        request = Dataset()
        request.RequestedProcedureDescription, request.ScheduledProcedureStepID = f"{SECRET} deep", f"{SECRET}-P"
        request.StudyInstanceUID = study
        item.RequestAttributesSequence = [request]
        block = item.private_block(0x0009, f"{SECRET} PRIVATE", create=True)
        block.add_new(0x01, "LO", f"{SECRET} private text")
        block.add_new(0x02, "UN", f"{SECRET} unknown ".encode())
        item.KVP, item.SliceThickness, item.PatientPosition, item.BodyPartExamined = "120", "2.5", "HFS", "CHEST"
        item.SeriesNumber, item.AcquisitionNumber, item.InstanceNumber = 3, 1, number + 1
        item.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        item.ImagePositionPatient = [-11.5, -20.25, 30 + 2.5 * number]
        item.PixelSpacing, item.Rows, item.Columns = [0.75, 0.75], 24, 32
        item.SamplesPerPixel, item.PhotometricInterpretation, item.PixelRepresentation = 1, "MONOCHROME2", 1
        item.BitsAllocated, item.BitsStored, item.HighBit = 16, 16, 15
        item.RescaleSlope, item.RescaleIntercept = 1, 0
        item.PixelData = voxels[number].tobytes()
        item["PixelData"].VR = "OW"
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


def identifying_values(folder: Path) -> set[bytes]:
    """Every value of the series' headers, nested and private ones too, that must be in no file made from it."""
    kept, found = b"", set()
    for path in sorted(folder.iterdir()):
        header = dcmread(path, stop_before_pixels=True)
        for keyword, vr, value in _values(header):
            if keyword in KEPT:
                kept += b"\0" + value
            elif vr in _IDENTIFYING:
                found.add(value)
    return {value for value in found if len(value) > 4 and value not in kept and not value.startswith(b"1.2.840.10008")}


def _values(dataset: Dataset) -> Iterator[tuple[str, str, bytes]]:
    for element in dataset:
        if element.keyword == "DeidentificationMethodCodeSequence":  # the standard's codes, ours as well
            continue
        if element.VR == "SQ":
            for item in element.value:
                yield from _values(item)
            continue
        values = element.value if element.VM > 1 and not isinstance(element.value, bytes) else [element.value]
        for value in values:
            text = value if isinstance(value, bytes) else str(value).encode()
            yield element.keyword, element.VR, text.strip(b" \0")


def checker_errors(path: Path) -> list[str]:
    """Error lines of dciodvfy; none where it is not installed."""
    program = shutil.which("dciodvfy")
    if program is None:
        return []
    done = subprocess.run([program, str(path)], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.startswith("Error") and _YOUNGER_THAN_THE_CHECKER not in line]
