"""A study: one classifier trained on many sets of original and synthetic scintigrams, on equal budgets."""

from scintikit.study.collecting import Collected, collect, compare_tests
from scintikit.study.plan import Plan, make_plan, reading_options
from scintikit.study.running import (
    Executor,
    LocalExecutor,
    Outcome,
    Progress,
    RayExecutor,
    read_status,
    run_all,
    write_plan,
)
from scintikit.study.scenarios import ORIGINAL, Scenario, Term, parse
from scintikit.study.settings import Study, load_study
from scintikit.study.work import Command, Given, Made, Work, WorkFolder

__all__ = [
    "ORIGINAL",
    "Collected",
    "Command",
    "Executor",
    "Given",
    "LocalExecutor",
    "Made",
    "Outcome",
    "Plan",
    "Progress",
    "RayExecutor",
    "Scenario",
    "Study",
    "Term",
    "Work",
    "WorkFolder",
    "collect",
    "compare_tests",
    "load_study",
    "make_plan",
    "parse",
    "read_status",
    "reading_options",
    "run_all",
    "write_plan",
]
