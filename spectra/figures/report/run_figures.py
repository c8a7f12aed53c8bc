"""Figures that every analysis of a run has: training curves, and where ΔW lies in the base's spectrum."""

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra.figures.data.summaries import Side, analyzed_fraction, grid, is_placed, resolve_step
from spectra.figures.plots.heatmaps import heatmap, height_for
from spectra.figures.plots.profiles import cumulative, profile
from spectra.figures.plots.timelines import timeline
from spectra.figures.plots.trajectories import trajectory
from spectra.figures.report import takeaways
from spectra.figures.report.captioned import SIDES, SPACE, CaptionedFigure
from spectra.figures.style.style import FULL_WIDTH, MUTED, ShownAxes, figure_of, new_figure, percent, styled
from spectra.runs.tables import Tables

COURSE = "The course of training"
PLACE = "Where ΔW lies in the base's spectrum"


def course_figures(tables: Tables, verdict: Mapping[str, Any]) -> Iterator[CaptionedFigure]:
    """Draw the update and the training curves over steps, and which signal moved first."""
    yield CaptionedFigure(
        "trajectory",
        "How did the update grow?",
        "Size, rank and direction of ΔW at every snapshot above the training curves, on one step axis. Shaded: 10–90 "
        "% of the matrices, and bars in the third panel are the 95 % interval of the mean over layers. There chance "
        "is 1 and the gray band is ±2 standard deviations of the mean over matrices for updates of the same spectrum "
        "and random orientation. Where snapshots hold rounded weights, the dashed line is what rounding alone puts "
        "into ΔW. Reward and entropy: pale as logged, bold as a running mean. A healthy run has no jump in size or "
        "rank just before the reward falls.",
        "Five stacked line charts over training steps: relative norm, rank, principal lift, reward, entropy.",
        lambda: _trajectory(tables, verdict),
        section=COURSE,
        takeaway=takeaways.course(tables),
    )
    yield CaptionedFigure(
        "timeline",
        "Which signal moved first?",
        "Signals of the training log (blue) above signals of the weights (orange). A signal has left its initial level "
        "for good since the black line in its panel, by more than its own noise explains, which is what chance "
        "is here. The dotted line through all panels is the first of them. A panel without a black line shows a "
        "signal that did not.",
        "Stacked line charts of training signals over steps with their onsets marked.",
        lambda: figure_of(timeline(tables, verdict)[0]),
        section=COURSE,
        takeaway=takeaways.first_signal(verdict),
    )


def place_figures(tables: Tables) -> Iterator[CaptionedFigure]:
    """Draw where ΔW lies along the base's singular index, for each side and every matrix, if it lies anywhere."""
    if not is_placed(tables):
        return
    for side in SIDES:
        yield _profile_figure(tables, side)
    for side in SIDES:
        yield _cumulative_figure(tables, side)
    yield _lift_figure(tables)


def size_figure(tables: Tables) -> CaptionedFigure:
    """Draw the size of every matrix's update."""
    return CaptionedFigure(
        "heatmap_relative_fro",
        "How much did each matrix move?",
        "‖ΔW‖/‖W‖ (Frobenius) by layer and module type at the last snapshot; hatched cells have no such matrix. An "
        "even field is the usual picture. One bright cell is one module that runs away.",
        "Heat map of the relative norm of the update by layer and module type.",
        lambda: figure_of(heatmap(tables, metric="relative_fro")),
        takeaway=takeaways.extremes(tables),
    )


def _profile_figure(tables: Tables, side: Side) -> CaptionedFigure:
    vectors = f"{side} singular vectors"
    note = (
        " With LoRA this side is set by the random initialization of A until A itself has moved."
        if side == "right"
        else ""
    )
    return CaptionedFigure(
        f"profile_{side}",
        f"Where in the base's spectrum does ΔW lie? ({SPACE[side]})",
        f"Share of ‖ΔW‖² in equal bins of the base's {vectors}, from the largest singular value (0) to the smallest "
        "(1), divided by what a randomly oriented update would have there. Chance is 1, and the gray band is ±2 "
        "standard deviations of the mean over matrices: a curve inside it is indistinguishable from noise. The "
        f"energy of the base is drawn for scale and is not a null.{note}",
        f"Line chart of update energy in units of chance along the base's {vectors}, beside the energy of the base.",
        lambda: figure_of(profile(tables, side=side)),
        section=PLACE,
        takeaway=takeaways.place(tables, side),
    )


def _cumulative_figure(tables: Tables, side: Side) -> CaptionedFigure:
    vectors = f"{side} singular vectors"
    return CaptionedFigure(
        f"cumulative_{side}",
        f"How much of ΔW do the first directions hold? ({SPACE[side]})",
        f"Cumulative share of ‖ΔW‖² over the base's {vectors}, mean over matrices, of the whole norm: what is missing "
        "at the right edge lies outside the base's span, as it also would by chance in matrices that are not square. "
        "Above the dotted line: more principal than chance; below: less.",
        f"Line chart of the cumulative share of the update's energy over the base's {vectors} against chance.",
        lambda: figure_of(cumulative(tables, side=side)),
        section=PLACE,
    )


def _lift_figure(tables: Tables) -> CaptionedFigure:
    share = percent(analyzed_fraction(tables), 0)
    return CaptionedFigure(
        "heatmap_principal_lift",
        "Which matrices write into the base's strongest directions?",
        f"Share of ‖ΔW‖² in the first {share} of the base's singular directions, in units of chance, by layer and "
        "module type: left singular vectors on the left, right ones on the right. White is chance; orange (+) is more "
        "principal than chance, purple (−) less. Faint, patternless color is what chance gives.",
        "Two heat maps of principal lift by layer and module type, for left and right singular vectors.",
        lambda: _lifts(tables),
        section=PLACE,
    )


def _trajectory(tables: Tables, verdict: Mapping[str, Any]) -> Figure:
    axes = trajectory(tables)
    _mark_verdict(axes, verdict)
    return figure_of(axes[0])


def _lifts(tables: Tables) -> Figure:
    with styled():
        cells = grid(tables, "principal_lift", step=resolve_step(tables, None))
        figure = new_figure(FULL_WIDTH, height_for(cells))
        for place, side in enumerate(SIDES, start=1):
            ax = figure.add_subplot(1, 2, place, axes_class=ShownAxes)
            heatmap(tables, metric="principal_lift", side=side, ax=ax)
    return figure


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
