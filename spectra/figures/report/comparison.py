"""The report of several runs side by side."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from spectra.figures.data.run_frames import RunFrames
from spectra.figures.report.gallery import comparison_figures, in_order, read_pairs, run_figures
from spectra.figures.report.page import environment
from spectra.figures.report.pictures import Picture, pictures
from spectra.figures.report.report import RunReport
from spectra.figures.style import formats
from spectra.runs.atomic import write_text
from spectra.runs.layout import AnalysisLayout


def _kept(cell: str) -> str:
    """Return a cell that breaks nowhere: a table too wide for its page breaks between numbers, not inside one."""
    return cell.replace(" ", "\N{NO-BREAK SPACE}")


def _lift(lift: Any, z: Any) -> str:
    number, _, distance = formats.lift(lift, z).partition(" ")
    return f"{number} {_kept(distance)}".rstrip()


Columns = Mapping[str, Callable[[Mapping[str, Any]], str]]

# Numbers that are read together share a cell, so that each table fits a page without scrolling.
_REACHED: Columns = {
    "run": lambda row: str(row["run"]),
    "method": lambda row: str(row["method"]),
    "learning rate": lambda row: formats.number(row["learning_rate"]),
    "parameters that train": lambda row: (
        f"{formats.number(row['trainable_parameters'])} ({_kept(formats.share(row['trainable_share']))})"
    ),
    "steps": lambda row: formats.number(row["steps"]),
    "reward": lambda row: _kept(f"{formats.number(row['reward_start'])} → {formats.number(row['reward_end'])}"),
    "accuracy (95 %)": lambda row: " ".join(
        (
            _kept(f"{formats.share(row['accuracy_start'])} → {formats.share(row['accuracy_end'])}"),
            _kept(f"({formats.share(row['accuracy_low'])} to {formats.share(row['accuracy_high'])})"),
        )
    ),
}
_UPDATE: Columns = {
    "run": lambda row: str(row["run"]),
    "‖ΔW‖/‖W‖": lambda row: formats.number(row["relative_fro"]),
    "effective rank": lambda row: formats.number(row["effective_rank"]),
    "principal lift, left": lambda row: _lift(row["lift_left"], row["z_left"]),
    "principal lift, right": lambda row: _lift(row["lift_right"], row["z_right"]),
    "verdict": lambda row: f"{formats.sign(row['verdict'])} {formats.words(row['verdict'])}",
    "from step": lambda row: formats.number(row["onset_step"]),
}
_TEXT = ("run", "method", "verdict")


def write_comparison_report(
    runs: Mapping[str, RunReport],
    comparison: pd.DataFrame,
    out_dir: Path,
    *,
    facts: Mapping[str, str] | None = None,
    further: Mapping[str, pd.DataFrame] | None = None,
    pdf: bool = False,
) -> list[Path]:
    """Write one page for several runs, ``report.html`` (self-contained) and ``report.md``, and its figures.

    Parameters
    ----------
    runs
        Name of the run → what the page says about it; the order sets the styles.
    comparison
        One row per run; ``run`` holds the names. Every number is shown.
    out_dir
        The directory; made if it is missing. The Markdown page refers to the SVG files there. Where it has
        ``tables/pairs.parquet``, the page shows how the updates relate.
    facts
        What made the comparison: shown as they are, at the end.
    further
        More tables by title, such as paired differences.
    pdf
        Save a PDF of every figure that puts the runs side by side too.

    Returns
    -------
    list[Path]
        The two pages, then the figures, each written atomically.
    """
    runs = {name: replace(report, tables=RunFrames.of(report.tables)) for name, report in runs.items()}
    ordered = in_order(comparison, runs)
    tables = {name: report.tables for name, report in runs.items()}
    templates = environment()
    drawn = pictures(comparison_figures(tables, ordered, read_pairs(out_dir)), out_dir, pdf=pdf)
    context = {
        "title": f"{len(runs)} runs side by side",
        "runs": runs,
        "reached": _written(ordered, _REACHED),
        "update": _written(ordered, _UPDATE),
        "further": {title: _cells(frame) for title, frame in (further or {}).items()},
        "pictures": drawn,
        "facts": facts or {},
    }
    sections = {name: _of_run(report) for name, report in runs.items()}
    out = AnalysisLayout(out_dir)
    write_text(out.report_html, templates.get_template("comparison.html.j2").render(context, sections=sections))
    write_text(out.report_markdown, templates.get_template("comparison.md.j2").render(context))
    return [out.report_html, out.report_markdown, *(path for picture in drawn for path in picture.files)]


def _of_run(report: RunReport) -> list[Picture]:
    """Return a run's own figures for its section of the page, drawn again only where they are not on disk."""
    figures = run_figures(report.tables, report.verdict)
    return pictures(figures, report.drawn, reuse=True)


def _written(comparison: pd.DataFrame, columns: Columns) -> dict[str, Any]:
    """Return some columns of the comparison as written cells: headers, rows, and which columns are text."""
    records = [{str(name): value for name, value in record.items()} for record in comparison.to_dict("records")]
    rows = [[write(record) for write in columns.values()] for record in records]
    return {"headers": list(columns), "rows": rows, "text": [name in _TEXT for name in columns]}


def _cells(frame: pd.DataFrame) -> dict[str, Any]:
    """Return a table as written cells: headers, rows, and which columns are text."""
    rows = [[formats.number(value) for value in row.values()] for row in frame.to_dict("records")]
    text = [not pd.api.types.is_numeric_dtype(dtype) for dtype in frame.infer_objects().dtypes]
    return {"headers": [formats.words(str(name)) for name in frame.columns], "rows": rows, "text": text}
