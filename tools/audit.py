"""Look for training pictures that a generator repeats."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fire.decorators import SetParseFns

from scintikit import __version__
from scintikit.data import Dataset, Item, item_id, load_datalist, load_dataset
from scintikit.data.contract import FILE_NAME, SPLITS, SYNTHETIC_KINDS, check
from scintikit.data.views import body_frame
from scintikit.engines.outputs import NOTICE
from scintikit.errors import ConfigError, DatasetError
from scintikit.files import write_atomic, write_json
from scintikit.metrics.features import Extractor
from scintikit.metrics.memorisation import (
    LEAST,
    TrainingPictures,
    align,
    lower_tail_threshold,
    nearest_by_features,
)
from scintikit.reporting.audit import MEASURES, PAIRS, audit_report
from tools.fidelity import _class_names, _dataset_json, _method_json, _real_items
from tools.pictures import OWN_MODEL, classifier, load_pictures, pick_extractor

QUANTILE = 0.999
FEW = 100  # held-out pictures
SHOWN = 20
JOURNAL = "dropping.json"


@SetParseFns(train=str, synth=str, extractor=str, bundle=str, ckpt_dir=str, output=str)
def audit(
    train: str,
    synth: str,
    *,
    extractor: str = "auto",
    bundle: str = "thyroid_cls",
    ckpt_dir: str | None = None,
    quantile: float = QUANTILE,
    drop: bool = False,
    output: str | None = None,
    **options: Any,
) -> None:
    """Find synthetic scintigrams that repeat a training picture: `tools audit TRAIN SYNTH`.

    Prints how many are nearer to a training picture than those of held-out patients are, beside how many would be by
    chance, and the nearest pairs. See docs/audit.md.

    Parameters
    ----------
    train : str
        Dataset that the generator was trained on; its validation split tells how near other patients are.
    synth : str
        Dataset with synthetic training items; its others are left out, so it may be a composed one.
    extractor : str
        classifier, random, inception, the path of a TorchScript file, or auto: the classifier if trained, else random.
    bundle : str
        Classification bundle whose preprocessing and trained classifier are used.
    ckpt_dir : str, optional
        Folder with the classifier's model.pt and calibration.pt; default, for auto and classifier, the bundle's own.
    quantile : float
        Share of pictures of other patients that are to pass, from 0.9 up.
    drop : bool
        Remove what is flagged from the synthetic dataset.
    output : str, optional
        Folder for audit.json, audit.csv, audit.html and figures, or a file FILE.json, with the others beside it.
    options
        Items of the bundle's `inference.json` to replace, as `--image_size "[64,64]" --spacing_mm 4`.
    """
    if isinstance(quantile, bool) or not isinstance(quantile, (int, float)) or not 0.9 < quantile < 1:
        raise ConfigError(f"--quantile is {quantile!r}; give a number between 0.9 and 1, both excluded")
    datasets = {"real": load_dataset(train), "synthetic": load_dataset(synth)}
    _class_names(datasets)
    items = {
        "training": _real_items(datasets["real"], "training"),
        "held-out": _held_out_items(datasets["real"]),
        "synthetic": _generated_items(datasets["synthetic"]),
    }
    source = classifier(bundle, ckpt_dir, extractor in OWN_MODEL, **options)
    embed = pick_extractor(extractor, source)
    pictures = {
        side: load_pictures(found, source.preprocessing, label=f"reading {side}") for side, found in items.items()
    }
    views = source.settings.get("views", ())
    bank, features = (
        TrainingPictures(_framed(pictures["training"], views)),
        embed(pictures["training"], "features of training"),
    )
    held_out, measured = (
        _measure(pictures[side], views, bank, features, embed, side) for side in ("held-out", "synthetic")
    )
    thresholds = {
        measure: lower_tail_threshold(held_out[measure], (1 - quantile) / len(MEASURES)) for measure in MEASURES
    }
    measured["flagged"] = _flags(measured, thresholds)
    measured = measured.sort_values(["flagged", "distance"], key=_flagged_first, kind="stable")
    table = _named(measured, items, float(source.settings["spacing_mm"]))
    result = _result(table, held_out, thresholds, quantile)
    _print(result, table)
    if output is not None:
        provenance = {
            "training": _dataset_json(datasets["real"], items["training"], "training"),
            "held_out": _dataset_json(datasets["real"], items["held-out"], "validation"),
            "synthetic": _dataset_json(datasets["synthetic"], items["synthetic"], "training"),
            **_method_json(embed, features.shape[1], bundle, source.settings),
            "scintikit": __version__,
        }
        _write(
            Path(output).expanduser(),
            result,
            table,
            held_out,
            _pairs(measured.head(PAIRS), pictures, views),
            provenance,
        )
    if drop:
        _drop(datasets["synthetic"].root, table)


def _held_out_items(dataset: Dataset) -> list[Item]:
    if len(dataset.splits["validation"]) < LEAST:
        raise DatasetError(
            f"{dataset.root} has {len(dataset.splits['validation'])} validation items; at least {LEAST} are needed to "
            "tell how near pictures of other patients are. Give the dataset that the generator was trained on, whole"
        )
    return _real_items(dataset, "validation")


def _generated_items(dataset: Dataset) -> list[Item]:
    """Return the synthetic items but for augmented ones, which are copies by design."""
    kinds = SYNTHETIC_KINDS - {"augmented"}
    found = [item for item in load_datalist(dataset.root, "training") if item["origin"]["kind"] in kinds]
    if not found:
        raise DatasetError(
            f"{dataset.root}: no training item is generated (of kind {', '.join(sorted(kinds))}); give a generated "
            "dataset"
        )
    return found


def _framed(pictures: np.ndarray, views: Sequence[str]) -> np.ndarray:
    """Return pictures `(N, views, H, W)`, as displayed, so that a shift moves the patient in all views; and back."""
    return body_frame(torch.from_numpy(pictures), views).numpy()


def _measure(
    pictures: np.ndarray,
    views: Sequence[str],
    bank: TrainingPictures,
    features: np.ndarray,
    embed: Extractor,
    side: str,
) -> pd.DataFrame:
    """Return for each picture its nearest training pictures by number, and how near they are."""
    near = bank.nearest(_framed(pictures, views), f"comparing {side}")
    own = embed(pictures, f"features of {side}")
    mirrored = embed(pictures[..., ::-1], f"features of {side}, mirrored")
    by_features, distance = nearest_by_features(own, mirrored, features)
    return pd.DataFrame(
        {
            "nearest": near.index,
            "distance": near.distance,
            "ratio": near.ratio,
            "flip": near.flip,
            "shift_down": near.shift[:, 0],
            "shift_right": near.shift[:, 1],
            "nearest_by_features": by_features,
            "feature_distance": distance,
        }
    )


def _flags(measured: pd.DataFrame, thresholds: Mapping[str, float]) -> list[str]:
    """Return by which measures each picture is nearer than the threshold, or ""."""
    below = {measure: (measured[measure] < limit).tolist() for measure, limit in thresholds.items()}
    return [", ".join(itertools.compress(below, row)) for row in zip(*below.values(), strict=True)]


def _flagged_first(column: pd.Series) -> pd.Series:
    return column == "" if column.name == "flagged" else column


def _named(measured: pd.DataFrame, items: Mapping[str, Sequence[Item]], spacing_mm: float) -> pd.DataFrame:
    """Return the table with ids instead of numbers, shifts in mm, and whether the nearest is the picture's source."""
    training = np.array([item["id"] for item in items["training"]])
    rows = [items["synthetic"][number] for number in measured.index]
    table = measured.assign(
        nearest=training[measured["nearest"]],
        nearest_by_features=training[measured["nearest_by_features"]],
        shift_down_mm=measured["shift_down"] * spacing_mm,
        shift_right_mm=measured["shift_right"] * spacing_mm,
        source=[item["origin"].get("source", "") for item in rows],
    )
    table["nearest_is_source"] = table["nearest"] == table["source"]
    table.insert(0, "id", [item["id"] for item in rows])
    return table.drop(columns=["shift_down", "shift_right"])


