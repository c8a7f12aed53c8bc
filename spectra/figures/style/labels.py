"""Labels beside points that cover neither each other nor the points."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from spectra.figures.style.style import INK, MUTED, figure_of

Place = tuple[float, float, Literal["left", "center", "right"], Literal["bottom", "center", "top"]]

_GAP = 5.0  # points between a mark and its label
_LEADER_FROM = 12.0  # points of distance from which a thin line ties the label to its mark


def label_points(
    ax: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str], *, taken: Sequence[Bbox] = ()
) -> list[Annotation]:
    """Write each name beside its point, at the nearest free place inside the axes.

    Parameters
    ----------
    ax
        Axes whose limits and size are final: places are found in pixels.
    x, y, names
        One entry per point, in data coordinates.
    taken
        Further boxes to keep clear of, in pixels.

    Returns
    -------
    list[Annotation]
        In the order of ``names``. Where no place is free, the last one tried is used.
    """
    figure = figure_of(ax)
    figure.draw_without_rendering()  # constrained layout moves the axes until they are drawn once
    marks = ax.transData.transform(np.column_stack([x, y]))
    boxes = [*taken, *(Bbox.from_bounds(px - 4, py - 4, 8, 8) for px, py in marks)]
    inside = ax.get_window_extent().frozen()
    notes = []
    for point, name in zip(zip(x, y, strict=True), names, strict=True):
        note, box = _place(ax, point, name, boxes, inside)
        boxes.append(box)
        notes.append(note)
    return notes


def _place(
    ax: Axes, point: tuple[float, float], name: str, boxes: Sequence[Bbox], inside: Bbox
) -> tuple[Annotation, Bbox]:
    """Return the label at its nearest free place, with its box in pixels."""
    note = ax.annotate(name, point, xytext=(_GAP, 0), textcoords="offset points", fontsize=7, color=INK)
    # A label outside the layout leaves the axes where they were when its place was found.
    note.set_in_layout(False)
    for right, up, ha, va in _places():
        note.set(position=(right, up), horizontalalignment=ha, verticalalignment=va)
        box = note.get_window_extent().padded(1.0)
        if _contains(inside, box) and not any(box.overlaps(other) for other in boxes):
            break
    if np.hypot(*note.get_position()) > _LEADER_FROM:
        _lead(ax, point, note)
    return note, box


def _lead(ax: Axes, point: tuple[float, float], note: Annotation) -> None:
    """Draw a thin line from the mark to its label."""
    line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 3}
    leader = ax.annotate("", point, xytext=note.get_position(), textcoords="offset points", arrowprops=line)
    leader.set_in_layout(False)


def _places() -> Iterator[Place]:
    """Yield offsets in points with the alignment they need: beside the mark first, then further up and down."""
    for distance in (_GAP, 10.0, 16.0, 24.0, 34.0, 46.0, 60.0):
        near = _GAP if distance == _GAP else _GAP + distance / 4
        rise = 0.0 if distance == _GAP else distance
        for up in (rise, -rise) if rise else (rise,):
            yield near, up, "left", "center"
            yield -near, up, "right", "center"
        yield 0.0, distance + 1, "center", "bottom"
        yield 0.0, -distance - 1, "center", "top"


def _contains(outer: Bbox, inner: Bbox) -> bool:
    return bool(inner.x0 >= outer.x0 and inner.x1 <= outer.x1 and inner.y0 >= outer.y0 and inner.y1 <= outer.y1)
