"""``spectra compare``: runs and methods side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from spectra.commands.draw import shown
from spectra.commands.drawing_record import Figures, fingerprint, refresh
from spectra.errors import UsageError
from spectra.runs.layout import AnalysisLayout

if TYPE_CHECKING:
    from spectra.analysis.analyze import Analysis, Options
    from spectra.analysis.compare import Comparison

_RUNS = "comparison.parquet"
_TABLES = ("differences", "pairs", "pairs_summary", "methods")
# Metrics per method over seeds that the page shows; the table on disk has every metric of the summary.
_SHOWN = (
    *("accuracy_end", "reward_end", "relative_fro", "effective_rank"),
    *("left_principal_lift", "right_principal_lift"),
)


@dataclass(frozen=True)
class Compared:
    """Result of a comparison.

    Attributes
    ----------
    runs, differences, pairs, methods
        See :class:`spectra.analysis.compare.Comparison`.
    report
        Path of the report page; None where nothing is drawn.
    """

    runs: pd.DataFrame
    differences: pd.DataFrame
    pairs: pd.DataFrame
    methods: pd.DataFrame
    report: Path | None


def compare(
    runs: Sequence[Path],
    *,
    out: Path | None = None,
    options: "Options | None" = None,
    figures: Figures = "all",
    announce: Callable[[pd.DataFrame], None] | None = None,
) -> Compared:
    """Analyze each run (reusing finished work), compare them, and write one report page.

    Parameters
    ----------
    runs
        Two or more runs.
    out
        Directory of the page, its figures and tables; ``comparison`` next to the runs if None.
    options
        How to analyze.
    figures
        How much to draw of each run and of the comparison, as in :func:`spectra.commands.analyze.analyze`.
    announce
        Called with the table of runs before anything is drawn.

    Raises
    ------
    UsageError
        For fewer than two runs.
    """
    from spectra.analysis import compare as comparison
    from spectra.commands.analyze import draw_analysis, measure
    from spectra.config import cache_dir

    if len(runs) < 2:
        raise UsageError("compare needs at least two runs", hint="pass them all: spectra compare RUN RUN …")
    analyses = {name: measure(path, options) for name, path in name_runs(runs).items()}
    where = AnalysisLayout(out if out is not None else default_out(runs))
    cache = options.cache if options is not None and options.cache is not None else cache_dir()
    done = comparison.compare(analyses, cache / "bases")
    _write(done, where)
    if announce is not None:
        announce(done.runs)
    for analysis in analyses.values():
        draw_analysis(analysis, figures)
    facts = {"command": "spectra compare " + " ".join(map(str, runs))}
    if done.notes:
        facts["not compared"] = "; ".join(done.notes)
    report = _draw(analyses, done, where, facts, figures)
    return Compared(done.runs, done.differences, done.pairs, done.methods, report)


def _draw(
    analyses: "Mapping[str, Analysis]",
    done: "Comparison",
    where: AnalysisLayout,
    facts: dict[str, str],
    figures: Figures,
) -> Path | None:
    """Draw the comparison, unless it is on disk and right; return the page."""

    def write(pdf: bool) -> list[Path]:
        from spectra.figures import RunReport, write_comparison_report

        reports = {name: RunReport(a.tables, a.verdict, a.facts, a.where.figures) for name, a in analyses.items()}
        return write_comparison_report(reports, done.runs, where.root, facts=facts, further=_further(done), pdf=pdf)

    inputs = [path for analysis in analyses.values() for path in shown(analysis.where)]
    own = [where.root / _RUNS, *(where.table(name) for name in _TABLES)]
    return refresh(where, fingerprint([*inputs, *own], *analyses, *facts.values()), figures, write)


def _write(done: "Comparison", where: AnalysisLayout) -> None:
    from spectra.runs.tables import write_table

    write_table(done.runs, where.root / _RUNS)
    for name in _TABLES:
        write_table(getattr(done, name), where.table(name))


def _further(done: "Comparison") -> dict[str, pd.DataFrame]:
    """Return the non-empty tables of the page, by title."""
    shown = {
        "Paired differences of accuracy on the same problems": done.differences,
        "Updates against each other: means over matrices with 95 % intervals over layers": done.pairs_summary,
        "Methods over seeds: means with 95 % intervals": _over_seeds(done.methods),
    }
    return {title: frame for title, frame in shown.items() if len(frame)}


def _over_seeds(methods: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the page; none if no method has two seeds: the page already lists each run."""
    shown = methods[methods["metric"].isin(_SHOWN)]
    return shown if shown["lo"].notna().any() else shown.iloc[:0]


def name_runs(runs: Sequence[Path]) -> dict[str, Path]:
    """Return short unique names: the last part of each path, with as many parents as needed."""
    resolved = [path.resolve() for path in runs]
    if len(set(resolved)) != len(resolved):
        raise UsageError("the same run is given twice", hint="pass each run once")
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    raise AssertionError("distinct paths have distinct names")


def default_out(runs: Sequence[Path]) -> Path:
    """Return ``comparison`` next to the runs, or in the working directory if their parents differ."""
    parents = {path.resolve().parent for path in runs}
    return (runs[0].parent if len(parents) == 1 else Path()) / "comparison"
