"""Program: add `model.ts` and `model.onnx` to the folder of a bundle, by the bundle's own code and weights.

python export.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder, whose modules are no packages of their own

from scintikit import __version__
from scintikit.bundles import enter
from scintikit.engines import encode_onnx, export_onnx, export_torchscript
from scintikit.files import file_sha256, write_atomic
from scintikit.packing.trial import Trial


def main(folder: Path) -> None:
    """Write both files to `models`."""
    enter(folder)
    trial = Trial(folder, folder)
    models = folder / "models"
    sha256 = file_sha256(models / "model.pt")
    export_torchscript(trial.network, models / "model.ts", list(trial.inputs.values()))
    if "feature_layer" in trial.config:  # a classifier, which `--runtime onnx` can run
        layer = trial.config.get_parsed_content("feature_layer")
        export_onnx(trial.network, models / "model.onnx", trial.inputs["image"], layer, sha256)
    else:
        stated = {"model_sha256": sha256, "scintikit": __version__}
        write_atomic(models / "model.onnx", encode_onnx(trial.network, trial.inputs, ["pred"], stated))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
