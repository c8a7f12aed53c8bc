"""A figure with what a page says about it."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from spectra.figures.data.summaries import Side

SIDES: tuple[Side, Side] = ("left", "right")
SPACE = {"left": "output space", "right": "input space"}


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure, not drawn yet, with what a page says about it.

    Attributes
    ----------
    name
        File name without suffix.
    title
        The question that the figure answers.
    caption
        How to read it, and what chance would look like.
    alt
        What it shows, for readers who cannot see it.
    draw
        Draws the figure.
    section
        The part of the page that it belongs to.
    takeaway
        What it shows of this run, in one sentence; empty where there is nothing to say.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[], Figure]
    section: str = "How far each matrix moved"
    takeaway: str = ""
