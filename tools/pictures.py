"""A bundle's own preprocessing and trained network, taken from its `inference.json`, and pictures read with them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from tqdm import tqdm

from scintikit.bundles import enter
from scintikit.engines import load_calibration, pick_device
from scintikit.engines.calibration import load_weights
from scintikit.errors import ConfigError, ImageReadError, did_you_mean, find_cause
from scintikit.metrics.features import (
    Extractor,
    classifier_features,
    inception_features,
    random_features,
    torchscript_features,
)
from tools.run import find_bundle

#: Extractors that take the bundle's own model, if there is one.
OWN_MODEL = ("auto", "classifier")


@dataclass(frozen=True)
class Classifier:
    """A classification bundle as far as its pictures and features go.

    Attributes
    ----------
    preprocessing : callable
        Turns `{"image": path, ...}` into an item whose `image` is a tensor (C, H, W).
    settings : dict
        What decides the pictures, as `class_names`, `view`, `spacing_mm`, `image_size`.
    network : torch.nn.Module or None
        With trained weights, in evaluation mode, on its device; None if none was trained with these settings.
    feature_layer : str
        The layer whose input is the feature vector.
    model_sha256 : str or None
        Of `model.pt`.
    """

    preprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    settings: dict[str, Any]
    network: torch.nn.Module | None
    feature_layer: str
    model_sha256: str | None


def classifier(
    bundle: str = "thyroid_cls", ckpt_dir: str | os.PathLike[str] | None = None, own_model: bool = True, **items: Any
) -> Classifier:
    """Read a classification bundle's `inference.json` and, where it was trained, its weights.

    Parameters
    ----------
    bundle : str
        Name or folder of the bundle.
    ckpt_dir : path, optional
        Folder with `model.pt` and `calibration.pt`. Default: the bundle's own, which may be untrained.
    own_model : bool
        Without `ckpt_dir`: whether to look for a model in the bundle, which decides the settings if it was trained.
    items
        Items of `inference.json` to replace, as `assumed_spacing_mm=2.4`. What the trained model was set up for needs
        none; a bundle's own model that was trained with other settings is left aside.

    Raises
    ------
    ConfigError
        If there is no such bundle or item, or `ckpt_dir` is given and holds no model trained with these settings.
    """
    # MONAI announces an optional GPU decoder that it does not find; our reader does not use it.
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
    root = find_bundle(bundle)
    enter(root)
    folder = Path(ckpt_dir or root / "models").expanduser().absolute()
    # calibration.pt is the last file that training writes.
    trained = ckpt_dir is not None or (own_model and (folder / "calibration.pt").is_file())
    known = load_calibration(str(folder), {})["settings"] if trained else {}
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    parser.read_meta(str(root / "configs" / "metadata.json"))
    for name in items:
        if name not in parser:
            guess = did_you_mean(name, parser.get())
            raise ConfigError(f"there is no option --{name}{guess}, neither here nor in {bundle}'s inference.json")
    parser.update({"bundle_root": str(root), "ckpt_dir": str(folder)} | known | items)
    settings = parser.get_parsed_content("settings")
    network, sha256 = None, None
    if trained and (ckpt_dir is not None or known == settings):
        sha256 = load_calibration(str(folder), settings)["model_sha256"]
        network = parser.get_parsed_content("network")
        load_weights(network, folder / "model.pt")
        network.eval()
    return Classifier(parser.get_parsed_content("preprocessing"), settings, network, _feature_layer(parser), sha256)


def _feature_layer(parser: ConfigParser) -> str:
    """Return the layer that the bundle's own inference takes the features from."""
    for number, handler in enumerate(parser["handlers"]):
        if isinstance(handler, dict) and handler["_target_"].endswith(".CaptureFeatures"):
            return str(parser.get_parsed_content(f"handlers#{number}#layer"))
    raise ConfigError("inference.json has no CaptureFeatures among its handlers; it tells which layer has the features")


def load_pictures(
    items: Sequence[Mapping[str, Any]],
    preprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    workers: int | None = None,
    label: str = "reading",
) -> np.ndarray:
    """Return the preprocessed pictures of items of `load_datalist`, float32 (N, C, H, W), in their order.

    Parameters
    ----------
    items : sequence of mapping
        Each with the path of its `image`.
    preprocessing : callable
        As `Classifier.preprocessing`.
    workers : int, optional
        Threads; default one for each CPU core.
    label : str
        Title of the progress bar.

    Raises
    ------
    ImageReadError
        If a file cannot be read or preprocessed; names it.
    """

    def read(item: Mapping[str, Any]) -> np.ndarray:
        return _read(item, preprocessing)

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        pictures = list(tqdm(pool.map(read, items), label, len(items), unit="image"))
    _check_shapes({picture.shape for picture in pictures})
    return np.stack(pictures)


def check_pictures(
    items: Sequence[Mapping[str, Any]], preprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]], label: str
) -> None:
    """Read and preprocess pictures as `load_pictures` does, and raise what it raises, but keep none of them."""

    def shape(item: Mapping[str, Any]) -> tuple[int, ...]:
        return _read(item, preprocessing).shape

    with ThreadPoolExecutor() as pool:
        _check_shapes(set(tqdm(pool.map(shape, items), label, len(items), unit="image")))


def _read(item: Mapping[str, Any], preprocessing: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> np.ndarray:
    try:
        return np.asarray(preprocessing(item)["image"], dtype=np.float32)
    except Exception as error:
        cause = find_cause(error)
        if cause is not None:
            raise cause from error
        raise ImageReadError(f"{item['image']} cannot be preprocessed: {error}") from error


def _check_shapes(shapes: set[tuple[int, ...]]) -> None:
    if len(shapes) > 1:
        raise ImageReadError(f"the preprocessed pictures have different shapes: {sorted(shapes)}; expected one")


def pick_extractor(name: str, classifier: Classifier) -> Extractor:
    """Return the feature extractor of a name given on a command line, and print which it is.

    Parameters
    ----------
    name : str
        "classifier", "random", "inception", the path of a TorchScript file, or "auto": the classifier if it is
        trained, else "random".
    classifier : Classifier

    Raises
    ------
    ConfigError
        If the name is none of these, or the classifier is asked for and not trained.
    """
    trained, device = classifier.network is not None, pick_device()
    if name == "auto" and not trained:
        print(
            "the bundle has no trained classifier for these settings (--ckpt_dir), so features come from a network "
            "with random weights"
        )
    chosen = ("classifier" if trained else "random") if name == "auto" else name
    if chosen == "classifier":
        if classifier.network is None or classifier.model_sha256 is None:
            raise ConfigError("the extractor 'classifier' needs a trained model; train the bundle or give --ckpt_dir")
        extractor = classifier_features(classifier.network, classifier.feature_layer, classifier.model_sha256)
    elif chosen == "random":
        extractor = random_features(device=device)
    elif chosen == "inception":
        extractor = inception_features(device)
    elif Path(chosen).expanduser().is_file():
        extractor = torchscript_features(chosen, device)
    else:
        known = "auto, classifier, random, inception or the path of a TorchScript file"
        raise ConfigError(f"there is no extractor {name!r}; give {known}")
    print(f"extractor: {extractor.name}, sha256 {extractor.sha256[:12]}")
    return extractor
