"""Inference speed of thyroid_cls against the usual MONAI way, in one process, taking turns.

    python -m benchmarks.inference --output benchmarks/results/inference.json [--images 400] [--rounds 5] [--models DIR]

Both read a folder of NM DICOM files and write a table of probabilities, with the same weights.

- ours: the bundle as `inference.json` builds it; it also checks every file, writes one JSON for each image, scores how
  unlike the training data it is, and forms conformal sets.
- fp32, onnx: the same with `--precision fp32`, and with `--runtime onnx`, which computes in float32 too; how far their
  probabilities lie apart is `largest_difference`.
- usual: float32, contiguous, MONAI's LoadImaged with its default DICOM reader, Spacingd, DataLoader, and a
  ClassificationSaver for the table.

`ratio` is ours / usual in images/s, from the files on disk to the table on disk; `onnx_ratio` is onnx / fp32.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import ClassificationSaver, from_engine
from monai.networks.nets import resnet18
from monai.transforms import (
    Activationsd,
    Compose,
    EnsureChannelFirstd,
    Lambdad,
    LoadImaged,
    ResizeWithPadOrCropd,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)

from benchmarks.common import machine, take_turns, versions
from scintikit.data import load_dataset
from scintikit.files import write_json
from scintikit.phantoms import simulated_dataset
from tools.run import find_bundle, run


def ours(inbox: Path, models: Path, output: Path, batch_size: int, **settings: str) -> None:
    """Run the bundle's inference."""
    configs = find_bundle("thyroid_cls") / "configs"
    parser = ConfigParser()
    parser.read_config(str(configs / "inference.json"))
    parser.read_meta(str(configs / "metadata.json"))
    parser.update({"dataset_dir": str(inbox), "ckpt_dir": str(models), "output_dir": str(output)})
    parser.update({"batch_size": batch_size, **settings})
    with redirect_stderr(io.StringIO()):  # the progress bar
        parser.get_parsed_content("evaluator").run()


def usual(inbox: Path, models: Path, output: Path, batch_size: int) -> None:
    """Do the same with stock parts."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    transform = Compose(
        [
            LoadImaged("image", reader="PydicomReader"),
            EnsureChannelFirstd("image"),
            Spacingd("image", pixdim=(2.0, 2.0)),
            ResizeWithPadOrCropd("image", (128, 128)),
            Lambdad("image", torch.sqrt),
            ScaleIntensityRangePercentilesd("image", 0, 99.8, 0, 1, clip=True),
        ]
    )
    items = [{"image": str(path)} for path in sorted(inbox.iterdir())]
    network = resnet18(spatial_dims=2, n_input_channels=1, num_classes=4, conv1_t_stride=2).to(device)
    network.load_state_dict(torch.load(models / "model.pt", weights_only=True))
    saver = ClassificationSaver(
        output_dir=str(output),
        filename="usual.csv",
        batch_transform=lambda batch: [item["image"].meta for item in batch],
        output_transform=from_engine(["pred"]),
    )
    SupervisedEvaluator(
        device=device,
        val_data_loader=DataLoader(Dataset(items, transform), batch_size=batch_size),
        network=network,
        postprocessing=Compose([Activationsd("pred", softmax=True)]),
        val_handlers=[saver],
    ).run()


def main() -> None:
    """Measure and write the JSON."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--output", required=True)
    arguments.add_argument("--images", type=int, default=400)
    arguments.add_argument("--batch-size", type=int, default=32)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--models", type=Path, help="folder of a trained model; default: one trained for an epoch")
    given = arguments.parse_args()
    dataset = load_dataset(simulated_dataset("demo"))
    sources = [dataset.root / item["image"] for items in dataset.splits.values() for item in items][: given.images]
    with tempfile.TemporaryDirectory() as folder:
        inbox, models, output = (Path(folder) / name for name in ("inbox", "models", "output"))
        inbox.mkdir()
        for source in sources:
            shutil.copy(source, inbox)
        # The weights play no part in the speed; one epoch gives the files that inference needs.
        settings: dict[str, Any] = {"dataset_dir": str(dataset.root), "log_dir": folder, "max_epochs": 1}
        if given.models:
            shutil.copytree(given.models, models, ignore=shutil.ignore_patterns("*.onnx"))
        else:
            run("thyroid_cls", "training", ckpt_dir=str(models), **settings)

        def counted(way: Any, name: str) -> Any:
            def work() -> int:
                way(inbox, models, output / name, given.batch_size)
                return len(sources)

            return work

        ways = {
            "usual": usual,
            "ours": ours,
            "fp32": partial(ours, precision="fp32"),
            "onnx": partial(ours, runtime="onnx"),
        }
        rates = take_turns({name: counted(way, name) for name, way in ways.items()}, given.rounds)
        tables = [pd.read_csv(output / name / "predictions.csv").filter(like="p_") for name in ("fp32", "onnx")]
    speed = {name: rate["images_per_second"] for name, rate in rates.items()}
    result = {
        **rates,
        "ratio": speed["ours"] / speed["usual"],
        "onnx_ratio": speed["onnx"] / speed["fp32"],
        "largest_difference": float((tables[0] - tables[1]).abs().to_numpy().max()),
        "settings": {key: value for key, value in vars(given).items() if key not in ("models", "output")},
        "machine": machine(),
        "versions": versions(),
    }
    write_json(given.output, result)
    print(f"ours / usual {result['ratio']:.2f}, onnx / fp32 {result['onnx_ratio']:.2f}")


if __name__ == "__main__":
    main()
