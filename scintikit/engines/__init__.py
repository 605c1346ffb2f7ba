"""Parts for MONAI's trainers and evaluators."""

from scintikit.engines.batch import PrepareImages
from scintikit.engines.calibration import calibrate, load_calibration
from scintikit.engines.checkpoint import Checkpoints
from scintikit.engines.device import pick_device, pick_dtype
from scintikit.engines.diseases import DiseaseReport, WriteDiseases
from scintikit.engines.distributed import start_processes, stop_processes
from scintikit.engines.gradcam import grad_cam
from scintikit.engines.handlers import (
    CaptureFeatures,
    ClipGradients,
    EpochProgress,
    SeedEpoch,
    StopOnNonFiniteLoss,
    TellMetrics,
    TensorBoardImages,
    ValidateEpochs,
    WeightAverage,
)
from scintikit.engines.inferer import AutocastInferer
from scintikit.engines.memory import keep_freed_memory
from scintikit.engines.network import coordinates, load_pretrained, prepare_inference, prepare_network
from scintikit.engines.onnx import encode_onnx, export_onnx
from scintikit.engines.outputs import EvaluationReport, WritePredictions
from scintikit.engines.torchscript import export_torchscript

__all__ = [
    "AutocastInferer",
    "CaptureFeatures",
    "Checkpoints",
    "ClipGradients",
    "DiseaseReport",
    "EpochProgress",
    "EvaluationReport",
    "PrepareImages",
    "SeedEpoch",
    "StopOnNonFiniteLoss",
    "TellMetrics",
    "TensorBoardImages",
    "ValidateEpochs",
    "WeightAverage",
    "WriteDiseases",
    "WritePredictions",
    "calibrate",
    "coordinates",
    "encode_onnx",
    "export_onnx",
    "export_torchscript",
    "grad_cam",
    "keep_freed_memory",
    "load_calibration",
    "load_pretrained",
    "pick_device",
    "pick_dtype",
    "prepare_inference",
    "prepare_network",
    "start_processes",
    "stop_processes",
]
