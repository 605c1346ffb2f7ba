"""The scintigram with its heat map as a DICOM Secondary Capture, under a banner that nobody overlooks."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from highdicom.sc import SCImage
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from scintikit import __version__
from scintikit.classifier import Classifier

from . import codes as own
from .selection import MANUFACTURER, Job
from .sources import result_uid

SERIES_NUMBER = 9002
BANNER = "RESEARCH USE ONLY"
WIDTH = 768  # pixels at least, so that the text fits


def secondary_capture(
    job: Job, content: Mapping[str, Any], picture: bytes, classifier: Classifier, sources: Sequence[Dataset]
) -> SCImage:
    """Return the picture (PNG) that a classifier drew as an RGB Secondary Capture; parameters as in the report."""
    image = SCImage.from_ref_dataset(
        ref_dataset=sources[0],
        pixel_array=np.asarray(draw_banner(picture, summary(content), classifier)),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # the constructor wants one
        series_instance_uid=result_uid(job, classifier, "SC series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=result_uid(job, classifier, "SC"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=classifier.name,
        software_versions=f"{classifier.name} {classifier.version}, scintikit {__version__}",
        series_description=f"{classifier.name}: {BANNER}",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    image.PatientOrientation = ""  # panels of several views have no common one
    image.Laterality = ""
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.BurnedInAnnotation = "YES"
    image.RecognizableVisualFeatures = "NO"
    image.DerivationDescription = "Heat map of a neural network over the scintigram. Research use only."
    image.SourceImageSequence = [_reference(job, number) for number in range(len(job.instances))]
    return image


def _reference(job: Job, number: int) -> Dataset:
    instance, item = job.instances[number], Dataset()
    item.ReferencedSOPClassUID = instance.sop_class
    item.ReferencedSOPInstanceUID = instance.sop_instance
    frames = instance.frames(job.rule.views)
    if frames:
        item.ReferencedFrameNumber = frames
    item.PurposeOfReferenceCodeSequence = [own.SOURCE_IMAGE]
    return item


def summary(content: Mapping[str, Any]) -> str:
    """Return what a classifier says in one line."""
    if "called" in content:
        said = ", ".join(f"{name} {p:.2f}" for name, p in content["probabilities"].items())
        line = f"called: {', '.join(content['called']) or 'none'} ({said})"
    else:
        line = f"{content['prediction']} {content['probabilities'][content['prediction']]:.2f}"
        line += f", cannot be ruled out: {', '.join(content['conformal_set'])}"
    return line + (" - UNLIKE THE TRAINING DATA" if content["unlike_training_data"] else "")


def draw_banner(picture: bytes, line: str, classifier: Classifier) -> Image.Image:
    """Return the picture under the banner, a line that says the result, and one that says whose it is."""
    drawn = Image.open(io.BytesIO(picture)).convert("RGB")
    width = max(drawn.width, WIDTH)
    unit = width // 32
    page = Image.new("RGB", (width, drawn.height + 4 * unit), "white")
    page.paste(drawn, ((width - drawn.width) // 2, 4 * unit))
    pen = ImageDraw.Draw(page)
    pen.rectangle((0, 0, width, 2 * unit), fill="#b00020")
    model = f"{classifier.name} {classifier.version}, weights {classifier.model_sha256[:12]}"
    for text, size, top, colour in (
        (f"{BANNER} - not a medical device", 1.3, 0.25, "white"),
        (line, 0.7, 2.1, "black"),
        (model, 0.55, 3.1, "#555555"),
    ):
        pen.text((width // 2, top * unit), text, fill=colour, font=_font(pen, text, size * unit, width), anchor="ma")
    return page


def _font(pen: ImageDraw.ImageDraw, text: str, size: float, width: int) -> Any:
    """Return a font of that size, or smaller if the text were too wide."""
    font = ImageFont.load_default(size)
    return ImageFont.load_default(size * min(1.0, 0.96 * width / pen.textlength(text, font=font)))
