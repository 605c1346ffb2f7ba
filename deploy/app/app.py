"""The application for MONAI Deploy: two operators around `process_study`."""

from __future__ import annotations

import logging
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, Fragment, Operator, OperatorSpec

from scintikit.errors import ImageReadError, ScintikitError

from .models import load_classifiers
from .process import DONE, Outcome, process_study
from .selection import RULES, Rule, load_rules, pseudonym, read_instance

logger = logging.getLogger(__name__)

#: Exit codes; an error that nobody foresaw ends with 1, as Python itself does.
ALL_DONE, REFUSED, NOT_ALL_SUITABLE = 0, 2, 3
NO_STUDY = "no_study"  # what is no DICOM file


def group_studies(folder: Path) -> dict[str, list[Path]]:
    """Return the files below a folder (or one file) by their study, under names that identify nobody."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
    studies: defaultdict[str, list[Path]] = defaultdict(list)
    for path in files:
        try:
            uid = read_instance(path).study
        except ImageReadError:
            uid = ""
        studies[pseudonym(uid) if uid else NO_STUDY].append(path)
    return dict(studies)


class LoadStudies(Operator):
    """Find the studies in the input folder."""

    def __init__(self, fragment: Fragment, *args: Any, folder: Path, **kwargs: Any) -> None:
        self.folder = folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the output: files of each study by its name."""
        spec.output("studies")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Emit the studies."""
        op_output.emit(group_studies(self.folder), "studies")


class ClassifyStudies(Operator):
    """Select, classify and write SR, SC and JSON, study by study, each into a folder of its own."""

    def __init__(
        self, fragment: Fragment, *args: Any, output: Path, models: Path, rules: Sequence[Rule], **kwargs: Any
    ) -> None:
        self.output = output
        self.rules = rules
        self.outcomes: dict[str, Outcome] = {}
        bundles = {rule.bundle for rule in rules}
        options = {
            "device": os.environ.get("SCINTIKIT_DEVICE"),
            "runtime": os.environ.get("SCINTIKIT_RUNTIME", "torch"),
        }
        self.classifiers = load_classifiers(models, bundles, **options)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the input."""
        spec.input("studies")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Process every study."""
        for name, files in op_input.receive("studies").items():
            outcome = process_study(files, self.output / name, self.classifiers, self.rules)
            logger.info("study %s: %s, %d files written", name, outcome.status, len(outcome.files))
            for reason in outcome.reasons:
                logger.info("study %s: not used: %s", name, reason)
            self.outcomes[name] = outcome


class ScintigraphyApp(Application):
    """DICOM in, DICOM out, for the classifiers of the model folder."""

    def compose(self) -> None:
        """Connect the operators."""
        context = Application.init_app_context(self.argv)
        rules = load_rules(os.environ.get("SCINTIKIT_RULES") or RULES)
        once = CountCondition(self, 1)  # an operator without input would begin again for ever
        load = LoadStudies(self, once, folder=Path(context.input_path), name="load_studies")
        self.classify = ClassifyStudies(
            self,
            output=Path(context.output_path),
            models=Path(context.model_path),
            rules=rules,
            name="classify_studies",
        )
        self.add_flow(load, self.classify, {("studies", "studies")})

    def exit_code(self) -> int:
        """Return 0 if every study has a result, else 3."""
        statuses = [outcome.status for name, outcome in self.classify.outcomes.items() if name != NO_STUDY]
        return ALL_DONE if statuses and set(statuses) == {DONE} else NOT_ALL_SUITABLE


def main() -> int:
    """Run the application on the command line's folders; return the exit code."""
    try:
        app = ScintigraphyApp()
        app.run()
    except ScintikitError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    return app.exit_code()
