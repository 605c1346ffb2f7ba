"""The parts of the engines, one by one."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import ScaleIntensity
from monai.visualize import GradCAM

from scintikit.data import UNKNOWN, BatchAugmentation, Resampled, UnknownMaskd
from scintikit.engines import (
    AutocastInferer,
    ClipGradients,
    EpochProgress,
    PrepareImages,
    ValidateEpochs,
    grad_cam,
    pick_device,
    pick_dtype,
)
from scintikit.errors import ConfigError, ImageReadError


def test_inferer_returns_float32_in_either_precision() -> None:
    network = torch.nn.Conv2d(1, 2, 3)
    image = torch.rand(1, 1, 8, 8)
    full = AutocastInferer("fp32")(image, network)
    half = AutocastInferer("bf16")(image, network)
    assert full.dtype == half.dtype == torch.float32
    assert torch.equal(full, network(image))
    assert not torch.equal(half, full)  # it did run in bfloat16
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)


def test_gradients_are_clipped_when_all_of_a_step_are_there() -> None:
    """Those of two batches that nearly cancel must not be clipped each on its own."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    ClipGradients(optimizer, max_norm=1.0).attach(None)
    for slope in ([30.0, 40.0], [-29.7, -39.6]):
        (weight @ torch.tensor(slope)).backward()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.3, -0.4]))
    optimizer.zero_grad()
    (weight @ torch.tensor([30.0, 40.0])).backward()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.9, -1.2]))


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="'fp8'; expected 'auto', 'bf16', 'fp16', 'fp32'"):
        pick_dtype(torch.device("cpu"), "fp8")


def test_device_can_be_named() -> None:
    assert pick_device("cpu") == torch.device("cpu")


def test_batch_is_plain_channels_last_and_augmented_only_if_asked() -> None:
    batch = {"image": MetaTensor(torch.rand(2, 3, 4, 4)), "label": torch.tensor([1, 0])}
    image, label = PrepareImages()(batch, torch.device("cpu"))
    assert type(image) is torch.Tensor
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(image, batch["image"].as_tensor())
    assert label.tolist() == [1, 0]
    doubled, _ = PrepareImages(lambda images: images * 2)(batch, torch.device("cpu"))
    assert torch.equal(doubled, batch["image"].as_tensor() * 2)


def _still(**change: float) -> BatchAugmentation:
    settings = {"rotate_deg": 0.0, "shift": 0.0, "scale": 0.0, "flip": 0.0, "brightness": 0.0} | change
    return BatchAugmentation(**settings)


def test_augmentation_without_strength_changes_nothing() -> None:
    images = torch.rand(3, 1, 16, 24)
    torch.testing.assert_close(_still()(images), images)


def test_flip_mirrors_left_and_right() -> None:
    images = torch.rand(3, 1, 16, 24)
    torch.testing.assert_close(_still(flip=1.0)(images), images.flip(-1))


def test_rotation_keeps_the_shape_of_things_in_a_picture_that_is_not_square() -> None:
    images = torch.zeros(64, 1, 64, 128)
    images[:, :, 24:40, 56:72] = 1  # a square in the middle
    turned = _still(rotate_deg=45.0)(images)
    torch.testing.assert_close(turned.sum((1, 2, 3)), images.sum((1, 2, 3)), rtol=0.02, atol=0)


def test_augmentation_depends_on_its_seed_alone() -> None:
    images = torch.rand(4, 1, 16, 16)
    augmentation = BatchAugmentation()
    augmentation.reseed(1, 2, 0)
    first = augmentation(images)
    torch.rand(10)  # the global generator plays no part
    augmentation.reseed(1, 2, 0)
    assert torch.equal(augmentation(images), first)
    for other in ((1, 3, 0), (2, 2, 0), (1, 2, 1), (2, 1, 0)):
        augmentation.reseed(*other)
        assert not torch.equal(augmentation(images), first)