def _result(
    table: pd.DataFrame, held_out: pd.DataFrame, thresholds: Mapping[str, float], quantile: float
) -> dict[str, Any]:
    flagged = table[table["flagged"] != ""]
    warnings = []
    if len(held_out) < FEW:
        warnings.append(f"only {len(held_out)} held-out pictures: the thresholds are uncertain, look at the pairs")
    return {
        "synthetic": len(table),
        "held_out": len(held_out),
        "flagged": len(flagged),
        "flagged_by": {measure: sum(measure in by.split(", ") for by in flagged["flagged"]) for measure in MEASURES},
        "expected_false_alarms": len(table) * (1 - quantile),
        "with_source": int((table["source"] != "").sum()),
        "nearest_is_source": int(table["nearest_is_source"].sum()),
        "flagged_with_source_as_nearest": int(flagged["nearest_is_source"].sum()),
        "quantile": quantile,
        "thresholds": dict(thresholds),
        "distributions": {
            measure: {
                side: {
                    f"{share:g}": round(float(frame[measure].quantile(share)), 7)
                    for share in (0, 0.001, 0.01, 0.1, 0.5)
                }
                for side, frame in (("synthetic", table), ("held_out", held_out))
            }
            for measure in MEASURES
        },
        "flagged_items": flagged["id"].tolist(),
        "warnings": warnings,
    }


