"""How figures look and how they are saved: one style file, no global state, byte-identical PDFs."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import RcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from spectra.figures.style.fonts import shared_subsets
from spectra.runs.atomic import atomic_path

FULL_WIDTH = 5.5  # inches: the text block of ICLR and NeurIPS
HALF_WIDTH = 2.7
PNG_DPI = 200
_VECTOR_DPI = 72  # PDF and SVG count in points

INK = "#333333"
MUTED = "#666666"
NULL_FILL = "#bdbdbd"

# Nothing that changes from run to run.
_METADATA: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#000000")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")


@dataclass(frozen=True)
class LineStyle:
    """Color, dash and marker of one curve: told apart without color too.

    Attributes
    ----------
    color, linestyle, marker
        As matplotlib names them.
    """

    color: str
    linestyle: str
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """Keywords for ``Axes.plot`` without a marker."""
        return {"color": self.color, "linestyle": self.linestyle}


UPDATE = LineStyle("#0072b2", "-", "o")
UPDATE_RIGHT = LineStyle("#d55e00", "--", "s")
BASE = LineStyle("#000000", "-.", "^")
SECOND = LineStyle("#e69f00", "--", "s")


class OnceLaidOut(Figure):
    """A figure whose layout can be made final: matplotlib repeats it, and all of a drawing, whenever it saves."""

    _final = False

    def get_layout_engine(self) -> LayoutEngine | None:
        """Return the layout engine; none once the layout is final."""
        return None if self._final else super().get_layout_engine()

    def finish_layout(self) -> None:
        """Lay out the figure for PDF and SVG, and keep every axes and axis label where it is."""
        self.set_dpi(_VECTOR_DPI)
        engine = self.get_layout_engine()
        if engine is not None:
            engine.execute(self)
        self._final = True


class ShownAxes(Axes):
    """Axes that a notebook shows as their whole figure when a cell ends with them."""

    def _repr_png_(self) -> bytes:
        return png_bytes(figure_of(self))


def run_style(index: int) -> LineStyle:
    """Return the style of the ``index``-th run; the first 28 are all different."""
    return LineStyle(
        _COLORS[index % len(_COLORS)],
        _DASHES[index % len(_DASHES)],
        _MARKERS[index % len(_MARKERS)],
    )


@contextmanager
def styled() -> Iterator[None]:
    """Apply the style file inside the block and restore every setting after it."""
    with mpl.rc_context(_settings()):
        yield


def new_figure(width: float = FULL_WIDTH, height: float = 2.6) -> OnceLaidOut:
    """Return an empty figure that no global state and no display knows of. Sizes in inches."""
    figure = OnceLaidOut(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def new_axes(width: float = FULL_WIDTH, height: float = 2.6) -> Axes:
    """Return the only axes of a new figure. Sizes in inches; call inside ``styled()``."""
    return new_figure(width, height).add_subplot(axes_class=ShownAxes)


def figure_of(ax: Axes) -> Figure:
    """Return the top figure that ``ax`` belongs to."""
    figure = ax.get_figure(root=True)
    if not isinstance(figure, Figure):
        raise TypeError("these axes belong to no figure")
    return figure


def legend_above(ax: Axes) -> Legend | None:
    """Put the legend above the axes, where it can cover no data; nothing if nothing is labeled."""
    found = list(zip(*ax.get_legend_handles_labels(), strict=True))
    if not found:
        return None
    # Lines before bands: the reader looks for the curve first. The sort is stable.
    handles, labels = zip(*sorted(found, key=lambda entry: not isinstance(entry[0], Line2D)), strict=True)
    return ax.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=_legend_columns(ax, [str(n) for n in labels])
    )


def legend_rows(names: Sequence[str], width: float = FULL_WIDTH) -> int:
    """Return how many lines a legend of ``names`` takes above axes in a figure ``width`` inches wide."""
    return -(-len(names) // _columns(names, 0.85 * width))


def _legend_columns(ax: Axes, names: list[str]) -> int:
    figure = figure_of(ax)
    # Constrained layout will widen the axes, by about this much, when it is drawn.
    grows = 1.12 if figure.get_constrained_layout() else 1.0
    return _columns(names, grows * ax.get_window_extent().width / figure.dpi)


def _columns(names: Sequence[str], inches: float) -> int:
    """Return how many legend columns fit: a character of 7 pt is 0.058 in wide, a handle with its gaps 0.43 in."""
    for count in range(len(names), 1, -1):
        rows = -(-len(names) // count)
        longest = [max(map(len, names[first : first + rows])) for first in range(0, len(names), rows)]
        if sum(0.43 + 0.058 * length for length in longest) <= inches:
            return count
    return 1


def percent(value: float, digits: int = 1) -> str:
    """Write a share as a percentage.

    >>> percent(0.1784), percent(0.1, 0)
    ('17.8 %', '10 %')
    """
    return f"{100 * value:.{digits}f} %"


def short(name: str, most: int = 28) -> str:
    """Return a name that fits a legend or a tick: the middle of a long one gives way.

    >>> short("q_proj"), short("outputs/qwen-2.5-1.5b/lora-r32/seed-3")
    ('q_proj', 'outputs/qwen-2…ra-r32/seed-3')
    """
    if len(name) > most:
        name = f"{name[: most // 2]}…{name[len(name) - (most - most // 2 - 1) :]}"
    # matplotlib leaves labels that begin with an underscore out of the legend.
    return f" {name}" if name.startswith("_") else name


def say(ax: Axes, words: str) -> Axes:
    """Write ``words`` where data would be: a panel without data is never blank."""
    ax.text(
        0.5,
        0.5,
        words,
        transform=ax.transAxes,
        ha="center",
        va="center",
        color=MUTED,
        fontsize=7,
        gid="nothing-to-draw",
    )
    ax.grid(False)
    ax.set_yticks([])
    return ax


def save(figure: Figure, path: Path) -> Path:
    """Write ``figure`` atomically, in the format of the suffix, without a date: the same picture is the same bytes."""
    with atomic_path(path) as temporary:
        _save(figure, temporary, path.suffix.removeprefix("."), PNG_DPI)
    return path


def svg_text(figure: Figure) -> str:
    """Return ``figure`` as SVG, with text as text: small, sharp at any size, readable by a screen reader."""
    buffer = io.StringIO()
    _save(figure, buffer, "svg", _VECTOR_DPI)
    # Verdana has the widths of DejaVu Sans and is there where DejaVu Sans is not.
    return buffer.getvalue().replace("'DejaVu Sans', sans-serif", "'DejaVu Sans', Verdana, sans-serif")


def png_bytes(figure: Figure, dpi: int = 144) -> bytes:
    """Return ``figure`` as PNG."""
    buffer = io.BytesIO()
    _save(figure, buffer, "png", dpi)
    return buffer.getvalue()


@cache
def _settings() -> RcParams:
    with as_file(files("spectra.figures.style") / "spectra.mplstyle") as path:
        return mpl.rc_params_from_file(path, use_default_template=False)


def _save(figure: Figure, target: Path | io.BytesIO | io.StringIO, kind: str, dpi: int) -> None:
    metadata = _METADATA.get(kind, {})
    # fonttype and dpi are read while saving, not while drawing.
    with styled(), shared_subsets():
        figure.savefig(target, format=kind, dpi=dpi, metadata=metadata)