def test_resampling_keeps_counts_per_area_and_uses_all_of_them() -> None:
    torch.manual_seed(0)
    image = MetaTensor(
        torch.poisson(torch.full((1, 96, 96), 10.0)), affine=torch.diag(torch.tensor([0.75, 0.75, 1, 1]))
    )
    result = Resampled("image", (2.25, 2.25))({"image": image})["image"]
    assert result.shape == (1, 32, 32)
    assert float(result.mean()) == pytest.approx(float(image.mean()), rel=0.01)
    # Nine pixels averaged have a third of the noise; picking one of nine would keep all of it.
    assert float(result.std()) < 0.5 * float(image.std())
    assert torch.allclose(result.affine.diagonal()[:2], torch.tensor(2.25, dtype=result.affine.dtype))
    assert float(image.affine[0, 0]) == 0.75  # the input is left alone


def test_grad_cam_points_at_what_decides() -> None:
    class Bright(torch.nn.Module):
        """Class 1 if there is something bright."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)
            torch.nn.init.ones_(self.layer.weight)
            torch.nn.init.zeros_(self.layer.bias)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            score = self.layer(image).mean((2, 3))
            return torch.cat([-score, score], 1)

    image = torch.zeros(1, 1, 32, 32)
    image[:, :, 4:10, 20:26] = 1
    network = Bright().train()
    heat = grad_cam(network, "layer", image, torch.tensor([1]))
    assert heat.shape == (1, 32, 32)
    assert divmod(int(heat[0].argmax()), 32)[0] in range(4, 10)
    assert network.training
    assert network.layer.weight.grad is None


def test_grad_cam_of_a_batch_is_what_monai_gives_for_each_image() -> None:
    from monai.networks.nets import resnet18

    torch.manual_seed(0)
    network = resnet18(spatial_dims=2, n_input_channels=1, num_classes=4, conv1_t_stride=2).eval()
    images, classes = torch.rand(4, 1, 64, 64), torch.tensor([0, 2, 0, 3])
    heat = grad_cam(network, "layer3", images, classes)
    reference = GradCAM(network, target_layers="layer3", postprocessing=ScaleIntensity(0.0, 1.0))
    for index, label in enumerate(classes.tolist()):
        expected = reference(images[index : index + 1], class_idx=label)[0, 0].detach()
        torch.testing.assert_close(heat[index], expected, rtol=1e-3, atol=1e-3)


def _masked(mask: torch.Tensor, views: str = "ANT,POST") -> dict[str, MetaTensor]:
    meta = {"filename_or_obj": "m.png", "views": views}
    return {
        "image": MetaTensor(torch.rand(2, 8, 4), meta={"views": "ANT,POST"}),
        "mask": MetaTensor(mask.expand(2, 8, 4), meta=meta),
    }


def test_masks_that_would_be_misread_are_refused() -> None:
    fill = UnknownMaskd("mask")
    assert fill(_masked(torch.tensor(2.0)))["mask"].max() == 2
    assert fill({"image": torch.rand(2, 8, 4)})["mask"].unique().tolist() == [UNKNOWN]
    with pytest.raises(ImageReadError, match=r"m\.png holds the value 255; expected a mask with 0"):
        fill(_masked(torch.tensor(255.0)))
    with pytest.raises(ImageReadError, match=r"m\.png is a mask of the views ANT of an image of ANT,POST"):
        fill(_masked(torch.tensor(1.0), views="ANT"))


def test_the_error_of_another_handler_is_not_hidden_by_the_progress_bar() -> None:
    def fail(engine: Engine) -> None:
        raise ImageReadError("what went wrong")

    engine = Engine(lambda engine, batch: None)
    engine.add_event_handler(Events.STARTED, fail)
    EpochProgress().attach(engine)
    with pytest.raises(ImageReadError, match="what went wrong"):
        engine.run([1])


@pytest.mark.parametrize("interval", [0, -1, True, 1.5])
def test_intervals_are_whole_numbers_of_epochs(interval: object) -> None:
    with pytest.raises(ConfigError, match=r"an interval is .*; expected a whole number"):
        ValidateEpochs(None, interval)  # type: ignore[arg-type]
