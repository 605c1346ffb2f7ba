"""Figures and the self-contained HTML report."""

from scintikit.errors import ReportError
from scintikit.reporting.audit import audit_report
from scintikit.reporting.classification import classification_report
from scintikit.reporting.diseases import diseases_report
from scintikit.reporting.fidelity import fidelity_report
from scintikit.reporting.figures import figure_png, save_figure
from scintikit.reporting.overlay import enlarge, overlay_png, side_by_side
from scintikit.reporting.predictions import diseases_table, predictions_table
from scintikit.reporting.report import Picture, Table, write_report
from scintikit.reporting.scores import interval_text
from scintikit.reporting.study import write_study_report

__all__ = [
    "Picture",
    "ReportError",
    "Table",
    "audit_report",
    "classification_report",
    "diseases_report",
    "diseases_table",
    "enlarge",
    "fidelity_report",
    "figure_png",
    "interval_text",
    "overlay_png",
    "predictions_table",
    "save_figure",
    "side_by_side",
    "write_report",
    "write_study_report",
]
