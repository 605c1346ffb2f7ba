"""Compare a synthetic dataset with real scintigrams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fire.decorators import SetParseFns

from scintikit import __version__
from scintikit.data import Dataset, Item, load_datalist, load_dataset
from scintikit.data.contract import SPLITS, SYNTHETIC_KINDS
from scintikit.data.splits import classes_of
from scintikit.engines.outputs import NOTICE
from scintikit.errors import ConfigError, DatasetError
from scintikit.files import file_sha256, write_json
from scintikit.metrics import Sample, fidelity_metrics
from scintikit.metrics.features import Extractor
from scintikit.metrics.fidelity import BLOCKS, LEVEL, NEIGHBOURS, REPEATS
from scintikit.metrics.spectrum import frequencies
from scintikit.reporting.fidelity import EXAMPLES, SCORES, fidelity_report, score_text
from tools.pictures import OWN_MODEL, classifier, load_pictures, pick_extractor
from tools.run import find_bundle

BOOTSTRAP = 1000


@SetParseFns(real=str, synth=str, extractor=str, bundle=str, ckpt_dir=str, output=str)
def fidelity(
    real: str,
    synth: str,
    *,
    split: str = "training",
    extractor: str = "auto",
    bundle: str = "thyroid_cls",
    ckpt_dir: str | None = None,
    output: str | None = None,
    per_class_limit: int | None = None,
    seed: int = 0,
    **options: Any,
) -> None:
    """Compare the synthetic scintigrams of one dataset with the real ones of another: `tools fidelity REAL SYNTH`.

    Prints KID, FID, precision, recall, density, coverage, spectra and whether a classifier can tell real from
    synthetic, each beside its floor: the same between two halves of the real pictures. See docs/fidelity.md.

    Parameters
    ----------
    real : str
        Dataset of acquired or simulated scintigrams; its synthetic items are left out.
    synth : str
        Dataset with synthetic training items; its others are left out, so it may be a composed one.
    split : str
        Of the real dataset: training or validation.
    extractor : str
        classifier, random, inception, the path of a TorchScript file, or auto: the classifier if trained, else random.
    bundle : str
        Classification bundle whose preprocessing and trained classifier are used.
    ckpt_dir : str, optional
        Folder with the classifier's model.pt and calibration.pt; default, for auto and classifier, the bundle's own.
    output : str, optional
        Folder for fidelity.json, fidelity.html and figures, or a file FILE.json, with the page beside it.
    per_class_limit : int, optional
        Pictures at most of each class and side, drawn at random.
    seed : int
        Of all random choices.
    options
        Items of the bundle's `inference.json` to replace, as `--image_size "[64,64]" --spacing_mm 4`.
    """
    _check_arguments(split, per_class_limit, seed)
    datasets = {"real": load_dataset(real), "synthetic": load_dataset(synth)}
    names = _class_names(datasets)
    items = {
        "real": _real_items(datasets["real"], split),
        "synthetic": _synthetic_items(datasets["synthetic"]),
    }
    rng = np.random.default_rng(seed)
    items = {side: _limited(found, per_class_limit, rng) for side, found in items.items()}
    source = classifier(bundle, ckpt_dir, extractor in OWN_MODEL, **options)
    embed = pick_extractor(extractor, source)

    patients = {item["id"]: item["patient"] for part in SPLITS for item in _datalist(datasets["real"], part)}
    pictures, samples = {}, {}
    for side, found in items.items():
        pictures[side] = load_pictures(found, source.preprocessing, label=f"reading {side}")
        features = embed(pictures[side], f"features of {side}")
        samples[side] = Sample.of(pictures[side], features, _labels(found, len(names)), _groups(found, patients))
    result = fidelity_metrics(samples["real"], samples["synthetic"], names, bootstrap=BOOTSTRAP, seed=seed)
    _print(result)
    if output is None:
        return
    provenance = {
        "real": _dataset_json(datasets["real"], items["real"], split),
        "synthetic": _dataset_json(datasets["synthetic"], items["synthetic"], "training"),
        **_method_json(embed, samples["real"].features.shape[1], bundle, source.settings),
        "settings": {"seed": seed, "per_class_limit": per_class_limit, "k": NEIGHBOURS, "floor_repeats": REPEATS},
        "intervals": f"{LEVEL:.0%}; KID: t interval over {BLOCKS} disjoint blocks at most; others: percentile "
        f"bootstrap over patients, {BOOTSTRAP} resamples",
        "scintikit": __version__,
    }
    height, width = pictures["real"].shape[-2:]
    scale = frequencies(height, width, source.settings["spacing_mm"])
    _write(Path(output).expanduser(), result, scale, _examples(pictures, samples, names, rng), provenance)


def _check_arguments(split: str, per_class_limit: int | None, seed: int) -> None:
    if split not in ("training", "validation"):
        raise ConfigError(f"--split is {split!r}; give training or validation, the test is for classifiers only")
    for name, value, least in (("per_class_limit", per_class_limit, 1), ("seed", seed, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ConfigError(f"--{name} is {value!r}; give a whole number from {least}")


def _class_names(datasets: Mapping[str, Dataset]) -> list[str]:
    real, synthetic = (list(dataset.labels.values()) for dataset in datasets.values())
    if real != synthetic:
        roots = [str(dataset.root) for dataset in datasets.values()]
        raise DatasetError(
            f"the classes differ: {roots[0]} has {real}, {roots[1]} has {synthetic}; "
            "give a synthetic dataset made from the real one"
        )
    return real


def _datalist(dataset: Dataset, split: str) -> list[Item]:
    return load_datalist(dataset.root, split) if dataset.splits[split] else []


def _real_items(dataset: Dataset, split: str) -> list[Item]:
    found = [item for item in _datalist(dataset, split) if item["origin"]["kind"] not in SYNTHETIC_KINDS]
    if not found:
        raise DatasetError(
            f"{dataset.root}: no item of {split} is acquired or simulated; nothing synthetic counts as real, "
            "so give the original dataset first"
        )
    return found


def _synthetic_items(dataset: Dataset) -> list[Item]:
    found = [item for item in _datalist(dataset, "training") if item["origin"]["kind"] in SYNTHETIC_KINDS]
    if not found:
        kinds = ", ".join(sorted(SYNTHETIC_KINDS))
        raise DatasetError(f"{dataset.root}: no training item is synthetic (of kind {kinds}); give a generated dataset")
    return found


def _limited(items: list[Item], limit: int | None, rng: np.random.Generator) -> list[Item]:
    """Return at most `limit` random items of each label, in their order."""
    if limit is None:
        return items
    taken: Counter[str] = Counter()
    chosen = []
    for index in rng.permutation(len(items)):
        taken[str(items[index]["label"])] += 1
        if taken[str(items[index]["label"])] <= limit:
            chosen.append(index)
    return [items[index] for index in sorted(chosen)]


def _groups(items: Sequence[Item], patients: Mapping[str, str]) -> list[str]:
    """Return each item's patient; for a synthetic item, that of the real item it was made from."""
    return [patients.get(item["origin"].get("source", ""), item["patient"]) for item in items]


