"""Write what the sampler draws, batch by batch, so that a run can be killed at any moment."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.transforms import Transform

from scintikit.data.contract import Item
from scintikit.data.views import body_frame
from scintikit.data.writer import RECIPE_NAME
from scintikit.dicom import write_scintigram
from scintikit.errors import ConfigError, ImageWriteError
from scintikit.generation.acquisition import acquire, mask_on_camera
from scintikit.generation.counts import unstabilise
from scintikit.generation.quality import Diversity
from scintikit.generation.records import Record
from scintikit.generation.requests import Request, grain
from scintikit.generation.sampler import Drawn
from scintikit.generation.statistics import TrainingStatistics, label_key

FORMATS = ("dcm", "nii.gz", "png")
NOTICE = "Synthetic, not for clinical use"
#: What an item's origin tells of how it was sampled.
SAMPLING = ("mode", "steps", "solver", "guidance", "strength")


class ExpectedCounts(Transform):
    """Turn a batch's pictures, drawn at their count levels, into `density`: expected counts per model pixel."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the data with `density` `(B, C, H, W)`."""
        pictures = data["pred"].pictures
        level = data["conditions"]["level"].to(pictures)
        return {**data, "density": unstabilise(pictures, level[:, None, None, None])}


class WriteBatches:
    """Handler that writes the scintigrams and masks of every batch, and then a record that it is done.

    The folder must have been begun by `scintikit.data.DatasetWriter`: names and origins follow from its recipe. Threads
    write while the next batch is drawn.

    Parameters
    ----------
    output_dir
        Folder of the dataset.
    statistics
        Knows the real pictures' diversity, and views and spacing of the model.
    format
        "dcm", "nii.gz" or "png" (one view only). Masks are always "nii.gz".
    body_part, image_type
        Of the DICOM files: BodyPartExamined, and "STATIC" or "WHOLE BODY".
    threads
        How many write at the same time.

    Raises
    ------
    ConfigError
        If there is no such format, or PNG is asked for with several views.
    ScintikitError
        In a run: if pictures are nearly alike, none is plausible, or files cannot be written.
    """

    def __init__(
        self,
        output_dir: str,
        statistics: TrainingStatistics,
        format: str = "dcm",
        body_part: str = "THYROID",
        image_type: str = "STATIC",
        threads: int = 4,
    ) -> None:
        self.folder = Path(output_dir).expanduser().absolute()
        self.statistics = statistics
        self.format = format
        self.body_part = body_part
        self.image_type = image_type
        self.threads = threads
        views = statistics.settings["views"]
        if format not in FORMATS:
            raise ConfigError(f"format is {format!r}; expected one of {', '.join(FORMATS)}")
        if format == "png" and len(views) > 1:
            raise ConfigError(f"PNG holds one view and the model makes {len(views)}; give --format dcm or nii.gz")

    def recipe(self) -> dict[str, Any]:
        """Return what decides the files, apart from their counts."""
        return {"format": self.format, "body_part": self.body_part, "image_type": self.image_type}

    def attach(self, engine: SupervisedEvaluator) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._abort)

    def _start(self, engine: SupervisedEvaluator) -> None:
        self.pool = ThreadPoolExecutor(self.threads)
        recipe = json.loads((self.folder / RECIPE_NAME).read_text(encoding="utf-8"))["recipe"]
        self.files = SyntheticFiles(self.folder, recipe, self.statistics.settings)
        self.pending: tuple[int, Record, list[Future[Item | str]]] | None = None

    def _write(self, engine: SupervisedEvaluator) -> None:
        batch, output = engine.state.batch, engine.state.output
        requests, drawn = batch["requests"], output["pred"]
        record = _record(requests, drawn)
        record.check(self.statistics.diversity)
        density = output["density"].float().cpu()
        jobs = [
            self.pool.submit(self.files.write, request, density[place], len(drawn.redrawn[place]))
            for place, request in enumerate(requests)
            if not drawn.refused[place]
        ]
        self._settle()
        self.pending = (batch["number"], record, jobs)

    def _finish(self, engine: SupervisedEvaluator) -> None:
        self._settle()
        self.pool.shutdown()

    def _abort(self, engine: SupervisedEvaluator, error: BaseException) -> None:
        self.pool.shutdown(cancel_futures=True)  # nothing writes any more when the error is reported
        raise error

    def _settle(self) -> None:
        """Wait for the files of the batch before, then record it."""
        if self.pending is None:
            return
        (number, record, jobs), self.pending = self.pending, None
        with resumable(self.folder):
            for result in (job.result() for job in jobs):
                if isinstance(result, str):
                    record.left_out[result] += 1
                else:
                    record.items.append(result)
            record.save(self.folder, number)


