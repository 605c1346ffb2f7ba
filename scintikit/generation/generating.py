"""The run that makes a synthetic dataset."""

from __future__ import annotations

import hashlib
import inspect
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from tqdm import tqdm

import scintikit
from scintikit.data import Dataset, DatasetWriter, load_dataset
from scintikit.engines.calibration import load_weights
from scintikit.errors import DatasetError, ScintikitError
from scintikit.files import file_sha256
from scintikit.generation.devices import EvaluatorParts, name_devices, one_thread, run_in_processes
from scintikit.generation.records import RECORDS, Record, record_path
from scintikit.generation.requests import MissingBatches, RequestBatches
from scintikit.generation.statistics import FILE_NAME, patient_hash
from scintikit.generation.writing import NOTICE, WriteBatches, resumable

logger = logging.getLogger(__name__)


class Generation:
    """Make a synthetic dataset with an evaluator whose inferer draws pictures.

    Everything that can be wrong is checked before the first file. A run that was stopped goes on when it is started
    again with the same settings; runs of several shards fill one folder, and the last one finishes it. On CPUs of one
    kind every byte is the same however the work is divided.

    Parameters
    ----------
    evaluator
        Works on one device. Its loader has `RequestBatches` and `MissingBatches`, its inferer is a `PlausibleSampler`.
    postprocessing, handlers
        The evaluator's; one of the handlers is a `WriteBatches`.
    dataset_dir
        Dataset that the model was trained on: its training split lends masks and cameras.
    kind
        Origin of the items: "fm", "sd1", ...
    devices
        See `scintikit.generation.devices.name_devices`.

    Raises
    ------
    ConfigError
        If `devices` makes no sense.
    """

    def __init__(
        self,
        evaluator: Any,
        postprocessing: Callable[..., Any],
        handlers: Sequence[Any],
        dataset_dir: str,
        kind: str = "fm",
        devices: int | Sequence[str] | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.requests: RequestBatches = evaluator.data_loader.dataset
        self.missing: MissingBatches = evaluator.data_loader.sampler
        self.statistics = self.requests.statistics
        self.files = next(handler for handler in handlers if isinstance(handler, WriteBatches))
        self.dataset_dir = dataset_dir
        self.kind = kind
        self.devices = name_devices(devices, evaluator.state.device)
        self.parts = EvaluatorParts(
            network=evaluator.network,
            batches=self.requests,
            inferer=evaluator.inferer,
            prepare_batch=evaluator.prepare_batch,
            postprocessing=postprocessing,
            handlers=handlers,
            num_workers=evaluator.data_loader.num_workers,
        )

    def run(self) -> None:
        """Generate what is missing, and finish the dataset unless another shard has something left to do.

        Raises
        ------
        ConfigError
            If there is no trained model, or it does not fit the configuration.
        DatasetError
            If the folder holds something else, `dataset_dir` is not the dataset of the model, or its external test
            has a centre that the model knows.
        ScintikitError
            If pictures are implausible or all alike, a process fails, or files cannot be written.
        """
        self.requests.check()
        load_weights(self.evaluator.network, Path(self.statistics.ckpt_dir) / "model.pt")
        with resumable(self.files.folder):
            writer = self._begin()
        if writer.complete:
            logger.info("%s is complete already", writer.folder)
        else:
            self._draw()
            with resumable(writer.folder):
                self._finish(writer)
        if writer.complete:  # a run may have been killed between finishing and clearing up
            writer.tidy()
            shutil.rmtree(writer.folder / RECORDS, ignore_errors=True)

    def _begin(self) -> DatasetWriter:
        """Claim the folder; until here nothing was written."""
        source = load_dataset(self.dataset_dir)
        self._check_external(source)
        return DatasetWriter(
            self.files.folder,
            name=f"{source.name}-{self.kind}",
            description=f"{NOTICE}. Drawn by a generator ({self.kind}) that learned from: {source.description}",
            labels=list(source.labels.values()),
            licence=source.licence,
            recipe={
                "command": "generate",
                "kind": self.kind,
                "generator": self.statistics.model_sha256,
                "source": source.sha256,
                **self.requests.recipe(),
                **self.evaluator.inferer.recipe(self.devices[0]),
                **self.files.recipe(),
                "statistics": file_sha256(Path(self.statistics.ckpt_dir) / FILE_NAME),
                "code": code_sha256(self.evaluator.network),
                "versions": {"scintikit": scintikit.__version__, "torch": torch.__version__, "numpy": np.__version__},
            },
            shared=self.missing.shards > 1,
        )

    def _check_external(self, source: Dataset) -> None:
        """Raise `DatasetError` if the model knows a patient or external centre on whom others will be measured."""
        centres = {split: {item["centre"] for item in items} for split, items in source.splits.items()}
        held_out = {item["patient"] for split in ("validation", "test") for item in source.splits[split]}
        known = sum(patient_hash(patient) in self.statistics.patients for patient in held_out)
        if known:
            raise DatasetError(
                f"the model in {self.statistics.ckpt_dir} was trained on {known} patients whom {source.root} keeps for "
                "validation or test: what learns from its pictures could not be measured there. Train the generator on "
                "this dataset"
            )
        external = centres["test"] - centres["training"] - centres["validation"]
        seen = sorted(external & self.statistics.centres)
        if seen:
            raise DatasetError(
                f"the model in {self.statistics.ckpt_dir} was trained on scintigrams of centre {', '.join(seen)}, "
                f"which {source.root} keeps for the external test: what learns from its pictures could not be tested "
                "there. Train the generator on this dataset"
            )

    def _draw(self) -> None:
        """Run the evaluator here or, with several devices, in processes."""
        numbers = self.missing.numbers
        if not numbers:
            return
        devices = self.devices[: len(numbers)]
        with _Progress(self.files.folder, self.requests, numbers) as progress:
            if len(devices) > 1:
                run_in_processes(self.parts, devices, numbers, progress.refresh)
                return
            with self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, progress.refresh), one_thread(devices[0]):
                self.evaluator.run()

    def _finish(self, writer: DatasetWriter) -> None:
        """Write `dataset.json` if every batch has its record."""
        whole = Record()
        try:
            for number in range(len(self.requests)):
                whole.add(Record.load(writer.folder, number))
        except FileNotFoundError:
            # Other shards have batches left, or one of them has finished the dataset just now.
            logger.info("shard %d of %d is done", self.missing.shard, self.missing.shards)
            return
        real = self.statistics.diversity
        whole.check(real)
        absent = self.requests.labels - set(whole.diversity)
        if absent:
            raise ScintikitError(
                f"no plausible picture of label {', '.join(sorted(absent))} was drawn ({dict(whole.left_out)}); train "
                "the generator longer"
            )
        try:
            path = writer.finish(training=whole.items, report=whole.report(self.requests.count, real))
        except FileNotFoundError:
            if not writer.complete:
                raise
            # Another shard has finished the dataset just now, and cleared away what this one was writing.
            logger.info("%s is complete already", writer.folder)
            return
        logger.info("wrote %s: %d pictures, %d left out", path, len(whole.items), whole.left_out.total())


def code_sha256(network: torch.nn.Module) -> str:
    """Return the sha256 of the code that generates: this package, and the modules beside the network's."""
    files = [*_modules(Path(__file__)), *_modules(Path(inspect.getfile(type(network))))]
    digest = hashlib.sha256()
    for path in files:
        # A checkout on Windows may have other line ends.
        digest.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


def _modules(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*.py"))


class _Progress:
    """A bar that counts the pictures of finished batches, whoever finished them."""

    def __init__(self, folder: Path, requests: RequestBatches, numbers: Sequence[int]) -> None:
        self.folder = folder
        self.left = {number: len(requests.indices(number)) for number in numbers}

    def __enter__(self) -> _Progress:
        self.bar = tqdm(
            total=sum(self.left.values()),
            unit="image",
            desc="generating",
            mininterval=0.5 if sys.stderr.isatty() else 20,  # a log file need not hold every step
        )
        return self

    def refresh(self) -> None:
        """Count again."""
        done = [number for number in self.left if record_path(self.folder, number).is_file()]
        self.bar.update(sum(self.left.pop(number) for number in done))

    def __exit__(self, *error: object) -> None:
        self.refresh()
        self.bar.close()
