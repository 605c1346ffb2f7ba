from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scintikit.data import split_patients
from scintikit.errors import DatasetError

records = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.sampled_from("ABCDF"),
        st.one_of(st.integers(0, 3), st.lists(st.integers(0, 1), min_size=4, max_size=4)),
    ),
    min_size=1,
    max_size=80,
)


def as_items(rows):
    return [{"patient": f"P{patient}", "centre": centre, "label": label} for patient, centre, label in rows]


@settings(max_examples=200, deadline=None)
@given(records, st.integers(0, 3), st.sampled_from([0.0, 0.2, 0.5]), st.sampled_from([0.0, 0.2]))
def test_splits_never_leak(rows, seed, validation, test):
    items = as_items(rows)
    external = sorted({"D", "F"} & {item["centre"] for item in items})
    splits = split_patients(items, validation=validation, test=test, external=external, seed=seed)
    assert sorted(map(id, items)) == sorted(id(item) for part in splits.values() for item in part)
    patients = [{item["patient"] for item in part} for part in splits.values()]
    assert sum(map(len, patients)) == len({item["patient"] for item in items})
    assert all(item["centre"] not in external for name in ("training", "validation") for item in splits[name])
    # The order of the items does not matter.
    again = split_patients(items[::-1], validation=validation, test=test, external=external, seed=seed)
    assert {name: part[::-1] for name, part in again.items()} == splits


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(0, 5),
    st.sampled_from([0.1, 0.2, 0.3]),
)
def test_every_class_and_centre_gets_its_share(sizes, seed, share):
    cells = [(label, centre, n) for label, size in enumerate(sizes) for centre in "AB" for n in range(size)]
    items = as_items((f"{label}{centre}{n}", centre, label) for label, centre, n in cells)
    drawn = split_patients(items, validation=share, seed=seed)["validation"]
    by_class = Counter(item["label"] for item in drawn)
    by_cell = Counter((item["label"], item["centre"]) for item in drawn)
    for label, size in enumerate(sizes):
        assert abs(by_class[label] - 2 * size * share) <= 0.5 + 1e-9
        for centre in "AB":
            assert abs(by_cell[label, centre] - size * share) <= 1


def test_seed_decides_who_goes_where():
    items = as_items((n, "A", n % 2) for n in range(100))
    drawn = [{item["patient"] for item in split_patients(items, seed=seed)["validation"]} for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_patient_with_one_external_picture_is_test_as_a_whole():
    items = as_items([(1, "A", 0), (1, "F", 0), (2, "A", 0)])
    assert split_patients(items, external=["F"])["test"] == items[:2]


def test_mistakes_are_named():
    items = as_items([(1, "A", 0)])
    with pytest.raises(DatasetError, match="external centre X; there are"):
        split_patients(items, external=["X"])
    for options, words in (
        ({"validation": 20}, "share for validation is 20"),
        ({"validation": "many"}, "share for validation is many"),
        ({"test": float("nan")}, "share for test is nan"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(DatasetError, match=words):
            split_patients(items, **options)
