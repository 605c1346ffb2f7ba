"""The dataset contract: folders of scintigrams with `dataset.json`, their splits, weights, making and merging."""

from scintikit.data.augmentation import BatchAugmentation, Movements
from scintikit.data.augmenting import augment
from scintikit.data.composing import compose
from scintikit.data.contract import Dataset, Item, item_id, label_names, load_datalist, load_dataset
from scintikit.data.folders import TolerantDataset, find_images, find_studies
from scintikit.data.indexing import IndexResult, index_folder
from scintikit.data.splits import split_patients
from scintikit.data.transforms import UNKNOWN, RefuseEmptyd, Resampled, UnknownMaskd
from scintikit.data.views import TwoViewAugmentation, body_frame, mirror_posterior, mirrored_prompt, mirrored_view
from scintikit.data.weights import class_weights, positive_weights
from scintikit.data.whole_body import CheckWholeBodyd
from scintikit.data.writer import DatasetWriter

__all__ = [
    "UNKNOWN",
    "BatchAugmentation",
    "CheckWholeBodyd",
    "Dataset",
    "DatasetWriter",
    "IndexResult",
    "Item",
    "Movements",
    "RefuseEmptyd",
    "Resampled",
    "TolerantDataset",
    "TwoViewAugmentation",
    "UnknownMaskd",
    "augment",
    "body_frame",
    "class_weights",
    "compose",
    "find_images",
    "find_studies",
    "index_folder",
    "item_id",
    "label_names",
    "load_datalist",
    "load_dataset",
    "mirror_posterior",
    "mirrored_prompt",
    "mirrored_view",
    "positive_weights",
    "split_patients",
]
