"""A packed bundle at work: run as a program, by the Python of the environment in which the bundle is to work.

    python trial.py FOLDER RESULTS.json

It knows nothing of the scintikit that verifies: what the bundle imports is the bundle's own copy. Each check's outcome
is written to RESULTS.json as soon as it is known.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder, whose modules are those of the verifying scintikit

import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out

TOLERANCE = 1e-4  #: between the exported networks and the original, in fp32


class NotRunError(Exception):
    """A check cannot be made here; the message says why."""


class Trial:
    """The checks of one unpacked bundle.

    Parameters
    ----------
    folder
        The bundle.
    scratch
        An empty folder for what the checks write.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self.scratch = scratch
        self.metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
        self.trial = self.metadata.get("trial", {})

    def run_library(self) -> str:
        """The bundle uses the library that travels with it."""
        import scintikit

        place = Path(scintikit.__file__ or "").resolve()
        assert place.is_relative_to(self.folder), f"scintikit is imported from {place}, not from the bundle"
        return f"scintikit {scintikit.__version__}"

    def run_properties(self) -> str:
        """`train.json` and `inference.json` have every property that MONAI's tools look for."""
        seen = []
        for name, kind in (("train", "train"), ("inference", "infer")):
            path = self.folder / "configs" / f"{name}.json"
            if path.is_file():
                workflow = ConfigWorkflow(str(path), workflow_type=kind, dataset_dir=self._dataset())
                workflow.initialize()
                missing = workflow.check_properties()
                assert not missing, f"{name}.json lacks {missing}"
                seen.append(f"{name}.json")
        return ", ".join(seen)

    def run_shapes(self) -> str:
        """`network_def` takes and gives what the metadata declares."""
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(self.folder / "configs" / "metadata.json"),
            config_file=str(self.folder / "configs" / "inference.json"),
            device="cpu",
        )
        formats = self.metadata["network_data_format"]
        sizes = [formats["inputs"]["image"], formats["outputs"]["pred"]]
        return " -> ".join(str((size["num_channels"], *size["spatial_shape"])) for size in sizes)

    def run_weights(self) -> str:
        """`model.pt` fits `network_def`."""
        return f"{sum(parameter.numel() for parameter in self.network.parameters()) / 1e6:.1f} M parameters"

    def run_torchscript(self) -> str:
        """`model.ts` gives the same output as the network."""
        path = self.folder / "models" / "model.ts"
        if not path.is_file():
            raise NotRunError("the bundle has no models/model.ts")
        with torch.no_grad():
            return self._compare(torch.jit.load(path)(*self.inputs.values()))

    def run_onnx(self) -> str:
        """`model.onnx` gives the same output as the network."""
        path = self.folder / "models" / "model.onnx"
        if not path.is_file():
            raise NotRunError("the bundle has no models/model.onnx")
        try:
            import onnxruntime
        except ImportError:
            raise NotRunError("onnxruntime is not installed here") from None
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        given = {name: value.numpy() for name, value in self.inputs.items()}
        return self._compare(torch.from_numpy(session.run(["pred"], given)[0]))

    def run_inference(self) -> str:
        """`python -m monai.bundle run --config_file .../inference.json` works on a simulated scintigram."""
        output = self.scratch / "output"
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file"]
        command += [str(self.folder / "configs" / "inference.json"), "--output_dir", str(output)]
        command += ["--dataset_dir", str(Path(self._dataset()) / self.trial.get("folder", ""))]
        for name, value in self.trial.get("options", {}).items():
            command += [f"--{name}", str(value)]
        done = subprocess.run(command, cwd=self.scratch, capture_output=True, text=True)
        assert done.returncode == 0, f"it ended with {done.returncode}: {done.stderr.strip()[-600:]}"
        files = [path for path in output.rglob("*") if path.is_file()]
        assert files, "it wrote nothing"
        return f"{len(files)} files written"

    def _dataset(self) -> str:
        """Return the folder of the small dataset that the metadata names for the trial, simulated on first use."""
        if "profile" not in self.trial:
            raise NotRunError("metadata.json names no simulation profile under `trial`")
        from scintikit.phantoms import PROFILES, simulated_dataset
        from scintikit.phantoms.skeleton import simulated_bone_dataset

        profile = self.trial["profile"]
        return simulated_dataset(profile) if profile in PROFILES else simulated_bone_dataset(profile)

    @cached_property
    def config(self) -> ConfigParser:
        """`inference.json`, with the settings that the weights were trained with."""
        parser = ConfigParser()
        parser.read_meta(str(self.folder / "configs" / "metadata.json"))
        parser.read_config(str(self.folder / "configs" / "inference.json"))
        for name in self.metadata["weights"]:
            for key, value in self._load(name).get("settings", {}).items():
                parser[key] = value
        return parser

    @cached_property
    def network(self) -> torch.nn.Module:
        """`network_def` with the weights."""
        network = self.config.get_parsed_content("network_def")
        network.load_state_dict(self._load("model.pt"))
        return network.eval()

    @cached_property
    def inputs(self) -> dict[str, torch.Tensor]:
        """A batch of two for the exported network: images, and what else the network itself names by `example`."""
        image = self.metadata["network_data_format"]["inputs"]["image"]
        shape = (2, image["num_channels"], *image["spatial_shape"])
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        example = getattr(self.network, "example", None)
        return example(images) if example else {"image": images}

    def _load(self, name: str) -> Any:
        return torch.load(self.folder / "models" / name, map_location="cpu", weights_only=True)

    def _compare(self, output: torch.Tensor) -> str:
        with torch.no_grad():
            expected = self.network(*self.inputs.values())
        difference = float((output - expected).abs().max())
        assert difference <= TOLERANCE, f"differs from the network by up to {difference:.1g}; allowed is {TOLERANCE:g}"
        return f"differs by {difference:.0e} at most"


#: In this order, under the names in the table of `verify`.
CHECKS: dict[str, Callable[[Trial], str]] = {
    "own library": Trial.run_library,
    "properties": Trial.run_properties,
    "weights fit": Trial.run_weights,
    "network in and out": Trial.run_shapes,
    "TorchScript": Trial.run_torchscript,
    "ONNX": Trial.run_onnx,
    "inference": Trial.run_inference,
}


def main(folder: Path, results: Path) -> None:
    """Make every check, whatever the others gave."""
    found: dict[str, Any] = {}
    sys.path.insert(1, str(folder))
    with tempfile.TemporaryDirectory(prefix="scintikit_trial_") as scratch:
        os.environ["SCINTIKIT_HOME"] = str(Path(scratch) / "home")
        os.chdir(scratch)
        for name, check in CHECKS.items():
            try:
                found[name] = {"passed": True, "detail": check(Trial(folder, Path(scratch)))}
            except NotRunError as error:
                found[name] = {"passed": None, "detail": str(error)}
            except Exception as error:
                found[name] = {"passed": False, "detail": f"{type(error).__name__}: {error}".strip()[:800]}
            whole = results.with_suffix(".part")  # this process can be ended at any moment
            whole.write_text(json.dumps(found), encoding="utf-8")
            whole.replace(results)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
