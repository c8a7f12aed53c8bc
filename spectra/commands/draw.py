"""``spectra figures`` and ``spectra report``: redraw from the tables. Needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectra.runs.atomic import read_json
from spectra.runs.layout import AnalysisLayout, RunLayout
from spectra.runs.tables import Tables


def figures(path: Path) -> list[Path]:
    """Redraw the figures of an analyzed run.

    Parameters
    ----------
    path
        The run, or the output directory of ``analyze --out``.

    Raises
    ------
    RunNotFoundError
        If the run has not been analyzed.
    """
    from spectra.figures import draw_all

    return draw_all(*_analyzed(path))


def report(path: Path) -> list[Path]:
    """Rewrite the report page of an analyzed run, with its figures.

    Parameters
    ----------
    path
        The run, or the output directory of ``analyze --out``.

    Raises
    ------
    RunNotFoundError
        If the run has not been analyzed.
    """
    tables, verdict, where = _analyzed(path)
    return draw(tables, verdict, verdict.get("facts", {}), where)


def draw(tables: Tables, verdict: Mapping[str, Any], facts: Mapping[str, str], where: AnalysisLayout) -> list[Path]:
    """Draw the figures and write the report page."""
    from spectra.figures import draw_all, write_report

    drawn = draw_all(tables, verdict, where)
    return [*write_report(tables, verdict, facts, where), *drawn]


def _analyzed(path: Path) -> tuple[Tables, dict[str, Any], AnalysisLayout]:
    """Return tables and verdict of a run, and where they are: in the run, or in ``path`` itself."""
    own = AnalysisLayout(path)
    where = own if own.table("modules").exists() else RunLayout(path).analysis
    return Tables.read(where), read_json(where.verdict), where