def _print(result: Mapping[str, Any], table: pd.DataFrame) -> None:
    flagged = table[table["flagged"] != ""]
    if len(flagged):
        width = max(map(len, [*flagged["id"], *flagged["nearest"]])) + 2
        print(f"{'flagged':<{width}}{'nearest':<{width}}similarity  ratio  mirrored  shift (mm)    source  by")
        for row in flagged.head(SHOWN).to_dict("records"):
            print(
                f"{row['id']:<{width}}{row['nearest']:<{width}}{1 - row['distance']:10.3f}{row['ratio']:7.2f}"
                f"{'yes' if row['flip'] else 'no':>10}  {row['shift_down_mm']:+5.1f} {row['shift_right_mm']:+5.1f}"
                f"{'yes' if row['nearest_is_source'] else 'no':>10}  {row['flagged']}"
            )
        if len(flagged) > SHOWN:
            print(f"... and {len(flagged) - SHOWN:,} more")
    thresholds = ", ".join(f"{MEASURES[measure]} {limit:.3g}" for measure, limit in result["thresholds"].items())
    print(
        f"nearest training picture is the source of the mask: {result['nearest_is_source']:,} of "
        f"{result['with_source']:,}; thresholds from {result['held_out']:,} held-out pictures: {thresholds}"
    )
    for warning in result["warnings"]:
        print(f"warning: {warning}")
    print(
        f"flagged {result['flagged']:,} of {result['synthetic']:,} synthetic scintigrams; expected false alarms: at "
        f"most {result['expected_false_alarms']:.1f}"
    )


