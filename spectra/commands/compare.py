"""``spectra compare``: methods side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from spectra.errors import UsageError

if TYPE_CHECKING:
    from spectra.analysis.analyze import Options
    from spectra.analysis.compare import Comparison

# Of each method over seeds, what the page shows; the table on disk has every metric of the summary.
_SHOWN = (
    *("accuracy_end", "reward_end", "relative_fro", "effective_rank"),
    *("left_principal_lift", "right_principal_lift"),
)


@dataclass(frozen=True)
class Compared:
    """What a comparison made.

    Attributes
    ----------
    runs, differences, pairs, methods
        See :class:`spectra.analysis.compare.Comparison`.
    report
        The page.
    """

    runs: pd.DataFrame
    differences: pd.DataFrame
    pairs: pd.DataFrame
    methods: pd.DataFrame
    report: Path


def compare(runs: Sequence[Path], *, out: Path | None = None, options: "Options | None" = None) -> Compared:
    """Analyse each run (reusing what is there), compare them, and write one page.

    Parameters
    ----------
    runs
        Two or more runs.
    out
        Where the page, its figures and tables go; ``comparison`` beside the runs if None.
    options
        How to analyse.

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
        raise UsageError("compare needs two runs or more", hint="name them: spectra compare RUN RUN …")
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
    """Return the tables of the page by title; those without a row are left out."""
    shown = {
        "Paired differences of accuracy on the same problems": done.differences,
        "Updates against each other: means over matrices with 95 % intervals over layers": done.pairs_summary,
        "Methods over seeds: means with 95 % intervals": _over_seeds(done.methods),
    }
    return {title: frame for title, frame in shown.items() if len(frame)}


def _over_seeds(methods: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the page; none where no method has two seeds, since the runs' own numbers stand above."""
    shown = methods[methods["metric"].isin(_SHOWN)]
    return shown if shown["lo"].notna().any() else shown.iloc[:0]


def name_runs(runs: Sequence[Path]) -> dict[str, Path]:
    """Return short distinct names: the last part of each path, with as many parents as it takes."""
    resolved = [path.resolve() for path in runs]
    if len(set(resolved)) != len(resolved):
        raise UsageError("the same run is named twice", hint="name each run once")
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    raise AssertionError("distinct paths have distinct names")


def default_out(runs: Sequence[Path]) -> Path:
    """Return ``comparison`` beside the runs, or in the working directory where they lie apart."""
    parents = {path.resolve().parent for path in runs}
    return (runs[0].parent if len(parents) == 1 else Path()) / "comparison"
