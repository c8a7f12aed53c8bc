"""Figures of the tables that --deep computes; a table without rows has no figure."""

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from spectra.figures.plots.heatmaps import heatmap
from spectra.figures.plots.maps import map_reach, map_steps, spectral_map
from spectra.figures.plots.masks import coordinates
from spectra.figures.plots.motion import drift
from spectra.figures.plots.nulls import chosen_metrics, forest
from spectra.figures.plots.relations import convergence
from spectra.figures.report import takeaways
from spectra.figures.report.captioned import CaptionedFigure
from spectra.figures.report.run_figures import PLACE
from spectra.figures.style.panels import tiled
from spectra.figures.style.style import figure_of, styled
from spectra.runs.tables import Tables

MOTION = "How the whole matrix moved"


def map_figures(tables: Tables) -> Iterator[CaptionedFigure]:
    """Draw |UᵀΔWV|² in bins: the first snapshot with an update, and the last."""
    steps = map_steps(tables)
    if not steps:
        return
    yield CaptionedFigure(
        "map",
        "Where does ΔW lie on both sides at once?",
        "Share of ‖ΔW‖² in blocks of the base's left and right singular directions, mean over matrices, in units of "
        "chance, at the first and the last snapshot with an update. White is chance; orange is more, purple less. The "
        "upper left corner is the part of ΔW that acts from and into the base's strongest directions. Even pale color "
        "is what chance gives.",
        "Heat map of update energy over left and right singular directions of the base.",
        lambda: _maps(tables, sorted({steps[0], steps[-1]})),
        section=PLACE,
        takeaway=takeaways.corner(tables),
    )


def motion_figures(tables: Tables) -> Iterator[CaptionedFigure]:
    """Draw spectral shift, its share, and angles over steps, and κ_spec of every matrix."""
    if tables.drift.empty:
        return
    yield CaptionedFigure(
        "drift",
        "Did the singular values or only the directions move?",
        "Normalized spectral shift (NSS), the part ρ_Σ of ΔW that changes singular values, κ_spec = ρ_Σ²·O·I/min(O, "
        "I), and the largest principal angle between the first k singular vectors of W and W + ΔW: medians over "
        "matrices, shaded 10–90 %. Dotted and gray: what a small update in random directions gives by chance; open "
        "marks: the angles that Gaussian noise of the same norm gives, where it was drawn for every matrix. An NSS "
        "under the rounding error is not resolved.",
        "Four line charts over training steps: spectral shift, its share of the update, kappa, principal angles.",
        lambda: figure_of(drift(tables)[0]),
        section=MOTION,
        takeaway=takeaways.motion(tables),
    )
    yield CaptionedFigure(
        "heatmap_kappa_spec",
        "Which matrices changed their singular values?",
        "κ_spec by layer and module type at the last snapshot for which it was computed. White is 1: what a small "
        "update in random directions gives by chance. Orange (+) changes singular values more than that, "
        "purple (−) less.",
        "Heat map of kappa by layer and module type.",
        lambda: figure_of(heatmap(tables, metric="kappa_spec")),
        section=MOTION,
    )


def coordinate_figures(tables: Tables) -> Iterator[CaptionedFigure]:
    """Draw visibility and masks beside noise through the same cast."""
    if tables.coordinates.empty:
        return
    yield CaptionedFigure(
        "coordinates",
        "Which entries moved visibly in bfloat16?",
        "Left: share of entries whose bfloat16 value did not change. Right: how much more often than its size "
        "suggests a mask holds an entry that did, for the largest entries of the base's principal part, its smallest "
        "entries, and the former without the latter. Filled: ΔW; open: Gaussian noise of the same norm through the "
        "same cast, which is chance, with ±2 standard deviations. Rounding alone favors small entries: the mask's "
        "size (dotted) is no null.",
        "Dumbbell charts of observed and expected visibility by module type.",
        lambda: figure_of(coordinates(tables)[0]),
        section="Which entries moved",
        takeaway=takeaways.entries(tables),
    )


def null_figures(tables: Tables) -> Iterator[CaptionedFigure]:
    """Draw every sampled metric against every family of nulls."""
    metrics = chosen_metrics(tables)
    if not metrics:
        return
    yield CaptionedFigure(
        "nulls",
        "Which numbers does chance explain?",
        "Each metric of ΔW (blue line, mean over matrices) beside the 95 % of updates of the same shape and norm that "
        "do not depend on the task: Gaussian noise, noise of the same rank, the same singular values in random "
        "directions, signs flipped, entries permuted, entries of one size. z is the distance in the null's standard "
        "deviations; bold where chance does not explain the value. A number inside the bar of noise of its own rank "
        "says nothing beyond the method's rank. The table `nulls` holds further metrics.",
        "Interval charts of metrics against families of null updates.",
        lambda: _forests(tables, metrics),
        section="Against sampled nulls",
        takeaway=takeaways.unexplained(tables),
    )


def relation_figures(tables: Tables) -> Iterator[CaptionedFigure]:
    """Draw how the snapshots relate, where there are two or more."""
    if tables.trajectory["step"].nunique() < 2:
        return
    yield CaptionedFigure(
        "convergence",
        "When was the final update decided?",
        "Cosine and leading subspaces of each snapshot's ΔW against the last one, R² of a straight path, and how much "
        "of ΔW's space is still that of the initialization: medians over matrices, shaded 10–90 %. Dotted: what chance "
        "gives, a random walk or random directions. With LoRA the right side stays at its random initialization until "
        "A has moved, and then shows no learning.",
        "Four line charts over training steps: cosine, subspace overlap, linearity, overlap with the initialization.",
        lambda: figure_of(convergence(tables)[0]),
        section="How the snapshots relate",
        takeaway=takeaways.halfway(tables),
    )


def _maps(tables: Tables, steps: Sequence[int]) -> Figure:
    """Draw the map of each step, side by side, in one color range."""
    with styled():
        axes = tiled(1, 2, 2.7)
        reach = max(map_reach(tables, step) for step in steps)
        for ax, step in zip(axes, steps, strict=False):
            spectral_map(tables, step=step, reach=reach, ax=ax)
            ax.set_title(f"step {step}")
        for ax in axes[len(steps) :]:
            ax.set_axis_off()
    return figure_of(axes[0])


def _forests(tables: Tables, metrics: list[str]) -> Figure:
    rows = -(-len(metrics) // 2)
    families = tables.nulls[tables.nulls["metric"].isin(metrics)].groupby("metric")["null"].nunique().max()
    with styled():
        axes = tiled(rows, 2, rows * (0.55 + 0.15 * families))
        for ax in axes[len(metrics) :]:
            ax.remove()
        for ax, metric in zip(axes, metrics, strict=False):
            forest(tables, metric=metric, ax=ax)
    return figure_of(axes[0])
