"""The report of several runs side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from spectra.figures import formats
from spectra.figures.gallery import comparison_plates, in_order, run_plates
from spectra.figures.page import environment, pictures
from spectra.figures.report import RunReport
from spectra.runs.atomic import write_text
from spectra.runs.layout import AnalysisLayout

_SHARES = ("trainable_share", "accuracy_start", "accuracy_end", "accuracy_low", "accuracy_high")
_HEADERS = {
    "trainable_share": "trainable",
    "accuracy_low": "accuracy, 95 % from",
    "accuracy_high": "to",
    "relative_fro": "‖ΔW‖/‖W‖",
    "lift_left": "principal lift, left",
    "lift_right": "principal lift, right",
    "z_left": "z, left",
    "z_right": "z, right",
    "onset_step": "from step",
}


def write_comparison_report(
    runs: Mapping[str, RunReport],
    comparison: pd.DataFrame,
    out_dir: Path,
    *,
    facts: Mapping[str, str] | None = None,
    further: Mapping[str, pd.DataFrame] | None = None,
) -> list[Path]:
    """Write one page for several runs: ``report.html`` (self-contained) and ``report.md`` in ``out_dir``.

    Parameters
    ----------
    runs
        Name of the run → what the page says about it; the order sets the styles.
    comparison
        One row a run; ``run`` holds the names. Every column is shown.
    out_dir
        The directory; made if it is missing. The Markdown page refers to the PNG files of ``draw_comparison`` there.
    facts
        What made the comparison: shown as they are, at the end.
    further
        More tables by title, such as paired differences.

    Returns
    -------
    list[Path]
        The two files, each written atomically.
    """
    ordered = in_order(comparison, runs)
    tables = {name: report.tables for name, report in runs.items()}
    templates = environment()
    context = {
        "title": f"{len(runs)} runs side by side",
        "runs": runs,
        "table": _cells(ordered),
        "further": {title: _cells(frame) for title, frame in (further or {}).items()},
        "pictures": pictures(comparison_plates(tables, ordered)),
        "facts": facts or {},
    }
    # A run's own figures are drawn as its section is written, for HTML only.
    sections = {name: pictures(run_plates(report.tables, report.verdict)) for name, report in runs.items()}
    out = AnalysisLayout(out_dir)
    write_text(out.report_html, templates.get_template("comparison.html.j2").render(context, sections=sections))
    write_text(out.report_markdown, templates.get_template("comparison.md.j2").render(context))
    return [out.report_html, out.report_markdown]


def _cells(frame: pd.DataFrame) -> dict[str, Any]:
    """Return a table as written cells: headers, rows, and which columns are text."""
    rows = [[_cell(str(name), value) for name, value in row.items()] for row in frame.to_dict("records")]
    text = [not pd.api.types.is_numeric_dtype(dtype) for dtype in frame.infer_objects().dtypes]
    headers = [_HEADERS.get(str(name), formats.words(str(name))) for name in frame.columns]
    return {"headers": headers, "rows": rows, "text": text}


def _cell(column: str, value: Any) -> str:
    if column == "verdict" and isinstance(value, str):
        return f"{formats.sign(value)} {formats.words(value)}"
    return formats.share(value) if column in _SHARES else formats.number(value)
