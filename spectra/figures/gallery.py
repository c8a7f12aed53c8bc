"""The set of figures of one run, and of several runs side by side: drawn, named, captioned and saved."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra.figures.accuracy import accuracy_against_size
from spectra.figures.heatmaps import heatmap, height_for
from spectra.figures.profiles import cumulative, overlay, profile
from spectra.figures.style import FULL_WIDTH, MUTED, ShownAxes, figure_of, new_figure, percent, save, styled
from spectra.figures.summaries import Side, analysed_fraction, grid, resolve_step
from spectra.figures.trajectories import learning_curves, trajectory
from spectra.runs.layout import AnalysisLayout
from spectra.runs.tables import Tables


@dataclass(frozen=True)
class Plate:
    """A drawn figure with what a page says about it.

    Attributes
    ----------
    name
        File name without suffix.
    title
        The question that the figure answers.
    caption
        How to read it, and what chance would look like.
    alt
        What it shows, for who cannot see it.
    figure
        The figure itself.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


def run_plates(tables: Tables, verdict: Mapping[str, Any]) -> Iterator[Plate]:
    """Draw the figures of one run, one after the other: only one is held in memory."""
    axes = trajectory(tables)
    _mark_verdict(axes, verdict)
    yield Plate(
        "trajectory",
        "How did the update grow?",
        "Size, rank and direction of ΔW at every snapshot above the training curves, on one step axis. Shaded: 10–90 % "
        "of the matrices. In the third panel chance is 1 and the grey band is ±2 standard deviations of the mean over "
        "matrices for updates of the same spectrum and random orientation. Reward and entropy: pale as logged, bold as "
        "a running mean. A healthy run has no jump in size or rank just before the reward falls.",
        "Five stacked line charts over training steps: relative norm, rank, principal lift, reward, entropy.",
        figure_of(axes[0]),
    )
    for side in _SIDES:
        yield _profile_plate(tables, side)
    for side in _SIDES:
        yield _cumulative_plate(tables, side)
    yield Plate(
        "heatmap_relative_fro",
        "How much did each matrix move?",
        "‖ΔW‖/‖W‖ (Frobenius) by layer and kind at the last snapshot; hatched cells have no such matrix. An even field "
        "is the usual picture. One bright cell is one module that runs away.",
        "Heat map of the relative norm of the update by layer and kind of module.",
        figure_of(heatmap(tables, metric="relative_fro")),
    )
    yield _lift_plate(tables)


def comparison_plates(runs: Mapping[str, Tables], comparison: pd.DataFrame) -> Iterator[Plate]:
    """Draw the figures that put several runs side by side."""
    yield Plate(
        "accuracy_against_size",
        "What does accuracy cost in trainable parameters?",
        "Accuracy after training with its 95 % interval against the share of parameters that train (logarithmic). The "
        "dashed line is the accuracy before training: a run whose interval holds that line has not shown that it "
        "learned, and runs whose intervals overlap are not told apart by this evaluation.",
        "Scatter chart of final accuracy against the trainable share, one point a run.",
        figure_of(accuracy_against_size(comparison)),
    )
    yield Plate(
        "learning_curves",
        "How did the reward grow?",
        "Mean reward of each training batch. Pale: as logged; bold: a running mean where the curve is long.",
        "Line chart of reward over training steps, one line a run.",
        figure_of(learning_curves(runs)),
    )
    for side in _SIDES:
        yield Plate(
            f"overlay_{side}",
            f"Where does each method write? ({_SPACE[side]})",
            f"Share of ‖ΔW‖² along the base's {side} singular vectors at each run's last step, in units of chance (1 = "
            "an update of random orientation). Grey: ±2 standard deviations of the mean, for the run where it is "
            "widest. Left of the axis are the base's largest singular values.",
            f"Line chart of update energy along the {side} singular vectors, one line a run.",
            figure_of(overlay(runs, side=side)),
        )


