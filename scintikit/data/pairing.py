"""Which files show the anterior and the posterior view of one study.

DICOM files belong together by what their headers state (view, kind of acquisition, series or study, patient); PNG,
JPEG and NIfTI files by their names, as `scintikit.dicom.names` describes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import PurePosixPath

from scintikit.data.tree import PICTURE_SUFFIXES, Picture
from scintikit.dicom.names import studies_of_name

PAIR = ("ANT", "POST")


def group_views(pictures: Sequence[Picture]) -> list[tuple[Picture, ...]]:
    """Group pictures into studies, in the order of their first pictures.

    Returns
    -------
    list of tuple
        `(anterior, posterior)` where exactly one file shows each view of a study, else single pictures. Where a study
        has both views and one of them several times, all of its files make one group: nothing tells which two belong
        together.
    """
    readings = {picture: _readings(picture) for picture in pictures}
    group_of: dict[Picture, tuple[Picture, ...]] = {}
    for strict in (True, False):
        studies: dict[Hashable, list[tuple[str, Picture]]] = defaultdict(list)
        for picture in pictures:
            if readings[picture] and picture not in group_of:
                view, study = readings[picture][0 if strict else -1]
                studies[study].append((view, picture))
        for members in studies.values():
            views = sorted(view for view, _ in members)
            if tuple(views) == PAIR or (not strict and set(views) == set(PAIR)):
                group = tuple(picture for _, picture in sorted(members, key=lambda member: member[0]))
                group_of |= dict.fromkeys(group, group)
    return list(dict.fromkeys(group_of.get(picture, (picture,)) for picture in pictures))


def _readings(picture: Picture) -> list[tuple[str, Hashable]]:
    """Return what a picture may be: its view and what the other view's file must share, the strict reading first."""
    if picture.relative.lower().endswith(PICTURE_SUFFIXES):
        return [(view, (picture.patient, study)) for view, study in studies_of_name(PurePosixPath(picture.relative))]
    if picture.view not in PAIR or not picture.study:
        return []
    facts = (picture.patient, picture.image_type, picture.study)
    return [(picture.view, (*facts, picture.series)), (picture.view, facts)]
