"""What a classifier says as a DICOM Structured Report: template TID 1500, Measurement Report (PS3.16 annex A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from scintikit import __version__
from scintikit.classifier import Classifier

from . import codes as own
from .selection import MANUFACTURER, Job
from .sources import result_uid

SERIES_NUMBER = 9001


def structured_report(
    job: Job, content: Mapping[str, Any], classifier: Classifier, sources: Sequence[Dataset]
) -> ComprehensiveSR:
    """Return a report of one measurement group for each class, and one for the image as a whole.

    Parameters
    ----------
    job
        What was classified.
    content
        What the classifier says (`Prediction.content`).
    classifier
        Who says it.
    sources
        The job's headers, from `read_sources`.
    """
    groups = [_class_group(name, job, content, classifier) for name in classifier.class_names]
    groups.append(_image_group(job, content, classifier))
    report = MeasurementReport(
        observation_context=_observer(classifier), procedure_reported=own.PROCEDURE, imaging_measurements=groups
    )
    return ComprehensiveSR(
        evidence=sources,
        content=report,
        series_instance_uid=result_uid(job, classifier, "SR series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=result_uid(job, classifier, "SR"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=classifier.name,
        software_versions=f"{classifier.name} {classifier.version}, scintikit {__version__}",
        series_description=f"{classifier.name}: RESEARCH USE ONLY",
        is_complete=True,
        coding_schemes=[CodingSchemeIdentificationItem(own.SCHEME, name="Private codes of scintikit")],
    )


def _observer(classifier: Classifier) -> ObservationContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[MANUFACTURER, classifier.name, classifier.model_sha256]),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=f"{classifier.name} {classifier.version}",
    )
    return ObservationContext(
        observer_device_context=ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    )


def _group(
    finding: CodedConcept, name: str, job: Job, classifier: Classifier, **found: Any
) -> MeasurementsAndQualitativeEvaluations:
    """Return a group (TID 1501) that names the model and the frames it looked at."""
    site = own.SITES.get(classifier.name)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(result_uid(job, classifier, f"finding {name}"), name),
        finding_type=finding,
        algorithm_id=AlgorithmIdentification(
            name=f"{MANUFACTURER} {classifier.name}",
            version=classifier.version,
            parameters=[f"SHA-256 of the weights: {classifier.model_sha256}"],
            manufacturer=classifier.authors,
        ),
        finding_sites=[FindingSite(site)] if site else None,
        source_images=[
            SourceImageForMeasurementGroup(
                referenced_sop_class_uid=instance.sop_class,
                referenced_sop_instance_uid=instance.sop_instance,
                referenced_frame_numbers=instance.frames(job.rule.views),
            )
            for instance in job.instances
        ],
        **found,
    )


def _class_group(
    name: str, job: Job, content: Mapping[str, Any], classifier: Classifier
) -> MeasurementsAndQualitativeEvaluations:
    measurements = [_number(own.PROBABILITY, content["probabilities"][name])]
    if "called" in content:
        measurements.append(_number(own.THRESHOLD, content["thresholds"][name]))
        said = [QualitativeEvaluation(own.CALLED, own.PRESENT if name in content["called"] else own.ABSENT)]
    else:
        said = [
            QualitativeEvaluation(own.MOST_PROBABLE, _yes(name == content["prediction"])),
            QualitativeEvaluation(own.IN_CONFORMAL_SET, _yes(name in content["conformal_set"])),
        ]
    return _group(own.finding(name), name, job, classifier, measurements=measurements, qualitative_evaluations=said)


def _image_group(job: Job, content: Mapping[str, Any], classifier: Classifier) -> MeasurementsAndQualitativeEvaluations:
    measurements = [_number(own.OOD_SCORE, content["ood_score"])]
    if "conformal_coverage" in content:
        measurements.append(_number(own.COVERAGE, content["conformal_coverage"]))
    unlike = QualitativeEvaluation(own.UNLIKE, _yes(content["unlike_training_data"]))
    group = _group(own.LIKENESS, "image", job, classifier, measurements=measurements, qualitative_evaluations=[unlike])
    for text in filter(None, (content["notice"], content.get("warning"))):
        group[0].ContentSequence.append(TextContentItem(own.COMMENT, text, RelationshipTypeValues.CONTAINS))
    return group


def _number(name: CodedConcept, value: float) -> Measurement:
    return Measurement(name=name, value=float(value), unit=own.NO_UNITS)


def _yes(value: bool) -> CodedConcept:
    return own.YES if value else own.NO
