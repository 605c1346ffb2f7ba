"""Training speed of a classifier against the usual MONAI way, in one process, taking turns.

    python -m benchmarks.training --output benchmarks/results/training.json [--profile demo] [--rounds 5]
    python -m benchmarks.training --bundle spect_bone_cls --profile bone_demo --batch-size 16 --output FILE.json

- ours: the bundle's own trainer as `train.json` builds it, handlers and checkpoints included, one epoch a round.
- usual: the same network, data, batch size, optimiser and number of steps with what MONAI's tutorials do: float32,
  contiguous, random transforms item by item, MONAI's DataLoader.
- bare: our training step alone on one batch that never changes; how much of it `ours` keeps shows what the data costs.

The images are cached before the clock starts. `ratio` is ours / usual; `share_of_bare` is ours / bare.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, RandAffined, RandFlipd, RandScaleIntensityd

from benchmarks.common import machine, take_turns, versions
from scintikit.bundles import enter
from scintikit.engines import PrepareImages
from scintikit.files import write_json
from scintikit.phantoms import simulated_dataset
from scintikit.phantoms.skeleton import simulated_bone_dataset
from tools.run import find_bundle


def bundle(name: str, dataset: str, folder: str, batch_size: int, steps: int | None) -> ConfigParser:
    """Return the parsed train.json without validation, and without lesion masks, which the usual way does not use."""
    root = find_bundle(name)
    enter(root)
    configs = root / "configs"
    parser = ConfigParser()
    parser.read_config(str(configs / "train.json"))
    parser.read_meta(str(configs / "metadata.json"))
    parser.update({"dataset_dir": dataset, "ckpt_dir": folder, "log_dir": folder, "batch_size": batch_size})
    parser.update({"val_interval": 1_000_000, "max_epochs": 1_000_000, "epoch_length": steps})
    if "lesion_weight" in parser:
        parser.update({"lesion_weight": 0})
    return parser


def one_epoch(trainer: Any, steps: int, batch_size: int) -> int:
    """Run the trainer for one more epoch; return the number of images."""
    trainer.state.max_epochs = trainer.state.epoch + 1
    trainer.run()
    return steps * batch_size


def usual_trainer(parser: ConfigParser, batch_size: int, steps: int) -> SupervisedTrainer:
    """Build the same training the way MONAI's tutorials do."""
    augment = Compose(
        [
            RandFlipd("image", prob=0.5, spatial_axis=1),
            RandAffined(
                "image",
                prob=1.0,
                rotate_range=0.26,
                translate_range=(10, 10),
                scale_range=(0.15, 0.15),
                padding_mode="zeros",
            ),
            RandScaleIntensityd("image", factors=0.1, prob=1.0),
        ]
    )
    items = parser.get_parsed_content("train#dataset")
    cached = [items[index] for index in range(len(items))]
    loader = DataLoader(
        CacheDataset(cached, augment, progress=False), batch_size=batch_size, shuffle=True, drop_last=True
    )
    network = copy.deepcopy(parser.get_parsed_content("network")).to(memory_format=torch.contiguous_format)
    return SupervisedTrainer(
        device=parser.get_parsed_content("device"),
        max_epochs=1,
        epoch_length=steps,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=1e-3),
        loss_function=parser.get_parsed_content("loss"),
        decollate=False,
    )


def bare_steps(parser: ConfigParser, steps: int, batch_size: int) -> int:
    """Take training steps on one batch in the bundle's precision and memory format."""
    network, loss = parser.get_parsed_content("network"), parser.get_parsed_content("loss")
    optimizer, inferer = parser.get_parsed_content("optimizer"), parser.get_parsed_content("train#inferer")
    batch = next(iter(parser.get_parsed_content("train#dataloader")))
    image, label = PrepareImages()(batch, parser.get_parsed_content("device"))
    network.train()
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss(inferer(image, network), label).backward()
        optimizer.step()
    return steps * batch_size


def main() -> None:
    """Measure and write the JSON."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--output", required=True)
    arguments.add_argument("--bundle", default="thyroid_cls")
    arguments.add_argument("--profile", default="demo", help="of the simulated dataset, bone_... for spect_bone_cls")
    arguments.add_argument("--batch-size", type=int, default=32)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--steps", type=int, help="of a round; default an epoch's")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        simulate = simulated_bone_dataset if given.profile.startswith("bone") else simulated_dataset
        parser = bundle(given.bundle, simulate(given.profile), folder, given.batch_size, given.steps)
        ours = parser.get_parsed_content("train#trainer")
        steps = given.steps or len(parser.get_parsed_content("train#dataloader"))
        usual = usual_trainer(parser, given.batch_size, steps)
        ways = {
            "usual": lambda: one_epoch(usual, steps, given.batch_size),
            "ours": lambda: one_epoch(ours, steps, given.batch_size),
            "bare": lambda: bare_steps(parser, steps, given.batch_size),
        }
        rates = take_turns(ways, given.rounds)
    speed = {name: rate["images_per_second"] for name, rate in rates.items()}
    result = {
        **rates,
        "ratio": speed["ours"] / speed["usual"],
        "share_of_bare": speed["ours"] / speed["bare"],
        "settings": vars(given) | {"images_per_round": steps * given.batch_size, "image_size": parser["image_size"]},
        "machine": machine(),
        "versions": versions(),
    }
    write_json(given.output, result)
    print(f"ours / usual {result['ratio']:.2f}, ours / bare {result['share_of_bare']:.2f}")


if __name__ == "__main__":
    main()
