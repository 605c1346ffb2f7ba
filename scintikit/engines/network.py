"""What networks of several bundles need: to come to their device, pretrained weights, to know where a pixel is."""

from __future__ import annotations

from pathlib import Path

import torch

from scintikit.engines.memory import keep_freed_memory
from scintikit.engines.onnx import OnnxNetwork
from scintikit.errors import ConfigError, did_you_mean

RUNTIMES = ("torch", "onnx")


def prepare_network(network: torch.nn.Module, device: torch.device, pretrained: str | None = None) -> torch.nn.Module:
    """Return the network on `device` in channels-last order; on the CPU see to its memory, `keep_freed_memory`.

    Parameters
    ----------
    network
        Any network on images `(B, C, H, W)`.
    device
        Where it will run.
    pretrained
        File with a state dict to start from, see `load_pretrained`.
    """
    if pretrained:
        load_pretrained(network, pretrained)
    if device.type == "cpu":
        keep_freed_memory()
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def prepare_inference(
    network: torch.nn.Module, device: torch.device, runtime: str, ckpt_dir: str, feature_layer: str
) -> torch.nn.Module:
    """Return a classifier that is not going to be trained, to be run by torch or by onnxruntime.

    Parameters
    ----------
    network, device
        As for `prepare_network`; onnxruntime computes on the CPU.
    runtime
        "torch" or "onnx".
    ckpt_dir
        Folder of `model.pt`; `model.onnx` stands there, or is written there.
    feature_layer
        The layer whose input is the feature vector.

    Raises
    ------
    ConfigError
        If there is no such runtime.
    """
    if runtime not in RUNTIMES:
        known = ", ".join(RUNTIMES)
        raise ConfigError(f"runtime is {runtime!r}{did_you_mean(str(runtime), RUNTIMES)}; expected one of {known}")
    if runtime == "onnx":
        return OnnxNetwork(network, Path(ckpt_dir) / "model.onnx", feature_layer)
    return prepare_network(network, device)


def load_pretrained(network: torch.nn.Module, path: str) -> list[str]:
    """Load every fitting tensor of a state dict, such as ImageNet weights of a ResNet18, into the network.

    A first convolution for 3 colour channels is folded to the network's 1 grey channel by summing over the colours: a
    grey picture given three times would produce the same activations. The classification layer is left as initialised
    if its shape differs; any other mismatch is an error.

    Parameters
    ----------
    network
        The network to fill, changed in place.
    path
        A file written by `torch.save`: a state dict, or a dict that has one under `state_dict` or `model`.

    Returns
    -------
    list of str
        The names of the tensors that stay as initialised.

    Raises
    ------
    ConfigError
        If the file is missing or the weights belong to another network; the message names what differs.
    """
    if not Path(path).is_file():
        raise ConfigError(f"load_pretrained: there is no file {path}; give the path of a saved state dict or null")
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state.get("model", state))
    own = network.state_dict()
    fitting: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if name in own and own[name].ndim == tensor.ndim == 4 and own[name].shape[1] == 1 and tensor.shape[1] == 3:
            tensor = tensor.sum(dim=1, keepdim=True)
        if name in own and own[name].shape == tensor.shape:
            fitting[name] = tensor
    left = sorted(set(own) - set(fitting))
    head = list(own)[-1].rsplit(".", 1)[0]
    wrong = [name for name in left if name.rsplit(".", 1)[0] != head and not name.endswith("num_batches_tracked")]
    if wrong:
        raise ConfigError(
            f"load_pretrained: {path} does not fit {type(network).__name__}: {len(wrong)} tensors are missing or of "
            f"another shape, first {wrong[:3]}; expected the state dict of the same architecture"
        )
    network.load_state_dict(fitting, strict=False)
    return left


def coordinates(x: torch.Tensor) -> torch.Tensor:
    """Return row and column `(B, 2, H, W)` of each pixel of `x` `(B, C, H, W)`, from -1 to 1.

    As further channels they tell a convolution where it is (CoordConv, arXiv 1807.03247).
    """
    sides = (torch.linspace(-1, 1, side, device=x.device, dtype=x.dtype) for side in x.shape[-2:])
    return torch.stack(torch.meshgrid(*sides, indexing="ij")).expand(x.shape[0], -1, -1, -1)