def draw_all(tables: Tables, verdict: Mapping[str, Any], out: AnalysisLayout) -> list[Path]:
    """Draw the figures of one run as PDF and PNG into ``out.figures``.

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
    return [path for plate in run_plates(tables, verdict) for path in _save(plate, out.figures)]


def draw_comparison(runs: Mapping[str, Tables], comparison: pd.DataFrame, out_dir: Path) -> list[Path]:
    """Draw the figures of several runs side by side as PDF and PNG into ``out_dir``.

    Parameters
    ----------
    runs
        Name of the run → its tables.
    comparison
        One row a run, in any order; ``run`` holds the names.
    out_dir
        The directory; made if it is missing.

    Returns
    -------
    list[Path]
        The files, each written atomically.
    """
    plates = comparison_plates(runs, in_order(comparison, runs))
    return [path for plate in plates for path in _save(plate, out_dir)]


def in_order(comparison: pd.DataFrame, runs: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of ``comparison`` in the order of ``runs``, so that a run has one style in every figure."""
    return comparison.set_index("run", drop=False).reindex(list(runs)).assign(run=list(runs)).reset_index(drop=True)


_SIDES: tuple[Side, Side] = ("left", "right")
_SPACE = {"left": "output space", "right": "input space"}


def _save(plate: Plate, directory: Path) -> list[Path]:
    return [save(plate.figure, directory / f"{plate.name}.{suffix}") for suffix in ("pdf", "png")]


def _profile_plate(tables: Tables, side: Side) -> Plate:
    vectors = f"{side} singular vectors"
    note = (
        " With LoRA this side is set by the random initialisation of A until A itself has moved."
        if side == "right"
        else ""
    )
    return Plate(
        f"profile_{side}",
        f"Where in the base's spectrum does ΔW lie? ({_SPACE[side]})",
        f"Share of ‖ΔW‖² in equal bins of the base's {vectors}, from the largest singular value (0) to the smallest "
        "(1), divided by what a randomly oriented update would have there. Chance is 1, and the grey band is ±2 "
        "standard deviations of the mean over matrices: a curve inside it is indistinguishable from noise. The "
        f"base's own energy is drawn for scale and is not a null.{note}",
        f"Line chart of update energy in units of chance along the base's {vectors}, beside the base's own energy.",
        figure_of(profile(tables, side=side)),
    )


def _cumulative_plate(tables: Tables, side: Side) -> Plate:
    vectors = f"{side} singular vectors"
    return Plate(
        f"cumulative_{side}",
        f"How much of ΔW do the first directions hold? ({_SPACE[side]})",
        f"Cumulative share of ‖ΔW‖² over the base's {vectors}, mean over matrices, of the whole norm: what is missing "
        "at the right edge lies outside the base's span, as it also would by chance in matrices that are not square. "
        "Above the dotted line: more principal than chance; below: less.",
        f"Line chart of the cumulative share of the update's energy over the base's {vectors} against chance.",
        figure_of(cumulative(tables, side=side)),
    )


def _lift_plate(tables: Tables) -> Plate:
    share = percent(analysed_fraction(tables), 0)
    with styled():
        cells = grid(tables, "principal_lift", step=resolve_step(tables, None))
        figure = new_figure(FULL_WIDTH, height_for(cells))
        for place, side in enumerate(_SIDES, start=1):
            ax = figure.add_subplot(1, 2, place, axes_class=ShownAxes)
            heatmap(tables, metric="principal_lift", side=side, ax=ax)
    return Plate(
        "heatmap_principal_lift",
        "Which matrices write into the base's strongest directions?",
        f"Share of ‖ΔW‖² in the first {share} of the base's singular directions, in units of chance, by layer and "
        "kind: left singular vectors on the left, right ones on the right. White is chance; orange (+) is more "
        "principal than chance, purple (−) less. Faint, patternless colour is what chance gives.",
        "Two heat maps of principal lift by layer and kind, for left and right singular vectors.",
        figure,
    )


def _mark_verdict(axes: list[Axes], verdict: Mapping[str, Any]) -> None:
    """Write the verdict in words above the top panel, and its first step as a line through all."""
    onset = verdict.get("onset_step")
    words = str(verdict.get("verdict", "")).replace("_", " ")
    with styled():
        if words:
            axes[0].set_title(f"verdict: {words}" + (f", from step {onset}" if onset is not None else ""), loc="right")
        if onset is not None:
            for ax in axes:
                ax.axvline(onset, color=MUTED, linestyle=(0, (1, 2)), linewidth=0.8, zorder=0.6)
