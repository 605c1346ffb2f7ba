"""Speed of fm_generator and sd_generator against usual ways to sample, in one process, taking turns.

    python -m benchmarks.generation --output benchmarks/results/generation.json [--dataset D] [--rounds 3]

All draw scintigrams of one view, 128 x 128 pixels, from a class and a mask, or from a prompt. The weights are
untrained, which changes nothing about the time; the quality gate is open, so that nothing is drawn again.

- ours: the bundle's task `generating`, from the masks of a dataset to NM DICOM files and masks on disk, 10 evaluations.
- ours_sampling: its sampler alone, 10 evaluations.
- ddim_50, rflow_10: the same network in float32 through MONAI's DiffusionInferer, with 50 steps of the DDIMScheduler
  and 10 of the RFlowScheduler.
- usual: a network of MOTFM's shape (Yazdani et al., arXiv 2503.00266; its settings as far as they are public): MONAI's
  DiffusionModelUNet at full size, the class as one token for cross-attention, the mask through a ControlNet, 10 Euler
  steps in float32.

- latent: sd_generator's task `generating`, mode sd4, from prompts and masks to NM DICOM files and masks on disk, 25
  evaluations with guidance (so 50 passes).
- latent_ddim_50: its networks in float32 through MONAI's LatentDiffusionInferer, 50 steps of the DDIMScheduler with
  guidance, as in MONAI's tutorials.

All but `ours` and `latent` keep their pictures in memory: reading masks and writing files are not in their times.
`ratio` is ours / usual in images/s.
"""

from __future__ import annotations

import argparse
import copy
import io
import itertools
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import Dataset
from monai.inferers import DiffusionInferer, LatentDiffusionInferer
from monai.networks.nets import ControlNet, DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler, RFlowScheduler, Scheduler
from torch import nn

from benchmarks.common import machine, take_turns, versions
from scintikit.bundles import enter
from scintikit.engines import pick_device
from scintikit.files import write_json
from scintikit.generation import CameraFields, count_words, measure_latents, measure_training
from scintikit.phantoms import simulated_dataset
from tools.run import find_bundle, run

SIDE = 128
EVALUATIONS = 10
TIMES = 1000  # of MONAI's schedulers
MOTFM = {
    "spatial_dims": 2,
    "in_channels": 1,
    "num_res_blocks": [2] * 5,
    "channels": [32, 64, 128, 224, 256],
    "attention_levels": [False, False, False, True, True],
    "num_head_channels": [32, 64, 128, 224, 256],
    "resblock_updown": True,
    "with_conditioning": True,
    "transformer_num_layers": 4,
    "use_flash_attention": True,
}


def bundle(name: str, dataset: str, folder: Path) -> ConfigParser:
    """Return the parsed inference.json."""
    root = find_bundle(name)
    enter(root)
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    parser.update({"dataset_dir": dataset, "ckpt_dir": str(folder)})
    return parser


def write_untrained(parser: ConfigParser, folder: Path) -> None:
    """Write random weights and what is measured after training, with a quality gate that lets everything pass."""
    folder.mkdir()
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "model.pt")
    items, settings = (parser.get_parsed_content(name) for name in ("dataset#data", "settings"))
    fields = CameraFields(items, settings["views"])
    parser["fields"] = fields
    pictures = Dataset(items, parser.get_parsed_content("preprocessing"))
    further = {"vocabulary": count_words([item["prompt"] for item in items], 256)}
    path = measure_training(str(folder), pictures, settings, fields, further=further)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"gate": {}, "diversity": dict.fromkeys(content["diversity"], 0.0)}, path)
    if "autoencoder_def" in parser:
        autoencoder = parser.get_parsed_content("autoencoder_def")
        torch.save(autoencoder.state_dict(), folder / "autoencoder_weights.pt")
        measure_latents(autoencoder, str(folder / "autoencoder_weights.pt"), str(folder), pictures)


