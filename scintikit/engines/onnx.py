"""A classifier in ONNX: exported beside its weights, and run by onnxruntime in the torch network's place.

onnxruntime fuses batch normalisation and activations into the convolutions and needs no torch on the machine that
runs the file. It computes in float32 on the CPU, whatever the precision and device of the torch network.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scintikit import __version__
from scintikit.bundles import MANIFEST
from scintikit.engines.calibration import load_weights
from scintikit.errors import ConfigError, MissingExtraError
from scintikit.files import file_sha256, write_atomic

logger = logging.getLogger(__name__)

_NOTICE = "Research use only; not a medical device."


class _Outputs(nn.Module):
    """All that inference needs of a network in one call: logits, features and, where it has them, heat maps."""

    def __init__(self, network: nn.Module, feature_layer: str) -> None:
        super().__init__()
        self.network: Any = network
        self.feature_layer = feature_layer

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return logits `(B, K)`, features `(B, F)` and heat maps of images `(B, C, H, W)`."""
        features: list[torch.Tensor] = []
        layer = self.network.get_submodule(self.feature_layer)
        hook = layer.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
        try:
            pred = self.network(image)
        finally:
            hook.remove()
        return (pred, features[0], *([self.network.heat_maps(image)] if has_heat(self.network) else []))


def has_heat(network: nn.Module) -> bool:
    """Return whether a network draws heat maps without gradients, which ONNX has not."""
    return hasattr(network, "heat_maps") and not hasattr(network, "cam_layer")


def can_draw(network: nn.Module) -> bool:
    """Return whether heat maps can be drawn: of a network that ONNX runs, only those that need no gradients."""
    return not isinstance(network, OnnxNetwork) or has_heat(network.network)


def export_onnx(
    network: nn.Module, path: str | Path, example: torch.Tensor, feature_layer: str, model_sha256: str
) -> Path:
    """Write a classifier as one ONNX file, atomically.

    The input is `image`, of any number of images of the example's shape; the outputs are `pred` (logits), `features`
    and, if the network has heat maps of its own, `heat`. The bytes depend on weights, shape and versions alone: nothing
    of the machine or the folder stands in them.

    Parameters
    ----------
    network
        The classifier with its weights; left as it is.
    path
        The file to write.
    example
        Images `(B, C, H, W)`; only their shape matters.
    feature_layer
        The layer whose input is the feature vector, for instance `fc`.
    model_sha256
        Hash of the file the weights come from; kept in the file, so that nobody runs it for other weights.

    Raises
    ------
    MissingExtraError
        If the exporter is not installed.
    """
    path = Path(path)
    write_atomic(path, _encode(network, example, feature_layer, model_sha256))
    return path


def _encode(network: nn.Module, example: torch.Tensor, feature_layer: str, model_sha256: str) -> bytes:
    names = ["pred", "features", *(["heat"] if has_heat(network) else [])]
    outputs = _Outputs(network, feature_layer)
    return encode_onnx(outputs, {"image": example}, names, _identity(model_sha256, feature_layer))


def encode_onnx(
    network: nn.Module, examples: Mapping[str, torch.Tensor], outputs: Sequence[str], stated: Mapping[str, str]
) -> bytes:
    """Return any network as the bytes of one ONNX file that takes batches of any size.

    Parameters
    ----------
    network
        The network with its weights; left as it is.
    examples
        The first arguments of `forward` by the names they get in the file, tensors `(B, ...)`; only shape and type
        matter. Arguments that are left out keep their defaults for ever.
    outputs
        Names of the outputs.
    stated
        What the file states about itself.

    Raises
    ------
    MissingExtraError
        If the exporter is not installed.
    """
    try:
        import onnx_ir
        import onnxscript  # noqa: F401  torch's exporter wants it
        from onnx_ir.passes import common as passes
    except ImportError:
        raise MissingExtraError("writing ONNX needs onnx and onnxscript; install the extra scintikit[onnx]") from None
    # A copy: the network may be in channels-last order, on a GPU, in training, and have hooks.
    network = copy.deepcopy(network).to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    # A batch of one the exporter would take for a constant.
    inputs = tuple(example[:1].cpu().expand(3, *example.shape[1:]).contiguous() for example in examples.values())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # that torchvision is absent is no news
    with warnings.catch_warnings(), torch.no_grad(), torch.autocast("cpu", enabled=False):  # float32 wherever called
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            network,
            inputs,
            input_names=list(examples),
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},) * len(inputs),
            dynamo=True,
            verbose=False,
        )
    model = program.model
    onnx_ir.passes.Sequential(
        # Logits and heat maps are traced one after the other: what they share is there twice.
        passes.DeduplicateInitializersPass(size_limit=2**20),
        passes.CommonSubexpressionEliminationPass(size_limit=2**20),
        passes.RemoveUnusedNodesPass(),
        passes.ClearMetadataAndDocStringPass(),  # stack traces of this machine
    )(model)
    model.producer_name, model.producer_version = "scintikit", __version__
    model.doc_string = _NOTICE
    model.metadata_props.update(stated)
    return onnx_ir.to_proto(model).SerializeToString(deterministic=True)


