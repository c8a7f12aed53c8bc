"""The set of figures of one run, and of several runs side by side: named, captioned, drawn and saved."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from spectra.figures.data.run_frames import RunFrames
from spectra.figures.data.summaries import Side
from spectra.figures.plots.accuracy import accuracy_against_size
from spectra.figures.plots.pairs import pair_cosines
from spectra.figures.plots.profiles import overlay
from spectra.figures.plots.trajectories import learning_curves
from spectra.figures.report.captioned import SIDES, SPACE, CaptionedFigure
from spectra.figures.report.deep_figures import (
    coordinate_figures,
    map_figures,
    motion_figures,
    null_figures,
    relation_figures,
)
from spectra.figures.report.pictures import pictures
from spectra.figures.report.run_figures import course_figures, place_figures, size_figure
from spectra.figures.style.style import figure_of
from spectra.runs.layout import AnalysisLayout
from spectra.runs.tables import Tables


def run_figures(tables: Tables, verdict: Mapping[str, Any]) -> Iterator[CaptionedFigure]:
    """Return the figures of one run, in the order of the page; each is drawn when it is needed.

    Figures with nothing to show are left out: of tables without a row, such as those that ``--deep none`` leaves out,
    and of the place of an update that has none. :func:`spectra.figures.report.takeaways.left_out` says why.
    """
    tables = RunFrames.of(tables)
    yield from course_figures(tables, verdict)
    yield from place_figures(tables)
    yield from map_figures(tables)
    yield size_figure(tables)
    yield from motion_figures(tables)
    yield from coordinate_figures(tables)
    yield from null_figures(tables)
    yield from relation_figures(tables)


def comparison_figures(
    runs: Mapping[str, Tables], comparison: pd.DataFrame, pairs: pd.DataFrame | None = None
) -> Iterator[CaptionedFigure]:
    """Return the figures that put several runs side by side; ``pairs`` compares their updates matrix by matrix."""
    yield CaptionedFigure(
        "accuracy_against_size",
        "What does accuracy cost in trainable parameters?",
        "Accuracy after training with its 95 % interval against the share of parameters that train (logarithmic). The "
        "dashed line is the accuracy before training: a run whose interval holds that line has not shown that it "
        "learned, and runs whose intervals overlap are not told apart by this evaluation.",
        "Scatter chart of final accuracy against the trainable share, one point per run.",
        lambda: figure_of(accuracy_against_size(comparison)),
    )
    yield CaptionedFigure(
        "learning_curves",
        "How did the reward grow?",
        "Mean reward of each training batch. Pale: as logged; bold: a running mean where the curve is long.",
        "Line chart of reward over training steps, one line per run.",
        lambda: figure_of(learning_curves(runs)),
    )
    for side in SIDES:
        yield CaptionedFigure(
            f"overlay_{side}",
            f"Where does each method write? ({SPACE[side]})",
            f"Share of ‖ΔW‖² along the base's {side} singular vectors at each run's last step, in units of chance (1 = "
            "an update of random orientation). Gray: ±2 standard deviations of the mean, for the run where it is "
            "widest. Left of the axis are the base's largest singular values.",
            f"Line chart of update energy along the {side} singular vectors, one line per run.",
            partial(_overlay, runs, side),
        )
    if pairs is not None and len(pairs):
        yield CaptionedFigure(
            "pair_cosines",
            "Do the runs move the weights the same way?",
            "Cosine of every two runs' last updates, mean over the matrices that both change. White is 0, which is "
            "what unrelated updates have by chance, with a standard deviation of 1/√(O·I) per matrix; z is the mean's "
            "distance from 0 in its own standard deviations. Runs that share a random initialization share part of "
            "their updates from there.",
            "Matrix of cosines between the updates of every two runs.",
            lambda: figure_of(pair_cosines(pairs, list(runs))),
        )


def draw_all(tables: Tables, verdict: Mapping[str, Any], out: AnalysisLayout) -> list[Path]:
    """Draw the figures of one run as PDF and SVG into ``out.figures``.

    Parameters
    ----------
    tables
        The tables of the run.
    verdict
        The verdict, as in ``verdict.json``: its word and onset are written on the trajectory.
    out
        The analysis directory.

    Returns
    -------
    list[Path]
        The files, each written atomically; the same tables give the same bytes.
    """
    return [path for picture in pictures(run_figures(tables, verdict), out.figures, pdf=True) for path in picture.files]


def draw_comparison(runs: Mapping[str, Tables], comparison: pd.DataFrame, out_dir: Path) -> list[Path]:
    """Draw the figures of several runs side by side as PDF and SVG into ``out_dir``.

    Parameters
    ----------
    runs
        Name of the run → its tables.
    comparison
        One row per run, in any order; ``run`` holds the names.
    out_dir
        The directory; made if it is missing. Where it has ``tables/pairs.parquet``, the updates are compared too.

    Returns
    -------
    list[Path]
        The files, each written atomically.
    """
    figures = comparison_figures(runs, in_order(comparison, runs), read_pairs(out_dir))
    return [path for picture in pictures(figures, out_dir, pdf=True) for path in picture.files]


def in_order(comparison: pd.DataFrame, runs: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of ``comparison`` in the order of ``runs``, so that a run has one style in every figure."""
    return comparison.set_index("run", drop=False).reindex(list(runs)).assign(run=list(runs)).reset_index(drop=True)


def read_pairs(where: Path) -> pd.DataFrame | None:
    """Return the table of pairs of a comparison's directory, None where it has none."""
    path = AnalysisLayout(where).table("pairs")
    return pd.read_parquet(path) if path.exists() else None


def _overlay(runs: Mapping[str, Tables], side: Side) -> Figure:
    return figure_of(overlay(runs, side=side))
