"""After training: what inference needs besides the weights, measured on held-out patients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from scintikit.engines.saving import save_atomic
from scintikit.errors import ConfigError
from scintikit.files import file_sha256
from scintikit.metrics import conformal_threshold, fit_ood, sensitivity_thresholds

logger = logging.getLogger(__name__)


def load_weights(network: torch.nn.Module, path: str | Path) -> None:
    """Load a plain state dict into the network.

    Raises
    ------
    ConfigError
        If the file is missing or made for another network; says what differs.
    """
    if not Path(path).is_file():
        raise ConfigError(f"there is no trained model {path}; run `training` first, or give --ckpt_dir")
    try:
        getattr(network, "module", network).load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except RuntimeError as error:
        raise ConfigError(f"{path} does not fit network_def: {error}") from error


def predict(
    network: torch.nn.Module,
    loader: Iterable[dict[str, Any]],
    inferer: Callable[..., torch.Tensor],
    prepare_batch: Callable[..., tuple[torch.Tensor, torch.Tensor | None]],
    feature_layer: str,
    device: torch.device,
    multi_label: bool = False,
) -> dict[str, np.ndarray]:
    """Run a classifier over a loader.

    With `multi_label` every disease has a probability of its own, otherwise those of an image sum to 1.

    Returns
    -------
    dict
        `probabilities` (N, C), `features` (N, D): the input of `feature_layer`, `labels` (N,) or (N, C).
    """
    network = getattr(network, "module", network).eval()
    kept: dict[str, list[torch.Tensor]] = {"probabilities": [], "features": [], "labels": []}
    hook = network.get_submodule(feature_layer).register_forward_pre_hook(
        lambda module, inputs: kept["features"].append(inputs[0].float().cpu())
    )
    try:
        with torch.no_grad():
            for batch in tqdm(loader, desc="calibrating", leave=False):
                images, labels = prepare_batch(batch, device)
                logits = inferer(images, network)
                kept["probabilities"].append((logits.sigmoid() if multi_label else logits.softmax(dim=1)).cpu())
                if labels is not None:
                    kept["labels"].append(labels.cpu())
    finally:
        hook.remove()
    return {name: torch.cat(parts).numpy() for name, parts in kept.items() if parts}


def calibrate(
    network: torch.nn.Module,
    ckpt_dir: str,
    training: Iterable[dict[str, Any]],
    validation: Iterable[dict[str, Any]],
    inferer: Callable[..., torch.Tensor],
    prepare_batch: Callable[..., tuple[torch.Tensor, torch.Tensor | None]],
    feature_layer: str,
    device: torch.device,
    settings: dict[str, Any],
    alpha: float = 0.1,
    target_sensitivity: float | None = None,
    rank: int = 0,
) -> Path:
    """Measure thresholds and the out-of-distribution score of `model.pt`; write `calibration.pt`.

    Thresholds come from validation patients. With one class for each image, conformal sets cover the true class with
    probability 1 - alpha on patients like those; with several diseases at once, each is called from the highest
    probability on that finds `target_sensitivity` of those who have it. How far that holds on other cameras is measured
    by the evaluation. The features of the training images describe what the network knows; validation sets the score
    above which an image counts as unlike them.

    Parameters
    ----------
    network
        The classifier; gets the weights of `ckpt_dir`/model.pt.
    ckpt_dir
        Folder with `model.pt`; `calibration.pt` goes there.
    training, validation
        Loaders without augmentation.
    inferer, prepare_batch, device
        As for the evaluator.
    feature_layer
        The layer whose input is the feature vector, for instance `fc`.
    settings
        What inference must do as training did (class names, preprocessing); kept and compared when it is read.
    alpha
        Share of cases in which a conformal set may miss the true class.
    target_sensitivity
        Given, labels are lists of 0/1.
    rank
        Process rank in distributed training; only rank 0 works.
    """
    path = Path(ckpt_dir) / "calibration.pt"
    if rank != 0:
        return path
    weights = Path(ckpt_dir) / "model.pt"
    load_weights(network, weights)
    multi_label = target_sensitivity is not None
    known = predict(network, training, inferer, prepare_batch, feature_layer, device, multi_label)
    held_out = predict(network, validation, inferer, prepare_batch, feature_layer, device, multi_label)
    truth = held_out["probabilities"], held_out["labels"]
    if target_sensitivity is not None:
        decision = {
            "target_sensitivity": target_sensitivity,
            "thresholds": sensitivity_thresholds(*truth, target_sensitivity).tolist(),
        }
    else:
        decision = {"alpha": alpha, "conformal_threshold": conformal_threshold(*truth, alpha).tolist()}
    calibration = {
        "model_sha256": file_sha256(weights),
        "settings": settings,
        **decision,
        "ood": _tensors(fit_ood(known["features"], held_out["features"])),
    }
    save_atomic(path, calibration)
    logger.info("wrote %s: %s", path, decision)
    return path


def load_calibration(ckpt_dir: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Read `calibration.pt` and check that it was measured for the `model.pt` beside it and for these settings.

    Raises
    ------
    ConfigError
        If it is missing, belongs to other weights, or the model was trained with other class names or preprocessing.
    """
    calibration = load_measured(Path(ckpt_dir) / "calibration.pt", settings, task="calibrating")
    calibration["ood"] = {k: v.numpy() if torch.is_tensor(v) else v for k, v in calibration["ood"].items()}
    return calibration


def load_measured(path: Path, settings: dict[str, Any], task: str) -> dict[str, Any]:
    """Read what was measured after a training, and check that it fits the `model.pt` beside it and these settings.

    Parameters
    ----------
    path
        File with `model_sha256`, `settings` and more.
    settings
        What must be as it was in training.
    task
        Run id of train.json that makes the file.

    Raises
    ------
    ConfigError
        If it is missing, belongs to other weights, or the model was trained with other settings.
    """
    weights = path.with_name("model.pt")
    if not weights.is_file():
        raise ConfigError(f"there is no trained model {weights}; run `training` first, or give --ckpt_dir")
    if not path.is_file():
        raise ConfigError(f"there is no {path}; run the id `{task}` of train.json to make it")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["model_sha256"] != file_sha256(weights):
        raise ConfigError(f"{path} was measured for another model.pt; run the id `{task}` of train.json anew")
    for name, value in settings.items():
        trained = content["settings"].get(name)
        if trained != value:
            raise ConfigError(f"{weights} was trained with {name} {trained}, but {name} is {value} here; give --{name}")
    return content


def _tensors(values: dict[str, Any]) -> dict[str, Any]:
    """Turn arrays into tensors, which `torch.load(weights_only=True)` reads."""
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}