def _labels(items: Sequence[Item], classes: int) -> np.ndarray:
    labels = np.zeros((len(items), classes), dtype=bool)
    for row, item in zip(labels, items, strict=True):
        row[list(classes_of(item))] = True
    return labels


def _print(result: Mapping[str, Any]) -> None:
    overall = result["overall"]
    size = f"{overall['n_floor']} + {overall['n_floor']}"
    print(
        f"\n{overall['n_real']:,} real and {overall['n_synthetic']:,} synthetic scintigrams, classes in equal shares; "
        f"{LEVEL:.0%} intervals. Floor: half of the real against the other half\n"
    )
    print(f"{'':<18}{'all':>28}{size:>28}{f'floor, {size}':>28}")
    for key, label in SCORES.items():
        texts = [score_text(key, overall["scores"][key], part) for part in (None, "matched", "floor")]
        print(f"{label:<18}" + "".join(f"{text:>28}" for text in texts))
    shown = ("kid", "fid", "coverage", "auc_features", "auc_spectrum", "grain_ratio")
    print(f"\n{'by class (floor)':<18}{'real':>6}{'synth':>6}" + "".join(f"{SCORES[key]:>18}" for key in shown))
    for name, group in result["per_class"].items():
        scores = group.get("scores")
        texts = ["n/a" if scores is None else _beside_floor(key, scores[key]) for key in shown]
        counts = f"{group['n_real']:>6}{group['n_synthetic']:>6}"
        print(f"{name:<18}{counts}" + "".join(f"{text:>18}" for text in texts))
    for warning in result["warnings"]:
        print(f"warning: {warning}")


def _beside_floor(key: str, score: Mapping[str, Any]) -> str:
    return " ".join([score_text(key, score, "matched", span=False), f"({score_text(key, score, 'floor', span=False)})"])


def _dataset_json(dataset: Dataset, items: Sequence[Item], split: str) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "sha256": dataset.sha256,
        "split": split,
        "items": len(items),
        "kinds": dict(Counter(item["origin"]["kind"] for item in items)),
    }


def _method_json(embed: Extractor, features: int, bundle: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "extractor": {
            "name": embed.name,
            "sha256": embed.sha256,
            "preprocessing": embed.preprocessing,
            "features": features,
        },
        "preprocessing": {
            "bundle": find_bundle(bundle).name,
            "inference_json_sha256": file_sha256(find_bundle(bundle) / "configs" / "inference.json"),
            **{key: value for key, value in settings.items() if key != "class_names"},
        },
    }


def _examples(
    pictures: Mapping[str, np.ndarray], samples: Mapping[str, Sample], names: Sequence[str], rng: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return for each class that both sides have some random pictures (n, H, W) of each, several views side by side."""
    examples = {}
    for number, name in enumerate(names):
        chosen = [rng.permutation(np.flatnonzero(side.labels[:, number]))[:EXAMPLES] for side in samples.values()]
        if all(map(len, chosen)):
            shown = [
                np.concatenate(list(p[c].swapaxes(0, 1)), -1) for p, c in zip(pictures.values(), chosen, strict=True)
            ]
            examples[name] = (shown[0], shown[1])
    return examples


def _write(
    output: Path,
    result: Mapping[str, Any],
    scale: np.ndarray,
    examples: Mapping[str, tuple[np.ndarray, np.ndarray]],
    provenance: dict[str, Any],
) -> None:
    file = output if output.suffix == ".json" else output / "fidelity.json"
    write_json(file, {**provenance, "frequencies": scale.round(6).tolist(), **result})
    real, made = provenance["real"], provenance["synthetic"]
    page = fidelity_report(
        file.with_suffix(".html"),
        result,
        scale,
        examples,
        provenance,
        title=f"{made['name']} against {real['name']}",
        subtitle=f"{made['items']:,} synthetic and {real['items']:,} real scintigrams ({real['split']})",
        warning=f"{'Simulated data. ' if 'simulated' in real['kinds'] else ''}{NOTICE}",
    )
    print(f"\nnumbers  {file}\nreport   {page}")
