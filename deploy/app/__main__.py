"""`python deploy/app -i INPUT -o OUTPUT -m MODELS`, as the SDK and its containers start an application."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Run the application; return the exit code."""
    folder = Path(__file__).resolve().parent
    sys.path[0] = str(folder.parent)  # of a folder that is run, Python itself takes the folder
    prepare = importlib.import_module(f"{folder.name}.environment")
    prepare.load_cuda_runtime()
    prepare.find_scintikit(prepare.model_folder(sys.argv[1:]))
    return importlib.import_module(f"{folder.name}.app").main()


if __name__ == "__main__":
    sys.exit(main())
