"""What is checked of a bundle's folder without running anything of it."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jsonschema.validators import validator_for
from monai.bundle import ConfigParser
from PIL import Image

from scintikit.errors import PackageError
from scintikit.files import file_sha256
from scintikit.packing.archive import check_name
from scintikit.packing.lint import lint_config, lint_logging
from scintikit.packing.manifest import DESCRIBED, NAME, is_output

#: Of a folder, what the model zoo asks for.
REQUIRED = (
    "LICENSE",
    "configs/metadata.json",
    "configs/inference.json",
    "docs/README.md",
    "docs/data_license.txt",
    "models/model.pt",
)
SECTIONS = ("Intended use", "Data", "Performance", "Commands", "Limitations", "References")  #: of a model card
LARGE = 25_000_000  #: bytes of a file that the model zoo's repository takes
LARGE_FILES = "large_files.yml"
TEXT = (".json", ".yaml", ".yml", ".md", ".txt", ".py", ".conf", ".html", ".csv")
#: What may lie in a bundle's folder; images belong into `docs`, tables and schemas into the library.
TOP = ("LICENSE", LARGE_FILES, NAME)
KNOWN = {"configs": (".json", ".conf"), "models": (".pt", ".ts", ".onnx")}
KNOWN |= {"docs": (".md", ".txt", ".png", ".jpg", ".svg"), "scripts": (".py",), "scintikit": TEXT}
#: What pictures may say of themselves, and how they end.
PLAIN = ("Software", "icc_profile", "transparency")
ENDS = (b"IEND\xaeB`\x82", b"\xff\xd9")
SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")

#: Identifiers that DICOM gives out to studies and files; those below 1.2.840.10008 name its own classes and syntaxes.
UID = re.compile(r"\b[012](?:\.(?:0|[1-9]\d*)){7,}\b")
#: Long enough not to turn up by chance among the bytes of weights.
LOCAL_PATH = re.compile(rb"/(?:home|Users|root|tmp|mnt)/[\w.-]{2,}/|[A-Z]:\\+Users\\|site-packages/")


def metadata_of(folder: Path) -> dict[str, Any]:
    """Return the metadata of a bundle; `PackageError` if it cannot be read or lacks what packing goes by."""
    path = folder / "configs" / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        for name in (metadata["name"], *metadata["weights"].keys()):
            if not re.fullmatch(r"\w[\w.-]*", name):  # they become paths
                raise PackageError(f"configs/metadata.json of {folder.name}: {name!r} is no plain name of a file")
        metadata["version"]
    except PackageError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise PackageError(f"configs/metadata.json of {folder.name} cannot be read: {error}") from error
    except KeyError as error:
        raise PackageError(
            f"configs/metadata.json of {folder.name} has no {error}; it needs `name`, `version` and `weights`, which "
            "lists the files in `models` that inference reads and says of each what it is"
        ) from error
    return metadata


def check_files(folder: Path) -> str:
    """Every file that the zoo and the metadata ask for is there, and none that does not belong in a bundle."""
    required = [*REQUIRED, *(f"models/{name}" for name in metadata_of(folder)["weights"])]
    missing = [name for name in required if not (folder / name).is_file() or not (folder / name).stat().st_size]
    if missing:
        raise PackageError(f"{', '.join(missing)} missing or empty")
    for path in _files(folder):
        top = path.parts[0] if len(path.parts) > 1 else ""
        if path.as_posix() not in TOP and path.suffix not in KNOWN.get(top, ()):
            known = KNOWN.get(top, ()) if top else TOP
            raise PackageError(f"{path} does not belong into a bundle: {top or 'its top'} takes {known}")
    return f"{len(list(_files(folder)))} files"


def check_schema(folder: Path) -> str:
    """The metadata fits the schema of the model zoo."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    for error in validator_for(schema)(schema).iter_errors(metadata_of(folder)):
        raise PackageError(f"metadata.json does not fit {SCHEMA.name}: {error.json_path}: {error.message}")
    return SCHEMA.stem