def _record(requests: list[Request], drawn: Drawn) -> Record:
    """Return the record of a batch before its files are written."""
    record = Record(left_out=Counter(filter(None, drawn.refused)))
    places: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        record.redrawn.update(drawn.redrawn[place])
        if not drawn.refused[place]:
            places.setdefault(label_key(request.source["label"]), []).append(place)
    record.diversity = {label: Diversity.of(drawn.pictures[chosen]) for label, chosen in places.items()}
    return record


class SyntheticFiles:
    """Writes items of a synthetic dataset.

    Parameters
    ----------
    folder
        Of the dataset.
    recipe
        Of the dataset; its hash is part of every name, so that items of two runs can be merged.
    settings
        Of the model: `views`, `spacing_mm`.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any], settings: dict[str, Any]) -> None:
        self.folder = folder
        self.recipe = recipe
        self.settings = settings
        self.run = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()

    def write(self, request: Request, density: torch.Tensor, redraws: int) -> Item | str:
        """Acquire and write one item; return it, or the reason why there is no such picture.

        Parameters
        ----------
        request
            What it is to be.
        density
            `(C, H, W)` expected counts per model pixel.
        redraws
            How often it was drawn again.
        """
        recipe, spacing, source = self.recipe, self.settings["spacing_mm"], request.source
        rng = grain(recipe["seed"], request.index, redraws)
        try:
            counts = acquire(density, request.coverage, request.field, request.pixel_mm, spacing, rng)
        except ImageWriteError:
            return "saturated"
        name = f"{recipe['kind']}-{self.run[:8]}-{label_key(source['label'])}_{request.index:06d}"
        item = {"image": f"images/{name}.{recipe['format']}", "label": source["label"]}
        self._save(item["image"], counts, request)
        if request.structures is not None:
            item["mask"] = f"masks/{name}.nii.gz"
            views = request.structures.unflatten(0, (len(counts), -1))
            masks = [mask_on_camera(view, request.matrix, request.pixel_mm, spacing) for view in views]
            self._save(item["mask"], np.stack(masks), request)
        if request.prompt is not None:
            item["prompt"] = request.prompt
        deformation = None if request.deformation is None else asdict(request.deformation)
        settings = {key: recipe[key] for key in SAMPLING if key in recipe}
        return item | {
            "patient": source["patient"],
            "centre": source["centre"],
            "origin": {
                "kind": recipe["kind"],
                "generator": recipe["generator"],
                "seed": recipe["seed"],
                "source": source["id"],
                "settings": {
                    "index": request.index,
                    "redraws": redraws,
                    **settings,
                    "count_level": request.level,
                    "deformation": deformation,
                },
            },
        }

    def _save(self, relative: str, values: np.ndarray, request: Request) -> None:
        """Write values `(view, row, column)` that are in the frame of the body."""
        views = self.settings["views"]
        write_scintigram(
            self.folder / relative,
            # torch cannot reverse unsigned 16-bit numbers.
            body_frame(torch.from_numpy(values.astype(np.int32)), views).numpy().astype(values.dtype),
            spacing_mm=request.pixel_mm,
            views=views,
            uid_seed=f"{self.run}/{request.index}",
            body_part=self.recipe["body_part"],
            image_type=self.recipe["image_type"],
            description=NOTICE,
        )


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Turn a failure to write into an error that says how to go on.

    Raises
    ------
    ImageWriteError
        For any `OSError`, a full disk first of all.
    """
    try:
        yield
    except OSError as error:
        raise ImageWriteError(
            f"cannot write in {folder}: {error.strerror or error}. The files that are there are whole; make room, then "
            "run the same command again: it goes on where it stopped"
        ) from error
