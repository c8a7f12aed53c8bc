"""``spectra figures`` and ``spectra report``: redraw from the tables. Needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectra.commands.drawing_record import Drawn, Figures, clear, fingerprint, refresh
from spectra.runs.atomic import read_json
from spectra.runs.layout import AnalysisLayout, RunLayout
from spectra.runs.tables import SCHEMAS, Tables


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
    clear(where, Drawn.read(where))
    draw(tables, verdict, verdict.get("facts", {}), where, "all")
    return [where.report_html, where.report_markdown]


def draw(
    tables: Tables, verdict: Mapping[str, Any], facts: Mapping[str, str], where: AnalysisLayout, figures: Figures
) -> Path | None:
    """Draw the figures and write the pages of a run, unless they are on disk and right; return the page."""

    def write(pdf: bool) -> list[Path]:
        from spectra.figures import write_report

        return write_report(tables, verdict, facts, where, pdf=pdf)

    return refresh(where, fingerprint(shown(where), *facts.values()), figures, write)


def shown(where: AnalysisLayout) -> list[Path]:
    """Return the files whose numbers the figures and pages of a run show."""
    return [*(where.table(name) for name in SCHEMAS), where.verdict]


def _analyzed(path: Path) -> tuple[Tables, dict[str, Any], AnalysisLayout]:
    """Return tables and verdict of a run, and where they are: in the run, or in ``path`` itself."""
    own = AnalysisLayout(path)
    where = own if own.table("modules").exists() else RunLayout(path).analysis
    return Tables.read(where), read_json(where.verdict), where
