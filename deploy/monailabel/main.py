"""A MONAI Label app that serves scintikit's classifiers.

MONAI Label 0.8.5 cannot share an environment with scintikit (pydicom < 3 against pydicom 3), so that this file runs in
one of its own and imports nothing of scintikit. What reads and what computes is `scintikit run BUNDLE inference`, in a
process beside it; every answer is what that writes. Research use only; not a medical device.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from bridge import OPTIONS, ROOT, Bridge  # MONAI Label puts this folder on the path
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

logger = logging.getLogger(__name__)

NOTICE = "Research use only; not a medical device."
#: Files of the studies folder that are offered; DICOM files without a suffix need a pattern of yours.
FILES = "*.dcm,*.DCM,*.dicom,*.ima,*.IMA,*.nii.gz,*.nii,*.png,*.jpg,*.jpeg"


class ScintigramStore(LocalDatastore):
    """The files of a folder, each by its whole name: `scan.dcm` and `scan.png` are two images."""

    def _to_id(self, file: str) -> tuple[str, str]:
        return file, ""


class ClassifierTask(InferTask):
    """Answer requests for a classifier's bundle.

    Parameters
    ----------
    bundle
        Its folder.
    metadata
        Its `metadata.json`; the labels are the channels of its output.
    models
        Folder of `model.pt` and `calibration.pt`.
    bridge
        Where it runs.
    """

    def __init__(self, bundle: Path, metadata: dict[str, Any], models: Path, bridge: Bridge) -> None:
        channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        super().__init__(
            type=InferType.CLASSIFICATION,
            labels={name: int(channel) for channel, name in channels.items()},
            dimension=2,
            description=f"{metadata['description']} {NOTICE}",
        )
        self.bundle = bundle
        self.version = metadata["version"]
        self.models = models
        self.bridge = bridge

    def is_valid(self) -> bool:
        """Return whether there are weights."""
        return (self.models / "model.pt").is_file()

    def info(self) -> dict[str, Any]:
        """Return what `/info/` tells of the model."""
        return {**super().info(), "version": self.version}

    def __call__(self, request: dict[str, Any]) -> tuple[None, dict[str, Any]]:
        """Return no label image, and the answer.

        Raises
        ------
        HTTPException
            404 if the image is not among the studies, 422 if it cannot be read or an option is wrong; says why.
        """
        if not request["image"]:
            raise HTTPException(404, "no such image in the studies folder; GET /datastore/?output=all lists them")
        start = time.monotonic()
        found = self.bridge.ask(
            bundle=str(self.bundle),
            image=str(Path(request["image"]).resolve()),
            ckpt_dir=str(self.models),
            options={name: request[name] for name in OPTIONS if name in request},
        )
        if "error" in found:
            raise HTTPException(422, found["error"])
        scores = found["probabilities"].items()
        return None, {
            "label_names": self.labels,
            # As MONAI Label's ClassificationWriter puts it, for its clients.
            "prediction": [{"idx": idx, "label": name, "score": score} for idx, (name, score) in enumerate(scores)],
            "inference": found,
            "latencies": {"total": round(time.monotonic() - start, 2)},
        }


class ScintikitApp(MONAILabelApp):
    """Serve every bundle that has probabilities for output and weights in its folder.

    `--conf NAME FOLDER` gives the folder of a bundle's weights, `--conf bundles FOLDER` that of the bundles,
    `--conf files PATTERNS` the files to offer, `--conf python PATH` the Python of scintikit's environment.

    Raises
    ------
    MONAILabelException
        If no bundle has weights, the studies are no folder, or scintikit's environment is not there.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(app_dir, studies, conf, name="scintikit", description=f"Scintigraphy. {NOTICE}")

    def init_datastore(self) -> Datastore:
        """Return the studies folder."""
        if self.studies.startswith(("http://", "https://")):
            message = f"{self.studies} is no folder: give a folder of DICOM, NIfTI or PNG files as --studies"
            raise MONAILabelException(MONAILabelError.APP_INIT_ERROR, message)
        patterns = self.conf.get("files", FILES).split(",")
        reload = settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD
        return ScintigramStore(self.studies, extensions=patterns, auto_reload=reload)

    def init_infers(self) -> dict[str, InferTask]:
        """Return the classifiers, by the names of their bundles."""
        bridge = Bridge(self._python(), settings.MONAI_LABEL_INFER_TIMEOUT)
        tasks: dict[str, InferTask] = {}
        for file in sorted(Path(self.conf.get("bundles", ROOT / "bundles")).resolve().glob("*/configs/metadata.json")):
            metadata = json.loads(file.read_text(encoding="utf-8"))
            if metadata["network_data_format"]["outputs"]["pred"]["type"] != "probabilities":
                continue
            bundle, name = file.parents[1], metadata["name"]
            task = ClassifierTask(bundle, metadata, Path(self.conf.get(name, bundle / "models")).resolve(), bridge)
            if task.is_valid():
                tasks[name] = task
            else:
                logger.warning(
                    "%s is not served: no model.pt in %s; train it, or say --conf %s FOLDER", name, task.models, name
                )
        if not tasks:
            raise MONAILabelException(MONAILabelError.APP_INIT_ERROR, "no classifier has weights; the log names them")
        return tasks

    def _python(self) -> Path:
        python = Path(self.conf.get("python", ROOT / ".venv" / "bin" / "python")).absolute()  # a link, to be kept
        if not python.is_file():
            advice = "run `make setup`, or give the Python of scintikit's environment as --conf python PATH"
            raise MONAILabelException(MONAILabelError.APP_INIT_ERROR, f"there is no {python}; {advice}")
        return python
