"""``spectra compare``: methods side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from spectra.errors import UsageError

if TYPE_CHECKING:
    from spectra.analysis.analyze import Options


@dataclass(frozen=True)
class Compared:
    """What a comparison made.

    Attributes
    ----------
    runs, pairs
        See :class:`spectra.analysis.compare.Comparison`.
    report
        The page.
    """

    runs: pd.DataFrame
    pairs: pd.DataFrame
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
    from spectra.figures import RunReport, draw_comparison, write_comparison_report
    from spectra.runs.tables import write_table

    if len(runs) < 2:
        raise UsageError("compare needs two runs or more", cure="name them: spectra compare RUN RUN …")
    analyses = {name: analyze(path, options) for name, path in name_runs(runs).items()}
    where = out if out is not None else default_out(runs)
    done = comparison.compare(analyses)
    write_table(done.runs, where / "comparison.parquet")
    write_table(done.pairs, where / "pairs.parquet")
    tables = {name: analysis.tables for name, analysis in analyses.items()}
    reports = {name: RunReport(a.tables, a.verdict, a.facts) for name, a in analyses.items()}
    draw_comparison(tables, done.runs, where)
    further = {"Paired differences of accuracy on the same problems": done.pairs} if len(done.pairs) else {}
    facts = {"command": "spectra compare " + " ".join(map(str, runs))}
    page, *_ = write_comparison_report(reports, done.runs, where, facts=facts, further=further)
    return Compared(done.runs, done.pairs, page)


def name_runs(runs: Sequence[Path]) -> dict[str, Path]:
    """Return short distinct names: the last part of each path, with as many parents as it takes."""
    resolved = [path.resolve() for path in runs]
    if len(set(resolved)) != len(resolved):
        raise UsageError("the same run is named twice", cure="name each run once")
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    raise AssertionError("distinct paths have distinct names")


def default_out(runs: Sequence[Path]) -> Path:
    """Return ``comparison`` beside the runs, or in the working directory where they lie apart."""
    parents = {path.resolve().parent for path in runs}
    return (runs[0].parent if len(parents) == 1 else Path()) / "comparison"
