"""Which signal moved first: the training log and the weights as small panels on one step axis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from spectra.figures.data.run_frames import once_per_run
from spectra.figures.data.snapshots import spread
from spectra.figures.data.summaries import curve
from spectra.figures.style.panels import draw_curve, draw_spread, given, stacked, step_axis
from spectra.figures.style.style import INK, MUTED, UPDATE, UPDATE_RIGHT, say, styled
from spectra.runs.tables import Tables

_PANEL = 0.62  # inches of height


@dataclass(frozen=True)
class Signal:
    """One panel of the timeline.

    Attributes
    ----------
    name
        The signal, as a verdict names it.
    title
        What the panel shows, with its unit.
    modules_column
        The column of ``modules`` that a signal of the weights is; empty for one of the log, whose column is its name.
    middle
        The quantile over matrices that the line is, as the signal is judged by it.
    always
        Whether it is drawn even where it did not move.
    """

    name: str
    title: str
    modules_column: str = ""
    middle: float = 0.5
    always: bool = False


SIGNALS = (
    Signal("reward", "reward", always=True),
    Signal("zero_advantage_share", "groups without advantage (share)", always=True),
    Signal("entropy", "entropy (nats / token)", always=True),
    Signal("completion_length", "completion length (tokens)", always=True),
    Signal("clipped_completions", "truncated completions (share)"),
    Signal("clip_ratio", "clipped tokens (share)"),
    Signal("sampler_mismatch", "sampler against trainer (log-probability)"),
    Signal("grad_norm", "gradient norm"),
    Signal(
        "update_size",
        "‖ΔW‖₂ / ‖W‖₂ (line: 90 % quantile of matrices, band from 10 %)",
        "relative_spectral",
        middle=0.9,
        always=True,
    ),
    Signal("effective_rank", "effective rank of σ² of ΔW (median, 10–90 %)", "effective_rank_energy", always=True),
    Signal("top1_energy", "energy in the first direction of ΔW", "top1_energy"),
)


def timeline_signals(tables: Tables, verdict: Mapping[str, Any]) -> list[Signal]:
    """Return the panels of a run: what it logged or shows of the usual signals, and every one that moved."""
    moved = {entry["signal"] for entry in verdict.get("signals", [])}
    return [s for s in SIGNALS if (s.always or s.name in moved) and not _points(tables, s).empty]


def timeline(tables: Tables, verdict: Mapping[str, Any], *, axes: Sequence[Axes] | None = None) -> list[Axes]:
    """Draw signals of the training log above those of the weights, each with the step at which it left its first level.

    Parameters
    ----------
    tables
        The tables of one run.
    verdict
        The verdict, as in ``verdict.json``: its ``signals`` are marked, the first one through all panels.
    axes
        One axes per signal of :func:`timeline_signals`, from top to bottom; None makes a new figure.

    Returns
    -------
    list[Axes]
        One axes per signal; if there is no signal, one axes that says so.

    Raises
    ------
    UsageError
        If the number of ``axes`` is wrong.
    """
    shown = timeline_signals(tables, verdict)
    given(axes, max(len(shown), 1), "timeline")
    with styled():
        drawn = list(axes) if axes is not None else stacked(max(len(shown), 1), 0.5 + _PANEL * max(len(shown), 2))
        if not shown:
            return [say(drawn[0], "nothing was logged, and no snapshot was analyzed")]
        for ax, signal in zip(drawn, shown, strict=True):
            _draw(ax, tables, signal)
        step_axis(drawn[-1])
        _mark(dict(zip((s.name for s in shown), drawn, strict=True)), verdict.get("signals", []))
    return drawn


@once_per_run
def _points(tables: Tables, signal: Signal) -> pd.DataFrame:
    """Return a signal's curve: step, value, smooth for the log, spread over matrices for the weights."""
    if signal.modules_column:
        rows = tables.resolved_modules()
        rows = rows[rows["in_features"].notna()]
        return spread(rows, rows[signal.modules_column], middle=signal.middle)
    return curve(tables, signal.name)


def _draw(ax: Axes, tables: Tables, signal: Signal) -> None:
    points = _points(tables, signal)
    if signal.modules_column:
        draw_spread(ax, points, signal.name, UPDATE_RIGHT)
    else:
        draw_curve(ax, points, signal.name, UPDATE)
    ax.set_title(signal.title, fontsize=7, fontweight="normal", pad=2)
    ax.locator_params(axis="y", nbins=3)
    ax.margins(y=0.12)
    if signal.name != "reward":  # every other signal is a size or a share
        ax.set_ylim(0, 1.05 * ax.get_ylim()[1])


def _mark(panels: Mapping[str, Axes], signals: Sequence[Mapping[str, Any]]) -> None:
    """Mark the onset of each signal in its panel, and the first one through all of them."""
    for number, entry in enumerate(signals):
        step, ax = entry["onset_step"], panels.get(entry["signal"])
        if number == 0:
            for other in panels.values():
                other.axvline(step, color=MUTED, linestyle=(0, (1, 2)), linewidth=0.8, zorder=0.6, gid="first-onset")
        if ax is not None:
            words = f"first: since step {step}" if number == 0 else f"since step {step}"
            ax.axvline(step, color=INK, linewidth=1.0, zorder=2.5, gid="onset")
            ax.set_title(words, loc="right", fontsize=7, fontweight="bold" if number == 0 else "normal", pad=2)
