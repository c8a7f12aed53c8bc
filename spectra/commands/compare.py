"""``spectra compare``: runs and methods side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from spectra.errors import UsageError

if TYPE_CHECKING:
    from spectra.analysis.analyze import Options
    from spectra.analysis.compare import Comparison

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
        Path of the report page.
    """

    runs: pd.DataFrame
    differences: pd.DataFrame
    pairs: pd.DataFrame
    methods: pd.DataFrame
    report: Path


def compare(runs: Sequence[Path], *, out: Path | None = None, options: "Options | None" = None) -> Compared:
    """Analyze each run (reusing finished work), compare them, and write one report page.

    Parameters
    ----------
    runs
        Two or more runs.
    out
        Directory of the page, its figures and tables; ``comparison`` next to the runs if None.
    options
        How to analyze.

    Raises
    ------
    UsageError
        For fewer than two runs.
    """
    from spectra.analysis import compare as comparison
    from spectra.commands.analyze import analyze
    from spectra.config import cache_dir
    from spectra.figures import RunReport, draw_comparison, write_comparison_report

    if len(runs) < 2:
        raise UsageError("compare needs at least two runs", hint="pass them all: spectra compare RUN RUN …")
    analyses = {name: analyze(path, options) for name, path in name_runs(runs).items()}
    where = out if out is not None else default_out(runs)
    cache = options.cache if options is not None and options.cache is not None else cache_dir()
    done = comparison.compare(analyses, cache / "bases")
    _write(done, where)
    tables = {name: analysis.tables for name, analysis in analyses.items()}
    reports = {name: RunReport(a.tables, a.verdict, a.facts) for name, a in analyses.items()}
    draw_comparison(tables, done.runs, where)
    facts = {"command": "spectra compare " + " ".join(map(str, runs))}
    if done.notes:
        facts["not compared"] = "; ".join(done.notes)
    page, *_ = write_comparison_report(reports, done.runs, where, facts=facts, further=_further(done))
    return Compared(done.runs, done.differences, done.pairs, done.methods, page)


def _write(done: "Comparison", where: Path) -> None:
    from spectra.runs.layout import AnalysisLayout
    from spectra.runs.tables import write_table

    write_table(done.runs, where / "comparison.parquet")
    for name in ("differences", "pairs", "pairs_summary", "methods"):
        write_table(getattr(done, name), AnalysisLayout(where).table(name))


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
