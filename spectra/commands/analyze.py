"""``spectra analyze``: tables, verdict, figures and report of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.commands.drawing_record import Figures

if TYPE_CHECKING:
    from spectra.analysis.analyze import Analysis, Options


def analyze(
    run: Path,
    options: "Options | None" = None,
    *,
    figures: Figures = "all",
    progress: Callable[[int, int, str], None] | None = None,
) -> "Analysis":
    """Analyze one run and write its report; finished work is reused.

    Parameters
    ----------
    run
        A run directory, an adapter, or a full checkpoint.
    options
        Base, output directory, processes, device, engine.
    figures
        ``none`` draws nothing, ``report`` the pages with their figures, ``all`` a PDF of every figure too. What is on
        disk and right is not drawn again.
    progress
        Called as progress(done, total, module).

    Raises
    ------
    SpectraError
        If the run or its base cannot be read exactly.
    """
    done = measure(run, options, progress)
    draw_analysis(done, figures)
    return done


def measure(
    run: Path, options: "Options | None" = None, progress: Callable[[int, int, str], None] | None = None
) -> "Analysis":
    """Write the tables and the verdict of one run, and draw nothing. Parameters as in :func:`analyze`."""
    from spectra.analysis.analyze import analyze as analyze_run

    return analyze_run(run, options, progress)


def draw_analysis(done: "Analysis", figures: Figures = "all") -> Path | None:
    """Draw what an analysis found, unless it is on disk and right; return the page, None where there is none."""
    from spectra.commands.draw import draw

    return draw(done.tables, done.verdict, done.facts, done.where, figures)