def _identity(model_sha256: str, feature_layer: str) -> dict[str, str]:
    """Return what a file must state to be run in a network's place."""
    return {"model_sha256": model_sha256, "feature_layer": feature_layer, "scintikit": __version__}


class OnnxNetwork(nn.Module):
    """A torch classifier that is run by onnxruntime.

    It takes hooks on its feature layer, calls and weights as the torch network does, but always runs those of the
    `model.pt` beside the ONNX file. That file is written at the first call if it is missing or was made from other
    weights, by another version of scintikit or for images of another size. A hook on any other layer, and gradients,
    need torch.

    Parameters
    ----------
    network
        The torch network.
    onnx_path
        The ONNX file, beside `model.pt`.
    feature_layer
        The layer whose input is the feature vector.

    Raises
    ------
    MissingExtraError
        If onnxruntime is not installed.
    ConfigError
        At the first call, if there is no `model.pt`, or one of another network.
    """

    def __init__(self, network: nn.Module, onnx_path: str | Path, feature_layer: str) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("runtime onnx needs onnxruntime; install the extra scintikit[onnx]") from None
        self._runtime = onnxruntime
        self.network = network
        self.path = Path(onnx_path)
        self.feature_layer = feature_layer
        self.features = nn.Identity()
        self._session: Any = None

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load the torch network's weights."""
        return self.network.load_state_dict(state_dict, *args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the torch network's weights."""
        return self.network.state_dict(*args, **kwargs)

    def get_submodule(self, target: str) -> nn.Module:
        """Return a module through which the features go.

        Raises
        ------
        ConfigError
            For any layer but the feature layer: the others exist only in torch.
        """
        if target != self.feature_layer:
            raise ConfigError(
                f"layer {target} and its gradients are not there in ONNX: leave out --gradcam, or give --runtime torch"
            )
        return self.features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits `(B, K)` of images `(B, C, H, W)`."""
        pred, features = self._run(images, "pred", "features")
        self.features(features)
        return pred

    def heat_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's heat maps of images `(B, C, H, W)`.

        Raises
        ------
        ConfigError
            If the network has none that need no gradients.
        """
        if not has_heat(self.network):
            name = type(self.network).__name__
            raise ConfigError(f"{name} has no heat maps in ONNX: give --heat False or --runtime torch")
        return self._run(images, "heat")[0]

    def _run(self, images: torch.Tensor, *names: str) -> list[torch.Tensor]:
        if self._session is None:
            self._session = self._open(images)
        given = {"image": images.detach().float().contiguous().cpu().numpy()}
        return [torch.from_numpy(output).to(images.device) for output in self._session.run(list(names), given)]

    def _open(self, images: torch.Tensor) -> Any:
        """Return a session that runs the ONNX file, which is written anew if it does not belong to `model.pt`."""
        weights = self.path.with_name("model.pt")
        load_weights(self.network, weights)  # so that the file cannot hold other weights than the hash says
        model_sha256 = file_sha256(weights)
        if self.path.is_file() and (session := self._fitting(images, model_sha256)):
            return session
        content = _encode(self.network, images, self.feature_layer, model_sha256)
        if (self.path.parent.parent / MANIFEST).is_file():  # whose hashes it must keep
            logger.warning("%s of a package does not fit; it is made anew each time", self.path)
            return self._start(content)
        logger.info("writing %s", self.path)
        try:
            write_atomic(self.path, content)
        except OSError as error:  # a folder that may only be read
            logger.warning("%s cannot be written (%s); it is made anew each time", self.path, error.strerror)
        return self._start(content)

    def _fitting(self, images: torch.Tensor, model_sha256: str) -> Any:
        """Return a session that runs the file as it stands, or None if it is damaged or was made for something else."""
        try:
            session = self._start(self.path.read_bytes())
        except Exception as error:  # those of onnxruntime have no common base
            logger.warning("%s cannot be run (%s)", self.path, type(error).__name__)
            return None
        same = session.get_modelmeta().custom_metadata_map == _identity(model_sha256, self.feature_layer)
        return session if same and session.get_inputs()[0].shape[1:] == list(images.shape[1:]) else None

    def _start(self, content: bytes) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        return self._runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