class Velocity(nn.Module):
    """The bundle's network as DiffusionInferer calls one: it knows neither class numbers nor times from 0 to 1."""

    def __init__(self, network: nn.Module, label: torch.Tensor, mask: torch.Tensor) -> None:
        super().__init__()
        self.network, self.label, self.mask = network, label, mask

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """Return the velocity; in MONAI's schedulers the last time is noise."""
        return self.network(x, 1 - timesteps / TIMES, self.label, self.mask)


class MotfmShaped(nn.Module):
    """UNet and ControlNet of the shape of MOTFM's."""

    def __init__(self, classes: int, mask_channels: int) -> None:
        super().__init__()
        shape = MOTFM | {"cross_attention_dim": classes}
        self.unet = DiffusionModelUNet(out_channels=1, **shape)
        self.controlnet = ControlNet(
            conditioning_embedding_in_channels=mask_channels, conditioning_embedding_num_channels=[16], **shape
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor, token: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the velocity of x `(B, 1, H, W)` for a token `(B, 1, classes)` and a mask `(B, M, H, W)`."""
        times = (t * (TIMES - 1)).long()
        down, middle = self.controlnet(x, times, mask, context=token)
        return self.unet(x, times, token, down_block_additional_residuals=down, mid_block_additional_residual=middle)


def diffusion_inferer(network: nn.Module, noise: torch.Tensor, scheduler: Scheduler, steps: int) -> int:
    """Sample with MONAI's inferer; return the number of images."""
    scheduler.set_timesteps(steps, noise.device)
    DiffusionInferer(scheduler).sample(noise, network, verbose=False)
    return len(noise)


@torch.no_grad()
def euler(network: nn.Module, noise: torch.Tensor, token: torch.Tensor, mask: torch.Tensor) -> int:
    """Take Euler's steps from noise to pictures; return the number of images."""
    x = noise
    for step in range(EVALUATIONS):
        x = x + network(x, x.new_full((len(x),), step / EVALUATIONS), token, mask) / EVALUATIONS
    return len(x)


def generating(name: str, parser: ConfigParser, folder: Path, given: argparse.Namespace, **options: str) -> Any:
    """Return a function that runs a bundle's task into a folder of its own, and returns the number of images."""
    numbers = itertools.count()

    def work() -> int:
        target = folder / f"{name}_{next(numbers)}"
        folders = {"dataset_dir": parser["dataset_dir"], "ckpt_dir": parser["ckpt_dir"], "output_dir": str(target)}
        with redirect_stderr(io.StringIO()):  # the progress bar
            run(name, "generating", per_class=given.per_class, batch_size=given.batch_size, **folders, **options)
        return len(list((target / "images").iterdir()))

    return work


def flow_ways(parser: ConfigParser, folder: Path, given: argparse.Namespace) -> dict[str, Callable[[], int]]:
    """Return ways to draw from a class and a mask, each as a function that returns how many images it drew."""
    device = pick_device()
    classes, mask_channels = len(parser.get_parsed_content("class_names")), parser["mask_labels"] + 1
    network, sampler = (parser.get_parsed_content(name) for name in ("network", "sampler"))
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    motfm = MotfmShaped(classes, mask_channels).eval().to(device)
    noise = torch.randn(given.batch_size, 1, SIDE, SIDE, device=device)
    label = torch.arange(given.batch_size, device=device) % classes
    mask = torch.rand(given.batch_size, mask_channels, SIDE, SIDE, device=device)
    token = nn.functional.one_hot(label, classes).float()[:, None]
    level = torch.full((given.batch_size,), 300.0, device=device)
    velocity = Velocity(plain.eval(), label, mask)
    few = slice(given.usual_batch_size)

    @torch.no_grad()
    def ours_sampling() -> int:
        return len(sampler(noise, network.eval(), label, mask, level))

    return {
        "usual": lambda: euler(motfm, noise[few], token[few], mask[few]),
        "ours": generating("fm_generator", parser, folder, given),
        "ours_sampling": ours_sampling,
        "ddim_50": lambda: diffusion_inferer(velocity, noise, DDIMScheduler(TIMES), 50),
        "rflow_10": lambda: diffusion_inferer(velocity, noise, RFlowScheduler(TIMES), EVALUATIONS),
    }


class Worded(nn.Module):
    """sd_generator's networks as LatentDiffusionInferer calls them."""

    def __init__(self, network: nn.Module, autoencoder: nn.Module) -> None:
        super().__init__()
        self.network, self.autoencoder = network, autoencoder

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Return the prediction for tokens."""
        return self.network(x, timesteps.expand(len(x)), context)

    def decode_stage_2_outputs(self, latents: torch.Tensor) -> torch.Tensor:
        """Return pictures."""
        return self.autoencoder.decode(latents)


def latent_ways(parser: ConfigParser, folder: Path, given: argparse.Namespace) -> dict[str, Callable[[], int]]:
    """Return ways to draw from a prompt, each as a function that returns how many images it drew."""
    device = pick_device()
    network, autoencoder = (parser.get_parsed_content(name) for name in ("network", "autoencoder"))
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format).eval()
    decoder = copy.deepcopy(autoencoder.network).to(device, memory_format=torch.contiguous_format).eval()
    worded = Worded(plain, decoder)
    noise = torch.randn(given.batch_size, *parser.get_parsed_content("latent_shape"), device=device)
    items = parser.get_parsed_content("dataset#data")[: given.batch_size]
    tokens = parser.get_parsed_content("tokenizer")([item["prompt"] for item in items]).to(device)
    tokens = tokens.repeat(-(-given.batch_size // len(tokens)), 1)[: given.batch_size]
    scheduler = DDIMScheduler(
        TIMES, schedule="zero_terminal_snr", prediction_type="v_prediction", clip_sample=False, steps_offset=1
    )
    scheduler.set_timesteps(50, device)

    def usual() -> int:
        inferer = LatentDiffusionInferer(scheduler, scale_factor=1.0)
        return len(inferer.sample(noise, worded, worded, conditioning=tokens, cfg=2.0, cfg_fill_value=0, verbose=False))

    return {"latent": generating("sd_generator", parser, folder, given, mode="sd4"), "latent_ddim_50": usual}


def main() -> None:
    """Measure and write the JSON."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--output", required=True)
    arguments.add_argument("--dataset", help="whose masks are used; default the simulated profile demo")
    arguments.add_argument("--per-class", type=int, default=100)
    arguments.add_argument("--batch-size", type=int, default=16)
    arguments.add_argument("--usual-batch-size", type=int, default=4)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[], int]] = {}
        for name, compared in (("fm_generator", flow_ways), ("sd_generator", latent_ways)):
            models = Path(folder) / f"{name}_models"
            parser = bundle(name, given.dataset or simulated_dataset("demo"), models)
            write_untrained(parser, models)
            ways |= compared(parser, Path(folder), given)
        rates = take_turns(ways, given.rounds)
    for rate in rates.values():
        # Without the processes that the tasks start, the peak would say little.
        del rate["peak_memory_mib"]
        rate["seconds_per_image"] = 1 / rate["images_per_second"]
    usual = rates["usual"]["images_per_second"]
    result = {
        **rates,
        "ratio": rates["ours"]["images_per_second"] / usual,
        "ratios": {name: rate["images_per_second"] / usual for name, rate in rates.items()},
        "latent_ratio": rates["latent"]["images_per_second"] / rates["latent_ddim_50"]["images_per_second"],
        "settings": vars(given) | {"image_size": [SIDE, SIDE], "evaluations": EVALUATIONS, "usual_network": MOTFM},
        "machine": machine(),
        "versions": versions(),
    }
    write_json(given.output, result)
    print(f"ours / usual {result['ratio']:.1f}, latent / its usual way {result['latent_ratio']:.1f}")


if __name__ == "__main__":
    main()
