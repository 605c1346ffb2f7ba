import io

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from scintikit.errors import ScintikitError
from scintikit.metrics import fit_ood, ood_score


def features(seed, items, shift=0.0):
    """Return features after a ReLU, more of them than images, most of their variance in a few directions."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(6, 128))
    values = generator.normal(size=(items, 6)) @ mixing + 0.3 * generator.normal(size=(items, 128)) + 1
    return np.maximum(values + shift * np.random.default_rng(98).normal(size=128), 0)


@pytest.fixture(scope="module")
def model():
    return fit_ood(features(0, 100), features(1, 400))


def test_five_percent_of_in_distribution_images_are_flagged(model):
    assert (ood_score(features(1, 400), model) > model["threshold"]).mean() == pytest.approx(0.05, abs=0.003)
    assert (ood_score(features(2, 2000), model) > model["threshold"]).mean() == pytest.approx(0.05, abs=0.03)


def test_other_images_score_higher_and_the_size_of_features_does_not_matter(model):
    inside, outside = ood_score(features(3, 300), model), ood_score(features(4, 300, shift=1.0), model)
    assert roc_auc_score(np.repeat([0, 1], 300), np.r_[inside, outside]) > 0.95
    assert ood_score(10 * features(3, 300), model) == pytest.approx(inside)
    assert np.isfinite(ood_score(np.zeros((1, 128)), model)).all()


def test_model_keeps_beside_weights_and_scores_do_not_depend_on_the_batch(model):
    buffer = io.BytesIO()
    torch.save({key: torch.as_tensor(value) for key, value in model.items()}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    expected = ood_score(features(3, 20), model)
    assert ood_score(features(3, 20), loaded) == pytest.approx(expected)
    assert ood_score(features(3, 20)[:1], loaded) == pytest.approx(expected[:1])


def test_unusable_input_is_refused(model):
    with pytest.raises(ScintikitError, match="columns"):
        ood_score(np.ones((2, 3)), model)
    with pytest.raises(ScintikitError, match="finite"):
        ood_score(np.full((2, 128), np.nan), model)
    with pytest.raises(ScintikitError, match="at least two"):
        fit_ood(np.ones((1, 4)), np.ones((2, 4)))
    with pytest.raises(ScintikitError, match="same"):
        fit_ood(np.ones((10, 4)), np.ones((2, 4)))
