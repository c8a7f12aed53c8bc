"""``spectra analyze``: tables, verdict, figures and report of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectra.analysis.analyze import Analysis, Options


def analyze(
    run: Path, options: "Options | None" = None, *, progress: Callable[[int, int, str], None] | None = None
) -> "Analysis":
    """Analyze one run and write its report; finished work is reused.

    Parameters
    ----------
    run
        A run directory, an adapter, or a full checkpoint.
    options
        Base, output directory, processes, device, engine.
    progress
        Called as progress(done, total, module).

    Raises
    ------
    SpectraError
        If the run or its base cannot be read exactly.
    """
    from spectra.analysis.analyze import analyze as analyze_run
    from spectra.commands.draw import draw

    done = analyze_run(run, options, progress)
    if not done.where.report_html.exists():
        draw(done.tables, done.verdict, done.facts, done.where)
    return done
