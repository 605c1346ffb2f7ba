"""PrepareFlow: straight paths, forgotten conditions, times, and the pairing of noise with pictures."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import default_collate

from scintikit.data import BatchAugmentation
from scintikit.errors import ConfigError
from scintikit.generation import PrepareFlow
from scintikit.generation.flow import _shortest


def _batch(count: int = 64, label: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.rand(count, 3, 8, 8, generator=generator) > 0.5).float()
    mask[:, -1] = 1
    label = torch.arange(count) % 4 if label is None else label
    return {"image": torch.rand(count, 1, 8, 8, generator=generator), "mask": mask, "label": label}


def test_state_and_velocity_lie_on_a_straight_path_to_the_picture() -> None:
    batch = _batch()
    x, velocity, (t, _, _), _ = PrepareFlow(last_time=1.0)(batch, "cpu")
    wide = t[:, None, None, None]
    torch.testing.assert_close(x + (1 - wide) * velocity, 2 * batch["image"] - 1)  # the end
    start = x - wide * velocity
    assert abs(float(start.mean())) < 0.05
    assert float(start.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("time", "mean", "deviation"), [("uniform", 0.5, 0.289), ("logit_normal", 0.5, 0.208), ("early", 0.34, 0.192)]
)
def test_times_are_continuous_and_end_at_the_last_one(time: str, mean: float, deviation: float) -> None:
    flow = PrepareFlow(time=time, last_time=0.9)
    t = torch.cat([flow(_batch(), "cpu")[2][0] for _ in range(50)])
    assert 0 < float(t.min()) < 0.1
    assert 0.7 < float(t.max()) <= 0.9
    assert len(t.unique()) > 0.99 * len(t)
    assert float(t.mean()) == pytest.approx(0.9 * mean, abs=0.01)
    assert float(t.std()) == pytest.approx(0.9 * deviation, abs=0.01)


def test_uniform_times_of_a_batch_cover_the_path_evenly() -> None:
    t = PrepareFlow(last_time=1.0)(_batch(), "cpu")[2][0].sort().values
    assert torch.all((t * 64).floor() == torch.arange(64))


def test_lists_of_diseases_as_torch_collates_them_stay_with_their_pictures() -> None:
    labels = [[number % 2, number // 2 % 2, 1] for number in range(8)]
    batch = _batch(8) | {"label": default_collate([{"label": label} for label in labels])["label"]}
    _, _, (_, y, _), _ = PrepareFlow(condition_dropout=0.0)(batch, "cpu")
    assert y.tolist() == labels


def test_class_and_structures_are_forgotten_apart_and_the_field_never() -> None:
    flow = PrepareFlow(condition_dropout=0.3)
    forgot_class, forgot_mask = [], []
    for _ in range(30):
        _, _, (_, y, mask), _ = flow(_batch(), "cpu")
        forgot_class.append(y == -1)
        forgot_mask.append(mask[:, :-1].flatten(1).sum(1) == 0)
        assert torch.all(mask[:, -1] == 1)
    a, b = torch.cat(forgot_class).float(), torch.cat(forgot_mask).float()
    assert float(a.mean()) == pytest.approx(0.3, abs=0.04)
    assert float(b.mean()) == pytest.approx(0.3, abs=0.04)
    assert float((a * b).mean()) == pytest.approx(0.09, abs=0.03)


def test_validation_keeps_every_condition() -> None:
    batch = _batch()
    _, _, (_, y, mask), _ = PrepareFlow(condition_dropout=0.0)(batch, "cpu")
    assert torch.equal(y, batch["label"])
    assert torch.equal(mask, batch["mask"])


def test_forgotten_label_vectors_become_rows_of_minus_one() -> None:
    batch = _batch(label=(torch.rand(64, 2) > 0.5).float())
    _, _, (_, y, _), _ = PrepareFlow(condition_dropout=0.5)(batch, "cpu")
    forgotten = y[:, 0] < 0
    assert 0 < int(forgotten.sum()) < 64
    assert torch.all(y[forgotten] == -1)
    assert torch.equal(y[~forgotten], batch["label"][~forgotten])


def test_picture_and_mask_are_augmented_alike() -> None:
    square = torch.zeros(16, 1, 32, 32)
    square[:, :, 8:16, 4:20] = 1
    batch = {"image": square, "mask": torch.cat([square, torch.ones_like(square)], 1), "label": torch.zeros(16).long()}
    flow = PrepareFlow(BatchAugmentation(brightness=0.0), condition_dropout=0.0, last_time=0.0)
    x, velocity, (_, _, mask), _ = flow(batch, "cpu")
    picture = (x + velocity + 1) / 2
    torch.testing.assert_close(picture, mask[:, :1], atol=1e-5, rtol=0)
    assert not torch.equal(mask[:, :1], square)


def test_numbers_follow_from_the_seed_alone() -> None:
    flow, other = PrepareFlow(BatchAugmentation()), PrepareFlow(BatchAugmentation())
    flow(_batch(), "cpu")
    flow.reseed(3, 1)
    other.reseed(3, 1)
    assert torch.equal(flow(_batch(), "cpu")[0], other(_batch(), "cpu")[0])
    other.reseed(3, 2)
    assert not torch.equal(flow(_batch(), "cpu")[0], other(_batch(), "cpu")[0])


def test_optimal_transport_shortens_the_paths_and_keeps_the_noise() -> None:
    x1 = torch.randn(32, 1, 4, 4)
    x0 = torch.randn(32, 1, 4, 4)
    order = _shortest(x0, x1)
    assert torch.equal(order.sort().values, torch.arange(32))
    assert (x0[order] - x1).square().sum() < 0.8 * (x0 - x1).square().sum()
    lengths = [PrepareFlow(optimal_transport=on)(_batch(), "cpu")[1].square().mean() for on in (False, True)]
    assert lengths[1] < lengths[0]


def test_unknown_distribution_of_times_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="time is 'cosine'; choose one of uniform, logit_normal, early"):
        PrepareFlow(time="cosine")
