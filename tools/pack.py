"""Pack a bundle into a zip that runs alone."""

from __future__ import annotations

from pathlib import Path

from scintikit.files import file_sha256
from scintikit.packing import pack_bundle
from tools.run import find_bundle


def pack(bundle: str, output: str, ckpt_dir: str | None = None, large_files_url: str | None = None) -> None:
    """Pack a bundle, its trained weights and the shared library into a zip that runs anywhere without this project.

    What the weights files are is told by `weights` in the bundle's metadata. They are added as TorchScript and ONNX
    too, and every file's SHA-256 is kept in the zip. The same input gives the same bytes.

    Parameters
    ----------
    bundle : str
        Name of a folder under `bundles/`, or the path of a bundle anywhere.
    output : str
        The zip.
    ckpt_dir : str, optional
        Folder of the trained weights; default: the bundle's `models`.
    large_files_url : str, optional
        Needed if a file is larger than 25 MB, the limit of the model zoo's repository: the address of the folder where
        you will publish such files. `large_files.yml` in the zip then tells MONAI where to download them.
    """
    place = pack_bundle(
        find_bundle(bundle), Path(output), Path(ckpt_dir).expanduser() if ckpt_dir else None, large_files_url
    )
    print(f"{place}: {place.stat().st_size / 1e6:.1f} MB, sha256 {file_sha256(place)}")
    print(f"check it, at work too, with `python -m tools verify {place}`")
