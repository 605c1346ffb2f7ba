#!/usr/bin/env bash
# MONAI Label's own environment, .venv-label or the folder given; nothing is done if it is there and up to date.
set -euo pipefail
requirements=$(realpath "$(dirname "$0")/requirements-label.txt")
venv=$(realpath -m "${1:-$(dirname "$0")/../../.venv-label}")
stamp=$venv/.installed
if [ -e "$stamp" ] && ! [ "$requirements" -nt "$stamp" ]; then
    exit 0
fi
echo "setting up $venv: MONAI Label and what it needs (several minutes, 2 GB or more)"
"${PYTHON:-python3}" -m venv "$venv"
install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$requirements" "$@"; }
# torch comes first and alone: whichever build pip is configured for (CPU or CUDA) then stays.
install torch
# SAM 2, which MONAI Label requires, is built from source and looks for torch while it is; without its CUDA extension.
install setuptools wheel
SAM2_BUILD_CUDA=0 install --no-build-isolation sam2
install -r "$requirements"
touch "$stamp"
