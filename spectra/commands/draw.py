"""``spectra figures`` and ``spectra report``: draw again from the tables. Needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectra.runs.atomic import read_json
from spectra.runs.layout import AnalysisLayout, RunLayout
from spectra.runs.tables import Tables


def figures(path: Path) -> list[Path]:
    """Draw the figures of an analysed run again.

    Parameters
    ----------
    path
        The run, or the directory that ``analyze --out`` wrote.

    Raises
    ------
    RunNotFoundError
        If the run is not analysed.
    """
    from spectra.figures import draw_all

    where = find_analysis(path)
    tables = Tables.read(where)
    return draw_all(tables, read_json(where.verdict), where)


def report(path: Path) -> list[Path]:
    """Write the report page of an analysed run again, with its figures.

    Parameters
    ----------
    path
        The run, or the directory that ``analyze --out`` wrote.

    Raises
    ------
    RunNotFoundError
        If the run is not analysed.
    """
    where = find_analysis(path)
    tables = Tables.read(where)
    verdict = read_json(where.verdict)
    return draw(tables, verdict, verdict.get("facts", {}), where)


def draw(tables: Tables, verdict: Mapping[str, Any], facts: Mapping[str, str], where: AnalysisLayout) -> list[Path]:
    """Draw the figures and write the page."""
    from spectra.figures import draw_all, write_report

    drawn = draw_all(tables, verdict, where)
    return [*write_report(tables, verdict, facts, where), *drawn]


def find_analysis(path: Path) -> AnalysisLayout:
    """Return the analysis directory of a run, or ``path`` itself where it is one."""
    own = AnalysisLayout(path)
    return own if own.table("modules").exists() else RunLayout(path).analysis