def _pairs(
    measured: pd.DataFrame, pictures: Mapping[str, np.ndarray], views: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return synthetic pictures moved onto their nearest training pictures, and those; several views side by side."""
    shift = measured[["shift_down", "shift_right"]].to_numpy()
    framed = _framed(pictures["synthetic"][measured.index], views)
    moved = _framed(align(framed, measured["flip"].to_numpy(), shift), views)
    sides = (moved, pictures["training"][measured["nearest"]])
    first, second = (np.concatenate(list(side.swapaxes(0, 1)), axis=-1) for side in sides)
    return first, second


def _write(
    output: Path,
    result: Mapping[str, Any],
    table: pd.DataFrame,
    held_out: pd.DataFrame,
    pairs: tuple[np.ndarray, np.ndarray],
    provenance: dict[str, Any],
) -> None:
    file = output if output.suffix == ".json" else output / "audit.json"
    write_json(file, {"provenance": provenance, **result})
    write_atomic(file.with_suffix(".csv"), table.to_csv(index=False, float_format="%.6g").encode())
    made, real = provenance["synthetic"], provenance["training"]
    page = audit_report(
        file.with_suffix(".html"),
        result,
        table,
        {measure: held_out[measure].to_numpy() for measure in MEASURES},
        pairs,
        provenance,
        title=f"Does {made['name']} repeat {real['name']}?",
        subtitle=f"{made['items']:,} synthetic scintigrams against {real['items']:,} training scintigrams",
        warning=f"{'Simulated data. ' if 'simulated' in real['kinds'] else ''}{NOTICE}",
    )
    print(f"numbers  {file}\ntable    {file.with_suffix('.csv')}\nreport   {page}")


def _drop(root: Path, table: pd.DataFrame) -> None:
    names = table["id"][table["flagged"] != ""].tolist()
    drop_items(root, names, {"audited": len(table), "flagged": len(names)})
    print(f"dropped {len(names):,} from {root}")


def drop_items(root: Path, names: Sequence[str], counts: Mapping[str, int]) -> None:
    """Remove synthetic training items from a dataset: first from `dataset.json`, in one step, then their files.

    Stopped at any moment, it leaves a dataset that keeps the contract; the next call removes files left over.

    Parameters
    ----------
    root : path
        Folder of the dataset.
    names : sequence of str
        Ids of items.
    counts : mapping
        For the report in `dataset.json`, together with `dropped`, the number of all items dropped so far.

    Raises
    ------
    DatasetError
        If an item is not synthetic, or nothing would be left; nothing is changed then.
    """
    _remove_files(root)
    if not names:
        return
    content = json.loads((root / FILE_NAME).read_text(encoding="utf-8"))
    dropped = [item for item in content["training"] if item_id(item) in set(names)]
    for item in dropped:
        if item["origin"]["kind"] not in SYNTHETIC_KINDS:
            raise DatasetError(
                f"{root}: {item['image']!r} is {item['origin']['kind']}; only synthetic items are dropped"
            )
    content["training"] = [item for item in content["training"] if item_id(item) not in set(names)]
    if not any(content[split] for split in SPLITS):
        raise DatasetError(
            f"{root}: all {len(dropped):,} items would be dropped, so nothing was: the generator repeats what it was "
            "trained on. Train it on more patients or for fewer epochs, and generate anew"
        )
    report = content.setdefault("report", {})
    before = report.get("audit", {}).get("dropped", 0)
    report["audit"] = {**counts, "dropped": before + len(dropped)}
    check(root, content)
    write_json(root / JOURNAL, [path for item in dropped for path in _files(item)])
    write_json(root / FILE_NAME, content)
    _remove_files(root)


def _remove_files(root: Path) -> None:
    """Remove the files that the journal names and `dataset.json` does not, then the journal."""
    journal = root / JOURNAL
    if not journal.is_file():
        return
    content = json.loads((root / FILE_NAME).read_text(encoding="utf-8"))
    needed = {path for split in SPLITS for item in content[split] for path in _files(item)}
    for name in set(json.loads(journal.read_text(encoding="utf-8"))) - needed:
        path = root / name
        if path.resolve().is_relative_to(root.resolve()):  # a dataset from elsewhere may bring a journal
            path.unlink(missing_ok=True)
    journal.unlink()


def _files(item: Item) -> list[str]:
    return [item[key] for key in ("image", "mask") if key in item]
