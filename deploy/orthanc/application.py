"""The application that a node runs: `deploy.app` on classifiers that stay in memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from deploy.app.models import load_classifiers
from deploy.app.process import process_study
from deploy.app.selection import load_rules
from deploy.orthanc.watcher import Application


def load(models: Path) -> Application:
    """Load the bundles in a folder that the rules of `deploy/app/selection.yaml` name."""
    rules = load_rules()
    classifiers = load_classifiers(models, {rule.bundle for rule in rules})
    return partial(process_study, classifiers=classifiers, rules=rules)