def check_version(folder: Path) -> str:
    """The changelog tells what is new in this version, and a package's manifest says the same as the metadata."""
    metadata = metadata_of(folder)
    if metadata["version"] not in metadata.get("changelog", {}):
        raise PackageError(f"version {metadata['version']} is not in the changelog of metadata.json")
    if (folder / NAME).is_file():  # not yet in a bundle that is being packed
        manifest = json.loads((folder / NAME).read_text(encoding="utf-8"))
        for key in DESCRIBED:
            if manifest.get(key) != metadata.get(key):
                raise PackageError(
                    f"{NAME} and metadata.json differ in {key}: {manifest.get(key)} and {metadata.get(key)}"
                )
    return str(metadata["version"])


def pins(metadata: dict[str, Any]) -> dict[str, str]:
    """Return the exact version of every package that a bundle asks for."""
    return {
        "torch": metadata["pytorch_version"],
        "monai": metadata["monai_version"],
        "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }


def check_pins(folder: Path) -> str:
    """Versions are exact, and everything that the bundle's code imports when it starts is among them."""
    pinned = pins(metadata_of(folder))
    if strange := [name for name in pinned if not re.fullmatch(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", name)]:
        raise PackageError(
            f"in metadata.json {strange[0]!r} is no name of a package; pip would take it for something else"
        )
    loose = [f"{name} {version}" for name, version in pinned.items() if not re.fullmatch(r"\d+(\.\w+)+", version)]
    if loose:
        raise PackageError(f"not exact in metadata.json: {', '.join(loose)}")
    distributions = importlib.metadata.packages_distributions()
    names = {name.lower().replace("_", "-") for name in pinned}
    for module, path in sorted(_imports(folder).items()):
        providers = {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
        if not providers & names:
            raise PackageError(f"{path} imports {module}, and metadata.json pins no version of it")
    return f"{len(pinned)} packages"


def check_card(folder: Path) -> str:
    """The model card has every section, its pictures are there, and it says what the bundle is not for."""
    card = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    parts = re.split(r"^#+ +(.+)$", card, flags=re.MULTILINE)
    sections = {title.strip().lower(): text.strip() for title, text in zip(parts[1::2], parts[2::2], strict=True)}
    missing = [title for title in SECTIONS if not sections.get(title.lower())]
    if missing:
        raise PackageError(f"docs/README.md lacks or leaves empty: {', '.join(missing)}")
    if "research use only" not in card.lower():
        raise PackageError("docs/README.md must say 'research use only'")
    for link in re.findall(r"\]\(([^)#\s]+)", card):
        if not re.match(r"\w+:", link) and not (folder / "docs" / link).resolve().is_relative_to(folder.resolve()):
            raise PackageError(f"docs/README.md points to {link}, outside the bundle")
        if not re.match(r"\w+:", link) and not (folder / "docs" / link).is_file():
            raise PackageError(f"docs/README.md points to {link}, which is not there")
    return f"{len(sections)} sections"


def check_large_files(folder: Path) -> str:
    """Every file that is too large for the zoo's repository stands in `large_files.yml` with its hash."""
    large = {path.as_posix(): folder / path for path in _files(folder) if (folder / path).stat().st_size > LARGE}
    listed = {}
    if (folder / LARGE_FILES).is_file():
        listed = {entry["path"]: entry for entry in ConfigParser.load_config_file(folder / LARGE_FILES)["large_files"]}
    for name, path in large.items():
        if name not in listed:
            raise PackageError(
                f"{name} has {path.stat().st_size / 1e6:.1f} MB; a file over {LARGE // 10**6} MB must stand in "
                f"{LARGE_FILES}: give --large_files_url, the address of the folder where you will publish it"
            )
    for name, entry in listed.items():
        check_name(name)
        if entry.get("hash_type") != "sha256" or not re.match("https?://", entry.get("url", "")):
            raise PackageError(f"{name} in {LARGE_FILES} needs `url` (http), `hash_val` and `hash_type: sha256`")
        if not (folder / name).is_file():
            raise PackageError(f"{name} stands in {LARGE_FILES}, by which MONAI would add it, but not in the bundle")
        if file_sha256(folder / name) != entry["hash_val"]:
            raise PackageError(f"{name} is not the file that {LARGE_FILES} names: its SHA-256 differs")
    return f"{len(large)} over {LARGE // 10**6} MB"


def check_privacy(folder: Path) -> str:
    """No patient's picture, identifier or local path is in the bundle."""
    for path in map(folder.joinpath, _files(folder)):
        name = path.relative_to(folder)
        data = path.read_bytes()
        if data[128:132] == b"DICM" or data[344:348] in (b"n+1\0", b"ni1\0") or data[:2] == b"\x1f\x8b":
            raise PackageError(f"{name} is a medical image or an archive; a bundle carries no data")
        if path.suffix in (".png", ".jpg"):
            _check_picture(path, name)
        if path.suffix in (*TEXT, ".svg") or path.name == "LICENSE":
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError:
                text = "\0"
            if "\0" in text:  # UTF-16, PDF, DICOM without its preamble
                raise PackageError(f"{name} is no text in UTF-8; nothing can be told of what is in it")
            if name.parts[0] != "scintikit" or path.suffix != ".py":
                _check_text(text, name)
        if path.suffix in (".json", ".ts", ".onnx") and (found := LOCAL_PATH.search(data)):
            raise PackageError(f"{name} names a path of the machine it was made on: {found[0].decode()!r}")
    for weights in _weights(folder):
        for text in _strings(_load(folder / "models" / weights)):
            _check_text(text, Path("models") / weights)
    return "no image, identifier or local path"


def check_configs(folder: Path) -> str:
    """The configs are clean, see `lint_config`."""
    configs = sorted(
        path for path in (folder / "configs").rglob("*.json") if path != folder / "configs" / "metadata.json"
    )
    for path in configs:
        whole = "bundle_root" in json.loads(path.read_text(encoding="utf-8"))
        if problems := lint_config(folder, path, overlays=not whole):
            raise PackageError(f"{path.relative_to(folder)}: {'; '.join(problems[:3])}")
    for path in sorted((folder / "configs").rglob("*.conf")):
        if problems := lint_logging(path):
            raise PackageError(f"{path.relative_to(folder)}: {'; '.join(problems[:3])}")
    return f"{len(configs)} configs"


def check_weights(folder: Path) -> str:
    """The weights are plain tensors, which torch reads without running code."""
    names = _weights(folder)
    for name in names:
        _load(folder / "models" / name)
    return ", ".join(names)


#: In this order; each returns what it saw, or raises `PackageError`.
STATIC: dict[str, Callable[[Path], str]] = {
    "required files": check_files,
    "metadata schema": check_schema,
    "version in changelog": check_version,
    "pinned packages": check_pins,
    "model card": check_card,
    "large files": check_large_files,
    "no patient data": check_privacy,
    "configs": check_configs,
    "plain weights": check_weights,
}


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not is_output(path.relative_to(folder)):
            yield path.relative_to(folder)


def _weights(folder: Path) -> list[str]:
    """Return the names of all that torch would unpickle, also of what the metadata does not list."""
    models = folder / "models"
    return sorted(path.relative_to(models).as_posix() for path in models.rglob("*.pt"))


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise PackageError(
            f"models/{path.name} is no file of plain tensors: {str(error).strip().splitlines()[0]}. A pickled object "
            "could run any code; save `network.state_dict()` with torch.save"
        ) from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _strings(key)
            yield from _strings(child)
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from _strings(child)


def _check_text(text: str, name: Path) -> None:
    for uid in UID.findall(text):
        if not uid.startswith("1.2.840.10008."):
            raise PackageError(f"{name} holds a DICOM identifier ({uid[:12]}...), which can lead to a patient")
    if found := LOCAL_PATH.search(text.encode()):
        raise PackageError(f"{name} names a path of the machine it was made on: {found[0].decode()!r}")


def _check_picture(path: Path, name: Path) -> None:
    with Image.open(path, formats=("PNG", "JPEG")) as picture:
        picture.load()  # some texts come after the pixels
        texts = [key for key in picture.info if key not in PLAIN and isinstance(picture.info[key], (str, bytes, dict))]
        if not path.read_bytes().endswith(ENDS):
            texts.append("something after its end")
        if texts or picture.getexif():
            raise PackageError(f"{name} carries text besides its pixels ({texts or 'EXIF'}); save it without")


def _imports(folder: Path) -> dict[str, Path]:
    """Return the packages imported at the top of the bundle's modules, each with the first module that does so."""
    found: dict[str, Path] = {}
    own = {"scintikit", "scripts"}
    for path in [path for path in _files(folder) if path.suffix == ".py"]:
        for node in ast.parse((folder / path).read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top not in own and top not in sys.stdlib_module_names:
                    found.setdefault(top, path)
    return found
